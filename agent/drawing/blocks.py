"""A picture as text for a terminal: half blocks in 24-bit colour, two pixels to a character.

The same picture gives the same text. Every line ends with the colours set back, so that nothing leaks into the prompt.
"""

from agent.drawing.canvas import fitted
from agent.records import Array

_UPPER = "\N{UPPER HALF BLOCK}"


def blocks(image: Array, columns: int, rows: int) -> str:
    """The picture, uint8 [h, w, 3] BGR, in at most `columns` x `rows` characters, its shape kept."""
    small = fitted(image, max(2, columns), max(2, 2 * rows))
    if len(small) % 2:
        small = small[:-1] if len(small) > 1 else small.repeat(2, axis=0)
    lines = []
    for upper, lower in zip(small[0::2].tolist(), small[1::2].tolist(), strict=True):
        cells, before = [], ""
        for (b1, g1, r1), (b2, g2, r2) in zip(upper, lower, strict=True):
            colours = f"\x1b[38;2;{r1};{g1};{b1};48;2;{r2};{g2};{b2}m"
            cells.append(_UPPER if colours == before else colours + _UPPER)
            before = colours
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)

"""Which label file belongs to a model: one attached to it, noted in it, or lying beside it, by its number of lines.

Owns the shapes that label files come in: a label per line, a number before each, a dictionary as Ultralytics notes it.
A file whose number of labels does not fit the outputs is never taken, because a label off by one is worse than none.
"""

import ast
import re
from collections.abc import Iterator, Mapping

from agent.skeleton.facts import Facts
from agent.skeleton.parts import Labels, Sure

_NUMBERED = re.compile(r"^\s*(\d+)\s*[:,\s]\s*(\S.*?)\s*$")
_NOTHING = {"???", "background", "__background__", "unlabeled", "n/a"}
_NOTE_LIMIT = 200_000
_LABEL_LIMIT = 200


def found_labels(facts: Facts, classes: int, aside: int = 0) -> Labels | None:
    """Labels for `classes` outputs, or for as many less as `aside`, which are background; any number fits 0 classes.

    The surest source wins: notes, attached files, files beside the model.
    """
    fits = {classes, classes - aside}
    if (noted := _noted(facts.graph.notes)) and (not classes or len(noted) in fits):
        return Labels(noted, "known", "noted in the file by its exporter")
    for name, data in _attached(facts):
        lines, _ = _lines(data)
        if lines and (not classes or len(lines) in fits):
            return Labels(lines, "known", f"attached to the file as {name}")
    for name, data in facts.beside.items():
        lines, plain = _lines(data)
        if lines and (not classes or len(lines) in fits):
            count = f"{len(lines)} labels, as many as the outputs have" if classes else f"{len(lines)} labels"
            sure: Sure = "likely" if classes else "guess"
            return Labels(lines, sure, f"{name} beside it has {count}", name if plain else "")
    return None


def without_background(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels without a leading one that stands for nothing."""
    return labels[1:] if labels and labels[0].lower() in _NOTHING else labels


def _attached(facts: Facts) -> Iterator[tuple[str, bytes]]:
    """Attached files, those of the outputs first."""
    files = facts.graph.files
    named = [name for note in facts.graph.outputs for name in note.files if name in files]
    yield from ((name, files[name]) for name in dict.fromkeys([*named, *files]))


def _noted(notes: Mapping[str, str]) -> tuple[str, ...]:
    """Ultralytics notes `names` as {0: 'person', ...}; others write a list, or names between commas."""
    text = notes.get("names") or notes.get("labels") or notes.get("classes") or ""
    if not text or len(text) > _NOTE_LIMIT:
        return ()
    try:
        return _names(ast.literal_eval(text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # {[]} is well written, and no value
        return tuple(part.strip()[:_LABEL_LIMIT] for part in text.split(",")) if "," in text else ()


def _names(read: object) -> tuple[str, ...]:
    """Raises ValueError for a number of more digits than Python writes."""
    if isinstance(read, dict) and read.keys() == set(range(len(read))):
        read = [read[i] for i in range(len(read))]
    if not isinstance(read, list | tuple) or not all(isinstance(one, str | int) for one in read):
        return ()
    return tuple(" ".join(str(one).split())[:_LABEL_LIMIT] for one in read)


def _lines(data: bytes) -> tuple[tuple[str, ...], bool]:
    """The labels of a file, and whether its lines are the labels as they are."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return (), False
    whole = [line.strip() for line in lines]
    while whole and not whole[-1]:
        whole.pop()
    if not whole or max(map(len, whole)) > _LABEL_LIMIT:
        return (), False
    numbered = [_NUMBERED.match(line) for line in whole]
    if all(numbered) and len(whole) > 1:
        pairs = {int(match[1]): match[2] for match in numbered if match}
        if len(pairs) == len(whole) and max(pairs) < 4 * len(pairs) + 2:
            return tuple(pairs.get(i, "unused") for i in range(max(pairs) + 1)), False
    return tuple(whole), len(whole) == len(lines)

"""Make models/keywords/demo.wav: twenty seconds in a noisy room in which eight keywords are said, and other things.

    python tools/keyword_demo.py [FOLDER]      needs flite and libttspico-utils of Debian

demo.toml beside it says which words are said when, and which events a rule must tell.
"""

import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from acoustics import coloured, rms, room  # noqa: E402
from speech import RATE_HZ, Signal, Voice, speak, write_wav  # noqa: E402

LENGTH_S = 20.0
SNR_DB = 20.0
SCRIPT = (
    (1.0, "pico", "en-US", "yes"),
    (3.2, "flite", "slt", "stop"),
    (5.2, "pico", "en-GB", "left"),
    (7.2, "flite", "rms", "the weather is cold and windy"),
    (10.2, "flite", "rms", "go"),
    (12.2, "pico", "en-US", "right"),
    (14.2, "flite", "slt", "down"),
    (16.2, "pico", "en-US", "no"),
    (18.2, "flite", "rms", "off"),
)
"""Start in seconds, program, voice, what is said. A single word is a keyword."""
TEXT = """\
# demo.wav: keywords said by synthetic voices in a room with noise; between them a sentence that holds none.
rate_hz = 16000
rule = {{ kind = "appears", n = 2, m = 3, clear_n = 3, min_score = 0.7 }}
# told_s: seconds of the recording in which the deciding view (1 s long) begins.
{words}"""
WORD = """
[[word]]
label = "{label}"
said_s = [{begin_s:.2f}, {end_s:.2f}]
told_s = [{early_s:.2f}, {late_s:.2f}]
"""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "models" / "keywords"
    rng = np.random.default_rng(4)
    dry, said = _spoken(random.Random(4))
    wet = room(rng, dry)[: len(dry)]
    noise = coloured(rng, len(dry), 1.2)
    write_wav(folder / "demo.wav", wet + noise * np.float32(0.06 * 10 ** (-SNR_DB / 20)))
    words = [WORD.format(label=w, begin_s=a, end_s=b, early_s=max(0.0, b - 1.25), late_s=a + 0.75) for w, a, b in said]
    (folder / "demo.toml").write_text(TEXT.format(words="".join(words)))


def _spoken(rng: random.Random) -> tuple[Signal, list[tuple[str, float, float]]]:
    """The speech without room and noise; each keyword with its begin and end."""
    x = np.zeros(int(LENGTH_S * RATE_HZ), np.float32)
    said = []
    for begin_s, engine, name, text in SCRIPT:
        samples = speak(Voice(engine, name), text, rng).samples
        at = int(begin_s * RATE_HZ)
        x[at : at + len(samples)] += samples * np.float32(0.06 / rms(samples))
        if " " not in text:
            said.append((text, begin_s, begin_s + len(samples) / RATE_HZ))
    return x, said


if __name__ == "__main__":
    main()

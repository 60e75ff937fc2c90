"""How good the keyword model is: on voices it never heard, on real words, and on speech that holds no keyword.

Owns: the figures of models/keywords/model.toml. Everything runs through the agent's own window, steps, runner and
rule. Real recordings are read from LIMPET_REALDATA or else ../shared/realdata; without them their figures are missing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from acoustics import rms
from keyword_corpus import SENTENCE, Corpus
from keyword_examples import LABELS, Material, example
from keyword_texts import KEYWORDS
from speech import RATE_HZ, read_wav

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import Manifest
from agent.records import Finding, Sample, View
from agent.rules import initial, step
from agent.settings.rules import Appears
from pipelines import make_step

Sound = npt.NDArray[np.int16]

REAL = Path(os.environ.get("LIMPET_REALDATA") or Path(__file__).resolve().parents[2] / "shared" / "realdata") / "inputs"
REAL_WORDS = (
    ("down.wav", 0, "down"), ("yes.wav", 0, "yes"), ("yes_1000ms.wav", 0, "yes"), ("no_1000ms.wav", 0, "no"),
    ("right_left_up.wav", 0, "right"), ("right_left_up.wav", 1, "left"), ("right_left_up.wav", 2, "up"),
)  # fmt: skip
"""File, second, word."""
REAL_OTHERS = ("noise_1000ms.wav", "silence_1000ms.wav")
REAL_SPEECH = ("silero_test.wav", "short_wav_easy10s.wav")
RULE = Appears(kind="appears", n=2, m=3, clear_n=3, min_score=0.7)
"""The rule of pipelines/keywords.toml: two of three views, 0.25 s apart, must agree and be sure."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event of RULE: the word and when, in seconds of the stream."""

    label: str
    t_s: float


class Ear:
    """The shipped model as the agent runs it."""

    def __init__(self, manifest: Manifest) -> None:
        self._window = make_step("window", manifest.window or {}, "model.toml [window]")
        self._infer = Inference(manifest, open_model(manifest))

    def word(self, sound: Sound) -> str:
        """The word in one second; "" for none."""
        found = self._infer(View(sound, 0.0, 1.0, float(RATE_HZ))).findings
        return found[0].label if found else ""

    def stream(self, sound: Sound) -> Iterator[tuple[float, tuple[Finding, ...]]]:
        """When each view of a recording ends, and what was found in it."""
        sample = Sample("measure", 0, 0.0, 0.0, 0.0, "audio", sound, rate_hz=float(RATE_HZ))
        _, views = self._window(self._window.initial(), sample)
        yield from ((view.t1_s, self._infer(view).findings) for view in views)

    def told(self, sound: Sound) -> list[Told]:
        """The events of RULE over a recording."""
        state, events = initial(RULE), []
        for t_s, findings in self.stream(sound):
            state, decisions = step(RULE, state, findings, t_s)
            events += [Told(str(d.body["label"]), t_s) for d in decisions]
        return events


def on_unseen_voices(ear: Ear, stuff: Material, per_label: int, seed: int) -> dict[str, object]:
    """Accuracy on examples made from held-out voices with the same rooms and noises; unknown and silence: no word."""
    rng = np.random.default_rng(seed)
    right = {
        label: np.mean([ear.word(example(stuff, label, rng)) == _wanted(label) for _ in range(per_label)])
        for label in LABELS
    }
    return {
        "clips": per_label * len(LABELS),
        "keywords": _rounded(np.mean([right[w] for w in KEYWORDS])),
        "unknown": _rounded(right["unknown"]),
        "silence": _rounded(right["silence"]),
        "worst_keyword": min(KEYWORDS, key=lambda w: right[w]),
    }


def false_accepts_on_unseen_voices(ear: Ear, held_out: Corpus, minutes: int, seed: int) -> dict[str, object]:
    """Events per hour while held-out voices read sentences without keywords, 20 dB above white noise."""
    rng = np.random.default_rng(seed)
    takes = [i for i, label in enumerate(held_out.labels) if label == SENTENCE]
    size, parts, total = minutes * 60 * RATE_HZ, [], 0
    while total < size:
        said = held_out[int(rng.choice(takes))]
        parts += [said * np.float32(0.06 / rms(said)), np.zeros(int(rng.uniform(0.1, 0.8) * RATE_HZ), np.float32)]
        total += len(parts[-2]) + len(parts[-1])
    speech = np.concatenate(parts)[:size] + rng.normal(0, 0.006, size).astype(np.float32)
    told = ear.told(_int16(speech))
    return {"minutes": minutes, "events": len(told), "events_per_hour": _rounded(len(told) * 60 / minutes, 1)}


def on_real_words(ear: Ear) -> dict[str, object]:
    """Seven words by real people, and two seconds that hold none."""
    heard = {}
    for file, second, word in REAL_WORDS:
        heard[f"{file}@{second}s"] = (word, ear.word(_real(file)[second * RATE_HZ : (second + 1) * RATE_HZ]))
    right = sum(word == said for word, said in heard.values())
    return {
        "words": len(heard),
        "right": right,
        "others": len(REAL_OTHERS),
        "others_right": sum(ear.word(_real(file)) == "" for file in REAL_OTHERS),
        "wrong": [f"{at}: {word} taken for {said or 'no word'}" for at, (word, said) in heard.items() if said != word],
    }


def false_accepts_on_real_speech(ear: Ear) -> dict[str, object]:
    """Events in real speech and music that hold no keyword."""
    sounds = [_real(file) for file in REAL_SPEECH]
    told = [event.label for sound in sounds for event in ear.told(sound)]
    seconds = sum(map(len, sounds)) / RATE_HZ
    per_hour = _rounded(len(told) * 3600 / seconds, 1)
    return {"seconds": int(seconds), "events": len(told), "events_per_hour": per_hour, "words": told}


def has_real_data() -> bool:
    """True when the recordings are there."""
    return REAL.is_dir()


def _wanted(label: str) -> str:
    return label if label in KEYWORDS else ""


def _real(file: str) -> Sound:
    return _int16(read_wav(REAL / file))


def _int16(x: npt.NDArray[np.float32]) -> Sound:
    return np.clip(np.round(x * 32768), -32768, 32767).astype(np.int16)


def _rounded(value: float, digits: int = 3) -> float:
    return round(float(value), digits)

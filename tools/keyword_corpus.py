"""The spoken corpus of the keyword model: who says what, how often, and where it is kept.

Owns: the plan (which voice says which text), speaking it with two workers, and the cached result. The plan and every
variation come from one seed; training voices and held-out voices never mix.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from keyword_texts import KEYWORDS, NEAR, OTHER, SENTENCES, UNSEEN
from speech import ENGLISH, Signal, Voice, speak, spelled, voices

SENTENCE = "sentence"
UNKNOWN = "unknown"
TAKES = {"slt": 120, "rms": 120, "kal16": 80, "kal": 20, "en-US": 120, "en-GB": 120, "voice_cmu_us_slt_arctic_hts": 40}
"""How often a voice that was cut from a person says each keyword; other people's 50, formant voices once."""


@dataclass(frozen=True, slots=True)
class Take:
    """One recording to be made: `label` is a keyword, "unknown" or "sentence"."""

    voice: Voice
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Spoken takes, all samples in one array."""

    samples: npt.NDArray[np.int16]
    ends: npt.NDArray[np.int64]
    labels: tuple[str, ...]
    people: npt.NDArray[np.bool_]
    """True where the voice was cut from a person's recordings."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Signal:
        start = self.ends[i - 1] if i else 0
        return self.samples[start : self.ends[i]].astype(np.float32) / 32768


def corpus(folder: Path, held_out: bool, seed: int) -> Corpus:
    """The corpus from `folder`, spoken first if it is not there."""
    path = folder / f"{'held_out' if held_out else 'train'}-{seed}.npz"
    if not path.exists():
        _record(path, list(_plan(held_out, random.Random(seed))), seed)
    with np.load(path) as kept:
        return Corpus(kept["samples"], kept["ends"], tuple(kept["labels"]), kept["people"])


def _plan(held_out: bool, rng: random.Random) -> Iterator[Take]:
    chosen = [v for v in voices() if v.held_out == held_out]
    people = [v for v in chosen if v.engine != "espeak"]
    formant = [v for v in chosen if v.engine == "espeak"]
    for voice in people:
        takes = 15 if held_out else TAKES.get(voice.name, 50)
        for word in KEYWORDS:
            text = spelled(voice, word)
            yield from (Take(voice, text, word) for _ in range(takes if text else 0))
    yield from (Take(voice, word, word) for voice in formant for word in KEYWORDS)
    for word in UNSEEN if held_out else NEAR + OTHER:
        takes = 8 if held_out or word in OTHER else 24
        native = [v for v in people if v.engine != "pico" or v.name in ENGLISH]
        yield from (Take(rng.choice(native), word, UNKNOWN) for _ in range(takes))
        yield from (Take(rng.choice(formant), word, UNKNOWN) for _ in range(takes))
        yield from (Take(v, word, UNKNOWN) for v in people if v not in native)
    for sentence in SENTENCES:
        yield from (Take(v, sentence, SENTENCE) for v in people)
        yield from (Take(v, sentence, SENTENCE) for v in rng.sample(formant, 8))


def _record(path: Path, takes: list[Take], seed: int) -> None:
    """Say all `takes` and keep them. Each take has its own generator, so that the workers' order does not matter."""
    with ThreadPoolExecutor(2) as workers:
        numbered = enumerate(takes)
        said = list(workers.map(lambda it: speak(it[1].voice, it[1].text, random.Random(f"{seed} {it[0]}")), numbered))
    quantised = [np.round(np.clip(u.samples, -1, 1) * 32767).astype(np.int16) for u in said]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        samples=np.concatenate(quantised),
        ends=np.cumsum([len(x) for x in quantised]),
        labels=np.array([t.label for t in takes]),
        people=np.array([t.voice.engine != "espeak" for t in takes]),
    )

"""The spoken corpus of the keyword model: who says what, how often, and where it is kept.

Owns: the plan (which voice says which text), speaking it with two workers, and the cached result. The plan and every
variation come from one seed; training voices and held-out voices never mix. Every take knows its voice, so that a
training can leave a whole synthesiser out.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from diphones import SPEAKERS, Phones, Spoken, nonsense, pronounced, say_all
from keyword_texts import KEYWORDS, NEAR, OTHER, SENTENCES, UNSEEN
from speech import ENGLISH, RATE_HZ, Signal, Voice, cut_to_speech, resample, speak, spelled, voices

SENTENCE = "sentence"
UNKNOWN = "unknown"
TAKES = {"slt": 120, "rms": 120, "kal16": 80, "kal": 20, "en-US": 120, "en-GB": 120, "voice_cmu_us_slt_arctic_hts": 40}
"""How often a voice that was cut from a person says each keyword; other people's 50, formant voices once."""
DIPHONE_TAKES, NONSENSE = 60, 250
"""How often a diphone voice says each keyword; how many made-up syllables a voice says."""
BATCH = 50
"""How many takes festival says at once."""
HELD_OUT_SPEAKER = "ked"


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
    voices: tuple[str, ...]
    """Program and voice of each take, e.g. "flite awb"."""

    @property
    def people(self) -> npt.NDArray[np.bool_]:
        """True where the voice was cut from a person's recordings."""
        return np.array([not voice.startswith("espeak ") for voice in self.voices])

    def only(self, wanted: Callable[[str], bool]) -> "Corpus":
        """The takes of the voices that `wanted` says yes to."""
        kept = [i for i, voice in enumerate(self.voices) if wanted(voice)]
        starts = np.concatenate(([0], self.ends[:-1]))
        samples = np.concatenate([self.samples[starts[i] : self.ends[i]] for i in kept])
        ends = np.cumsum(self.ends[kept] - starts[kept])
        return Corpus(samples, ends, tuple(self.labels[i] for i in kept), tuple(self.voices[i] for i in kept))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Signal:
        start = self.ends[i - 1] if i else 0
        return self.samples[start : self.ends[i]].astype(np.float32) / 32768


def corpus(folder: Path, held_out: bool, seed: int) -> Corpus:
    """The corpus to train with, or the held-out one, from `folder`; what is not there is spoken first."""
    parts = {"held_out": _plan} if held_out else {"train": _plan, "diphones": _diphone_plan, "nonsense": _nonsense_plan}
    return joined(_part(folder / f"{name}-{seed}.npz", plan, held_out, seed) for name, plan in parts.items())


def _part(path: Path, plan: Callable[[bool, random.Random], Iterator[Take]], held_out: bool, seed: int) -> Corpus:
    if not path.exists():
        takes = list(plan(held_out, random.Random(seed)))
        _keep(path, takes, _said(takes, seed))
    with np.load(path) as kept:
        return Corpus(kept["samples"], kept["ends"], tuple(kept["labels"]), tuple(kept["voices"]))


def joined(parts: Iterable[Corpus]) -> Corpus:
    """The takes of all."""
    whole = list(parts)
    before = np.cumsum([0, *(len(part.samples) for part in whole)])
    return Corpus(
        np.concatenate([part.samples for part in whole]),
        np.concatenate([part.ends + at for part, at in zip(whole, before, strict=False)]),
        tuple(label for part in whole for label in part.labels),
        tuple(voice for part in whole for voice in part.voices),
    )


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


def _diphone_plan(held_out: bool, _rng: random.Random) -> Iterator[Take]:
    """What the diphone voices say; a voice's takes stand together."""
    for name in SPEAKERS:
        if (name == HELD_OUT_SPEAKER) == held_out:
            voice = Voice("diphone", name)
            yield from (Take(voice, word, word) for word in KEYWORDS for _ in range(DIPHONE_TAKES))
            yield from (Take(voice, word, UNKNOWN) for word in NEAR + NEAR + OTHER)
            yield from (Take(voice, sentence, SENTENCE) for sentence in SENTENCES + SENTENCES)


def _nonsense_plan(held_out: bool, rng: random.Random) -> Iterator[Take]:
    """Syllables that are no words, so that a keyword must be right in all its sounds."""
    people = [v for v in voices() if v.engine == "flite" and v.held_out == held_out]
    people += [Voice("diphone", name) for name in SPEAKERS if (name == HELD_OUT_SPEAKER) == held_out]
    yield from (Take(voice, nonsense(rng), UNKNOWN) for voice in people for _ in range(NONSENSE))


def _said(takes: list[Take], seed: int) -> list[Signal]:
    """All `takes`, said; empty where a diphone voice cannot. Each take has its own generator: the workers' order does
    not matter."""
    lexicon = pronounced(sorted({word for take in takes for word in take.text.lower().split() if word.isalpha()}))
    numbered = list(enumerate(takes))
    parts = [numbered[at : at + BATCH] for at in range(0, len(takes), BATCH)]
    with ThreadPoolExecutor(2) as workers:
        said = workers.map(lambda part: list(_said_part(part, lexicon, seed)), parts)
        return [samples for part in said for samples in part]


def _said_part(part: list[tuple[int, Take]], lexicon: Mapping[str, Phones], seed: int) -> Iterator[Signal]:
    for voice, same in groupby(part, lambda it: it[1].voice):
        if voice.engine != "diphone":
            yield from (speak(voice, take.text, random.Random(f"{seed} {n}")).samples for n, take in same)
            continue
        for heard in say_all([Spoken(voice.name, take.text.lower(), f"{seed} {n}") for n, take in same], lexicon):
            yield np.zeros(0, np.float32) if heard is None else cut_to_speech(resample(heard[0], RATE_HZ / heard[1]))


def _keep(path: Path, takes: list[Take], said: Iterable[Signal]) -> None:
    """Write what was said; takes that nobody could say are left out."""
    made = [(take, samples) for take, samples in zip(takes, said, strict=True) if len(samples)]
    quantised = [np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16) for _, samples in made]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        samples=np.concatenate(quantised),
        ends=np.cumsum([len(x) for x in quantised]),
        labels=np.array([take.label for take, _ in made]),
        voices=np.array([f"{take.voice.engine} {take.voice.name}" for take, _ in made]),
    )

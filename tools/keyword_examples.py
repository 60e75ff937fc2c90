"""Training examples of the keyword model: spoken takes in rooms, noise and microphones, as the agent sees them.

Owns: what a one-second view may hold (a whole word; another word, a piece of a sentence, a torn keyword; no speech)
and the arrays made from it. The front end is passed in by the training program, which writes the same one into the
manifest, so that what is trained is what runs.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from acoustics import background, converter, microphone, rms, room
from keyword_corpus import SENTENCE, UNKNOWN, Corpus
from keyword_texts import KEYWORDS
from speech import RATE_HZ, Signal, resample

from pipelines.audio_features import LogMel

LABELS = ("silence", UNKNOWN, *KEYWORDS)
SIZE = RATE_HZ
_BLOCK = 500
_SHARES = np.array([0.08, 0.25, *[0.067] * len(KEYWORDS)])
"""How often each label is drawn, in the order of LABELS."""
_PEOPLE_SHARE = 0.75
"""How often a keyword is taken from a voice that was cut from a person."""


@dataclass(frozen=True)
class Material:
    """What examples are mixed from: the corpus, its takes by label, and a pool of backgrounds of 4 s."""

    corpus: Corpus
    by_label: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    """Label -> takes of formant voices, takes of people's voices."""
    backgrounds: list[Signal]


def material(corpus: Corpus, seed: int, count: int = 400) -> Material:
    """Sort the takes and make `count` backgrounds."""
    names = np.array(corpus.labels)
    by_label = {
        label: (np.flatnonzero((names == label) & ~corpus.people), np.flatnonzero((names == label) & corpus.people))
        for label in sorted(set(corpus.labels))
    }
    rng = np.random.default_rng(seed)
    formant, people = by_label[SENTENCE]
    babble = [corpus[i] for i in rng.choice(formant if len(formant) else people, 150)]
    return Material(corpus, by_label, [background(rng, 4 * SIZE, babble) for _ in range(count)])


def example(
    stuff: Material, label: str, rng: np.random.Generator, least_snr_db: float = 2.0
) -> npt.NDArray[np.int16]:
    """One second that is heard as `label`, int16 [16000]; the noise is `least_snr_db` to 45 dB below, or missing."""
    x = np.zeros(SIZE, np.float32)
    if label == UNKNOWN:
        x = _other_speech(stuff, rng)
    elif label != "silence":
        x = _placed(_take(stuff, label, rng), rng, torn=0.1 if rng.random() < 0.2 else 0.0)
        if rng.random() < 0.15:
            x = _with_neighbour(x, _other_speech(stuff, rng), rng)
    if label != "silence" and rng.random() < 0.5:
        x = room(rng, x)[:SIZE]
    noise = stuff.backgrounds[rng.integers(len(stuff.backgrounds))]
    at = rng.integers(0, len(noise) - SIZE)
    snr_db = rng.uniform(least_snr_db, 45) if rng.random() < 0.85 else 60
    loud = np.sort(np.abs(x))[-SIZE // 4 :]  # the spoken quarter: silence around a word does not count
    x = x + noise[at : at + SIZE] * np.float32(10 ** (-snr_db / 20) * max(rms(loud), 1e-3))
    return _recorded(x, label, rng)


def examples(
    stuff: Material, front: LogMel, count: int, seed: int, workers: int = 2
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """`count` feature arrays, float16 [count, frames, mel_bins], and their labels; the same for the same seed."""
    blocks = [(seed, n) for n in range(0, count, _BLOCK)]
    with ProcessPoolExecutor(workers, get_context("fork"), _share, (stuff, front)) as pool:
        made = list(pool.map(_block, blocks))
    return np.concatenate([x for x, _ in made])[:count], np.concatenate([y for _, y in made])[:count]


_shared: list[tuple[Material, LogMel]] = []
"""A worker process inherits the material when it is forked: half a gigabyte that need not be sent with every block."""


def _share(stuff: Material, front: LogMel) -> None:
    _shared[:] = [(stuff, front)]


def _block(at: tuple[int, int]) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    stuff, front = _shared[0]
    rng = np.random.default_rng(at)
    labels = rng.choice(len(LABELS), _BLOCK, p=_SHARES / _SHARES.sum())
    features = [front.log_mel(example(stuff, LABELS[i], rng)) for i in labels]
    return np.stack(features).astype(np.float16), labels


def _take(stuff: Material, label: str, rng: np.random.Generator) -> Signal:
    """One take of `label`, its vocal tract and pitch stretched or shrunk by up to a fifth, its ends cut or kept."""
    formant, people = stuff.by_label[label]
    pool = people if len(people) and (len(formant) == 0 or rng.random() < _PEOPLE_SHARE) else formant
    x = resample(stuff.corpus[int(rng.choice(pool))], rng.integers(52, 80) / 64)
    return x * np.float32(0.1 / rms(x))


def _placed(word: Signal, rng: np.random.Generator, torn: float = 0.0) -> Signal:
    """The word somewhere in one second; `torn`: this part of it may stick out."""
    if len(word) > SIZE:
        word = resample(word, rng.uniform(0.85, 0.99) * SIZE / len(word))
    slack = int(torn * len(word))
    at = int(rng.integers(-slack, SIZE - len(word) + slack + 1))
    x = np.zeros(SIZE, np.float32)
    piece = word[max(0, -at) : SIZE - at]
    x[max(0, at) : max(0, at) + len(piece)] = piece
    return x


def _other_speech(stuff: Material, rng: np.random.Generator) -> Signal:
    kind = rng.random()
    if kind < 0.5:
        return _placed(_take(stuff, UNKNOWN, rng), rng, torn=0.5)
    if kind < 0.85:
        said = _take(stuff, SENTENCE, rng)
        at = int(rng.integers(0, max(1, len(said) - SIZE)))
        return _placed(said[at : at + SIZE], rng)
    word = _take(stuff, str(rng.choice(KEYWORDS)), rng)
    visible = int(len(word) * rng.uniform(0.1, 0.45))
    x = np.zeros(SIZE, np.float32)
    if rng.random() < 0.5:
        x[:visible] = word[-visible:]
    else:
        x[-visible:] = word[:visible]
    return x


def _with_neighbour(x: Signal, other: Signal, rng: np.random.Generator) -> Signal:
    """The word and, where it leaves room, some other speech before or after it."""
    spoken = np.flatnonzero(np.abs(x) > 1e-3)
    if len(spoken) == 0:
        return x
    first, last = int(spoken[0]), int(spoken[-1]) + 1
    gap = int(rng.uniform(0.02, 0.15) * RATE_HZ)
    if first > SIZE - last and first > gap:
        x[: first - gap] = other[-(first - gap) :]
    elif last + gap < SIZE:
        x[last + gap :] = other[: SIZE - last - gap]
    return x


def _recorded(x: Signal, label: str, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    x = microphone(rng, x)
    if label == "silence" and rng.random() < 0.5:
        x = x / np.float32(np.abs(x).max() + 1e-9) * np.float32(10 ** (-rng.uniform(30, 100) / 20))
        return np.round(x * 32767).astype(np.int16)
    return converter(rng, x)

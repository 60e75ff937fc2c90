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
from acoustics import converter, microphone, rms, room
from keyword_corpus import SENTENCE, UNKNOWN, Corpus
from keyword_examples import LABELS, Material, example
from keyword_texts import KEYWORDS
from speech import RATE_HZ, read_wav

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import Manifest, load_manifest
from agent.records import Finding, Sample, View
from agent.rules import initial, step
from agent.settings.rules import Appears
from pipelines import make_step

Sound = npt.NDArray[np.int16]

REPO = Path(__file__).resolve().parents[1]
REAL_ROOT = Path(os.environ.get("LIMPET_REALDATA") or REPO.parent / "shared" / "realdata")
REAL = REAL_ROOT / "inputs"
REAL_WORDS = (
    ("down.wav", 0, "down"), ("yes.wav", 0, "yes"), ("yes_1000ms.wav", 0, "yes"), ("no_1000ms.wav", 0, "no"),
    ("right_left_up.wav", 0, "right"), ("right_left_up.wav", 1, "left"), ("right_left_up.wav", 2, "up"),
)  # fmt: skip
"""File, second, word."""
REAL_OTHERS = (
    ("noise_1000ms.wav", 0), ("silence_1000ms.wav", 0),
    ("short_wav_easy10s.wav", 1), ("short_wav_easy10s.wav", 4), ("short_wav_easy10s.wav", 7),
)  # fmt: skip
"""File, second: noise, silence, and three people who say "marvin"."""
REAL_SPEECH = ("silero_test.wav", "short_wav_easy10s.wav")
RULE = Appears(kind="appears", n=2, m=3, clear_n=3, min_score=0.7)
"""The rule of pipelines/keywords.toml: two of three views, 0.25 s apart, must agree and be sure."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event of RULE: the word and when, in seconds of the stream."""

    label: str
    t_s: float


class Ear:
    """A model as the agent runs it; its file lies beside the manifest, or in `root`."""

    def __init__(self, manifest: Manifest, root: Path | None = None) -> None:
        self._window = make_step("window", manifest.window or {}, "model.toml [window]")
        self._infer = Inference(manifest, open_model(manifest, artifact_root=root))

    def word(self, sound: Sound) -> str:
        """The word in one second; "" for none."""
        found = self._infer(View(sound, 0.0, 1.0, float(RATE_HZ))).findings
        said = found[0].label.lower() if found else ""
        return said if said in KEYWORDS else ""

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


def on_unseen_voices(
    ear: Ear, stuff: Material, per_label: int, seed: int, least_snr_db: float = 2.0
) -> dict[str, object]:
    """Accuracy on examples made from held-out voices with the same rooms and noises; unknown and silence: no word."""
    rng = np.random.default_rng(seed)
    right = {
        label: np.mean([ear.word(example(stuff, label, rng, least_snr_db)) == _wanted(label) for _ in range(per_label)])
        for label in LABELS
    }
    return {
        "clips": per_label * len(LABELS),
        "least_snr_db": least_snr_db,
        "keywords": _rounded(np.mean([right[w] for w in KEYWORDS])),
        "unknown": _rounded(right["unknown"]),
        "silence": _rounded(right["silence"]),
        "worst_keyword": min(KEYWORDS, key=lambda w: right[w]),
    }


def on_dry_voices(ear: Ear, spoken: Corpus, most: int, seed: int) -> dict[str, object]:
    """Words as the synthesiser said them, in the middle of a silent second: at most `most` of each voice and keyword,
    ten times as many other words. The share that is right, as the mean over voices and words; n: sounds."""
    rng, right = np.random.default_rng(seed), {}
    voices, labels = np.array(spoken.voices), np.array(spoken.labels)
    for voice in sorted(set(spoken.voices)):
        for label in (*KEYWORDS, UNKNOWN):
            takes = rng.permutation(np.flatnonzero((voices == voice) & (labels == label)))
            heard = [ear.word(_alone(spoken[int(i)])) for i in takes[: most if label in KEYWORDS else 10 * most]]
            right[voice, label] = [word == _wanted(label) for word in heard]
    shares = {at: float(np.mean(good)) for at, good in right.items() if good}
    return {
        "n": sum(map(len, right.values())),
        "keywords": _rounded(np.mean([share for (_, label), share in shares.items() if label != UNKNOWN])),
        "unknown": _rounded(np.mean([share for (_, label), share in shares.items() if label == UNKNOWN])),
    }


def _alone(word: npt.NDArray[np.float32]) -> Sound:
    """A word at half of full scale in the middle of a second that is silent but for the last bits."""
    piece = word[:RATE_HZ]
    x = np.random.default_rng(len(word)).normal(0, 1e-3, RATE_HZ)
    at = (RATE_HZ - len(piece)) // 2
    x[at : at + len(piece)] += piece * (0.5 / np.abs(piece).max())
    return _int16(x.astype(np.float32))


def taught_by_people() -> Ear | None:
    """MLPerf Tiny's reference model, trained on thousands of people: a yardstick for how hard synthetic speech is to
    hear. None without the real data."""
    return Ear(load_manifest(REPO / "tests" / "manifests" / "kws-ref"), REAL_ROOT) if has_real_data() else None


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
    """Seven words by real people, and five seconds that hold none of them."""
    heard = {f"{file}@{second}s": (word, ear.word(_real(file, second))) for file, second, word in REAL_WORDS}
    right = sum(word == said for word, said in heard.values())
    return {
        "words": len(heard),
        "right": right,
        "interval_95": wilson(right, len(heard)),
        "others": len(REAL_OTHERS),
        "others_right": sum(ear.word(_real(file, second)) == "" for file, second in REAL_OTHERS),
        "wrong": [f"{at}: {word} taken for {said or 'no word'}" for at, (word, said) in heard.items() if said != word],
    }


def on_changed_real_words(ear: Ear, stuff: Material, times: int, seed: int) -> dict[str, object]:
    """The real words again, `times` each, by up to 0.1 s earlier or later, in noise 10 to 30 dB below, in other rooms.

    How firmly they are held, not how many people are understood: it stays seven recordings.
    """
    rng = np.random.default_rng(seed)
    right = {}
    for file, second, word in REAL_WORDS:
        x = _real(file, second).astype(np.float32) / 32768
        right[f"{file}@{second}s"] = np.mean([ear.word(_changed(x, stuff, rng)) == word for _ in range(times)])
    return {
        "sounds": times * len(right),
        "right": _rounded(np.mean(list(right.values()))),
        "worst": [min(right, key=lambda at: right[at]), _rounded(min(right.values()))],
    }


def _changed(x: npt.NDArray[np.float32], stuff: Material, rng: np.random.Generator) -> Sound:
    by = int(rng.integers(-RATE_HZ // 10, RATE_HZ // 10 + 1))
    moved = np.zeros_like(x)
    moved[max(0, by) : len(x) + min(0, by)] = x[max(0, -by) : len(x) - max(0, by)]
    wet = room(rng, moved)[:RATE_HZ] if rng.random() < 0.5 else moved
    noise = stuff.backgrounds[rng.integers(len(stuff.backgrounds))][:RATE_HZ]
    loud = np.sort(np.abs(wet))[-RATE_HZ // 4 :]
    return converter(rng, microphone(rng, wet + noise * np.float32(10 ** (-rng.uniform(10, 30) / 20) * rms(loud))))


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


def wilson(right: int, of: int) -> list[float]:
    """Where the share lies with 95 % confidence, given `right` of `of` (Wilson, 1927)."""
    share, z2 = right / of, 1.96**2
    centre, width = share + z2 / (2 * of), 1.96 * (share * (1 - share) / of + z2 / (4 * of * of)) ** 0.5
    return [_rounded((centre + side * width) / (1 + z2 / of)) for side in (-1, 1)]


def _real(file: str, second: int | None = None) -> Sound:
    whole = _int16(read_wav(REAL / file))
    return whole if second is None else whole[second * RATE_HZ : (second + 1) * RATE_HZ]


def _int16(x: npt.NDArray[np.float32]) -> Sound:
    return np.clip(np.round(x * 32768), -32768, 32767).astype(np.int16)


def _rounded(value: float, digits: int = 3) -> float:
    return round(float(value), digits)

"""Speech made here: isolated words and sentences in many synthetic voices, as 16 kHz samples.

Owns: the list of voices, the ways to vary them, and the calls of the four synthesisers, all packages of Debian 12:
espeak-ng (formant voices, eight accents of English in some eighty variants), flite and festival (voices cut from
recordings of people), libttspico-utils (voices of five speakers; Debian files it under non-free because it comes
without the sources of its voice data; optional, but a build without it is another model). Held-out voices never train.
Rules: everything random comes from the generator that is passed in; a synthesiser that fails is an error, not silence.
"""

import random
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
Signal = npt.NDArray[np.float32]

ACCENTS = (
    "en-us", "en-us-nyc", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029",
)  # fmt: skip
VARIANTS = (  # noqa: SIM905 - read as prose
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael "
    "Mike Nguyen Storm Tweaky adam anika antonio aunty belinda benjamin boris caleb croak david ed edward "
    "edward2 f1 f2 f3 f4 f5 grandma grandpa gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 "
    "klatt3 klatt4 klatt5 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel norbert pablo "
    "paul pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor whisper whisperf zac"
).split()
HELD_OUT_VARIANTS = frozenset("Annie Lee adam f4 klatt3 m5 paul steph2 travis grandma".split())  # noqa: SIM905

ENGLISH = ("en-US", "en-GB")
SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "it-IT": {"yes": "ies", "no": "nou", "down": "daun", "on": "on", "off": "of", "go": "gou"},
    "es-ES": {"yes": "yes", "no": "nou", "up": "ap", "down": "daun", "on": "on", "off": "of", "stop": "stop"},
    "de-DE": {"up": "app", "right": "reit", "off": "off", "stop": "stopp", "go": "goh"},
}
"""How to write a word so that a voice of another language says it as its speakers would; only what comes out well."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker: the program that speaks, what it calls the voice, and whether it is kept for measuring."""

    engine: str
    name: str
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Utterance:
    """Spoken text: float32 samples at 16 kHz, -1 to 1, cut to the speech."""

    text: str
    voice: Voice
    samples: Signal


def voices() -> tuple[Voice, ...]:
    """All voices that this machine can speak with."""
    espeak = [Voice("espeak", f"{a}+{v}", v in HELD_OUT_VARIANTS) for a in dict.fromkeys(ACCENTS) for v in VARIANTS]
    people = [Voice("flite", n, n == "awb") for n in ("slt", "rms", "kal16", "kal", "awb")]
    people += [Voice("festival", "voice_ked_diphone", True), Voice("festival", "voice_cmu_us_slt_arctic_hts")]
    if shutil.which("pico2wave"):
        people += [Voice("pico", n) for n in ("en-US", "en-GB", "it-IT", "es-ES", "de-DE")]
    return tuple(people + espeak)


def speak(voice: Voice, text: str, rng: random.Random) -> Utterance:
    """Say `text` with a pace, pitch and end (statement, question, call) drawn from `rng`. Raises RuntimeError.

    For flite, `text` may be phones, as "/y eh f/".
    """
    say = {"espeak": _espeak, "flite": _flite, "festival": _festival, "pico": _pico}[voice.engine]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        done = subprocess.run(say(voice.name, text, rng, path), capture_output=True, timeout=60, check=False)
        if done.returncode or not path.exists():
            raise RuntimeError(f"{voice.engine} {voice.name} cannot say {text!r}: {done.stderr.decode()[:200]}")
        samples = cut_to_speech(read_wav(path))
    return Utterance(text, voice, samples)


def read_wav(path: Path) -> Signal:
    """First channel of a 16-bit WAV, as float32 at 16 kHz."""
    with wave.open(str(path)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())[:, 0]
        return resample(raw.astype(np.float32) / 32768, RATE_HZ / file.getframerate())


def write_wav(path: Path, samples: Signal) -> None:
    """16-bit mono WAV at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def resample(samples: Signal, ratio: float) -> Signal:
    """`ratio` times as many samples, by cutting or filling up the spectrum (exact for what is silent at its ends)."""
    part = Fraction(ratio).limit_denominator(512)
    if part == 1:
        return samples
    blocks = len(samples) // part.denominator + 2  # whole blocks make lengths that the transform likes
    padded = np.zeros(blocks * part.denominator, np.float32)
    padded[: len(samples)] = samples
    out = blocks * part.numerator
    made = np.fft.irfft(np.fft.rfft(padded)[: out // 2 + 1], out) * float(part)
    return made[: round(len(samples) * ratio)].astype(np.float32)


def cut_to_speech(samples: Signal, margin_s: float = 0.02) -> Signal:
    """Without the silence around it: what is 40 dB below the loudest 10 ms."""
    block = RATE_HZ // 100
    levels = np.square(samples[: len(samples) // block * block].reshape(-1, block)).mean(axis=1)
    loud = np.flatnonzero(levels > levels.max(initial=0) * 1e-4)
    if len(loud) == 0 or levels.max() == 0:
        raise RuntimeError("a synthesiser said nothing")
    margin = int(margin_s * RATE_HZ)
    return samples[max(0, loud[0] * block - margin) : (loud[-1] + 1) * block + margin]


def spelled(voice: Voice, word: str) -> str | None:
    """How to write an English word for this voice; None when the voice cannot say it."""
    table = SPELLINGS.get(voice.name)
    return word if table is None else table.get(word)


def _espeak(name: str, text: str, rng: random.Random, path: Path) -> list[str]:
    pitch, speed, stress = rng.randint(15, 90), rng.randint(90, 200), rng.choice(("", "", "!", "?"))
    return ["espeak-ng", "-v", name, "-p", str(pitch), "-s", str(speed), "-w", str(path), text + stress]


def _flite(name: str, text: str, rng: random.Random, path: Path) -> list[str]:
    usual = {"slt": 170, "awb": 130}.get(name, 105)
    setting = {
        "duration_stretch": rng.uniform(0.85, 1.7),
        "int_f0_target_mean": usual * rng.uniform(0.75, 1.5),
        "int_f0_target_stddev": rng.uniform(5, 45),
    }
    sets = [part for key, value in setting.items() for part in ("--setf", f"{key}={value:.2f}")]
    said = ["-p", f"pau {text.strip('/')} pau"] if text[0] == "/" else ["-t", text + rng.choice(("", ".", "?"))]
    return ["flite", "-voice", name, *sets, *said, "-o", str(path)]


def _festival(name: str, text: str, rng: random.Random, path: Path) -> list[str]:
    usual = 170 if "slt" in name else 105
    pitch = usual * rng.uniform(0.8, 1.4)
    program = (
        f"({name}) (Parameter.set 'Duration_Stretch {rng.uniform(0.8, 1.6):.2f})"
        f"(set! int_lr_params '((target_f0_mean {pitch:.0f}) (target_f0_std {rng.uniform(8, 30):.0f})"
        f" (model_f0_mean 170) (model_f0_std 34)))"
        f'(utt.save.wave (utt.synth (eval (list \'Utterance \'Text "{text}"))) "{path}")'
    )
    script = path.with_suffix(".scm")
    script.write_text(program)
    return ["festival", "-b", str(script)]


def _pico(name: str, text: str, rng: random.Random, path: Path) -> list[str]:
    pitch, speed = rng.randint(70, 140), rng.randint(60, 120)
    marked = f'<pitch level="{pitch}"><speed level="{speed}">{text}{rng.choice((".", "!", "?"))}</speed></pitch>'
    return ["pico2wave", "-l", name, "-w", str(path), marked]

"""Speech whose sounds, lengths and melody are chosen here, said by the diphones of people of many tongues.

Owns: how English phones are said by speakers of other languages (the tables), the prosody of a take, and the calls of
festival, which strings the diphones together. An English word keeps its phones while the speaker, the accent, the
pace and the pitch change: ten people more than the English voices of Debian hold, and none of their habits of reading.
Rules: everything random comes from the generator of the take; a take that a voice has no diphones for is None.
"""

import random
import re
import subprocess
import tempfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float32]
Phones = tuple[str, ...]

VOICES_FOLDER = Path("/usr/share/festival/voices")
TRIES = 12
"""How many ways of saying a text are tried until the voice has every diphone of one."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A diphone voice of festival: who it was cut from, and how that person says the phones of English."""

    voice: str
    group: str
    pitch_hz: float
    pause: str
    accent: str
    """Which of ACCENTS."""


SPEAKERS: Mapping[str, Speaker] = {
    "kal": Speaker("voice_kal_diphone", "english/kal_diphone/group/kallpc16k.group", 105, "pau", "english"),
    "ked": Speaker("voice_ked_diphone", "english/ked_diphone/group/kedlpc16k.group", 105, "pau", "english"),
    "mv": Speaker("voice_hy_fi_mv_diphone", "finnish/hy_fi_mv_diphone/group/mvlpc.group", 110, "#", "finnish"),
    "lj": Speaker("voice_suo_fi_lj_diphone", "finnish/suo_fi_lj_diphone/group/ljlpc.group", 190, "#", "finnish"),
    "ph": Speaker("voice_czech_ph", "czech/czech_ph/group/ph.group", 110, "#", "czech"),
    "dita": Speaker("voice_czech_dita", "czech/czech_dita/group/dita.group", 200, "#", "czech"),
    "krb": Speaker("voice_czech_krb", "czech/czech_krb/group/krb.group", 230, "#", "czech"),
    "machac": Speaker("voice_czech_machac", "czech/czech_machac/group/machac.group", 115, "#", "czech"),
    "lp": Speaker("voice_lp_diphone", "italian/lp_diphone/group/lp_diphone.group", 190, "#", "italian"),
    "pc": Speaker("voice_pc_diphone", "italian/pc_diphone/group/pc_diphone.group", 115, "#", "italian"),
    "nsk": Speaker("voice_hindi_NSK_diphone", "hindi/hindi_NSK_diphone/group/NSKlpc.group", 120, "pau", "hindi"),
}

_TABLES = {
    "czech": """
        aa=a:/o ae=e/a/e+a ah=a ao=o:/o aw=a+u ax=a/e ay=a+j/a:+j eh=e er=e+r/e: ey=e+j/e: ih=i iy=i:/i ow=o+u/o:/o
        oy=o+j uh=u uw=u:/u ch=c~ dh=d/z hh=h jh=dz~ ng=n+k/n sh=s~ th=t/s/f w=v/u y=j zh=z~ g=g b=b d=d/t z=z/s""",
    "italian": """
        aa=a1/O1 ae=E1/a1 ah=a1 ao=O1/o1 aw=a1+u1/a1+w ax=a/e ay=a1+i/a1+j/a1+i1 eh=E1/e1 er=E1+r/e1+r ey=e1+i/e1+j
        ih=i1/i iy=i1 ow=o1+u/O1/o1/o1+u1 oy=o1+i uh=u1/u uw=u1 ch=tS dh=d hh= jh=dZ ng=n+g sh=S th=t/f
        w=w/u1 y=j/i1 zh=Z""",
    "finnish": """
        aa=a:/a/o: ae=@/@:/a ah=a ao=o:/o aw=a+u ax=a/e/7 ay=a+i/a:+i eh=e er=7:/7/7+r/e+r ey=e+i/e: ih=i iy=i:/i
        ow=o+u/o:/o oy=o+i uh=u uw=u:/u ch=t+S/t+s dh=d/T/t hh=h jh=d+s/t+s ng=N sh=S/s th=T/t w=w/v/u y=j
        z=s zh=S/s L=l""",
    "hindi": """
        aa=aa/oo ae=ay/eh/aa ah=a/aa ao=oo/oh/aa aw=aw/aa+uh ax=a ay=aa+iy/aa+ih/a+ih eh=eh/ay er=a+r/a+R ey=ee/eh
        ih=ih iy=iy ow=oh oy=oh+ih uh=uh uw=uw d=D/dh t=T/th dh=dh/D hh=h jh=j th=tth/th w=v z=j/s zh=sh/j ng=n+g/N""",
    "english": "ao=ao/aa ow=ow/ow/ao er=er ax=ax/ah",
}
"""radio phone = ways to say it, separated by /; each is one or more phones joined by +; a phone not named is itself."""

_LENGTHS_MS: Mapping[str, int] = {
    "aa": 170, "ae": 170, "ah": 110, "ao": 180, "aw": 220, "ax": 65, "ay": 210, "eh": 120, "er": 150, "ey": 190,
    "ih": 95, "iy": 150, "ow": 200, "oy": 230, "uh": 100, "uw": 160,
    "b": 75, "ch": 120, "d": 70, "dh": 60, "f": 115, "g": 80, "hh": 65, "jh": 100, "k": 95, "l": 75, "m": 80, "n": 80,
    "ng": 90, "p": 95, "r": 75, "s": 120, "sh": 125, "t": 90, "th": 110, "v": 70, "w": 75, "y": 70, "z": 95, "zh": 90,
}  # fmt: skip
"""Lengths in stressed syllables, after Klatt, Linguistic uses of segmental duration in English (1976), rounded."""

_VARIANTS: Mapping[str, tuple[str, ...]] = {
    "yes": ("y eh s", "y eh s", "y ae s", "y ah s", "y ih s"),
    "no": ("n ow", "n ow", "n ao", "n ah ow", "n ow uw"),
    "up": ("ah p", "ah p", "ax p", "aa p"),
    "down": ("d aw n", "d aw n", "d ae aw n", "d ah aw n"),
    "left": ("l eh f t", "l eh f t", "l ae f t"),
    "right": ("r ay t", "r ay t", "r ah ay t", "w r ay t"),
    "on": ("aa n", "ao n"),
    "off": ("ao f", "aa f"),
    "stop": ("s t aa p", "s t ao p"),
    "go": ("g ow", "g ow", "g ao", "g ah ow"),
}
"""How people say the keywords; other words are said as festival's lexicon (CMU) has them."""
_VOWELS = "aa ae ah ao aw ay eh er ey ih iy ow oy uh uw".split()  # noqa: SIM905 - read as prose
_ONSETS = ("", *"p t k b d g f s sh hh l r m n y w v z th ch s_t s_p g_r g_l d_r t_r f_l p_l k_l".split())  # noqa: SIM905
_CODAS = ("", *"p t k b d g f s n m l v z sh th f_t s_t n_d n_t p_s".split())  # noqa: SIM905
"""What made-up syllables begin and end with; the lone consonants are drawn more often than their share of speech."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One text to be said by one speaker, words or phones as "/y eh f/"; `seed` decides how."""

    speaker: str
    text: str
    seed: str


def say_all(wanted: Sequence[Spoken], lexicon: Mapping[str, Phones]) -> list[tuple[Signal, int] | None]:
    """Samples and their rate in Hz for each text, in order; None where the voice lacks the diphones.

    All texts must be of one speaker. Raises RuntimeError when festival does not run with the voice.
    """
    speaker = SPEAKERS[wanted[0].speaker]
    takes = [_segments(speaker, s.text, lexicon, random.Random(s.seed)) for s in wanted]
    with tempfile.TemporaryDirectory() as folder:
        _strung(speaker, [(f"{folder}/{n}.wav", segments) for n, segments in enumerate(takes) if segments])
        paths = [Path(folder) / f"{n}.wav" for n in range(len(takes))]
        heard = [_read(path) if path.exists() else None for path in paths]
    if any(takes) and not any(heard):
        raise RuntimeError(f"festival cannot speak with {speaker.voice}: are its package and the lexicon installed?")
    return heard


def pronounced(words: Sequence[str]) -> dict[str, Phones]:
    """The phones of English words, from festival's CMU lexicon (letter-to-sound rules for what it does not hold)."""
    asked = (f'(format t "%s %l\\n" "{word}" (lex.lookup "{word}" nil))' for word in words)
    told = _festival('(lex.select "cmu")', *asked).stdout.decode()
    entries = [line.split(" ", 1) for line in told.splitlines() if " " in line]
    syllables = {word: re.findall(r"\(([a-z ]+)\) \d", entry) for word, entry in entries}
    return {word: tuple(" ".join(found).split()) for word, found in syllables.items()}


def _segments(speaker: Speaker, text: str, lexicon: Mapping[str, Phones], rng: random.Random) -> str:
    """festival's segments "(phone seconds (at Hz) ...)" of one take; "" when no way of saying it has its diphones."""
    known = _diphones(speaker.group)
    for _ in range(TRIES):
        spelled_out = text.startswith("/")
        english = [tuple(text.strip("/").split())] if spelled_out else [_phones(w, lexicon, rng) for w in text.split()]
        said = [unit for word in english for phone in word for unit in _accented(speaker, phone, rng)]
        names = [speaker.pause, *(name for name, _ in said), speaker.pause]
        if said and all(f"{a}-{b}" in known for a, b in pairwise(names)):
            return _timed(speaker, said, len(english), rng)
    return ""


def _strung(speaker: Speaker, jobs: Sequence[tuple[str, str]]) -> None:
    """Write the files of `jobs` (path, segments). festival 2.5 crashes on a pitch mark beyond the last sample, which
    some lengths bring about: then the jobs are halved until only the guilty take is missing."""
    said = "(utt.save.wave (utt.synth (eval (list 'Utterance 'Segments '({segments})))) \"{path}\")"
    done = _festival(f"({speaker.voice})", *(said.format(segments=segments, path=path) for path, segments in jobs))
    if done.returncode and len(jobs) > 1:
        _strung(speaker, jobs[: len(jobs) // 2])
        _strung(speaker, jobs[len(jobs) // 2 :])


def nonsense(rng: random.Random) -> str:
    """A syllable that is no keyword, nor one with another vowel (that may be an accent): phones, "/y eh f/"."""
    taken = {_skeleton(phones.split()) for ways in _VARIANTS.values() for phones in ways}
    while True:
        said = f"{rng.choice(_ONSETS)} {rng.choice(_VOWELS)} {rng.choice(_CODAS)}".replace("_", " ").split()
        if not any(word[: len(_skeleton(said))] == _skeleton(said) for word in taken):
            return f"/{' '.join(said)}/"


def _skeleton(phones: Sequence[str]) -> Phones:
    """The phones with all vowels alike and no consonant voiced: what some accent may make of them."""
    unvoiced = {"b": "p", "d": "t", "g": "k", "v": "f", "z": "s", "w": "f"}
    return tuple("V" if phone in _VOWELS else unvoiced.get(phone, phone) for phone in phones)


def _phones(word: str, lexicon: Mapping[str, Phones], rng: random.Random) -> Phones:
    return tuple(rng.choice(_VARIANTS[word]).split()) if word in _VARIANTS else lexicon[word]


def _accented(speaker: Speaker, phone: str, rng: random.Random) -> Iterator[tuple[str, float]]:
    """One phone of English as the phones of the speaker, with their lengths in seconds."""
    ways = _accents(speaker.accent).get(phone, (phone,))
    units = [unit for unit in rng.choice(ways).split("+") if unit]
    for unit in units:
        yield unit, _LENGTHS_MS.get(phone, 90) / 1000 / len(units) * rng.uniform(0.75, 1.3)


def _timed(speaker: Speaker, said: list[tuple[str, float]], words: int, rng: random.Random) -> str:
    """Pace, lengthened end and a melody (falling, rising, level, or with a peak) for one take."""
    pace = rng.uniform(0.55, 0.9) if words > 1 else rng.uniform(0.65, 1.6)
    ending = rng.uniform(0.9, 1.5)
    lengths = [s * pace * (ending if n >= len(said) - 2 else 1) for n, (_, s) in enumerate(said)]
    base = speaker.pitch_hz * 2 ** rng.uniform(-0.35, 0.5)
    melody = [base * 2 ** rng.uniform(-0.3, 0.35) for _ in range(3)]
    total, at, parts = sum(lengths), 0.0, [f"({speaker.pause} 0.1)"]
    for (name, _), length in zip(said, lengths, strict=True):
        hz = np.interp((at + length / 2) / total, [0, 0.45, 1], melody)
        parts.append(f"({name} {length:.3f} ({length / 2:.3f} {hz:.0f}))")
        at += length
    return " ".join((*parts, f"({speaker.pause} 0.1)"))


@lru_cache
def _accents(name: str) -> dict[str, tuple[str, ...]]:
    pairs = (entry.split("=") for entry in _TABLES[name].split())
    return {phone: tuple(ways.split("/")) for phone, ways in pairs}


@lru_cache
def _diphones(group: str) -> frozenset[str]:
    """Names of the diphones in a voice's group file: lines "a-b start end ..." in front of its sound."""
    data = (VOICES_FOLDER / group).read_bytes()
    return frozenset(m.decode() for m in re.findall(rb"^([^\s-]+-[^\s-]+) \d+ \d+ \d+", data, re.MULTILINE))


def _festival(*lines: str) -> subprocess.CompletedProcess[bytes]:
    with tempfile.NamedTemporaryFile("w", suffix=".scm") as script:
        script.write("\n".join(lines) + "\n")
        script.flush()
        return subprocess.run(["festival", "-b", script.name], capture_output=True, timeout=600, check=False)


def _read(path: Path) -> tuple[Signal, int]:
    """Samples and rate of a RIFF file of one channel of 16 bits."""
    with wave.open(str(path)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())[:, 0]
        return raw.astype(np.float32) / 32768, file.getframerate()

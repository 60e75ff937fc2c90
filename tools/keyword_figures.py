"""The tables of models/keywords/model.toml that say how good the model is, and whether it is more than a demonstration.

Owns: which measurements are taken, how large, with which seed; the measurements themselves are in keyword_measure.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keyword_examples import Material
from keyword_measure import (
    Ear,
    false_accepts_on_real_speech,
    false_accepts_on_unseen_voices,
    has_real_data,
    on_changed_real_words,
    on_dry_voices,
    on_real_words,
    on_unseen_voices,
    taught_by_people,
)

from agent.manifest import load_manifest

Tables = dict[str, dict[str, Any]]

SEED, PER_LABEL, QUIET_SNR_DB, DRY_TAKES = 6, 200, 10.0, 25
ASKED = 0.85
"""Share of real people's words that must be heard, shown with 95 % confidence, before the label goes."""


def accuracy(folder: Path, stuff: Material, jumps: Iterable[Path]) -> Tables:
    """All figures of the model in `folder`; `jumps` are files that `judged` was kept in, one for each synthesiser."""
    ear = Ear(load_manifest(folder))
    tables: Tables = {
        "unseen_voices": on_unseen_voices(ear, stuff, PER_LABEL, SEED),
        "unseen_voices_in_quiet": judged(ear, stuff),
        "unseen_voices_reading": false_accepts_on_unseen_voices(ear, stuff.corpus, 20, SEED),
    }
    tables |= {f"unseen_synthesiser_{path.stem}": json.loads(path.read_text()) for path in jumps if path.exists()}
    if has_real_data():
        tables |= {
            "real_words": on_real_words(ear),
            "real_words_changed": on_changed_real_words(ear, stuff, 100, SEED),
            "real_speech": false_accepts_on_real_speech(ear),
        }
    return tables


def judged(ear: Ear, stuff: Material) -> dict[str, Any]:
    """In rooms with some noise, and dry (voices cut from people alone).

    Each beside what a network that people taught hears of the same sounds, where the real data is there.
    """
    people = stuff.corpus.only(lambda voice: not voice.startswith("espeak "))
    told = on_unseen_voices(ear, stuff, PER_LABEL, SEED, QUIET_SNR_DB)
    told["dry"] = on_dry_voices(ear, people, DRY_TAKES, SEED)
    if other := taught_by_people():
        same = on_unseen_voices(other, stuff, PER_LABEL, SEED, QUIET_SNR_DB)
        dry = on_dry_voices(other, people, DRY_TAKES, SEED)
        told["taught_by_people"] = {"keywords": same["keywords"], "unknown": same["unknown"], "dry": dry}
    return told


def reason(tables: Tables) -> str:
    """Why the model is only a demonstration; "" when real people show with 95 % confidence that it is more."""
    if "real_words" not in tables:
        return "no word of a real person was tried"
    real = tables["real_words"]
    low, high = real["interval_95"]
    if low >= ASKED:
        return ""
    return (
        f"{real['right']} of {real['words']} words of real people were right, which says no more than {low:.0%} "
        f"to {high:.0%}; {ASKED:.0%} are asked of it"
    )

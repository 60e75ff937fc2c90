"""What the updater wishes of root, and what root answers: two small JSON files.

The wish lies in a folder of the updater's; root takes it away before it acts, so that no wish is granted twice. The
answer lies in a folder of root's. Nobody keeps the truth here: what is wanted stands in the depot's record, what is so
in the links; `next_wish` compares the two, and whoever looks may wish again what a power cut has swallowed.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from agent.depot import ModelState, Trial
from agent.durable import read_limited, write_durably
from agent.errors import ConfigError, UpdateError
from agent.progress import Reason
from agent.release.place import Place, release_id
from agent.strict import Match, Range, build

WISH: Final = Path("/run/limpet-switch/wish.json")
ANSWER: Final = Path("/var/lib/limpet-switch/answer.json")
LIMIT_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Wish:
    """try: build and run the release on probation; commit: what runs stays; back: run `release` and no other."""

    do: Literal["try", "commit", "back"]
    release: Annotated[str, Match(r"[0-9A-Za-z][0-9A-Za-z.-]{0,99}", "the name of a release")]
    version: Annotated[str, Match(r"|[0-9]+(\.[0-9]+){2}(-[0-9A-Za-z.-]{1,32})?", "a version like 1.0.0")] = ""
    sha256: Annotated[str, Match("|[0-9a-f]{64}", "64 hex digits")] = ""
    """Version, and sha256 of the package manifest, of what shall be tried."""
    job: Annotated[str, Match(r"[A-Za-z0-9_.-]{0,64}", "the id of a job")] = ""
    """The job that began the trial: the same release may be tried again by another one."""

    def __post_init__(self) -> None:
        if self.do == "try" and self.release != release_id(self.version, self.sha256):
            raise ValueError(f"release {self.release!r} is not called as its version and sha256 say")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of the last wish."""

    wish: Wish
    reason: Reason | Literal[""] = ""
    """Why it was refused; empty when it was granted."""
    text: Annotated[str, Range(0, 2000)] = ""


def next_wish(agent: ModelState, place: Place, answer: Answer | None) -> Wish | None:
    """What root has to do so that the links are as the record says; None when they are, or when root refused.

    `agent`: what the depot's record says of the agent. A release that the operator installed by hand is let be.
    """
    current, good, trial = place.current, place.good, agent.trial
    if not current:  # a checkout
        return None
    if trial is not None:
        wish = trial_wish(trial)
        return None if current == wish.release or refused(answer, wish) else wish
    if current != good:
        active = agent.active and release_id(agent.active.version, agent.active.sha256)
        return Wish("commit", current) if current == active else Wish("back", good)
    bad = {release_id(one.version, one.sha256) for one in agent.bad}
    return Wish("back", place.previous) if current in bad and place.complete(place.previous) else None


def trial_wish(trial: Trial) -> Wish:
    """The wish that a trial in the record is."""
    return Wish("try", release_id(trial.version, trial.sha256), trial.version, trial.sha256, trial.job)


def refused(answer: Answer | None, wish: Wish) -> bool:
    """Whether root has said no to this very wish."""
    return answer is not None and answer.wish == wish and bool(answer.reason)


def leave(wish: Wish, path: Path = WISH) -> None:
    """Put the wish where systemd sees it. Raises UpdateError."""
    try:
        write_durably(path, _encoded(asdict(wish)), 0o640)
    except OSError as exc:
        words = f"{path}: the wish cannot be written: {exc.strerror}"
        raise UpdateError(f"{words}: releases are switched only where Limpet is installed as a service") from exc


def take(path: Path = WISH) -> Wish | None:
    """The wish, which is gone then; None when there is none. Raises UpdateError for one that cannot be understood."""
    try:
        data = read_limited(path, LIMIT_BYTES)
        path.unlink()
        return build(Wish, _decoded(data), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ConfigError) as exc:
        _remove(path)
        raise UpdateError(f"{path}: this is no wish: {exc}") from exc


def answer(told: Answer, path: Path = ANSWER) -> None:
    """Leave the answer for the updater. Raises OSError."""
    write_durably(path, _encoded(asdict(told)), 0o644)


def read_answer(path: Path = ANSWER) -> Answer | None:
    """The last answer; None when there is none that can be understood: a wish is made again then."""
    try:
        return build(Answer, _decoded(read_limited(path, LIMIT_BYTES)), str(path))
    except (OSError, ValueError, ConfigError):
        return None


def _remove(path: Path) -> None:
    """Whatever it is: what stays would start the root step again and again. A folder only loses its name: who filled
    it may have made it deeper than anybody can follow."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        path.rename(path.with_name(f"refused-{time.time_ns():x}"))


def _encoded(table: Mapping[str, Any]) -> bytes:
    return json.dumps({"schema": 1, **table}, sort_keys=True).encode() + b"\n"


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        table = json.loads(data)
    except RecursionError as exc:
        raise ValueError("lists and objects lie too deep in each other") from exc
    if not isinstance(table, dict) or table.pop("schema", None) != 1:
        raise ValueError("no JSON object of schema 1")
    return table

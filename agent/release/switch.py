"""The root step: `python -P -m agent.release.switch`, started by limpet-switch.path when the updater left a wish.

It grants one wish (try, commit, back), or refuses it and says why, and then makes the units follow the links. It
fetches nothing and decides nothing: whether a release may stay is for the agent and the updater to find out. Without a
wish, at boot, it only ends what a power cut broke off. A release whose limpet.service systemd cannot even load goes
back at once: no try would ever be burnt. None older than the committed one is tried, whoever signed it.
"""

import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from agent import __version__
from agent.durable import locked, read_limited
from agent.errors import ConfigError, LimpetError, UpdateError
from agent.package import version_order
from agent.progress import Reason
from agent.release import environment, proof
from agent.release.place import Place
from agent.release.units import Systemd, install, wanted
from agent.release.wish import ANSWER, WISH, Answer, Wish, answer, take
from agent.updates.terms import read_terms

log = logging.getLogger("agent.release.switch")

ANCHOR_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Switch:
    """The root step and all that it touches."""

    place: Place = field(default_factory=Place)
    config: Path = Path("/etc/limpet/limpet.toml")
    state: Path = ANSWER.parent
    """Folder of root's: the answer, and the metadata that was accepted last."""
    root: Path = Path("/")
    """Below it lie etc/systemd/system and the other homes of unit files."""
    systemd: Systemd = field(default_factory=Systemd)
    nobody: environment.Nobody | None = field(default_factory=environment.Nobody)

    def run(self, wish: Wish | None) -> Answer | None:
        """Grant or refuse `wish`, and leave everything as the links say. Raises UpdateError when even that fails."""
        told = self._answered(wish) if wish else None
        self.settle()
        if self.place.current != self.place.good and not self.systemd.can_run_agent():
            told = self._turned_away(wish)
        if told is not None:
            answer(told, self.state / ANSWER.name)
            if told.reason:
                self.systemd.wake_updater()
        return told

    def settle(self) -> None:
        """Make the unit files those of the releases that the links name."""
        try:
            self.systemd.apply(install(wanted(self.place), self.root))
        except (OSError, ValueError) as exc:
            raise UpdateError(f"the unit files cannot be installed: {exc}: look at the disk") from exc

    def _answered(self, wish: Wish) -> Answer:
        acts: dict[str, Callable[[Wish], None]] = {"try": self._try, "commit": self._commit, "back": self._back}
        here = f"current={self.place.current} good={self.place.good}"
        log.info("switch wish=%s release=%s %s", wish.do, wish.release, here)
        try:
            acts[wish.do](wish)
        except UpdateError as exc:
            log.error("switch wish=%s release=%s refused=%s text=%r", wish.do, wish.release, exc.reason, str(exc))
            return Answer(wish, cast("Reason", exc.reason), str(exc)[:2000])
        except ConfigError as exc:
            log.error("switch wish=%s release=%s refused text=%r", wish.do, wish.release, str(exc))
            return Answer(wish, "FAILED", str(exc)[:2000])
        except OSError as exc:
            log.error("switch wish=%s release=%s error=%r", wish.do, wish.release, str(exc))
            return Answer(wish, "NO_SPACE" if exc.errno in (28, 122) else "FAILED", str(exc)[:2000])
        log.info("switch wish=%s release=%s granted", wish.do, wish.release)
        return Answer(wish)

    def _try(self, wish: Wish) -> None:
        """Prove, build, probe, and only then let `current` lead there."""
        if self.place.current == wish.release:
            return
        if version_order(wish.version) < version_order(__version__):  # this code runs from the committed release
            words = f"release {wish.version} is older than {__version__}, which was committed here"
            raise UpdateError(f"{words}: install it by hand if that is meant", "REJECTED_ROLLBACK_ATTACK")
        if not self.place.complete(wish.release):
            self._make(wish)
        self.place.point("current", wish.release)
        self.settle()
        self.systemd.restart_agent()

    def _make(self, wish: Wish) -> None:
        updates = read_terms(self.config).updates
        if updates.root is None:
            words = f"{self.config}: [updates] root names no trust anchor"
            raise UpdateError(f"{words}: nothing can be proved", "VERIFY_FAILED")
        staging = self.place.opt / "staging"
        try:
            anchor = read_limited(updates.root, ANCHOR_LIMIT_BYTES)
        except (OSError, ValueError) as exc:
            raise UpdateError(f"{updates.root}: the trust anchor cannot be read: {exc}", "VERIFY_FAILED") from exc
        try:
            proof.prove(updates.folder, wish, anchor, self.state / "metadata", staging)
            environment.build(staging / "release", self.place, wish.release)
            environment.probe(self.place, wish.release, wish.version, self.config, updates.probe_s, self.nobody)
            self.place.seal(wish.release)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _commit(self, wish: Wish) -> None:
        """What runs on probation stays; what was good before is kept for one step back."""
        if self.place.current != wish.release or not self.place.complete(wish.release):
            raise UpdateError(f"release {wish.release} does not run, {self.place.current} does: it cannot be committed")
        if self.place.good != wish.release:
            self.place.point("previous", self.place.good)
            self.place.point("good", wish.release)
        self.settle()
        self.place.collect()

    def _back(self, wish: Wish) -> None:
        """To what was committed last, or to what was committed before it."""
        if wish.release not in (self.place.good, self.place.previous) or not self.place.complete(wish.release):
            raise UpdateError(f"release {wish.release} is not one to go back to", "ROLLBACK_FAILED")
        self.place.point("current", wish.release)
        if self.place.good != wish.release:
            self.place.point("good", wish.release)
        self.settle()
        self.systemd.restart_agent()
        self.place.collect()

    def _turned_away(self, wish: Wish | None) -> Answer | None:
        """The release on probation has a unit that cannot be loaded."""
        release, why = self.place.current, "systemd cannot load its limpet.service"
        log.error("switch release=%s refused reason=%r", release, why)
        self._back(Wish("back", self.place.good))
        return Answer(wish, "PROBATION_FAILED", f"release {release}: {why}") if wish and wish.do == "try" else None


def main() -> int:
    """Grant the wish that waits; 0 when nothing is wrong with this machine, whatever became of the wish."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    switch = Switch()
    try:
        with locked(switch.state / "lock") as free:
            if not free:
                raise UpdateError("another switch is under way: wait for it", "REJECTED_BUSY")
            switch.run(take(WISH))
    except (LimpetError, OSError) as exc:
        log.error("switch failed: %s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

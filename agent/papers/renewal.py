"""Renews the device's certificates by itself, long before they end, and says so when it cannot.

Each turn looks at every purpose: before its time nothing is done; then the EST server is asked, with the pair in use
and, should that no longer be accepted, with a claim token if the operator left one; a failure is tried again after a
jittered, growing wait, for as long as it takes, even after the end. The alarm comes with the third failure in a row,
or when less than a quarter of the life is left.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent.backoff import Backoff
from agent.clock import Clock
from agent.errors import ConfigError, UplinkError
from agent.identity import (
    Certified,
    Est,
    NamedCertificate,
    Pending,
    Proof,
    Purpose,
    Slots,
    enrol,
    load_anchors,
    pair_in_use,
    read_token,
    spend_token,
)
from agent.papers.pairs import Alarm
from agent.settings.identity import IdentityConfig

log = logging.getLogger(__name__)

TURN_S: Final = 10.0
FAILURES: Final = 3
LATE: Final = 0.25
"""Part of the life that is left when a certificate that was not renewed raises the alarm."""


class Watched:
    """One certificate: when it is due, and how renewing it has gone so far."""

    def __init__(self, name: str, purpose: Purpose, backoff: Backoff, by_hand: str) -> None:
        self.name = name
        self.purpose = purpose
        self.backoff = backoff
        self.by_hand = by_hand
        """What a person has to do; empty when the agent renews it by itself."""
        self.next_s = -1e9
        """Monotonic time before which it is not tried again."""
        self.trouble = ""
        self.told = ""

    @property
    def alarm(self) -> str:
        """The alarm's name."""
        return f"{self.name}-certificate"


class Renewal:
    """The lane's body. `run` belongs to one lane; `status` may be called from any thread."""

    def __init__(
        self, config: IdentityConfig, slots: Slots, purposes: Mapping[str, Purpose], clock: Clock, alarm: Alarm
    ) -> None:
        """`purposes`: name -> certificate, "tls" and "signing" at most."""
        self._config = config
        self._slots = slots
        self._clock = clock
        self._alarm = alarm
        rng = random.Random()
        first_s, cap_s = config.retry_first_s, max(config.retry_first_s, config.retry_cap_s)
        self._watched = [
            Watched(name, purpose, Backoff(rng, first_s, cap_s), _by_hand(config, purpose))
            for name, purpose in purposes.items()
        ]

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Look every `TURN_S` until `stop`."""
        while not stop.is_set():
            beat()  # also where no certificate is there to be watched
            for watched in self._watched:
                beat()
                self.look(watched)
            stop.wait(TURN_S)

    def status(self) -> dict[str, Any]:
        """Purpose -> its certificate: names, end and renewal in seconds since 1970, and what is wrong.

        `renewal_s` is None for one that is renewed by hand.
        """
        said: dict[str, Any] = {}
        for watched in self._watched:
            try:
                current = watched.purpose.current()
            except ConfigError as exc:
                said[watched.name] = {"trouble": str(exc)}
                continue
            if current is not None:
                said[watched.name] = {
                    "common_name": current.common_name,
                    "issuer": current.issuer,
                    "not_after_s": current.not_after_s,
                    "renewal_s": None if watched.by_hand else current.renewal_s(self._config.renew_at),
                    "trouble": watched.trouble,
                }
        return said

    def look(self, watched: Watched) -> None:
        """Renew one certificate if it is time to, and say how it stands."""
        now_s = self._clock.mono_s()
        try:
            if self._due(watched, now_s):
                self._renew(watched, now_s)
        except (UplinkError, ConfigError) as exc:
            watched.trouble = str(exc)
            watched.next_s = now_s + watched.backoff.failed(now_s)
            log.warning("identity=renewal-failed certificate=%s reason=%r", watched.name, watched.trouble)
        self._tell(watched)

    def _due(self, watched: Watched, now_s: float) -> bool:
        """Whether to ask for a new certificate now. Raises ConfigError."""
        if watched.by_hand or now_s < watched.next_s:
            return False
        current = watched.purpose.current()
        due = current is None or self._clock.wall_s() >= current.renewal_s(self._config.renew_at)
        return due and (watched.name != "tls" or self._slots.state().candidate is None)

    def _renew(self, watched: Watched, now_s: float) -> None:
        """Ask for a new certificate. Raises UplinkError or ConfigError."""
        est = Est(self._config.est, self._config.est_ca_file or self._slots.folder)
        outcome = enrol(watched.purpose, est, self._proofs(), load_anchors(self._config.authority))
        if isinstance(outcome, Pending):
            watched.next_s = now_s + outcome.retry_after_s
            log.info("identity=renewal-pending certificate=%s wait_s=%.0f", watched.name, outcome.retry_after_s)
            return
        watched.trouble = ""
        watched.next_s = now_s + self._config.retry_cap_s  # one that the broker refuses is not asked for in a loop
        watched.backoff.failures = 0
        log.info("identity=certificate-taken certificate=%s valid-until=%r", watched.name, outcome.until())
        if not spend_token(self._config.token_file):
            log.warning("identity=token-left file=%s: it is not needed any more: remove it", self._config.token_file)

    def _proofs(self) -> Sequence[Proof]:
        """The pair in use, then the claim token; one that the agent may not read is left to `limpet enroll`."""
        pair, token = pair_in_use(self._slots), None
        try:
            token = read_token(self._config.token_file)
        except ConfigError as exc:
            log.info("identity=token-left-out reason=%r", str(exc))
        proofs = [Proof(pair=pair)] if pair is not None else []
        return [*proofs, Proof(token=token)] if token is not None else proofs

    def _tell(self, watched: Watched) -> None:
        """Raise the alarm, or clear it, when it changes."""
        try:
            current = watched.purpose.current()
            text = _late(watched, current, self._clock.wall_s())
        except ConfigError as exc:
            text = f"the {watched.name} certificate cannot be read: {exc}"
        if text != watched.told:
            watched.told = text
            self._alarm(watched.alarm, text or None)


def _by_hand(config: IdentityConfig, purpose: Purpose) -> str:
    if isinstance(purpose, NamedCertificate):
        return f"put a new one in the place of {purpose.path}"
    return "" if config.est else "renew it with 'limpet enroll --csr-out FILE' and '--certificate FILE'"


def _late(watched: Watched, current: Certified | None, wall_s: float) -> str:
    """The alarm's words; empty while all is well."""
    if current is None:
        return f"there is no {watched.name} certificate: {watched.trouble or watched.by_hand}"
    left_s, life_s = current.not_after_s - wall_s, current.not_after_s - current.not_before_s
    if left_s >= LATE * life_s and watched.backoff.failures < FAILURES:
        return ""
    state = f"ended {current.until()}" if left_s <= 0 else f"ends {current.until()}"
    why = watched.trouble or watched.by_hand or "its renewal is under way"
    return f"the {watched.name} certificate {state} and is not renewed: {why}"

"""Which key envelopes are retained at the broker, so that old ones are cleared when no reader can need them."""

import json
from typing import Protocol

from agent.clock import Clock

CREDIBLE_S = 1_735_689_600.0
"""2025-01-01 UTC: a clock before it is not used to judge age."""


class Memory(Protocol):
    """Keeps a short text durably."""

    def remember(self, key: str, text: str) -> bool: ...
    def recall(self, key: str) -> str: ...


class Keyring:
    """Remembers key ids and when they were last current, in seconds since 1970."""

    def __init__(self, memory: Memory, retention_s: float, clock: Clock) -> None:
        self._memory = memory
        self._retention_s = retention_s
        self._clock = clock

    def published(self, kid: str) -> list[str]:
        """Note that `kid` is current; returns those that are to be cleared, and forgets them."""
        known = self._load()
        now_s = self._clock.wall_s()
        old = [k for k, t in known.items() if now_s > CREDIBLE_S and 0 < t < now_s - self._retention_s and k != kid]
        kept = {k: t for k, t in known.items() if k not in old} | {kid: now_s if now_s > CREDIBLE_S else 0.0}
        if kept != known:
            kept = {k: (t or (now_s if now_s > CREDIBLE_S else 0.0)) for k, t in kept.items()}
            self._memory.remember("kids", json.dumps(kept))
        return old

    def _load(self) -> dict[str, float]:
        text = self._memory.recall("kids")
        return {str(k): float(t) for k, t in json.loads(text).items()} if text else {}

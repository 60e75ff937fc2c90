"""The technician's hand: signs requests with one key, and never uses a counter twice.

The last counter for each device is noted in a small file beside the key before it is used. Losing that file locks
nobody out: counters are derived from the time in milliseconds.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.broker import Message
from agent.durable import locked, read_limited, write_durably
from agent.envelope.keys import SigningKey
from agent.envelope.topics import Topics
from agent.errors import ConfigError
from agent.request import Request, Target, next_counter, sign_request
from agent.settings.technician import TechnicianConfig

LIMIT_BYTES = 16 << 20
"""Largest file of counters, bytes: some hundred thousand devices."""


class Technician:
    """Makes the request of one operation for one device after the other."""

    def __init__(self, config: TechnicianConfig, args: Mapping[str, Any], expires_s: int | None = None) -> None:
        """`expires_s` replaces the configured life of a request, seconds. Raises ConfigError without a usable key."""
        if config.key is None:
            raise ConfigError("reader.toml has no [technician] key: make one with 'limpet keys new technician'")
        self._key = SigningKey.load(config.key)
        self._audience, self._args = config.audience, args
        self._expires_s = expires_s or config.expires_s
        self._counters = Counters(config.counters or config.key.with_suffix(".counters.json"), self._key.public.key_id)

    def __call__(self, target: Target, nonce: bytes) -> Message:
        """The message to publish now. Raises ConfigError, CommandError."""
        counter = self._counters.take(target.site, target.device, time.time())
        topic = f"{Topics(target.site, target.device).prefix}/req/{target.operation}/{target.id}"
        return Message(topic, self.signed(target, nonce, counter), expiry_s=self._expires_s)

    def signed(self, target: Target, nonce: bytes, counter: int) -> bytes:
        """The signed bytes. Raises CommandError when they are more than a device takes."""
        now_s = int(time.time())
        made = Request(target, now_s, now_s + self._expires_s, counter, self._args, self._audience, nonce)
        return sign_request(self._key, made)


class Counters:
    """Counters of one key, by site and device."""

    def __init__(self, path: Path, key_id: bytes) -> None:
        self._path, self._key = path, key_id.hex()

    def take(self, site: str, device: str, now_s: float) -> int:
        """The next counter for a device, noted before it is used. Raises ConfigError when it cannot be noted."""
        whose = f"{self._key} {site}/{device}"
        try:
            with locked(self._path.with_suffix(".lock")) as mine:
                if not mine:
                    raise ConfigError(f"{self._path}: another request is being signed with this key: try again")
                known = self._read()
                known[whose] = next_counter(now_s, known.get(whose, 0))
                write_durably(self._path, json.dumps(known).encode())
                return known[whose]
        except OSError as exc:
            words = f"{self._path}: the counter of this request cannot be noted: {exc.strerror}"
            raise ConfigError(f"{words}: set [technician] counters to a file that you may write") from exc

    def _read(self) -> dict[str, int]:
        """What is known; a damaged file counts as lost."""
        try:
            table = json.loads(read_limited(self._path, LIMIT_BYTES))
        except (FileNotFoundError, ValueError):
            return {}
        return {str(k): v for k, v in table.items() if isinstance(v, int)} if isinstance(table, dict) else {}

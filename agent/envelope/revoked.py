"""The void keys that a reader knows: trust/revoked.json of the repository, looked at whenever a key's word counts."""

import logging
from pathlib import Path

from agent.durable import read_limited
from agent.errors import ConfigError, UpdateError
from agent.package.trust import TRUST_LIMIT_BYTES, Revoked

log = logging.getLogger(__name__)


class RevokedFile:
    """The ids in one file, which may be replaced at any time. Not for several threads.

    It fails closed: a file that cannot be read at the start is an error, later what was read last goes on to count.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._kids: frozenset[str] = frozenset()
        try:
            self._look()
        except (OSError, ValueError, UpdateError) as exc:
            raise ConfigError(f"[reader] revoked {path}: {exc}: without it a revoked device would be believed") from exc

    def __call__(self) -> frozenset[str]:
        """The ids, 16 hex digits each."""
        try:
            self._look()
        except (OSError, ValueError, UpdateError) as exc:
            log.warning("revoked=unreadable file=%s reason=%r", self._path, str(exc))
        return self._kids

    def _look(self) -> None:
        about = self._path.stat()
        stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
        if stamp != self._stamp:
            self._kids = Revoked.decode(read_limited(self._path, TRUST_LIMIT_BYTES), str(self._path)).kids
            self._stamp = stamp

"""How a log line looks and how many of them there may be.

One record is one line: newlines and control characters are escaped, so that no input can forge a line. Under systemd
a line begins with its priority (`<3>`, man sd-daemon(3)) and the journal adds the time; elsewhere it begins with time
and level. Equal lines (same logger, same template) beyond `burst` per minute are counted, and the count is told in one
line. Passwords, tokens, private keys and whatever `Redactor.hide` was given never reach the stream.
"""

import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TextIO

from agent.settings.core import LogConfig

WINDOW_S = 60.0
"""Length of the window over which equal lines are counted, seconds."""
TEMPLATES = 512
"""How many different lines are tracked; the one unseen longest is forgotten."""
LINE_LIMIT = 8192
"""Longest line, characters."""

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@", re.IGNORECASE)
_NAMED_SECRET = re.compile(
    r"(?P<head>\b[\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key)['\"]?\s*[=:]\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s,;'\"]+)",
    re.IGNORECASE,
)


class Redactor:
    """Takes secrets out of text: by shape (URLs with a password, `password=`, PEM private keys) and by value."""

    def __init__(self) -> None:
        self._known: tuple[str, ...] = ()

    def hide(self, secret: str) -> None:
        """Never show this value again. Values under 4 characters are left alone: they would riddle every line."""
        if len(secret) >= 4:
            self._known = tuple(sorted({*self._known, secret}, key=len, reverse=True))

    def clean(self, text: str) -> str:
        """`text` without secrets."""
        for secret in self._known:
            text = text.replace(secret, "***")
        text = _PEM.sub("[private key]", text)
        text = _URL_PASSWORD.sub(r"\g<head>***@", text)
        return _NAMED_SECRET.sub(r"\g<head>***", text)


class LineFormatter(logging.Formatter):
    """One record, one line; with the priority prefix of the journal or with time and level."""

    def __init__(self, journal: bool, redactor: Redactor) -> None:
        """`journal`: the stream is the systemd journal."""
        super().__init__()
        self._journal = journal
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = _CONTROL.sub(lambda m: repr(m.group())[1:-1], self._redactor.clean(text))
        if len(text) > LINE_LIMIT:
            text = f"{text[:LINE_LIMIT]}... cut={len(text) - LINE_LIMIT}"
        if self._journal:
            return f"<{_PRIORITY.get(record.levelno, 5)}>{record.name}: {text}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower()} {record.name}: {text}"


class RateLimit:
    """Lets `burst` equal lines through per window and counts the rest."""

    def __init__(self, burst: int, mono_s: Callable[[], float]) -> None:
        """`mono_s` is the monotonic clock."""
        self._burst = burst
        self._mono_s = mono_s
        self._seen: OrderedDict[tuple[str, str], list[float]] = OrderedDict()  # key -> [start_s, passed, suppressed]

    def admit(self, name: str, template: str) -> tuple[bool, list[tuple[str, str, int]]]:
        """Whether this line may be written, and the (logger, template, suppressed) counts that are now due."""
        now_s = self._mono_s()
        due = self._expire(now_s)
        entry = self._seen.setdefault((name, template), [now_s, 0, 0])
        self._seen.move_to_end((name, template))
        admitted = entry[1] < self._burst
        entry[1 if admitted else 2] += 1
        if len(self._seen) > TEMPLATES:
            key, old = self._seen.popitem(last=False)
            due += [(*key, int(old[2]))] if old[2] else []
        return admitted, due

    def _expire(self, now_s: float) -> list[tuple[str, str, int]]:
        over = [key for key, (start_s, _, _) in self._seen.items() if now_s - start_s >= WINDOW_S]
        counts = [(*key, int(self._seen.pop(key)[2])) for key in over]
        return [count for count in counts if count[2]]


class LineHandler(logging.Handler):
    """Writes admitted lines to a stream; a stream that is gone (closed pipe) is no reason to stop."""

    def __init__(self, stream: TextIO, formatter: LineFormatter, limit: RateLimit) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        # Levels above warning share the limit too: a failing disk writes errors faster than anything else.
        admitted, due = self._limit.admit(record.name, str(record.msg))
        for name, template, count in due:
            note = f"suppressed={count} window_s={WINDOW_S:.0f} line={template!r}"
            self._write(logging.LogRecord(name, logging.WARNING, "", 0, note, None, None))
        if admitted:
            self._write(record)

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is the systemd journal: $JOURNAL_STREAM names its device and inode (man systemd.exec(5))."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def configure(
    config: LogConfig, stream: TextIO, environ: Mapping[str, str], mono_s: Callable[[], float] = time.monotonic
) -> Redactor:
    """Send all log records to `stream`, in the journal's form when it is the journal; returns the redactor in use."""
    redactor = Redactor()
    formatter = LineFormatter(is_journal(stream, environ), redactor)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LineHandler):
            root.removeHandler(old)
    root.addHandler(LineHandler(stream, formatter, RateLimit(config.burst, mono_s)))
    root.setLevel(config.level.upper())
    threading.excepthook = _log_thread_end
    return redactor


def _log_thread_end(args: threading.ExceptHookArgs) -> None:
    """A thread that dies says so in a log line, not in a bare traceback."""
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread else "unknown"
    info = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger(__name__).error("thread=%s died error=%r", name, args.exc_value, exc_info=info)

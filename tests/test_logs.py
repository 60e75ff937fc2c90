"""One record is one line, equal lines are counted, secrets stay inside."""

import io
import logging
import os
import subprocess
import sys

import pytest

from agent.logs import LINE_LIMIT, TEMPLATES, LineFormatter, LineHandler, RateLimit, Redactor, is_journal


class Clock:
    """A monotonic clock that moves when told."""

    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def desk():
    """A logger with our handler on a string, and its clock: (logger, stream, clock)."""
    stream, clock = io.StringIO(), Clock()
    logger = logging.getLogger("limpet-test-desk")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    handler = LineHandler(stream, LineFormatter(journal=True, redactor=Redactor()), RateLimit(3, clock))
    logger.addHandler(handler)
    yield logger, stream, clock
    logger.removeHandler(handler)


PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


@pytest.mark.parametrize(("level", "priority"), PRIORITIES.items())
def test_the_journal_gets_syslog_priorities(desk, level, priority):
    """`<3>` and its like, as man sd-daemon(3) defines them."""
    logger, stream, _ = desk
    getattr(logger, level)("lane=%s stuck", "camera")
    assert stream.getvalue() == f"<{priority}>limpet-test-desk: lane=camera stuck\n"


def test_a_terminal_gets_time_and_level():
    """UTC with milliseconds, so that lines of several devices sort."""
    record = logging.LogRecord("agent.uplink", logging.INFO, "", 0, "up", None, None)
    record.created, record.msecs = 1.5, 500.0
    line = LineFormatter(journal=False, redactor=Redactor()).format(record)
    assert line == "1970-01-01T00:00:01.500Z info agent.uplink: up"


def test_input_cannot_forge_a_line(desk):
    """Newlines, escape sequences and line separators are shown, not obeyed; tracebacks stay on their line."""
    logger, stream, _ = desk
    logger.info("label=%s", "x\n<0>kernel: panic\x1b[2J\u2028end")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("lane failed")
    lines = stream.getvalue().split("\n")
    assert lines[0] == r"<6>limpet-test-desk: label=x\n<0>kernel: panic\x1b[2J\u2028end"
    assert lines[1].startswith(r"<3>limpet-test-desk: lane failed\nTraceback")
    assert lines[1].endswith(r"ValueError: first\nsecond")
    assert lines[2:] == [""]


def test_a_line_has_a_length_limit(desk):
    """What is cut off is counted."""
    logger, stream, _ = desk
    logger.info("x" * (LINE_LIMIT + 50))
    assert stream.getvalue().endswith("... cut=50\n")


def test_equal_lines_are_counted_not_repeated(desk):
    """Three of a kind pass in a minute; then one line tells how many were held back."""
    logger, stream, clock = desk
    for n in range(100):
        logger.error("camera away try=%d", n)
    logger.info("another line passes")
    assert stream.getvalue().count("camera away") == 3
    assert "another line passes" in stream.getvalue()
    clock.now_s += 61
    logger.info("anything")
    assert "suppressed=97 window_s=60 line='camera away try=%d'" in stream.getvalue()
    logger.error("camera away try=%d", 100)
    assert "try=100" in stream.getvalue()


def test_the_limiter_is_bounded_and_forgets_nothing_it_held_back():
    """Templates that differ every time cannot grow it; a forgotten one hands over its count."""
    limit = RateLimit(1, Clock())
    limit.admit("a", "first")
    assert limit.admit("a", "first") == (False, [])
    told = [due for n in range(3 * TEMPLATES) for due in limit.admit("a", f"line {n}")[1]]
    assert told == [("a", "first", 1)]
    assert len(limit._seen) == TEMPLATES


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open rtsp://admin:hunter2@10.0.0.5:554/s1 failed", "open rtsp://admin:***@10.0.0.5:554/s1 failed"),
        ("password=hunter2 user=x", "password=*** user=x"),
        ("{'mqtt_password': 'hunter2 hunter2', 'b': 1}", "{'mqtt_password': ***, 'b': 1}"),
        ('api-key: "hunter2"', "api-key: ***"),
        ("TOKEN=hunter2,next=1", "TOKEN=***,next=1"),
        ("-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY----- tail", "[private key] tail"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2 cut off", "[private key]"),
        ("said hunter2 aloud", "said *** aloud"),
        ("password_file=/etc/limpet/password is missing", "password_file=/etc/limpet/password is missing"),
        ("tokens=5 http://host:80/a@b", "tokens=5 http://host:80/a@b"),
    ],
)
def test_secrets_are_taken_out_and_the_rest_stays(text, shown):
    """By shape and by value; names of files and plain words are left alone."""
    redactor = Redactor()
    redactor.hide("hunter2 aloud"[:7])
    redactor.hide("abc")  # too short to hide without riddling every line
    assert redactor.clean(text) == shown
    assert "hunter2" not in redactor.clean(text)
    assert redactor.clean("abcabc") == "abcabc"


def test_a_closed_stream_does_not_stop_the_agent():
    """The journal may go away; the lane that logs must not die of it."""
    stream = io.StringIO()
    handler = LineHandler(stream, LineFormatter(journal=True, redactor=Redactor()), RateLimit(3, Clock()))
    stream.close()
    assert handler.emit(logging.LogRecord("a", logging.INFO, "", 0, "x", None, None)) is None


def test_the_journal_is_recognised_by_its_inode(tmp_path):
    """Only the very stream that systemd names gets priorities."""
    with (tmp_path / "log").open("w") as stream:
        stat = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


def test_configure_sends_every_logger_and_dying_threads_to_one_place():
    """In a process of its own, because it changes the root logger: level, redaction, one line for a dead thread."""
    script = """
import logging, os, sys, threading
from agent.logs import configure
from agent.settings.core import LogConfig
configure(LogConfig(level="warning"), sys.stderr, os.environ)
redactor = configure(LogConfig(level="warning"), sys.stderr, os.environ)  # twice gives no double lines
redactor.hide("hunter2")
logging.getLogger("a.b").info("quiet")
logging.getLogger("a.b").warning("loud hunter2")
thread = threading.Thread(target=lambda: 1 / 0, name="lane7")
thread.start(); thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("warning a.b: loud ***")
    assert "thread=lane7 died error=ZeroDivisionError" in lines[1]



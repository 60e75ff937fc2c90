"""What `make run` shows: a real broker, a real agent, events that came back decrypted, on a page or in lines."""

import io
import re
import signal
from collections import deque

import pytest
from rich.console import Console

from agent.cli.phrases import summary, told
from agent.demo.board import Arrival, Board, Lines, plain_line
from agent.demo.page import Sheet
from agent.demo.story import Story
from agent.records import Draft, Event
from agent.request import Target
from agent.settings.technician import TechnicianConfig
from agent.technician.asking import Round, Seen
from tests.agents import limpet


def _arrival(kind="appears", body=None, seq=7, sealed=True):
    draft = Draft("meter", kind, body or {"label": "01234", "score": 0.97, "value": "01234"}, 1.0, 1.0, cache="miss")
    return Arrival(Event("x", "b", seq, draft), "limpet/v1/demo/here/e/meter", sealed, 12.3)


@pytest.mark.parametrize(("broker", "words"), [("mosquitto", "MQTT v5 over TLS"), ("amqtt", "MQTT v3.1.1")])
def test_the_demo_shows_events_an_update_that_stays_and_one_that_goes(broker, words):
    """With either broker: decrypted events, then a published model that is committed, then one that rolls back."""
    child = limpet("demo", "100s", "--lines", "--broker", broker)
    out = ""
    for line in child.stdout:
        out += line
        if "ROLLED_BACK" in line and "came back decrypted" not in out:
            child.send_signal(signal.SIGINT)
    err = child.stderr.read()
    assert child.wait(60) == 0, out + err
    assert words in out
    assert "no camera here" in out or "camera /dev" in out
    assert re.search(r"^vibration +appears +anomaly .* sealed", out, re.MULTILINE), out
    assert re.search(r"(\d+) events came back decrypted, 0 gaps, 0 messages refused", out)
    told = [line for line in out.splitlines() if line.startswith("update ")]
    kept = next(n for n, line in enumerate(told) if "digits: successful 8 live inferences" in line)
    back = next(n for n, line in enumerate(told) if "digits: failed ROLLED_BACK rolled back to 1.1.0" in line)
    for state in ("staged", "probation"):
        assert any(f"digits: {state}" in line for line in told[:kept]), told
        assert any(f"digits: {state}" in line for line in told[kept:back]), told


def test_a_bounded_demo_ends_by_itself():
    """Exit status 0 after its time, whatever the story has come to."""
    child = limpet("demo", "6s", "--lines")
    out, err = child.communicate(timeout=90)
    assert child.returncode == 0, out + err
    assert re.search(r"(\d+) events came back decrypted", out)


def test_the_page_holds_everything_a_person_wants_to_see():
    """Device, broker, sources, pipelines with their figures, events with their seal, and what is wrong."""
    board = Board("demo/here", "mosquitto", "COSE", "http://127.0.0.1:1/", {"camera": "a recording"}, "online")
    board.status = {
        "pipelines": {
            "meter": {
                "model": {"name": "digits", "version": "1.0.0"}, "runtime": "litert", "results": 42, "events": 3,
                "p50_ms": 1.25, "p99_ms": 2.5, "cached": 4, "gated": 5,
            }
        },
        "outbox": {"events": 1, "pending": 2},
        "uplink": {"acked_events": 9, "acked_messages": 4},
        "reasons": ["keywords: no such model"],
    }  # fmt: skip
    board.take(_arrival())
    board.take(_arrival(kind="gap", body={"count": 2, "reason": "budget"}))
    console = Console(width=150, height=45, record=True, file=io.StringIO())
    console.print(Sheet(board))
    text = console.export_text()
    shown = (
        "demo/here", "online", "digits 1.0.0", "42", "1.25", "01234", "sealed, verified", "3 waiting",
        "9 acknowledged in 4 messages", "1 gaps", "! keywords: no such model", "http://127.0.0.1:1/",
    )  # fmt: skip
    assert [words for words in shown if words not in text] == []


def _busy_board(tmp_path):
    """A board with everything on it: four sources, four pipelines, an alarm, a whole story, many events."""
    sources = {name: f"no {name} here: a recording" for name in ("camera", "microphone", "vibration", "machine")}
    board = Board("demo/here", "mosquitto on 127.0.0.1:33689", "COSE_Encrypt0 " * 6, "not built", sources, "online")
    figures = {"runtime": "ai-edge-litert", "results": 12345, "events": 3, "p50_ms": 1.25, "p99_ms": 62.5}
    model = {"name": "vibration", "version": "1.0.0"}
    board.status = {"pipelines": {name: {"model": model, **figures} for name in ("meter", "keywords")}}
    board.status["pipelines"] |= {"vibration": {"model": model, **figures}, "machine": figures}
    board.status["reasons"] = ["update-digits: digits 1.2.0 went back: " + "a long reason " * 9]
    board.story = Story(tmp_path, "demo/here", TechnicianConfig(), tmp_path, deque())
    for version, end in (("1.1.0", "successful"), ("1.2.0", "failed ROLLED_BACK")):
        board.story.page.extend([f"$ limpet repo add digits-{version}", "  added", "  released", "$ limpet request",
                                 "  the device says: init > executing", f"  {end} " + "because " * 20])  # fmt: skip
    for seq in range(40):
        board.take(_arrival(seq=seq))
    return board


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (100, 30), (150, 45), (80, 60), (200, 24)])
def test_the_page_fits_every_terminal(tmp_path, columns, lines):
    """Neither the end of the story, nor the newest event, nor the way out is below the last line or cut in two."""
    console = Console(width=columns, height=lines, record=True, file=io.StringIO())
    console.print(Sheet(_busy_board(tmp_path)))
    shown = console.export_text().splitlines()
    assert len(shown) <= lines
    assert all(len(line) <= columns for line in shown)
    expected = (
        "camera  no camera here", "vibration 1.0.0", "streaming statistic", "! update-digits", "$ limpet request",
        "the device says: init > executing", "failed ROLLED_BACK", " 38 ", " 39 ", "Ctrl-C ends",
    )  # fmt: skip
    for words in expected:
        assert any(words in line for line in shown), "\n".join(shown)
    if lines >= 45:
        assert any("  successful" in line for line in shown), "\n".join(shown)


def test_a_request_is_one_line_of_the_page_that_grows(tmp_path):
    """The log has a line per state; the page has one for the way and one for the end."""
    story = Story(tmp_path, "demo/here", TechnicianConfig(), tmp_path, deque())
    story.asked = Round([Target("demo", "here", "update", "7")], lambda *_: b"", parallel=1, abort_after=1)
    asked = story.asked.asked[0]
    for version, status in enumerate(("init", "download", "download", "staged", "successful"), 1):
        asked.seen = Seen(status, version)
        asked.phase = "ended" if status == "successful" else "running"
        story._tell_way(asked)
    assert list(story.page) == ["  the device says: init > download > staged", "  successful"]
    assert len(story.lines) == 5


def test_lines_tell_each_event_once(capsys):
    """Without a terminal: one line per event, none twice."""
    board = Board("demo/here", "mosquitto", "COSE")
    with Lines(board) as lines:
        board.take(_arrival(seq=1))
        lines.refresh()
        lines.refresh()
        board.take(_arrival(seq=2))
    out = capsys.readouterr().out
    assert out.count("seq=1") == 1
    assert out.count("seq=2") == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"label": "yes", "score": 0.5}, "yes score 0.5"),
        ({"label": "cpu", "value": 12.345, "unit": "%"}, "cpu = 12.3 %"),
        ({"seen": []}, "nothing seen"),
        ({"seen": [{"label": "a", "findings": 3, "value": {"mean": 1.5}, "unit": "Cel"}]}, "a x3 mean 1.5 Cel"),
        ({"count": 4, "reason": "budget"}, "count 4 reason budget"),
        ({"model": "door", "version": "1.1.0", "verdict": "commit", "text": "8 runs", "detail": {"a": 1}},
         "door 1.1.0: commit, 8 runs"),
        ({"other": 1}, "other 1"),
    ],
)
def test_a_body_is_summed_up_in_a_few_words(body, words):
    """Whatever a rule tells has a short form."""
    assert summary(body) == words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"label": "person#1", "score": 0.6235334, "box": [226.06, 123.35, 315.97, 270.0]},
         "person#1 score 0.624 at [226, 123, 316, 270]"),
        ({"label": "yes", "score": 0.5}, "yes score 0.5"),
        ({"label": "odd", "box": "nowhere"}, "odd"),
        ([1, 2], "[1, 2]"),
    ],
)  # fmt: skip
def test_the_place_in_the_picture_is_told_in_whole_pixels(body, words):
    """Who reads events on a terminal sees where, without fifteen digits; a body of another shape does no harm."""
    assert told(body) == words


def test_a_plain_event_is_marked_as_plain():
    """Nobody takes cleartext for sealed."""
    assert " plain " in plain_line(_arrival(sealed=False))

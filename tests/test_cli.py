"""What commands print: lines by docs/cli.schema.json, exit statuses, errors that say what to do."""

import fcntl
import importlib
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import wave

import jsonschema
import pytest

from agent.cli import main
from agent.cli.terminal import aligned, counted
from agent.errors import ConfigError
from tests.agents import MODELS, PIPELINES, ROOT, limpet

SCHEMA = json.loads((ROOT / "docs" / "cli.schema.json").read_text())
VIBRATION = MODELS / "vibration"


def _run(*words, status=0):
    child = limpet(*words)
    out, err = child.communicate(timeout=60)
    assert child.returncode == status, f"{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def _lines(out, kind):
    part = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"}
    lines = [json.loads(line) for line in out.splitlines()]
    for line in lines:
        jsonschema.validate(line, part)
    return lines


@pytest.mark.parametrize(("words", "option"), [(["check"], "--config"), (["status"], "--config"),
                                               (["watch"], "--reader"), (["models", "list"], "")])  # fmt: skip
def test_where_nothing_is_installed_the_option_is_named(capsys, monkeypatch, tmp_path, words, option):
    """Whoever named a file knows the option; what works without a configuration says nothing of it."""
    importlib.import_module(f"agent.cli.{words[0]}")  # with the place that it has, for the tests after this one
    monkeypatch.setattr("agent.cli.watch.DEFAULT_READER", tmp_path / "reader.toml")
    monkeypatch.setattr("agent.cli.modelscatalogue.DEFAULT_CONFIG", tmp_path / "limpet.toml")
    monkeypatch.setattr("agent.cli.options.DEFAULT_CONFIG", tmp_path / "limpet.toml")
    hint = f"That is where an installation has it; name another with {option} FILE\n"
    status = main(words)
    assert (status, hint in capsys.readouterr().err) == ((2, True) if option else (0, False))
    if option:
        assert main([*words, option, str(tmp_path / "other.toml")]) == 2
        assert "installation" not in capsys.readouterr().err


@pytest.mark.parametrize(("path", "told"), [("/etc/limpet/limpet.toml", True), ("/home/pi/limpet.toml", False)])
def test_who_may_not_read_an_installation_is_told_of_sudo(capsys, monkeypatch, path, told):
    """The first thing that an ordinary user meets on a device; a file of one's own is another matter."""

    def refuse(_):
        raise ConfigError(f"{path}: cannot be read: Permission denied") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(importlib.import_module("agent.cli.status"), "run", refuse)
    assert main(["status"]) == 2
    assert ("run this with sudo" in capsys.readouterr().err) == told


def test_one_of_a_thing_has_no_s():
    """And none of it has one."""
    words = [counted(number, "event") for number in (0, 1, 2, 1.0)]
    assert words == ["0 events", "1 event", "2 events", "1 event"]
    assert [counted(number, "crash", "crashes") for number in (1, 3)] == ["1 crash", "3 crashes"]


def test_infer_prints_a_line_per_file_and_fails_when_one_does(tmp_path):
    """A failed input still prints its line; the others are not disturbed."""
    (tmp_path / "empty.csv").write_text("")
    good = VIBRATION / "golden" / "imbalance.csv"
    out, _ = _run("infer", VIBRATION, good, tmp_path / "empty.csv", tmp_path / "none.csv", good, "--json", status=1)
    lines = _lines(out, "infer")
    assert [("error" in line) for line in lines] == [False, True, True, False]
    assert [f["label"] for f in lines[0]["findings"]] == ["anomaly"]
    assert lines[0]["findings"] == lines[3]["findings"]
    assert "none.csv" in lines[2]["error"]


def test_infer_names_each_label_of_a_recording_once(tmp_path):
    """A recording has many views: the best score and how many views said so, not the same label over and over."""
    for number, digit in enumerate("1212"):
        shutil.copy(MODELS / "digits" / "golden" / f"{digit}.png", tmp_path / f"{number}.png")
    out, _ = _run("infer", MODELS / "digits", tmp_path)
    named = [part.split()[0] for part in out.split(": ", 1)[1].rsplit("  (", 1)[0].split(", ")]
    assert len(named) == len(set(named)) >= 2
    assert re.search(r" x[0-9]+\b", out)


def test_infer_gives_raw_outputs_when_asked():
    """Dtype, shape and row-major data of every port, as JSON whether --json is there or not."""
    out, _ = _run("infer", VIBRATION, VIBRATION / "golden" / "healthy.csv", "--outputs")
    [line] = _lines(out, "infer")
    assert line["outputs"]["y"]["dtype"] == "uint8"
    assert line["outputs"]["y"]["shape"] == [1, 32]
    assert len(line["outputs"]["y"]["data"]) == 32
    assert line["cache"] == "miss"


def test_infer_for_people_names_what_was_found():
    """Without --json one readable line per file."""
    out, _ = _run("infer", VIBRATION, VIBRATION / "golden" / "looseness.csv")
    assert "looseness.csv: anomaly" in out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["infer", "/nonexistent", "x.png"], 2, "model.toml: the manifest cannot be read"),
        (["infer", VIBRATION, VIBRATION / "demo.csv", "--threads", "0"], 2, "--threads 0"),
        (["replay", "--pipeline", "no.toml", "x.csv"], 2, "no.toml: cannot be read"),
        (["replay", "--pipeline", PIPELINES / "machine.toml", "none.csv"], 1, "none.csv"),
        (["check", "--config", "none.toml"], 2, "none.toml: cannot be read"),
        (["status", "--config", "none.toml"], 2, "none.toml"),
        (["watch", "--reader", "none.toml"], 2, "none.toml: cannot be read"),
        (["demo", "soon"], 2, "'soon' is no time"),
    ],
)
def test_errors_say_what_and_which(words, status, said):
    """One line on stderr, an exit status by who must act, never a traceback."""
    _, err = _run(*words, status=status)
    assert said in err


def test_watch_fails_when_no_broker_ever_answers(tmp_path):
    """A time that ran out without a connection is no success; the reason is said, once, in the words of reader.toml."""
    (tmp_path / "reader.toml").write_text(
        'schema = 1\n[broker]\nbroker = "mqtt://127.0.0.1:1"\nreconnect_first_s = 0.1\nreconnect_cap_s = 1\n'
    )
    out, err = _run("watch", "--reader", tmp_path / "reader.toml", "--for", "1.5", "--json", status=1)
    assert out == ""
    assert err.count("cannot be reached") == 1
    assert "check [broker] broker" in err


def test_usage_errors_exit_with_2():
    """As the shell's users expect."""
    _, err = _run("fly", status=2)
    assert "invalid choice" in err


def test_replay_prints_every_window_in_order_and_its_events():
    """As fast as possible, nothing dropped, numbered from 0; the demo's anomaly is told once each way."""
    out, _ = _run("replay", "--pipeline", PIPELINES / "vibration.toml", VIBRATION / "demo.csv", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    results = _lines("\n".join(line for line in out.splitlines() if '"result"' in line), "result")
    events = _lines("\n".join(line for line in out.splitlines() if '"type": "event"' in line), "replayed_event")
    assert len(results) + len(events) == len(lines)
    assert [r["seq"] for r in results] == list(range(len(results)))
    assert [e["kind"] for e in events] == ["appears", "clears"]
    assert [r["t_s"] for r in results] == sorted(r["t_s"] for r in results)


def test_replay_gives_the_same_events_each_time():
    """Rules run on stream time: a recording is a test."""
    words = ("replay", "--pipeline", PIPELINES / "vibration.toml", VIBRATION / "demo.csv", "--json")
    runs = [_run(*words)[0] for _ in range(2)]
    events = [[line for line in run.splitlines() if '"type": "event"' in line] for run in runs]
    assert events[0] == events[1]


def test_a_sound_shorter_than_a_window_is_padded_alike_by_infer_and_replay(tmp_path):
    """A clip of half a second is looked at once, with silence behind it."""
    clip = tmp_path / "short.wav"
    with wave.open(str(MODELS / "keywords" / "demo.wav")) as source, wave.open(str(clip), "wb") as short:
        source.setpos(int(1.0 * 16000))
        short.setparams(source.getparams())
        short.writeframes(source.readframes(int(0.7 * 16000)))
    inferred = _lines(_run("infer", MODELS / "keywords", clip, "--json")[0], "infer")
    replayed = _lines(_run("replay", "--pipeline", PIPELINES / "keywords.toml", clip, "--json")[0], "result")
    assert len(replayed) == 1
    assert [f["label"] for f in inferred[0]["findings"]] == ["yes"]
    assert replayed[0]["findings"] == inferred[0]["findings"]


def test_a_pipeline_is_replayed_by_its_configured_name(tmp_path):
    """With --config the name of a pipeline is enough."""
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[paths]\npipelines = ["{PIPELINES}"]\n[envelope]\nmode = "plain"\n')
    out, _ = _run("replay", "--config", config, "--pipeline", "vibration", VIBRATION / "demo.csv")
    assert out.count("EVENT") == 2
    _, err = _run("replay", "--config", config, "--pipeline", "nothing", VIBRATION / "demo.csv", status=2)
    assert "there are" in err


def test_columns_are_as_wide_as_their_widest_cell():
    """Whatever stands below or above it, and nothing stands behind the last cell of a line."""
    rows = [("name", "state"), ("a", "well"), ("long name", "")]
    assert aligned(rows) == ["name       state", "a          well", "long name"]
    assert aligned([]) == []


def test_a_fleeting_line_is_cut_cleaned_and_taken_away():
    """On a terminal of 20 columns; nothing of it where standard error is a file."""
    code = "from agent.cli.terminal import fleeting; fleeting('a\\x1b\\n' + 'b' * 40); fleeting()"
    leader, follower = pty.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
        subprocess.run([sys.executable, "-c", code], stderr=follower, check=True, cwd=ROOT)
        assert os.read(leader, 1000).decode() == f"\r\033[Ka\N{REPLACEMENT CHARACTER} {'b' * 16}\r\r\033[K\r"
    finally:
        os.close(leader)
        os.close(follower)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    assert done.stderr == b""

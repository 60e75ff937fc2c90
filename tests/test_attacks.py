"""What people, disks and other programs may do to the agent by mistake or on purpose, and what it must answer."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.capture import file_source
from agent.capture.lines import LineParser
from agent.cli.dashboard import make_server
from agent.clock import SystemClock
from agent.config import load_config, load_pipelines, load_sources
from agent.errors import CaptureError, ConfigError, ModelError
from agent.golden import read_npz
from agent.manifest import load_manifest
from agent.registry import find, installed, verified
from agent.settings.capture import LineFormat
from tests.agents import MODELS, PIPELINES, ROOT, running, site, status
from tests.tiny_models import make_model

PLAIN = """
schema = 1
[paths]
runtime = "run"
pipelines = ["pipes"]
[store]
folder = "outbox"
key_file = "store.key"
[models]
folders = ["models"]
[envelope]
mode = "plain"
[uplink]
broker = "mqtt://127.0.0.1:1"
[sources.machine]
kind = "load"
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a configuration that `limpet check` is content with."""
    (tmp_path / "limpet.toml").write_text(PLAIN)
    (tmp_path / "pipes").mkdir()
    shutil.copy(PIPELINES / "machine.toml", tmp_path / "pipes")
    return tmp_path


def limpet(*words, before=(), **options):
    """One command as a process, at most 30 s; stdout and stderr together."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*before, sys.executable, "-P", "-m", "agent", *map(str, words)], env=environment | options.pop("env", {}),
        text=True, timeout=30, check=False, **{"capture_output": True, **options},
    )  # fmt: skip


def powerless(*words):
    """The same for a user whom file permissions bind, also where the tests run as root."""
    before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if before and (not shutil.which("setpriv") or subprocess.run([*before, "true"], check=False).returncode):
        pytest.skip("cannot give up root's powers here: needs setpriv and CAP_SETPCAP")
    return limpet(*words, before=before)


def said_well(done, status, *words):
    """It ended with `status`, without a traceback, and said `words`."""
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == status, said
    assert "Traceback" not in said
    for word in words:
        assert word in said


# --- what cannot be seen must not look like nothing -------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["conf.d", "pipes"])
def test_a_folder_that_may_not_be_listed_is_no_empty_folder(place, closed):
    """A closed conf.d or pipeline folder is an error: what it holds may matter."""
    (place / closed).mkdir(exist_ok=True)
    (place / closed).chmod(0)
    said_well(powerless("check", "--config", place / "limpet.toml"), 2, f"{place / closed} cannot be", "Permission")


def test_a_pipeline_folder_behind_a_closed_door_stops_nothing_else(place):
    """Looking for it fails with a reason, and the rest is looked at."""
    (place / "door").mkdir()
    (place / "pipes").rename(place / "door" / "pipes")
    config = place / "limpet.toml"
    config.write_text(config.read_text().replace('"pipes"', '"door/pipes"'))
    (place / "door").chmod(0)
    said_well(powerless("check", "--config", config), 2, "ok      source machine", "door/pipes cannot be looked at")


def test_a_closed_model_folder_hurts_only_who_wants_that_model(place):
    """A pipeline with another model runs; the one that wants the closed model says why it does not."""
    for name in ("vibration", "closed"):
        shutil.copytree(MODELS / "vibration", place / "models" / name)
        text = f'schema = 1\nname = "{name}"\nsource = "machine"\n[model]\nname = "{name}"\n'
        (place / "pipes" / f"{name}.toml").write_text(text)
    text = 'schema = 1\nname = "none"\nsource = "machine"\n[model]\nname = "nosuch"\n'
    (place / "pipes" / "none.toml").write_text(text)
    (place / "models" / "closed").chmod(0)
    done = powerless("check", "--config", place / "limpet.toml")
    said_well(done, 2, "ok      pipeline vibration", "WRONG   pipeline closed", "denied", "there are closed,")
    said_well(powerless("models", "list", "--folder", place / "models"), 1, "Permission denied", "vibration")


def test_a_model_is_found_behind_a_folder_that_is_closed(place):
    """An ordinary user may try a pipeline although the agent's own models are not for his eyes."""
    (place / "secret").mkdir(mode=0)
    shutil.copytree(MODELS / "vibration", place / "open" / "vibration")
    config = place / "limpet.toml"
    config.write_text(config.read_text().replace('["models"]', '["secret", "open"]'))
    text = 'schema = 1\nname = "v"\nsource = "machine"\n[model]\nname = "vibration"\n'
    (place / "pipes" / "v.toml").write_text(text)
    said_well(powerless("check", "--config", config), 0, "ok      pipeline v with vibration")


# --- hostile configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "a = " + "[" * 60 + "]" * 60,
        "[a" + ".a" * 5000 + "]",
        "a = 1" + "0" * 5000,
        "schema = 1\n[store]\nfolder = \"a\\u0000b\"",
        "schema = 1\n[supervisor]\nstop_s = 1" + "0" * 400,
    ],
    ids=["unclosed", "nested", "dotted", "digits", "zero byte", "no float"],
)
def test_a_hostile_configuration_is_refused_in_words(tmp_path, text):
    """Depth, length and size have limits of their own, and each is a ConfigError that names the file."""
    path = tmp_path / "limpet.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"limpet\.toml"):
        load_config(path)


def test_a_kind_that_is_no_word_breaks_only_its_source(place):
    """A list where the kind belongs is a wrong source, not the end of the agent."""
    path = place / "limpet.toml"
    path.write_text(path.read_text() + "\n[sources.odd]\nkind = []\n[sources.worse]\nkind = {}\n")
    good, broken = load_sources(load_config(path), path)
    assert set(good) == {"machine"}
    assert "kind = [] is not allowed" in broken["odd"]
    assert "kind = {} is not allowed" in broken["worse"]


def test_a_pipe_among_the_pipelines_is_not_waited_for(place):
    """A FIFO where a file belongs would hold the start for ever."""
    os.mkfifo(place / "pipes" / "b.toml")
    (place / "pipes" / "c.toml").symlink_to("c.toml")
    good, broken = load_pipelines([place / "pipes"])
    assert [file.config.name for file in good] == ["machine"]
    assert "no regular file" in broken["b"]
    assert "symbolic links" in broken["c"]


def test_two_broken_files_of_one_name_are_both_named(tmp_path):
    """One reason does not hide the other."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "eye.toml").write_text("schema = 7")
    _, broken = load_pipelines([tmp_path / "one", tmp_path / "two"])
    assert len(broken) == 2


# --- hostile models ---------------------------------------------------------------------------------------------------


def test_odd_model_folders_give_reasons(tmp_path):
    """Pipes, links to themselves, names beyond any limit: a ModelError each."""
    make_model(tmp_path / "good", "copy", "onnx")
    (tmp_path / "loop").symlink_to("loop")
    make_model(tmp_path / "looped", "copy", "onnx")
    file = tmp_path / "looped" / load_manifest(tmp_path / "looped").artifacts[0].file
    file.unlink()
    file.symlink_to(file.name)
    piped = tmp_path / "piped"
    make_model(piped, "copy", "onnx")
    text = (piped / "model.toml").read_text()
    (piped / "model.toml").write_text('labels_file = "labels.txt"\n' + text)
    os.mkfifo(piped / "labels.txt")
    assert [found.folder.name for found in installed([tmp_path]) if found.manifest] == ["good", "looped"]
    with pytest.raises(ModelError, match="no regular file"):
        load_manifest(piped)
    looped = load_manifest(tmp_path / "looped")
    with pytest.raises(ModelError, match="cannot be read"), verified(looped, looped.artifacts[0]):
        pass
    with pytest.raises(ModelError, match="cannot be read"):
        find(tmp_path / "loop", [])
    with pytest.raises(ModelError, match="too long"):
        find("a" * 300, [tmp_path])


def test_a_damaged_npz_is_refused(tmp_path):
    """Wherever the damage lies: a ModelError with the file's name."""
    sound = next(MODELS.glob("vibration/golden/*.npz")).read_bytes()
    path = tmp_path / "one.npz"
    for at in range(0, len(sound), 3):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        try:
            read_npz(path)
        except ModelError as exc:
            assert "one.npz" in str(exc)


# --- hostile surroundings ---------------------------------------------------------------------------------------------

VIBRATION = MODELS / "vibration"
RECORDING = VIBRATION / "demo.csv"


def in_shell(line, **names):
    """A shell runs `line`, in which $limpet is the command."""
    words = {"limpet": f"{sys.executable} -P -m agent", **names}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{k: str(v) for k, v in words.items()}}
    bash = ["bash", "-c", line]
    return subprocess.run(bash, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("verb", ["infer $model $file", "replay --pipeline $pipeline $file", "models list"])
def test_a_full_disk_under_the_output_is_said(verb):
    """One line and status 1, not a traceback."""
    names = {"model": VIBRATION, "file": RECORDING, "pipeline": PIPELINES / "vibration.toml"}
    said_well(in_shell(f"$limpet {verb} > /dev/full", **names), 1, "output: No space left on device")


@pytest.mark.parametrize("verb", ["infer $model $file", "replay --pipeline $pipeline $file", "models list"])
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_hurt_no_command(verb, closed):
    """Whatever the caller closed, the command does its work."""
    names = {"model": VIBRATION, "file": RECORDING, "pipeline": PIPELINES / "vibration.toml"}
    said_well(in_shell(f"$limpet {verb} {closed}", **names), 0)


def test_an_agent_without_streams_runs_and_keeps_its_files_off_their_numbers(place):
    """Nothing that prints to standard error may print into the outbox."""
    done = in_shell(
        "$limpet run --config $config 0<&- 1>&- 2>&- & child=$!;"
        "for i in {1..100}; do [ -S $folder/run/control.sock ] && break; sleep 0.1; done;"
        "ls -l /proc/$child/fd/{0,1,2}; kill -TERM $child; wait $child",
        config=place / "limpet.toml", folder=place,
    )  # fmt: skip
    said_well(done, 0)
    assert done.stdout.count("/dev/null") == 3


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_names_that_are_no_text_come_out_as_valid_json(tmp_path, encoding):
    """A name that is not UTF-8 is escaped, and a reader gets the very name back."""
    for name in (b"b\xff.csv", "spa ce \u00e9\u6f22.csv".encode()):
        path = str(tmp_path / os.fsdecode(name))
        shutil.copy(RECORDING, path)
        done = limpet("infer", VIBRATION, path, "--json", env={"PYTHONIOENCODING": encoding}, encoding="utf-8")
        said_well(done, 0)
        assert json.loads(done.stdout)["file"] == path


def test_a_user_who_may_not_see_the_outbox_asks_the_agent(place):
    """The folder is the agent's alone: the command asks through the socket, and says when nobody answers."""
    (place / "outbox").mkdir(mode=0)
    said_well(powerless("outbox", "stats", "--config", place / "limpet.toml"), 2, "no agent answers")


def test_a_port_that_does_not_exist_is_said():
    """Neither a traceback nor another port."""
    with pytest.raises(ConfigError, match="port 99999 cannot be used: there are 0 to 65535"):
        make_server({}, 99999)


def test_a_file_name_that_is_no_text_does_not_silence_the_agent(tmp_path):
    """What is left out is told to the readers too: a name that nobody can send must not stop the uplink."""
    with site(tmp_path) as made:
        made.add("machine", PIPELINES / "machine.toml", kind="load", interval_s=0.2)
        made.add("other", tmp_path / os.fsdecode(b"odd\xff.toml"), kind="load")
        config, _ = made.write()
        folder = tmp_path / "pipes"
        folder.mkdir()
        (folder / os.fsdecode(b"odd\xff.toml")).write_text("schema = 7")
        odd = json.dumps(str(made.parts[1].pipeline))
        config.write_text(config.read_text().replace(odd, json.dumps(str(folder))))
        with running(config, tmp_path / "agent.log"):
            said = status(made.socket, lambda s: s["uplink"]["acked_messages"] >= 1)
    assert said["health"] == "degraded"
    assert any(reason.startswith("pipeline odd\\udcff: ") for reason in said["reasons"])


def test_half_a_character_as_the_name_of_a_value_is_a_bad_line():
    """JSON can spell what no text can hold; a hostile sensor must not put it into an event."""
    parser = LineParser(LineFormat(format="json"))
    assert parser.parse(b'{"\\ud800": 1}') is None
    assert parser.bad_lines == 1
    row = parser.parse(b'{"\\ud83d\\ude00": 1}')
    assert row is not None
    assert parser.channels[0].name == "\N{GRINNING FACE}"


def test_an_array_with_a_torn_header_is_refused(tmp_path):
    """Whatever byte of the header is wrong: a CaptureError with the file's name, or an array."""
    path = tmp_path / "one.npy"
    np.save(path, np.zeros((4, 5), np.float32))
    sound = path.read_bytes()
    for at in range(128):
        for wrong in (0, 1, 0x28, 0xFF):
            path.write_bytes(sound[:at] + bytes([wrong]) + sound[at + 1 :])
            try:
                with file_source(path, "tensor", SystemClock()) as source:
                    source.read(1.0)
            except CaptureError as exc:
                assert "one.npy" in str(exc)


def test_a_closed_terminal_ends_the_demo_and_everything_it_started(tmp_path):
    """SIGHUP: no broker, no agent, no page goes on, and no key stays in the temporary folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-P", "-m", "agent", "demo", "60s", "--lines"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            assert any(b"sealed" in line for line in child.stdout)  # the first event: all is running
        finally:
            child.send_signal(signal.SIGHUP)
        child.wait(30)
    assert child.returncode == 0
    left = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert [command for command in left if os.fsencode(tmp_path) in command] == []
    assert list(tmp_path.glob("limpet-*")) == []


def test_a_demo_without_a_place_for_its_files_says_so():
    """No temporary folder can be written: one line with the remedy."""
    said_well(in_shell("ulimit -f 0; $limpet demo 1s"), 2, "no temporary folder", "set TMPDIR")


def test_no_runtime_reports_to_its_maker(tmp_path):
    """ONNX Runtime keeps its telemetry session in the temporary folder: with the agent it starts none."""
    said_well(limpet("infer", MODELS / "series", RECORDING, env={"TMPDIR": str(tmp_path)}), 0)
    assert list(tmp_path.iterdir()) == []

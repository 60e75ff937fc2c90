"""What commands are handed to: the updater's spool, shutters of sources, the newest log lines."""

import base64
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest

from agent.app.errands import Errands
from agent.clock import SystemClock
from agent.commands import diagnostics, snapshot
from agent.commands.configure import SetConfig
from agent.commands.updates import Updates, operations
from agent.config import Config
from agent.errors import CommandError, UpdateError
from agent.journal import Command
from agent.logs import Redactor
from agent.progress import Progress
from agent.records import Channel, Sample
from agent.settings.commands import CommandsConfig
from agent.settings.uplink import UplinkConfig
from agent.updates.jobs import Book, Job, cancelled
from agent.updates.spool import work_local
from pipelines.image import decode_image


def _command(id_="r1", operation="update", **args):
    return Command(Progress(id_, operation, "executing"), "d" * 64, b"12345678", "ann", "technician", 1, 1, 2, args)


# --- updates --------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path):
    for name in ("spool", "depot", "depot/jobs"):
        (tmp_path / name).mkdir()
    return tmp_path / "spool", tmp_path / "depot"


def test_a_job_is_left_whole_with_the_requests_id(places):
    """Readable by the updater's group and by nobody else; the agent itself is a release."""
    for model, do in (("keywords", "update"), ("@agent", "release")):
        Updates(*places, "update").begin(_command(model=model, version="1.1.0", sha256="a" * 64))
        path = places[0] / "r1.json"
        job = Job.decode(path.read_bytes(), "job")
        assert (job.id, job.do, job.model, job.version, job.sha256) == ("r1", do, model, "1.1.0", "a" * 64)
        assert path.stat().st_mode & 0o777 == 0o640


def test_after_a_restart_a_job_that_was_never_left_is_left_and_one_that_lies_there_is_not_touched(places):
    """Power may go between the row and the file: the id makes leaving it again harmless."""
    handler, command = Updates(*places, "update"), _command(model="keywords")
    assert handler.resume(command).status == "executing"
    path = places[0] / "r1.json"
    stamp = path.stat().st_mtime_ns
    assert Updates(*places, "update").resume(command).status == "executing"
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    (places[1] / "jobs/r1.json").write_bytes(Progress("r1", "update", "probation").encode())
    assert Updates(*places, "update").resume(command).status == "probation"
    assert not path.exists()


def test_each_change_of_the_progress_is_told_once(places):
    """By the stamp of the file alone; what cannot be read ends the command in words."""
    handler, command, path = Updates(*places, "update"), _command(model="keywords"), places[1] / "jobs/r1.json"
    assert handler.follow(command) is None
    book = Book(places[1])
    book.write(Progress("r1", "update", "download", 1, done_bytes=5, total_bytes=9), durable=True)
    move = handler.follow(command)
    assert (move.status, move.done_bytes, move.total_bytes) == ("download", 5, 9)
    assert handler.follow(command) is None
    path.write_bytes(b"{")
    with pytest.raises(CommandError, match="cannot be read"):
        handler.follow(command)


def test_a_cancel_takes_the_job_back_or_asks_the_updater(places):
    """True only when the updater has never seen it."""
    handler, command = Updates(*places, "update"), _command(model="keywords")
    handler.begin(command)
    assert handler.cancel(command)
    assert not list(places[0].glob("*.json"))
    handler.begin(command)
    Book(places[1]).write(Progress("r1", "update", "download"), durable=True)
    assert not handler.cancel(command)
    assert cancelled(places[0], "r1")


def test_without_an_updater_the_command_fails_in_words(tmp_path):
    """A spool that is not there, and one that may not be written."""
    with pytest.raises(CommandError, match="no updater takes jobs"):
        Updates(tmp_path / "none", tmp_path, "update").begin(_command(model="keywords"))
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool/r1.json.new").mkdir()
    with pytest.raises(UpdateError, match="cannot be left"):
        Updates(tmp_path / "spool", tmp_path, "update").begin(_command(model="keywords"))


@pytest.mark.parametrize(("do", "args", "status"), [
    ("pin", {"model": "keywords"}, "successful"), ("unpin", {"model": "keywords"}, "successful"),
    ("rollback", {"model": "keywords"}, "failed"), ("activate", {"model": "keywords", "version": "9.9.9"}, "failed"),
])  # fmt: skip
def test_the_real_updater_takes_what_is_left_and_its_end_is_told(places, do, args, status):
    """Its own code, on an empty depot: pins are done, a way back that is not there fails with its reason."""
    handler, command = Updates(*places, do), _command(operation=do, **args)
    handler.begin(command)
    work_local(places[1], places[0], Book(places[1]))
    move = handler.follow(command)
    assert move.status == status, move
    assert bool(move.reason) == (status == "failed")
    assert not list(places[0].glob("*.json"))


def test_only_an_admin_takes_back_what_the_device_has_learnt(places):
    """activate lowers the floor and clears bad marks; the other operations on models do neither."""
    table = operations(*places, 60.0)
    assert {name for name, operation in table.items() if not operation.allows("technician")} == {"activate"}
    assert table["activate"].allows("admin")


def test_arguments_name_models_and_versions_and_nothing_else(places):
    """A path, a glob or a word of the shell is none."""
    update = operations(*places, 60.0)["update"]
    assert update.read({"model": "keywords", "version": "1.1.0-rc.1"}, "update").model == "keywords"
    for bad in ("../etc", "Key", "a b", "*", "", "a" * 65):
        with pytest.raises(CommandError):
            update.read({"model": bad}, "update")
    with pytest.raises(CommandError):
        update.read({"model": "keywords", "version": "latest"}, "update")


# --- snapshots ------------------------------------------------------------------------------------------------------


def _sample(data, modality, seq=0, t_s=0.0, **more):
    return Sample("s", seq, t_s, t_s, 1.0, modality, data, **more)


def _taken(samples, seconds=1.0):
    shutter = snapshot.Shutter()
    shutter.open(seconds)
    for sample in samples:
        assert shutter.put(sample)
    return shutter.taken()


def test_the_largest_picture_of_pure_noise_still_fits(places):
    """Smaller and coarser until it does; a plain one keeps its size."""
    noise = np.random.default_rng(1).integers(0, 255, (1080, 1920, 3), np.uint8)
    shown = snapshot.media(_taken([_sample(noise, "image")]), 1920)
    data = base64.b64decode(shown["base64"])
    assert len(data) <= snapshot.MEDIA_BYTES
    assert decode_image(data, "noise").shape == (shown["height"], shown["width"], 3)
    plain = snapshot.media([_sample(np.full((480, 640), 7, np.uint8), "image")], 640)
    assert (plain["width"], plain["height"]) == (640, 480)


def test_sound_and_rows_stop_at_what_was_asked_or_at_what_fits():
    """Seconds of the stream, and never more than the limit."""
    second = np.zeros(16000, np.int16)
    clip = _taken([_sample(second, "audio", n, float(n), rate_hz=16000.0) for n in range(9)], 2.0)
    assert snapshot.media(clip, 0)["seconds"] == 2.0
    long = _taken([_sample(second, "audio", n, float(n), rate_hz=16000.0) for n in range(9)], 9.0)
    assert len(base64.b64decode(snapshot.media(long, 0)["base64"])) <= snapshot.MEDIA_BYTES
    channels = (Channel("x", "m/s2"), Channel("y", "m/s2"))
    rows = [_sample(np.array([n, math.nan]), "series", n, n / 100, channels=channels) for n in range(20_000)]
    shown = snapshot.media(_taken(rows, 0.5), 0)
    assert shown["channels"] == [["x", "m/s2"], ["y", "m/s2"]]
    assert shown["rows"][3] == [0.03, 3.0, None]
    assert 50 <= len(shown["rows"]) <= 52
    assert len(json.dumps(snapshot.media(_taken(rows, 10.0), 0))) < 128 * 1024


def test_a_shutter_that_nobody_opened_keeps_nothing():
    """And one that was opened is not opened by a second command; who cancels lets go."""
    shutter = snapshot.Shutter()
    assert shutter.put(_sample(np.zeros((4, 4, 3), np.uint8), "image"))
    assert shutter.taken() is None
    events = []
    handler = snapshot.Snapshot({"camera": shutter}, events.append)
    first, second = _command("a", "snapshot", source="camera"), _command("b", "snapshot", source="camera")
    handler.begin(first)
    with pytest.raises(CommandError, match="another snapshot") as caught:
        handler.begin(second)
    assert caught.value.reason == "REJECTED_BUSY"
    assert handler.cancel(first)
    handler.begin(second)
    shutter.put(_sample(np.zeros((4, 4, 3), np.uint8), "image"))
    assert handler.follow(second).status == "successful"
    assert events[0].body == {"request": "b", "source": "camera", "by": "ann"}


def test_there_is_no_picture_of_a_tensor():
    """It is refused, not guessed."""
    with pytest.raises(CommandError, match="tensors"):
        snapshot.media([_sample(np.zeros(8), "tensor")], 640)


# --- diagnostics ----------------------------------------------------------------------------------------------------


def test_the_largest_parts_of_a_status_are_named_instead_of_told():
    """Bounded whatever a device has to say; what cannot be written is left out too."""
    told = diagnostics.fitting({"health": "ok", "big": ["x" * 100] * 1000, "odd": object()})
    assert told["health"] == "ok"
    assert "left out" in told["big"]
    assert "left out" in told["odd"]
    assert len(json.dumps(told)) < diagnostics.STATUS_BYTES


def test_the_newest_lines_that_fit_are_told():
    """Bounded in number, in length and together; the oldest leave first."""
    tail = diagnostics.Tail(logging.Formatter("%(message)s"))
    for number in range(1000):
        tail.handle(logging.LogRecord("x", logging.INFO, "", 0, f"{number} {'é' * 1000}", None, None))
    lines = tail.newest(200)
    assert lines[-1].startswith("999 ")
    assert 5 < len(lines) < 100
    assert len(json.dumps(lines)) <= diagnostics.LOG_BYTES + 2 * len(lines) + 2
    assert tail.newest(0) == []
    assert len(tail.newest(3)) == 3


# --- set-config -----------------------------------------------------------------------------------------------------


class Reconfiguring:
    """Says what the test wants it to say."""

    def __init__(self):
        self.trial, self.ended, self.asked = False, None, []

    def set_config(self, args, job):
        self.asked.append((dict(args), job))
        return "restarts"

    def outcome(self, job):
        return self.ended

    def on_trial(self, job):
        return self.trial


def test_a_change_on_trial_is_told_over_the_restart_and_ends_as_it_was_judged():
    """Kept: successful. Taken back: failed with the reason. Never proposed: interrupted."""
    asked = Reconfiguring()
    handler, command = SetConfig(asked), _command(operation="set-config", settings={"log": {"level": "info"}})
    asked.trial = True
    assert handler.begin(command).status == "probation"
    assert asked.asked == [({"settings": {"log": {"level": "info"}}}, "r1")]
    assert handler.follow(command) is None
    assert handler.resume(command).status == "probation"
    asked.ended = SimpleNamespace(kept=False, reason="ROLLED_BACK", text="not healthy in time")
    assert (handler.resume(command).status, handler.follow(command).reason) == ("failed", "ROLLED_BACK")
    asked.ended = SimpleNamespace(kept=True, reason="", text="kept")
    assert handler.resume(command).status == "successful"
    asked.ended, asked.trial = None, False
    assert handler.resume(command) is None


# --- in the agent ---------------------------------------------------------------------------------------------------


def _errands(tmp_path, protocol="5", **commands):
    config = Config(
        1, commands=CommandsConfig(journal=tmp_path / "commands.db", **commands), uplink=UplinkConfig(protocol=protocol)
    )
    errands = Errands(config, SystemClock(), lambda _name, _text: None, Redactor())
    lanes = errands.open(dict, lambda _draft: None, lambda _why: None, Reconfiguring())
    return errands, lanes


def test_without_a_word_of_the_operator_there_are_no_commands(tmp_path):
    """No lane, no facet, no subscription, no shutter, no database."""
    errands, lanes = _errands(tmp_path)
    assert (lanes, errands.requests, errands.facets(), errands.questions()) == ([], None, {}, {})
    assert errands.shutter("camera") == []
    assert list(tmp_path.iterdir()) == []


def test_what_the_operator_did_not_allow_is_not_offered(tmp_path):
    """Pictures leave the device only when [commands] snapshot says so; a restart can be forbidden."""
    errands, lanes = _errands(tmp_path, enabled=True, restart=False)
    assert [lane.name for lane in lanes] == ["commands"]
    assert not {"snapshot", "restart"} & set(errands.facets()["commands"]["ops"])
    assert errands.shutter("camera") == []
    allowed, _ = _errands(tmp_path, enabled=True, snapshot=True)
    assert {"snapshot", "restart"} <= set(allowed.facets()["commands"]["ops"])
    assert len(allowed.shutter("camera")) == 1


def test_the_facet_says_what_is_weaker_with_the_older_protocol(tmp_path):
    """Nothing with MQTT 5."""
    assert "weaker" not in _errands(tmp_path, enabled=True)[0].facets()["commands"]
    assert "retained" in _errands(tmp_path, "3.1.1", enabled=True)[0].facets()["commands"]["weaker"]

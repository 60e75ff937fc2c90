"""An update from the channel to its verdict, with real repositories, real models and real processes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.depot import AGENT, Pick, Writer, folder_of, read_state, read_token
from agent.errors import UpdateError
from agent.progress import STATUSES, Progress
from agent.release.place import Place
from agent.settings.updates import UpdatesConfig
from agent.updates.choose import choose
from agent.updates.deadline import within
from agent.updates.jobs import BOOK_LIMIT, Book, Job, cancel, drop, waiting
from agent.updates.spool import work_local
from agent.updates.terms import Terms, read_terms
from agent.updates.timer import in_window, place_s
from agent.updates.verdicts import burn, cut_off
from agent.updates.worker import Worker
from tests.repositories import MODELS, Repo, served, versioned
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parent.parent
NAME = "vibration"


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """1.1.0 and 1.2.0 are good, stable offers 1.1.0, beta 1.2.0; 1.3.0 gives wrong answers and is offered nowhere."""
    folder = tmp_path_factory.mktemp("repo")
    made = Repo(folder)
    made.add(_model(folder, "1.1.0"))
    made.add(_model(folder, "1.2.0"), channel="beta")
    made.add(_model(folder, "1.3.0", answer=7.0), channel=None)
    return made


def _model(folder, version, answer=1.0):
    """A tiny model that gives back what it gets; its golden input says that a 1 becomes `answer`."""
    plain = folder / f"plain-{version}"
    make_model(plain, "copy", "onnx", name=NAME)
    (plain / "golden").mkdir()
    np.savez(plain / "golden" / "in.npz", x=np.ones((1, 4), np.float32))
    np.savez(plain / "golden" / "out.npz", y=np.full((1, 4), answer, np.float32))
    with (plain / "model.toml").open("a") as file:
        file.write('[[golden]]\ninput = "golden/in.npz"\noutput = "golden/out.npz"\n')
    return versioned(plain, folder / f"model-{version}", version)


class Site:
    """A device's updater in a folder of its own."""

    def __init__(self, folder, repo, url, /, **settings):
        self.folder = folder  # of everything but perhaps the depot
        (folder / "spool").mkdir()
        (folder / "root.json").write_bytes(repo.root)
        config = UpdatesConfig(
            repository=url, root=folder / "root.json", folder=folder / "depot", spool=folder / "spool",
            token=folder / "token", models=(NAME,), keep_free_mb=0.0,
        )  # fmt: skip
        config = replace(config, **settings)
        self.path = folder / "limpet.toml"
        self.path.write_text("schema = 1\n")
        self.terms = Terms(self.path, config, "site", "device", folder)
        self.depot, self.spool, self.book = config.folder, config.spool, Book(config.folder)
        self.seen = []

    def worker(self, place=None):
        return Worker(self.terms, self.book, MODELS, place)

    def update(self, version="", name=NAME, job="job", **how):
        return self.worker(how.pop("place", None)).run([Job(job, "update", name, version, **how)], self.seen.append)[0]

    def leave(self, do, job, **fields):
        drop(self.spool, Job(job, do, fields.pop("model", NAME), **fields))

    def light(self):
        return work_local(self.depot, self.spool, self.book)

    def model(self, name=NAME):
        return read_state(self.depot).model(name)

    def judge(self, verdict, job="verdict", **fields):
        self.leave("verdict", job, sha256=self.model().trial.sha256, verdict=verdict, **fields)
        assert self.light() == []

    def write(self, **more):
        """A limpet.toml for a process of its own."""
        config = self.terms.updates
        keys = {
            "repository": config.repository, "root": "root.json", "folder": "depot", "spool": "spool", "token": "token",
            "models": [NAME], "keep_free_mb": 0.0,
        } | more  # fmt: skip
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        text = 'schema = 1\n[device]\nsite = "site"\nname = "device"\n[paths]\nruntime = "run"\n[updates]\n'
        self.path.write_text(text + "\n".join(lines) + "\n")

    def command(self, *words):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-P", "-m", "agent", "update", "--config", str(self.path), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def url(repo):
    with served(repo.mirror) as base:
        yield base


@pytest.fixture
def site(tmp_path, repo, url):
    return Site(tmp_path, repo, url)


def test_an_update_goes_from_the_channel_to_probation_and_is_committed_by_the_agents_word(site):
    """Every state in its order, each one version later, all of them on the disk."""
    end = site.update()
    assert (end.status, end.detail["version"]) == ("probation", "1.1.0")
    order = [STATUSES.index(one.status) for one in site.seen]
    assert order == sorted(order)
    assert [one.version for one in site.seen] == list(range(1, len(site.seen) + 1))
    assert {"executing", "download", "verify", "staged", "activate", "probation"} <= {one.status for one in site.seen}
    assert site.book.get("job") == end
    trial = site.model().trial
    assert (trial.tries_left, trial.mode, trial.job) == (2, "live", "job")
    assert (folder_of(site.depot, NAME, trial.pick) / "copy.onnx").is_file()
    site.judge("commit", text="50 inferences", detail={"inferences": 50})
    end = site.book.get("job")
    assert (end.status, end.detail["inferences"]) == ("successful", 50)
    assert (site.model().active, site.model().floor) == (trial.pick, "1.1.0")


def test_a_candidate_that_goes_wrong_is_rolled_back_and_never_taken_again(site):
    """The record remembers it; the timer does not fetch it again either."""
    site.update()
    site.judge("roll_back", reason="PROBATION_FAILED", text="NaN on live input")
    end = site.book.get("job")
    assert (end.status, end.reason) == ("failed", "ROLLED_BACK")
    assert "NaN on live input" in end.text
    again = site.update(job="again")
    assert (again.status, again.reason) == ("failed", "PROBATION_FAILED")
    assert "download" not in {one.status for one in site.seen if one.id == "again"}
    assert [end.operation for end in site.worker().look()] == ["refresh"]


def test_a_clock_that_was_wrong_is_not_held_against_a_candidate(site):
    """Two days after its probation; a clock that was in 1970 when it began and is right now counts from now."""
    site.update()
    trial = site.model().trial
    for since_s, stays in ((1000.0, True), (time.time() - 86400, True), (time.time() - 4 * 86400, False)):
        with Writer(site.depot) as writer:
            writer.save(writer.state.counted_from(NAME, trial.sha256, since_s))
        site.worker().look()
        assert bool(site.model().trial) is stays, since_s
    assert site.book.get("job").reason == "ROLLED_BACK"
    assert "nobody judged it" in site.book.get("job").text


def test_the_same_verdict_twice_changes_nothing(site):
    """The broker, the agent and a power cut may all repeat it."""
    site.update()
    sha256 = site.model().trial.sha256
    site.judge("commit")
    before = read_state(site.depot)
    for verdict in ("commit", "roll_back"):
        site.leave("verdict", f"late-{verdict}", sha256=sha256, verdict=verdict)
    assert site.light() == []
    assert read_state(site.depot) == before


def test_an_id_never_runs_twice(site):
    """It answers with what became of it."""
    first = site.update()
    site.judge("roll_back")
    site.seen.clear()
    assert site.update(version="1.2.0").detail == site.book.get("job").detail
    assert site.seen == []
    assert first.id == "job"


def test_a_version_that_is_active_is_a_success_without_a_download(site):
    """Asking twice does no harm."""
    site.update()
    site.judge("commit")
    end = site.update(job="again")
    assert (end.status, site.model().trial) == ("successful", None)


def test_a_newer_update_takes_the_place_of_a_candidate(site):
    """The first job says so; nothing is held against its version."""
    site.update()
    end = site.update(version="1.2.0", job="second")
    assert end.status == "probation"
    assert site.book.get("job").reason == "SUPERSEDED"
    assert not site.model().bad


def test_a_model_that_fails_its_test_is_never_activated_and_is_remembered(site):
    """The record knows it as bad, the disk is clean, what ran goes on running."""
    end = site.update(version="1.3.0")
    assert (end.status, end.reason) == ("failed", "VERIFY_FAILED")
    assert "golden/in.npz" in end.text
    assert "activate" not in {one.status for one in site.seen}
    assert [bad.version for bad in site.model().bad] == ["1.3.0"]
    assert not list((site.depot / "models").rglob("*.onnx"))
    assert site.update(version="1.3.0", job="again").reason == "PROBATION_FAILED"


@pytest.mark.parametrize("status", ["executing", "download", "verify", "staged"])
def test_a_cancel_is_accepted_up_to_staged(site, status):
    """At the next change of state; nothing is activated."""

    def told(progress):
        if progress.status == status:
            cancel(site.spool, "job")

    end = site.worker().run([Job("job", "update", NAME)], told)[0]
    assert (end.status, end.reason) == ("failed", "CANCELED")
    assert site.model().trial is None


def test_a_cancel_after_activation_comes_too_late(site):
    """Only a rollback leads back then."""
    site.update()
    cancel(site.spool, "job")
    site.light()
    assert site.book.get("job").status == "probation"


KILLED = """
import os, signal, sys
from pathlib import Path
from agent.updates.jobs import Book, Job
from agent.updates.terms import read_terms
from agent.updates.worker import Worker

def told(progress):
    if progress.status == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

terms = read_terms(Path(sys.argv[1]))
terms.updates.folder.mkdir()
book = Book(terms.updates.folder)
job = Job("job", "update", "vibration")
if sys.argv[2] == "init":
    told(book.open(job).progress)
Worker(terms, book, None).run([job], told)
"""


@pytest.mark.parametrize("status", ["init", "executing", "download", "verify", "staged", "activate", "probation"])
def test_a_job_that_is_killed_in_any_state_is_taken_up_and_ends(site, status):
    """By the next run of the updater, without being asked again."""
    site.write()
    done = subprocess.run([sys.executable, "-c", KILLED, str(site.path), status], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    site.worker().work()
    assert site.book.get("job").status == "probation"
    assert site.model().trial.job == "job"
    site.judge("commit")
    assert site.book.get("job").status == "successful"


def test_a_job_that_is_broken_off_again_and_again_is_given_up(site):
    """A machine that dies while it tries a candidate does not try it for ever."""
    track = site_track(site)
    track.move("staged", resumed=3)
    site.worker().work()
    end = site.book.get("job")
    assert (end.status, end.reason) == ("failed", "INTERRUPTED")


def site_track(site):
    site.depot.mkdir(exist_ok=True)
    return site.book.open(Job("job", "update", NAME))


def test_a_pin_that_was_broken_off_is_not_done_twice(site):
    """Nobody knows how far it came: it says what is so now."""
    site.depot.mkdir()
    site.book.open(Job("job", "rollback", NAME)).move("executing")
    assert cut_off(read_state(site.depot), site.book) == []
    assert site.book.get("job").status == "executing", "perhaps another process is at it"
    site.book.now_s = lambda: time.time() + 100
    assert cut_off(read_state(site.depot), site.book) == []
    end = site.book.get("job")
    assert (end.reason, end.text) == ("INTERRUPTED", "it was broken off; now vibration runs the factory model")


def test_a_commit_whose_answer_was_lost_is_answered_from_the_record(site):
    """Killed between the record and the book."""
    site.update()
    with Writer(site.depot) as writer:
        writer.save(writer.state.commit(NAME, writer.state.model(NAME).trial.sha256))
    assert cut_off(read_state(site.depot), site.book) == []
    assert site.book.get("job").status == "successful"


def test_tries_that_run_out_before_a_start_end_the_job_too(site):
    """What limpet-try.service does: two starts after the swap, then the third rolls back."""
    site.update()
    for _ in range(2):
        assert burn(site.depot, site.book).model(NAME).trial
    assert burn(site.depot, site.book).model(NAME).trial is None
    assert site.book.get("job").reason == "ROLLED_BACK"


def test_a_candidate_that_nobody_judges_goes_back_in_the_end(site):
    """Days after its probation: each state has an end."""
    site.update()
    site.book.now_s = lambda: time.time() + 10 * 86400
    site.worker().look()
    assert site.model().trial is None
    assert "nobody judged it" in site.model().bad[0].reason


def test_an_update_beside_another_is_refused_as_busy(site):
    """One process works, the other says so and changes nothing."""
    site.write()
    inside = threading.Event()
    leave = threading.Event()

    def told(progress):
        if progress.status == "download":
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=lambda: site.worker().run([Job("job", "update", NAME)], told))
    thread.start()
    assert inside.wait(30)
    done = site.command(NAME, "--version", "1.2.0")
    leave.set()
    thread.join()
    assert done.returncode == 1
    assert "another update is running" in done.stderr
    assert site.model().trial.version == "1.1.0"


def test_two_processes_at_once_bring_one_update(site):
    """Started together: whatever the order, there is one trial and no damage."""
    site.write()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "agent", "update", "--config", str(site.path), NAME]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = sorted((process.wait(60), process.stderr.read()) for process in both)
    assert ends[0][0] == 0
    assert ends[1][0] == 1
    assert "another update is running" in ends[1][1] or "on probation already" in ends[1][1]
    assert site.model().trial.version == "1.1.0"
    assert not read_state(site.depot).damaged


def test_a_verdict_does_not_wait_for_the_download_of_something_else(site, repo, tmp_path):
    """It is carried out in the midst of it."""
    site.update()
    sha256 = site.model().trial.sha256
    seen = []

    def told(progress):
        if progress.status == "download" and not seen:
            site.leave("verdict", "verdict", sha256=sha256, verdict="commit")
            seen.append(progress)

    site.worker().run([Job("second", "update", NAME, "1.2.0")], told)
    assert site.book.get("job").status == "successful"
    assert site.model().active.version == "1.1.0"


def test_a_refusing_server_ends_the_job_and_keeps_what_runs(site):
    """No connection: a terminal state with its reason."""
    site.terms = replace(site.terms, updates=replace(site.terms.updates, repository="http://127.0.0.1:9"))
    end = site.update()
    assert (end.status, end.reason) == ("failed", "DOWNLOAD_FAILED")
    assert site.model().active is None


def test_without_a_trust_anchor_nothing_is_taken_and_the_jobs_are_answered(site):
    """It fails closed and says why; the spool is empty, so that the unit does not start again and again."""
    (site.folder / "root.json").unlink()
    site.leave("update", "job")
    ended = site.worker().work()
    assert [(end.id, end.status) for end in ended] == [("job", "failed")]
    assert "trust anchor" in ended[0].text
    assert list(waiting(site.spool)) == []


def test_a_step_that_hangs_meets_its_deadline():
    """Whatever it hangs in; who set the alarm before gets it back."""
    began_s = time.monotonic()
    with pytest.raises(UpdateError, match=r"the wait took longer than 0\.2 s") as caught, within(0.2, "the wait"):
        time.sleep(30)
    assert caught.value.reason == "TIMED_OUT"
    assert time.monotonic() - began_s < 5
    with within(5, "the outer step"):
        with within(3, "the inner step"):
            time.sleep(0.01)
        left_s, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 3 < left_s < 5


@pytest.fixture
def slow(repo, monkeypatch):
    """A server that hangs at a blob: it takes the connection and says nothing."""
    import http.server

    release = threading.Event()

    class Hanging(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(repo.mirror))

        def do_GET(self):
            if "/blobs/" in self.path:
                release.wait(30)
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        release.set()
        server.shutdown()
        thread.join()


def test_a_server_that_hangs_ends_in_a_terminal_state(tmp_path, repo, slow):
    """In the download: by [updates] download_s."""
    site = Site(tmp_path, repo, slow, download_s=2)
    began_s = time.monotonic()
    end = site.update()
    assert (end.status, end.reason) == ("failed", "TIMED_OUT")
    assert time.monotonic() - began_s < 10


def test_an_update_that_is_too_large_is_refused_before_its_first_byte(tmp_path, repo, url):
    """[updates] size_mb."""
    end = Site(tmp_path, repo, url, size_mb=0.0001).update()
    assert (end.status, end.reason) == ("failed", "NO_SPACE")
    assert end.done_bytes == 0


def test_a_disk_that_is_too_full_is_told_before_the_download(tmp_path, repo, url):
    """[updates] keep_free_mb counts."""
    end = Site(tmp_path, repo, url, keep_free_mb=1e9 / 1e3).update()
    assert (end.status, end.reason) == ("failed", "NO_SPACE")


def test_a_disk_that_fills_half_way_leaves_the_depot_as_it_was(tmp_path, repo, url):
    """A real file system of 8 MB with most of it taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here: " + mounted.stderr.decode().strip())
    try:
        site = Site(tmp_path, repo, url, folder=disk / "depot")
        assert site.update().status == "probation"
        site.judge("commit")
        before = read_state(site.depot)
        for blocks in range(40):
            reason = _on_a_full_disk(site, disk, blocks)
            if site.model().trial:
                break
            assert reason == "NO_SPACE"
            assert read_state(site.depot) == before
        assert blocks > 3
        assert site.model().trial.version == "1.2.0"
        assert site.model().active == before.model(NAME).active
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _on_a_full_disk(site, disk, blocks):
    """Why an update fails when so many blocks of 4096 bytes are left."""
    room = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        file.write(b"x" * ((room.f_bavail - blocks) * room.f_frsize))
    try:
        return site.update(version="1.2.0", job=f"with-{blocks}").reason
    except UpdateError as exc:  # not even the answer finds room
        return exc.reason
    finally:
        (disk / "ballast").unlink()


def test_rot_in_the_depot_is_healed_by_a_refresh_job(site):
    """The agent takes another version meanwhile; the same bytes come back."""
    site.update()
    site.judge("commit")
    active = site.model().active
    path = folder_of(site.depot, NAME, active) / "copy.onnx"
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    site.leave("refresh", "heal", sha256=active.sha256)
    assert [end.status for end in site.worker().work()] == ["successful"]
    assert path.read_bytes() == good
    assert site.model().active == active


def test_going_back_pinning_and_activating_need_no_network(site):
    """Each answered at once; a pinned model refuses an update."""
    site.update()
    site.judge("commit")
    site.update(version="1.2.0", job="second")
    site.judge("commit", "verdict2")
    site.terms = replace(site.terms, updates=replace(site.terms.updates, repository=""))
    for do, version, active in (
        ("rollback", "", "1.1.0"), ("activate", "1.2.0", "1.2.0"), ("pin", "", "1.2.0"), ("unpin", "", "1.2.0"),
        ("activate", "factory", ""),
    ):  # fmt: skip
        job = f"{do}-{version}"
        site.leave(do, job, version=version)
        assert site.light() == []
        end = site.book.get(job)
        assert end.status == "successful", end
        assert (site.model().active.version if site.model().active else "") == active
    site.leave("activate", "nowhere", version="9.9.9")
    site.light()
    assert "limpet update vibration --version 9.9.9" in site.book.get("nowhere").text


def test_a_pinned_model_is_let_be_by_everybody(site):
    """By the timer silently, by a request with a word."""
    site.leave("pin", "pin")
    site.depot.mkdir()
    site.light()
    assert [end.operation for end in site.worker().look()] == ["refresh"]
    end = site.update()
    assert (end.status, end.reason) == ("failed", "REJECTED_UNSUPPORTED")
    assert "unpin" in end.text


def test_the_spool_is_distrusted(site):
    """Rubbish, a name that leads elsewhere, a job under another name, a link, one that is too large."""
    site.depot.mkdir()
    spool = site.spool
    (spool / "rubbish.json").write_text("{")
    (spool / "other.json").write_bytes(Job("name", "pin", NAME).encode())
    (spool / "more.json").write_text(json.dumps({"schema": 1, "id": "more", "do": "format-disk", "model": NAME}))
    (spool / "path.json").write_text(json.dumps({"schema": 1, "id": "../path", "do": "pin", "model": "../../etc"}))
    (spool / "large.json").write_text(" " * 10_000)
    (spool / "pipe.json").symlink_to("/dev/zero")
    assert site.light() == []
    assert [path.name for path in spool.iterdir()] == []
    assert site.book.every() == []


def test_the_book_remembers_long_enough_and_not_for_ever(site):
    """The oldest ended jobs go when there are more than its limit and they are older than a month."""
    site.depot.mkdir()
    for number in range(BOOK_LIMIT + 5):
        site.book.write(Progress(f"j{number}", "pin", "successful", t_wall_s=float(number)), durable=False)
    site.book.write(Progress("running", "update", "download", t_wall_s=0.0), durable=False)
    site.book.trim()
    left = {progress.id for progress in site.book.every()}
    assert len(left) == BOOK_LIMIT + 1
    assert {"running", f"j{BOOK_LIMIT + 4}"} <= left
    assert "j0" not in left


def test_trust_and_settings_come_with_every_look_and_bad_ones_are_refused(tmp_path):
    """A bad list leaves the old one in force; a layer that is withdrawn goes, a list of revoked keys never does."""
    repo = Repo(tmp_path / "repo")
    lists = dict.fromkeys(("technicians", "revoked"), b'{"keys":[],"schema":1}')
    for name, data in lists.items():
        repo.put(f"trust/{name}.json", data)
    repo.put("config/base.toml", b"schema = 1\n")
    repo.put("config/device-site-device.toml", b"schema = 1\n[log]\nlevel = 'warning'\n")
    repo.put("config/device-site-other.toml", b"schema = 1\n")
    with served(repo.mirror) as url:
        site = Site(tmp_path, repo, url, models=())
        assert [end.status for end in site.worker().look()] == ["successful"]
        layers = sorted(path.name for path in (site.depot / "config").iterdir())
        assert layers == ["base.toml", "device-site-device.toml"]
        repo.put("trust/technicians.json", b'{"keys":"everybody","schema":1}')
        repo.put("config/base.toml", b"this is no toml")
        repo.do(lambda publisher: publisher.drop("trust/revoked.json"))
        repo.do(lambda publisher: publisher.drop("config/device-site-device.toml"))
        site.worker().look()
    assert (site.depot / "trust" / "technicians.json").read_bytes() == lists["technicians"]
    assert (site.depot / "trust" / "revoked.json").read_bytes() == lists["revoked"]
    assert [path.name for path in (site.depot / "config").iterdir()] == ["base.toml"]
    assert (site.depot / "config" / "base.toml").read_bytes() == b"schema = 1\n"


def test_a_fleet_layer_chooses_the_channel(tmp_path, repo, url):
    """The few keys of [updates] that may be changed from afar count for the updater too; others do not."""
    site = Site(tmp_path, repo, url)
    (site.depot / "config").mkdir(parents=True)
    (site.depot / "config" / "base.toml").write_text('schema = 1\n[updates]\nchannel = "beta"\n')
    site.write()
    site.terms = read_terms(site.path)
    assert site.worker()._device().config.channel == "beta"
    (site.depot / "config" / "base.toml").write_text('schema = 1\n[updates]\nrepository = "https://evil.example"\n')
    assert site.worker()._device().config.repository == url


def test_beta_takes_the_newest_of_both_channels(tmp_path, repo, url):
    """1.2.0 is offered by beta only."""
    ended = Site(tmp_path, repo, url, channel="beta").worker().look()
    assert [(end.operation, end.detail.get("version")) for end in ended][1:] == [("update", "1.2.0")]


def test_the_timer_keeps_the_window_but_fetches_trust_at_any_time(tmp_path, repo, url):
    """A window that is closed now."""
    hour = (time.localtime().tm_hour + 12) % 24
    site = Site(tmp_path, repo, url, window=f"{hour:02d}:00-{hour:02d}:01")
    site.leave("timer", "timer", model="")
    assert [end.operation for end in site.worker().work()] == ["refresh"]
    assert site.model().trial is None
    site.leave("update", "asked")
    assert [end.status for end in site.worker().work()] == ["probation"], "requests do not wait"


def test_a_rollout_takes_a_device_in_by_its_name(tmp_path):
    """At 50 % some devices of a fleet, always the same; none at 0 %."""
    repo = Repo(tmp_path / "repo")
    repo.add(_model(tmp_path, "1.1.0"), rollout=50)
    with served(repo.mirror) as url:
        site = Site(tmp_path, repo, url)
        taken = []
        with site.worker()._alone(patient=False), site.worker()._flow() as flow:
            flow.source.refresh()
            for number in range(40):
                device = replace(site.worker()._device(), device=f"device-{number}")
                taken.append(site.worker()._due(device, flow, NAME) is not None)
    assert 8 < sum(taken) < 32


def test_a_device_keeps_its_place_in_the_jitter():
    """Spread over the whole time, the same at every call."""
    places = [place_s("site", f"device-{n}", 1800) for n in range(1000)]
    assert places == [place_s("site", f"device-{n}", 1800) for n in range(1000)]
    assert all(0 <= place < 1800 for place in places)
    assert all(sum(low <= place < low + 180 for place in places) > 50 for low in range(0, 1800, 180))


def test_the_window_may_span_midnight():
    """Its end does not belong to it."""
    at = lambda hour, minute: time.struct_time((2026, 1, 1, hour, minute, 0, 0, 1, 0))  # noqa: E731
    assert [in_window("22:30-05:00", at(*t)) for t in ((22, 29), (22, 30), (0, 0), (4, 59), (5, 0))] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert [in_window("02:00-03:00", at(*t)) for t in ((1, 59), (2, 0), (3, 0))] == [False, True, False]
    assert in_window("", at(12, 0))


def test_the_timer_says_why_it_lets_a_model_be(site):
    """Up to date, older than the floor, bad."""
    site.update()
    site.judge("commit")
    model = site.model()
    assert choose(NAME, model, "1.1.0").text == "vibration: 1.1.0 is up to date"
    assert choose(NAME, replace(model, active=None), "1.0.0").text.endswith("older than 1.1.0, which ran here")
    assert choose(NAME, model, "1.2.0").version == "1.2.0"
    assert choose(NAME, replace(model, active=None), "1.0.0", "1.0.0").text.endswith("is up to date")


@pytest.mark.parametrize("packed", [False, True])
def test_an_update_comes_from_a_stick_too(tmp_path, repo, packed):
    """A folder or a tar file, by the same checks and without a network."""
    place = repo.mirror
    if packed:
        place = tmp_path / "stick.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(repo.mirror, "repository")
    site = Site(tmp_path, repo, "")
    assert site.update(place=place).status == "probation"
    assert not (site.depot / "parts" / "stick").exists()


def test_a_stick_with_something_else_on_it_is_refused(tmp_path, repo):
    """A changed blob, a repository of another owner, a tar file that leads out, no repository at all."""
    site = Site(tmp_path, repo, "")
    changed = tmp_path / "changed"
    shutil.copytree(repo.mirror, changed)
    for blob in (changed / "blobs").iterdir():
        blob.write_bytes(b"x" * blob.stat().st_size)
    assert site.update(place=changed, job="changed").reason in ("VERIFY_FAILED", "DOWNLOAD_FAILED")
    other = Repo(tmp_path / "other")
    other.add(_model(tmp_path, "9.0.0"))
    end = site.update(place=other.mirror, job="other")
    assert end.status == "failed"
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        archive.add(repo.root and repo.mirror, "../../out")
    with pytest.raises(UpdateError, match="cannot be read as a repository"):
        site.update(place=evil, job="evil")
    with pytest.raises(UpdateError):
        site.update(place=tmp_path / "missing", job="missing")
    assert not (tmp_path / "out").exists()
    assert site.model().trial is None


def test_a_release_of_the_agent_takes_the_same_way_up_to_its_trial(tmp_path, repo):
    """Put beside the models, on probation under the agent's own name; installing it is root's step."""
    wheels = tmp_path / "release"
    wheels.mkdir()
    for name in ("limpet_agent-9.9.9-py3-none-any.whl", "other-1.0-cp27-cp27m-win32.whl"):
        (wheels / name).write_bytes(name.encode())
    made = Repo(tmp_path / "repo")
    package = made.add_agent(wheels, "9.9.9")
    with served(made.mirror) as url:
        site = Site(tmp_path, made, url)
        assert site.worker().run([Job("early", "release", AGENT)])[0].reason == "REJECTED_UNSUPPORTED", "a checkout"
        (tmp_path / "opt").mkdir()
        (tmp_path / "opt" / "current").symlink_to("releases/1.0.0-0123456789ab")
        worker = Worker(site.terms, site.book, MODELS, None, Place(tmp_path / "opt"))
        end = worker.run([Job("job", "release", AGENT)], site.seen.append)[0]
    pick = Pick("9.9.9", hashlib.sha256(package.encode()).hexdigest())
    assert (end.status, read_state(site.depot).agent.trial.pick) == ("probation", pick)
    there = {path.name for path in folder_of(site.depot, AGENT, pick).iterdir()}
    assert there == {"limpet_agent-9.9.9-py3-none-any.whl", "package.json"}


def test_the_command_tells_each_state_and_its_exit_status_tells_the_end(site):
    """Lines without a terminal, JSON when asked; the second time it is on probation already."""
    site.write()
    done = site.command(NAME)
    assert done.returncode == 0, done.stderr
    assert "vibration 1.1.0: staged" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("vibration 1.1.0: probation")
    again = site.command(NAME, "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout.splitlines()[-1])["reason"] == "REJECTED_BUSY"
    status = site.command("--status", "--json")
    assert json.loads(status.stdout)["models"][NAME]["trial"].startswith("1.1.0")
    assert site.command("--status").stdout.startswith("vibration")


def test_burning_takes_the_old_token_away_first_and_writes_the_new_one_last(site):
    """A burn that fails leaves no token, so the agent runs what was committed."""
    site.write()
    assert site.command("--burn").returncode == 0, "a device that never had an update starts too"
    assert read_token(site.folder / "token") is None
    site.update()
    assert site.command("--burn").returncode == 0
    token = read_token(site.folder / "token")
    state = read_state(site.depot)
    assert token == state.generation
    assert site.model().chosen(token) == site.model().trial.pick
    (site.depot / "record.lock").unlink()
    (site.depot / "record.lock").mkdir()  # stands for any disk that refuses
    done = site.command("--burn")
    assert done.returncode == 1
    assert site.model().chosen(read_token(site.folder / "token")) is None


def test_a_wrong_word_on_the_command_line_or_in_the_file_is_told(site):
    """Exit status 2, with the file and the key."""
    site.write(tries="three")
    done = site.command("--burn")
    assert done.returncode == 2
    assert "tries" in done.stderr
    site.write()
    assert site.command("--jobs", NAME).returncode == 2
    assert site.command("--version", "1.0.0").returncode == 2

"""Releases of the agent: where they lie, what root is asked for and what it grants, and the way back."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.depot import AGENT, Bad, ModelState, Pick, Trial, Writer, read_state
from agent.errors import UpdateError
from agent.health import Health
from agent.release.follow import follow, runs_trial
from agent.release.place import Place, own_release, release_id
from agent.release.standing import Standing, Watcher
from agent.release.switch import Switch
from agent.release.units import DROP_IN, install, wanted
from agent.release.wheels import needed
from agent.release.wish import Answer, Wish, answer, leave, next_wish, read_answer, take
from agent.settings.updates import UpdatesConfig
from agent.updates.jobs import Book, Job, waiting
from agent.updates.verdicts import judge

SHA = "ab" * 32
OTHER = "cd" * 32
NEW = release_id("0.2.0", SHA)
TRY = Wish("try", NEW, "0.2.0", SHA, "job")
OLD = "0123456789ab"


def on_trial(tries_left=2):
    """The record's entry while 0.2.0 is on probation."""
    return ModelState(trial=Trial("0.2.0", SHA, tries_left, "live", "job", 0.0))


@pytest.fixture
def place(tmp_path):
    """Two complete releases; the installer's is current and good."""
    it = Place(tmp_path / "opt")
    for name in (OLD, NEW):
        units = it.folder(name) / "share" / "limpet" / "systemd"
        units.mkdir(parents=True)
        (units / "limpet.service").write_text(f"# of {name}\n")
        (units / "limpet-try.service").write_text(f"# of {name}\n")
        it.seal(name)
    it.point("current", OLD)
    it.point("good", OLD)
    return it


@pytest.mark.parametrize(
    ("path", "python", "machine", "yes"),
    [
        ("wheels/numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", (3, 11), "x86_64", True),
        ("wheels/numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl", (3, 12), "x86_64", False),
        ("wheels/numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl", (3, 11), "x86_64", False),
        ("wheels/numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl", (3, 11), "arm64", True),
        ("wheels/opencv-5.0-cp37-abi3-manylinux_2_28_x86_64.whl", (3, 13), "x86_64", True),
        ("wheels/cryptography-50.0-cp311-abi3-macosx_10_12_x86_64.whl", (3, 11), "x86_64", False),
        ("wheels/limpet_agent-0.2.0-py3-none-any.whl", (3, 14), "aarch64", True),
        ("wheels/pyserial-3.5-py2.py3-none-any.whl", (3, 11), "x86_64", True),
        ("wheels/pyserial-3.5-py2-none-any.whl", (3, 11), "x86_64", False),
        ("wheels/ml_dtypes-0.6.0-1-cp311-cp311-manylinux_2_27_x86_64.whl", (3, 11), "x86_64", True),
        ("share/docs/install.md", (3, 11), "x86_64", True),
    ],
)  # fmt: skip
def test_a_machine_takes_the_wheels_it_can_use(path, python, machine, yes):
    """Other Pythons and processors stay away; whatever is no wheel is taken."""
    assert needed(path, python, machine) is yes


def test_links_move_in_one_step_and_what_no_link_names_goes(place):
    """The three links, and the collection of what is left over."""
    place.point("previous", OLD)
    place.point("current", NEW)
    place.folder("broken").mkdir()
    place.collect()
    assert (place.current, place.good, place.previous) == (NEW, OLD, OLD)
    assert {path.name for path in (place.opt / "releases").iterdir()} == {OLD, NEW}
    assert not [path for path in place.opt.iterdir() if path.name.endswith(".new")]
    place.point("current", OLD)
    place.collect()
    assert not place.complete(NEW)
    assert Place(place.opt / "nowhere").current == ""


def test_a_process_knows_its_release_by_its_own_folder(place):
    """Also when it was started by way of a link; a checkout has none."""
    assert own_release(str(place.opt / "current")) == OLD
    assert own_release("/usr") == ""


def test_what_is_wished_follows_from_record_and_links_alone(place):
    """Probation, the stay, the way back, and the way back after that."""
    assert next_wish(ModelState(), place, None) is None
    assert next_wish(on_trial(), place, None) == TRY
    place.point("current", NEW)
    assert next_wish(on_trial(), place, None) is None
    assert next_wish(ModelState(active=Pick("0.2.0", SHA)), place, None) == Wish("commit", NEW)
    gone = ModelState(bad=(Bad("0.2.0", SHA, "it fell over"),))
    assert next_wish(gone, place, None) == Wish("back", OLD)
    assert next_wish(ModelState(), place, None) == Wish("back", OLD)  # withdrawn
    place.point("previous", OLD)
    place.point("good", NEW)
    assert next_wish(ModelState(active=Pick("0.2.0", SHA)), place, None) is None
    assert next_wish(gone, place, None) == Wish("back", OLD)  # taken back after it was committed
    place.point("previous", NEW)
    assert next_wish(ModelState(active=Pick("0.1.0", OTHER)), place, None) is None  # the operator's own release


def test_a_wish_that_root_refused_is_not_wished_again(place):
    """The same one; another one is."""
    no = Answer(TRY, "VERIFY_FAILED", "not signed")
    assert next_wish(on_trial(), place, no) is None
    assert next_wish(on_trial(), place, Answer(TRY)) == TRY  # granted, and then a power cut
    assert next_wish(ModelState(trial=Trial("0.2.1", OTHER, 2, "live", "job", 0.0)), place, no) is not None
    assert next_wish(ModelState(trial=Trial("0.2.0", SHA, 2, "live", "later", 0.0)), place, no) is not None


def test_wishes_and_answers_come_through_whole(tmp_path):
    """What was left is what is taken, once; the answer can be read by the other side."""
    leave(TRY, tmp_path / "wish.json")
    assert take(tmp_path / "wish.json") == TRY
    assert take(tmp_path / "wish.json") is None
    answer(Answer(TRY, "NO_SPACE", "full"), tmp_path / "answer.json")
    assert read_answer(tmp_path / "answer.json") == Answer(TRY, "NO_SPACE", "full")
    assert read_answer(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "[" * 5000, '{"schema": 2, "do": "back", "release": "x"}',
        json.dumps({"schema": 1, "do": "back", "release": "../../etc"}),
        json.dumps({"schema": 1, "do": "try", "release": NEW, "version": "0.2.0", "sha256": OTHER}),
        json.dumps({"schema": 1, "do": "run", "release": "x"}),
        json.dumps({"schema": 1, "do": "back", "release": "x", "as": "root"}),
        "x" * 20_000,
    ],
)  # fmt: skip
def test_what_is_no_wish_is_refused_and_gone(tmp_path, text):
    """The spool belongs to a user that root does not trust; a file that stays would start root again and again."""
    (tmp_path / "wish.json").write_text(text)
    with pytest.raises(UpdateError, match="this is no wish"):
        take(tmp_path / "wish.json")
    assert not (tmp_path / "wish.json").exists()


def test_a_wish_that_is_a_folder_or_a_pipe_does_not_hold_root_up(tmp_path):
    """It loses its name, however deep it is: removing it would be an endless way down."""
    path = tmp_path / "wish.json"
    path.mkdir()
    handle = os.open(path, os.O_RDONLY)
    for _ in range(3 * sys.getrecursionlimit()):  # deeper than any path could name
        os.mkdir("d", dir_fd=handle)
        handle, above = os.open("d", os.O_RDONLY, dir_fd=handle), handle
        os.close(above)
    os.close(handle)
    try:
        with pytest.raises(UpdateError):
            take(path)
        assert not path.exists()
    finally:
        subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)
    os.mkfifo(path)
    with pytest.raises(UpdateError):
        take(path)
    assert not path.exists()


def test_units_follow_the_links(place, tmp_path):
    """On probation only limpet.service is the candidate's, under our drop-in; at the commit all are."""
    root = tmp_path / "root"
    system = root / "etc/systemd/system"

    def settled():
        changed = install(wanted(place), root)
        assert install(wanted(place), root) == frozenset()  # once more changes nothing
        return changed, {name: (system / name).read_text()[5:-1] for name in ("limpet.service", "limpet-try.service")}

    assert settled()[1] == {"limpet.service": OLD, "limpet-try.service": OLD}
    place.point("current", NEW)
    assert settled()[1] == {"limpet.service": NEW, "limpet-try.service": OLD}
    assert "Restart=always" in (root / DROP_IN).read_text()
    place.point("good", NEW)
    changed, units = settled()
    assert units == {"limpet.service": NEW, "limpet-try.service": NEW}
    assert DROP_IN in changed
    assert not (root / DROP_IN).exists()
    for link in ("current", "good"):
        place.point(link, OLD)
    assert settled()[1] == {"limpet.service": OLD, "limpet-try.service": OLD}


def test_nothing_of_a_release_is_installed_but_units_by_name(place, tmp_path):
    """A file of another name, or of another kind, stays in the release."""
    units = place.folder(OLD) / "share" / "limpet" / "systemd"
    (units / "ssh.service").write_text("x")
    (units / "limpet.toml").write_text("x")
    install(wanted(place), tmp_path)
    found = {path.name for path in tmp_path.rglob("*") if path.is_file() and place.opt not in path.parents}
    assert found == {"limpet.service", "limpet-try.service"}
    assert Path(tmp_path / "etc/systemd/system/limpet.service").stat().st_mode & 0o777 == 0o644


OK, BAD = Health("ok"), Health("unhealthy", ("lane store is stuck",))


def test_a_release_stays_when_it_ran_well_for_long_enough():
    """Without a break, and whether or not there is a broker if its elder had none either."""
    standing = Standing(60.0, 600.0, needs_uplink=False, start_s=0.0)
    assert standing.verdict(1.0, OK, connected=False) is None
    assert standing.verdict(50.0, BAD, connected=False) is None
    assert standing.verdict(59.0, OK, connected=False) is None
    assert standing.verdict(118.0, OK, connected=False) is None
    unplugged = Health("degraded", ("source camera: unplugged",))
    assert standing.verdict(119.0, unplugged, connected=False).decision == "commit"


def test_a_release_that_loses_the_broker_goes_back():
    """Offline is healthy, but a release that nobody can reach could never be mended from afar."""
    standing = Standing(60.0, 600.0, needs_uplink=True, start_s=0.0)
    assert standing.verdict(1.0, OK, connected=False) is None
    assert standing.verdict(100.0, OK, connected=False) is None
    verdict = standing.verdict(600.0, OK, connected=False)
    assert (verdict.decision, verdict.reason) == ("roll_back", "PROBATION_FAILED")
    assert "broker" in verdict.text
    late = Standing(60.0, 600.0, needs_uplink=True, start_s=0.0)
    assert late.verdict(590.0, OK, connected=True) is None
    assert late.verdict(650.0, OK, connected=True).decision == "commit"


class Ticking:
    """A clock that is set by hand."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


def watched(tmp_path, release=NEW, **settings):
    """A watcher of `release` with its clock."""
    config = UpdatesConfig(folder=tmp_path / "depot", spool=tmp_path / "spool", release_probation_s=60.0, **settings)
    clock = Ticking()
    return Watcher(config, tmp_path / "connected", clock, release), clock


@pytest.fixture
def trial_record(tmp_path):
    """A depot whose record has 0.2.0 on trial, and an empty spool."""
    for name in ("depot", "spool"):
        (tmp_path / name).mkdir()
    with Writer(tmp_path / "depot") as writer:
        pick = Pick("0.2.0", SHA)
        writer.save(writer.state.begin_trial(AGENT, pick, tries=3, mode="live", job="job", now_s=0.0))
    return tmp_path / "depot"


def test_the_verdict_on_a_release_reaches_the_record(tmp_path, trial_record):
    """It is left in the spool until the record shows that somebody acted on it."""
    watcher, clock = watched(tmp_path)
    for clock.now_s in (0.0, 30.0, 60.0, 61.0):
        watcher.turn(OK, connected=False)
    [(path, job)] = waiting(tmp_path / "spool")
    assert (job.do, job.model, job.verdict, job.sha256) == ("verdict", AGENT, "commit", SHA)
    path.unlink()
    clock.now_s = 125.0
    watcher.turn(OK, connected=False)
    assert [job.verdict for _, job in waiting(tmp_path / "spool")] == ["commit"]
    judge(trial_record, Book(trial_record), job)
    assert read_state(trial_record).agent.active == Pick("0.2.0", SHA)
    path.unlink()
    clock.now_s = 200.0
    watcher.turn(OK, connected=False)
    assert (watcher.trial, list(waiting(tmp_path / "spool"))) == (None, [])


def test_only_the_release_on_trial_is_judged(tmp_path, trial_record):
    """A checkout, and the release before it, say nothing."""
    for release in ("", OLD):
        watcher, clock = watched(tmp_path, release)
        for clock.now_s in (0.0, 100.0):
            watcher.turn(OK, connected=True)
        assert watcher.trial is None
    assert list(waiting(tmp_path / "spool")) == []


def test_a_committed_release_remembers_whether_it_reached_its_broker(tmp_path, trial_record):
    """The next one is measured by that; the one on trial writes nothing."""
    elder, clock = watched(tmp_path, OLD)
    elder.turn(OK, connected=True)
    assert (tmp_path / "connected").read_text() == "yes"
    clock.now_s = 30.0
    elder.turn(OK, connected=False)
    assert (tmp_path / "connected").read_text() == "yes"  # at most once a minute
    younger, clock = watched(tmp_path, NEW, release_deadline_s=100.0)
    for clock.now_s in (0.0, 100.0):
        younger.turn(OK, connected=False)
    assert [job.verdict for _, job in waiting(tmp_path / "spool")] == ["roll_back"]
    assert (tmp_path / "connected").read_text() == "yes"


@pytest.mark.parametrize(("reason", "bad"), [("PROBATION_FAILED", True), ("NO_SPACE", False), ("VERIFY_FAILED", False)])
def test_what_root_refused_ends_with_roots_words(tmp_path, trial_record, place, reason, bad):
    """A release that failed by itself is bad; one that met a full disk or a damaged depot may be tried again."""
    book = Book(trial_record)
    track = book.open(Job("job", "release", AGENT, "0.2.0", SHA))
    track.move("probation")
    wish, told = tmp_path / "wish.json", tmp_path / "answer.json"
    assert follow(trial_record, book, place, wish, told) == TRY
    assert take(wish) == TRY
    answer(Answer(TRY, reason, "it says no"), told)
    assert follow(trial_record, book, place, wish, told) is None
    assert read_state(trial_record).agent.trial is None
    assert ("it says no" in read_state(trial_record).agent.is_bad(Pick("0.2.0", SHA))) is bad
    ended = book.get("job")
    assert (ended.status, "it says no" in ended.text, wish.exists()) == ("failed", True, False)
    assert bad or ended.reason == reason


def test_tries_are_burnt_only_while_the_release_runs(trial_record, place):
    """An elder that crashes again and again must not use up the tries of the release that would mend it."""
    assert not runs_trial(read_state(trial_record), place)
    place.point("current", NEW)
    assert runs_trial(read_state(trial_record), place)


class Noted:
    """A systemd that only notes what it is told."""

    def __init__(self, loads=True):
        self.told, self._loads = [], loads

    def apply(self, changed):
        self.told += ["apply"] if changed else []

    def restart_agent(self):
        self.told.append("restart")

    def wake_updater(self):
        self.told.append("wake")

    def can_run_agent(self):
        return self._loads


@pytest.fixture
def switch(place, tmp_path):
    """The root step over the two releases, with a configuration that names no trust anchor."""
    (tmp_path / "limpet.toml").write_text("schema = 1\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "root").mkdir()
    return Switch(place, tmp_path / "limpet.toml", tmp_path / "state", tmp_path / "root", Noted())


def asked_of(switch, wish):
    """Root's answer, also as the updater reads it."""
    told = switch.run(wish)
    assert read_answer(switch.state / "answer.json") == told
    return told


@pytest.mark.parametrize(
    ("wish", "reason", "words"),
    [
        (Wish("try", release_id("0.0.1", SHA), "0.0.1", SHA), "REJECTED_ROLLBACK_ATTACK", "older than"),
        (Wish("try", release_id("9.0.0", SHA), "9.0.0", SHA), "VERIFY_FAILED", "names no trust anchor"),
        (Wish("commit", NEW), "FAILED", "does not run"),
        (Wish("back", NEW), "ROLLBACK_FAILED", "not one to go back to"),
        (Wish("back", "nowhere"), "ROLLBACK_FAILED", "not one to go back to"),
    ],
)
def test_root_refuses_what_it_cannot_prove_and_says_why(switch, place, wish, reason, words):
    """Nothing moves, the agent is not touched, and the updater is woken to read the answer."""
    told = asked_of(switch, wish)
    assert (told.reason, words in told.text) == (reason, True)
    assert (place.current, place.good) == (OLD, OLD)
    assert "restart" not in switch.systemd.told
    assert switch.systemd.told[-1] == "wake"


def test_a_wish_is_granted_once_and_again_without_harm(switch, place):
    """Try, commit, and back by request; each repeated as after a power cut."""
    for _ in range(2):
        assert asked_of(switch, TRY).reason == ""
        assert (place.current, place.good) == (NEW, OLD)
    assert switch.systemd.told.count("restart") == 1
    for _ in range(2):
        assert asked_of(switch, Wish("commit", NEW)).reason == ""
        assert (place.current, place.good, place.previous) == (NEW, NEW, OLD)
    for _ in range(2):
        assert asked_of(switch, Wish("back", OLD)).reason == ""
        assert (place.current, place.good) == (OLD, OLD)
    assert not place.complete(NEW)


def test_a_unit_that_cannot_be_loaded_leads_back_at_once(switch, place):
    """Nothing of it would ever start, so no try would ever be burnt."""
    broken = replace(switch, systemd=Noted(loads=False))
    assert asked_of(broken, TRY).reason == "PROBATION_FAILED"
    assert (place.current, place.good) == (OLD, OLD)
    assert broken.systemd.told[-1] == "wake"


def test_a_boot_without_a_wish_only_puts_the_units_right(switch, place):
    """What a power cut broke off is ended: unit files as the links say, and nobody is restarted."""
    assert switch.run(None) is None
    unit = switch.root / "etc/systemd/system/limpet.service"
    assert unit.read_text() == f"# of {OLD}\n"
    unit.write_text("# half")
    place.point("current", NEW)
    assert switch.run(None) is None
    assert unit.read_text() == f"# of {NEW}\n"
    assert "restart" not in switch.systemd.told

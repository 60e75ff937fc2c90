"""Releases of the agent: where they lie, what root is asked for and what it grants, and the way back."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent import __version__
from agent.depot import AGENT, Bad, ModelState, Pick, Trial, Writer, folder_of, read_state
from agent.errors import UpdateError
from agent.health import Health
from agent.release import environment
from agent.release.follow import follow, runs_trial
from agent.release.place import Place, own_release, release_id
from agent.release.proof import prove
from agent.release.standing import Standing, Watcher
from agent.release.units import DROP_IN, install, wanted
from agent.release.wheels import needed
from agent.release.wish import Answer, Wish, answer, leave, next_wish, read_answer, take
from agent.settings.updates import UpdatesConfig
from agent.updates.jobs import Book, Job, waiting
from agent.updates.verdicts import judge
from tests.releases import ROOT, Shop, fetched, make_release

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
    """It is removed like any other."""
    path = tmp_path / "wish.json"
    (path / "deep").mkdir(parents=True)
    with pytest.raises(UpdateError):
        take(path)
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


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A publisher with one release, made of this checkout without its dependencies."""
    it = Shop(tmp_path_factory.mktemp("shop"))
    it.pick = it.add("0.2.0")
    return it


@pytest.fixture
def depot(shop, tmp_path):
    """What the updater left after fetching it."""
    fetched(shop, tmp_path / "depot", shop.pick)
    return tmp_path / "depot"


def proved(shop, depot, tmp_path, pick=None):
    """Root's proof of the fetched release; its manifest."""
    pick = pick or shop.pick
    wish = Wish("try", release_id(pick.version, pick.sha256), pick.version, pick.sha256)
    return prove(depot, wish, shop.anchor.read_bytes(), tmp_path / "root" / "metadata", tmp_path / "staging")


def release_of(shop, depot):
    """Where the updater put the release, made writable as a thief in its place would."""
    folder = folder_of(depot, AGENT, shop.pick)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_root_proves_a_release_from_its_own_copy(shop, depot, tmp_path):
    """All files of it, from the depot alone, without a network; twice is as good as once."""
    for _ in range(2):
        manifest = proved(shop, depot, tmp_path)
        assert manifest.version == "0.2.0"
        assert files_below(tmp_path / "staging" / "release") == {file.path for file in manifest.files}
    assert (tmp_path / "staging").stat().st_mode & 0o077 == 0


def files_below(folder):
    """Paths of all plain files."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def change_a_file(folder):
    """One byte of the wheel."""
    path = next(folder.glob("wheels/*.whl"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lengthen_a_file(folder):
    """A file that never ends."""
    with next(folder.glob("wheels/*.whl")).open("ab") as file:
        file.write(b"\0" * 1000)


def link_a_file(folder):
    """A link to what only root may read."""
    (folder / "lock.txt").unlink()
    (folder / "lock.txt").symlink_to("/etc/shadow")


def pipe_a_file(folder):
    """A pipe that would hold root up for ever."""
    (folder / "lock.txt").unlink()
    os.mkfifo(folder / "lock.txt")


def drop_a_file(folder):
    """One file less."""
    (folder / "lock.txt").unlink()


def change_the_manifest(folder):
    """Another package under the same name."""
    path = folder / "package.json"
    path.write_bytes(path.read_bytes().replace(b'"requires_agent":""', b'"requires_agent":">=0"'))


@pytest.mark.parametrize(
    "harm", [change_a_file, lengthen_a_file, link_a_file, pipe_a_file, drop_a_file, change_the_manifest]
)
def test_root_refuses_what_was_changed_in_the_depot(shop, depot, tmp_path, harm):
    """The updater's user owns the depot; root takes nothing of it that is not signed."""
    harm(release_of(shop, depot))
    with pytest.raises(UpdateError) as caught:
        proved(shop, depot, tmp_path)
    assert caught.value.reason in ("VERIFY_FAILED", "DOWNLOAD_FAILED")


def test_root_refuses_a_release_that_nobody_signed(shop, depot, tmp_path):
    """Whole and consistent, and not in the metadata."""
    folder = release_of(shop, depot)
    data = (folder / "package.json").read_bytes().replace(b'"version":"0.2.0"', b'"version":"0.9.0"')
    pick = Pick("0.9.0", hashlib.sha256(data).hexdigest())
    shutil.copytree(folder, folder_of(depot, AGENT, pick))
    (folder_of(depot, AGENT, pick) / "package.json").write_bytes(data)
    with pytest.raises(UpdateError, match=r"0\.9\.0"):
        proved(shop, depot, tmp_path, pick)


def test_root_refuses_metadata_of_another_publisher(shop, depot, tmp_path):
    """What the updater believes does not matter: the anchor is root's."""
    other = Shop(tmp_path / "other")
    wish = Wish("try", release_id(*_of(shop.pick)), *_of(shop.pick))
    with pytest.raises(UpdateError) as caught:
        prove(depot, wish, other.anchor.read_bytes(), tmp_path / "root" / "metadata", tmp_path / "staging")
    assert caught.value.reason in ("REJECTED_BAD_SIGNATURE", "VERIFY_FAILED")


def _of(pick):
    return pick.version, pick.sha256


def test_root_remembers_what_it_accepted(shop, depot, tmp_path):
    """Metadata from before, in which a withdrawn release was still signed, is a rollback attack."""
    old = tmp_path / "old"
    shutil.copytree(depot, old, symlinks=True)
    publisher = shop.publisher()
    publisher.put("config/base.toml", b"")
    publisher.finish()
    shutil.rmtree(depot / "metadata")
    fetched(shop, depot, shop.pick)
    proved(shop, depot, tmp_path)
    with pytest.raises(UpdateError) as caught:
        proved(shop, old, tmp_path)
    assert caught.value.reason == "REJECTED_ROLLBACK_ATTACK"


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


@pytest.fixture
def roomy(tmp_path, monkeypatch):
    """A folder for half a gigabyte that is gone afterwards, and no packages but a release's own."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    yield tmp_path / "roomy"
    shutil.rmtree(tmp_path / "roomy", ignore_errors=True)


def test_a_real_release_becomes_an_environment_without_a_network(roomy):
    """Every package of the device's lock as a wheel, installed by hash alone; the result runs its own models."""
    try:
        make_release.make(roomy / "release", [], make_release.LOCK)
    except subprocess.CalledProcessError:
        pytest.skip("the packages of tools/locks/device.txt cannot be fetched here")
    place, name = Place(roomy / "opt"), release_id(__version__, SHA)
    environment.build(roomy / "release", place, name)
    environment.probe(place, name, __version__, ROOT / "systemd" / "limpet.toml", 60.0, None)
    place.seal(name)
    assert place.complete(name)
    assert (place.folder(name) / "share/limpet/systemd/limpet-try.service").is_file()
    with pytest.raises(UpdateError, match="calls itself"):
        environment.probe(place, name, "9.9.9", ROOT / "systemd" / "limpet.toml", 60.0, None)


def test_a_wheel_that_is_not_the_locks_is_not_installed(roomy):
    """Signed or not: pip checks each against the release's own lock, and nothing is left behind."""
    make_release.make(roomy / "release", [], None)
    change_a_file(roomy / "release")
    with pytest.raises(UpdateError, match="packages could not be installed"):
        environment.build(roomy / "release", Place(roomy / "opt"), NEW)
    assert list((roomy / "opt/releases").iterdir()) == []


def test_the_same_sources_make_the_same_release(roomy):
    """Byte for byte, so that two publishers can compare what they sign."""
    for name in ("one", "two"):
        make_release.make(roomy / name, [], None)
    one, two = (
        {path: hashlib.sha256((roomy / name / path).read_bytes()).hexdigest() for path in files_below(roomy / name)}
        for name in ("one", "two")
    )
    assert one == two
    assert {path.partition("/")[0] for path in one} == {"lock.txt", "share", "units", "wheels"}

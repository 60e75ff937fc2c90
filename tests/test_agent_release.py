"""Releases of the agent: where they lie, what root is asked for and what it grants, and the way back."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from agent.depot import AGENT, Bad, ModelState, Pick, Trial, folder_of
from agent.errors import UpdateError
from agent.release.place import Place, own_release, release_id
from agent.release.proof import prove
from agent.release.units import DROP_IN, install, wanted
from agent.release.wheels import needed
from agent.release.wish import Answer, Wish, answer, leave, next_wish, read_answer, take
from tests.releases import Shop, fetched

SHA = "ab" * 32
OTHER = "cd" * 32
NEW = release_id("0.2.0", SHA)
TRY = Wish("try", NEW, "0.2.0", SHA)
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

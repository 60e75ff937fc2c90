"""What root proves before it switches: its own copy against the trust anchor, and an environment that runs."""

import hashlib
import os
import shutil
import subprocess

import pytest

from agent import __version__
from agent.depot import AGENT, Pick, folder_of
from agent.errors import UpdateError
from agent.release import environment
from agent.release.place import Place, release_id
from agent.release.proof import prove
from agent.release.wish import Wish
from tests.releases import ROOT, Shop, fetched, make_release


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
    place, name = Place(roomy / "opt"), release_id(__version__, "ab" * 32)
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
        environment.build(roomy / "release", Place(roomy / "opt"), "0.2.0-abababababab")
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

"""Publishing: at every moment a device sees the old repository or the new one, in a folder and in S3 storage."""

import contextlib
import shutil
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from tuf.api.exceptions import RepositoryError
from tuf.ngclient import Updater

from agent.errors import ConfigError
from agent.package import PackageManifest
from agent.repository import Keyring, Publisher, Workspace
from agent.repository.mirror import FolderMirror, check, publish
from agent.repository.s3 import CHANGING, FIXED, S3Mirror
from tests.openstack import swift
from tests.repositories import MODELS, Repo, served, versioned


class Cut(Exception):  # noqa: N818
    """The line broke."""


class CutMirror(FolderMirror):
    """A folder to which only so many files can be written."""

    left = 0

    def write(self, path, source, fixed):
        if CutMirror.left == 0:
            raise Cut
        CutMirror.left -= 1
        super().write(path, source, fixed)


def seen(mirror, folder, root):
    """Versions that a device with `folder` finds on a mirror, whole; or the name of the error that stops it."""
    folder.mkdir(exist_ok=True)
    found = set()
    with served(mirror) as url:
        updater = Updater(str(folder), f"{url}/metadata/", str(folder), f"{url}/targets/", bootstrap=root)
        try:
            updater.refresh()
            for version in ("1.0.0", "1.1.0"):
                if info := updater.get_targetinfo(f"models/vibration/{version}.json"):
                    manifest = PackageManifest.decode(Path(updater.download_target(info)).read_bytes())
                    assert all((mirror / "blobs" / file.sha256).is_file() for file in manifest.files)
                    found.add(version)
        except RepositoryError as exc:
            return type(exc).__name__
    return found


@pytest.mark.parametrize(("rotated", "moments"), [("", 0), ("root", 0), ("targets", 1), ("timestamp", 1)])
def test_a_publication_that_is_cut_anywhere_leaves_a_whole_mirror(tmp_path, rotated, moments):
    """Cut after every single file: a device that knew the old state and a new one see the old or the new, whole.

    One moment cannot be closed with single files: when a root gives another role a new key, between that root and the
    timestamp. A device then finds no valid news and asks again later.
    """
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    first, old, mirror = repo.root, tmp_path / "old", tmp_path / "cut"
    shutil.copytree(repo.mirror, old)
    seen(old, tmp_path / "known", first)
    repo.publish = lambda: None  # the new state is published below
    repo.add(versioned(MODELS / "vibration", tmp_path / "v2", "1.1.0"))
    if rotated:
        repo.do(lambda p: p.rotate(rotated))
    outcomes = []
    whole = False
    while not whole:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.copytree(old, mirror)
        shutil.copytree(tmp_path / "known", tmp_path / f"known-{len(outcomes)}", symlinks=True)
        CutMirror.left = len(outcomes)
        with contextlib.suppress(Cut):
            publish(repo.publisher.roles, CutMirror(mirror))
            whole = True
        outcomes.append(
            [seen(mirror, tmp_path / f"{kind}-{len(outcomes)}", first) for kind in ("known", "new")]
        )
    assert outcomes[-1] == [{"1.0.0", "1.1.0"}] * 2
    between = [outcome for outcome in outcomes[:-1] if outcome != [{"1.0.0"}] * 2]
    assert between == [["UnsignedMetadataError"] * 2] * moments
    assert len(outcomes) >= 9  # blobs, targets, metadata: every one of them was a place to cut


def test_publishing_again_writes_what_is_new(tmp_path):
    """Nothing for nothing; for a new version its own blobs, metadata and the timestamp."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    mirror = FolderMirror(repo.mirror)
    assert publish(repo.publisher.roles, mirror).written == 1  # the timestamp
    told = []
    repo.publish = lambda: None
    repo.add(versioned(MODELS / "vibration", tmp_path / "v2", "1.1.0"))
    done = publish(repo.publisher.roles, mirror, lambda path, size: told.append(path))
    assert done.written == len(told)
    assert done.targets == 3
    assert told[-1] == "metadata/timestamp.json"
    assert not any(path.startswith("blobs/") for path in told[3:])  # model.toml, its xz and its delta


def test_two_workspaces_do_not_publish_over_each_other(tmp_path):
    """The one that is behind is told so, and nothing is written."""
    repo = Repo(tmp_path)
    repo.publish()
    shutil.copytree(tmp_path / "work", tmp_path / "copy")
    repo.add(MODELS / "vibration")
    behind = Publisher(Workspace(tmp_path / "copy"), Keyring(), repo.now)
    before = sorted(repo.mirror.rglob("*"))
    with pytest.raises(ConfigError, match="another workspace publishes to it"):
        publish(behind.roles, FolderMirror(repo.mirror))
    assert sorted(repo.mirror.rglob("*")) == before


def test_a_blob_that_is_lost_on_the_mirror_is_put_back(tmp_path):
    """And a check alone says that it is missing."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    lost = repo.mirror / "blobs" / repo.publisher.versions("model", "vibration")[0].files[0].sha256
    lost.unlink()
    with pytest.raises(ConfigError, match="has None bytes there"):
        check(FolderMirror(repo.mirror), repo.root, repo.publisher.roles)
    assert publish(repo.publisher.roles, FolderMirror(repo.mirror)).written == 2
    assert lost.exists()


@pytest.fixture(params=["moto", "swift"])
def storage(request, tmp_path, monkeypatch):
    """The address of an S3 server: moto's everywhere, OpenStack Swift's s3api where it is installed."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if request.param == "swift":
        with swift(tmp_path / "swift") as server:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.user)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.password)
            yield server.url
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_a_bucket_serves_what_was_published(tmp_path, storage):
    """Written, read back with a stock client through the storage's own interface, and brought up to date again."""
    client = boto3.session.Session().client("s3", endpoint_url=storage)
    client.create_bucket(Bucket="fleet")
    repo = Repo(tmp_path)
    repo.publish = lambda: None
    repo.add(MODELS / "vibration")
    done = publish(repo.publisher.roles, S3Mirror("s3://fleet/models/here", storage))
    assert (done.targets, done.blobs > 5) == (2, True)
    life = {
        name: client.head_object(Bucket="fleet", Key=f"models/here/metadata/{name}")["CacheControl"]
        for name in ("timestamp.json", "1.root.json")
    }
    assert life == {"timestamp.json": CHANGING, "1.root.json": FIXED}
    repo.add(versioned(MODELS / "vibration", tmp_path / "v2", "1.1.0"))
    again = publish(repo.publisher.roles, S3Mirror("s3://fleet/models/here", storage))
    assert again.targets == 3
    assert again.written < done.written
    with pytest.raises(ConfigError, match="check the bucket"):
        publish(repo.publisher.roles, S3Mirror("s3://nowhere", storage))
    with pytest.raises(ConfigError, match=r"s3://bucket/prefix"):
        S3Mirror("s3:///x")

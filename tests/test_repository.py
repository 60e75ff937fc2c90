"""What a publisher makes is what The Update Framework's own client accepts, and nothing else."""

import dataclasses
import datetime as dt
import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, ExpiredMetadataError, RepositoryError
from tuf.ngclient import Updater

from agent.envelope.keyfiles import write_private, write_public
from agent.envelope.keys import ReaderKey, spki
from agent.errors import ConfigError, ModelError
from agent.package import ChannelPointer, PackageManifest, Readers
from agent.package.chunks import cut, decode_chunks
from agent.package.recipients import ModelKey
from agent.package.sealed import unseal_into
from agent.package.squeeze import expand, patch
from agent.repository.lists import layer, trust_list
from agent.repository.proof import prove
from agent.repository.workspace import Lifetimes
from tests.repositories import MODELS, Repo, served, versioned


def client(url, folder, root):
    """A stock client, as another project would write it."""
    folder.mkdir(exist_ok=True)
    return Updater(str(folder), f"{url}/metadata/", str(folder), f"{url}/targets/", bootstrap=root)


def read(updater, path):
    """The content of a target, or None."""
    info = updater.get_targetinfo(path)
    return None if info is None else Path(updater.download_target(info)).read_bytes()


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A repository with two versions of one model; a test that changes one makes its own."""
    folder = tmp_path_factory.mktemp("repo")
    made = Repo(folder)
    made.add(versioned(MODELS / "keywords", folder / "first", "1.0.0"), goldens=True)

    def tune(model):
        weights = bytearray((model / "keywords.tflite").read_bytes())
        for at in range(40_000, 60_000, 9):  # not the flatbuffer's tables: a slice of the weights
            weights[at] = (weights[at] + 1) % 256
        (model / "keywords.tflite").write_bytes(weights)
        text = (model / "model.toml").read_text()
        old = hashlib.sha256((MODELS / "keywords/keywords.tflite").read_bytes()).hexdigest()
        (model / "model.toml").write_text(text.replace(old, hashlib.sha256(weights).hexdigest()))

    made.add(versioned(MODELS / "keywords", folder / "tuned", "1.1.0", edit=tune), channel="beta", rollout=20)
    return made


def test_a_stock_client_reads_packages_and_channels_from_any_web_server(repo, tmp_path):
    """Through http.server, with nothing but the trust anchor."""
    with served(repo.mirror) as url:
        updater = client(url, tmp_path / "client", repo.root)
        pointer = ChannelPointer.decode(read(updater, "models/keywords/beta.json"))
        assert [(r.version, r.rollout_percent) for r in pointer.releases] == [("1.1.0", 20)]
        stable = ChannelPointer.decode(read(updater, "models/keywords/stable.json"))
        assert stable.choose("home", "door") == "1.0.0"
        manifest = PackageManifest.decode(read(updater, "models/keywords/1.1.0.json"))
        assert (manifest.kind, manifest.name, manifest.requires_agent) == ("model", "keywords", ">=0.1")
        assert read(updater, "models/keywords/9.9.9.json") is None
        assert read(updater, "models/other/1.0.0.json") is None


def test_every_way_to_a_file_leads_to_the_file(repo):
    """Whole, as xz, by its chunks, and as a delta from the version before."""
    manifest = repo.publisher.versions("model", "keywords")[0]
    blob = lambda sha256: (repo.mirror / "blobs" / sha256).read_bytes()  # noqa: E731
    ways = set()
    for entry in manifest.files:
        plain = blob(entry.sha256)
        assert (len(plain), hashlib.sha256(plain).hexdigest()) == (entry.length, entry.sha256)
        if entry.xz:
            assert b"".join(expand([blob(entry.xz.sha256)], entry.length, "x")) == plain
            ways.add("xz")
        if entry.chunks:
            assert decode_chunks(blob(entry.chunks.sha256), entry) == cut(io.BytesIO(plain))
            ways.add("chunks")
        for delta in entry.deltas:
            assert delta.length < 0.6 * entry.length
            out = patch(io.BytesIO(blob(delta.base)), [blob(delta.sha256)], entry.length, io.BytesIO(), "x")
            assert out == entry.sha256
            ways.add("delta")
    assert ways == {"xz", "chunks", "delta"}
    weights = manifest.file("keywords.tflite")
    assert weights.deltas[0].length < weights.length / 20


def test_a_package_holds_what_the_manifest_names_and_no_more(repo):
    """Demo recordings are for people with a checkout; a pattern takes them along."""
    paths = {entry.path for entry in repo.publisher.versions("model", "keywords")[0].files}
    assert {"model.toml", "keywords.tflite", "golden/yes.wav", "golden/yes.npz"} <= paths
    assert not any(path.startswith("demo") for path in paths)
    assert "demo.wav" in prove(MODELS / "keywords", ("demo.*",), goldens=False).files
    with pytest.raises(ConfigError, match="no file 'nothing"):
        prove(MODELS / "keywords", ("nothing*",), goldens=False)


def test_what_is_packed_already_is_not_packed_again(tmp_path):
    """A wheel has no xz; one that did not change keeps its entry from release to release, wherever it lies."""
    repo = Repo(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "a.whl"), (second, "wheels/a.whl")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(random.Random(1).randbytes(400_000))
        (folder / "lock.txt").write_text("a==1\n" * 400)
    one, two = repo.add_agent(first, "0.2.0"), repo.add_agent(second, "0.2.1")
    assert one.file("a.whl").xz is None
    assert one.file("a.whl").chunks is not None
    assert one.file("lock.txt").xz is not None
    assert two.file("wheels/a.whl") == dataclasses.replace(one.file("a.whl"), path="wheels/a.whl")


def test_a_family_is_delegated_once_terminating_and_to_a_role_of_its_own(tmp_path):
    """No family can sign another's paths, and no search goes on behind it."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "keywords")
    repo.add(MODELS / "vibration")
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "limpet_agent-0.2.0-py3-none-any.whl").write_bytes(b"wheel")
    repo.add_agent(folder, "0.2.0")
    delegations = repo.publisher.roles.published("targets").signed.delegations
    assert [(r.name, r.paths, r.terminating) for r in delegations.roles.values()] == [
        ("model-keywords", ["models/keywords/*"], True),
        ("model-vibration", ["models/vibration/*"], True),
        ("agent-releases", ["releases/agent/*"], True),
    ]
    with pytest.raises(ConfigError, match=r"6\.6\.6\.json is not found"):
        repo.do(lambda p: p.put("models/vibration/6.6.6.json", b"{}", "model-keywords"))
    with served(repo.workspace.public) as url:
        updater = client(url, tmp_path / "client", repo.root)
        assert read(updater, "models/vibration/6.6.6.json") is None
        assert PackageManifest.decode(read(updater, "releases/agent/0.2.0.json")).kind == "agent"


def test_a_version_never_changes(repo):
    """Added again, even unchanged, it is refused, and told what to do."""
    with pytest.raises(ConfigError, match="another version"):
        repo.publisher.add_model(prove(MODELS / "keywords", goldens=False))


def test_a_release_replaces_what_nobody_would_reach(tmp_path):
    """Newest first; what stands behind a full rollout is dropped; a withdrawn version is offered and signed no more."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    for version in ("1.1.0", "1.2.0"):
        repo.add(versioned(MODELS / "vibration", tmp_path / version, version), rollout=10)
    offered = lambda: [(r.version, r.rollout_percent) for r in repo.publisher.pointer("model", "vibration", "stable").releases]  # noqa: E731,E501
    assert offered() == [("1.2.0", 10), ("1.1.0", 10), ("1.0.0", 100)]
    repo.do(lambda p: p.release("model", "vibration", "1.1.0", "stable", 100))
    assert offered() == [("1.2.0", 10), ("1.1.0", 100)]
    repo.do(lambda p: p.withdraw("model", "vibration", "1.2.0"))
    assert offered() == [("1.1.0", 100)]
    assert [m.version for m in repo.publisher.versions("model", "vibration")] == ["1.1.0", "1.0.0"]
    for wrong in (lambda p: p.release("model", "vibration", "7.0.0", "stable", 5),
                  lambda p: p.release("model", "vibration", "1.1.0", "stable", 101),
                  lambda p: p.withdraw("model", "nothing", "1.0.0")):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong(repo.publisher)


def test_a_sealed_model_is_nowhere_in_the_repository(tmp_path):
    """Its artifacts are there as ciphertext only; a device with the key opens them into memory."""
    path = tmp_path / "device.key"
    write_private(path, ReaderKey.generate().pem())
    key = ModelKey.load(path)
    repo = Repo(tmp_path)
    manifest = repo.add(MODELS / "vibration", recipients=[key.public])
    weights = (MODELS / "vibration/vibration.onnx").read_bytes()
    entry = manifest.file("vibration.onnx")
    assert entry.sealed
    assert manifest.file("model.toml").sealed is None
    everything = b"".join(p.read_bytes() for p in repo.mirror.rglob("*") if p.is_file())
    assert weights[1000:1100] not in everything
    descriptor = os.memfd_create("model")
    try:
        with (repo.mirror / "blobs" / entry.sealed.sha256).open("rb") as sealed:
            unseal_into(descriptor, sealed, key.content_key(manifest), manifest, entry)
        assert os.pread(descriptor, len(weights) + 1, 0) == weights
    finally:
        os.close(descriptor)


def test_a_model_that_does_not_answer_its_golden_inputs_is_not_added(tmp_path):
    """A publisher learns it before a device does."""
    def swap(folder):
        text = (folder / "model.toml").read_text()
        (folder / "model.toml").write_text(text.replace('"golden/stop.npz"', '"golden/yes.npz"'))

    wrong = versioned(MODELS / "keywords", tmp_path / "wrong", "1.0.1", edit=swap)
    with pytest.raises(ModelError, match=r"golden inputs.*golden/stop\.wav"):
        prove(wrong)
    damaged = versioned(MODELS / "vibration", tmp_path / "damaged", "1.0.1")
    (damaged / "vibration.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="sha256"):
        prove(damaged, goldens=False)


CURRENT = ("timestamp.json", "snapshot.json", "targets.json", "model-keywords.json", "1.1.0.json", "beta.json")


@pytest.mark.parametrize("name", CURRENT)
@pytest.mark.parametrize("bit", [0, 3, 6])
def test_a_stock_client_refuses_whatever_was_tampered_with(repo, tmp_path, name, bit):
    """One bit of any file that says what is current, anywhere in it: nothing is accepted."""
    mirror = tmp_path / "mirror"
    shutil.copytree(repo.mirror, mirror)
    fitting = [path for path in mirror.rglob("*.json") if path.name.endswith(name)]
    path = max(fitting, key=lambda p: int(p.name.split(".")[0]) if p.name[1] == "." else 0)
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1 << bit
    path.write_bytes(data)
    with served(mirror) as url:
        updater = client(url, tmp_path / "client", repo.root)
        with pytest.raises((RepositoryError, DownloadError)):
            read(updater, "models/keywords/1.1.0.json")
            read(updater, "models/keywords/beta.json")


def test_no_roles_metadata_passes_for_that_of_another(tmp_path):
    """Both are signed by one key and have the same version: a mirror that swaps them would hide a family for long."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    repo.add(versioned(MODELS / "vibration", tmp_path / "newer", "1.1.0"))
    versions = {path.name.partition(".")[2]: path for path in sorted((repo.mirror / "metadata").glob("2.*.json"))}
    versions["model-vibration.json"].write_bytes(versions["targets.json"].read_bytes())
    with served(repo.mirror) as url:
        updater = client(url, tmp_path / "client", repo.root)
        with pytest.raises((RepositoryError, DownloadError)):
            read(updater, "models/vibration/stable.json")


def test_an_old_timestamp_is_no_news_and_an_expired_one_is_refused(tmp_path):
    """Rollback and freeze, with the stock client."""
    long_ago = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(days=10)
    repo = Repo(tmp_path, now=long_ago)
    repo.publish()
    old = (repo.mirror / "metadata/timestamp.json").read_bytes()
    repo.fixed = None
    repo.add(MODELS / "vibration")
    with served(repo.mirror) as url:
        client(url, tmp_path / "client", repo.root).refresh()
        (repo.mirror / "metadata/timestamp.json").write_bytes(old)
        again = client(url, tmp_path / "client", repo.root)
        with pytest.raises(RepositoryError):
            again.refresh()
    stale = Repo(tmp_path / "stale", days=Lifetimes(targets=30, snapshot=5, timestamp=5), now=long_ago)
    with served(stale.workspace.public) as url, pytest.raises(ExpiredMetadataError):
        client(url, tmp_path / "late", stale.root).refresh()


def test_what_a_client_would_refuse_is_not_published(tmp_path):
    """Signatures that have ended are found before the mirror is touched; renewing them helps."""
    long_ago = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(days=10)
    repo = Repo(tmp_path, days=Lifetimes(targets=5), now=long_ago)
    repo.fixed = None
    with pytest.raises(ConfigError, match="expired"):
        repo.publish()
    assert not repo.mirror.exists()
    assert repo.do(lambda p: p.renew((), 30)) == ("targets",)
    assert (repo.mirror / "metadata/timestamp.json").exists()


def test_lists_of_trust_and_layers_become_targets(tmp_path):
    """As people write them, with key files by name; what a device would refuse is refused here."""
    key = ReaderKey.generate()
    write_public(tmp_path / "desk.pub", spki(key.public.public, pem=True))
    listed = tmp_path / "readers.toml"
    listed.write_text('[[readers]]\nfile = "desk.pub"\nname = "desk"\nsites = ["*"]\ndevices = ["*"]\n')
    path, data = trust_list("readers", (listed,))
    assert (path, Readers.decode(data).readers[0].kid) == ("trust/readers.json", key.public.key_id.hex())
    technicians = tmp_path / "technicians.json"
    technicians.write_text(json.dumps({"keys": [
        {"file": "desk.pub", "role": "admin", "name": "A", "sites": ["*"], "devices": ["*"]}
    ]}))  # fmt: skip
    with pytest.raises(ConfigError, match="not a signing key"):
        trust_list("technicians", (technicians,))
    (tmp_path / "bad.toml").write_text("[[reader]]\n")
    with pytest.raises(ConfigError, match="list 'readers'"):
        trust_list("readers", (tmp_path / "bad.toml",))
    text = 'schema = 1\n[log]\nlevel = "debug"\n[sources.door]\nfps = 5\n'
    (tmp_path / "group-doors.toml").write_text(text)
    assert layer(tmp_path / "group-doors.toml") == ("config/group-doors.toml", text.encode())
    (tmp_path / "group-doors.toml").write_text('schema = 1\n[uplink]\nbroker = "mqtts://elsewhere"\n')
    with pytest.raises(ConfigError, match="may not be changed from afar"):
        layer(tmp_path / "group-doors.toml")
    (tmp_path / "group-doors.toml").write_text("")
    with pytest.raises(ConfigError, match="'schema': it must be 1"):
        layer(tmp_path / "group-doors.toml")
    with pytest.raises(ConfigError, match=r"base\.toml"):
        layer(tmp_path / "bad.toml")
    repo = Repo(tmp_path / "repo")
    repo.put(path, data)
    with served(repo.mirror) as url:
        updater = client(url, tmp_path / "client", repo.root)
        assert read(updater, "trust/readers.json") == data

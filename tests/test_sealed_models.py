"""A sealed model lies encrypted in the depot and runs from memory: the plain file is never on the disk."""

import dataclasses
import hashlib
import io
import os
import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.depot import Pick, folder_of, put
from agent.errors import ModelError
from agent.package import FileEntry, PackageManifest
from agent.package.manifest import Blob
from agent.package.recipients import ModelKey, wrap
from agent.package.sealed import seal
from agent.registry import candidates, verified
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock
from tests.candidates import change, write_candidate
from tests.rigs import Rig

NAME, VERSION = "letters", "1.1.0"


def _key(path):
    private = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private)
    path.chmod(0o600)
    return path


def _put_sealed(depot, folder, key):
    """Publish `folder` with its model file sealed for `key`; returns the pick and the plain bytes."""
    content_key, entries, lying, plain = os.urandom(32), [], [], {}
    staged = depot / "parts" / "staged"
    shutil.copytree(folder, staged)
    for path in sorted(folder.iterdir()):
        data = plain[path.name] = path.read_bytes()
        entry = FileEntry(path.name, len(data), hashlib.sha256(data).hexdigest())
        if path.suffix == ".onnx":
            sealed = b"".join(seal(io.BytesIO(data), content_key, NAME, VERSION, path.name))
            (staged / path.name).write_bytes(sealed)
            entry = dataclasses.replace(entry, sealed=Blob(len(sealed), hashlib.sha256(sealed).hexdigest()))
        entries.append(entry)
        lying.append(FileEntry(entry.path, entry.stored.length, entry.stored.sha256))
    encryption = wrap(content_key, NAME, VERSION, [ModelKey.load(key).public])
    package = PackageManifest("model", NAME, VERSION, tuple(entries), encryption=encryption).encode()
    pick = Pick(VERSION, hashlib.sha256(package).hexdigest())
    put(depot, NAME, pick, package, lying, staged)
    return pick, plain["letters.onnx"]


@pytest.fixture
def sealed(tmp_path):
    """A depot with a sealed model, its key, its pick and the plain bytes."""
    (tmp_path / "depot" / "parts").mkdir(parents=True)
    key = _key(tmp_path / "model.key")
    made = write_candidate(tmp_path / "made", "good", VERSION)
    pick, plain = _put_sealed(tmp_path / "depot", made, key)
    shutil.rmtree(made)
    return tmp_path / "depot", key, pick, plain


def _open(held):
    artifact = candidates(held.manifest)[0]
    return verified(held.manifest, artifact, origin=held.origin)


def test_a_sealed_model_is_opened_into_memory_that_nobody_can_change(sealed):
    """The runtime gets a path into memory; what is there is what was published, and writing to it is refused."""
    depot, key, pick, plain = sealed
    held = Stock(UpdatesConfig(folder=depot, decryption_key=key)).hold(NAME, pick)
    with _open(held) as path:
        assert path.read_bytes() == plain
        assert str(path.readlink()).startswith("/memfd:")
        with pytest.raises(PermissionError):
            path.write_bytes(b"x")
        with path.open("r+b", buffering=0) as file, pytest.raises(PermissionError):
            file.write(b"x")
    assert not path.exists()


def test_it_runs_and_the_plain_file_is_nowhere_on_the_disk(sealed, tmp_path):
    """Live, in an agent's pipeline, as any other model."""
    depot, key, pick, plain = sealed
    change(depot, lambda state: state.activate(NAME, pick))
    agent = Rig(tmp_path, decryption_key=key)
    try:
        agent.until(lambda: len(agent.results) > 10)
    finally:
        agent.close()
    assert set(agent.versions()) == {VERSION}
    factory = tmp_path / "factory"
    files = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(factory)]
    assert len(files) > 3
    assert not [path for path in files if plain[:64] in path.read_bytes()]


def test_without_the_key_or_with_another_one_the_factorys_model_runs_and_says_why(sealed, tmp_path):
    """A stolen card opens nothing."""
    depot, _, pick, _ = sealed
    change(depot, lambda state: state.activate(NAME, pick))
    for key, words in ((None, "set [updates] decryption_key"), (_key(tmp_path / "other.key"), "not for this device's")):
        agent = Rig(tmp_path, decryption_key=key)
        try:
            agent.until(lambda agent=agent: len(agent.results) > 3)
        finally:
            agent.close()
        assert set(agent.versions()) == {"1.0.0"}
        assert words in agent.alarms["model-letters"]


def test_a_flipped_bit_in_a_sealed_file_is_noticed_before_it_runs(sealed):
    """At any place: header, first segment, last byte."""
    depot, key, pick, _ = sealed
    path = folder_of(depot, NAME, pick) / "letters.onnx"
    whole = path.read_bytes()
    path.chmod(0o644)
    for at in (0, 20, 60, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        held = Stock(UpdatesConfig(folder=depot, decryption_key=key)).hold(NAME, pick)
        with pytest.raises(ModelError, match=r"sealed file|damaged"), _open(held):
            raise AssertionError("it was opened")


def test_a_plain_file_in_the_place_of_a_sealed_one_is_refused(sealed):
    """Who can write the depot cannot swap the encryption away."""
    depot, key, pick, plain = sealed
    path = folder_of(depot, NAME, pick) / "letters.onnx"
    path.chmod(0o644)
    path.write_bytes(plain)
    held = Stock(UpdatesConfig(folder=depot, decryption_key=key)).hold(NAME, pick)
    with pytest.raises(ModelError, match="no sealed file"), _open(held):
        raise AssertionError("it was opened")

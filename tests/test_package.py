"""The formats of a repository: what is well made comes back, everything else is refused in words."""

import hashlib
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UpdateError
from agent.package import (
    Blob,
    ChannelPointer,
    Delta,
    Encryption,
    FileEntry,
    PackageManifest,
    Reader,
    Readers,
    Release,
    Revoked,
    RevokedKey,
    Technician,
    Technicians,
    WrappedKey,
    channel_path,
    included,
    layer_paths,
    package_path,
    path_pattern,
    role_name,
    version_order,
)
from agent.package.manifest import MANIFEST_LIMIT_BYTES, sealed_length
from agent.package.trust import public_text

KEYS = {"algorithm": "A256GCM", "chunk": 65536, "keys": [{"kid": "0" * 16, "wrap": "AA=="}]}
A, B, C = (hashlib.sha256(bytes([n])).hexdigest() for n in range(3))


def small(**changes):
    """A manifest of one file, as a table."""
    table = {"schema": 1, "kind": "model", "name": "keywords", "version": "1.1.0", "requires_agent": ">=0.1"}
    return table | {"files": [{"path": "model.toml", "length": 3, "sha256": A}]} | changes


def refusal(cls, table):
    """The words with which `cls` refuses a table or bytes."""
    data = table if isinstance(table, bytes) else json.dumps(table).encode()
    with pytest.raises(UpdateError) as caught:
        cls.decode(data)
    assert caught.value.reason == "VERIFY_FAILED"
    return str(caught.value)


def test_a_package_manifest_comes_back_as_it_was_written():
    """Every kind of entry survives the way through bytes, and the bytes are canonical."""
    files = (
        FileEntry("model.toml", 3, A, xz=Blob(2, B), chunks=Blob(36, C), deltas=(Delta(B, 2, C),)),
        FileEntry("golden/yes.wav", 0, B),
    )
    plain = PackageManifest("model", "keywords", "1.1.0", files, ">=0.1")
    secret = PackageManifest(
        "model", "keywords", "1.1.1", (FileEntry("w.onnx", 70000, A, sealed=Blob(70072, B)),), "",
        Encryption("A256GCM", 65536, (WrappedKey("00" * 8, public_text(bytes(80))),)),
    )  # fmt: skip
    for manifest in (plain, secret):
        data = manifest.encode()
        assert PackageManifest.decode(data) == manifest
        assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
    assert plain.target == "models/keywords/1.1.0.json"
    assert plain.stored_bytes == 3
    assert secret.file("w.onnx").stored == Blob(70072, B)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema 1"),
        ({"schema": True}, "schema 1"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"kind": "firmware"}, "must be one of"),
        ({"name": "../etc"}, "lower-case"),
        ({"version": "1.0"}, "a version like"),
        ({"version": "1.0.0+x"}, "a version like"),
        ({"version": "\u0661.0.0"}, "a version like"),
        ({"files": []}, "out of range"),
        ({"files": [{"path": "a", "length": -1, "sha256": A}]}, "out of range"),
        ({"files": [{"path": "a", "length": 1.0, "sha256": A}]}, "wrong type"),
        ({"files": [{"path": "a", "length": 1, "sha256": A.upper()}]}, "lower-case hex"),
        ({"files": [{"path": "a", "length": 1, "sha256": A}] * 2}, "same path"),
        ({"files": [{"path": p, "length": 1, "sha256": A} for p in ("a", "a/b")]}, "folder of a/b"),
        ({"files": [{"path": "package.json", "length": 1, "sha256": A}]}, "manifest's own name"),
        ({"encryption": KEYS}, "go together"),
        ({"files": [{"path": "a", "length": 1, "sha256": A, "sealed": {"length": 57, "sha256": B}}]}, "go together"),
        ({"kind": "agent"}, "called 'agent'"),
        ({"name": "agent"}, "called 'agent'"),
    ],
)
def test_a_wrong_manifest_is_refused_in_words(change, words):
    """Each rule has its own refusal."""
    assert words in refusal(PackageManifest, small(**change))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "", "a\\b", ".hidden", "a\nb", "\u00e4", "x" * 256, "a/.b"],
)
def test_no_path_leaves_the_folder_of_its_package(path):
    """A path is relative, plain, and has no part that means another folder."""
    assert "relative path" in refusal(PackageManifest, small(files=[{"path": path, "length": 1, "sha256": A}]))


def test_a_sealed_file_has_one_way_only_and_the_length_that_sealing_gives():
    """Chunks of the plain file would tell what is in it."""
    sealed = {"path": "a", "length": 1, "sha256": A, "sealed": {"length": sealed_length(1), "sha256": B}}
    PackageManifest.decode(json.dumps(small(files=[sealed], encryption=KEYS)).encode())
    leaky = sealed | {"xz": {"length": 1, "sha256": C}}
    assert "another way" in refusal(PackageManifest, small(files=[leaky], encryption=KEYS))
    short = sealed | {"sealed": {"length": 9, "sha256": B}}
    assert "cannot be 9" in refusal(PackageManifest, small(files=[short], encryption=KEYS))
    assert [sealed_length(n) for n in (0, 1, 65536, 65537)] == [56, 57, 65592, 65609]


def test_size_counts_before_anything_is_parsed():
    """Bytes beyond the limit are not looked at, and depth ends in a refusal, not in a crash."""
    assert "at most" in refusal(PackageManifest, b"[" * (MANIFEST_LIMIT_BYTES + 1))
    for bomb in (b"[" * 100_000, b'{"schema":1,"files":' + b"[" * 100_000, b'{"a":' * 50_000):
        assert "not JSON" in refusal(PackageManifest, bomb)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"schema":1', b'{"schema":1,"schema":1}', b'{"schema":1,"x":NaN}'],
)
def test_what_is_no_document_is_refused(data):
    """Broken syntax, doubled keys and words that are no JSON are refused by every reader."""
    for cls in (PackageManifest, ChannelPointer, Technicians, Readers, Revoked):
        refusal(cls, data)


def test_a_channel_offers_the_newest_release_that_takes_the_device_in():
    """A release at 0 % is for nobody; the one behind it then counts."""
    pointer = ChannelPointer("keywords", "beta", (Release("2.0.0", 0), Release("1.1.0", 100), Release("1.0.0", 100)))
    assert ChannelPointer.decode(pointer.encode()) == pointer
    assert pointer.choose("home", "door") == "1.1.0"
    assert ChannelPointer("keywords", "stable", ()).choose("home", "door") is None
    twice = {"schema": 1, "name": "k", "channel": "stable"}
    twice |= {"releases": [{"version": "1.0.0", "rollout_percent": 1}] * 2}
    assert "twice" in refusal(ChannelPointer, twice)
    over = twice | {"releases": [{"version": "1.0.0", "rollout_percent": 101}]}
    assert "0 to 100" in refusal(ChannelPointer, over)


def test_a_rollout_takes_in_its_share_and_only_ever_grows():
    """Deterministic by device, near the percentage over a fleet, and another draw for another version."""
    path = package_path("model", "keywords", "1.1.0")
    fleet = [f"device-{n}" for n in range(4000)]
    first = {d for d in fleet if included("home", d, path, 10)}
    second = {d for d in fleet if included("home", d, path, 25)}
    assert first < second
    assert 0.07 < len(first) / len(fleet) < 0.13
    assert not any(included("home", d, path, 0) for d in fleet)
    assert all(included("home", d, path, 100) for d in fleet)
    assert first != {d for d in fleet if included("home", d, package_path("model", "keywords", "1.2.0"), 10)}
    place = int.from_bytes(hashlib.sha256(b"home/door\0models/keywords/1.1.0.json").digest()[:4], "big") / 2**32 * 100
    assert not included("home", "door", path, int(place))
    assert included("home", "door", path, int(place) + 1)


def test_targets_and_roles_have_the_documented_names():
    """What a device asks for is what the publisher signs."""
    assert channel_path("model", "keywords", "beta") == "models/keywords/beta.json"
    assert package_path("agent", "agent", "0.2.0") == "releases/agent/0.2.0.json"
    assert (role_name("model", "k"), path_pattern("model", "k")) == ("model-k", "models/k/*")
    assert (role_name("agent", "agent"), path_pattern("agent", "agent")) == ("agent-releases", "releases/agent/*")
    assert layer_paths("s", "d", "g") == ("config/base.toml", "config/group-g.toml", "config/device-s-d.toml")
    assert layer_paths("s", "d") == ("config/base.toml", "config/device-s-d.toml")


def test_versions_are_ordered_as_semantic_versioning_says():
    """Numbers by value, early ones before the release, number before word."""
    rising = ["0.9.9", "1.0.0-1", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.0.10"]
    orders = [version_order(version) for version in rising]
    assert all(low < high for low, high in itertools.pairwise(orders))


def test_lists_of_trust_come_back_and_know_whom_they_cover():
    """Technicians, readers and revocations survive the way through bytes; scopes are names or all."""
    anna = Technician(public_text(b"key one"), "admin", "Anna", ("*",), ("*",))
    ben = Technician(public_text(b"key two"), "viewer", "Ben", ("home",), ("door", "gate"), 2_000_000_000)
    assert Technicians.decode(Technicians((anna, ben)).encode()) == Technicians((anna, ben))
    assert json.loads(Technicians((anna,)).encode())["keys"][0]["not_after"] is None
    assert anna.covers("anywhere", "x")
    assert ben.covers("home", "gate")
    assert not ben.covers("home", "other")
    assert not ben.covers("away", "gate")
    assert ben.kid == hashlib.sha256(b"key two").hexdigest()[:16]
    readers = Readers((Reader(public_text(b"r"), "desk", ("*",), ("door",)),))
    assert Readers.decode(readers.encode()) == readers
    assert readers.readers[0].spki == b"r"
    revoked = Revoked((RevokedKey("0123456789abcdef", "laptop lost"),))
    assert Revoked.decode(revoked.encode()).kids == {"0123456789abcdef"}


def test_lists_of_trust_refuse_what_would_be_read_two_ways():
    """A key with two roles, a key that is no base64, a role that nobody knows, a scope for nobody."""
    entry = {"public": public_text(b"k"), "role": "admin", "name": "A", "sites": ["*"], "devices": ["*"]}
    assert "stands twice" in refusal(Technicians, {"schema": 1, "keys": [entry, entry | {"role": "viewer"}]})
    assert "base64" in refusal(Technicians, {"schema": 1, "keys": [entry | {"public": "not base64!"}]})
    assert "one of" in refusal(Technicians, {"schema": 1, "keys": [entry | {"role": "root"}]})
    assert "out of range" in refusal(Technicians, {"schema": 1, "keys": [entry | {"sites": []}]})
    assert "16 lower-case" in refusal(Revoked, {"schema": 1, "keys": [{"kid": "xyz"}]})


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    ),
    st.sampled_from(["kind", "name", "version", "files", "requires_agent", "encryption"]),
)
def test_no_value_in_a_manifest_gets_past_as_anything_but_a_refusal(value, key):
    """Whatever stands where a manifest expects something else, the answer is an UpdateError or a manifest."""
    try:
        made = PackageManifest.decode(json.dumps(small(**{key: value})).encode())
    except UpdateError as exc:
        assert exc.reason == "VERIFY_FAILED"
    else:
        assert PackageManifest.decode(made.encode()) == made

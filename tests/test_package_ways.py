"""The ways a file travels: chunks, xz, deltas, sealed. The output counts, and no input makes it cost more."""

import hashlib
import io
import lzma
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.envelope.keyfiles import write_private
from agent.envelope.keys import ReaderKey
from agent.errors import ConfigError, UpdateError
from agent.package import Blob, FileEntry, PackageManifest
from agent.package.chunks import (
    CUT_BELOW,
    ENTRY_BYTES,
    GEAR,
    LEAST_BYTES,
    MOST_BYTES,
    cut,
    decode_chunks,
    encode_chunks,
)
from agent.package.manifest import SEGMENT_BYTES, TAG_BYTES, sealed_length
from agent.package.recipients import ModelKey, wrap
from agent.package.sealed import seal, unseal, unseal_into
from agent.package.squeeze import BLOCK_BYTES, difference, expand, patch, squeeze

CONTENT_KEY = bytes(range(32))


def noise(length, seed=1):
    """Bytes that do not pack."""
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8).tobytes()


def entry_of(data, path="w.onnx"):
    """The plain entry of some bytes."""
    return FileEntry(path, len(data), hashlib.sha256(data).hexdigest())


def refused(call, *words):
    """`call` raises an UpdateError with these words."""
    with pytest.raises(UpdateError) as caught:
        call()
    assert caught.value.reason == "VERIFY_FAILED"
    assert all(word in str(caught.value) for word in words), str(caught.value)


def plain_cuts(data):
    """Where chunks end, byte by byte as docs/repository.md tells it: the slow twin of `cut`."""
    ends, start, h = [], 0, 0
    for at, byte in enumerate(data, 1):
        h = (h * 2 + int(GEAR[byte])) % (1 << 32)
        if at - start == MOST_BYTES or (at - start >= LEAST_BYTES and h < CUT_BELOW):
            ends.append(at)
            start = at
    return ends if not data or ends[-1:] == [len(data)] else [*ends, len(data)]


@pytest.mark.parametrize("length", [0, 1, 31, 32, LEAST_BYTES, 1 << 20, (1 << 20) + 1, (2 << 20) + 777])
def test_chunks_are_cut_as_the_page_says(length):
    """The vectorised hash cuts where the plain one does, across blocks too."""
    data = noise(length)
    chunks = cut(io.BytesIO(data))
    assert [chunk.offset + chunk.length for chunk in chunks] == plain_cuts(data)
    assert all(hashlib.sha256(data[c.offset : c.offset + c.length]).digest() == c.sha256 for c in chunks)


def test_bytes_that_never_allow_a_cut_are_cut_at_the_most():
    """A file of zeros has chunks of 64 KiB."""
    data = bytes(3 * MOST_BYTES + 5)
    assert [chunk.length for chunk in cut(io.BytesIO(data))] == [MOST_BYTES] * 3 + [5]
    assert plain_cuts(data)[0] == MOST_BYTES


def test_an_insertion_changes_few_chunks():
    """What was moved is found again: only the chunks around the change are new."""
    data = noise(2 << 20)
    changed = data[:1_000_000] + b"seven b" + data[1_000_000:]
    old, new = ({chunk.sha256 for chunk in cut(io.BytesIO(d))} for d in (data, changed))
    assert 10_000 < len(data) / len(old) < 24_000
    assert len(new - old) <= 3


def test_a_chunk_list_must_fill_its_file():
    """A list that is cut off, too long, or has chunks of no or too many bytes is refused."""
    data = noise(100_000)
    entry, listed = entry_of(data), encode_chunks(cut(io.BytesIO(data)))
    assert decode_chunks(listed, entry) == cut(io.BytesIO(data))
    refused(lambda: decode_chunks(listed[:-1], entry), "no whole number")
    refused(lambda: decode_chunks(listed[:-ENTRY_BYTES], entry), "adds up to")
    refused(lambda: decode_chunks(bytes(ENTRY_BYTES), entry), "a chunk of 0 bytes")
    refused(lambda: decode_chunks(b"\xff" * ENTRY_BYTES, entry), "are allowed")


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=4000), st.integers(1, 700))
def test_xz_gives_back_what_went_in_however_it_arrives(data, step):
    """Pieces of any size."""
    packed = b"".join(squeeze([data]))
    pieces = (packed[at : at + step] for at in range(0, len(packed), step))
    assert b"".join(expand(pieces, len(data), "w")) == data


def test_a_bomb_stops_at_the_signed_length():
    """A hundred MB out of 15 kB: no more than one block beyond the limit is ever made."""
    bomb = b"".join(squeeze(bytes(1 << 20) for _ in range(100)))
    assert len(bomb) < 20_000
    tracemalloc.start()
    try:
        refused(lambda: list(expand([bomb], 1000, "w")), "more than the signed 1000")
        refused(lambda: patch(io.BytesIO(bytes(1000)), [bomb], 1000, io.BytesIO(), "w"), "more than")
        dictionary_bytes = 8 << 20
        assert tracemalloc.get_traced_memory()[1] < dictionary_bytes + 8 * BLOCK_BYTES
    finally:
        tracemalloc.stop()


def test_a_stream_that_asks_for_much_memory_is_refused():
    """The dictionary's size stands in the stream; a hostile one asks for 1.5 GB."""
    hungry = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}])
    refused(lambda: list(expand([hungry], 1, "w")), "emory")


def test_damaged_short_and_continued_streams_are_refused():
    """Every way in which a stream is not the one that was made."""
    data = noise(300_000)
    packed = b"".join(squeeze([data]))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 1
    refused(lambda: list(expand([bytes(flipped)], len(data), "w")))
    refused(lambda: list(expand([packed[:-1]], len(data), "w")), "ends early")
    refused(lambda: list(expand([], 0, "w")), "ends early")
    refused(lambda: list(expand([packed], len(data) + 1, "w")), "1 bytes less")
    refused(lambda: list(expand([packed + b"more"], len(data), "w")), "more after its end")
    refused(lambda: list(expand([packed, b"more"], len(data), "w")), "more after its end")
    refused(lambda: list(expand([b"no xz at all"], 3, "w")), "no xz stream")


def test_a_delta_turns_the_base_into_the_new_file():
    """Also over the ends of blocks; from another base comes another hash."""
    base = noise(BLOCK_BYTES * 2 + 9)
    new = bytearray(base)
    new[5] ^= 0xFF
    new[BLOCK_BYTES] ^= 0x80
    delta = b"".join(squeeze(difference(io.BytesIO(base), io.BytesIO(bytes(new)))))
    assert len(delta) < 500
    out = io.BytesIO()
    assert patch(io.BytesIO(base), [delta], len(new), out, "w") == hashlib.sha256(new).hexdigest()
    assert out.getvalue() == bytes(new)
    wrong = patch(io.BytesIO(base[::-1]), [delta], len(new), io.BytesIO(), "w")
    assert wrong != hashlib.sha256(new).hexdigest()
    refused(lambda: patch(io.BytesIO(base[:9]), [delta], len(new), io.BytesIO(), "w"), "shorter")


def sealed_package(data, path="w.onnx", recipients=()):
    """A manifest and the sealed bytes of one file."""
    sealed = b"".join(seal(io.BytesIO(data), CONTENT_KEY, "m", "1.0.0", path))
    blob = Blob(len(sealed), hashlib.sha256(sealed).hexdigest())
    entry = FileEntry(path, len(data), hashlib.sha256(data).hexdigest(), sealed=blob)
    encryption = wrap(CONTENT_KEY, "m", "1.0.0", recipients or [ReaderKey.generate().public])
    return PackageManifest("model", "m", "1.0.0", (entry,), "", encryption), entry, sealed


@pytest.mark.parametrize("length", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES])
def test_a_sealed_file_opens_into_memory(length):
    """Through a memfd, with the length that the manifest foretells, and no plain byte in what lies on disk."""
    data = noise(length)
    manifest, entry, sealed = sealed_package(data)
    assert len(sealed) == sealed_length(length)
    assert length < 16 or data[:16] not in sealed
    descriptor = os.memfd_create("model", os.MFD_CLOEXEC)
    try:
        unseal_into(descriptor, io.BytesIO(sealed), CONTENT_KEY, manifest, entry)
        assert os.pread(descriptor, length + 1, 0) == data
    finally:
        os.close(descriptor)


def test_no_sealed_byte_can_be_changed_moved_doubled_or_cut_off():
    """Each segment is bound to its place, to being the last, to its file and to its version."""
    data = noise(3 * SEGMENT_BYTES)
    manifest, entry, sealed = sealed_package(data)
    size = SEGMENT_BYTES + TAG_BYTES
    head, parts = sealed[:40], [sealed[40 + n * size : 40 + (n + 1) * size] for n in range(3)]
    for wrong in (
        head + parts[1] + parts[0] + parts[2],
        head + parts[0] + parts[1],
        head + b"".join(parts) + parts[2],
        head + b"".join(parts) + bytes(TAG_BYTES),
        head[:-1] + b"\0" + b"".join(parts),
        sealed[:-1],
        sealed[:1000] + bytes([sealed[1000] ^ 1]) + sealed[1001:],
        b"",
        head,
    ):
        refused(lambda wrong=wrong: list(unseal(io.BytesIO(wrong), CONTENT_KEY, manifest, entry)))
    refused(lambda: list(unseal(io.BytesIO(sealed), bytes(32), manifest, entry)), "segment 0")
    other = PackageManifest("model", "m", "1.0.1", manifest.files, "", manifest.encryption)
    refused(lambda: list(unseal(io.BytesIO(sealed), CONTENT_KEY, other, entry)), "segment 0")


def test_a_sealed_file_must_be_the_one_that_the_manifest_names():
    """Good tags do not help a file that is another one."""
    manifest, entry, _ = sealed_package(b"right")
    _, _, wrong = sealed_package(b"wrong")
    refused(lambda: list(unseal(io.BytesIO(wrong), CONTENT_KEY, manifest, entry)), "not what the manifest names")
    _, _, longer = sealed_package(b"right!")
    refused(lambda: list(unseal(io.BytesIO(longer), CONTENT_KEY, manifest, entry)), "not what the manifest names")


def test_each_recipient_and_nobody_else_has_the_content_key(tmp_path):
    """Two devices open it with their key files; a third is told which key would be needed."""
    keys = []
    for number in range(3):
        path = tmp_path / f"{number}.key"
        write_private(path, ReaderKey.generate().pem())
        keys.append(ModelKey.load(path))
    manifest, _, _ = sealed_package(b"weights", recipients=[key.public for key in keys[:2]])
    assert [key.content_key(manifest) for key in keys[:2]] == [CONTENT_KEY] * 2
    refused(lambda: keys[2].content_key(manifest), keys[2].public.key_id.hex(), "publish it")
    moved = PackageManifest("model", "m", "9.9.9", manifest.files, "", manifest.encryption)
    refused(lambda: keys[0].content_key(moved), "cannot be opened")


def test_a_key_of_another_kind_is_refused(tmp_path):
    """A file that everybody may read, and one that holds no key."""
    path = tmp_path / "bad.key"
    write_private(path, b"-----BEGIN NOTHING-----")
    with pytest.raises(ConfigError, match="limpet keys new reader"):
        ModelKey.load(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        ModelKey.load(path)

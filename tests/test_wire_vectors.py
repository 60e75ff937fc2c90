"""The vectors, read by ourselves, by another implementation of COSE, and by a reader in another language."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from agent import cbor, codec
from agent.envelope import Opener, ReaderKey, SigningKey, Topics, Trust, TrustedDevice, VerifyKey, Zip, topics
from agent.envelope import message as message_module
from agent.envelope.squeeze import has_zstd
from agent.errors import EnvelopeError
from agent.request import Target, external, parse_request, sign_request
from agent.settings.envelope import ReaderLimits
from tests.sealing import event

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests/vectors/wire.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))
READABLE = [v for v in VECTORS["opens"] if has_zstd() or not v["name"].endswith(f"zip {int(Zip.ZSTD)}")]


def _reader(tmp_path):
    path = tmp_path / "reader.key"
    path.touch(mode=0o600)
    path.write_bytes(bytes.fromhex(VECTORS["reader"]["private_raw"]))
    return ReaderKey.load(path)


@pytest.fixture
def opener(tmp_path):
    """A reader set up as the vectors say."""
    devices = tuple(
        TrustedDevice(
            d["site"], d["device"], d["mode"],
            (VerifyKey.from_bytes(bytes.fromhex(d["public_spki"]), "vector"),) if "public_spki" in d else (),
        )
        for d in VECTORS["devices"]
    )  # fmt: skip
    return Opener([_reader(tmp_path)], Trust(devices), ReaderLimits())


def _said(opened):
    return [codec.to_map(e) for e in opened.events] if opened.place in ("event", "gap") else [dict(opened.body)]


def _open_all(opener):
    for vector in READABLE:
        yield vector, opener.open(vector["topic"], bytes.fromhex(vector["payload"]))


def test_our_reader_opens_every_vector(opener):
    """Each message says exactly what the vector expects."""
    for vector, opened in _open_all(opener):
        assert [said for one in opened for said in _said(one)] == vector["expect"], vector["name"]


def test_our_reader_refuses_every_bad_vector(opener):
    """Replayed, moved, damaged, cut, plain, forged: refused."""
    list(_open_all(opener))
    for vector in VECTORS["refused"]:
        with pytest.raises(EnvelopeError):
            opener.open(vector["topic"], bytes.fromhex(vector["payload"]))
            pytest.fail(vector["name"])


def test_key_ids_are_those_of_the_page(tmp_path):
    """First 8 bytes of SHA-256 over the SubjectPublicKeyInfo, for all three kinds of key."""
    for device in VECTORS["devices"]:
        if "public_spki" in device:
            spki = bytes.fromhex(device["public_spki"])
            assert hashlib.sha256(spki).digest()[:8].hex() == device["key_id"]
            assert VerifyKey.from_bytes(spki, "vector").key_id.hex() == device["key_id"]
    spki = bytes.fromhex("302a300506032b656e032100" + VECTORS["reader"]["public_raw"])
    assert hashlib.sha256(spki).digest()[:8] == _reader(tmp_path).public.key_id


def test_our_sealer_makes_the_same_bytes_again():
    """Sealing has no randomness but its keys: all but envelopes and compressed batches come out as they lie here."""
    spec = importlib.util.spec_from_file_location("make_wire_vectors", ROOT / "tools/make_wire_vectors.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    if not has_zstd():
        pytest.skip("zstd is not available: the vectors cannot be made again without the 'zstandard' package")
    again = {v["name"]: v["payload"] for v in tool.vectors()["opens"]}
    for vector in VECTORS["opens"]:
        if "envelope of" not in vector["name"] and not re.search(r"zip [12]", vector["name"]):
            assert again[vector["name"]] == vector["payload"], vector["name"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: no second language to read in")
def test_a_reader_in_another_language_agrees():
    """node and WebCrypto, written from the page alone: opens what we open, refuses what we refuse."""
    command = ["node", str(ROOT / "tests/wire_decoder.mjs"), str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    for vector in VECTORS["opens"]:
        if vector["name"] == "batch, zip 2":
            assert lines[vector["name"]]["refused"] == "zip is not supported here"
        else:
            assert lines[vector["name"]].get("same"), lines[vector["name"]]
            assert lines[vector["name"]]["opened"] == vector["expect"]
    assert all("refused" in lines[vector["name"]] for vector in VECTORS["refused"])
    assert all(lines[request["name"]]["same"] for request in VECTORS["requests"])


@pytest.mark.parametrize("vector", VECTORS["requests"], ids=lambda vector: vector["name"])
def test_a_request_is_read_and_written_as_the_vectors_say(vector):
    """What a tool in another language signs, a device reads, and the same claims make the same bytes."""
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["technician"]["private_raw"])))
    assert key.public.key_id.hex() == VECTORS["technician"]["key_id"] == vector["key_id"]
    tail = topics.read(vector["topic"])
    assert (tail.place, tail.name) == ("request", f"{vector['operation']}/{vector['id']}")
    target = Target(tail.site, tail.device, *tail.name.split("/"))
    request = parse_request(bytes.fromhex(vector["payload"]), target).verified(key.public)
    said = {"issued_s": request.issued_s, "expires_s": request.expires_s, "counter": request.counter}
    said |= {"audience": request.audience, "args": dict(request.args), "nonce": request.nonce.hex()}
    assert said == {name: vector[name] for name in said}
    assert sign_request(key, request).hex() == vector["payload"]
    assert external(target).hex() == vector["external"]


def _interop_python():
    """An environment of its own for pycose, which holds cbor2 back; made once per lock and kept under build/."""
    lock = ROOT / "tools/locks/interop.txt"
    folder = ROOT / "build" / f"interop-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}-{sys.version_info.minor}"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        pip += ["--require-hashes", "--only-binary", ":all:", "-r", str(lock)]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot fetch tools/locks/interop.txt: {done.stderr.strip().splitlines()[-1]}")
        (folder / "ready").touch()
    return python


def _ask_peer(script, *arguments):
    command = [str(_interop_python()), str(ROOT / "tests" / script), str(FILE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_foreign_validators_accept_our_events():
    """JSON Schema and CDDL, each by somebody else's validator: every vector passes, every spoilt event fails."""
    if subprocess.run([_interop_python(), "-c", "import pycddl"], capture_output=True, check=False).returncode:
        pytest.skip("pycddl has no wheel for this Python and processor")
    told = _ask_peer("schema_peer.py", str(ROOT / "docs"))
    assert told["json"] == sum(len(v["expect"]) for v in VECTORS["opens"]) - 5  # twin, alarm, state, capability, status
    assert len(told["cbor"]) == 5
    assert told["refused"] == told["spoilt"] == 8


def test_another_implementation_of_cose_agrees(opener):
    """pycose verifies our envelopes, decrypts our messages, and writes messages that we open."""
    told = _ask_peer("pycose_peer.py")
    sealed = [v for v in VECTORS["opens"] if not v["payload"].startswith("7b")]
    for vector in sealed:
        expected = vector["steps"]["decrypted"] if "steps" in vector else "verified"
        assert told["read"][vector["name"]] == expected, vector["name"]
    envelope = VECTORS["opens"][0]
    opener.open(envelope["topic"], bytes.fromhex(envelope["payload"]))
    topic = Topics("test-site", "edge").event("door")
    opened = [opener.open(topic, bytes.fromhex(message))[0] for message in told["written"]]
    assert [_said(one) for one in opened] == [VECTORS["opens"][1]["expect"], [], []]  # one event, twice more by its id


# --- the page and its schemas


def test_the_page_shows_the_bytes_that_are_sent():
    """Protected headers and key prefixes stand in the page as they are."""
    page = (ROOT / "docs/wire-format.md").read_text(encoding="utf-8").replace(" ", "")
    for message_type, zip_ in ((1, Zip.NONE), (2, Zip.DEFLATE_RAW)):
        header = message_module.protected_header(message_module.MessageType(message_type), zip_)
        assert header.hex() in page
    assert VECTORS["devices"][1]["public_spki"][:54] in page.replace("`||`", "")


def test_schemas_and_code_name_the_same_keys():
    """event.schema.json, event.cddl and the page list exactly the keys that an event can have."""
    every = set(codec.to_map(event()))
    least = set(codec.to_map(event(
        replay=False, model=None, pipeline="", pipeline_digest="", config_digest="", input_digest="", cache=None,
        decided_by="", media=None,
    )))  # fmt: skip
    schema = json.loads((ROOT / "docs/event.schema.json").read_text())
    assert set(schema["properties"]) == every
    assert set(schema["required"]) == least
    cddl = re.search(r"\nevent = \{(.*?)\n\}", (ROOT / "docs/event.cddl").read_text(), re.DOTALL)[1]
    assert set(re.findall(r"^  (\w+):", cddl, re.MULTILINE)) == least
    assert set(re.findall(r"^  \? (\w+):", cddl, re.MULTILINE)) == every - least
    page = (ROOT / "docs/wire-format.md").read_text(encoding="utf-8")
    section = page.split("## 6. Event")[1].split("### 6.1")[0]
    assert every <= set(re.findall(r"`(\w+)`", section))


def test_the_schema_is_as_strict_as_the_code():
    """Choices and patterns in event.schema.json are those that the code enforces."""
    schema = json.loads((ROOT / "docs/event.schema.json").read_text())["properties"]
    good = codec.to_map(event())
    for key in ("class", "clock", "cache"):
        for value in schema[key]["enum"]:
            codec.from_map(good | {key: value})
        with pytest.raises(EnvelopeError, match=key):
            codec.from_map(good | {key: "x"})
    assert re.fullmatch(schema["id"]["pattern"], good["id"])
    for bad in ("0190A5D0-0000-7000-8000-000000000001", "0190a5d0-0000-4000-8000-000000000001", ""):
        assert not re.fullmatch(schema["id"]["pattern"], bad)
        with pytest.raises(EnvelopeError, match="id"):
            codec.from_map(good | {"id": bad})


# --- the codec


def test_an_event_is_the_same_in_cbor_and_json():
    """Both ways there and back, bytes and all."""
    said = event()
    assert codec.decode(codec.encode(said)) == said
    assert codec.from_map(codec.read_json(codec.to_json(codec.encode(said)))) == said
    assert codec.encode(codec.decode(codec.encode(said))) == codec.encode(said)


@pytest.mark.parametrize("key", sorted(codec.to_map(event()).keys() - {"replay", "model", "cache", "media"}))
def test_every_key_is_checked(key):
    """A value of the wrong type is refused, and the error names the key."""
    for bad in ([], -1, "", True, "x" * 300, 1 << 63):
        table = codec.to_map(event()) | {key: bad}
        try:
            codec.from_map(table)
        except EnvelopeError as exc:
            assert key in str(exc)
        else:
            assert key in ("t_wall_s", "t_mono_s")  # any number is a time


def test_unknown_keys_are_ignored():
    """A newer device can speak to an older reader."""
    assert codec.from_map(codec.to_map(event()) | {"mood": "good"}) == event()


def test_numbers_that_are_not_finite_become_null():
    """JSON has none, so neither has the event."""
    body = {"a": float("nan"), "b": [float("inf"), 1.5]}
    assert codec.to_map(event(body=body))["body"] == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize("body", [{1: 2}, {"x": b"bytes"}, {"x": 1 << 64}, {"x": {1, 2}}, {"x": object()}])
def test_what_the_wire_cannot_say_is_refused(body):
    """An error when the event is made beats one at the reader."""
    with pytest.raises(EnvelopeError):
        codec.encode(event(body=body))


@pytest.mark.parametrize(
    "data",
    [
        "", "00 00", "9f ff", "c1 00", "c2 41 05", "d8 1c 80", "f7", "a2 6161 01 6161 02", "81" * 40 + "00", "61 ff",
        "9b ffffffffffffffff", "5b 7fffffffffffffff 00",
    ],
)  # fmt: skip
def test_only_plain_cbor_is_read(data):
    """Trailing bytes, indefinite lengths, tags, undefined, duplicate keys, deep nesting: no event comes out."""
    with pytest.raises(EnvelopeError):
        codec.from_map(cbor.decode(bytes.fromhex(data)))

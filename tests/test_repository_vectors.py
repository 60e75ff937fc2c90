"""docs/repository.md is enough: its worked examples come out in our code and in another language, its commands run."""

import base64
import hashlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli import main
from agent.envelope.keyfiles import write_private, write_public
from agent.envelope.keys import ReaderKey, SigningKey, spki
from agent.package import FileEntry, PackageManifest, WrappedKey, included
from agent.package.chunks import GEAR, cut, encode_chunks
from agent.package.manifest import Blob, Encryption
from agent.package.recipients import ModelKey
from agent.package.sealed import unseal
from agent.package.squeeze import patch
from tests.repositories import MODELS, versioned

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests/vectors/repository.json"
VECTORS = json.loads(FILE.read_text())
PAGE = (ROOT / "docs/repository.md").read_text()


def stream(length):
    """What the examples are made of."""
    blocks = (hashlib.sha256(b"limpet stream" + n.to_bytes(4, "big")).digest() for n in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def test_our_code_gives_the_worked_examples(tmp_path):
    """Gear, chunks, delta, places, wrapped key, sealed files: a change of a format shows here."""
    assert [int(value) for value in GEAR] == VECTORS["gear"]
    data = stream(VECTORS["chunks"]["stream"])
    assert encode_chunks(cut(io.BytesIO(data))) == base64.b64decode(VECTORS["chunks"]["list"])
    delta, out = VECTORS["delta"], io.BytesIO()
    made = patch(io.BytesIO(stream(5000)), [base64.b64decode(delta["xz"])], delta["stream"], out, "delta")
    assert made == delta["sha256"] == hashlib.sha256(out.getvalue()).hexdigest()
    for p in VECTORS["places"]:
        assert included(p["site"], p["device"], p["target"], p["in_from_percent"])
        assert not included(p["site"], p["device"], p["target"], p["in_from_percent"] - 1)
    wrap = VECTORS["wrap"]
    write_private(tmp_path / "key", bytes.fromhex(wrap["private_raw"]))
    keys = tuple(WrappedKey(**key) for key in wrap["encryption"]["keys"])
    for example in VECTORS["sealed"]:
        plain = stream(example["stream"])
        entry = FileEntry(
            example["path"], len(plain), hashlib.sha256(plain).hexdigest(), sealed=Blob(example["length"], "0" * 64)
        )
        manifest = PackageManifest(
            "model", wrap["name"], wrap["version"], (entry,), "", Encryption("A256GCM", 65536, keys)
        )
        content_key = ModelKey.load(tmp_path / "key").content_key(manifest)
        assert content_key.hex() == wrap["content_key"]
        if "sealed" in example:
            sealed = base64.b64decode(example["sealed"])
            assert b"".join(unseal(io.BytesIO(sealed), content_key, manifest, entry)) == plain


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: no second language to read in")
def test_a_reader_in_another_language_gives_them_too():
    """node and WebCrypto, written from the page alone."""
    command = ["node", ROOT / "tests/repository_reader.mjs", FILE]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "19 checks" in said.stdout


def test_the_published_vectors_are_made_by_the_tool_beside_them():
    """What is not random by nature is the same today."""
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools/make_repository_vectors.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    fresh = json.loads(json.dumps(tool.vectors()))
    for key in ("warning", "gear", "chunks", "delta", "places"):
        assert fresh[key] == VECTORS[key]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Everything that the walkthrough takes for granted."""
    monkeypatch.chdir(tmp_path)
    versioned(MODELS / "keywords", tmp_path / "models/keywords", "1.0.0")
    versioned(MODELS / "keywords", tmp_path / "models/keywords-1.1.0", "1.1.0")
    versioned(MODELS / "vibration", tmp_path / "models/secret", "1.0.0", name="secret")
    for name in ("anna", "ben"):
        write_public(tmp_path / f"{name}.pub", spki(SigningKey.generate().public.public, pem=True))
    for name in ("door", "lobby", "desk"):
        write_public(tmp_path / f"{name}.pub", spki(ReaderKey.generate().public.public, pem=True))
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "technicians.toml").write_text(example)
    scope = 'name = "desk"\nsites = ["*"]\ndevices = ["*"]\n'
    (tmp_path / "readers.toml").write_text(f'[[readers]]\nfile = "desk.pub"\n{scope}')
    (tmp_path / "revoked.toml").write_text('[[keys]]\nkid = "0123456789abcdef"\n')
    for layer in ("base.toml", "group-doors.toml"):
        (tmp_path / layer).write_text("schema = 1\n")
    (tmp_path / "release").mkdir()
    (tmp_path / "release/limpet_agent-0.2.0-py3-none-any.whl").write_bytes(b"wheel")
    return tmp_path


def test_the_walkthrough_runs_as_it_stands(folder, capsys):
    """Every command of the page in its order; those that wait for others' keys end with 1, all others with 0."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line.replace("/srv/www", str(folder / "www")).replace("/media", str(folder / "media")))
        assert words[:2] == ["limpet", "repo"]
        status = main(words[1:])
        said = capsys.readouterr()
        assert status == (1 if "team" in words else 0), (line, said)
    assert (folder / "www/fleet/metadata/timestamp.json").exists()

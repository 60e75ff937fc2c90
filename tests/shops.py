"""A catalogue of one tiny model of our own, and a web server that has its file: public models in small.

A test file makes the fixtures its own: `shop, mirror = pytest.fixture(shops.shop), pytest.fixture(shops.mirror)`.
"""

import hashlib

import numpy as np

from tests.console import limpet
from tests.fault_server import FaultServer
from tests.tiny_models import make_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLACE = f"acme/models/{COMMIT}/deep/copy.onnx"
"""Where a mirror has the file."""
BALLAST = f"acme/models/{COMMIT}/deep/ballast.bin"
LICENCE = 'id = "{}"\ntext = "github:acme/models@' + COMMIT + ':LICENSE"\nattribution = "Acme and others"\n'


def shop(tmp_path):
    """A catalogue of one model, and its bytes."""
    catalogue = tmp_path / "catalogue"
    return catalogue, make_entry(catalogue)


def mirror(shop):
    """A server from which that model can be fetched."""
    with FaultServer() as server:
        server.files[PLACE] = shop[1]
        yield server


def add(capsys, tmp_path, shop, mirror):
    """Add the model from the mirror, or with other words: (status, standard error)."""

    def adding(*words):
        more = words if "--mirror" in words else ("--mirror", mirror.url, *words)
        into = () if "--into" in words else ("--into", tmp_path / "models")
        status, _, err = limpet(capsys, "add", "tiny", "--catalogue", shop[0], *into, *more)
        return status, err

    return adding


def make_entry(catalogue, name="tiny", *, licence="MIT", commit=COMMIT, wrong_answer=False, ballast=b""):
    """Write an entry; returns the bytes that are to be fetched. `wrong_answer`: its golden output is another one.
    `ballast`: a second file to be fetched, deep/ballast.bin."""
    folder = catalogue / name
    make_model(folder / "model", "copy", "onnx", name=name, extra=f'licence = "{licence}"')
    data = (folder / "model" / "copy.onnx").read_bytes()
    (folder / "model" / "copy.onnx").unlink()
    (folder / "model" / "golden").mkdir()
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    np.savez(folder / "model" / "golden" / "in.npz", x=x)
    np.savez(folder / "model" / "golden" / "out.npz", y=x + wrong_answer)
    with (folder / "model" / "model.toml").open("a") as file:
        file.write('[[golden]]\ninput = "golden/in.npz"\noutput = "golden/out.npz"\n')
    (folder / "entry.toml").write_text(
        f'schema = 1\ntask = "copying"\nlatency_ms = 0.01\n[licence]\n{LICENCE.format(licence)}'
        f'[[file]]\npath = "copy.onnx"\norigin = "github:acme/models@{commit}:deep/copy.onnx"\n'
        f'sha256 = "{hashlib.sha256(data).hexdigest()}"\nsize_bytes = {len(data)}\n'
    )
    if ballast:
        with (folder / "entry.toml").open("a") as file:
            file.write(
                f'[[file]]\npath = "ballast.bin"\norigin = "github:acme/models@{commit}:deep/ballast.bin"\n'
                f'sha256 = "{hashlib.sha256(ballast).hexdigest()}"\nsize_bytes = {len(ballast)}\n'
            )
    (folder / "pipeline.toml").write_text(
        f'schema = 1\nname = "{name}"\nsource = "SOURCE"\n[model]\nname = "MODEL"\n'
        '[[rule]]\nkind = "every"\nperiod_s = 5\n'
    )
    for path in (catalogue, *catalogue.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return data


def edit(path, old, new):
    """Replace what stands there once."""
    text = path.read_text()
    assert text.count(old) == 1, (old, text)
    path.write_text(text.replace(old, new))


def left(root):
    """Everything below `root`, folders included."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))

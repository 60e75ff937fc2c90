"""`limpet models add` where Limpet is installed: root adds, the agent's user reads and cannot change what it runs."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from agent.catalogue import proved
from agent.errors import ModelError
from agent.registry import installed, verified
from tests.console import limpet
from tests.fault_server import FaultServer
from tests.shops import PLACE, make_entry
from tests.test_install import ROOT, able, checkout, image, mode  # noqa: F401
from tests.tiny_models import make_model

NOBODY = 65534


@pytest.fixture
def release(image):  # noqa: F811
    """The command of the installed release, with this environment's packages."""
    python = image / "opt/limpet/current/bin/python"
    asked = [python, "-c", "import sys; print(sys.version_info[:2])"]
    if subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() != str(sys.version_info[:2]):
        pytest.skip("the installer found a Python of another version, for which this environment has no packages")

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
        command = [python, "-P", "-m", "agent", "models", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")

    return run


def test_the_installed_command_knows_its_catalogue_and_adds(release, image, tmp_path):  # noqa: F811
    """The catalogue lies with the release; added models lie where the configuration says, root's."""
    config = image / "etc/limpet/conf.d/added.toml"
    added = image / "var/lib/limpet-added"
    config.write_text(f'schema = 1\n[models]\nadded = "{added}"\nfolders = []\n')
    (image / "etc/limpet/limpet.toml").write_text("schema = 1\n")
    words = ("--config", image / "etc/limpet/limpet.toml")
    told = release("catalogue", *words)
    assert (told.returncode, "person-detector" in told.stdout) == (0, True), told.stderr

    catalogue = tmp_path / "catalogue"
    with FaultServer() as mirror:
        mirror.files[PLACE] = make_entry(catalogue)
        done = release("add", "tiny", *words, "--catalogue", catalogue, "--mirror", mirror.url)
    assert done.returncode == 0, done.stderr
    assert [mode(added), mode(added / "tiny")] == [(0o755, 0, 0)] * 2
    assert mode(added / "tiny" / "copy.onnx") == (0o644, 0, 0)
    assert release("list", *words).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_the_agents_user_reads_what_root_added_and_changes_nothing(capsys, tmp_path):
    """It finds the model, believes it, and may neither write to it nor put another in its place."""
    catalogue = tmp_path / "catalogue"
    with FaultServer() as mirror, tempfile.TemporaryDirectory() as open_to_all:
        root = Path(open_to_all) / "added"
        Path(open_to_all).chmod(0o755)
        mirror.files[PLACE] = make_entry(catalogue)
        words = ("add", "tiny", "--catalogue", catalogue, "--into", root, "--mirror", mirror.url)
        assert limpet(capsys, *words)[0] == 0
        assert _as_nobody(lambda: _read_and_fail_to_write(root)) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_what_root_adds_is_tried_as_the_agents_user(monkeypatch):
    """Seen by a file that root alone may read: the child that tries the model cannot."""
    monkeypatch.setattr("agent.catalogue.proof.AGENT_USER", "nobody")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setenv("PYTHONPATH", sysconfig.get_path("purelib"))
    asked = [sys.executable, "-c", f"import sys, numpy; sys.path.insert(0, {str(ROOT)!r}); import agent"]
    if subprocess.run(asked, cwd="/", user=NOBODY, capture_output=True, check=False).returncode:
        pytest.skip("on this machine nobody may run /usr/bin/python3 with this environment's packages")
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        make_model(Path(open_to_all) / "tiny", "copy", "onnx")
        assert "onnxruntime" in proved(Path(open_to_all) / "tiny")
        (Path(open_to_all) / "tiny" / "copy.onnx").chmod(0o600)
        with pytest.raises(ModelError, match="Permission denied"):
            proved(Path(open_to_all) / "tiny")


def _read_and_fail_to_write(root):
    (found,) = installed([root])
    with verified(found.manifest, found.manifest.artifacts[0]) as path:
        assert path.read_bytes()
    change, replace = (lambda: (root / "tiny" / "copy.onnx").open("r+b")), (lambda: (root / "tiny").rename(root / "x"))
    for act in (change, replace, (root / "tiny" / "more").touch, (root / ".parts").mkdir):
        with pytest.raises(PermissionError):
            act()


def _as_nobody(work):
    """The exit status of a child of that user."""
    if not (child := os.fork()):
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]

"""Secrets by name: what systemd hands over is found, for every kind of secret, and plain paths stay paths."""

from pathlib import Path

import pytest

from agent.credentials import locate
from agent.mqtt.protect import password


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A credentials folder that holds one password."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "limpet.mqtt.password").write_text("open sesame\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_bare_name_is_a_credential(given):
    """By its name, or by its full path."""
    assert locate(Path("limpet.mqtt.password")) == given / "limpet.mqtt.password"
    assert locate(given / "limpet.mqtt.password") == given / "limpet.mqtt.password"
    assert password(Path("limpet.mqtt.password")) == "open sesame"


@pytest.mark.parametrize("path", ["limpet.other", "/etc/limpet.mqtt.password", "sub/limpet.mqtt.password"])
def test_everything_else_is_a_path(given, path):
    """A credential that is not there, or a name with a folder in it."""
    assert locate(Path(path)) == Path(path)


def test_without_a_service_manager_a_name_is_a_file(monkeypatch):
    """A checkout on a desk."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert locate(Path("limpet.mqtt.password")) == Path("limpet.mqtt.password")

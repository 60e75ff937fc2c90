"""Packages with plugins, installed as pip would: files, METADATA, entry_points.txt and RECORD.

A test file makes the fixtures its own: `place = pytest.fixture(plugins.place)`.
"""

import base64
import hashlib
import shutil
import sys
import tomllib
from pathlib import Path

from agent.plugins import adopt
from agent.settings.plugins import PluginsConfig

EXAMPLE = Path(__file__).resolve().parent / "plugin_example"
STEP = """
from dataclasses import dataclass
LIMPET_API = 1
@dataclass(frozen=True, slots=True)
class Same:
    def __call__(self, view, /):
        return view
"""
ENTRY = {"limpet.steps": {"pre.same": "extra:Same"}}


def forget():
    """Each test begins and ends without plugins and without their modules."""
    path = list(sys.path)
    yield
    adopt(PluginsConfig())
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in {"extra", "other", "limpet_example"}]:
        del sys.modules[name]


def place(tmp_path):
    """The folder in which packages are installed."""
    return tmp_path / "site"


def allow(place, *names):
    """The settings that allow these packages."""
    return PluginsConfig(allow=names, folder=place)


def install_example(site: Path) -> Path:
    """The example of this repository, from its pyproject.toml; returns `site`."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copytree(EXAMPLE / "limpet_example", site / "limpet_example", ignore=shutil.ignore_patterns("__pycache__"))
    return _record(site, project["name"], project["version"], project["entry-points"], "limpet_example")


def install(site: Path, name: str, entries: dict[str, dict[str, str]], text: str, *, version: str = "1.0") -> Path:
    """A package of one module, called as the package, that holds `text`; returns `site`."""
    module = name.replace("-", "_")
    (site / module).mkdir(parents=True)
    (site / module / "__init__.py").write_text(text)
    return _record(site, name, version, entries, module)


def _record(site: Path, name: str, version: str, entries: dict[str, dict[str, str]], module: str) -> Path:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in table.items()) for group, table in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))
    files = [path for folder in (site / module, info) for path in folder.rglob("*") if path.is_file()]
    rows = [f"{path.relative_to(site)},sha256={_hash(path)},{path.stat().st_size}" for path in files]
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]) + "\n")
    for path in (site, *site.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return site


def _hash(path: Path) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()

"""Signed releases of the agent for tests: a real repository, real wheels, and a depot that holds what was fetched."""

import hashlib
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.depot import AGENT, Pick, put
from agent.package import PackageManifest
from agent.release.wheels import needed
from agent.repository.keyring import Keyring
from agent.repository.publisher import KeyPlan, Publisher
from agent.repository.workspace import Lifetimes, Workspace
from agent.updates.client import Repository
from agent.updates.local import BASE, LocalFetcher

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import make_release

ROOT = make_release.ROOT
SOURCES = ("agent", "pipelines", "systemd", "pyproject.toml", "README.md", "LICENSE")


def checkout(folder, version, change=None):
    """A copy of this checkout that calls itself `version`; `change(folder)` may break it. Returns its path.

    One model stands for all: each is loaded and run when the release is installed.
    """
    make_release.copy_tree(ROOT / "models" / "vibration", folder / "models" / "vibration")
    (folder / "docs").mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            make_release.copy_tree(ROOT / name, folder / name)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    replace(folder / "agent" / "__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"')
    if change:
        change(folder)
    return folder


def replace(path, pattern, text):
    """Change a file of a checkout; fails the test when there is nothing to change."""
    changed, count = re.subn(pattern, lambda _: text, path.read_text(), count=1)
    assert count == 1, f"{path}: {pattern}"
    path.write_text(changed)


class Shop:
    """A publisher's repository in `folder`; `public` is what a web server shows, `anchor` what devices trust."""

    def __init__(self, folder):
        self.folder = folder
        self.workspace = Workspace(folder / "repository")
        plans = {role: KeyPlan() for role in ("root", "targets", "snapshot", "timestamp")}
        self._now = datetime.now(UTC).replace(microsecond=0)
        Publisher.create(self.workspace, Keyring(), plans, Lifetimes(), self._now).finish()

    @property
    def public(self):
        return self.workspace.public

    @property
    def anchor(self):
        return self.workspace.anchor

    def publisher(self, ago_days=0):
        """The publisher at work, now or some time ago."""
        return Publisher(self.workspace, Keyring(), self._now - timedelta(days=ago_days))

    def add(self, version, change=None):
        """Make a release of a changed checkout, sign it and offer it to all; returns its pick."""
        return self.add_all({version: change})[version]

    def add_all(self, changes):
        """The same for several, by version; their wheels are built side by side."""
        with ThreadPoolExecutor(4) as pool:
            made = dict(zip(changes, pool.map(self._make, changes, changes.values()), strict=True))
        publisher = self.publisher()
        picks = {}
        for version, folder in made.items():
            manifest = publisher.add_agent(folder, version)
            publisher.release("agent", "agent", version, "stable", 100)
            picks[version] = Pick(version, hashlib.sha256(manifest.encode()).hexdigest())
        publisher.finish()
        return picks

    def _make(self, version, change):
        made = self.folder / f"release-{version}"
        make_release.make(made, [], None, checkout(self.folder / f"source-{version}", version, change))
        return made


def fetched(shop, depot, pick):
    """A depot as the updater leaves it: metadata, and the release in its place. Returns the release's folder."""
    with Repository(depot / "metadata", BASE, shop.anchor.read_bytes(), LocalFetcher(shop.public)) as repository:
        repository.refresh()
        data = repository.read(f"releases/agent/{pick.version}.json", 1 << 20)
    files = [file for file in PackageManifest.decode(data).files if needed(file.path)]
    staged = depot / "parts" / "staged"
    for file in files:
        (staged / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shop.public / "blobs" / file.sha256, staged / file.path)
    return put(depot, AGENT, pick, data, files, staged)

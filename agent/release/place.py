"""Where releases lie, and the three links that say which is which.

    <opt>/releases/<id>     an environment with the agent in it; root's, complete when it holds `.complete`
    <opt>/current           what limpet.service runs, perhaps on probation
    <opt>/good              what was committed last; updater, try counter and switch run from it
    <opt>/previous          what was committed before, for a way back by request

Links move in one step each and are durable when `point` returns. A release that came as a signed package is called
<version>-<first 12 digits of its package's sha256>, as in the depot; one of the installer's has 12 digits alone.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent.durable import sync_folder

Link = Literal["current", "good", "previous"]
LINKS: Final[tuple[Link, ...]] = ("current", "good", "previous")
COMPLETE: Final = ".complete"


def release_id(version: str, sha256: str) -> str:
    """What a signed release is called."""
    return f"{version}-{sha256[:12]}"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that all releases lie in."""

    opt: Path = Path("/opt/limpet")

    @property
    def current(self) -> str:
        """Id of the release that runs; empty where nothing is installed."""
        return self._link("current")

    @property
    def good(self) -> str:
        """Id of the release that was committed last."""
        return self._link("good")

    @property
    def previous(self) -> str:
        """Id of the one before, empty when it is gone."""
        return self._link("previous")

    def folder(self, name: str) -> Path:
        """Where the release called `name` lies, whether or not it is there."""
        return self.opt / "releases" / name

    def complete(self, name: str) -> bool:
        """Whether the release is there to its last file."""
        return bool(name) and (self.folder(name) / COMPLETE).is_file()

    def seal(self, name: str) -> None:
        """Bring a release that was built to the disk, and say that it is whole. Raises OSError."""
        os.sync()  # some ten thousand files: one call for all of them
        (self.folder(name) / COMPLETE).touch()
        for folder in (self.folder(name), self.opt / "releases"):
            sync_folder(folder)

    def point(self, link: Link, name: str) -> None:
        """Let `link` lead to the release `name`, in one step. Raises OSError."""
        fresh = self.opt / f"{link}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / name)
        fresh.rename(self.opt / link)
        sync_folder(self.opt)

    def collect(self) -> None:
        """Remove every release that no link leads to. Raises OSError."""
        kept = {self.current, self.good, self.previous}
        for folder in (self.opt / "releases").iterdir():
            if folder.name not in kept:
                (folder / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(folder)

    def _link(self, link: Link) -> str:
        try:
            return (self.opt / link).readlink().name
        except OSError:
            return ""


def own_release(prefix: str = sys.prefix) -> str:
    """Id of the release that this process runs from; empty in a checkout. `prefix`: of the environment."""
    folder = Path(prefix).resolve()
    return folder.name if folder.parent.name == "releases" and (folder / COMPLETE).is_file() else ""

"""Can the agent and its updater write where they must? What `limpet check` asks of folders, without making any.

Owns the list of those folders, and the judgement by owner, group and mode: that root, who runs `check`, may write says
nothing about the agent's user. Rules: what is not there yet must be makeable; what the service manager makes is left to
it; what cannot be seen is said, and is no problem. For other users than one's own, access lists (ACL) are not read.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.catalogue.proof import AGENT_USER
from agent.cli.options import DEFAULT_CONFIG
from agent.config import Config
from agent.control import UPDATER
from agent.credentials import locate
from agent.layerfiles import folder_of

UNIT_MADE: Final = ("/run/limpet", "/var/lib/limpet", "/var/lib/limpet-models")
"""What systemd makes for the units of an installation, and gives their user with all that is in it when it is another's
(StateDirectory= and RuntimeDirectory= in man systemd.exec(5))."""
SPOOL: Final = "/run/limpet-update"
"""What its tmpfiles make at each boot."""
_ENTER, _WRITE = 1, 2
"""Bits of a mode: to go through a folder; to write a file, or make and remove things in a folder."""


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody whose rights are judged."""

    name: str
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that somebody must be able to write."""

    what: str
    path: Path
    key: str
    """The setting that names it."""
    who: Who
    only: str | None = None
    """Files in it that must be writable too: those whose name begins so; None: no file is looked at."""
    by_unit: bool = False
    """Whether systemd runs who writes here, makes what is missing of `UNIT_MADE`, and lets nothing else be written."""


def places(config: Config, path: Path, service_at: Path = DEFAULT_CONFIG) -> Iterator[Place]:
    """Where what `config` asks for is written, and by whom. `path`: its limpet.toml; the service uses `service_at`."""
    service = path == service_at
    me = _myself()
    agent, updater = (_user(AGENT_USER) or me, _user(UPDATER) or me) if service else (me, me)
    for what, folder, key, only in _agents(config):
        yield Place(what, folder, key, agent, only, service)
    if config.updates.root is not None and (service or config.updates.updater == "child"):
        yield Place("the depot", config.updates.folder, "[updates] folder", updater, None, service)
        yield Place("the spool", config.updates.spool, "[updates] spool", agent, None, service)


def _agents(config: Config) -> Iterator[tuple[str, Path, str, str | None]]:
    """What it is for, the folder, its setting, and which files of it are looked at."""
    yield "the outbox", config.store.folder, "[store] folder", ""
    if len(config.store.key_file.parts) > 1 and not locate(config.store.key_file).exists():
        yield "the outbox's key", config.store.key_file.parent, "[store] key_file", None
    yield "the control socket", config.paths.runtime, "[paths] runtime", None
    if config.commands.enabled:
        journal = config.commands.journal
        yield "the journal of commands", journal.parent, "[commands] journal", journal.name
    if config.identity.enabled:
        yield "keys and certificates", config.identity.folder, "[identity] folder", None
    if config.remote.enabled:
        yield "settings from afar", folder_of(config), "[remote] folder", ""
    if config.updates.ring_mb:
        yield "recent inputs", config.updates.ring_folder, "[updates] ring_folder", None


def judged(place: Place) -> tuple[str, str]:
    """What is wrong with a place, and what is to be known though nothing is; both empty when all is well."""
    path = place.path.absolute()
    try:
        problem = _problem(place, path)
    except OSError as exc:
        return "", f"cannot be looked at: {exc.filename}: {exc.strerror}: sudo limpet check"
    if problem or not place.by_unit:
        return problem, ""
    if not any(path.is_relative_to(made) for made in (*UNIT_MADE, SPOOL)):
        return "", "limpet.service may write there only if ReadWritePaths= says so: sudo systemctl edit limpet"
    return "", ""


def _problem(place: Place, path: Path) -> str:
    there = next(folder for folder in (path, *path.parents) if _is_there(folder, place.who))
    if place.by_unit and _by_the_unit(place, path):
        return ""
    if not stat.S_ISDIR(there.stat().st_mode):
        return f"{there} is no folder: move it away, or name another in {place.key}"
    way = [*reversed(there.parents), *([there] if there != path else [])]
    if shut := next((folder for folder in way if not _may(place.who, folder, _ENTER)), None):
        return f"{place.who.name} cannot reach {path} through {_told(shut)}: open it, or name another in {place.key}"
    if not _may(place.who, there, _ENTER | _WRITE):
        return _closed(place, path, there)
    return _closed_file(place, path) if place.only is not None and there == path else ""


def _closed(place: Place, path: Path, there: Path) -> str:
    name, other = place.who.name, f"or name another in {place.key}"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{path} lies on a file system that can only be read: mount it for writing, {other}"
    if there == path:
        return f"{path} cannot be written by {name}: {_told(path)}: sudo chown -R {name}: {path}, {other}"
    words = f"{path} is not there and {name} cannot make it in {_told(there)}"
    return f"{words}: sudo install -d -o {name} -m 700 {path}, {other}"


def _closed_file(place: Place, path: Path) -> str:
    """About a file that somebody else made there, most often root by a run by hand."""
    for file in sorted(path.iterdir()):
        mine = file.name.startswith(place.only or "") and file.is_file() and not file.is_symlink()
        if mine and not _may(place.who, file, _WRITE):
            return f"{_told(file)}: {place.who.name} cannot write it: sudo chown -R {place.who.name}: {path}"
    return ""


def _by_the_unit(place: Place, path: Path) -> bool:
    """Whether systemd will make the folder in which `path` is, or give it to its user, before anything is written."""
    made = next((Path(folder) for folder in (*UNIT_MADE, SPOOL) if path.is_relative_to(folder)), None)
    if made is None:
        return False
    if not made.exists():
        return True
    return str(made) != SPOOL and made.stat().st_uid != place.who.uid


def _is_there(path: Path, who: Who) -> bool:
    """Raises PermissionError where that is hidden from oneself, unless it is oneself who must write there."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        if who.uid != os.geteuid():
            raise
        return False
    return True


def _may(who: Who, path: Path, bits: int) -> bool:
    if who.uid == os.geteuid():
        return os.access(path, (os.W_OK if bits & _WRITE else 0) | (os.X_OK if bits & _ENTER else 0))
    if bits & _WRITE and os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    found = path.stat()
    shift = 6 if found.st_uid == who.uid else 3 if found.st_gid in who.groups else 0
    return who.uid == 0 or found.st_mode >> shift & bits == bits


def _myself() -> Who:
    return Who(_name(os.geteuid()), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def _user(name: str) -> Who | None:
    """None when there is no such user."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Who(name, found.pw_uid, frozenset(os.getgrouplist(name, found.pw_gid)))


def _told(path: Path) -> str:
    """A path with its owner and mode."""
    found = path.stat()
    return f"{path} ({_name(found.st_uid)}'s, mode {stat.S_IMODE(found.st_mode):04o})"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

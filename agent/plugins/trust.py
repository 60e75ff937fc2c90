"""Whether a package's files can be trusted: who may write them may do what the agent may.

Looks at owners and modes of every file that was installed and of every folder above it up to the one that it was
installed into. Reads no file, imports nothing.
"""

import stat
from collections.abc import Iterable
from pathlib import Path

from agent.ownership import is_private_group, trusted_users


def foreign(base: Path, files: Iterable[Path]) -> str:
    """Why what lies at `files`, below the folder `base`, cannot be trusted; empty when it can."""
    owners = trusted_users()
    seen: set[Path] = set()
    for file in files:
        for path in (file, *file.parents):
            if path in seen or not path.is_relative_to(base):
                break
            seen.add(path)
            if why := _foreign(path, owners):
                return why
    return ""


def _foreign(path: Path, owners: set[int]) -> str:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return f"{path} is missing: install the package again"
    except OSError as exc:
        return f"{path} cannot be looked at: {exc.strerror}: let the agent's user read it"
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a link: install the package as files"
    if status.st_mode & stat.S_IWOTH:
        return f"{path}: everybody may write to it: chmod o-w {path}"
    if status.st_mode & stat.S_IWGRP and not is_private_group(status):
        return f"{path}: its group may write to it: chmod g-w {path}"
    if status.st_uid not in owners:
        return f"{path} belongs to user id {status.st_uid}: chown root {path}"
    return ""

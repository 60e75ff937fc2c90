"""Who root is while it works in a folder of prepared files.

The folder is mostly another user's, the updater's: whoever owns it, or a folder on the way to it, may put a link in the
place of anything at any time, so what root did there by path could be led anywhere. Rule: root acts as that user, and
can do nothing that the user could not; it is itself again for starting children alone. All threads of the process
change with it, so this is for commands. Nothing changes for whoever is not root.
"""

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MOST_LINKS: Final = 40
"""As the kernel."""


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """For the block root has the rights of who decides what `folder` is. Raises OSError."""
    user = holder(folder) if os.geteuid() == 0 else 0
    if not user:
        yield
        return
    own_group, own_groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(())
        os.setegid(group_of(user))
        os.seteuid(user)
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_group)
        os.setgroups(own_groups)


@contextmanager
def as_root() -> Iterator[None]:
    """Within `as_owner`: root again for the block."""
    if os.getuid() != 0 or os.geteuid() == 0:
        yield
        return
    user = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(user)


def holder(folder: Path) -> int:
    """The first user but root who owns a folder, or a link, on the way to `folder` or itself; 0: root alone.

    What is not there yet belongs to who owns the way to it. Raises OSError.
    """
    here, rest, links = Path("/"), list(reversed(folder.absolute().parts[1:])), 0
    while rest:
        here = Path(os.path.normpath(here / rest.pop()))  # `here` has no links in it
        try:
            status = here.lstat()
        except FileNotFoundError:
            return 0
        if status.st_uid:
            return status.st_uid
        if stat.S_ISLNK(status.st_mode):
            if (links := links + 1) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
            target = here.readlink()
            rest += [part for part in reversed(target.parts) if part != "/"]
            here = Path("/") if target.is_absolute() else here.parent
    return 0


def group_of(user: int) -> int:
    """That user's own group: root's would open what is open to it."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return user

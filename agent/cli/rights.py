"""Whose files a command writes."""

import os
import pwd
from pathlib import Path


def become_owner(folder: Path) -> None:
    """Root by hand becomes the updater's user: what root would write, that user could not replace."""
    try:
        owner = folder.stat()
    except OSError:
        return
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)

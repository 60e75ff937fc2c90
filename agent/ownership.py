"""Whose files may be trusted: who may write a file decides what becomes of it, and of who reads it.

Owns who that is. What follows, and in which words it is refused, is the business of who asks.
"""

import grp
import os
import pwd
from pathlib import Path


def trusted_users() -> set[int]:
    """Root, this user, and the owner of this code: who may change the code needs no other file to do harm."""
    return {0, os.geteuid(), Path(__file__).stat().st_uid}


def is_private_group(status: os.stat_result) -> bool:
    """Whether a file's group has nobody in it but its owner, as Debian and Ubuntu make for every user (umask 002)."""
    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and status.st_gid == owner.pw_gid and not set(group.gr_mem) - {owner.pw_name}

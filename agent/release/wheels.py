"""Which files of a release this machine needs: one release carries wheels for several Pythons and processors.

Names of wheels are read as PEP 427 and PEP 425 say. A wheel that is taken without need costs bytes; one that is left
out and needed stops the installation before anything is switched. So only what surely does not fit is left out.
"""

import platform
import sys
from pathlib import PurePosixPath

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def needed(path: str, python: tuple[int, int] = sys.version_info[:2], machine: str = platform.machine()) -> bool:
    """Whether the file `path` of a release is of use under `python` on `machine`."""
    name = PurePosixPath(path)
    if name.suffix != ".whl":
        return True
    interpreters, abi, platforms = name.stem.split("-")[-3:]
    return _runs(interpreters, abi, python) and any(
        tag == "any" or (tag.startswith(("linux", "manylinux")) and tag.endswith(_MACHINES.get(machine, machine)))
        for tag in platforms.split(".")
    )


def _runs(interpreters: str, abi: str, python: tuple[int, int]) -> bool:
    """A wheel of the stable interface runs on later Pythons too, any other cp311 on 3.11 alone."""
    major, minor = python
    for tag in interpreters.split("."):
        if tag in ("py3", f"py{major}{minor}", f"cp{major}{minor}"):
            return True
        if tag.startswith(f"cp{major}") and "abi3" in abi.split(".") and tag[3:].isdigit() and int(tag[3:]) <= minor:
            return True
        if tag.startswith(f"py{major}") and tag[3:].isdigit() and int(tag[3:]) <= minor:
            return True
    return False

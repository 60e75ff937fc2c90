"""A release becomes an environment: packages from its own wheels, each checked against its lock, and a first proof.

No network, no index, no build of anything: `pip` installs wheels whose hashes the lock names. The proof runs the new
code for the first time, as a user that owns nothing: it must know its version, import what a device runs, understand
the configuration, and answer the golden inputs of its own models.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import UpdateError
from agent.release.place import Place

BUILD_S: Final = 900.0
"""Longest time for making an environment: a small machine unpacks 400 MB onto an SD card, seconds."""
IMPORTS: Final = "import agent.app.app, agent.cli.run, agent.cli.update, agent.release.switch"


@dataclass(frozen=True, slots=True)
class Nobody:
    """Who runs the new code at first."""

    user: int | str = "limpet-update"
    group: int | str = "limpet"


def build(staged: Path, place: Place, name: str) -> None:
    """Make the environment of the release `name` from its files in `staged`. Raises UpdateError, and keeps nothing."""
    target = place.folder(name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _run([base_python(), "-m", "venv", str(target)], BUILD_S, f"release {name}: no environment could be made")
        _run(_pip(target, staged), BUILD_S, f"release {name}: its packages could not be installed")
        _share(staged, target / "share" / "limpet")
    except OSError as exc:
        shutil.rmtree(target, ignore_errors=True)
        reason = "NO_SPACE" if exc.errno in (28, 122) else "FAILED"
        raise UpdateError(f"release {name}: {exc.filename or target}: {exc.strerror}", reason) from exc
    except UpdateError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def probe(place: Place, name: str, version: str, config: Path, limit_s: float, nobody: Nobody | None) -> None:
    """Run the new code for the first time. Raises UpdateError (PROBATION_FAILED) that says what it said.

    `nobody`: None runs it as this very user, for where there is no other.
    """
    python = str(place.folder(name) / "bin" / "python")
    models = str(place.folder(name) / "share" / "limpet" / "models")
    verify = ["-m", "agent", "models", "--config", str(config), "verify", "--folder", models]
    for words, what in (
        (["-m", "agent", "--version"], "it does not start"),
        (["-c", IMPORTS], "a part of it cannot be imported"),
        (verify, "it cannot run its own models here, or does not understand the configuration"),
    ):
        said = _run([python, "-P", *words], limit_s, f"release {name}: {what}", nobody)
        if words[-1] == "--version" and said.split()[-1:] != [version]:
            raise UpdateError(f"release {name}: it calls itself {said.strip()!r}, not {version}", "PROBATION_FAILED")


def base_python() -> str:
    """The Python that environments are made of: the one under this environment."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _pip(target: Path, staged: Path) -> list[str]:
    return [
        str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--no-index", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--require-hashes",
        "--find-links", str(staged / "wheels"), "--requirement", str(staged / "lock.txt"),
    ]  # fmt: skip


def _share(staged: Path, target: Path) -> None:
    """Models, documents and pipelines, and the units for the day of a way back."""
    shutil.copytree(staged / "share", target)
    shutil.copytree(staged / "units", target / "systemd")
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _run(words: Sequence[str], limit_s: float, what: str, nobody: Nobody | None = None) -> str:
    """Standard output of a command. Raises UpdateError with the end of what it said.

    PROBATION_FAILED, because it is the release that fails, unless the disk is full or the command is missing.
    """
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if key in os.environ}
    clean = {"PIP_CONFIG_FILE": os.devnull, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    who = {"user": nobody.user, "group": nobody.group, "extra_groups": ()} if nobody else {}
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=limit_s, cwd="/", env={**kept, **clean}, check=False, **who,
        )  # type: ignore[call-overload]  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise UpdateError(f"{what}: no end after {limit_s:g} s", "PROBATION_FAILED") from exc
    except OSError as exc:
        raise UpdateError(f"{what}: {words[0]}: {exc.strerror}", "FAILED") from exc
    if done.returncode:
        tail = " | ".join(done.stdout.strip().splitlines()[-6:])[-1200:]
        reason = "NO_SPACE" if "No space left" in done.stdout or "Errno 122" in done.stdout else "PROBATION_FAILED"
        raise UpdateError(f"{what} (status {done.returncode}): {tail}", reason)
    return str(done.stdout)

"""Whether a model folder may be published: manifest, permissions, digests, golden answers, as a device would check.

A publisher learns here, and not from a thousand devices, that a graph does not load or answers something else.
"""

import dataclasses
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import ConfigError, ModelError
from agent.golden import selftest
from agent.loading import open_model
from agent.manifest import MANIFEST_FILE, Artifact, Manifest, load_manifest
from agent.registry import candidates, verified
from agent.runtime import RuntimeMissingError
from agent.tomlfile import parse, read_plain
from agent.views import views

_ALWAYS: Final = ("LICENSE*", "LICENCE*", "NOTICE*")
_MANIFEST_LIMIT_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Proven:
    """A model folder that was found good."""

    manifest: Manifest
    requires_agent: str
    files: dict[str, Path]
    """Path in the package -> file: what the manifest names, licences, and what was asked for."""
    artifacts: frozenset[str]
    unproven: tuple[str, ...]
    """Artifacts whose golden answers were not asked for here, and why, in words."""


def prove(folder: Path, include: tuple[str, ...] = (), *, goldens: bool = True, limit_bytes: int = 1 << 40) -> Proven:
    """Check a model folder. Raises ModelError that says what is wrong with it, ConfigError for a bad `include`.

    `include`: patterns of further files of the folder. `goldens`: run the golden inputs of what runs on this machine.
    """
    manifest = load_manifest(folder)
    unproven = tuple(_prove_all(manifest, goldens, limit_bytes))
    files = {name: folder / name for name in _named(manifest)}
    for pattern in (*_ALWAYS, *include):
        found = {path.relative_to(folder).as_posix(): path for path in _matching(folder, pattern)}
        if not found and pattern in include:
            raise ConfigError(f"{folder}: there is no file '{pattern}' to include")
        files |= found
    artifacts = frozenset(artifact.file for artifact in manifest.artifacts)
    return Proven(manifest, _requires_agent(folder), files, artifacts, unproven)


def _prove_all(manifest: Manifest, goldens: bool, limit_bytes: int) -> Iterator[str]:
    """Every artifact is hashed; those for this machine answer the golden inputs. Yields what could not be asked."""
    if goldens and not manifest.goldens:
        raise ModelError(f"{manifest}: there is no [[golden]], so no device could prove it: add one (docs/models.md)")
    reasons = [_prove(manifest, artifact, goldens, limit_bytes) for artifact in manifest.artifacts]
    if goldens and all(reasons):
        why = "; ".join(reasons)
        raise ModelError(f"{manifest}: nothing of it runs here: {why}: publish it from another machine")
    yield from filter(None, reasons)


def _prove(manifest: Manifest, artifact: Artifact, goldens: bool, limit_bytes: int) -> str:
    """Why the golden inputs were not run; empty when they were, and right. Raises ModelError when they are wrong."""
    with verified(manifest, artifact, None, limit_bytes):
        pass
    if not goldens:
        return f"{artifact.file}: not asked for"
    if artifact not in _candidates(manifest, artifact):
        return f"{artifact.file}: it is for {artifact.arch}"
    try:
        runner = open_model(manifest, limit_bytes=limit_bytes, only=artifact)
    except RuntimeMissingError as exc:
        return f"{artifact.file}: {exc}"
    try:
        wrong = [f"{check.input}: {check.reason}" for check in selftest(manifest, runner, views) if not check.ok]
    finally:
        runner.close()
    if wrong:
        raise ModelError(f"{manifest}: {artifact.file} does not answer its golden inputs: {'; '.join(wrong)}")
    return ""


def _candidates(manifest: Manifest, artifact: Artifact) -> tuple[Artifact, ...]:
    """The artifact alone, if this machine is of its kind."""
    try:
        return candidates(dataclasses.replace(manifest, artifacts=(artifact,)), present=artifact.requires)
    except ModelError:
        return ()


def _named(manifest: Manifest) -> Iterator[str]:
    """Every file that the manifest speaks of."""
    yield MANIFEST_FILE
    if manifest.labels_file:
        yield manifest.labels_file
    yield from (artifact.file for artifact in manifest.artifacts)
    yield from (name for golden in manifest.goldens for name in (golden.input, golden.output) if name)


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and fnmatch.fnmatchcase(path.relative_to(folder).as_posix(), pattern):
            yield path


def _requires_agent(folder: Path) -> str:
    table = parse(read_plain(folder / MANIFEST_FILE, _MANIFEST_LIMIT_BYTES))
    return str(table.get("requires", {}).get("agent", ""))

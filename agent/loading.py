"""Loading a model once per process: which artifact this machine can run, verified, by the runtime it names.

Owns the choice among a manifest's artifacts, and whether its weights are mapped from prepared files. Refuses to fall
back from a damaged or untrusted model file to another one; prepared files that cannot be used only mean a plain load,
and the reason stands in the runner's `info`.
"""

from pathlib import Path

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest
from agent.registry import OPERATOR, Origin, candidates, verified
from agent.runtime import Fallback, Prepared, Runner, RuntimeMissingError, Slots, open_runner
from agent.runtime.prepared import Place, UnpreparedError, find_prepared, key_of
from agent.settings.runtime import ModelsConfig, RuntimeOptions

PREPARED = "prepared files"
"""How their reason is called among a runner's fallbacks."""
ENCRYPTED = "the model is encrypted, and prepared files would hold its weights in the clear"


def open_model(
    manifest: Manifest,
    options: RuntimeOptions | None = None,
    *,
    artifact_root: Path | None = None,
    limit_bytes: int = 512_000_000,
    slots: Slots = None,
    only: Artifact | None = None,
    origin: Origin = OPERATOR,
    prepared: Place | None = None,
) -> Runner:
    """Verify and load the first artifact that this machine can run, or `only` that one. Raises ModelError.

    Only a runtime that is missing, or an accelerator that the artifact requires, makes it try the next artifact; a file
    that is damaged, not to be trusted or refused by its runtime is an error, because falling back would hide it.
    `prepared`: where to look for prepared files; None loads plainly.
    """
    chosen = options or RuntimeOptions()
    present = [*chosen.providers, *(str(delegate.path) for delegate in chosen.delegates)]
    missing: list[str] = []
    for artifact in (only,) if only else candidates(manifest, chosen.prefer, present):
        with verified(manifest, artifact, artifact_root, limit_bytes, origin) as path:
            try:
                runner = _opened(manifest, artifact, chosen, path, slots, prepared)
            except RuntimeMissingError as exc:
                missing.append(str(exc))
                continue
        lacking = set(artifact.requires) - set(runner.info.used)
        if not lacking or only:
            return runner
        runner.close()
        missing.append(f"{artifact.file} requires {', '.join(sorted(lacking))}, which cannot be used here")
    raise ModelError(f"{manifest}: no artifact can run here: {'; '.join(missing)}")


def place_of(config: ModelsConfig) -> Place:
    """Where [models] says that prepared files lie."""
    return Place(config.prepared, int(config.prepare_from_mb * 1e6), int(config.prepared_mb * 1e6))


def in_memory(path: Path) -> bool:
    """Whether `path`, as `verified` yields it, is memory that holds what lies encrypted on the disk."""
    try:
        return str(path.readlink()).startswith("/memfd:")
    except OSError:
        return False


def _opened(
    manifest: Manifest, artifact: Artifact, options: RuntimeOptions, path: Path, slots: Slots, place: Place | None
) -> Runner:
    found, notes = _prepared(artifact, options, path, place)
    if found is not None:
        try:
            return open_runner(manifest, artifact, options, path, slots, found)
        except ModelError as exc:
            notes = (Fallback(PREPARED, f"the runtime refuses them: {exc}: prepare the model again"),)
    return open_runner(manifest, artifact, options, path, slots, notes=notes)


def _prepared(
    artifact: Artifact, options: RuntimeOptions, path: Path, place: Place | None
) -> tuple[Prepared | None, tuple[Fallback, ...]]:
    """Prepared files that may be used, or why a model that is large enough has none."""
    if place is None or not options.prepared or path.stat().st_size < place.from_bytes:
        return None, ()
    if options.providers or options.delegates or not options.xnnpack:
        return None, ()  # whoever computes then holds the weights in its own way
    if in_memory(path):
        return None, (Fallback(PREPARED, ENCRYPTED),)
    try:
        return find_prepared(place.folder, key_of(artifact)), ()
    except UnpreparedError as exc:
        return None, (Fallback(PREPARED, str(exc)),)

"""Loading a model once per process: which artifact this machine can run, verified, by the runtime it names.

Owns the choice among a manifest's artifacts. Refuses to fall back from a damaged or untrusted file to another one.
"""

from pathlib import Path

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest
from agent.registry import OPERATOR, Origin, candidates, verified
from agent.runtime import Runner, RuntimeMissingError, Slots, open_runner
from agent.settings.runtime import RuntimeOptions


def open_model(
    manifest: Manifest,
    options: RuntimeOptions | None = None,
    *,
    artifact_root: Path | None = None,
    limit_bytes: int = 512_000_000,
    slots: Slots = None,
    only: Artifact | None = None,
    origin: Origin = OPERATOR,
) -> Runner:
    """Verify and load the first artifact that this machine can run, or `only` that one. Raises ModelError.

    Only a runtime that is missing, or an accelerator that the artifact requires, makes it try the next artifact; a file
    that is damaged, not to be trusted or refused by its runtime is an error, because falling back would hide it.
    """
    chosen = options or RuntimeOptions()
    present = [*chosen.providers, *(str(delegate.path) for delegate in chosen.delegates)]
    missing: list[str] = []
    for artifact in (only,) if only else candidates(manifest, chosen.prefer, present):
        with verified(manifest, artifact, artifact_root, limit_bytes, origin) as path:
            try:
                runner = open_runner(manifest, artifact, chosen, path, slots)
            except RuntimeMissingError as exc:
                missing.append(str(exc))
                continue
        lacking = set(artifact.requires) - set(runner.info.used)
        if not lacking or only:
            return runner
        runner.close()
        missing.append(f"{artifact.file} requires {', '.join(sorted(lacking))}, which cannot be used here")
    raise ModelError(f"{manifest}: no artifact can run here: {'; '.join(missing)}")

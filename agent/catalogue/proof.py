"""Whether an added model works on this machine: every file for it is verified, loaded, and run on the golden inputs."""

from pathlib import Path

from agent.errors import ModelError
from agent.golden import selftest
from agent.loading import open_model
from agent.manifest import Artifact, Manifest, load_manifest
from agent.registry import candidates
from agent.views import views


def proved(folder: Path, limit_bytes: int = 512_000_000) -> str:
    """Run the self-test of the model in `folder`; says what was run. Raises ModelError.

    `limit_bytes`: the agent takes no larger file.
    """
    manifest = load_manifest(folder)
    return "; ".join(_one(manifest, artifact, limit_bytes) for artifact in candidates(manifest))


def _one(manifest: Manifest, artifact: Artifact, limit_bytes: int) -> str:
    runner = open_model(manifest, only=artifact, limit_bytes=limit_bytes)
    try:
        checks = selftest(manifest, runner, views)
    finally:
        runner.close()
    if failed := [f"{check.input}: {check.reason}" for check in checks if not check.ok]:
        raise ModelError(
            f"{manifest}: {artifact.file} does not give the known answers on this machine, so it was not added:"
            f" {'; '.join(failed)}: tell who keeps the catalogue which machine this is"
        )
    ran = f"{runner.info.runtime} {runner.info.version}"
    return f"{artifact.file}: {len(checks)} of {len(checks)} golden inputs as expected ({ran})"

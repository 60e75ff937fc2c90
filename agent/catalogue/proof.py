"""Whether an added model works on this machine: every file for it is verified, loaded, and run on the golden inputs."""

from pathlib import Path

from agent.errors import ModelError
from agent.golden import selftest
from agent.loading import open_model
from agent.manifest import Artifact, Manifest, load_manifest
from agent.registry import candidates
from agent.views import views


def proved(folder: Path) -> str:
    """Run the self-test of the model in `folder`; says what was run. Raises ModelError."""
    manifest = load_manifest(folder)
    told = [_one(manifest, artifact) for artifact in candidates(manifest)]
    return "; ".join(told)


def _one(manifest: Manifest, artifact: Artifact) -> str:
    runner = open_model(manifest, only=artifact)
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

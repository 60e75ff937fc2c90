"""Which signed package a job is about, and whether it may come onto this device at all."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agent import __version__
from agent.depot import AGENT, Pick, read_state
from agent.errors import UpdateError
from agent.package import MANIFEST_LIMIT_BYTES, Kind, PackageManifest, package_path
from agent.settings.updates import UpdatesConfig
from agent.updates.choose import Read, offered
from agent.updates.jobs import Job


@dataclass(frozen=True, slots=True)
class Device:
    """Whose updates these are."""

    config: UpdatesConfig
    site: str
    device: str
    factory: Path | None = None
    """Folder of the factory's models."""
    released: bool = False
    """Whether the agent was installed as a release, so that another one can take its place."""

    @property
    def folder(self) -> Path:
        return self.config.folder


@dataclass(frozen=True, slots=True)
class Wanted:
    """A package that was chosen and proved."""

    name: str
    """Of the model, or `AGENT`."""
    pick: Pick
    data: bytes
    """The package manifest as it was signed."""
    package: PackageManifest

    @property
    def kind(self) -> Kind:
        return self.package.kind


def find_wanted(read: Read, device: Device, job: Job) -> Wanted:
    """The package that `job` asks for. Raises UpdateError when there is none, or it is not for this device."""
    name = AGENT if job.do == "release" else job.model
    kind: Kind = "agent" if name == AGENT else "model"
    family = "agent" if kind == "agent" else name
    if not family:
        raise UpdateError(f"job {job.id}: it names no model", "REJECTED_UNSUPPORTED")
    if kind == "agent" and not device.released:
        words = "this agent runs from a checkout, which no release replaces"
        raise UpdateError(f"{words}: install it with tools/install.sh, or update the checkout", "REJECTED_UNSUPPORTED")
    active = read_state(device.folder).model(name).active
    version = job.version or (active.version if job.do == "refresh" and active else "")
    version = version or offered(read, kind, family, device.config.channel, device.site, device.device)
    if not version:
        words = f"{family}: the {device.config.channel} channel offers this device nothing"
        raise UpdateError(f"{words}: name a version", "REJECTED_UNSUPPORTED")
    path = package_path(kind, family, version)
    data = read(path, MANIFEST_LIMIT_BYTES)
    if data is None:
        raise UpdateError(f"{path}: the repository has no such version: publish it, or name another", "FAILED")
    wanted = Wanted(name, Pick(version, hashlib.sha256(data).hexdigest()), data, PackageManifest.decode(data, path))
    _refuse_unfit(wanted, path, device, job)
    return wanted


def _refuse_unfit(wanted: Wanted, path: str, device: Device, job: Job) -> None:
    package, limit_mb = wanted.package, device.config.size_mb
    if package.target != path:
        raise UpdateError(f"{path}: it is the package of {package.target}: publish it again", "VERIFY_FAILED")
    if job.sha256 and job.sha256 != wanted.pick.sha256:
        words = f"{path}: its sha256 is {wanted.pick.sha256[:12]}, asked was {job.sha256[:12]}"
        raise UpdateError(f"{words}: it was published anew", "VERIFY_FAILED")
    least = package.requires_agent.removeprefix(">=")
    if least and _numbers(__version__) < _numbers(least):
        raise UpdateError(f"{package}: it needs agent {least}, this is {__version__}", "REJECTED_UNSUPPORTED")
    if package.encryption and device.config.decryption_key is None:
        words = f"{package}: it is encrypted and this device has no key for it"
        raise UpdateError(f"{words}: set [updates] decryption_key", "REJECTED_UNSUPPORTED")
    if package.stored_bytes > limit_mb * 1e6:
        size_mb = package.stored_bytes / 1e6
        raise UpdateError(f"{package}: {size_mb:.1f} MB, [updates] size_mb allows {limit_mb:g}", "NO_SPACE")


def _numbers(version: str) -> tuple[int, ...]:
    release = version.partition("-")[0].partition("+")[0]
    return (*(int(part) for part in release.split(".")), 0, 0, 0)[:3]

"""Trust lists and configuration layers, as the repository signs them: into the depot when they changed.

Each is checked before it replaces the one that is there; a bad one is refused and the old one stays. A configuration
layer that the repository no longer has is removed. A trust list is not: rights are withdrawn by an empty list, and no
missing file gives a revoked key back.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from agent.depot.places import CONFIG, TRUST
from agent.durable import holds, sync_folder, write_durably
from agent.errors import LimpetError, UpdateError
from agent.package import READERS_PATH, REVOKED_PATH, TECHNICIANS_PATH, Readers, Revoked, Technicians, layer_paths
from agent.package.trust import TRUST_LIMIT_BYTES
from agent.tomlfile import parse
from agent.updates.choose import Read

LAYER_LIMIT_BYTES = 256 * 1024
_LISTS: dict[str, Callable[[bytes], object]] = {
    TECHNICIANS_PATH: Technicians.decode, READERS_PATH: Readers.decode, REVOKED_PATH: Revoked.decode,
}  # fmt: skip


def fetch_papers(folder: Path, read: Read, site: str, device: str, group: str) -> tuple[list[str], list[str]]:
    """Bring `folder`/trust and `folder`/config up to date: what changed, and why others were refused.

    Raises UpdateError on the disk's account.
    """
    changed, refused = [], []
    for path in (*_LISTS, *layer_paths(site, device, group)):
        try:
            if _one(folder / _place(path), path, read):
                changed.append(path)
        except UpdateError as exc:
            refused.append(str(exc))
        except OSError as exc:
            raise UpdateError(f"{folder / _place(path)}: it cannot be written: {exc.strerror}") from exc
    changed += _swept(folder, {Path(path).name for path in layer_paths(site, device, group)})
    return changed, refused


def _one(target: Path, path: str, read: Read) -> bool:
    is_list = path in _LISTS
    data = read(path, TRUST_LIMIT_BYTES if is_list else LAYER_LIMIT_BYTES, target)
    if data is None:
        return not is_list and _removed(target)
    if is_list:
        _LISTS[path](data)
    else:
        _refuse_no_toml(path, data)
    if holds(target, data):
        return False
    target.parent.mkdir(mode=0o755, exist_ok=True)
    write_durably(target, data, 0o644)
    return True


def _swept(folder: Path, wanted: set[str]) -> Iterator[str]:
    """Layers of a group that this device has left."""
    for path in (folder / CONFIG).glob("*.toml"):
        if path.name not in wanted and _removed(path):
            yield f"config/{path.name}"


def _place(path: str) -> Path:
    kind, _, name = path.partition("/")
    return Path(TRUST if kind == "trust" else CONFIG) / name


def _removed(path: Path) -> bool:
    if not path.exists():
        return False
    path.unlink()
    sync_folder(path.parent)
    return True


def _refuse_no_toml(path: str, data: bytes) -> None:
    try:
        parse(data)
    except (ValueError, LimpetError) as exc:
        raise UpdateError(f"{path}: this is not TOML: {exc}", "VERIFY_FAILED") from exc

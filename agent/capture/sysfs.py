"""Finds the sensors of this machine in sysfs and knows their units.

Files and units after the kernel's Documentation/hwmon/sysfs-interface.rst, Documentation/driver-api/thermal and
Documentation/ABI/testing/sysfs-bus-iio. Units are UCUM.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from agent.settings.capture import SysfsChannel

_MOST = 256
_HWMON = {
    "temp": ("Cel", 1e-3), "in": ("V", 1e-3), "curr": ("A", 1e-3), "power": ("W", 1e-6), "energy": ("J", 1e-6),
    "humidity": ("%", 1e-3), "fan": ("/min", 1.0),
}  # fmt: skip
"""kind of input -> unit, factor from the number in the file."""
_IIO = (
    ("temp", "Cel", 1e-3), ("humidityrelative", "%", 1e-3), ("pressure", "kPa", 1.0), ("accel", "m/s2", 1.0),
    ("anglvel", "rad/s", 1.0), ("magn", "G", 1.0), ("illuminance", "lx", 1.0), ("voltage", "V", 1e-3),
    ("current", "A", 1e-3), ("power", "W", 1e-3), ("distance", "m", 1.0), ("proximity", "1", 1.0),
    ("resistance", "Ohm", 1.0), ("concentration", "%", 1.0), ("ph", "[pH]", 1.0), ("count", "1", 1.0),
)  # fmt: skip
"""prefix of the channel -> unit, factor after the channel's own scale."""


def discover(root: Path) -> tuple[SysfsChannel, ...]:
    """Every sensor below `root` (/sys), in a stable order, at most 256. The files are not read."""
    found = [*_hwmon(root), *_thermal(root), *_iio(root)]
    return tuple(found[:_MOST])


def _hwmon(root: Path) -> Iterator[SysfsChannel]:
    for device in sorted(root.glob("class/hwmon/hwmon*")):
        chip = _word(device / "name") or device.name
        for file in sorted(device.glob("*_input")):
            match = re.fullmatch(r"([a-z]+)(\d+)_input", file.name)
            if match and match[1] in _HWMON:
                unit, scale = _HWMON[match[1]]
                label = _word(device / f"{match[1]}{match[2]}_label") or match[1] + match[2]
                yield SysfsChannel(name=f"{chip}.{label}", path=str(file), unit=unit, scale=scale)


def _thermal(root: Path) -> Iterator[SysfsChannel]:
    for zone in sorted(root.glob("class/thermal/thermal_zone*")):
        if (zone / "temp").exists():
            name = f"{_word(zone / 'type') or 'thermal'}.{zone.name.removeprefix('thermal_')}"
            yield SysfsChannel(name=name, path=str(zone / "temp"), unit="Cel", scale=1e-3)


def _iio(root: Path) -> Iterator[SysfsChannel]:
    for device in sorted(root.glob("bus/iio/devices/iio:device*")):
        chip = _word(device / "name") or device.name
        for file in sorted(device.glob("in_*")):
            match = re.fullmatch(r"in_([a-z]+)(\w*?)_(raw|input)", file.name)
            if not match or (match[3] == "raw" and file.with_name(f"in_{match[1]}{match[2]}_input").exists()):
                continue
            unit, factor = next(((u, f) for kind, u, f in _IIO if match[1] == kind), ("1", 1.0))
            own_scale, offset = 1.0, 0.0
            if match[3] == "raw":
                own_scale = _shared(device, match[1], match[2], "scale", 1.0)
                offset = _shared(device, match[1], match[2], "offset", 0.0)
            name = f"{chip}.{match[1]}{match[2]}"
            yield SysfsChannel(name=name, path=str(file), unit=unit, scale=own_scale * factor, offset=offset)


def _shared(device: Path, kind: str, index: str, what: str, otherwise: float) -> float:
    """An attribute of one IIO channel, or the one that all channels of its kind share."""
    for name in (f"in_{kind}{index}_{what}", f"in_{kind}_{what}"):
        try:
            return float((device / name).read_text())
        except (OSError, ValueError):
            continue
    return otherwise


def _word(path: Path) -> str:
    """The text of a small file as one word, "" when there is none."""
    try:
        return re.sub(r"\W+", "_", path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return ""

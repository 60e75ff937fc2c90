"""Numbers from this machine: hwmon, thermal zones and IIO devices in sysfs, its load, and its serial ports.

The door to pyserial. Sampled on a schedule that does not drift; a value that cannot be read is NaN, and only when
none can be read is the source broken.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agent.capture.linefile import LineSource
from agent.capture.source import Closing, Patience, Stamp
from agent.capture.sysfs import discover
from agent.errors import CaptureError
from agent.records import Channel, Sample
from agent.settings.capture import LoadConfig, SerialConfig, SysfsChannel, SysfsConfig

_READ_BYTES = 1 << 12


class Scheduled(Closing, ABC):
    """Reads a row every `interval_s`."""

    def __init__(self, thing: str, interval_s: float, stamp: Stamp) -> None:
        self._thing, self._interval_s, self._stamp = thing, interval_s, stamp
        self._due_s = stamp.clock.mono_s()
        self._not_a_number = 0
        self.channels: tuple[Channel, ...] = ()

    def read(self, timeout_s: float) -> Sample | None:
        """The next row, float64 [channels]. Raises CaptureError when no channel can be read."""
        clock = self._stamp.clock
        early_s = self._due_s - clock.mono_s()
        if early_s > 0:
            clock.sleep(min(early_s, timeout_s))
        now_s = clock.mono_s()
        if now_s < self._due_s:
            return None
        # rows that were missed are not made up
        self._due_s += self._interval_s * max(1, math.floor((now_s - self._due_s) / self._interval_s) + 1)
        row = np.array(self._row())
        bad = int(np.isnan(row).sum())
        if bad == len(row):
            raise CaptureError(f"{self._thing}: none of {len(row)} values can be read: is the driver still loaded?")
        self._not_a_number += bad
        return self._stamp.sample("series", row, rate_hz=1 / self._interval_s, channels=self.channels)

    def counts(self) -> Mapping[str, int]:
        """not_a_number: values that could not be read."""
        return {"not_a_number": self._not_a_number}

    @abstractmethod
    def _row(self) -> list[float]: ...


class SysfsSource(Scheduled):
    """Sensors that the kernel shows as files."""

    def __init__(self, config: SysfsConfig, stamp: Stamp) -> None:
        """Finds the files. Raises CaptureError when there are none."""
        super().__init__(str(config.root), config.interval_s, stamp)
        wanted = config.channels or discover(config.root)
        if not wanted:
            raise CaptureError(f"{config.root}: this machine has no hwmon, thermal or IIO sensor: use kind = 'load'")
        self._files = [(_find(channel), channel) for channel in wanted]
        self.channels = tuple(Channel(c.name, c.unit) for c in wanted)

    def _row(self) -> list[float]:
        return [(_number_in(path) + channel.offset) * channel.scale for path, channel in self._files]


class LoadSource(Scheduled):
    """cpu and memory in %, load average, context switches per second."""

    def __init__(self, config: LoadConfig, stamp: Stamp) -> None:
        """Reads the counters once: rates are differences. Raises CaptureError."""
        super().__init__(str(config.root), config.interval_s, stamp)
        self._root = config.root
        self.channels = (Channel("cpu", "%"), Channel("memory", "%"), Channel("load1"), Channel("switches", "1/s"))
        self._last = self._counters()
        self._due_s += config.interval_s

    def _row(self) -> list[float]:
        last, self._last = self._last, self._counters()
        busy, total, switches, now_s = (b - a for a, b in zip(last, self._last, strict=True))
        cpu = 100 * busy / total if total > 0 else math.nan
        load1 = float(self._text("loadavg").split()[0])
        return [cpu, self._memory(), load1, switches / now_s if now_s > 0 else math.nan]

    def _counters(self) -> tuple[float, float, float, float]:
        """busy and total jiffies, context switches (proc(5), /proc/stat), and the time."""
        lines = {line.split(" ", 1)[0]: line.split()[1:] for line in self._text("stat").splitlines()}
        jiffies = [int(word) for word in lines["cpu"][:8]]  # guest time is already part of user time
        idle = jiffies[3] + jiffies[4]
        return sum(jiffies) - idle, sum(jiffies), int(lines["ctxt"][0]), self._stamp.clock.mono_s()

    def _memory(self) -> float:
        fields = dict(line.split(":", 1) for line in self._text("meminfo").splitlines() if ":" in line)
        total, free = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return 100 * (1 - free / total)

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text()
        except OSError as exc:
            raise CaptureError(f"{self._root / name}: cannot be read: {exc.strerror}: is /proc mounted?") from exc


class SerialPort:
    """A serial port as a `Port`."""

    def __init__(self, config: SerialConfig) -> None:
        import serial

        self.thing = str(config.port)
        self._error = serial.SerialException
        parity = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}[config.parity]
        try:
            self._port = serial.Serial(
                self.thing, config.baud, parity=parity, stopbits=config.stop_bits, timeout=0, exclusive=True
            )
        except (serial.SerialException, ValueError) as exc:
            raise CaptureError(
                f"{self.thing}: the port cannot be opened: {exc}: is it plugged in, is the agent's user in the group"
                " 'dialout', does another program use it?"
            ) from exc

    def read(self, timeout_s: float) -> bytes:
        """See `Port`."""
        try:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            return bytes(first + self._port.read(min(self._port.in_waiting, _READ_BYTES)))
        except (self._error, OSError, TypeError) as exc:  # TypeError: pyserial's answer to a port closed beneath it
            raise CaptureError(f"{self.thing}: the port is gone: plug it in again ({exc})") from exc

    def close(self) -> None:
        """See `Port`."""
        self._port.close()


def open_serial(config: SerialConfig, stamp: Stamp) -> LineSource:
    """Open the port of `config`. Raises CaptureError."""
    patience = Patience(stamp.clock, config.read_timeout_s, config.read_timeout_s)
    return LineSource(SerialPort(config), config.lines, patience, stamp)


def _find(channel: SysfsChannel) -> Path:
    pattern = Path(channel.path)
    found = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))) if pattern.anchor else []
    if not found:
        raise CaptureError(f"channel {channel.name}: {channel.path}: there is no such file: look below /sys/class")
    return found[0]


def _number_in(path: Path) -> float:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            number = float(os.read(fd, 64))
        finally:
            os.close(fd)
    except (OSError, ValueError):  # a sensor that is asleep or broken answers EIO, EAGAIN or nonsense
        return math.nan
    return number if math.isfinite(number) else math.nan

"""Which machine, kernel and versions a figure belongs to."""

import datetime as dt
import importlib.metadata
import os
import platform
import sqlite3
import sys
from pathlib import Path

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "ai-edge-litert", "paho-mqtt", "cryptography", "cbor2")


def describe() -> dict[str, object]:
    """CPU, cores, memory, kernel, versions."""
    return {
        "cpu": _line("/proc/cpuinfo", ("model name", "Model", "Hardware")) or platform.machine(),
        "architecture": platform.machine(), "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int((_line("/proc/meminfo", ("MemTotal",)) or "0").split()[0]) // 1024,
        "kernel": platform.release(), "system": _line("/etc/os-release", ("PRETTY_NAME",), "=").strip('"'),
        "python": platform.python_version(), "versions": _versions(),
    }  # fmt: skip


def load_average() -> float:
    """How many threads wanted to run during the last minute; above a few tenths, figures are noisy."""
    return round(os.getloadavg()[0], 2)


def now_utc() -> str:
    """Date and time, for people."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"sqlite": sqlite3.sqlite_version, "implementation": sys.implementation.name}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _line(file: str, keys: tuple[str, ...], between: str = ":") -> str:
    """What the first line that begins with one of `keys` says; "" when there is none."""
    path = Path(file)
    for line in path.read_text().splitlines() if path.exists() else ():
        key, found, value = line.partition(between)
        if found and key.strip() in keys:
            return value.strip()
    return ""

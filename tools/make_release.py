"""Make a release of the agent: a folder with everything that a device needs to become it, without a network.

    python tools/make_release.py OUT [--target 3.11-x86_64 --target 3.13-aarch64 ...]
    limpet repo add-agent OUT ...             signs it as releases/agent/<version>.json

    OUT/lock.txt        tools/locks/device.txt, and the agent's own wheel with its hash
    OUT/wheels/         those packages as wheels, for every target, each checked against the lock
    OUT/units/          systemd/
    OUT/share/          models/, docs/, pipelines/*.toml, LICENSE

The same sources and the same lock make the same files. Without --target the release is for this Python and processor.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "tools" / "locks" / "device.txt"
SOURCES = ("agent", "pipelines", "pyproject.toml", "README.md", "LICENSE")
USELESS = shutil.ignore_patterns("__pycache__", "node_modules", ".*", "*.egg-info")
GLIBC = range(17, 40)
"""Minor versions of glibc 2 that a wheel may ask for; a device whose own is older says so when it installs."""
EPOCH = "1767225600"
"""Time stamps in the wheel, so that the same sources give the same bytes."""


def main() -> int:
    """Make the folder; 1 when a package cannot be had."""
    parser = argparse.ArgumentParser(description="Make a release of the agent.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that does not exist yet, or is empty")
    parser.add_argument("--target", action="append", metavar="3.11-x86_64", help="a Python and a processor")
    parser.add_argument("--no-deps", action="store_true", help="without the dependencies: for tests of the way")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty: a release holds nothing but what belongs to it")
    try:
        make(args.out, args.target or [], LOCK if not args.no_deps else None)
    except subprocess.CalledProcessError as exc:
        print(f"make_release: {' '.join(map(str, exc.cmd[:5]))} ... failed: see above", file=sys.stderr)
        return 1
    size_mb = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()) / 1e6
    print(f"{args.out}: limpet {version()}, {len(list(args.out.rglob('*.whl')))} wheels, {size_mb:.1f} MB")
    return 0


def make(out: Path, targets: list[str], lock: Path | None, sources: Path = ROOT) -> None:
    """Fill `out`. `lock`: None leaves the dependencies out. Raises CalledProcessError when pip fails."""
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    own = build_wheel(sources, wheels)
    if lock:
        for target in targets or [None]:
            download(lock, wheels, target)
    (out / "lock.txt").write_text((lock.read_text() if lock else "") + pinned(own))
    copy_tree(sources / "systemd", out / "units")
    copy_tree(sources / "models", out / "share" / "models")
    copy_tree(sources / "docs", out / "share" / "docs")
    (out / "share" / "pipelines").mkdir()
    for path in [*sorted((sources / "pipelines").glob("*.toml")), sources / "LICENSE"]:
        place = out / "share" if path.name == "LICENSE" else out / "share" / "pipelines"
        shutil.copyfile(path, place / path.name)


def build_wheel(sources: Path, wheels: Path) -> Path:
    """The agent's own wheel, made of a copy: setuptools leaves its folders where it builds."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in SOURCES:
            if (sources / name).is_dir():
                copy_tree(sources / name, copy / name)
            else:
                shutil.copyfile(sources / name, copy / name)
        pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels), str(copy))
    return next(wheels.glob("limpet_agent-*.whl"))


def download(lock: Path, wheels: Path, target: str | None) -> None:
    """Every package of the lock as a wheel for `target` ("3.11-x86_64"), None for this machine."""
    more: list[str] = []
    if target:
        python, _, machine = target.partition("-")
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
        more = ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"]
        more += ["--abi", "abi3", "--abi", "none"] + [word for one in platforms for word in ("--platform", one)]
    pip("download", "--no-deps", "--only-binary", ":all:", "--require-hashes", *more,
        "--dest", str(wheels), "--requirement", str(lock))  # fmt: skip


def pinned(wheel: Path) -> str:
    """The line of a lock for `wheel`."""
    return f"limpet-agent=={version(wheel)} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def version(wheel: Path | None = None) -> str:
    """Of the agent in `wheel`, or in this checkout."""
    if wheel:
        return wheel.name.split("-")[1]
    found = re.search(r'__version__ = "(.+)"', (ROOT / "agent" / "__init__.py").read_text())
    assert found, "agent/__init__.py names no version"
    return found.group(1)


def copy_tree(source: Path, target: Path) -> None:
    """Plain files only, without what Python and editors leave."""
    shutil.copytree(source, target, ignore=USELESS, copy_function=shutil.copyfile)


def pip(*words: str) -> None:
    """pip of this environment, its own words on standard error."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--no-input", *words[1:]]
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


if __name__ == "__main__":
    sys.exit(main())

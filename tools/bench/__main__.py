"""Runs benchmark sections, prints their tables, and writes JSON and drawings.

    python -m tools.bench [SECTION ...] [--quick] [--out FOLDER] [--disk FOLDER]

Without a section all of them run, each in a process of its own. The figures go to docs/performance; with --quick,
which only shows that everything runs, to .run/bench. Real recordings are used where they are ($LIMPET_REALDATA, or
shared/realdata beside the checkout), else pictures made here.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.bench.machine import describe, load_average, now_utc
from tools.bench.page import refresh
from tools.bench.run import ROOT, Run

PUBLISHED = ROOT / "docs" / "performance"

NAMES = (
    "video", "audio", "latency", "start", "pipelines", "streams",
    "rates", "wire", "disk", "backlog", "flush", "host", "similar", "memory",
)  # fmt: skip
SECTIONS = {name: f"tools.bench.{name}" for name in NAMES}
"""name -> module, in the order of running."""


def main(words: list[str]) -> int:
    """Run what was asked for; 1 when a section failed."""
    args = parsed(words)
    asked = args.sections or list(SECTIONS)
    if len(asked) == 1:
        out = args.out or (ROOT / ".run" / "bench" if args.quick else PUBLISHED)
        print("\n".join(ran(asked[0], args.quick, out, args.disk)), flush=True)
        return 0
    options = [word for word in words if word not in args.sections]
    command = [sys.executable, "-m", "tools.bench"]
    failed = [name for name in asked if subprocess.run([*command, name, *options], cwd=ROOT, check=False).returncode]
    if failed:
        print(f"failed: {', '.join(failed)}; what the others found is written")
    return int(bool(failed))


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description="Measure what Limpet costs here.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, not what it costs")
    parser.add_argument("--out", type=Path, help="where figures and drawings go")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to be measured (default: a temporary one)")
    args = parser.parse_args(words)
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    return args


def ran(name: str, quick: bool, out: Path, disk: Path | None = None) -> list[str]:
    """Measure one section, write what it found, and return its lines."""
    section = importlib.import_module(SECTIONS[name])
    start, began = load_average(), now_utc()
    with tempfile.TemporaryDirectory(prefix=f"limpet-bench-{name}-", dir=disk) as folder:
        figures = section.measure(Run(Path(folder), quick))
    load = {"at_start": start, "at_end": load_average()}
    record = {"section": name, "quick": quick, "taken": began, "load": load, "machine": describe(), "figures": figures}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    for file, drawing in drawings(section, figures).items():
        (out / file).write_text(drawing)
    if out == PUBLISHED:
        refresh(PUBLISHED.with_suffix(".md"), PUBLISHED, SECTIONS)
    return ["", f"## {name}", "", *section.lines(figures)]


def drawings(section: Any, figures: dict[str, Any]) -> dict[str, str]:
    """What the section draws, if it does."""
    draw = getattr(section, "draw", None)
    return draw(figures) if draw else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

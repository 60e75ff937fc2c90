"""The figures of docs/repository.md about thin links: bounds that a change of the formats must not break unseen."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_thin_links_stay_thin():
    """The script runs as documented, and each kind of change takes its way and stays below its share."""
    said = subprocess.run(
        [sys.executable, ROOT / "tools/bench_thin_links.py", "--small", "--markdown"],
        check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120,
    ).stdout  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()[2:]]
    taken = {change: (way, float(share.rstrip("%"))) for _, change, _, _, share, way, _ in rows}
    limits = {
        "labels or thresholds only": ("here", 0.0),
        "a new head": ("delta", 5.0),
        "a new head with one class more": ("chunks", 20.0),
        "fine-tuned, weights moved by 0.1 %": ("delta", 5.0),
        "fine-tuned, weights moved by 1 %": ("delta", 25.0),
        "a new model": ("xz", 80.0),
    }
    assert set(taken) == set(limits)
    for change, (way, most) in limits.items():
        assert taken[change][0] == way, change
        assert taken[change][1] <= most, change

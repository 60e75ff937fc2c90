"""docs/performance.md shows the last figures of every section: written between two marks from the files beside it."""

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: written by tools/bench -->", "<!-- end of figures -->"


def refresh(page: Path, folder: Path, sections: Mapping[str, str]) -> None:
    """Write what `folder` holds of `sections` (name -> module) into `page`. Raises ValueError without its marks."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: it must hold the lines {BEGIN} and {END}")
    told = (line for name, module in sections.items() for line in _section(folder, name, module, page.parent))
    page.write_text("\n".join([f"{before}{BEGIN}", *told, f"{END}{after}"]))


def _section(folder: Path, name: str, module: str, beside: Path) -> Iterable[str]:
    path = folder / f"{name}.json"
    if not path.exists():
        return
    record: dict[str, Any] = json.loads(path.read_text())
    section = importlib.import_module(module)
    machine, load = record["machine"], record["load"]
    yield f"\n### {name}\n"
    yield f"{record['taken'][:10]}, {machine['cpu']}, {machine['cores']} cores, kernel {machine['kernel']},"
    yield f"load {load['at_start']} before and {load['at_end']} after.\n"
    yield from section.lines(record["figures"])
    for drawing in section.draw(record["figures"]) if hasattr(section, "draw") else ():
        yield f"\n![{name}]({(folder / drawing).relative_to(beside).as_posix()})"

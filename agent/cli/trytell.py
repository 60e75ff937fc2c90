"""What `limpet models try` says: the findings as a table, how long each stage took, what looks wrong."""

from collections.abc import Sequence

from agent.cli.terminal import aligned, counted, shown
from agent.records import Finding
from agent.tryout import Found, Tryout, smells

MOST_ROWS = 40


def tell(tryout: Tryout, found: Sequence[Found]) -> None:
    """Print all of it."""
    told = "" if len(found) == len(tryout.found) else " in those that are drawn"
    print(f"{tryout.manifest}: {counted(tryout.count, 'view')}, {counted(len(found), 'finding')}{told}")
    for line in _table(found, several=tryout.count > 1):
        print(line)
    if not found:
        print(f"  {_nothing(tryout)}")
    ms, info = tryout.median_ms(), tryout.runner.info
    print("median ms: " + ", ".join(f"{stage} {ms[stage]:.2f}" for stage in ("pre", "run", "post"))
          + f"  ({info.runtime} {info.version}, {', '.join(info.used)})")  # fmt: skip
    outputs = [tryout.real_outputs(seen) for seen in tryout.kept]
    views = [(seen.view, seen.inferred.findings) for seen in tryout.kept]
    for smell in smells(tryout.manifest, (tryout.fed, tryout.fed_of), outputs, views):
        print(f"looks wrong: {shown(smell)}")


def _nothing(tryout: Tryout) -> str:
    if tryout.found:
        return f"nothing found in the pictures that are drawn, {counted(len(tryout.found), 'finding')} in those between"
    near = tryout.nearest.words()
    return f"nothing found: {shown(near)}" if near else "nothing found"


def _table(found: Sequence[Found], *, several: bool) -> list[str]:
    """A line per finding, the best ones when they are many."""
    rows = [_row(*one, several=several) for one in found]
    told = rows if len(rows) <= MOST_ROWS else sorted(rows, key=lambda row: -float(row[1]))[:MOST_ROWS]
    lines = [f"  {line}" for line in aligned(told)]
    return lines if len(told) == len(rows) else [*lines, f"  ... the {MOST_ROWS} best of {len(rows)}"]


def _row(begin_s: float | None, finding: Finding, *, several: bool) -> tuple[str, str, str, str]:
    """Label, score, where and what, and in which view."""
    where = ""
    if finding.box:
        where = "[" + ", ".join(f"{side:.0f}" for side in finding.box) + "]"
    elif finding.interval:
        where = f"{finding.interval[0]:.2f}-{finding.interval[1]:.2f} s"
    value = finding.value
    if value is not None and value != finding.label:
        unit = f" {finding.unit}" if finding.unit not in (None, "1") else ""
        where += f" = {value:.4g}{unit}" if isinstance(value, float) else f" = {value}{unit}"
    view = f"at {begin_s:.2f} s" if several and begin_s is not None and not finding.interval else ""
    return shown(finding.label), f"{finding.score:.3f}", shown(where.strip()), view

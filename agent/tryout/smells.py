"""What a result looks like when its manifest is wrong: sentences that say what was seen and what to look at.

Owns the signs: a saturated input, scores that are no scores or all alike, boxes that are all of one size or of none,
one class everywhere. A sign is no proof, so nothing here refuses anything. Pure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agent.manifest import Manifest
from agent.records import Array, Finding, View

_SATURATED = 0.3
"""Share of an input at one end of its range, beyond that of the picture, which tells of a wrong range."""
_MANY_BOXES = 20
_ALIKE = 1e-4
"""Scores that differ by less are the same."""


def smells(
    manifest: Manifest,
    fed: tuple[Mapping[str, Array], View | None],
    outputs: Sequence[Mapping[str, Array]],
    found: Sequence[tuple[View, tuple[Finding, ...]]],
) -> Iterator[str]:
    """One sentence per sign. `fed`: raw tensors by port, and their view; `outputs`: real values by port, per view."""
    for name, tensor in fed[0].items():
        yield from _input(name, tensor, fed[1] if manifest.modality == "image" else None)
    step = (manifest.decoder or {}).get("step", "")
    if not step:
        yield "the model has no [decoder]: nothing can be found; outputs are shown by limpet infer --outputs"
    elif step in ("classify", "keyword", "digits", "sounds"):
        yield from _rows(manifest, outputs)
    findings = [finding for _, some in found for finding in some]
    yield from _scores(findings, step)
    yield from _boxes(found, manifest)


def _input(name: str, tensor: Array, seen: View | None) -> Iterator[str]:
    """`seen`: the view that became the tensor, when it is a picture: a dark picture may be dark."""
    if not tensor.size:
        return
    if float(np.ptp(tensor.astype(np.float64))) == 0:
        yield f"every number of input '{name}' is {tensor.flat[0]:g}: the input is blank, or [[pre]] loses it"
    elif seen is not None and tensor.dtype.kind in "iu" and tensor.dtype.itemsize == 1:
        info = np.iinfo(tensor.dtype)
        for what, limit, pixel in (("smallest", info.min, 0), ("largest", info.max, 255)):
            share, own = float(np.mean(tensor == limit)), float(np.mean(seen.data == pixel))
            if share - own > _SATURATED:
                yield (f"{share:.0%} of input '{name}' is the {what} value of {tensor.dtype}, of the picture only "
                       f"{own:.0%}: [[pre]] feeds another range than scale and zero_point say")  # fmt: skip


def _rows(manifest: Manifest, outputs: Sequence[Mapping[str, Array]]) -> Iterator[str]:
    decoder = manifest.decoder or {}
    name = decoder.get("output") or next(iter(outputs[0]), "") if outputs else ""
    rows = [one[name].ravel() for one in outputs if name in one]
    if not rows:
        return
    activated = decoder.get("activation", "none") != "none"
    low, high = min(float(row.min()) for row in rows), max(float(row.max()) for row in rows)
    if not activated and (low < -0.01 or high > 1.01):
        yield (f"output '{name}' runs from {low:.3g} to {high:.3g}, which are no scores: "
               'set activation = "softmax" (one of many) or "sigmoid" (several at once) in [decoder]')  # fmt: skip
    if rows[0].size > 1 and all(float(np.ptp(row)) < _ALIKE for row in rows):
        yield f"all scores of output '{name}' are alike: the input is not what the model was trained on, see [[pre]]"
    if len(rows) > 2 and rows[0].size > 1 and max(float(np.abs(row - rows[0]).max()) for row in rows) < _ALIKE:
        yield f"{len(rows)} views gave the same scores: [[pre]] may lose what differs between them"


def _scores(findings: Sequence[Finding], step: str) -> Iterator[str]:
    wrong = [finding.score for finding in findings if not -1e-6 <= finding.score <= 1 + 1e-6]
    if wrong and step != "reconstruction":
        yield f"scores lie outside of 0 to 1, such as {wrong[0]:.3g}: see activation in [decoder]"
    kinds = Counter(finding.label for finding in findings)
    if step.startswith("box") and len(findings) >= _MANY_BOXES:
        label, count = kinds.most_common(1)[0]
        if count == len(findings) and len({round(finding.score, 2) for finding in findings}) <= 2:
            yield f"{count} boxes, all '{label}' and all with one score: see activation and columns in [decoder]"


def _boxes(found: Sequence[tuple[View, tuple[Finding, ...]]], manifest: Manifest) -> Iterator[str]:
    sides, full = [], 0
    for view, some in found:
        for finding in some:
            if finding.box and finding.box[2:] != finding.box[:2]:
                wide, high = finding.box[2] - finding.box[0], finding.box[3] - finding.box[1]
                sides.append(max(wide, high))
                full += wide > 0.98 * view.size[0] > 0 and high > 0.98 * view.size[1] > 0
    if sides and max(sides) < 4:
        yield 'no box is larger than 4 pixels: set unit = "fraction" in [decoder]'
    if len(sides) > 2 and full == len(sides) and (manifest.decoder or {}).get("step") != "segments":
        yield 'every box is the whole picture: set unit = "px" in [decoder], or see order'
    most = (manifest.decoder or {}).get("max_findings", 100)
    crowded = sum(len(some) >= most for _, some in found)
    if crowded and (manifest.decoder or {}).get("step", "").startswith("box"):
        yield f"{crowded} views have as many boxes as are told at most ({most}): raise threshold, see activation"

"""The JSON lines that commands print (docs/cli.schema.json): absent fields are left out, numbers are finite."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from agent.records import Array, Finding, ModelRef, Result, Tensors


def finding_fields(finding: Finding) -> dict[str, Any]:
    """One finding; boxes in source pixels, intervals in stream seconds."""
    fields = {
        "label": finding.label,
        "score": finding.score,
        "box": finding.box,
        "interval": finding.interval and tuple(round(t_s, 6) for t_s in finding.interval),
        "value": finding.value,
        "unit": finding.unit,
    }
    return {key: clean(value) for key, value in fields.items() if value is not None}


def findings_fields(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings, best first."""
    return [finding_fields(f) for f in sorted(findings, key=lambda f: -f.score)]


def model_fields(model: ModelRef) -> dict[str, str]:
    """Which model said it."""
    return {"name": model.name, "version": model.version, "sha256": model.sha256}


def result_fields(result: Result) -> dict[str, Any]:
    """A line of type "result"."""
    fields: dict[str, Any] = {
        "type": "result",
        "pipeline": result.pipeline,
        "source": result.source,
        "seq": result.seq,
        "t_s": round(result.t_s, 6),
        "findings": findings_fields(result.findings),
        "timings_ms": {stage: round(ms, 3) for stage, ms in result.timings_ms.items()},
    }
    if result.model is not None:
        fields |= {"model": model_fields(result.model), "cache": result.cache}
    return fields


def output_fields(outputs: Tensors) -> dict[str, Any]:
    """Raw tensors by port, row-major."""
    return {name: {"dtype": str(a.dtype), "shape": list(a.shape), "data": _flat(a)} for name, a in outputs.items()}


def write(fields: Mapping[str, Any]) -> str:
    """One line of JSON without the line's end."""
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def clean(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple | list):
        return [clean(v) for v in value]
    if isinstance(value, Mapping):
        return {key: clean(v) for key, v in value.items()}
    return value


def _flat(array: Array) -> list[Any]:
    flat = array.ravel(order="C").tolist()
    return [clean(v) for v in flat] if array.dtype.kind == "f" else flat

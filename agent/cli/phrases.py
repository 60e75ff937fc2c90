"""An event's body in a few words, for people: `limpet watch`, `limpet replay` and the demo's view.

Figures have three digits; a program takes `--json`, which leaves nothing out.
"""

from typing import Any


def told(body: Any) -> str:
    """`summary`, and where in the picture it was: left, top, right and bottom, pixels."""
    box = body.get("box") if isinstance(body, dict) else None
    if not isinstance(box, list | tuple) or not all(isinstance(edge, int | float) for edge in box):
        return summary(body)
    return f"{summary({key: body[key] for key in body if key != 'box'})} at [{', '.join(f'{e:.0f}' for e in box)}]"


def summary(body: Any) -> str:
    """The body of an event in a few words."""
    if not isinstance(body, dict):
        return str(body)
    if isinstance(body.get("seen"), list):
        return "; ".join(_seen(s) for s in body["seen"]) or "nothing seen"
    if "verdict" in body:  # on an update: its detail is for programs
        return f"{body.get('model')} {body.get('version')}: {body['verdict']}, {body.get('text')}"
    label = body.get("label", "")
    parts = [str(label)] if label else []
    if "value" in body and body["value"] != label:
        parts.append(f"= {_short(body['value'])}{_unit(body)}")
    if "score" in body:
        parts.append(f"score {_short(body['score'])}")
    parts += [f"{key} {_short(body[key])}" for key in ("count", "present_s", "threshold", "reason") if key in body]
    return " ".join(parts) or ", ".join(f"{key} {_short(value)}" for key, value in body.items())


def _seen(seen: dict[str, Any]) -> str:
    figures = seen.get("value") or seen.get("score") or {}
    mean = f" mean {_short(figures['mean'])}" if "mean" in figures else ""
    return f"{seen.get('label')} x{seen.get('findings')}{mean}{_unit(seen)}"


def _unit(table: dict[str, Any]) -> str:
    unit = table.get("unit")
    return f" {unit}" if unit and unit != "1" else ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""Other ways to prepare a picture for a model: what `limpet models try --compare` runs beside the manifest's own.

Owns the ways in which public models differ: order of colours, range of numbers, how the picture is fitted. Ports of
whole numbers have their range in scale and zero point, so only floats vary in it. The manifest's own way is always
among them. Pure.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agent.manifest import Manifest, Step
from agent.skeleton.parts import Keys
from agent.skeleton.pictures import IMAGENET, PLAIN, SIGNED, UNIT
from pipelines import make_step

_RANGES = {"0..1": UNIT, "-1..1": SIGNED, "0..255": PLAIN, "ImageNet": IMAGENET}
_FITS = {"stretched": "resize", "letterbox": "letterbox"}


def variants(manifest: Manifest) -> list[tuple[str, Manifest]]:
    """Each way with its words; nothing for what takes no picture in colour, or resizes none.

    One of them is `manifest` itself: under the words of the way that it is, else under its own.
    """
    ways = [(words, replace(manifest, pre=pre)) for words, pre in _ways(manifest)]
    own = _made(manifest)
    now = next((i for i, (_, way) in enumerate(ways) if _made(way) == own), None)
    if not ways:
        return []
    if now is None:
        return [("its own [[pre]]", manifest), *ways]
    return [*ways[:now], (ways[now][0], manifest), *ways[now + 1 :]]


def _ways(manifest: Manifest) -> Iterator[tuple[str, tuple[Step, ...]]]:
    steps = {step["step"]: step for step in manifest.pre}
    fit = steps.get("resize") or steps.get("letterbox")
    grey = steps.get("colour", {}).get("to") == "grey"
    if manifest.modality != "image" or fit is None:
        return
    floats = manifest.feeds[0].dtype.startswith("float") and "normalise" in steps
    for fitted, step in _FITS.items():
        for colour in ("grey",) if grey else ("rgb", "bgr"):
            for span, keys in _RANGES.items() if floats else (("as it is", None),):
                if span == "ImageNet" and grey:
                    continue
                yield f"{fitted}, {colour}, {span}", _with(manifest.pre, fit, step, colour, keys)


def _made(manifest: Manifest) -> list[tuple[str, Any]]:
    """The steps by port, equal when they do the same by the same keys, written or left at their defaults.

    Pictures come as BGR, so that making them BGR is left out.
    """
    first, made = manifest.feeds[0].name, []
    for table in manifest.pre:
        if (table["step"], table.get("to")) != ("colour", "bgr"):
            keys = {key: value for key, value in table.items() if key != "input"}
            made.append((table.get("input", first), make_step("pre", keys, str(manifest))))
    return made


def _with(pre: tuple[Step, ...], fit: Step, step: str, colour: str, keys: Keys | None) -> tuple[Step, ...]:
    """The steps with the picture fitted, coloured and ranged another way; all others stay."""
    made, done = list[Step](), False
    for one in pre:
        where = _where(one)
        if one is fit and one["step"] == step:
            made.append(one)
        elif one is fit:
            size = {key: one[key] for key in ("width_px", "height_px", "interpolation")}
            made.append({"step": step, **size, **where})
        elif one["step"] == "colour":
            made.append({"step": "colour", "to": colour, **where})
            done = True
        elif one["step"] == "normalise" and keys is not None:
            made.append({**keys, **where})
        else:
            made.append(one)
    if not done:
        at = next(i for i, one in enumerate(made) if one["step"] == step)
        made.insert(at + 1, {"step": "colour", "to": colour, **_where(fit)})
    return tuple(made)


def _where(step: Step) -> Keys:
    return {"input": step["input"]} if "input" in step else {}

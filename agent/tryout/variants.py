"""Other ways to prepare a picture for a model: what `limpet models try --compare` runs beside the manifest's own.

Owns the ways in which public models differ: order of colours, range of numbers, how the picture is fitted. Ports of
whole numbers have their range in scale and zero point, so only floats vary in it. Pure.
"""

from collections.abc import Iterator
from dataclasses import replace

from agent.manifest import Manifest, Step
from agent.skeleton.pictures import IMAGENET, PLAIN, SIGNED, UNIT
from agent.skeleton.said import Keys

_RANGES = {"0..1": UNIT, "-1..1": SIGNED, "0..255": PLAIN, "ImageNet": IMAGENET}
_FITS = {"stretched": "resize", "letterbox": "letterbox"}


def variants(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Each way with its words; nothing for what takes no picture in colour, or resizes none."""
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
                pre = _with(manifest.pre, fit, step, colour, keys)
                yield f"{fitted}, {colour}, {span}", replace(manifest, pre=pre)


def _with(pre: tuple[Step, ...], fit: Step, step: str, colour: str, keys: Keys | None) -> tuple[Step, ...]:
    """The steps with the picture fitted, coloured and ranged another way; all others stay."""
    made, done = list[Step](), False
    for one in pre:
        where = {"input": one["input"]} if "input" in one else {}
        if one is fit:
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
        made.insert(at + 1, {"step": "colour", "to": colour})
    return tuple(made)

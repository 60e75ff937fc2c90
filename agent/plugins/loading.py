"""Importing what an allowed package offers, when a configuration names it, and refusing what does not fit.

Code of others may fail in any way while it is imported: what is foreseen becomes a ConfigError that names the package.
"""

import dataclasses
import importlib
import importlib.util
import typing
from pathlib import Path
from typing import Any, Final

from agent.errors import ConfigError, LimpetError
from agent.plugins.found import Offer, Plugin

API: Final = 1
"""A module of a plugin says LIMPET_API = 1. The number changes when plugins made for the one before would fail."""
REMEMBERS: Final = frozenset({"gate", "window", "detector", "follow"})
"""Kinds of steps with a state, which `initial()` makes."""
_FAULTS: Final = (
    LimpetError, ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError,
    ArithmeticError, AssertionError, RuntimeError, OSError, MemoryError, EOFError, StopIteration, BufferError,
    ReferenceError, SystemExit,
)  # fmt: skip


def load(plugin: Plugin, offer: Offer) -> type[Any]:
    """The class behind `offer`. Raises ConfigError."""
    where = f"plugin {plugin.name} {plugin.version}, {offer}"
    try:
        _refuse_elsewhere(plugin, offer.module, where)
        module = importlib.import_module(offer.module)
        said = getattr(module, "LIMPET_API", None)
        if said != API:
            made = f"for API {said}" if said is not None else "without saying for which API (LIMPET_API)"
            raise ConfigError(f"{where}: it is made {made}, this agent has {API}: install a version that fits")
        cls = getattr(module, offer.attribute)
    except ConfigError:
        raise
    except _FAULTS as exc:
        raise ConfigError(f"{where}: it cannot be imported: {type(exc).__name__}: {exc}: ask who made it") from exc
    if why := misfit(cls, offer):
        raise ConfigError(f"{where}: {offer.module}:{offer.attribute} {why}")
    return typing.cast("type[Any]", cls)


def _refuse_elsewhere(plugin: Plugin, name: str, where: str) -> None:
    """Before any of it runs: an import takes what comes first on the path, whoever put it there."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):  # finding a part imports those before it, which were looked at then
        spec = importlib.util.find_spec(".".join(parts[:end]))
        if spec is None:
            return  # the import says what is missing
        namespace = spec.origin is None and spec.submodule_search_locations is not None and end < len(parts)
        if not namespace and Path(spec.origin or "").resolve() not in plugin.files:
            words = f"{spec.name} was found at {spec.origin}, which is not the package's"
            raise ConfigError(f"{where}: {words}: rename it")


def misfit(cls: Any, offer: Offer) -> str:
    """Why `cls` cannot be what it is offered as; empty when it can."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return "is no dataclass"
    if not cls.__dataclass_params__.frozen or "__slots__" not in cls.__dict__:  # type: ignore[attr-defined]
        return "is no dataclass with frozen=True and slots=True"
    if offer.kind == "source":
        return _no_source(cls, offer.name)
    if "__call__" not in dir(cls) or "step" in {field.name for field in dataclasses.fields(cls)}:
        return "cannot be called, or has a field 'step', which is the name's own key"
    if hasattr(cls, "initial") != (offer.kind in REMEMBERS):
        return f"must {'' if offer.kind in REMEMBERS else 'not '}have a method initial(): so says its kind"
    return ""


def _no_source(cls: type[Any], name: str) -> str:
    if typing.get_args(typing.get_type_hints(cls).get("kind")) != (name,):
        return f'lacks a field kind: Literal["{name}"]'
    if getattr(cls, "modality", None) not in ("image", "audio", "series", "tensor"):
        return "lacks modality: ClassVar, one of image, audio, series, tensor"
    return "" if callable(getattr(cls, "open", None)) else "lacks a method open(stamp)"

"""The keys of a plugin's class as text: what docs/steps.md and docs/configuration.md have for the agent's own."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from itertools import pairwise
from typing import Any

from agent.plugins.found import Offer
from agent.strict import describe


def rendered(offer: Offer, cls: type[Any]) -> str:
    """What it does, and each key with what is allowed, its default and its words."""
    first = f'kind = "{offer.name}"' if offer.kind == "source" else f'step = "{offer.name}"'
    lines = [f"{offer.kind}: {first}", *_wrapped(cls.__doc__ or "", "  ")]
    hints, words = typing.get_type_hints(cls, include_extras=True), _field_words(cls)
    for part in dataclasses.fields(cls):
        if part.name == "kind" and offer.kind == "source":
            continue
        lines.append(f"  {part.name.rstrip('_')}: {describe(hints[part.name])}; {_default(part)}")
        lines += _wrapped(words.get(part.name, ""), "      ")
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 100, initial_indent=indent, subsequent_indent=indent)


def _default(part: "dataclasses.Field[Any]") -> str:
    if part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
        return "required"
    value = part.default if part.default_factory is dataclasses.MISSING else part.default_factory()
    return f"default {value!r}"


def _field_words(cls: type[Any]) -> dict[str, str]:
    """The docstring under each field; none where the source text is not installed."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, SyntaxError):
        return {}
    words = {}
    items = body.body if isinstance(body, ast.ClassDef) else []
    for item, after in pairwise(items):
        match item, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                words[name] = text
    return words

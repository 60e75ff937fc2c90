"""Writes docs/configuration.md and docs/steps.md from the code: every table, step, key, default and limit.

    python tools/config_docs.py            rewrite both pages
    python tools/config_docs.py --check    fail when one is out of date
"""

import ast
import dataclasses
import importlib
import inspect
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

from agent import config
from agent.settings import capture, commands, core, envelope, rules, runtime, technician
from agent.strict import describe
from pipelines import STEPS

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """# Configuration

`limpet.toml` describes the device; files in `conf.d/` beside it are laid over it in the order of their names, key by
key. Each pipeline is a file of its own. Everything is strict: an unknown key, a wrong type or a value out of range is
refused with file, table, key and what is allowed; `limpet check` tells without starting anything. Relative paths count
from the folder of `limpet.toml`. Secrets are never values, only names of files. This page is made from the code by
`python tools/config_docs.py`, and the test suite fails when the two disagree.

`limpet.toml` and `reader.toml` begin with `schema = 1`, their format's version; every other key has a default or
stands below as required. A device and one who reads what it says, whole:

```toml
# limpet.toml
schema = 1

[device]
site = "plant"
name = "press-3"

[uplink]
broker = "mqtts://broker.example:8883"   # on the same machine, for a try: mqtt://127.0.0.1:1883

[envelope]
signing_key = "keys/device.key"          # limpet keys new device --out keys
readers = ["keys/reader.pub"]            # limpet keys new reader --out keys

[sources.machine]                        # a pipeline in pipelines/ says: source = "machine"
kind = "load"
```

```toml
# reader.toml
schema = 1

[broker]
broker = "mqtts://broker.example:8883"

[reader]
key = "keys/reader.key"

[[reader.device]]
site = "plant"
device = "press-3"
keys = ["keys/device.pub"]

[technician]                             # who also asks devices for something: limpet request
key = "keys/ann.key"                     # limpet keys new technician --out keys --name ann
```

As an ordinary user, in a checkout, more has to be named, because the defaults are those of the service: `[paths]
runtime`, `[store] folder` and `key_file`, `[models] folders`, and where they are used `[updates] folder`, `spool` and
`ring_folder` with `updater = "child"`, `[commands] journal`, `[identity] folder`. Depot and spool are made where they
are not there.
"""

STEPS_HEAD = """# Steps

What a pipeline file or a model's `model.toml` can name with `step = "..."`. Steps are pure functions over arrays;
their keys are checked when they are made. Times are stream seconds, pixels are those of the view that a step gets,
boxes that leave a decoder are pixels of the source image. Made from the code by `python tools/config_docs.py`.
"""

KINDS = {
    "window": "Windows: how a stream of sound or rows becomes views ([window] of a model or a pipeline)",
    "gate": "Gates: whether a view is worth a model ([gate] of a pipeline)",
    "pre": "Before the model ([[pre]] of a model, or of a pipeline, which come first)",
    "decoder": "Decoders: what outputs mean ([decoder] of a model)",
    "detector": "Detectors: find things without a model ([detector] of a pipeline)",
    "post": "Behind the model, view by view ([[post]] of a model, or of a pipeline, which come last)",
    "follow": "Behind the model, from view to view ([[post]] too, in any order with the others)",
}


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring under each field of a class and of the classes it is made from."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for item, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr):
                docs[item.target.id] = " ".join(ast.literal_eval(after.value).split())
    return docs


def table(cls: type[Any], title: str, skip: frozenset[str] = frozenset()) -> str:
    """One Markdown section for a settings class."""
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = field_docs(cls)
    rows = ["| key | what is allowed | default | |", "|---|---|---|---|"]
    for part in dataclasses.fields(cls):
        if part.name in skip:
            continue
        allowed = describe(hints[part.name]).replace("|", "\\|")
        rows.append(f"| `{part.name.rstrip('_')}` | {allowed} | {default(part)} | {docs.get(part.name, '')} |")
    about = " ".join((cls.__doc__ or "").split()).removeprefix(f"{title}: ")
    text = f"### {title}\n\n{about}\n\n" + ("\n".join(rows) + "\n" if len(rows) > 2 else "")
    return text.replace("<", "&lt;")


def default(part: "dataclasses.Field[Any]") -> str:
    """A field's default as TOML would write it; empty means that the key must be given."""
    if part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
        return "**required**"
    value = part.default_factory() if part.default_factory is not dataclasses.MISSING else part.default
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value):
        return "its own table"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{v}"' if isinstance(v, str | Path) else str(v) for v in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value if value != {} else '{}'}`"


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## limpet.toml\n"]
    for part in dataclasses.fields(config.Config):
        if part.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(part.default_factory):
            cls = typing.cast("type[Any]", part.default_factory)
            parts.append(table(cls, f"[{part.name}]"))
            parts.extend(nested(cls, part.name))
            if cls is commands.CommandsConfig:
                parts.append(table(commands.CommandKey, "[[commands.key]]"))
    parts.append("## reader.toml\n\nWhat `limpet watch` and `limpet request` read.\n")
    parts.append("### [broker]\n\nThe keys of [uplink] that concern a connection.\n")
    parts += [table(envelope.ReaderConfig, "[reader]"), table(envelope.ReaderLimits, "[reader.limits]")]
    parts.append(table(envelope.DeviceTrust, "[[reader.device]]"))
    parts.append(table(technician.TechnicianConfig, "[technician]"))
    parts.append("## Sources: [sources.NAME]\n\nThe key `kind` chooses; docs/capture.md shows each with an example.\n")
    parts += [table(cls, f'kind = "{tag}"', frozenset({"kind"})) for tag, cls in tagged(capture.SourceConfig)]
    parts.append(table(capture.MaskConfig, "[sources.NAME.mask]"))
    parts.append(table(capture.SysfsChannel, "[[sources.NAME.channels]]"))
    parts.append(table(capture.LineFormat, "[sources.NAME.lines]"))
    parts.append(table(capture.PcmFormat, "[sources.NAME.pcm]"))
    parts.append("## Pipeline files\n")
    parts += [table(core.PipelineConfig, "top level"), table(core.ModelUse, "[model]")]
    parts += nested(core.ModelUse, "model")
    parts.append(table(runtime.DelegateOptions, "[[model.runtime.delegates]]"))
    parts.append("## Rules: [[rule]]\n\nThe key `kind` chooses.\n")
    parts += [table(cls, f'kind = "{tag}"', frozenset({"kind"})) for tag, cls in tagged(rules.RuleConfig)]
    return "\n".join(parts)


def steps() -> str:
    """The page of all steps."""
    parts = [STEPS_HEAD]
    for kind, title in KINDS.items():
        parts.append(f"## {title}\n")
        for name, spec in sorted(STEPS[kind].items()):
            module, _, attribute = spec.partition(":")
            parts.append(table(getattr(importlib.import_module(module), attribute), f'step = "{name}"'))
    return "\n".join(parts)


def tagged(union: Any) -> list[tuple[str, type[Any]]]:
    """The tables of a union and the `kind` that chooses each."""
    return [(typing.get_args(typing.get_type_hints(cls)["kind"])[0], cls) for cls in typing.get_args(union)]


def nested(cls: type[Any], name: str) -> list[str]:
    """Sections for the tables inside a table."""
    sections = []
    for part in dataclasses.fields(cls):
        made = part.default_factory if part.default_factory is not dataclasses.MISSING else type(part.default)
        if dataclasses.is_dataclass(made) and isinstance(made, type):
            sections.append(table(made, f"[{name}.{part.name}]"))
            sections += nested(made, f"{name}.{part.name}")
    return sections


def main() -> int:
    """Write both pages, or with --check compare them."""
    pages = {DOCS / "configuration.md": page(), DOCS / "steps.md": steps()}
    if "--check" in sys.argv[1:]:
        return 0 if all(path.read_text() == text for path, text in pages.items()) else 1
    for path, text in pages.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

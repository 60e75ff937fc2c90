"""What a set-config request asks for, and what the settings would be after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from agent.errors import CommandError, ConfigError
from agent.strict import Range, build


@dataclass(frozen=True, slots=True)
class SetConfigArgs:
    """The arguments of set-config."""

    set_: dict[str, Any] = field(default_factory=dict)
    """Tables as in limpet.toml, and [pipelines.<name>]; laid over what set-config changed before."""
    unset: Annotated[tuple[Annotated[str, Range(1, 400)], ...], Range(0, 256)] = ()
    """Keys or tables, such as "log.level" or "pipelines.door", that set-config shall no longer change. "*": all."""
    deadline_s: Annotated[float, Range(5, 3600)] | None = None
    """Time to show itself healthy, seconds; default [remote] deadline_s."""
    dry_run: bool = False
    """Only validate."""

    def __post_init__(self) -> None:
        if not self.set_ and not self.unset:
            raise ValueError("nothing is asked for: give 'set', 'unset' or both")


def parse(args: Mapping[str, Any]) -> SetConfigArgs:
    """Read a request's arguments. Raises CommandError."""
    try:
        return build(SetConfigArgs, args, "set-config")
    except ConfigError as exc:
        raise CommandError(str(exc), "REJECTED_UNSUPPORTED") from exc


def changed(settings: Mapping[str, Any], args: SetConfigArgs) -> dict[str, Any]:
    """`settings` after the request. Raises CommandError for an `unset` that names nothing."""
    made = dict(settings)
    for key in args.unset:
        made = {} if key == "*" else _without(made, key, key)
    return merged(made, {key: value for key, value in args.set_.items() if key != "schema"})


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key, everything else is replaced, and so is a step that is named anew."""
    made = dict(below)
    for key, value in above.items():
        under = made.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping) and "step" not in value:
            made[key] = merged(under, value)
        else:
            made[key] = value
    return made


def _without(table: Mapping[str, Any], key: str, full: str) -> dict[str, Any]:
    """`table` less `key`, a dotted path; names may hold dots themselves, the longest that fits counts."""
    fitting = [n for n in table if key == n or (key.startswith(f"{n}.") and isinstance(table[n], Mapping))]
    if not fitting:
        raise CommandError(f"set-config: unset: set-config changes no '{full}'", "REJECTED_UNSUPPORTED")
    name = max(fitting, key=len)
    if key == name:
        return {other: value for other, value in table.items() if other != name}
    inner = _without(table[name], key[len(name) + 1 :], full)
    return {**table, name: inner} if inner else {other: value for other, value in table.items() if other != name}

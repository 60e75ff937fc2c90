"""What a plugin's steps, decoders and sources must keep to, each promise tried and told.

The suites run in a process that is made for it: they import the plugin, call it, and watch by an audit hook, which
cannot be taken out again, whether it opens files, sockets or processes meanwhile. A promise that is kept here was kept
on the inputs that were made up, no more.
"""

from typing import Any

from agent.promises.promise import Promise

__all__ = ["Promise", "check"]


def check(kind: str, cls: type[Any], keys: dict[str, object], where: str) -> list[Promise]:
    """Try every promise of one offer, made with `keys`. `kind` as `agent.plugins.found.Offer` has it."""
    from agent.promises import decoders, sources, steps

    if kind == "source":
        return sources.check(cls, keys, where)
    if kind == "decoder":
        return decoders.check(cls, keys, where)
    return steps.check(kind, cls, keys, where)

"""`limpet status`: ask the running agent how it is."""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from agent.cli.options import Commands, add_config
from agent.cli.outbox import stats_words
from agent.cli.terminal import counted
from agent.control import ask
from agent.papers import ages
from agent.reconfigure import usable_config


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("status", help="ask the running agent how it is")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print health, lanes, pipelines and outbox; 1 unless the agent is well."""
    status = ask(usable_config(args.config, os.environ).paths.socket, "status")
    if args.json:
        print(json.dumps(status))
    else:
        print("\n".join(_lines(status)))
    return 0 if status["health"] == "ok" else 1


def _lines(status: dict[str, Any]) -> list[str]:
    lines = [f"{status['device']}: {status['health']}, up {status['up_s']:.0f} s, limpet {status['version']}"]
    lines += [f"  ! {reason}" for reason in status["reasons"]]
    lines += _configuration(status["configuration"])
    lines += [f"  plugin {name} {version}" for name, version in status.get("plugins", {}).items()]
    lines += ["lanes", *(line for lane in status["lanes"] for line in _lane(lane))]
    lines += ["pipelines", *(line for item in status["pipelines"].items() for line in _pipeline(*item))]
    lines += ["memory", *_memory(status["memory"])] if "memory" in status else []
    lines += ["outbox", *(f"  {line}" for line in stats_words(status["outbox"]))]
    lines += ["uplink", *_uplink(status["uplink"])]
    return [*lines, *(f"  {name} certificate {ages(told)}" for name, told in status["identity"].items())]


def _configuration(told: dict[str, Any]) -> Iterator[str]:
    if told["mode"] == "safe":
        yield "  configuration: safe mode, see above; `limpet check` tells what is wrong"
    elif told["mode"] == "provisional":
        yield f"  configuration: on trial, judged within {told['left_s']:.0f} s"
    if told["layers"]:
        yield f"  configuration: limpet.toml under {', '.join(told['layers'])} (limpet config show)"


def _lane(lane: dict[str, Any]) -> Iterator[str]:
    failures = f"  failed {counted(lane['failures'], 'time')}" if lane["failures"] else ""
    yield f"  {lane['name']:<32} {lane['phase']}{failures}"
    if lane["error"]:
        yield f"    ! {lane['error']}"


def _pipeline(name: str, pipeline: dict[str, Any]) -> Iterator[str]:
    model = pipeline.get("model")
    eyes = f"{model['name']} {model['version']} on {pipeline['runtime']}" if model else "no model file"
    results, events = counted(pipeline["results"], "result"), counted(pipeline["events"], "event")
    yield f"  {name:<32} {eyes}: {results}, {pipeline['cached']} cached, {pipeline['gated']} gated, {events}"
    if pipeline.get("demonstration"):
        yield f"    a demonstration: {pipeline['demonstration']}"
    yield from (f"    fallback: {reason}" for reason in pipeline.get("fallbacks", ()))
    if host := pipeline.get("host"):
        words = (("starts", "start", ""), ("crashes", "crash", "crashes"), ("hangs", "hang", ""))
        counts = ", ".join(counted(host[key], one, many) for key, one, many in words)
        yield f"    in a process of its own: {counts}" + (f"; the last {host['last']}" if host["last"] else "")
    if "similar" in pipeline:
        yield f"    similar pictures: {_similar(pipeline['similar'])}"


def _similar(told: dict[str, float]) -> str:
    if told["threshold"] < 0:
        state = "nothing is reused yet"
    else:
        state = f"reused up to {told['threshold']:.1f} grey levels, error at most {told['error_bound']:.1%}"
    checked = f"{told['disagreements']:.0f} of {told['rechecks']:.0f} rechecks differed"
    return f"{told['hits']:.0f} reused, {told['saved_ms'] / 1e3:.1f} s saved, {checked}; {state}"


def _memory(told: dict[str, float]) -> Iterator[str]:
    private_mb, resident_mb = told["private_bytes"] / 1e6, told["resident_bytes"] / 1e6
    faults = counted(told["major_faults"], "major fault")
    yield f"  {private_mb:.1f} MB private, {resident_mb:.1f} MB with files, {faults}"
    models, budget = told.get("models_loaded", 0), told.get("models_budget_bytes", 0) / 1e6
    there_mb, again = told.get("models_loaded_bytes", 0) / 1e6, told.get("models_evictions", 0)
    yield f"  {counted(models, 'model')} loaded, {there_mb:.1f} of {budget:g} MB; made room {counted(again, 'time')}"


def _uplink(uplink: dict[str, Any]) -> Iterator[str]:
    yield f"  {'connected to' if uplink['connected'] else 'not connected to'} {uplink['broker']}, MQTT {uplink['mqtt']}"
    events, messages = counted(uplink["acked_events"], "event"), counted(uplink["acked_messages"], "message")
    yield f"  acknowledged {events} in {messages}, refused {uplink['refused']}"
    if uplink["trouble"]:
        yield f"  ! {uplink['trouble']}"
    yield from (f"  ! stream {stream} is refused: {why}" for stream, why in uplink["refusals"].items())
    if not uplink["refusals_reported"]:
        yield "  MQTT 3.1.1: the broker cannot report messages that its access list refuses: such are lost"

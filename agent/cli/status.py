"""`limpet status`: ask the running agent how it is."""

import argparse
import json
from typing import Any

from agent.cli.options import Commands, add_config
from agent.config import load_config
from agent.control import ask


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("status", help="ask the running agent how it is")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print health, lanes, pipelines and outbox; 1 unless the agent is well."""
    status = ask(load_config(args.config).paths.socket, "status")
    if args.json:
        print(json.dumps(status))
    else:
        print("\n".join(_lines(status)))
    return 0 if status["health"] == "ok" else 1


def _lines(status: dict[str, Any]) -> list[str]:
    lines = [f"{status['device']}: {status['health']}, up {status['up_s']:.0f} s, limpet {status['version']}"]
    lines += [f"  ! {reason}" for reason in status["reasons"]]
    lines += [f"  lane {lane['name']:<24} {lane['phase']:<8} failures {lane['failures']}" for lane in status["lanes"]]
    for name, pipeline in status["pipelines"].items():
        model = pipeline.get("model")
        eyes = f"{model['name']} {model['version']} on {pipeline['runtime']}" if model else "no model file"
        lines.append(f"  pipeline {name}: {eyes}, {pipeline['results']} results, {pipeline['events']} events")
        lines += [f"    fallback: {reason}" for reason in pipeline.get("fallbacks", ())]
    lines.append("  outbox " + ", ".join(f"{key} {value}" for key, value in status["outbox"].items()))
    if not status["uplink"]["refusals_reported"]:
        lines.append("  MQTT 3.1.1: the broker cannot report messages that its access list refuses: such are lost")
    lines.append("  uplink " + ", ".join(f"{key} {value}" for key, value in status["uplink"].items()))
    return lines

"""`limpet models new`: a `model.toml` guessed from a model file, printed or written beside it."""

import argparse
import sys
from pathlib import Path

from agent.cli.options import Commands
from agent.manifest import MANIFEST_FILE
from agent.skeleton import skeleton


def add_parser(verbs: Commands) -> None:
    """Describe the verb."""
    new = verbs.add_parser("new", help="print a model.toml guessed from a model file, with reasons")
    new.add_argument("file", type=Path, metavar="FILE", help=".tflite, .onnx or .ort")
    new.add_argument("--write", action="store_true", help="write it beside the file, if there is none yet")


def run(args: argparse.Namespace) -> int:
    """Print or write it; 1 when one is there already. Raises ModelError when the file cannot be loaded."""
    text, path = skeleton(args.file), args.file
    if not args.write:
        print(text, end="")
        return 0
    target = path.parent / MANIFEST_FILE
    try:
        with target.open("x") as file:
            file.write(text)
    except FileExistsError:
        print(f"{target} is there already: move it away, or leave --write out", file=sys.stderr)
        return 1
    asked = text.count("???") - 1
    print(f"wrote {target}: check the {asked} places with ???, then look: limpet models try {path.parent} INPUT")
    return 0

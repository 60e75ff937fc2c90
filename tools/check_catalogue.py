"""Checks every entry of the catalogue: fetches its files, proves them, and runs the golden inputs, as users will.

    python -m tools.check_catalogue [--mirror URL|DIR] [--catalogue DIR] [--licences] [NAME ...]
    python -m tools.check_catalogue --goldens [--mirror URL|DIR] [NAME ...]

--goldens draws the inputs that each model.toml names (tools/catalogue_inputs.py; one that it does not know is yours,
and stays) and writes what the model answers; look at the labels that it prints before you commit. --licences asks the
origins whether the licence texts are where the entries say. Ends with 1 when an entry is wrong.
"""

import argparse
import io
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agent.catalogue import Entry, Wanted, add, load_entry, names, proved
from agent.catalogue.carrier import LIMITS, narrow, opened
from agent.catalogue.origin import ORIGIN_URL, PinnedFile
from agent.errors import ConfigError, LimpetError
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import Golden, load_manifest
from agent.manifest.tables import Table
from agent.records import Array
from agent.strict import build
from agent.tomlfile import parse
from agent.updates.web import WebFetcher
from agent.views import views
from tools import catalogue_inputs

CATALOGUE = Path(__file__).resolve().parent.parent / "models" / "catalogue"
_TEXT_LIMIT_BYTES = 256 * 1024


def main() -> int:
    """Check or regenerate; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Check the catalogue of public models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries (default: all)")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, metavar="DIR")
    parser.add_argument("--mirror", default="", metavar="URL|DIR", help="instead of the origins")
    parser.add_argument("--goldens", action="store_true", help="draw the inputs and write the answers anew")
    parser.add_argument("--licences", action="store_true", help="look for the licence texts at their origins")
    args = parser.parse_args()
    wrong = 0
    for name in args.names or names(args.catalogue):
        try:
            if args.goldens:
                draw_inputs(args.catalogue / name)
            entry = load_entry(args.catalogue / name)
            print(f"ok     {name}: {check(entry, args.mirror, answers=args.goldens)}")
            if args.licences:
                print(f"       {entry.table.licence.text}: {licence_bytes(entry)} bytes")
        except LimpetError as exc:
            wrong += 1
            print(f"WRONG  {name}: {exc}")
    return int(wrong > 0)


def check(entry: Entry, mirror: str, *, answers: bool) -> str:
    """Add the model to a folder that goes again; with `answers` its answers become the golden outputs."""
    prove = (lambda made: write_answers(entry, made)) if answers else proved
    with tempfile.TemporaryDirectory() as folder, opened(mirror) as carrier:
        return add(entry, Path(folder), carrier, prove, _quiet).proof


def draw_inputs(folder: Path) -> None:
    """Every input that the entry's model.toml names, and an empty output in the place of one that is missing."""
    for golden in goldens_of(folder):
        path = folder / "model" / golden.input
        path.parent.mkdir(exist_ok=True)
        draw_input(path)
        if golden.output:
            (folder / "model" / golden.output).touch()


def draw_input(path: Path) -> None:
    """Draw what tools/catalogue_inputs.py knows; an input of your own stays. Raises ConfigError when there is none."""
    try:
        path.write_bytes(catalogue_inputs.make(path.name))
    except KeyError as exc:
        if not path.is_file():
            known = ", ".join(sorted({*catalogue_inputs.PICTURES, *catalogue_inputs.SOUNDS}))
            told = f"{path} is not there, and nothing of that name is drawn ({known}): put yours there"
            raise ConfigError(told) from exc


def goldens_of(folder: Path) -> tuple[Golden, ...]:
    """The [[golden]] tables alone: the files that they name need not be there yet."""
    path = folder / "model" / "model.toml"
    return build(Table, parse(path.read_bytes()), str(path)).golden


def write_answers(entry: Entry, made: Path) -> str:
    """Run the model in `made` on its golden inputs and write the outputs into the entry; says what it found."""
    manifest, told = load_manifest(made), []
    runner = open_model(manifest)
    for golden in manifest.goldens:
        inference = Inference(manifest, runner)
        seen = [inference(view) for view in views(manifest, made / golden.input)][-1]
        if golden.output:
            (entry.folder / "model" / golden.output).write_bytes(packed(seen.outputs))
        best = seen.findings[0] if seen.findings else None
        told.append(f"{golden.input}: " + (f"{best.label} {best.score:.3f}" if best else "nothing"))
    runner.close()
    return "; ".join(told)


def packed(outputs: Mapping[str, Array]) -> bytes:
    """An npz, small and the same every time: numbers beyond the tolerance's reach are rounded away."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in outputs.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array.round(3) + 0 if array.dtype.kind == "f" else array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def licence_bytes(entry: Entry) -> int:
    """How long the licence's text at its origin is. Raises UpdateError when it is not there."""
    fetcher = WebFetcher(LIMITS, way=narrow(ORIGIN_URL))
    try:
        return len(fetcher.download_bytes(PinnedFile.parse(entry.table.licence.text).url(), _TEXT_LIMIT_BYTES))
    finally:
        fetcher.close()


def _quiet(wanted: Wanted, done: int) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    sys.exit(main())

"""`limpet models try`: one input through a model, with what was found drawn on it.

Owns what is printed and written; the way through the model is `agent.tryout`, the pictures are `agent.drawing`.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.cli.options import DEFAULT_CONFIG
from agent.cli.terminal import shown
from agent.cli.tryinput import input_of
from agent.cli.trylook import MOST_FRAMES, pictures, plot
from agent.drawing.blocks import blocks
from agent.drawing.canvas import png
from agent.drawing.sheet import sheet
from agent.errors import ConfigError, ModelError
from agent.loading import open_model
from agent.manifest import Manifest
from agent.records import Array, Finding
from agent.registry import find, holds_model
from agent.settings.capture import SourceConfig
from agent.settings.runtime import RuntimeOptions
from agent.skeleton import FORMATS, guessed
from agent.smells import smells
from agent.tryout import Seen, Tryout

_ABOUT = """Run a model on a picture, video, sound, table or camera, show what it finds, and draw it. MODEL may be a
folder with a model.toml, the name of an installed model, or a bare model file: then its manifest is guessed."""
MOST_ROWS = 40


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    parser = verbs.add_parser("try", help="run a model on one input and draw what it finds", description=_ABOUT)
    parser.add_argument("model", metavar="MODEL", help="folder with a model.toml, installed name, or model file")
    kinds = "picture, video, WAV, CSV, npy, camera, camera:N, rtsp://..., or a configured source"
    parser.add_argument("input", metavar="INPUT", help=kinds)
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="where it is drawn (default ./INPUT.limpet.png)")
    parser.add_argument("--show", action=argparse.BooleanOptionalAction, default=None,
                        help="draw in the terminal too (default: when there is one)")  # fmt: skip
    parser.add_argument("--frames", type=int, default=6, help="pictures of a video or camera (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of live sound or readings (default %(default)g)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one run (default %(default)s)")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the model files, when not MODEL's")
    parser.add_argument("--folder", type=Path, action="append", help="look for MODEL here")


def run(args: argparse.Namespace, roots: Sequence[Path]) -> int:
    """Try it; 0 when it ran, whatever it found. Raises ConfigError, CaptureError, ModelError."""
    _check(args)
    out = _target(args.out, args.input)
    source = input_of(args.input, getattr(args, "config", None) or DEFAULT_CONFIG)
    show = sys.stdout.isatty() if args.show is None else args.show
    with _described(args.model, roots) as (manifest, artifacts):
        runner = open_model(manifest, RuntimeOptions(threads=args.threads), artifact_root=args.artifacts or artifacts)
        try:
            tryout = Tryout(manifest, runner)
            picture, found = _looked(tryout, source, args, show=show)
            if not tryout.seen:
                raise ModelError(f"{args.input}: it holds no view for this model: it is too short or empty")
            _tell(tryout, found)
        finally:
            runner.close()
    if picture is not None:
        _write(out, png(picture))
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, value, most in (("threads", args.threads, 64), ("frames", args.frames, MOST_FRAMES)):
        if not 1 <= value <= most:
            raise ConfigError(f"--{name} {value}: it must be 1 to {most}")
    if not 0.1 <= args.seconds <= 600:
        raise ConfigError(f"--seconds {args.seconds:g}: it must be 0.1 to 600")


def _target(out: Path | None, word: str) -> Path:
    """Where the drawing goes. Raises ConfigError."""
    if out is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(word).stem).strip("-.") or "input"
        return Path(f"{stem}.limpet.png")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: it must end with .png")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}: make it first")
    return out


@contextmanager
def _described(word: str, roots: Sequence[Path]) -> Iterator[tuple[Manifest, Path | None]]:
    """The manifest, and the folder of its files when it is not its own. A bare model file gets a guessed one."""
    path = Path(word)
    if path.is_file() and path.suffix.lower() in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            manifest = guessed(path, Path(folder))
            print(f"guessed from {path.name}: limpet models new {path} shows it with reasons", file=sys.stderr)
            yield manifest, path.parent
        return
    if path.is_dir() and not holds_model(path):
        files = sorted(file.name for file in path.iterdir() if file.suffix.lower() in FORMATS)
        words = f"write one: limpet models new {path / files[0]} --write" if files else "it holds no model either"
        raise ConfigError(f"{path}: there is no model.toml in it: {words}")
    yield find(path.absolute() if path.exists() else path, roots), None


def _looked(
    tryout: Tryout, source: Path | SourceConfig, args: argparse.Namespace, *, show: bool
) -> tuple[Array | None, list[tuple[Seen | None, Finding]]]:
    """The drawing, and what was found in which view (none: at the end)."""
    if tryout.manifest.modality != "image":
        picture, _ = plot(tryout, source, args.seconds)
        if show and picture is not None:
            print(_in_terminal(picture))
        ended = [(None, finding) for finding in tryout.ended]
        return picture, [*((seen, f) for seen in tryout.seen for f in seen.inferred.findings), *ended]
    made, height = [], 0
    for picture in pictures(tryout, source, args.frames):
        if show:
            text = _in_terminal(picture)
            print((f"\x1b[{height}A" if height else "") + text, flush=True)
            height = text.count("\n") + 1
        made.append(picture)
    return (sheet(made) if made else None), [(seen, f) for seen in tryout.seen for f in seen.inferred.findings]


def _in_terminal(picture: Array) -> str:
    size = shutil.get_terminal_size((80, 24))
    return blocks(picture, size.columns, max(4, size.lines - 2))


def _tell(tryout: Tryout, found: list[tuple[Seen | None, Finding]]) -> None:
    """The findings as a table, the times, and what looks wrong."""
    several = len(tryout.seen) > 1
    print(f"{tryout.manifest}: {len(tryout.seen)} view{'s' * several}, {len(found)} finding{'s' * (len(found) != 1)}")
    rows = [_row(seen, finding) for seen, finding in found]
    shown_rows = rows if len(rows) <= MOST_ROWS else sorted(rows, key=lambda row: -float(row[1]))[:MOST_ROWS]
    widths = [max((len(row[i]) for row in shown_rows), default=0) for i in range(3)]
    for row in shown_rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join(["", *cells, row[3] * several]).rstrip())
    if len(rows) > MOST_ROWS:
        print(f"  ... the {MOST_ROWS} best of {len(rows)}")
    if not rows:
        print("  nothing reached the threshold" + _nearly(tryout))
    ms = tryout.median_ms()
    print(f"median ms: pre {ms['pre']:.2f}, run {ms['run']:.2f}, post {ms['post']:.2f}"
          f"  ({tryout.runner.info.runtime} {tryout.runner.info.version}, {', '.join(tryout.runner.info.used)})")  # fmt: skip
    outputs = [tryout.real_outputs(seen) for seen in tryout.seen]
    per_view = [(seen.view, seen.inferred.findings) for seen in tryout.seen]
    for smell in smells(tryout.manifest, tryout.fed, outputs, per_view):
        print(f"looks wrong: {smell}")


def _nearly(tryout: Tryout) -> str:
    """The threshold, when the decoder names one."""
    threshold = (tryout.manifest.decoder or {}).get("threshold")
    return f" of {threshold:g}" if isinstance(threshold, int | float) else ""


def _row(seen: Seen | None, finding: Finding) -> tuple[str, str, str, str]:
    where = ""
    if finding.box:
        where = "[" + ", ".join(f"{side:.0f}" for side in finding.box) + "]"
    elif finding.interval:
        where = f"{finding.interval[0]:.2f}-{finding.interval[1]:.2f} s"
    value = finding.value
    if value is not None and value != finding.label:
        where += f" = {value:.4g}" if isinstance(value, float) else f" = {value}"
        where += f" {finding.unit}" if finding.unit not in (None, "1") else ""
    view = "" if seen is None or finding.interval else f"at {seen.view.t0_s:.2f} s"
    return shown(finding.label), f"{finding.score:.3f}", shown(where.strip()), view


def _write(out: Path, data: bytes) -> None:
    try:
        out.write_bytes(data)
    except OSError as exc:
        words = f"{out}: the drawing cannot be written: {exc.strerror}"
        raise ConfigError(f"{words}: name another place with --out") from exc
    print(f"drawn in {out}")

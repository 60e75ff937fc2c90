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
from dataclasses import replace
from pathlib import Path

from agent.cli.options import DEFAULT_CONFIG, Commands
from agent.cli.trycompare import compare
from agent.cli.tryinput import input_of
from agent.cli.trylook import MOST_FRAMES, pictures, plot
from agent.cli.trytell import tell
from agent.config import load_pipeline
from agent.drawing.blocks import blocks
from agent.drawing.canvas import png
from agent.drawing.sheet import sheet
from agent.errors import ConfigError, ModelError
from agent.loading import open_model
from agent.manifest import Manifest
from agent.records import Array
from agent.registry import find, holds_model
from agent.runtime import Runner
from agent.settings.capture import SourceConfig
from agent.settings.runtime import RuntimeOptions
from agent.skeleton import FORMATS, guessed
from agent.tryout import Found, Tryout

_ABOUT = """Run a model on a picture, video, sound, table or camera, show what it finds, and draw it. MODEL may be a
folder with a model.toml, the name of an installed model, or a bare model file: then its manifest is guessed."""


def add_parser(verbs: Commands) -> None:
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
    parser.add_argument("--compare", action="store_true",
                        help="run one picture with other colours, ranges and fits too, the surest first")  # fmt: skip
    parser.add_argument("--pipeline", type=Path, metavar="FILE", help="with [[pre]] and [[post]] of this pipeline")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the model files, when not MODEL's")
    parser.add_argument("--folder", type=Path, action="append", help="look for MODEL here")


def run(args: argparse.Namespace, roots: Sequence[Path]) -> int:
    """Try it; 0 when it ran, whatever it found. Raises ConfigError, CaptureError, ModelError."""
    _check(args)
    out = _target(args.out, args.input)
    source = input_of(args.input, getattr(args, "config", None) or DEFAULT_CONFIG)
    show = sys.stdout.isatty() if args.show is None else args.show
    with _described(args.model, roots) as (described, artifacts):
        manifest = _as_array(_in_pipeline(described, args.pipeline), source)
        runner = open_model(manifest, RuntimeOptions(threads=args.threads), artifact_root=args.artifacts or artifacts)
        try:
            if args.compare:
                picture: Array | None = _compared(manifest, runner, source, show=show)
            else:
                picture = _tried(Tryout(manifest, runner), source, args, show=show)
        finally:
            runner.close()
    if picture is not None:
        _write(out, png(picture))
    return 0


def _tried(tryout: Tryout, source: Path | SourceConfig, args: argparse.Namespace, *, show: bool) -> Array | None:
    picture, found = _looked(tryout, source, args, show=show)
    if not tryout.count:
        raise ModelError(f"{args.input}: it holds no view for this model: it is too short or empty")
    tell(tryout, found)
    return picture


def _compared(manifest: Manifest, runner: Runner, source: Path | SourceConfig, *, show: bool) -> Array:
    made = sheet(compare(manifest, runner, source))
    if show:
        print(_in_terminal(made))
    return made


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
        raise ConfigError(f"{path}: there is no model.toml in it: {_instead(path)}")
    yield find(path.absolute() if path.exists() else path, roots), None


def _instead(folder: Path) -> str:
    """What to do with a folder that has no manifest."""
    if files := sorted(file.name for file in folder.iterdir() if file.suffix.lower() in FORMATS):
        return f"write one: limpet models new {folder / files[0]} --write"
    if models := sorted(str(inner) for inner in folder.iterdir() if inner.is_dir() and holds_model(inner)):
        return f"name one of the models in it: {', '.join(models)}"
    return "it holds no model either"


def _in_pipeline(manifest: Manifest, path: Path | None) -> Manifest:
    """The model with a pipeline's window and steps around its own."""
    if path is None:
        return manifest
    config = load_pipeline(path).config
    before = [{**step, "input": port.name} for port in manifest.feeds for step in config.pre]
    window = config.window or manifest.window
    return replace(manifest, window=window, pre=(*before, *manifest.pre), post=(*manifest.post, *config.post))


def _as_array(manifest: Manifest, source: Path | SourceConfig) -> Manifest:
    """A model of sound is given an array of features as it is, behind its front end."""
    if manifest.modality == "audio" and isinstance(source, Path) and source.suffix == ".npy":
        return replace(manifest, modality="tensor", window=None, pre=())
    return manifest


def _looked(
    tryout: Tryout, source: Path | SourceConfig, args: argparse.Namespace, *, show: bool
) -> tuple[Array | None, list[Found]]:
    """The drawing, and what was found in the views that are drawn."""
    if tryout.manifest.modality != "image":
        plain = plot(tryout, source, args.seconds)
        if show and plain is not None:
            print(_in_terminal(plain))
        return plain, tryout.found
    made, told, height = list[Array](), list[Found](), 0
    for seen, picture in pictures(tryout, source, args.frames):
        if show:
            text = _in_terminal(picture)
            print((f"\x1b[{height}A" if height else "") + text, flush=True)
            height = text.count("\n") + 1
        made.append(picture)
        told += [(seen.view.t0_s, finding) for finding in seen.inferred.findings]
    return (sheet(made) if made else None), told


def _in_terminal(picture: Array) -> str:
    size = shutil.get_terminal_size((80, 24))
    return blocks(picture, size.columns, max(4, size.lines - 2))


def _write(out: Path, data: bytes) -> None:
    try:
        out.write_bytes(data)
    except OSError as exc:
        words = f"{out}: the drawing cannot be written: {exc.strerror}"
        raise ConfigError(f"{words}: name another place with --out") from exc
    print(f"drawn in {out}")

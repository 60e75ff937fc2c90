"""`limpet infer`: run a model on files, one line per file."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cli import lines
from agent.cli.options import Commands
from agent.cli.terminal import fleeting
from agent.config import load_config
from agent.errors import ConfigError, LimpetError, ModelError
from agent.inference import Inference, Inferred
from agent.loading import open_model
from agent.manifest import Manifest
from agent.records import Finding
from agent.registry import find
from agent.settings.runtime import RuntimeOptions
from agent.views import views


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    about = "Run a model on files, one line each: the best of each label, xN when N views of the file have it."
    parser = sub.add_parser("infer", help="run a model on files", description=about)
    parser.add_argument("model", metavar="MODEL_DIR", help="folder with a model.toml")
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="picture, video, WAV, CSV, npy ...")
    parser.add_argument("--json", action="store_true", help="JSON lines (docs/cli.schema.json)")
    parser.add_argument("--outputs", action="store_true", help="JSON lines with the raw tensors of the last view too")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the model files, when not MODEL_DIR")
    parser.add_argument("--config", type=Path, help="limpet.toml whose [plugins] the model's steps may come from")
    parser.add_argument("--threads", type=int, default=1, help="threads of one run (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print a line per file, failed ones included; 1 when any failed. Raises ConfigError when the model cannot run."""
    if not 1 <= args.threads <= 64:
        raise ConfigError(f"--threads {args.threads}: it must be 1 to 64")
    if args.config is not None:
        load_config(args.config)
    try:
        manifest = find(Path(args.model).absolute(), ())
        runner = open_model(manifest, RuntimeOptions(threads=args.threads), artifact_root=args.artifacts)
    except ModelError as exc:
        raise ConfigError(str(exc)) from exc
    failed = 0
    try:
        inference = Inference(manifest, runner)
        for i, path in enumerate(args.files):
            fleeting(f"{i + 1}/{len(args.files)}")
            fields = _one(inference, manifest, path, want_outputs=args.outputs)
            fleeting()
            failed += "error" in fields
            print(lines.write(fields) if args.json or args.outputs else _words(fields), flush=True)
    finally:
        runner.close()
    return 1 if failed else 0


@dataclass(slots=True)
class _Sum:
    """What all views of one file gave together."""

    findings: tuple[Finding, ...] = ()
    last: Inferred | None = None
    timings_ms: dict[str, float] | None = None

    def add(self, one: Inferred) -> None:
        self.findings += one.findings
        self.last = one
        held = self.timings_ms or {}
        self.timings_ms = {stage: held.get(stage, 0.0) + ms for stage, ms in one.timings_ms.items()}


def _one(inference: Inference, manifest: Manifest, path: Path, *, want_outputs: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"file": str(path), "model": lines.model_fields(inference.runner.info.model)}
    gathered = _Sum()
    inference.reset()
    try:
        for view in views(manifest, path):
            gathered.add(inference(view))
        gathered.findings += inference.finish()
    except LimpetError as exc:
        fields |= {"findings": lines.findings_fields(gathered.findings), "error": str(exc)}
        return fields
    if gathered.last is None:
        return fields | {"findings": [], "error": f"{path}: it holds no view for this model: it is too short or empty"}
    fields |= {
        "findings": lines.findings_fields(gathered.findings),
        "cache": gathered.last.cache,
        "timings_ms": {stage: round(ms, 3) for stage, ms in (gathered.timings_ms or {}).items()},
    }
    if want_outputs:
        fields["outputs"] = lines.output_fields(gathered.last.outputs)
    return fields


def _words(fields: Mapping[str, Any]) -> str:
    if "error" in fields:
        return f"{fields['file']}: FAILED: {fields['error']}"
    seen = list(_seen(fields["findings"]))[:5] or ["nothing found"]
    return f"{fields['file']}: {', '.join(seen)}  ({fields['timings_ms'].get('run', 0):.2f} ms)"


def _seen(findings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What was found, the best of each label, with how many views of a film, a sound or a series said so."""
    alike: dict[object, list[Mapping[str, Any]]] = {}
    for i, finding in enumerate(findings):
        alike.setdefault(i if "box" in finding else finding["label"], []).append(finding)
    for group in alike.values():
        best = max(group, key=lambda finding: float(finding["score"]))
        yield _finding_words(best) + (f" x{len(group)}" if len(group) > 1 else "")


def _finding_words(finding: Mapping[str, Any]) -> str:
    held = finding.get("value")
    value = "" if held is None else f" = {held:.6g}" if isinstance(held, float) else f" = {held}"
    box = " at [" + ", ".join(f"{v:.0f}" for v in finding["box"]) + "]" if "box" in finding else ""
    return f"{finding['label']}{value} {finding['score']:.3f}{box}"

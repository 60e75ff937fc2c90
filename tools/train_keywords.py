"""Build models/keywords: an int8 keyword spotter, from speech that is synthesised here.

    python tools/train_keywords.py [FOLDER] [--work DIR]      speak, mix, train, quantise, measure
    python tools/train_keywords.py [FOLDER] --measure         measure the file that is there, write its figures
    python tools/train_keywords.py --without flite            how well a training without flite hears flite (or pico);
                                                              the figures go into the next model.toml

Needs tools/locks/train.txt and, of Debian 12, espeak-ng, flite, festival, festlex-cmu, libttspico-utils and the voices
festvox-kdlpc16k, -kallpc16k, -us-slt-hts, -czech-ph, -czech-dita, -czech-krb, -czech-machac, -suopuhe-lj, -suopuhe-mv,
-italp16k, -itapc16k, -hi-nsk (with festival-hi). On two busy cores it speaks for twelve minutes, mixes for ten and
trains for forty; speech and examples are kept in DIR, so that a second run is quicker. Everything follows from the
seeds; a rebuild with other versions of the synthesisers or of the machine's arithmetic moves the figures by some 0.02.
"""

import argparse
import hashlib
import io
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import tensorflow as tf  # noqa: E402
from keyword_corpus import Corpus, corpus, joined  # noqa: E402
from keyword_examples import LABELS, Material, example, examples, material  # noqa: E402
from keyword_figures import accuracy, judged, reason  # noqa: E402
from keyword_measure import Ear  # noqa: E402
from keyword_network import quantised, trained  # noqa: E402
from keyword_texts import KEYWORDS  # noqa: E402
from speech import voices, write_wav  # noqa: E402

from agent.inference import Inference  # noqa: E402
from agent.loading import open_model  # noqa: E402
from agent.manifest import load_manifest  # noqa: E402
from agent.records import View  # noqa: E402
from pipelines import make_step  # noqa: E402

FRONT: dict[str, Any] = {
    "step": "log_mel", "frame_length": 480, "frame_step": 320, "fft_length": 512, "window": "hann_periodic",
    "spectrum": "power", "mel_bins": 40, "mel_scale": "htk", "f_min_hz": 60.0, "f_max_hz": 7600.0,
    "log": "ln", "log_offset": 1e-5, "normalise": "band_mean",
}  # fmt: skip
SPOKEN, MIXED, POOL, GOLDEN = 7, 5, 1, 9
"""Seeds of what is spoken, of the examples, of the backgrounds, of the golden inputs."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training: its name, how many examples it mixes, and how often it sees each."""

    name: str
    examples: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Jump:
    """A synthesiser to be left out: beginnings of the voices that must not train, and the voices that are measured."""

    kept_out: tuple[str, ...]
    heard: tuple[str, ...]


ALL, SHORT = Run("all", 140_000, 6), (70_000, 5)
JUMPS = {
    "flite": Jump(
        ("flite ", "festival voice_cmu_us_slt", "diphone kal"),
        ("flite slt", "flite rms", "flite awb", "flite kal16"),
    ),
    "pico": Jump(("pico ",), ("pico en-US", "pico en-GB")),
}
"""The nearest thing to a person whom the model never heard: a synthesiser of another make, cut from other people."""
THRESHOLD = 0.3
"""For clips, where a word that is missed is worse than one too many; the rule of a stream asks for more."""
MEMORY_MB = 4.0
GOLDENS = ("yes", "stop", "left", "unknown", "silence")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build models/keywords.")
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parent / "models" / "keywords")
    parser.add_argument("--work", type=Path, default=Path("/tmp/limpet-keywords"), help="where speech is kept")
    parser.add_argument("--measure", action="store_true", help="keep the network, measure it again")
    parser.add_argument("--without", choices=sorted(JUMPS), help="leave a synthesiser out, measure it on that")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    spoken = corpus(args.work, held_out=False, seed=SPOKEN)
    unseen = corpus(args.work, held_out=True, seed=SPOKEN)
    if args.without:
        _jump(args.work, args.without, spoken, unseen)
        return
    graph = (args.folder / "keywords.tflite").read_bytes() if args.measure else _trained(args.work, spoken, ALL)
    _write(args.folder, graph, len(spoken), unseen, args.work)


def _jump(work: Path, name: str, spoken: Corpus, unseen: Corpus) -> None:
    """Train a network that never hears the synthesiser `name`, nor the people it was cut from; measure it on that."""
    jump = JUMPS[name]
    others = spoken.only(lambda voice: not voice.startswith(jump.kept_out))
    graph = _trained(work, others, Run(f"without-{name}", *SHORT))
    folder = work / f"without-{name}"
    _folder(folder, graph, len(spoken))
    stuff = material(joined((spoken, unseen)).only(lambda voice: voice in jump.heard), POOL, count=100)
    figures = judged(Ear(load_manifest(folder)), stuff)
    (folder / f"{name}.json").write_text(json.dumps(figures))
    print(name, figures)


def _trained(work: Path, spoken: Corpus, run: Run) -> bytes:
    x, y = _examples(work / f"examples-{run.name}-{MIXED}-{run.examples}.npz", spoken, run.examples)
    return quantised(trained(x, y, len(LABELS), run.epochs, seed=0), x[:1000])


def _examples(path: Path, spoken: Corpus, count: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    if not path.exists():
        front = make_step("pre", FRONT, "train_keywords")
        x, y = examples(material(spoken, POOL), front, count, MIXED)
        np.savez(path, x=x, y=y)
    with np.load(path) as kept:
        return kept["x"], kept["y"]


def _write(folder: Path, graph: bytes, takes: int, unseen: Corpus, work: Path) -> None:
    """The model's folder: first without figures, then with the figures of what was written."""
    _folder(folder, graph, takes)
    stuff = material(unseen, POOL, count=100)
    goldens = _goldens(folder, stuff)
    tables = accuracy(folder, stuff, [work / f"without-{name}" / f"{name}.json" for name in JUMPS])
    told = "\n".join(_toml(f"[accuracy.{name}]", table) for name, table in tables.items())
    text = _manifest(graph, takes, goldens=goldens, accuracy=told, demonstration=reason(tables))
    (folder / "model.toml").write_text(text)


def _folder(folder: Path, graph: bytes, takes: int) -> None:
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "keywords.tflite").write_bytes(graph)
    (folder / "model.toml").write_text(_manifest(graph, takes, goldens="", accuracy="", demonstration=""))


def _manifest(graph: bytes, takes: int, **parts: str) -> str:
    reader = tf.lite.Interpreter(model_content=graph)
    (fed,), (made,) = reader.get_input_details(), reader.get_output_details()
    return (HERE / "keywords.toml.in").read_text().format(
        takes=takes, voices=sum(not v.held_out for v in voices()), examples=ALL.examples, epochs=ALL.epochs,
        short=SHORT[0], short_epochs=SHORT[1],
        labels=json.dumps(LABELS), classes=len(LABELS), frames=fed["shape"][1], bands=fed["shape"][2],
        input_name=fed["name"], input_scale=fed["quantization"][0], input_zero=fed["quantization"][1],
        output_name=made["name"], output_scale=made["quantization"][0], output_zero=made["quantization"][1],
        pre=_toml("[[pre]]", FRONT), threshold=THRESHOLD, sha256=hashlib.sha256(graph).hexdigest(),
        memory_mb=MEMORY_MB, **parts,
    )  # fmt: skip


def _goldens(folder: Path, stuff: Material) -> str:
    """Inputs that are heard as what they are, loud or soft, with the raw outputs, in files; tables for model.toml."""
    manifest = load_manifest(folder)
    infer = Inference(manifest, open_model(manifest))
    rng, tables = np.random.default_rng(GOLDEN), []
    for label in GOLDENS:
        wanted = label if label in KEYWORDS else ""
        for _ in range(50):
            sound = example(stuff, label, rng)
            inferred, softer = (infer(View(x, 0.0, 1.0, 16_000.0)) for x in (sound, sound // 4))
            if all((one.findings[0].label if one.findings else "") == wanted for one in (inferred, softer)):
                break
        write_wav(folder / "golden" / f"{label}.wav", sound / np.float32(32767))
        _npz(folder / "golden" / f"{label}.npz", inferred.outputs)
        table = {"input": f"golden/{label}.wav", "output": f"golden/{label}.npz", "label": wanted}
        tables.append(_toml("[[golden]]", table))
    return "\n".join(tables)


def _toml(header: str, table: dict[str, Any]) -> str:
    return f"{header}\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's; tables stand in their line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def _npz(path: Path, arrays: Any) -> None:
    """An npz whose bytes depend on the arrays alone: numpy writes the time of day."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


if __name__ == "__main__":
    main()

"""Build models/keywords: an int8 keyword spotter, from speech that is synthesised here.

    python tools/train_keywords.py [FOLDER] [--work DIR]      speak, mix, train, quantise, measure
    python tools/train_keywords.py [FOLDER] --measure         measure the file that is there, write its figures

Needs tools/locks/train.txt and the Debian packages espeak-ng, flite, festival, festvox-kdlpc16k, festvox-us-slt-hts and
libttspico-utils; speaks for eight minutes, then mixes and trains for half an hour on two cores. Speech and examples are
kept in DIR, so that a second run is quicker. Everything follows from the seeds; a rebuild with other versions of the
synthesisers or of the machine's arithmetic gives the figures in model.toml within 0.02.
"""

import argparse
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import tensorflow as tf  # noqa: E402
from keyword_corpus import Corpus, corpus  # noqa: E402
from keyword_examples import LABELS, Material, example, examples, material  # noqa: E402
from keyword_measure import (  # noqa: E402
    Ear,
    false_accepts_on_real_speech,
    false_accepts_on_unseen_voices,
    has_real_data,
    on_real_words,
    on_unseen_voices,
)
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
SPOKEN, MIXED, POOL, MEASURED, GOLDEN = 7, 5, 1, 6, 9
"""Seeds of what is spoken, of the examples, of the backgrounds, of what is measured, of the golden inputs."""
EXAMPLES, EPOCHS = 120_000, 5
THRESHOLD = 0.4
"""For clips, where a word that is missed is worse than one too many; the rule of a stream asks for more."""
MEMORY_MB = 4.0
GOLDENS = ("yes", "stop", "left", "unknown", "silence")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build models/keywords.")
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parent / "models" / "keywords")
    parser.add_argument("--work", type=Path, default=Path("/tmp/limpet-keywords"), help="where speech is kept")
    parser.add_argument("--measure", action="store_true", help="keep the network, measure it again")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    spoken = corpus(args.work, held_out=False, seed=SPOKEN)
    graph = (args.folder / "keywords.tflite").read_bytes() if args.measure else _trained(args.work, spoken)
    unseen = corpus(args.work, held_out=True, seed=SPOKEN)
    _write(args.folder, graph, len(spoken), unseen)


def _trained(work: Path, spoken: Corpus) -> bytes:
    x, y = _examples(work, spoken)
    return quantised(trained(x, y, len(LABELS), EPOCHS, seed=0), x[:1000])


def _examples(work: Path, spoken: Corpus) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    path = work / f"examples-{MIXED}-{EXAMPLES}.npz"
    if not path.exists():
        front = make_step("pre", FRONT, "train_keywords")
        x, y = examples(material(spoken, POOL), front, EXAMPLES, MIXED)
        np.savez(path, x=x, y=y)
    with np.load(path) as kept:
        return kept["x"], kept["y"]


def _write(folder: Path, graph: bytes, takes: int, unseen: Corpus) -> None:
    """The model's folder: first without figures, then with the figures of what was written."""
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "keywords.tflite").write_bytes(graph)
    toml = folder / "model.toml"
    toml.write_text(_manifest(graph, takes, goldens="", accuracy=""))
    stuff = material(unseen, POOL, count=100)
    goldens = _goldens(folder, stuff)
    toml.write_text(_manifest(graph, takes, goldens=goldens, accuracy=_accuracy(folder, stuff)))


def _manifest(graph: bytes, takes: int, **parts: str) -> str:
    reader = tf.lite.Interpreter(model_content=graph)
    (fed,), (made,) = reader.get_input_details(), reader.get_output_details()
    return (HERE / "keywords.toml.in").read_text().format(
        takes=takes, voices=sum(not v.held_out for v in voices()), examples=EXAMPLES, epochs=EPOCHS,
        labels=json.dumps(LABELS), classes=len(LABELS), frames=fed["shape"][1], bands=fed["shape"][2],
        input_name=fed["name"], input_scale=fed["quantization"][0], input_zero=fed["quantization"][1],
        output_name=made["name"], output_scale=made["quantization"][0], output_zero=made["quantization"][1],
        pre=_toml("[[pre]]", FRONT), threshold=THRESHOLD, sha256=hashlib.sha256(graph).hexdigest(),
        memory_mb=MEMORY_MB, **parts,
    )  # fmt: skip


def _goldens(folder: Path, stuff: Material) -> str:
    """Inputs that are heard as what they are, with the raw outputs, written beside the model; tables for model.toml."""
    manifest = load_manifest(folder)
    infer = Inference(manifest, open_model(manifest))
    rng, tables = np.random.default_rng(GOLDEN), []
    for label in GOLDENS:
        wanted = label if label in KEYWORDS else ""
        for _ in range(50):
            sound = example(stuff, label, rng)
            inferred = infer(View(sound, 0.0, 1.0, 16_000.0))
            if (inferred.findings[0].label if inferred.findings else "") == wanted:
                break
        write_wav(folder / "golden" / f"{label}.wav", sound / np.float32(32767))
        _npz(folder / "golden" / f"{label}.npz", inferred.outputs)
        table = {"input": f"golden/{label}.wav", "output": f"golden/{label}.npz", "label": wanted}
        tables.append(_toml("[[golden]]", table))
    return "\n".join(tables)


def _accuracy(folder: Path, stuff: Material) -> str:
    ear = Ear(load_manifest(folder))
    tables = {
        "unseen_voices": on_unseen_voices(ear, stuff, 200, MEASURED),
        "unseen_voices_reading": false_accepts_on_unseen_voices(ear, stuff.corpus, 20, MEASURED),
    }
    if has_real_data():
        tables |= {"real_words": on_real_words(ear), "real_speech": false_accepts_on_real_speech(ear)}
    return "\n".join(_toml(f"[accuracy.{name}]", table) for name, table in tables.items())


def _toml(header: str, table: dict[str, Any]) -> str:
    """JSON's strings, numbers and lists are TOML's."""
    return f"{header}\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def _npz(path: Path, arrays: Any) -> None:
    """An npz whose bytes depend on the arrays alone: numpy writes the time of day."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


if __name__ == "__main__":
    main()

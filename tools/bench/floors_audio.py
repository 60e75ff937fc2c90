"""The bare loop and the obvious script for sound: a window of a second every quarter, log-mel, run, best class.

    python -m tools.bench.floors_audio bare|script WAV MODEL-FOLDER VIEWS [BROKER-JSON]

The features are those that the shipped keyword model asks for, written with numpy as in any tutorial; the model runs in
LiteRT's interpreter on one thread. See `tools.bench.floors`.
"""

import sys
import tomllib
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from agent.records import Array
from tools.bench.floors import Tell, counted, teller


def main(words: list[str]) -> int:
    """Run one contender."""
    kind, sound, folder, views, *broker = words
    return counted(hearing(Path(sound), Path(folder), teller(kind, broker)), int(views))


def hearing(sound: Path, folder: Path, tell: Tell) -> Iterator[int]:
    """One window after the other, for ever; 1 where a word was heard."""
    manifest = tomllib.loads((folder / "model.toml").read_text())
    port, labels, window = manifest["input"][0], manifest["labels"], manifest["window"]
    model = Interpreter(model_path=str(folder / manifest["artifact"][0]["file"]), num_threads=1)
    model.allocate_tensors()
    into, out = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
    with wave.open(str(sound)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    length, hop, number = int(window["length_s"] * rate), int(window["hop_s"] * rate), 0
    features = Features(manifest["pre"][0], rate)
    while True:
        for start in range(0, len(samples) - length, hop):
            real = features(samples[start : start + length]) / port["scale"] + port["zero_point"]
            model.set_tensor(into, np.rint(real).clip(-128, 127).astype(np.int8).reshape(port["shape"]))
            model.invoke()
            scores = (model.get_tensor(out)[0].astype(np.float32) + 128) / 256
            best = int(scores.argmax())
            tell(number, [{"label": labels[best], "score": float(scores[best])}])
            number += 1
            yield int(best > 1)


class Features:
    """int16 samples -> [frames, bands] log-mel energies, each band's mean taken off."""

    def __init__(self, step: dict[str, Any], rate: int) -> None:
        self._length, self._step, self._fft = step["frame_length"], step["frame_step"], step["fft_length"]
        self._window = np.hanning(self._length + 1)[:-1].astype(np.float32)
        self._bands = mel_bands(step["mel_bins"], self._fft // 2 + 1, rate, step["f_min_hz"], step["f_max_hz"])
        self._offset = step["log_offset"]

    def __call__(self, samples: Array) -> Array:
        frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32) / 32768, self._length)
        spectrum = np.fft.rfft(frames[:: self._step] * self._window, self._fft)
        mel = np.log((np.abs(spectrum) ** 2).astype(np.float32) @ self._bands + self._offset)
        made: Array = mel - mel.mean(axis=0)
        return made


def mel_bands(bands: int, bins: int, rate: int, low_hz: float, high_hz: float) -> Array:
    """[bins, bands] triangles on the mel scale of HTK, 2595 log10(1 + f / 700)."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([low_hz, high_hz]) / 700)), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, bins)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    made: Array = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

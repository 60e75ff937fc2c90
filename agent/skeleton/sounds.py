"""How sound and series become a port, and what their outputs tell.

Owns the front ends of public models, recognised by the shape of the port: a table of shapes, because nothing else of a
front end is left in a graph. A shape that no public model has gets a window and a question. Sources: MLPerf Tiny's
keyword, wake-word and anomaly models, micro_speech of TensorFlow Lite Micro, YAMNet, Silero VAD.
"""

import numpy as np

from agent.skeleton.facts import Facts, Shaped, is_silero
from agent.skeleton.label_sets import KEYWORDS_12
from agent.skeleton.parts import Keys, Labels, Part, Reading, Sure
from agent.skeleton.scenes import row_activation

_ONE_SECOND = {"step": "frames", "length_s": 1.0, "hop_s": 0.5}
_TWICE = "one second, twice a second"
_LEAST_SAMPLES = 4000
"""A row of at least so many numbers is sound without being called so: a quarter of a second at 16 kHz."""
_MFCC = {
    "step": "mfcc", "peak": "max", "frame_length": 480, "frame_step": 320, "fft_length": 512,
    "window": "hann_periodic", "spectrum": "magnitude", "mel_bins": 40, "mel_scale": "htk", "f_min_hz": 20.0,
    "f_max_hz": 4000.0, "log": "ln", "log_offset": 1e-6, "coefficients": 10, "dct_norm": "htk",
}  # fmt: skip
_STREAMING = {
    "step": "log_mel_frames", "frames": 30, "hop_frames": 1, "pre_emphasis": 0.96875, "frame_length": 1024,
    "frame_step": 512, "fft_length": 1024, "window": "hamming_symmetric", "spectrum": "power",
    "spectrum_gain": 0.0009765625, "mel_bins": 40, "mel_scale": "htk", "f_min_hz": 0.0, "f_max_hz": 8000.0, "log": "db",
    "shift": 52.0, "gain": 0.015625, "clip": [0.0, 1.0],
}  # fmt: skip
_MACHINE = {
    "step": "log_mel_frames", "frames": 5, "hop_frames": 1, "frame_length": 1024, "frame_step": 512,
    "fft_length": 1024, "window": "hann_periodic", "spectrum": "power", "mel_bins": 128, "mel_scale": "slaney",
    "mel_slope": "hz", "mel_norm": "slaney", "f_min_hz": 0.0, "f_max_hz": 8000.0, "log": "db", "log_offset": 2.22e-16,
}  # fmt: skip
_YAMNET = {
    "step": "log_mel", "frame_length": 400, "frame_step": 160, "fft_length": 512, "spectrum": "magnitude",
    "mel_bins": 64, "mel_scale": "htk", "f_min_hz": 125.0, "f_max_hz": 7500.0, "log": "ln", "log_offset": 0.001,
    "frames": 96,
}  # fmt: skip


def read_sound(facts: Facts) -> Reading | None:
    """The front end and decoder of a model that takes no picture; None when it is neither sound nor series."""
    if is_silero(facts.inputs):
        return _silero()
    port = facts.inputs[0]
    rules = (
        _mlperf_keywords, _mlperf_wake_word, _mlperf_machine, _micro_speech, _yamnet_features, _embedding, _waveform,
        _features,
    )  # fmt: skip
    for rule in rules:
        if made := rule(facts, port):
            return made
    return _series(facts, port)


def _silero() -> Reading:
    window = {"step": "frames", "length_s": 0.036, "hop_s": 0.032, "lead_s": 0.004}
    spans = {"step": "spans", "on": 0.5, "off": 0.35, "min_s": 0.25, "min_gap_s": 0.1, "pad_s": 0.03, "lead_s": 0.004}
    why = "inputs called input, state and sr are Silero's voice activity detector"
    return Reading(
        Part({"step": "sounds", "threshold": 0.0}, "likely", f"{why}: the probability of speech"), 1, True,
        Labels(("speech",), "likely", "the model tells speech from everything else"),
        window=Part(window, "likely", "512 samples at 16 kHz with the 64 before them"),
        pre=(Part({"step": "waveform"}, "likely", "floats from -1 to 1"),),
        post=(Part(spans, "likely", "probabilities become utterances, as Silero's own timestamps do"),),
        modality="audio", constants={"sr": 16000},
    )  # fmt: skip


def _mlperf_keywords(facts: Facts, port: Shaped) -> Reading | None:
    if port.bare != (49, 10):
        return None
    rows = _row(facts)
    labels = None
    if rows and rows.bare == (12,):
        labels = Labels(KEYWORDS_12, "likely", "12 scores behind this front end: MLPerf Tiny's words, in its order")
    why = "49 x 10 numbers: the cepstral coefficients of MLPerf Tiny's keyword models"
    window = Part(_ONE_SECOND, "likely", _TWICE)
    return Reading(_keyword(facts, ("silence", "unknown") if labels else ()), _count(facts), True, labels,
                   window=window, pre=(Part(_MFCC, "likely", why),), modality="audio")  # fmt: skip


def _mlperf_wake_word(facts: Facts, port: Shaped) -> Reading | None:
    if port.bare != (30, 40):
        return None
    words = ("marvin", "silence", "unknown") if _count(facts) == 3 else ()
    whose = "3 scores behind this front end: MLPerf Tiny's streaming wake word"
    labels = Labels(words, "likely", whose) if words else None
    keyword = _keyword(facts, words[1:], threshold=0.95)
    post = (Part({"step": "words", "threshold": 0.95, "debounce_s": 1.0}, "likely", "each word once"),) if words else ()
    why = "30 rows of 40 bands: the spectrogram of MLPerf Tiny's streaming wake word"
    return Reading(keyword, _count(facts), True, labels, window=Part(_STREAMING, "likely", why), post=post,
                   modality="audio")  # fmt: skip


def _mlperf_machine(facts: Facts, port: Shaped) -> Reading | None:
    """An autoencoder of five frames of a machine's sound."""
    if port.bare != (640,) or facts.outputs[0].bare != (640,):
        return None
    why = "640 numbers given back, 5 frames of 128 bands: MLPerf Tiny's anomaly detector"
    keys: Keys = {"step": "reconstruction", "threshold": 12.0, "always": True}
    other = "threshold: the error that healthy machines stay below"
    return Reading(Part(keys, "guess", "the output is as large as the input: an autoencoder", other),
                   window=Part(_MACHINE, "likely", why), modality="audio")  # fmt: skip


def _micro_speech(facts: Facts, port: Shaped) -> Reading | None:
    if port.bare not in ((1960,), (49, 40)):
        return None
    window: Keys = {"step": "micro_frames", "frames": 49, "hop_frames": 10}
    if port.bare == (1960,) and port.dtype == "int8":
        window["levels"] = "int8"
    sure: Sure = "likely" if port.bare == (1960,) else "guess"
    labels = None
    if _count(facts) == 4:
        labels = Labels(("silence", "unknown", "yes", "no"), "likely", "4 scores behind it: micro_speech's words")
    why = "49 rows of 40 bands: the front end for microcontrollers (micro_speech)"
    other = 'window "frames" and [[pre]] "log_mel" with the numbers of your training'
    return Reading(_keyword(facts, ("silence", "unknown") if labels else ()), _count(facts), True, labels,
                   window=Part(window, sure, why, other), modality="audio")  # fmt: skip


def _yamnet_features(facts: Facts, port: Shaped) -> Reading | None:
    if port.bare not in ((96, 64), (64, 96)):
        return None
    window = Part({"step": "frames", "length_s": 0.975, "hop_s": 0.48}, "likely", "0.96 s and the last frame's rest")
    why = "96 rows of 64 bands: the spectrogram of YAMNet and VGGish"
    return Reading(_sounds(facts), _count(facts), True, window=window, pre=(Part(_YAMNET, "likely", why),),
                   modality="audio")  # fmt: skip


def _embedding(facts: Facts, port: Shaped) -> Reading | None:
    if port.bare not in ((76, 32), (16, 96)):
        return None
    told = "this is one of several graphs of a wake word: join them with python -m tools.join_models (docs/models.md)"
    return Reading(modality="tensor", remarks=(told,))


def _waveform(facts: Facts, port: Shaped) -> Reading | None:
    """Samples as they are: [n] or [1, n] floats or int16."""
    note = facts.note(port)
    size = int(np.prod(port.shape)) if -1 not in port.shape else 0
    named = any(word in facts.said_name(port) for word in ("audio", "wave", "pcm", "sound", "speech"))
    if len(port.bare) != 1 or not (note.rate_hz or size >= _LEAST_SAMPLES or (named and size >= 256)):
        return None
    rate_hz = note.rate_hz or (44100 if size == 44032 else 16000)
    window: Keys = {"step": "frames", "length_s": size / rate_hz, "hop_s": max(1, size // 2) / rate_hz}
    window |= {"rate_hz": rate_hz} if rate_hz != 16000 else {}
    rate = f"at {rate_hz} Hz, as noted in the file" if note.rate_hz else f"taken as {rate_hz} Hz"
    told = f"{size} samples, {rate}"
    whole = port.dtype == "int16"
    scale = {"sample_scale": "int16"} if whole else {}
    pre = Part({"step": "waveform", **scale}, "likely", "int16 as it is" if whole else "floats from -1 to 1",
               "" if whole else 'sample_scale = "int16" for -32768..32767')  # fmt: skip
    window_part = Part(window, "known" if note.rate_hz else "likely", told, "rate_hz, and the lengths with it")
    return Reading(_sounds(facts), _count(facts), True, window=window_part, pre=(pre,), modality="audio")


def _features(facts: Facts, port: Shaped) -> Reading | None:
    """Rows of bands from a front end that nobody knows."""
    bands = {10, 13, 20, 26, 32, 40, 64, 80, 96, 128}
    if len(port.shape) != 4 or len(port.bare) != 2 or not bands & set(port.bare):
        return None
    told = (f"'{port.name}' takes {port.bare[0]} x {port.bare[1]} numbers, like rows of a spectrogram: write [window] "
            "and [[pre]] with the front end of the training (docs/steps.md: frames with log_mel or mfcc)")  # fmt: skip
    return Reading(_keyword(facts, ()), _count(facts), True, modality="audio", remarks=(told,),
                   window=Part(_ONE_SECOND, "guess", _TWICE))  # fmt: skip


def _series(facts: Facts, port: Shaped) -> Reading | None:
    """Rows of readings, or an autoencoder's, whose output is as large as its input."""
    if -1 in port.shape or port.dtype in ("int32", "int64", "bool") or not port.bare or len(port.bare) > 2:
        return None
    gives = facts.outputs[0]
    again = len(facts.outputs) == 1 and gives.bare == port.bare and not gives.open and len(facts.graph.ops) > 3
    rows = len(port.bare) == 2 and len(port.shape) == 3 and port.bare[1] <= 32
    if not (again or rows):
        return None
    window = Part({"step": "rows", "length": port.bare[0]}, "guess", f"{port.bare[0]} rows of readings",
                  'window "running_rows" when the training saw deviations from a running mean')  # fmt: skip
    if again:
        again_keys: Keys = {"step": "reconstruction", "threshold": 1.0, "always": True}
        why = "the output is as large as the input: a model that gives back what is normal"
        return Reading(Part(again_keys, "guess", why, "threshold: the error that healthy readings stay below"),
                       window=window, modality="series")  # fmt: skip
    activation, how = row_activation(facts, gives)
    keys: Keys = {"step": "classify", **({"activation": activation} if activation else {})}
    part = Part(keys, "guess", f"{_count(facts)} scores {how}")
    return Reading(part, _count(facts), window=window, modality="series")


def _row(facts: Facts) -> Shaped | None:
    """The output that holds a row of scores."""
    return next((port for port in facts.outputs if len(port.bare) <= 1), None)


def _count(facts: Facts) -> int:
    port = _row(facts) or facts.outputs[0]
    return port.shape[-1] if port.shape and port.shape[-1] > 0 else 1


def _keyword(facts: Facts, ignore: tuple[str, ...], threshold: float = 0.5) -> Part:
    port = _row(facts)
    if port is None:
        return _sounds(facts)
    _, how = row_activation(facts, port)
    keys: Keys = {"step": "keyword", **({"threshold": threshold} if threshold != 0.5 else {})}
    keys |= {"ignore": [*ignore]} if ignore else {}
    keys |= {} if port is facts.outputs[0] else {"output": port.name}
    return Part(keys, "likely", f"{_count(facts)} scores {how}: the best one is the word")


def _sounds(facts: Facts) -> Part:
    port = next((port for port in facts.outputs if port.shape and port.shape[-1] == _count(facts)), facts.outputs[0])
    activation, how = row_activation(facts, port)
    activation = "sigmoid" if activation == "softmax" and _count(facts) > 50 else activation
    if len(port.bare) <= 1 and how == "that add up to one":
        return _keyword(facts, ())
    keys: Keys = {"step": "sounds", **({"activation": activation} if activation else {})}
    keys |= {} if port is facts.outputs[0] else {"output": port.name}
    return Part(keys, "likely", f"{_count(facts)} scores {how}: several sounds may be heard at once")

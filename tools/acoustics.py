"""Rooms, microphones and noise: what happens to speech between a mouth and an int16 sample.

Owns: the degradations that a keyword model is trained with, each a pure function of samples and a numpy generator.
Levels are relative (dB); samples are float32 at 16 kHz.
"""

import numpy as np
import numpy.typing as npt
from speech import RATE_HZ, Signal


def rms(x: Signal) -> float:
    """Root mean square, never 0."""
    return float(np.sqrt(np.mean(np.square(x)) + 1e-12))


def coloured(rng: np.random.Generator, size: int, slope: float) -> Signal:
    """Noise whose power falls with frequency as f^-slope: 0 white, 1 pink, 2 brown; rms 1."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20 * size / RATE_HZ) ** (-slope / 2)
    x = np.fft.irfft(spectrum, size).astype(np.float32)
    return x / np.float32(rms(x))


def hum(rng: np.random.Generator, size: int) -> Signal:
    """Mains or a motor: harmonics of a low tone with random heights; rms 1."""
    base = rng.choice([50, 60, 100, rng.uniform(30, 400)])
    t = np.arange(size) / RATE_HZ
    x = np.zeros(size)
    for k in range(1, 12):
        x += rng.exponential(1 / k) * np.sin(2 * np.pi * (k * base * t + rng.random()))
    return (x / rms(x)).astype(np.float32)


def music(rng: np.random.Generator, size: int) -> Signal:
    """Chords of decaying harmonic notes on a random beat; rms 1."""
    x = np.zeros(size)
    beat = int(rng.uniform(0.12, 0.6) * RATE_HZ)
    tilt = rng.uniform(0.8, 2.5)
    for start in range(0, size, beat):
        for _ in range(rng.integers(1, 4)):
            length = min(int(rng.uniform(0.2, 1.0) * RATE_HZ), size - start)
            t = np.arange(length) / RATE_HZ
            base = 55 * 2 ** (rng.integers(0, 48) / 12)
            tones = sum(k**-tilt * np.sin(2 * np.pi * k * base * t) for k in range(1, 9) if k * base < 7500)
            note = tones * np.exp(-t * rng.uniform(1, 12)) * rng.random()
            x[start : start + length] += note
    return (x / rms(x)).astype(np.float32)


def clicks(rng: np.random.Generator, size: int) -> Signal:
    """Knocks and key strokes: a few short bursts of coloured noise over faint noise; rms 1."""
    x = 0.01 * coloured(rng, size, 1)
    for _ in range(rng.integers(1, 6)):
        at, length = int(rng.integers(0, size - 200)), int(rng.uniform(0.003, 0.08) * RATE_HZ)
        burst = coloured(rng, length, rng.uniform(0, 2)) * np.exp(-np.linspace(0, rng.uniform(3, 8), length))
        x[at : at + length] += (burst * rng.random())[: size - at]
    return (x / rms(x)).astype(np.float32)


def background(rng: np.random.Generator, size: int, babble: list[Signal]) -> Signal:
    """One kind of background, its loudness wandering; rms 1. `babble` holds speech to mix into a crowd."""
    kind = rng.integers(0, 8)
    if kind < 3:
        x = coloured(rng, size, rng.uniform(0, 2.2))
    elif kind < 5:
        x = crowd(rng, size, babble)
    else:
        x = (hum, music, clicks)[kind - 5](rng, size)
    if rng.random() < 0.5:
        x = x + rng.uniform(0.05, 0.6) * coloured(rng, size, rng.uniform(0.5, 2))
    if rng.random() < 0.5:
        x = x * np.interp(np.arange(size), np.linspace(0, size, 5), rng.uniform(0.2, 1, 5)).astype(np.float32)
    return (x / np.float32(rms(x))).astype(np.float32)


def crowd(rng: np.random.Generator, size: int, babble: list[Signal]) -> Signal:
    """Three to eight people talking over each other; rms 1."""
    x = np.zeros(size, np.float32)
    for _ in range(rng.integers(3, 9)):
        voice = babble[rng.integers(len(babble))]
        x += np.float32(rng.uniform(0.3, 1) / rms(voice)) * np.roll(np.resize(voice, size), rng.integers(size))
    return x / np.float32(rms(x))


def room(rng: np.random.Generator, x: Signal) -> Signal:
    """A room: direct sound, a few early reflections, and a tail that decays 60 dB in 0.1 to 0.7 s."""
    decay_s = rng.uniform(0.1, 0.7)
    size = int(decay_s * RATE_HZ)
    t = np.arange(size) / RATE_HZ
    tail = rng.standard_normal(size) * 10 ** (-3 * t / decay_s)
    tail[: int(rng.uniform(0.002, 0.02) * RATE_HZ)] = 0
    tail *= 10 ** (-rng.uniform(0, 18) / 20) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] = 1
    for at in rng.integers(8, 400, 5):
        tail[min(at, size - 1)] += rng.uniform(-0.5, 0.5)
    total = -(-(len(x) + size) // 4096) * 4096  # a length that the transform likes
    wet = np.fft.irfft(np.fft.rfft(x, total) * np.fft.rfft(tail, total), total)[: len(x) + size // 3]
    return wet.astype(np.float32)


def microphone(rng: np.random.Generator, x: Signal) -> Signal:
    """A microphone and its case: a random smooth response, a high-pass, sometimes the band of a telephone."""
    hz = np.fft.rfftfreq(len(x), 1 / RATE_HZ)
    bends = np.array([0, 150, 400, 900, 1800, 3200, 5000, 8000.0])
    gain_db = np.interp(hz, bends, rng.uniform(-1, 1, len(bends)) * rng.uniform(0, 10))
    low = rng.uniform(20, 250)
    gain = 10 ** (gain_db / 20) * hz**2 / (hz**2 + low**2)
    if rng.random() < 0.25:
        high = rng.uniform(3000, 7000)
        gain = gain / (1 + (hz / high) ** rng.integers(4, 16))
    return np.fft.irfft(np.fft.rfft(x) * gain, len(x)).astype(np.float32)


def converter(rng: np.random.Generator, x: Signal) -> npt.NDArray[np.int16]:
    """Gain, sometimes clipping or a coarse codec, then int16."""
    peak = float(np.abs(x).max()) + 1e-9
    x = x / np.float32(peak) * np.float32(10 ** (-rng.uniform(0, 30) / 20))
    if rng.random() < 0.1:
        x = np.clip(x * np.float32(rng.uniform(1, 4)), -np.abs(x).max(), np.abs(x).max())
    if rng.random() < 0.15:  # mu-law, 8 bit, as in telephony (ITU-T G.711)
        coded = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
        coded = np.round(coded * 127) / 127
        x = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    return np.clip(np.round(x * 32767), -32768, 32767).astype(np.int16)

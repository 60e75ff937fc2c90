"""Rotating machines that never existed: what an accelerometer on a fan's bearing would read, healthy and not.

Owns the signal model of `train_vibration`: shaft harmonics, blade passing, the motor's line frequency, bearing tones,
resonances of the structure, load that wanders, sensor noise; and seven faults. Every number is drawn from a numpy
generator, so that a seed is a machine. Sources of the signatures: ISO 13373-1 (harmonics of imbalance, misalignment,
looseness) and the kinematics of rolling bearings (ball pass frequencies of outer and inner race, 3.57 and 5.43 per turn
for nine balls at a ratio of ball to pitch diameter of 0.207).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]

RATE_HZ = 500.0
"""Readings per second: a MEMS accelerometer on a serial line."""
UNIT = "m/s2"
RESOLUTION = 0.01
"""Steps of the sensor, m/s2."""
OUTER, INNER = 3.57, 5.43
"""Ball passes per turn of the shaft, outer and inner race."""

FAULTS = ("imbalance", "misalignment", "outer_race", "inner_race", "looseness", "step", "stuck")


@dataclass(frozen=True, slots=True)
class Machine:
    """One individual of the type: a fan on a four-pole motor, 23.6 to 24.9 turns a second. Amplitudes in m/s2."""

    turns_hz: float
    harmonics: tuple[float, ...]
    """Amplitudes at 1, 2 ... times the shaft."""
    blades: float
    """Amplitude at seven times the shaft."""
    line: float
    """Amplitude at twice the mains frequency, 100 Hz."""
    resonances: tuple[tuple[float, float, float], ...]
    """Centre, Hz; quality; rms that load excites there."""
    noise: float
    """rms of what has no tone."""


def draw(rng: np.random.Generator) -> Machine:
    """One machine of the type: its parts differ from its sisters' by a few percent, its levels by a decibel or two."""

    def near(level: float) -> float:
        return float(level * 10 ** (rng.normal(0, 1.0) / 20))

    return Machine(
        turns_hz=rng.uniform(24.3, 24.9),
        harmonics=tuple(near(a) for a in (0.35, 0.20, 0.12, 0.07, 0.05, 0.03)),
        blades=near(0.35),
        line=near(0.12),
        resonances=tuple((f * rng.uniform(0.97, 1.03), q, near(a)) for f, q, a in ((88, 9, 0.18), (176, 12, 0.14))),
        noise=near(0.10),
    )


def run(
    machine: Machine,
    seconds: float,
    rng: np.random.Generator,
    fault: str = "",
    severity: float = 1.0,
    onset_s: float = 0.0,
) -> Signal:
    """What the sensor reads, m/s2 [seconds * RATE_HZ]; from `onset_s` on with `fault`, at severity 1 plain to see."""
    n = round(seconds * RATE_HZ)
    t = np.arange(n) / RATE_HZ
    load = _load(n, rng)
    turns = np.cumsum(machine.turns_hz * (1 - 0.03 * load)) / RATE_HZ + rng.random()
    x = _healthy(machine, t, turns, load, rng)
    sick = np.clip((t - onset_s) / 0.5, 0, 1) * severity if fault else np.zeros(n)
    if fault and fault != "stuck":
        x += sick * _symptom(fault, machine, turns, load, rng)
    x += rng.normal(0, 0.02, n)
    if fault == "stuck":
        x[t >= onset_s] = x[np.argmax(t >= onset_s)]
    return np.round(x / RESOLUTION) * RESOLUTION


def _load(n: int, rng: np.random.Generator) -> Signal:
    """Between 0.5 and 1, wandering over tens of seconds."""
    knots = rng.uniform(0.5, 1.0, int(n / RATE_HZ / 12) + 3)
    return np.interp(np.arange(n) / RATE_HZ / 12, np.arange(len(knots)), knots)


def _tone(turns: Signal, order: float, rng: np.random.Generator) -> Signal:
    return np.asarray(np.sin(2 * np.pi * (order * turns + rng.random())))


def _healthy(machine: Machine, t: Signal, turns: Signal, load: Signal, rng: np.random.Generator) -> Signal:
    x = np.zeros(len(t))
    for k, amplitude in enumerate(machine.harmonics, 1):
        x += amplitude * _tone(turns, k, rng)
    x += machine.blades * (1 + 0.2 * _tone(turns, 1, rng)) * _tone(turns, 7, rng)
    x += machine.line * np.sin(2 * np.pi * (100.0 * t + rng.random()))
    x += 0.02 * _tone(turns, OUTER, rng) + 0.015 * _tone(turns, INNER, rng)
    for centre_hz, quality, level in machine.resonances:
        x += level * _ring(rng.normal(size=len(t)), centre_hz, quality)
    x += machine.noise * rng.normal(size=len(t))
    return np.asarray(x * (0.55 + 0.45 * load))


def _ring(push: Signal, centre_hz: float, quality: float) -> Signal:
    """`push` through a resonance, rms 1: |H| = 1 / |1 - (f/f0)^2 + i f / (f0 Q)|."""
    f = np.fft.rfftfreq(len(push), 1 / RATE_HZ) / centre_hz
    x = np.fft.irfft(np.fft.rfft(push) / (1 - f**2 + 1j * f / quality), len(push))
    return np.asarray(x / np.sqrt(np.mean(x**2)))


def _symptom(fault: str, machine: Machine, turns: Signal, load: Signal, rng: np.random.Generator) -> Signal:
    """What a fault adds at severity 1, m/s2: four times the healthy amplitude leads from zone A to C of ISO 10816."""
    if fault == "imbalance":
        return 4 * machine.harmonics[0] * _tone(turns, 1, rng)
    if fault == "misalignment":
        return 4 * machine.harmonics[1] * _tone(turns, 2, rng) + 2 * machine.harmonics[2] * _tone(turns, 3, rng)
    if fault == "looseness":
        halves = sum((0.35 / k * _tone(turns, k, rng) for k in (0.5, 1.5, 2.5, 3.5)), np.zeros(len(turns)))
        return np.asarray(halves + 0.15 * rng.normal(size=len(turns)) * (1 + _tone(turns, 1, rng)))
    if fault == "step":
        return np.ones(len(turns)) * 3.0
    order = OUTER if fault == "outer_race" else INNER
    blows = np.diff(np.floor(order * turns * rng.normal(1, 0.002)), prepend=0.0) > 0
    strength = blows * rng.uniform(0.7, 1.3, len(turns))
    if fault == "inner_race":  # the damaged spot passes through the loaded zone once a turn
        strength = strength * np.maximum(0.0, 0.3 + _tone(turns, 1, rng))
    return np.asarray(0.8 * load * _ring(strength, machine.resonances[1][0], 6.0))

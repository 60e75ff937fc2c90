"""Pictures of a fixed camera, made from one real picture: what a cache of similar pictures has to tell apart.

Owns the light, the noise of the sensor, the shaking and what moves; the picture and the thing that moves in it are
given. Everything follows from the seed. The noise is that of a small sensor: its variance grows with the light (shot
noise, 0.03 grey levels squared per level) on top of 1.5 squared grey levels of reading noise.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from agent.records import Array

FPS = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What every scene is made of: uint8 BGR pictures, `thing` with its soft edge [h, w, 1] from 0 to 1, and where its
    lower edge stands."""

    background: Array
    thing: Array
    edge: Array
    foot_px: int


@dataclass(frozen=True, slots=True)
class Moment:
    """One picture's light (1 is that of the background), shift of the camera, and place of the thing or None."""

    light: float = 1.0
    shift_px: tuple[int, int] = (0, 0)
    thing_x_px: float | None = None


Scene = Callable[[float, np.random.Generator], Moment]
"""Stream seconds and chance -> the moment."""


def still(t_s: float, chance: np.random.Generator) -> Moment:
    """Nothing but the noise of the sensor."""
    return Moment()


def dusk(t_s: float, chance: np.random.Generator) -> Moment:
    """The light falls by 40 % in five minutes."""
    return Moment(light=1.0 - 0.4 * min(t_s / 300.0, 1.0))


def lamp(t_s: float, chance: np.random.Generator) -> Moment:
    """A lamp on the mains whose flicker beats with the shutter: 5 % at 0.7 Hz."""
    return Moment(light=1.0 + 0.05 * math.sin(2 * math.pi * 0.7 * t_s))


def clouds(t_s: float, chance: np.random.Generator) -> Moment:
    """The light wanders by a fifth within 7 to 40 seconds."""
    waves = ((0.10, 41.0), (0.06, 17.0), (0.04, 7.3))
    return Moment(light=1.0 + sum(a * math.sin(2 * math.pi * t_s / period_s) for a, period_s in waves))


def shake(t_s: float, chance: np.random.Generator) -> Moment:
    """Every third picture or so the camera is moved by one pixel."""
    dx, dy = chance.integers(-1, 2, 2) * (chance.random(2) < 0.4)
    return Moment(shift_px=(int(dx), int(dy)))


def slow(t_s: float, chance: np.random.Generator) -> Moment:
    """A thing goes to and fro at 4 pixels a second."""
    way = 4.0 * t_s % 500.0
    return Moment(thing_x_px=60.0 + min(way, 500.0 - way))


def visits(t_s: float, chance: np.random.Generator) -> Moment:
    """Every 25 seconds a thing is put somewhere at once and stays for 8."""
    turn, since_s = divmod(t_s, 25.0)
    return Moment(thing_x_px=60.0 + 97.0 * turn % 260.0 if 10.0 <= since_s < 18.0 else None)


def evening(t_s: float, chance: np.random.Generator) -> Moment:
    """The lamp flickers, and there are visits."""
    return Moment(light=lamp(t_s, chance).light, thing_x_px=visits(t_s, chance).thing_x_px)


def afternoon(t_s: float, chance: np.random.Generator) -> Moment:
    """Clouds, and a thing that moves slowly."""
    return Moment(light=clouds(t_s, chance).light, thing_x_px=slow(t_s, chance).thing_x_px)


SCENES: dict[str, Scene] = {
    "still": still, "dusk": dusk, "lamp": lamp, "clouds": clouds, "shake": shake, "slow": slow, "visits": visits,
    "evening": evening, "afternoon": afternoon,
}  # fmt: skip


def pictures(name: str, stage: Stage, count: int, seed: int = 0) -> Iterator[tuple[float, Array]]:
    """`count` pictures of the scene with their stream seconds, uint8 BGR of the background's size."""
    chance = np.random.default_rng([seed, *name.encode()])
    size = stage.background.size
    grain = chance.standard_normal(4 * size, np.float32)
    for n in range(count):
        moment = SCENES[name](n / FPS, chance)
        start = int(chance.integers(0, 3 * size))  # somewhere else in the grain: a new one would take ten times as long
        picture = _shifted(_with_thing(stage, moment.thing_x_px), moment.shift_px)
        yield n / FPS, _noisy(picture, moment.light, grain[start : start + size].reshape(picture.shape))


def _with_thing(stage: Stage, x_px: float | None) -> Array:
    """The thing blended in, between two columns where its place is no whole number."""
    if x_px is None:
        return stage.background
    height, width = stage.thing.shape[:2]
    left, part = int(x_px), x_px - int(x_px)
    top = stage.foot_px - height
    made = stage.background.astype(np.float32)
    for column, share in ((left, 1.0 - part), (left + 1, part)):
        spot = made[top : top + height, column : column + width]
        spot += share * stage.edge * (stage.thing - stage.background[top : top + height, column : column + width])
    return made


def _shifted(picture: Array, shift_px: tuple[int, int]) -> Array:
    return np.roll(picture, shift_px, axis=(1, 0)) if any(shift_px) else picture


def _noisy(picture: Array, light: float, grain: Array) -> Array:
    lit = np.multiply(picture, light, dtype=np.float32)
    spread = np.sqrt(0.03 * lit + np.float32(1.5))
    spread *= grain
    lit += spread
    return np.clip(lit + np.float32(0.5), 0, 255).astype(np.uint8)

"""How a view fills one port of a model: the port's steps, the quantiser, the port's shape.

Steps that work on each number alone say so (`pointwise = True` on the class). As the last one on uint8 pixels such a
step costs little: towards whole numbers it and the quantiser are folded into a table of 256 entries per channel, exact
by construction, because both are run on all 256 values once; towards float32 a step that can (`fill`) writes straight
into the port's tensor, channel by channel where channels come first. Refuses arrays that do not end in the port's
shape.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from agent.errors import ModelError
from agent.manifest import Input
from agent.records import Array, View
from agent.runtime.quant import to_port
from pipelines import Pre

_EVERY = np.arange(256, dtype=np.uint8)


@runtime_checkable
class Filling(Protocol):
    """A pointwise step that can do without arrays of its own."""

    def fill(self, pixels: Array, made: Array, channels: int, channel: int | None, /) -> None:
        """Write what the step makes of uint8 `pixels` into float32 `made` of the same shape, bit for bit.

        `pixels` is a picture with so many channels, or one channel of it. Raises ModelError as the step does.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fed:
    """What a view gave for a port."""

    tensors: tuple[Array, ...]
    """Raw, one per cell of the view. Good until the next view, which overwrites them."""
    view: View
    """The view as the steps left it, before the folded one: what a decoder reads from it is its geometry."""
    hashed: tuple[Array, ...]
    """What the digest of the tensors is taken of: the tensors themselves, or the pixels they were made from, which are
    a quarter of the bytes."""


class Feed:
    """A port and its steps. Keeps one tensor, and a table of some kilobytes per number of channels seen."""

    def __init__(self, port: Input, steps: tuple[Pre, ...]) -> None:
        self.port = port
        pointwise = bool(steps) and getattr(steps[-1], "pointwise", False)
        self._steps = steps[:-1] if pointwise else steps
        self._last = steps[-1] if pointwise else None
        self._filling = self._last if port.dtype == "float32" and isinstance(self._last, Filling) else None
        self._channels_first, self._picture = _picture(port)
        self._tensor: Array | None = None
        self._tables: dict[int, Array | None] = {}

    def __call__(self, view: View) -> Fed:
        """Bring a view into the port. Raises ModelError."""
        for step in self._steps:
            view = step(view)
        if self._filling is not None and view.data.shape == self._picture and view.data.dtype == np.uint8:
            return Fed((self._filled(view.data, self._filling),), view, (view.data,))
        if self._last is not None:
            table = self._table(view, self._last)
            if table is not None:
                return self._fitted(look_up(table, view.data), view)
            view = self._last(view)
        return self._fitted(to_port(view.data, self.port), view)

    def _filled(self, picture: Array, step: Filling) -> Array:
        if self._tensor is None:  # a new one for each picture would cost as much as the arithmetic
            self._tensor = np.empty(self.port.shape, np.float32)
        if not self._channels_first:
            step.fill(picture, self._tensor.reshape(picture.shape), _channels(picture), None)
            return self._tensor
        from pipelines.image import channels_of

        planes = self._tensor.reshape(-1, *picture.shape[:2])
        for number, channel in enumerate(channels_of(picture)):
            step.fill(channel, planes[number], _channels(picture), number)
        return self._tensor

    def _fitted(self, numbers: Array, view: View) -> Fed:
        tensors = tuple(fit(cell, self.port) for cell in numbers) if view.cells else (fit(numbers, self.port),)
        return Fed(tensors, view, tensors)

    def _table(self, view: View, last: Pre) -> Array | None:
        dimensions = view.data.ndim - bool(view.cells)
        whole = np.dtype(self.port.dtype).kind in "iu"  # towards float the arithmetic itself is faster than a table
        if not whole or view.data.dtype != np.uint8 or dimensions not in (2, 3):
            return None
        channels = 0 if dimensions == 2 else view.data.shape[-1]
        if channels not in self._tables:
            self._tables[channels] = tabulate(view, last, self.port, channels)
        return self._tables[channels]


def tabulate(view: View, step: Pre, port: Input, channels: int) -> Array | None:
    """[256, channels]: what `step` and the quantiser make of each pixel value; None when the step changes the shape.

    0 channels: pictures without a channel axis.
    """
    every = np.repeat(_EVERY[:, None, None], channels, axis=2) if channels else _EVERY[:, None]
    made = step(replace(view, data=every, cells=())).data
    return to_port(made, port).reshape(256, -1) if made.shape == every.shape else None


def look_up(table: Array, pixels: Array) -> Array:
    """Each pixel replaced by its entry; by that of its channel when the channels differ."""
    if (table == table[:, :1]).all():
        return _translated(np.ascontiguousarray(table[:, 0]), pixels)
    return np.stack([_translated(table[:, c], pixels[..., c]) for c in range(table.shape[1])], axis=-1)


def _translated(column: Array, pixels: Array) -> Array:
    if column.itemsize > 1:
        taken: Array = np.take(column, pixels, mode="clip")
        return taken
    entries = column.view(np.uint8)
    if (entries == _EVERY ^ entries[0]).all():  # the usual int8 port, real = pixel / 255: only the top bit differs
        flipped: Array = np.bitwise_xor(pixels, entries[0]).view(column.dtype)
        return flipped
    # three times as fast as indexing
    return np.frombuffer(pixels.tobytes().translate(column.tobytes()), column.dtype).reshape(pixels.shape)


def fit(numbers: Array, port: Input) -> Array:
    """Bring numbers into the port's shape. Raises ModelError.

    NCHW is turned, dimensions of size 1 are added or left out, a port that is one row takes any array of its length.
    """
    if numbers.shape == port.shape:
        return np.ascontiguousarray(numbers)
    if port.layout == "NCHW" and numbers.ndim == 3 and numbers.shape != port.shape[1:]:
        numbers = numbers.transpose(2, 0, 1)
    wanted = _bare(port.shape)
    if _bare(numbers.shape) != wanted and (len(wanted) != 1 or numbers.size != wanted[0]):
        words = f"input '{port.name}' takes shape {list(port.shape)}, [[pre]] ends with {list(numbers.shape)}"
        raise ModelError(f"{words}: correct the steps, or the source")
    return np.ascontiguousarray(numbers.reshape(port.shape))


def _picture(port: Input) -> tuple[bool, tuple[int, ...]]:
    """Whether the port takes a picture of several channels with the channels first, and that picture's shape."""
    shape = port.shape[1:] if len(port.shape) == 4 and port.shape[0] == 1 else port.shape
    first = port.layout == "NCHW" and len(shape) == 3
    return first, (*shape[1:], shape[0]) if first else shape


def _channels(picture: Array) -> int:
    return picture.shape[2] if picture.ndim == 3 else 1


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)

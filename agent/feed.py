"""How a view fills one port of a model: the port's steps, the quantiser, the port's shape.

Steps that work on each number alone say so (`pointwise = True` on the class): as the last one on uint8 pixels, such a
step and the quantiser after it are folded into a table of 256 entries per channel, exact by construction, because
both are run on all 256 values once. Refuses arrays that do not end in the port's shape.
"""

from dataclasses import replace

import numpy as np

from agent.errors import ModelError
from agent.manifest import Input
from agent.records import Array, View
from agent.runtime.quant import feed
from pipelines import Pre


class Feed:
    """A port and its steps. Keeps one table per number of channels seen, which is at most a few kilobytes."""

    def __init__(self, port: Input, steps: tuple[Pre, ...]) -> None:
        self.port = port
        pointwise = bool(steps) and getattr(steps[-1], "pointwise", False)
        self._steps = steps[:-1] if pointwise else steps
        self._last = steps[-1] if pointwise else None
        self._tables: dict[int, Array | None] = {}

    def __call__(self, view: View) -> tuple[tuple[Array, ...], View]:
        """The raw tensors for the port, one per cell of the view, and the view as the steps left it. Raises ModelError.

        The data of the view is that before the folded step: what a decoder reads from it is its geometry.
        """
        for step in self._steps:
            view = step(view)
        if self._last is not None:
            table = self._table(view, self._last)
            if table is not None:
                return self._fitted(look_up(table, view.data), view), view
            view = self._last(view)
        return self._fitted(feed(view.data, self.port), view), view

    def _fitted(self, numbers: Array, view: View) -> tuple[Array, ...]:
        return tuple(fit(cell, self.port) for cell in numbers) if view.cells else (fit(numbers, self.port),)

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
    values = np.arange(256, dtype=np.uint8)
    every = np.repeat(values[:, None, None], channels, axis=2) if channels else values[:, None]
    made = step(replace(view, data=every, cells=())).data
    return feed(made, port).reshape(256, -1) if made.shape == every.shape else None


def look_up(table: Array, pixels: Array) -> Array:
    """Each pixel replaced by its entry; by that of its channel when the channels differ."""
    if (table == table[:, :1]).all():
        return _translated(table[:, 0], pixels)
    return np.stack([_translated(table[:, c], pixels[..., c]) for c in range(table.shape[1])], axis=-1)


def _translated(column: Array, pixels: Array) -> Array:
    if column.itemsize == 1:  # three times as fast as indexing
        return np.frombuffer(pixels.tobytes().translate(column.tobytes()), column.dtype).reshape(pixels.shape)
    made: Array = np.take(column, pixels, mode="clip")
    return made


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


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)

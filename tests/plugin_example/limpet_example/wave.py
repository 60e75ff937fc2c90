"""A source: a sine wave, as a sensor would deliver it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from agent.capture.source import Closing, EndOfStream, Stamp
from agent.records import Channel, Modality, Sample
from agent.strict import Range

LIMPET_API = 1


@dataclass(frozen=True, slots=True)
class WaveConfig:
    """A sine wave of one channel."""

    kind: Literal["wave"]
    hz: Annotated[float, Range(0.001, 1000)] = 1.0
    """Waves per second."""
    rows_hz: Annotated[float, Range(0.1, 10_000)] = 100.0
    """Rows per second."""
    rows: Annotated[int, Range(0, 1_000_000)] = 0
    """Ends after so many; 0: never."""
    modality: ClassVar[Modality] = "series"

    def open(self, stamp: Stamp) -> "Wave":
        return Wave(self, stamp)


class Wave(Closing):
    """An open wave."""

    def __init__(self, config: WaveConfig, stamp: Stamp) -> None:
        self._config, self._stamp = config, stamp
        self._made = 0
        self._next_s = time.monotonic()

    def read(self, timeout_s: float) -> Sample | None:
        """One row, when it is due within `timeout_s`. Raises EndOfStream behind the last."""
        if self._config.rows and self._made >= self._config.rows:
            raise EndOfStream("wave: it is over")
        wait_s = self._next_s - time.monotonic()
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        if wait_s > timeout_s:
            return None
        value = math.sin(2 * math.pi * self._config.hz * self._made / self._config.rows_hz)
        self._made += 1
        self._next_s += 1 / self._config.rows_hz
        return self._stamp.sample(
            "series", np.array([value]), rate_hz=self._config.rows_hz, channels=(Channel("wave"),)
        )

    def counts(self) -> Mapping[str, int]:
        """It leaves nothing out."""
        return {}

"""What every window keeps to: no view spans a loss, and whoever gets a view cannot change what the next one shows."""

from agent.records import Array, Sample


def is_gap(next_seq: int | None, sample: Sample) -> bool:
    """True when something is missing before `sample`: the source says so, or an inbox dropped what came between.

    `next_seq` is the number that follows without loss, None before the first sample.
    """
    return sample.gap or (next_seq is not None and sample.seq != next_seq)


def frozen(array: Array) -> Array:
    """The same array, read-only from now on."""
    array.flags.writeable = False
    return array

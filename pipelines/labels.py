"""Which labels findings can have behind the steps, told before anything was looked at.

For checks: a rule that waits for a label which nobody says would be silent for ever.
"""

from collections.abc import Iterable

from pipelines import Follow, Post


def said(steps: Iterable[Post | Follow], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that findings can have behind the steps, from those of the decoder, one number standing for all.

    A step that renames, adds or drops labels says so by a method `says(labels) -> labels`.
    """
    for step in steps:
        says = getattr(step, "says", None)
        labels = labels if says is None else says(labels)
    return labels

"""What decoders share: the port they read, and the range of a score."""

from typing import Annotated

from agent.errors import ModelError
from agent.records import Tensors
from agent.strict import Range

Share = Annotated[float, Range(0, 1)]


def chosen(outputs: Tensors, name: str, decoder: str) -> str:
    """`name` when there is such an output, the first one's when it is empty. Raises ModelError that names `decoder`."""
    if name and name not in outputs:
        raise ModelError(f"decoder '{decoder}': there is no output '{name}': name one of {', '.join(outputs)}")
    return name or next(iter(outputs))

"""What may stand as one level of a topic: the names of sites, devices, pipelines, sources and streams."""

from typing import Annotated, Final

from agent.strict import Match

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_WORDS = "1 to 64 letters, digits, '_', '.' or '-'"

AnyName = Annotated[str, Match(NAME, _WORDS)]
Name = Annotated[str, Match(f"(?!gap$){NAME}", f"{_WORDS}, and not 'gap'")]
"""A name that may become a stream's: "gap" is where a stream's loss ledger stands."""

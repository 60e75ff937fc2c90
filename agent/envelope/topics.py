"""Names on the broker: `limpet/v1/<site>/<device>/<tail>`.

Owns how topics are written and read. A reader trusts only the tail, because bridges remap prefixes: site and device
come from the verified key envelope. Names hold no slash and no MQTT wildcard, and no stream is called "gap".
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from agent.errors import EnvelopeError
from agent.settings.names import NAME

ROOT: Final = "limpet/v1"
MAX_TOPIC_BYTES: Final = 1024

_NAME = re.compile(NAME)
Place = Literal["event", "gap", "keys", "status", "twin", "metric", "alarm", "state", "capability", "request"]
_FOLDERS: Final[dict[str, Place]] = {
    "e": "event", "keys": "keys", "twin": "twin", "m": "metric", "a": "alarm", "cmd": "capability",
}  # fmt: skip
_PAIRS: Final[dict[str, Place]] = {"cmd": "state", "req": "request"}


@lru_cache(maxsize=1024)
def name(text: str, what: str) -> str:
    """`text` if it may stand in a topic. Raises EnvelopeError."""
    if not _NAME.fullmatch(text):
        raise EnvelopeError(
            f"{what} is not a name for a topic: use 1 to 64 letters, digits, '_', '.' or '-', first a letter or digit"
        )
    return text


def stream_name(text: str) -> str:
    """`text` if a stream may be called so. Raises EnvelopeError."""
    if text == "gap":
        raise EnvelopeError("a stream cannot be called 'gap': that is where the loss ledger of a stream stands")
    return name(text, "stream")


@dataclass(frozen=True, slots=True)
class Tail:
    """What a topic says after the device."""

    place: Place
    name: str
    """Stream, facet, type, operation or key id; "<op>/<id>" of a state or a request; "" of status."""
    site: str
    """The two levels before the tail: a hint only, "" when there are none."""
    device: str


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device."""

    site: str
    device: str

    def __post_init__(self) -> None:
        name(self.site, "site")
        name(self.device, "device")

    @property
    def prefix(self) -> str:
        return f"{ROOT}/{self.site}/{self.device}"

    @property
    def status(self) -> str:
        return f"{self.prefix}/status"

    def event(self, stream: str) -> str:
        return f"{self.prefix}/e/{stream_name(stream)}"

    def gap(self, stream: str) -> str:
        return f"{self.prefix}/e/{stream_name(stream)}/gap"

    def keys(self, kid: bytes) -> str:
        return f"{self.prefix}/keys/{kid.hex()}"

    def twin(self, facet: str) -> str:
        return f"{self.prefix}/twin/{name(facet, 'facet')}"

    def metric(self, kind: str) -> str:
        return f"{self.prefix}/m/{name(kind, 'metric type')}"

    def alarm(self, kind: str) -> str:
        return f"{self.prefix}/a/{name(kind, 'alarm type')}"

    def capability(self, operation: str) -> str:
        return f"{self.prefix}/cmd/{name(operation, 'operation')}"

    def state(self, operation: str, request: str) -> str:
        return f"{self.capability(operation)}/{name(request, 'request id')}"

    def request(self, operation: str, request: str) -> str:
        return f"{self.prefix}/req/{name(operation, 'operation')}/{name(request, 'request id')}"

    @property
    def requests(self) -> str:
        """The filter of everything that is asked of this device."""
        return f"{self.prefix}/req/#"


def read(topic: str) -> Tail:
    """Read the tail of a topic, from its right end. Raises EnvelopeError for a topic that is none of ours."""
    if len(topic.encode(errors="replace")) > MAX_TOPIC_BYTES:
        raise EnvelopeError("topic is too long")
    levels = topic.split("/")
    found = _place(levels)
    if found is None:
        raise EnvelopeError("topic is none of those in docs/wire-format.md")
    place, tail, used = found
    if any(not _NAME.fullmatch(part) for part in tail.split("/") if place != "status"):
        raise EnvelopeError("topic holds a name that is not allowed")
    before = levels[:-used]
    site, device = before[-2:] if len(before) >= 2 else ("", "")
    return Tail(place, tail, site, device)


def _place(levels: list[str]) -> tuple[Place, str, int] | None:
    """Place, name and number of levels of the tail. The longer tails are tried first; "gap" is no stream."""
    if len(levels) >= 3 and levels[-3] == "e" and levels[-1] == "gap" and levels[-2] != "gap":
        return "gap", levels[-2], 3
    if len(levels) >= 3 and levels[-3] in _PAIRS:
        return _PAIRS[levels[-3]], f"{levels[-2]}/{levels[-1]}", 3
    if len(levels) >= 2 and levels[-2] in _FOLDERS and (levels[-2], levels[-1]) != ("e", "gap"):
        return _FOLDERS[levels[-2]], levels[-1], 2
    if levels[-1] == "status":
        return "status", "", 1
    return None

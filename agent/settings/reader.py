"""The file that `limpet watch` and `limpet request` read: which broker, whom to believe, and who asks."""

from dataclasses import dataclass, field
from typing import Literal

from agent.settings.envelope import ReaderConfig
from agent.settings.technician import TechnicianConfig
from agent.settings.uplink import UplinkConfig


@dataclass(frozen=True, slots=True)
class ReaderFile:
    """reader.toml: the reading side."""

    schema: Literal[1]
    """Version of this file's format."""
    broker: UplinkConfig = field(default_factory=UplinkConfig)
    """[broker]: how to reach the broker; the keys of [uplink] that concern a connection."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """[reader]: the reader's key and the devices it believes."""
    technician: TechnicianConfig = field(default_factory=TechnicianConfig)
    """[technician]: who asks devices for something."""

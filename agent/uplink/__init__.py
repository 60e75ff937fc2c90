"""The way out: events from the outbox to the broker, sealed, at least once, in two ordered sequences."""

from agent.uplink.lane import Uplink

__all__ = ["Uplink"]

"""The outbox: accepted means committed and synced. docs/delivery.md has the whole promise."""

from agent.store.faults import OutboxInUseError
from agent.store.store import Store
from agent.store.tickets import Entry, StoreKey, Ticket

__all__ = ["Entry", "OutboxInUseError", "Store", "StoreKey", "Ticket"]

"""The outbox: accepted means committed and synced. docs/delivery.md has the whole promise."""

from agent.store.store import Store, StoreKey
from agent.store.tickets import Entry, Ticket

__all__ = ["Entry", "Store", "StoreKey", "Ticket"]

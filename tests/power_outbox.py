"""The outbox under power cuts: an event whose ticket said durable is there afterwards, and its number is not reused."""

import os

from tests.lite import draft, open_store, running

EVENTS = 25


def prepare(folder):
    """An empty disk: the outbox makes itself."""


def work(folder, mark):
    """Accept events one by one, and mark each when its ticket says durable."""
    with open_store(folder / "outbox") as store, running(store.run):
        for i in range(EVENTS):
            ticket = store.accept(draft(event_class="critical", i=i))
            assert ticket.wait(10), "never durable"
            mark(ticket.id)


def recover(folder, mark):
    """Open it once more and accept one more event."""
    with open_store(folder / "outbox") as store, running(store.run):
        ticket = store.accept(draft(event_class="critical", i=-1))
        assert ticket.wait(10), "never durable"


def judge(folder, done):
    """What is wrong after a cut: an event that is gone, a number used twice."""
    with open_store(folder / "outbox") as store, running(store.run):
        fresh = store.accept(draft(event_class="critical", i=-2))
        if not fresh.wait(10):
            return "the outbox takes nothing any more"
        rows = store.rows(0, 10_000)
    os.sync()
    gone = set(done) - {row["id"] for row in rows}
    numbers = [(row["stream"], row["seq"]) for row in rows]
    twice = len(numbers) - len(set(numbers))
    return f"{len(gone)} events gone" if gone else f"{twice} numbers used twice" if twice else ""

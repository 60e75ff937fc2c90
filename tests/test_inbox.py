"""The inbox: bounded, newest wins or nobody loses, and every drop is counted."""

import threading
import time

import numpy as np
import pytest

from agent.inbox import Inbox
from agent.records import Sample


def _sample(seq):
    return Sample("cam", seq, seq / 10, seq / 10, 0.0, "image", np.zeros((2, 2), np.uint8))


def test_newest_wins_and_drops_are_counted():
    """A slow reader of a camera gets the newest frame, marked with a gap, and the rest is in the books."""
    inbox = Inbox(1, "drop_oldest")
    for seq in range(5):
        assert inbox.put(_sample(seq))
    got = inbox.get(0)
    assert (got.seq, got.gap) == (4, True)
    assert inbox.get(0) is None
    counts = inbox.counts()
    assert (counts.received, counts.taken, counts.waiting, counts.dropped) == (5, 1, 0, {"full": 4})


def test_the_gap_stands_on_the_sample_after_the_loss_only():
    """With a longer inbox the mark sits where the stream is torn."""
    inbox = Inbox(3, "drop_oldest")
    for seq in range(4):
        inbox.put(_sample(seq))
    assert [(s.seq, s.gap) for s in (inbox.get(0), inbox.get(0), inbox.get(0))] == [(1, True), (2, False), (3, False)]


def test_block_loses_nothing_between_two_threads():
    """5000 samples through an inbox of 3 arrive all, in order."""
    inbox = Inbox(3, "block")

    def write():
        for seq in range(5000):
            while not inbox.put(_sample(seq), 0.5):
                pass

    writer = threading.Thread(target=write)
    writer.start()
    got = [inbox.get(5).seq for _ in range(5000)]
    writer.join(5)
    assert got == list(range(5000))
    assert inbox.counts().dropped == {}


def test_block_gives_up_at_the_timeout_and_the_sample_stays_with_the_writer():
    """False means: not taken, not counted, offer it again."""
    inbox = Inbox(1, "block")
    assert inbox.put(_sample(0))
    t0 = time.monotonic()
    assert not inbox.put(_sample(1), 0.1)
    assert 0.09 < time.monotonic() - t0 < 1
    assert inbox.counts().received == 1


@pytest.mark.parametrize("policy", ["drop_oldest", "block"])
def test_close_wakes_both_sides_at_once(policy):
    """A stop does not wait for a timeout; what waits can be taken, what comes later is counted."""
    inbox = Inbox(1, policy)
    woken = []
    reader = threading.Thread(target=lambda: woken.append((inbox.get(30), time.monotonic())))
    reader.start()
    time.sleep(0.05)
    closed = time.monotonic()
    inbox.close()
    reader.join(5)
    assert woken[0][0] is None
    assert woken[0][1] - closed < 1
    assert inbox.put(_sample(0), 30)
    assert inbox.counts().dropped == {"closed": 1}
    assert inbox.closed


def test_close_lets_a_waiting_writer_go():
    """A writer blocked on a full inbox returns when the reader leaves."""
    inbox = Inbox(1, "block")
    inbox.put(_sample(0))
    done = []
    writer = threading.Thread(target=lambda: done.append(inbox.put(_sample(1), 30)))
    writer.start()
    time.sleep(0.05)
    inbox.close()
    writer.join(5)
    assert done == [True]
    assert inbox.get(0).seq == 0


def test_waiting_costs_no_cpu():
    """A reader of a silent source sleeps."""
    cpu = time.process_time()
    assert Inbox(1, "drop_oldest").get(0.5) is None
    assert time.process_time() - cpu < 0.1


def test_no_room_at_all_is_refused():
    """An inbox that can hold nothing is a programming error."""
    with pytest.raises(ValueError, match="capacity"):
        Inbox(0, "block")

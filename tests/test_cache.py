"""The exact result cache: what hits, what leaves, what is counted."""

import threading

import numpy as np
import pytest

from agent.cache import ResultCache, digest
from agent.settings.runtime import CacheConfig


class Clock:
    """Monotonic seconds under the test's hand."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


def cache(clock=None, **config):
    return ResultCache(CacheConfig(**config), clock or Clock())


def result(number=1.0, size=4):
    return {"y": np.full(size, number, np.float32)}


def test_what_was_put_comes_back_and_is_counted():
    """A hit gives the very numbers and adds the time that computing took."""
    held = cache()
    assert held.get(b"a") is None
    held.put(b"a", result(7), 12.5)
    assert held.get(b"a")["y"].tolist() == [7.0] * 4
    assert held.get(b"a") is not None
    counts = held.counts
    assert (counts.hits, counts.misses, counts.saved_ms, counts.entries, counts.size_bytes) == (2, 1, 25.0, 1, 16)


def test_what_is_held_cannot_be_changed_by_one_who_hit():
    """Everybody gets the same arrays, so nobody may write into them."""
    held = cache()
    held.put(b"a", result(), 1)
    with pytest.raises(ValueError, match="read-only"):
        held.get(b"a")["y"][0] = 5
    held.get(b"a").clear()
    assert held.get(b"a")["y"].tolist() == [1.0] * 4


def test_the_least_recently_used_leaves_first():
    """Beyond the number of entries, the one not asked for longest goes, and is counted."""
    held = cache(entries=2)
    held.put(b"a", result(), 1)
    held.put(b"b", result(), 1)
    held.get(b"a")
    held.put(b"c", result(), 1)
    assert held.get(b"b") is None
    assert held.get(b"a") is not None
    assert held.get(b"c") is not None
    assert held.counts.evictions == 1


def test_the_bytes_are_bounded():
    """However many entries there may be, their memory stays below the limit; one too large is not kept at all."""
    held = cache(size_mb=0.001, entries=1000)
    for n in range(100):
        held.put(bytes([n]), result(size=50), 1)
        assert held.counts.size_bytes <= 1000
    assert held.counts.entries == 5
    assert held.counts.evictions == 95
    held.put(b"big", result(size=251), 1)
    assert held.get(b"big") is None
    assert (held.counts.too_large, held.counts.entries) == (1, 5)


def test_what_is_too_old_is_a_miss():
    """TTL counts from the moment of computing, not of the last use."""
    clock = Clock()
    held = cache(clock, ttl_s=10)
    held.put(b"a", result(), 1)
    clock.now_s += 9.9
    assert held.get(b"a") is not None
    clock.now_s += 0.2
    assert held.get(b"a") is None
    counts = held.counts
    assert (counts.expired, counts.misses, counts.entries, counts.size_bytes) == (1, 1, 0, 0)


def test_the_same_key_put_twice_counts_once():
    """The newer result takes the place of the older one."""
    held = cache()
    held.put(b"a", result(1), 1)
    held.put(b"a", result(2, size=8), 1)
    assert held.get(b"a")["y"].tolist() == [2.0] * 8
    assert (held.counts.entries, held.counts.size_bytes) == (1, 32)


def test_digests_tell_everything_apart():
    """Numbers, dtype, shape, port name, order and salt all matter; layout in memory does not."""
    x = np.arange(6, dtype=np.int8)
    seen = {
        digest({"x": x}),
        digest({"x": x}, b"salt"),
        digest({"z": x}),
        digest({"x": x.astype(np.uint8)}),
        digest({"x": x.reshape(2, 3)}),
        digest({"x": x.reshape(3, 2)}),
        digest({"x": x + 1}),
        digest({"x": x, "y": x}),
        digest({"y": x, "x": x}),
        digest({}),
    }
    assert len(seen) == 10
    assert digest({"x": np.asfortranarray(x.reshape(2, 3))}) == digest({"x": x.reshape(2, 3)})
    assert digest({"x": np.array(3.0)}) == digest({"x": np.array(3.0)})


def test_threads_may_share_it():
    """Bounds and counters hold under eight threads."""
    held = cache(entries=50, size_mb=0.01)

    def work(seed):
        for n in range(2000):
            key = bytes([seed, n % 100])
            if held.get(key) is None:
                held.put(key, result(n), 1)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    counts = held.counts
    assert counts.hits + counts.misses == 16000
    assert counts.entries <= 50
    assert counts.size_bytes == 16 * counts.entries

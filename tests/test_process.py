"""The agent knows its own price."""

from agent.process import costs


def test_costs_grow_with_what_is_done(tmp_path):
    """CPU seconds, resident bytes and bytes written are those of this process."""
    before = costs()
    with (tmp_path / "x").open("wb") as file:
        file.write(bytes(4 << 20))
        file.flush()
    total = sum(i * i for i in range(2_000_000))
    after = costs()
    assert total > 0
    assert after["cpu_seconds"] > before["cpu_seconds"]
    assert after["resident_bytes"] > 1 << 20
    assert after["written_bytes"] >= before["written_bytes"]

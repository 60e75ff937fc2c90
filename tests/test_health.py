"""The verdict over lanes and broken parts."""

from agent.health import LaneState, judge


def test_all_running_is_ok():
    """Running and ended lanes are well."""
    assert judge([LaneState("a", True, "running"), LaneState("b", False, "ended")], {}).status == "ok"


def test_a_broken_pipeline_degrades_and_says_why():
    """What could not start is named with its reason."""
    health = judge([LaneState("a", True, "running")], {"meter": "no such model"})
    assert health.status == "degraded"
    assert health.reasons == ("meter: no such model",)


def test_a_failed_camera_degrades_but_a_failed_store_is_unhealthy():
    """Only essential lanes decide over the process."""
    assert judge([LaneState("camera", False, "failed", 3, "unplugged")], {}).status == "degraded"
    assert judge([LaneState("store", True, "failed", 1, "full")], {}).status == "unhealthy"


def test_failures_are_counted_in_words():
    """Once is one time."""
    reasons = judge([LaneState(name, False, "failed", n, "gone") for name, n in (("a", 1), ("b", 2))], {}).reasons
    assert reasons == ("lane a failed 1 time: gone", "lane b failed 2 times: gone")


def test_a_stuck_lane_is_named_and_its_reason_does_not_change_while_it_lasts():
    """A verdict that stays the same is equal to itself, so that it is told once."""
    health = judge([LaneState("uplink", True, "stuck", beat_age_s=61.2)], {})
    assert health.status == "unhealthy"
    assert "uplink is stuck" in health.reasons[0]
    assert health == judge([LaneState("uplink", True, "stuck", beat_age_s=62.2)], {})

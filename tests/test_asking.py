"""Asking devices: concurrency, the abort threshold, old news, nonces, counters; all without a broker."""

import json

import pytest

from agent.broker import Message
from agent.cli.requestview import Lines, Page, fields, position
from agent.envelope.keys import SigningKey
from agent.envelope.opener import Opened
from agent.errors import ConfigError
from agent.reading import Answered, Heard
from agent.request import Target, parse_request
from agent.settings.technician import TechnicianConfig
from agent.technician.asking import Round, words
from agent.technician.signing import Counters, Technician


def targets(*devices):
    return [Target("plant", device, "update", f"id-{device}") for device in devices]


def sign(target, nonce):
    return Message(f"limpet/v1/plant/{target.device}/req/update/{target.id}", nonce)


def a_round(*devices, parallel=10, abort_after=1):
    return Round(targets(*devices), sign, parallel=parallel, abort_after=abort_after)


def state(device, status, version, **more):
    body = {"id": f"id-{device}", "status": status, "version": version, **more}
    return Heard("t", Opened("state", "plant", device, f"update/id-{device}", body=body), False)


def taken(device):
    return Answered(f"limpet/v1/plant/{device}/req/update/id-{device}")


def test_at_most_so_many_devices_are_asked_at_a_time():
    """The next one is asked when one has ended, not when it was taken by the broker."""
    asked = a_round("a", "b", "c", parallel=2)
    assert len(list(asked.due())) == 2
    assert asked.take(taken("a")).phase == "taken"
    assert list(asked.due()) == []
    assert asked.take(state("a", "successful", 9)).ok
    assert [message.topic.split("/")[3] for message in asked.due()] == ["c"]


def test_failures_stop_the_rest_and_those_under_way_are_followed():
    """After the threshold nobody new is asked; the round is over when the open ones have ended."""
    asked = a_round("a", "b", "c", "d", parallel=2, abort_after=1)
    list(asked.due())
    asked.take(state("a", "failed", 3, reason="ROLLED_BACK", text="it went wrong"))
    assert asked.aborted
    assert list(asked.due()) == []
    assert not asked.over
    asked.take(state("b", "successful", 3))
    assert asked.over
    assert [one.phase for one in asked.asked] == ["ended", "ended", "waiting", "waiting"]
    assert words(asked.asked[0]) == "failed ROLLED_BACK it went wrong"


def test_a_request_that_the_broker_refuses_has_failed():
    """Its access list said no: that is told, and counts against the threshold."""
    asked = a_round("a")
    list(asked.due())
    asked.take(Answered("limpet/v1/plant/a/req/update/id-a", "not authorised"))
    assert asked.failures == 1
    assert "not authorised" in words(asked.asked[0])


def test_old_news_does_not_undo_new_and_unknown_states_are_middle_states():
    """A state with a lower version is passed over; one that nobody knows keeps the bar where it is."""
    asked = a_round("a")
    list(asked.due())
    assert asked.take(state("a", "probation", 5))
    assert asked.take(state("a", "download", 4)) is None
    assert asked.asked[0].seen.status == "probation"
    assert asked.take(state("a", "polishing", 6)).phase == "taken"
    assert 0 < position(asked.asked[0]) < 10
    asked.take(state("a", "successful", 7))
    assert asked.take(state("a", "failed", 8)) is None
    assert asked.asked[0].ok


def test_states_of_other_devices_and_other_requests_do_not_count():
    """Site, device, operation and id must all be ours."""
    asked = a_round("a")
    list(asked.due())
    assert asked.take(state("b", "successful", 5)) is None
    for site, name in (("other", "update/id-a"), ("plant", "pin/id-a"), ("plant", "update/id-b")):
        other = Opened("state", site, "a", name, body={"status": "failed", "version": 1})
        assert asked.take(Heard("t", other, False)) is None


@pytest.mark.parametrize(("trusted", "sent"), [(False, b"12345678"), (True, b"")])
def test_a_device_that_does_not_know_the_time_gets_its_nonce_back(trusted, sent):
    """The nonce of its twin goes into the request, and only then."""
    asked = a_round("a")
    body = {"nonce": b"12345678".hex(), "clock_trusted": trusted}
    asked.take(Heard("t", Opened("twin", "plant", "a", "commands", body=body), True))
    assert [message.payload for message in asked.due()] == [sent]


def test_bytes_move_the_bar_within_the_download():
    """Half of the bytes is half of the step; JSON lines tell the same."""
    asked = a_round("a")
    list(asked.due())
    asked.take(state("a", "download", 2, done_bytes=500_000, total_bytes=1_000_000))
    half = position(asked.asked[0])
    asked.take(state("a", "download", 3, done_bytes=1_000_000, total_bytes=1_000_000))
    assert position(asked.asked[0]) - half == pytest.approx(0.5)
    told = json.loads(json.dumps(fields(asked.asked[0])))
    assert (told["status"], told["done_bytes"], told["device"]) == ("download", 1_000_000, "plant/a")


def test_a_counter_is_never_used_twice_and_a_lost_file_locks_nobody_out(tmp_path):
    """Two requests in one millisecond differ; without the file the time alone is ahead of what was used before."""
    path = tmp_path / "counters.json"
    counters = Counters(path, b"\1" * 8)
    first, second = (counters.take("plant", "a", 1_700_000_000.0) for _ in range(2))
    assert second == first + 1
    assert counters.take("plant", "b", 1_700_000_000.0) == first
    path.unlink()
    assert Counters(path, b"\1" * 8).take("plant", "a", 1_700_000_001.0) > second
    path.write_bytes(b"not json")
    assert counters.take("plant", "a", 1_700_000_002.0) == 1_700_000_002_000


def test_a_technician_signs_what_a_device_can_verify(tmp_path):
    """The request parses for its own topic and with this key only; a missing key is said."""
    key = SigningKey.generate()
    (tmp_path / "t.key").write_bytes(key.pem())
    (tmp_path / "t.key").chmod(0o600)
    target = targets("a")[0]
    made = Technician(TechnicianConfig(key=tmp_path / "t.key"), {"model": "door"})(target, b"")
    assert made.topic == "limpet/v1/plant/a/req/update/id-a"
    assert len(made.payload) <= 256
    assert made.expiry_s == 86400
    assert dict(parse_request(made.payload, target).verified(key.public).args) == {"model": "door"}
    with pytest.raises(ConfigError, match="limpet keys new technician"):
        Technician(TechnicianConfig(), {})


@pytest.mark.parametrize("detail", [[1, 2], "text", 7, None, {"model": "door"}])
def test_a_state_of_an_odd_shape_ends_no_round(detail):
    """One device of a thousand was taken over: the others are asked all the same."""
    round_ = a_round("a", "b", parallel=1, abort_after=9)
    list(round_.due())
    assert round_.take(state("a", "failed", 5, text="no", detail=detail)).failed
    assert [message.topic.split("/")[3] for message in round_.due()] == ["b"]


@pytest.mark.parametrize("text", [
    "[/nothing]", "raise [updates] size_mb", "\x1b]0;pwned\x07", "[bold", "\x9b2J", "\u202e",
])  # fmt: skip
@pytest.mark.parametrize("view", [Page, lambda round_: Lines(round_, as_json=False)])
def test_what_a_device_says_steers_no_terminal(capsys, view, text):
    """It is neither markup nor a control sequence, whatever it looks like, and nothing of the words is lost."""
    round_ = a_round("a")
    list(round_.due())
    with view(round_) as shown:
        shown.tell(round_.take(state("a", "failed", 5, text=text)))
    said = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in said), repr(said)
    assert "".join(c for c in text if c.isprintable()) in said.replace("\n", "")

"""A command's life: one at a time, durable before told, resumed or ended after a restart, answered when repeated."""

import json

import pytest

from agent import cbor
from agent.broker import Message
from agent.commands import Once, Operation
from agent.commands.rate import Rate
from agent.errors import CommandError, StoreError, UpdateError
from agent.journal import Journal
from agent.progress import CANCELLABLE, STATUSES, TERMINAL
from tests.desk import Bench, move, topic
from tests.lite import until


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_command_goes_through_its_states_and_each_is_told(bench):
    """Versions grow by one with each; the last state says who asked and what came of it."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        for status in ("download", "verify", "staged", "activate", "probation", "commit"):
            bench.slow.moves[request.target.id] = move(status)
            bench.status(request.target.id, status)
        bench.slow.moves[request.target.id] = move("successful", detail={"from": "1.0.0", "to": "1.1.0"})
        last = bench.status(request.target.id, "successful")
        states = bench.states(request.target.id)
    versions = [s["version"] for s in states]
    assert versions == sorted(set(versions))
    assert versions[-1] == 8
    assert (last["by"], last["operation"], last["detail"]) == ("technician", "update", {"from": "1.0.0", "to": "1.1.0"})


def test_the_bytes_of_a_download_are_told_now_and_then(bench):
    """A progress bar needs one a second, not hundreds."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        for done in range(1, 60):
            bench.slow.moves[request.target.id] = move("download", done_bytes=done, total_bytes=60)
            assert until(lambda: request.target.id not in bench.slow.moves)
        assert bench.states(request.target.id)[-1]["version"] <= 6
        bench.clock.mono_ahead_s += 2
        bench.slow.moves[request.target.id] = move("download", done_bytes=59, total_bytes=60)
        assert until(lambda: bench.states(request.target.id)[-1]["done_bytes"] == 59)


def test_changing_commands_go_one_at_a_time_and_looking_ones_beside(bench):
    """The second waits as scheduled; a ping is answered meanwhile."""
    with bench.running():
        (first, a), (second, b) = bench.signed(), bench.signed()
        bench.send(first, a)
        assert bench.send(second, b)[-1]["status"] == "scheduled"
        assert bench.ask("viewer", "ping", args={"echo": "hello"})["detail"] == {"version": "x", "echo": "hello"}
        assert bench.slow.begun == [first.target.id]
        bench.slow.moves[first.target.id] = move("failed", reason="NO_SPACE", text="full")
        bench.status(second.target.id, "executing")
        assert bench.states(first.target.id)[-1]["reason"] == "NO_SPACE"


def test_a_rollback_does_not_wait_for_the_probation_that_it_ends(bench):
    """Up to `staged` it waits, and a cancel would do; after that nothing else leads back. It overtakes what waits."""
    with bench.running():
        update, data = bench.signed()
        bench.send(update, data)
        other = bench.ask()["id"]
        back, more = bench.signed("technician", "rollback", args={"model": "keywords"})
        assert bench.send(back, more)[-1]["status"] == "scheduled"
        bench.slow.moves[update.target.id] = move("probation")
        bench.status(back.target.id, "executing")
        assert other not in bench.slow.begun
        bench.slow.moves[update.target.id] = move("failed", reason="ROLLED_BACK")
        bench.slow.moves[back.target.id] = move("successful")
        bench.status(other, "executing")


def test_a_full_queue_refuses_and_the_refusal_is_stored(tmp_path):
    """REJECTED_BUSY, the same when it is asked again."""
    bench = Bench(tmp_path, queue=2)
    with bench.running():
        for status in ("executing", "scheduled", "scheduled"):
            assert bench.ask()["status"] == status
        request, data = bench.signed()
        assert bench.send(request, data)[-1]["reason"] == "REJECTED_BUSY"
        assert bench.send(request, data)[-1]["reason"] == "REJECTED_BUSY"


def test_the_next_state_is_durable_before_the_act(bench):
    """When a handler is called, its row already says `executing`."""
    seen = []

    def act(command):
        seen.append(bench.desk._journal.find(command.id).progress.status)
        return {}

    bench.extra = {"look": Operation("technician", Once(act))}
    with bench.running() as bench.desk:
        assert bench.ask("technician", "look")["status"] == "successful"
    assert seen == ["executing"]


@pytest.mark.parametrize(("error", "reason"), [
    (UpdateError("no room", "NO_SPACE"), "NO_SPACE"), (CommandError("no", "REJECTED_BUSY"), "REJECTED_BUSY"),
    (StoreError("disk"), "FAILED"), (UpdateError("odd", "NO_SUCH_REASON"), "FAILED"),
])  # fmt: skip
def test_what_a_handler_raises_ends_its_command_and_nothing_else(bench, error, reason):
    """With the error's reason and words; the desk goes on."""

    def act(_command):
        raise error

    bench.extra = {"break": Operation("technician", Once(act))}
    with bench.running():
        state = bench.ask("technician", "break")
        assert (state["status"], state["reason"], state["text"]) == ("failed", reason, str(error))
        assert bench.ask()["status"] == "executing"


def test_words_that_are_no_unicode_are_told_escaped(bench):
    """A file name in an error may hold any byte; the state still goes out."""

    def act(_command):
        raise StoreError("cannot read /srv/\udcff")

    bench.extra = {"break": Operation("technician", Once(act))}
    with bench.running():
        assert bench.ask("technician", "break")["text"] == "cannot read /srv/\\udcff"


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 30_000, "\udcff" * 30_000])
def test_a_result_too_large_to_tell_is_left_out_and_said(bench, text):
    """A handler that answers with megabytes still ends, and its row can be read again."""
    bench.extra = {"dump": Operation("technician", Once(lambda _: {"text": text}))}
    with bench.running():
        state = bench.ask("technician", "dump")
    assert state["status"] == "successful"
    assert state["detail"] == {}
    assert "left out" in state["text"]
    with Journal(bench.config.journal) as journal:
        assert journal.find(state["id"]).progress.status == "successful"


# --- restart of the agent -------------------------------------------------------------------------------------------


def test_after_a_restart_what_cannot_go_on_has_failed_as_interrupted(bench):
    """And what waited begins."""
    with bench.running():
        (first, a), (second, b) = bench.signed(), bench.signed()
        bench.send(first, a)
        bench.send(second, b)
    with bench.running():
        assert bench.status(first.target.id, "failed")["reason"] == "INTERRUPTED"
        bench.status(second.target.id, "executing")
    assert bench.slow.begun == [first.target.id, second.target.id]


def test_after_a_restart_a_handler_may_take_its_command_up_again(bench):
    """It is never begun a second time."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
    bench.slow.resumable = move("probation", text="again")
    with bench.running():
        bench.status(request.target.id, "probation")
        bench.slow.moves[request.target.id] = move("successful")
        bench.status(request.target.id, "successful")
    assert bench.slow.begun == [request.target.id]


def test_a_restart_on_request_happens_once_and_is_told_by_the_next_start(bench):
    """The process leaves once; the redelivered request does not make it leave again."""
    with bench.running():
        request, data = bench.signed("technician", "restart")
        assert bench.send(request, data)[-1]["status"] == "executing"
        assert bench.left == [1]
    for _ in range(3):
        with bench.running():
            bench.status(request.target.id, "successful")
            bench.send(request, data)
    assert bench.left == [1]
    assert bench.states(request.target.id)[-1]["detail"] == {"boot": "boot-2"}


@pytest.mark.parametrize("status", sorted(set(STATUSES) - TERMINAL - {"init"}))
def test_h1_every_state_has_a_deadline_and_ends_when_nothing_comes(tmp_path, status):
    """Whatever hangs, the row ends as TIMED_OUT, also when nobody is connected to hear it."""
    bench = Bench(tmp_path)
    with bench.running():
        if status == "scheduled":
            bench.ask()
        request, data = bench.signed()
        bench.send(request, data)
        if status not in ("executing", "scheduled"):
            bench.slow.moves[request.target.id] = move(status)
        bench.status(request.target.id, status)
        if status == "scheduled":
            bench.clock.ahead_s += 1000
        else:
            bench.clock.mono_ahead_s += 32 * 86400.0
        last = bench.status(request.target.id, "failed")
    assert last["reason"] == "TIMED_OUT"
    if status in CANCELLABLE - {"scheduled"}:
        assert bench.slow.cancels == [request.target.id]


# --- cancel ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["executing", "download", "verify", "staged"])
def test_a_command_can_be_called_off_up_to_staged(bench, status):
    """The handler stops it; its state says CANCELED, and the next one begins."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        waiting, b = bench.signed()
        bench.send(waiting, b)
        if status != "executing":
            bench.slow.moves[request.target.id] = move(status)
        bench.status(request.target.id, status)
        assert bench.ask("technician", "cancel", args={"id": request.target.id})["status"] == "successful"
        assert bench.status(request.target.id, "failed")["reason"] == "CANCELED"
        bench.status(waiting.target.id, "executing")


@pytest.mark.parametrize("status", ["activate", "probation", "commit", "rollback"])
def test_past_staged_only_a_rollback_leads_back(bench, status):
    """The cancel fails, the command goes on."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        bench.slow.moves[request.target.id] = move(status)
        bench.status(request.target.id, status)
        refused = bench.ask("technician", "cancel", args={"id": request.target.id})
        assert (refused["status"], "past cancelling" in refused["text"]) == ("failed", True)
        assert bench.states(request.target.id)[-1]["status"] == status
    assert bench.slow.cancels == []


def test_a_waiting_command_is_called_off_before_it_begins(bench):
    """It never reaches its handler."""
    with bench.running():
        bench.ask()
        request, data = bench.signed()
        bench.send(request, data)
        bench.ask("technician", "cancel", args={"id": request.target.id})
        assert bench.states(request.target.id)[-1]["reason"] == "CANCELED"
    assert request.target.id not in bench.slow.begun


def test_a_handler_that_cannot_stop_now_is_asked_and_tells_later(bench):
    """The updater is in the middle of something: its own next state ends the command."""
    bench.slow.can_cancel = False
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        assert bench.ask("technician", "cancel", args={"id": request.target.id})["status"] == "successful"
        assert bench.states(request.target.id)[-1]["status"] == "executing"
        bench.slow.moves[request.target.id] = move("failed", reason="CANCELED")
        bench.status(request.target.id, "failed")


def test_a_cancel_for_another_version_of_the_state_changes_nothing(bench):
    """It fails, and the present state is told again."""
    with bench.running():
        request, data = bench.signed()
        version = bench.send(request, data)[-1]["version"]
        told = len(bench.states(request.target.id))
        args = {"id": request.target.id, "expected_version": version + 1}
        assert bench.ask("technician", "cancel", args=args)["status"] == "failed"
        assert len(bench.states(request.target.id)) == told + 1
        assert bench.ask("technician", "cancel", args=args | {"expected_version": version})["status"] == "successful"
        assert bench.states(request.target.id)[-1]["reason"] == "CANCELED"


def test_cancelling_what_is_not_there_fails_in_words(bench):
    """An unknown id, an ended command, the cancel itself."""
    with bench.running():
        assert "not under way" in bench.ask("technician", "cancel", args={"id": "nobody"})["text"]
        state = bench.ask("viewer", "ping")
        assert "not under way" in bench.ask("technician", "cancel", args={"id": state["id"]})["text"]
        assert bench.ask("technician", "cancel", args={"id": "me"}, id_="me")["status"] == "failed"


# --- what stands at the broker --------------------------------------------------------------------------------------


def test_states_and_capabilities_are_told_again_after_every_reconnect_and_key(bench):
    """The broker may have lost everything: all that is not expired is published again."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        bench.ask("viewer", "ping")
        bench.drain()
        bench.told.clear()
        bench.port.connected()
        names = [t.name for t in bench.drain()]
        assert f"update/{request.target.id}" in names
        assert {"ping", "update", "cancel"} <= set(names)
        assert len(names) == len(set(names))
        bench.told.clear()
        bench.port.tell_all()
        assert sorted(t.name for t in bench.drain() if t.body) == sorted(
            t for t in names if t not in ("pin", "unpin", "activate", "snapshot", "collect-diagnostics")
        )


def test_a_capability_says_who_may_ask_and_how_and_unknown_ones_are_taken_back(bench):
    """A table without an operation clears what an older agent may have left at the broker."""
    with bench.running():
        told = {t.name: t for t in bench.drain() if t.kind.name == "CAPABILITY"}
    update = cbor.decode(told["update"].body)
    assert update == {
        "schema": 1, "roles": ["technician", "admin"], "mutating": True,
        "args": {"model": "a string", "version": "a string"},
    }  # fmt: skip
    assert cbor.decode(told["ping"].body)["roles"] == ["viewer", "technician", "admin"]
    assert told["snapshot"].body is None


def test_the_agent_clears_old_states_and_never_those_under_way(tmp_path):
    """After `state_days`, or when there are more than `states`; the row itself is remembered for longer."""
    bench = Bench(tmp_path, states=3, state_days=1.0)
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        pings = [bench.ask("viewer", "ping")["id"] for _ in range(5)]
        bench.clock.mono_ahead_s += 61
        gone = lambda: {t.name.split("/")[1] for t in bench.drain() if t.body is None and "/" in t.name}  # noqa: E731
        assert until(lambda: gone() == set(pings[:2])), gone()
        bench.clock.ahead_s += 86400 + 60
        bench.clock.mono_ahead_s += 61
        assert until(lambda: gone() == set(pings)), gone()
        bench.told.clear()
        bench.port.connected()
        assert [t.name for t in bench.drain() if t.body and "/" in t.name] == [f"update/{request.target.id}"]
    with Journal(bench.config.journal) as journal:
        assert journal.find(pings[0]).progress.status == "successful"


def test_states_carry_an_expiry_for_devices_that_never_come_back(bench):
    """The broker forgets them by itself in the end."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        told = [t for t in bench.drain() if t.name.endswith(request.target.id)]
    assert {t.expiry_s for t in told} == {7 * 86400}
    assert all(t.retain for t in told)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_journal_that_refuses_leaves_the_request_with_the_broker(bench, monkeypatch):
    """No row, no acknowledgement: the lane fails, is started again, and takes the same request."""

    def full(*_):
        raise StoreError("journal: disk full")

    with bench.running() as desk, monkeypatch.context() as patch:
        request, data = bench.signed()
        patch.setattr(desk._journal, "admit", full)
        patch.setattr("threading.excepthook", lambda _: None)
        bench.port.offer(Message(topic("update", request.target.id), data, mid=9))
        assert until(lambda: desk._journal is None)
        assert bench.port.settled() == []
        assert bench.slow.begun == []
    with bench.running():
        assert until(lambda: bench.slow.begun == [request.target.id])


def test_a_damaged_journal_raises_an_alarm_that_the_next_start_clears(bench):
    """Said once, with the name under which the file was kept."""
    bench.config.journal.write_bytes(b"no database" * 1000)
    with bench.running():
        assert "commands.db.damaged-1" in bench.alarms["commands"]
        assert bench.ask()["status"] == "executing"
    with bench.running():
        assert bench.alarms["commands"] is None


def test_arguments_are_checked_before_anything_begins(bench):
    """Unknown, missing and wrong ones are refused in words."""
    with bench.running():
        for args in ({}, {"model": "keywords", "nonsense": 1}, {"model": 7}):
            state = bench.ask(args=args)
            assert state["reason"] == "REJECTED_UNSUPPORTED"
            assert "update" in state["text"]
    assert bench.slow.begun == []


def test_the_trail_holds_what_was_asked_but_no_large_argument(bench):
    """Decisions and ends, with the arguments as far as they are short."""
    with bench.running():
        bench.ask("technician", "ping", args={"echo": "hi"})
        bench.ask("admin", "set-config", args={"settings": {"secret": "x" * 3000}})
    trail = [json.loads(line) for line in bench.audit()]
    assert [entry["what"] for entry in trail] == ["admit", "successful", "reject"]
    assert trail[0]["args"] == {"echo": "hi"}
    assert "x" * 100 not in json.dumps(trail)


def test_rates_are_per_name_and_bounded():
    """A bucket fills evenly; ten thousand names take no more memory than a few hundred."""
    rate = Rate(60)
    assert [rate.take("a", 0.0) for _ in range(61)].count(True) == 60
    assert rate.take("b", 0.0)
    assert rate.take("a", 1.0)
    assert not rate.take("a", 1.0)
    for number in range(10_000):
        rate.take(str(number), 2.0)
    assert len(rate._buckets) <= 256


def test_roles_form_a_ladder():
    """Each may do what those before it may, and a role that nobody knows may nothing."""
    for least, allowed in (("viewer", 3), ("technician", 2), ("admin", 1)):
        operation = Operation(least, Once(lambda _: {}))
        assert [operation.allows(role) for role in ("viewer", "technician", "admin")].count(True) == allowed
        assert not operation.allows("root")

"""Attacks on commands: each is refused, each is written down, and the device goes on serving those who may ask."""

import json
import os
import random
import sqlite3
import tracemalloc

import pytest

from agent import cbor
from agent.envelope import signed
from agent.envelope.keys import SigningKey
from agent.errors import CommandError
from agent.journal import Head, Journal, first_bad
from agent.request import external, sign_request
from tests.desk import Bench, move, topic


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def _refused(bench, state, reason, what="answer"):
    """The state told, the audit entry, and that nothing was begun."""
    assert bench.slow.begun == []
    trail = [json.loads(line) for line in bench.audit()]
    assert trail[-1]["what"] == what, trail
    assert trail[-1]["reason"] == reason, trail
    if what == "deny":
        assert state is None
    else:
        assert (state["status"], state["reason"]) == ("failed", reason)


def _still_works(bench):
    """After the attack an honest request runs."""
    state = bench.ask("technician")
    assert state["status"] == "executing", state
    assert len(bench.slow.begun) == 1
    bench.slow.begun.clear()


def test_e1_replay(bench):
    """The same bytes again: the stored state is told again, and nothing runs twice."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        bench.slow.moves[request.target.id] = move("successful")
        bench.status(request.target.id, "successful")
        for _ in range(3):
            before = len(bench.states(request.target.id))
            after = bench.send(request, data)
            assert len(after) == before + 1
            assert after[-1]["status"] == "successful"
    assert bench.slow.begun == [request.target.id]
    assert json.loads(bench.audit()[-1])["what"] == "repeat"


def test_e2_other_topic(bench):
    """A request moved to another operation, another id, another device's prefix or out of the tree is void."""
    with bench.running():
        request, data = bench.signed()
        for place in (topic("set-config", request.target.id), topic("update", "other"), "limpet/v1/site/device/e/door"):
            bench.deliver(place, data)
        other, foreign = bench.signed(device="elsewhere")
        assert bench.send(other, foreign) == []
        state = bench.drain() and None
    _refused(bench, state, "REJECTED_BAD_SIGNATURE", "deny")


def test_e3_other_audience(bench):
    """Another fleet with the same names of sites and devices, and the same technician."""
    with bench.running():
        state = bench.ask(audience="acme")
    _refused(bench, state, "REJECTED_UNAUTHORIZED")


def test_e4_viewer_asks_for_an_update(bench):
    """The role comes from the key's entry."""
    with bench.running():
        state = bench.ask("viewer")
    _refused(bench, state, "REJECTED_UNAUTHORIZED", "reject")


def test_e5_technician_asks_for_what_takes_an_admin(bench):
    """set-config is not for technicians, and what touches keys does not exist as a request at all."""
    with bench.running():
        assert bench.ask("technician", "keys.revoke")["reason"] == "REJECTED_UNSUPPORTED"
        state = bench.ask("technician", "set-config")
    _refused(bench, state, "REJECTED_UNAUTHORIZED", "reject")


def test_e6_revoked_key(bench):
    """Also a key of limpet.toml: revoked.json wins, as soon as it lies there."""
    with bench.running():
        _still_works(bench)
        bench.revoke(bench.keys["technician"])
        state = bench.ask()
        assert bench.ask("admin")["status"] in ("executing", "scheduled")
        bench.slow.begun.clear()
    trail = [json.loads(line) for line in bench.audit()]
    assert (state["status"], state["reason"]) == ("failed", "REJECTED_UNAUTHORIZED")
    assert any(entry.get("text", "").startswith("the key was revoked: laptop stolen") for entry in trail)


def test_e7_expired(bench):
    """Its time is over by a clock that is trusted."""
    with bench.running():
        request, data = bench.signed(life_s=60)
        bench.clock.ahead_s += 61
        state = bench.send(request, data)[-1]
    _refused(bench, state, "REJECTED_EXPIRED")


def test_e8_ten_years_of_life(bench):
    """A request that would be good for ten years is neither signed by the tool nor taken by a device."""
    with pytest.raises(CommandError, match="shorter life"):
        bench.request(life_s=10 * 366 * 86400)
    with bench.running():
        request = bench.request()
        claims = {1: "limpet", 2: request.issued_s, 3: request.issued_s + 10 * 366 * 86400, 4: request.counter, 5: {}}
        data = signed.sign_with(bench.keys["technician"], cbor.encode(claims), external(request.target))
        bench.send(request, data)
    _refused(bench, None, "REJECTED_EXPIRED", "deny")


def test_e9_clock_of_1970_without_the_nonce(bench):
    """A device that does not know the time takes changes only with its own nonce, each nonce once."""
    bench.clock.trusted, bench.clock.ahead_s = False, -1.7e9
    with bench.running() as desk:
        bench.clock.ahead_s = 0.0  # the technician's clock is right
        state = bench.ask()
        wrong = bench.ask(nonce=b"87654321")
        assert wrong["reason"] == "REJECTED_EXPIRED"
        assert "nonce" in wrong["text"]
        assert bench.slow.begun == []
        nonce = bytes.fromhex(desk.facet()["nonce"])
        assert desk.facet()["clock_trusted"] is False
        assert bench.ask(nonce=nonce)["status"] == "executing"
        again = bench.ask(nonce=nonce)
        assert again["reason"] == "REJECTED_EXPIRED"
        assert desk.facet()["nonce"] != nonce.hex()
        assert bench.ask("viewer", "ping")["status"] == "successful"
    assert state["reason"] == "REJECTED_EXPIRED"
    assert len(bench.slow.begun) == 1


def test_e10_retained(bench):
    """A request that the broker keeps would run at every start: it is ignored, however well it is signed."""
    with bench.running():
        request, data = bench.signed()
        assert bench.send(request, data, retain=True) == []
    _refused(bench, None, "REJECTED_UNSUPPORTED", "deny")


def test_e11_downgrade_of_a_decision(bench):
    """An older request by the same key, held back by the broker until a newer one was done, is too late."""
    with bench.running():
        old_request, old = bench.signed(args={"model": "keywords", "version": "1.0.0"})
        new_request, new = bench.signed(args={"model": "keywords", "version": "1.1.0"})
        bench.send(new_request, new)
        state = bench.send(old_request, old)[-1]
    assert bench.slow.begun == [new_request.target.id]
    bench.slow.begun.clear()
    _refused(bench, state, "REJECTED_EXPIRED")


def test_e12_bit_flip(bench):
    """Any changed bit: of 200 random ones none gets through, and none is answered with a success."""
    with bench.running():
        request, data = bench.signed()
        for _ in range(200):
            place, flipped = int.from_bytes(os.urandom(2), "big") % (len(data) * 8), bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            bench.send(request, bytes(flipped))
        assert bench.states(request.target.id) == []
        assert bench.slow.begun == []
        assert bench.send(request, data)[-1]["status"] == "executing"


def test_e13_key_id_swapped(bench):
    """Signed by one key, claiming to be by another: the viewer's signature under the admin's id."""
    with bench.running():
        request = bench.request("set-config")
        data = sign_request(bench.keys["viewer"], request)
        swapped = data.replace(bench.keys["viewer"].public.key_id, bench.keys["admin"].public.key_id)
        assert swapped != data
        bench.send(request, swapped)
    _refused(bench, None, "REJECTED_BAD_SIGNATURE", "deny")


NOISE = random.Random(17).randbytes(200)


@pytest.mark.parametrize("payload", [b"", b"\xd2", b"{}", b"\xd2\x84", b"\x81" * 200, NOISE, b"\xd2" + NOISE])
def test_e14_garbage(bench, payload):
    """Whatever it is, it is refused, acknowledged and forgotten."""
    with bench.running():
        bench.deliver(topic("update", "r1"), payload)
        _still_works(bench)
    assert json.loads(bench.audit()[0])["what"] == "deny"


def test_e15_ten_megabytes(bench):
    """The size is looked at before anything is parsed."""
    with bench.running():
        bench.deliver(topic("set-config", "r1"), b"\xd2" + bytes(10_000_000))
        bench.deliver(topic("update", "r2"), b"\xd2" + bytes(256))
    trail = [json.loads(line) for line in bench.audit()]
    assert "may have 8192" in trail[0]["text"]
    assert "may have 256" in trail[1]["text"]
    assert bench.slow.begun == []


def test_e16_unknown_operation(bench):
    """What is not in the table is refused, also from an admin."""
    with bench.running():
        state = bench.ask("admin", "format-disk")
        assert "this device knows" in state["text"]
    _refused(bench, state, "REJECTED_UNSUPPORTED", "reject")


def test_e17_algorithm_none(bench):
    """No algorithm of the sender's choice: none, HMAC, or that of the other suite."""
    key_id = bench.keys["technician"].public.key_id
    with bench.running():
        request, data = bench.signed()
        _, unprotected, payload, signature = cbor.decode(data[1:])
        for header in ({1: 0, 4: key_id}, {1: 5, 4: key_id}, {1: -7, 4: key_id}, {4: key_id}, {}):
            for ending in (signature, b"", bytes(64)):
                forged = b"\xd2" + cbor.encode([cbor.encode(header), unprotected, payload, ending])
                assert bench.send(request, forged) == []
    _refused(bench, None, "REJECTED_BAD_SIGNATURE", "deny")


def test_e18_yesterdays_traffic_is_played_again(bench):
    """A broker that replays all it has ever seen, in any order, makes nothing happen a second time."""
    with bench.running():
        sent = []
        for _ in range(6):
            request, data = bench.signed()
            bench.send(request, data)
            bench.slow.moves[request.target.id] = move("successful")
            bench.status(request.target.id, "successful")
            sent.append((request, data))
        begun = list(bench.slow.begun)
    with bench.running():
        for request, data in reversed(sent + sent):
            bench.send(request, data)
    assert bench.slow.begun == begun


def test_e18_replayed_after_the_rows_are_forgotten(bench):
    """Long after: the id is not known any more; counter and expiry still stand against it."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        bench.slow.moves[request.target.id] = move("successful")
        bench.status(request.target.id, "successful")
    with Journal(bench.config.journal) as journal:
        journal.hide(request.target.id)
        assert journal.forget(bench.clock.wall_s() + 1) == 1
    with bench.running():
        assert bench.send(request, data)[-1]["reason"] == "REJECTED_EXPIRED"
    assert bench.slow.begun == [request.target.id]


@pytest.mark.parametrize("gone", ["commands.db", "commands.db damaged"])
def test_e19_counters_lost_after_the_act(bench, gone):
    """The whole journal is lost or damaged between two starts: what ran before does not run again."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
    for path in bench.folder.glob("commands.db*"):
        path.write_bytes(b"damaged" * 1000) if "damaged" in gone else path.unlink()
    with bench.running():
        assert bench.send(request, data)[-1]["reason"] == "REJECTED_EXPIRED"
    assert bench.slow.begun == [request.target.id]


def test_e19_power_is_cut_before_the_act(bench):
    """The row was durable and nothing had begun: the redelivered request is answered, and the row ends once."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
    with sqlite3.connect(bench.config.journal) as db:  # as if the cut had come between the row and `executing`
        row = db.execute("select progress from command").fetchone()[0]
        db.execute("update command set progress = ?", (row.replace(b'"executing"', b'"init"'),))
    db.close()
    bench.slow.begun.clear()
    with bench.running():
        bench.send(request, data)
        assert bench.slow.begun == [request.target.id]
    bench.slow.begun.clear()
    with bench.running():  # and now it had begun: it is never begun again
        states = bench.send(request, data)
        assert states[-1]["reason"] == "INTERRUPTED"
    assert bench.slow.begun == []


def test_a_counter_far_ahead_is_refused_and_does_not_lock_its_key_out(bench):
    """More than 15 minutes ahead of a trusted clock: refused and not stored, so that the next honest one passes."""
    with bench.running():
        ahead = int((bench.clock.wall_s() + 3600) * 1000)
        assert bench.ask(counter=ahead)["reason"] == "REJECTED_EXPIRED"
        assert bench.ask(counter=2**53 - 1)["reason"] == "REJECTED_EXPIRED"
        _still_works(bench)


def test_a_wrong_clock_does_not_poison_counters_or_birthday(bench):
    """The device believed in 2036 for a while: later, honest requests are taken again."""
    bench.clock.ahead_s = 10 * 366 * 86400.0
    with bench.running():
        assert bench.ask()["status"] == "executing"
    bench.clock.ahead_s, bench.counter = 0.0, 0
    with bench.running():
        state = bench.ask()
        assert state["status"] in ("executing", "scheduled"), state


def test_the_same_id_with_other_content_is_refused(bench):
    """The stored command stays what it is, and nothing is answered under its name."""
    with bench.running():
        request, data = bench.signed()
        bench.send(request, data)
        before = bench.states(request.target.id)
        second, other = bench.signed(id_=request.target.id, args={"model": "other"})
        assert bench.send(second, other) == before
    assert bench.slow.begun == [request.target.id]
    assert "used before" in json.loads(bench.audit()[-1])["text"]


def test_d3_a_technicians_rights_end_with_the_list(bench):
    """Listed: may ask. No longer listed, expired, or for other sites and devices: may not. No restart needed."""
    key, other, late = (SigningKey.generate() for _ in range(3))
    bench.keys |= {"listed": key, "elsewhere": other, "late": late}
    all_ = ("*",)
    now_s = int(bench.clock.wall_s())
    with bench.running():
        assert bench.ask("listed") is None
        bench.list_technicians(
            (key, "technician", ("site",), ("device",), now_s + 60), (other, "admin", all_, ("another",), None),
            (late, "admin", all_, all_, now_s - 1),
        )
        assert bench.ask("listed")["status"] == "executing"
        assert bench.ask("listed", "set-config")["reason"] == "REJECTED_UNAUTHORIZED"
        assert bench.ask("elsewhere") is None
        assert bench.ask("late")["reason"] == "REJECTED_UNAUTHORIZED"
        bench.clock.ahead_s += 61
        assert bench.ask("listed")["reason"] == "REJECTED_UNAUTHORIZED"
        bench.clock.ahead_s -= 61
        bench.counter = 0
        bench.revoke(key)
        assert bench.ask("listed")["reason"] == "REJECTED_UNAUTHORIZED"
        bench.revoke()
        bench.list_technicians()
        assert bench.ask("listed") is None
    assert len(bench.slow.begun) == 1


@pytest.mark.parametrize("name", ["technicians.json", "revoked.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b'{"schema":1,"keys":[{"kid":"short"}]}', b"\0" * 100])
def test_a_damaged_list_closes_the_gate_and_is_no_empty_list(bench, name, damage):
    """Nobody may ask until it can be read again; the facet says why."""
    with bench.running() as desk:
        bench._write(name, damage)
        assert bench.ask() is None
        assert name in desk.facet()["trouble"]
        (bench.depot / "trust" / name).unlink()
        assert bench.ask()["status"] == "executing"
        assert "trouble" not in desk.facet()


def test_h2_the_trail_of_all_this_verifies_and_an_edit_shows(bench):
    """Denials stand in the chain as well as deeds; one letter changed in the file is found."""
    with bench.running() as desk:
        bench.ask("viewer")
        bench.ask(audience="acme")
        bench.deliver(topic("update", "x"), b"garbage")
        bench.ask()
        seen = desk.facet()["audit"]
    with Journal(bench.config.journal) as journal:
        links = journal.audit(0, 100)
        assert {json.loads(link.entry.line)["what"] for link in links} >= {"reject", "answer", "deny", "admit"}
        assert first_bad(links, Head(), [Head(seen["n"], bytes.fromhex(seen["head"]))]) == ""
    with sqlite3.connect(bench.config.journal) as db:
        db.execute("update audit set line = replace(line, 'viewer', 'admin1') where n = 1")
    db.close()
    with Journal(bench.config.journal) as journal:
        assert "entry 1 is not" in first_bad(journal.audit(0, 100), Head())


def test_a_thousand_hostile_requests_leave_no_trace_but_a_count(bench):
    """Neither memory nor disk nor the broker's retained topics grow with what strangers send."""
    def flood(count):
        for number in range(count):
            bench.deliver(topic("update", f"r{number}"), b"\xd2" + os.urandom(150))

    with bench.running() as desk:
        flood(100)
        tracemalloc.start()
        base = tracemalloc.get_traced_memory()[0]
        flood(1000)
        grown = tracemalloc.get_traced_memory()[0] - base
        tracemalloc.stop()
        assert grown < 200_000, grown
        assert [t for t in bench.drain() if t.body and t.kind.name == "STATE"] == []
        assert desk.facet()["audit"]["n"] < 60
        _still_works(bench)
    assert bench.config.journal.stat().st_size < 400_000
    trail = [json.loads(line) for line in bench.audit()]
    assert sum(entry.get("count", 0) + (entry["what"] == "deny") for entry in trail) <= 1100


def test_a_trusted_key_that_floods_is_slowed_and_stores_nothing(bench):
    """Over its rate it is told to wait; rows and counters stay as they are."""
    with bench.running():
        states = [bench.ask("viewer", "ping") for _ in range(bench.config.per_minute + 20)]
        assert [s["status"] for s in states].count("successful") == bench.config.per_minute
        assert states[-1]["reason"] == "REJECTED_BUSY"
        assert bench.ask("technician")["status"] == "executing"


@pytest.mark.parametrize("args", [{"\0": 1}, {"echo": "\0"}, {"\x1b[2J": 1}, {"\U0010ffff" * 30: 1}])
def test_no_argument_makes_a_row_that_cannot_be_read_again(bench, args):
    """Whose key may only ping could end the commands of a device for good: every start reads every row."""
    with bench.running():
        assert bench.ask("viewer", "ping", args=args)["status"] == "failed"
    with bench.running():
        assert bench.ask("viewer", "ping")["status"] == "successful"

"""A desk with keys of every role and no broker: requests are handed in, states are read as they would be published."""

import contextlib
import os
import time
from dataclasses import dataclass, replace
from unittest.mock import patch

from agent import cbor
from agent.broker import Message
from agent.commands import Desk, Device, Holders, Move, Operation, Outside
from agent.commands import desk as desk_module
from agent.commands.simple import cancelling, ping, restart
from agent.envelope.keyfiles import write_public
from agent.envelope.keys import SigningKey, spki
from agent.journal import Journal
from agent.package.trust import Revoked, RevokedKey, Technician, Technicians, public_text
from agent.request import Request, Target, new_id, sign_request
from agent.settings.commands import CommandKey, CommandsConfig
from agent.uplink.requests import Requests
from tests.lite import running, until

SITE, DEVICE = "site", "device"


class Clock:
    """Real durations, a wall clock and a trust that tests set."""

    def __init__(self):
        self.ahead_s, self.trusted, self.mono_ahead_s = 0.0, True, 0.0

    def mono_s(self):
        return time.monotonic() + self.mono_ahead_s

    def wall_s(self):
        return time.time() + self.ahead_s

    def state(self):
        return "synced" if self.trusted else "unsynced"

    def sleep(self, seconds):
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class ModelArgs:
    """Arguments of the changing operation of the tests."""

    model: str
    version: str = ""


class Slow:
    """A changing operation that goes where the test sends it, and counts how often it began."""

    def __init__(self):
        self.begun, self.moves, self.cancels, self.resumable, self.can_cancel = [], {}, [], None, True

    def begin(self, command):
        self.begun.append(command.id)

    def follow(self, command):
        return self.moves.pop(command.id, None)

    def resume(self, command):
        return self.resumable

    def cancel(self, command):
        self.cancels.append(command.id)
        return self.can_cancel


class Bench:
    """One device's desk in `folder`. `keys` maps a role to its private key."""

    def __init__(self, folder, **config):
        self.folder, self.clock, self.port, self.slow = folder, Clock(), Requests(), Slow()
        self.keys = {role: SigningKey.generate() for role in ("viewer", "technician", "admin")}
        self.depot = folder / "depot"
        (self.depot / "trust").mkdir(parents=True)
        local = []
        for role, key in self.keys.items():
            path = folder / f"{role}.pub"
            write_public(path, spki(key.public.public, pem=True))
            local.append(CommandKey(path, role, role))
        self.config = CommandsConfig(enabled=True, journal=folder / "commands.db", key=tuple(local), **config)
        self.counter, self.told, self.boots, self.left, self.alarms = 0, [], 0, [], {}
        self.extra = {}

    def table(self, desk):
        return {
            "update": Operation("technician", self.slow, ModelArgs),
            "rollback": Operation("technician", self.slow, ModelArgs, leads_back=True),
            "set-config": Operation("admin", self.slow),
            "ping": ping(lambda: {"version": "x"}),
            "cancel": cancelling(desk.cancel),
            "restart": restart(lambda: self.left.append(1), f"boot-{self.boots}", ""),
            **self.extra,
        }

    @contextlib.contextmanager
    def running(self):
        """The desk's lane, until the end of the block; a second block is a restart of the agent."""
        self.boots += 1
        holders = Holders(self.config.key, self.depot, SITE, DEVICE)
        outside = Outside(
            self.port, holders, self.table, self.clock, self.alarms.__setitem__, f"boot-{self.boots}", ""
        )
        desk = Desk(self.config, Device(SITE, DEVICE, self.config.audience), outside)
        self.before = self.port._connection
        self.port.connected()
        with patch.object(desk_module, "IDLE_S", 0.02), patch.object(desk_module, "BUSY_S", 0.02), running(desk.run):
            assert until(lambda: desk._journal is not None)
            yield desk

    # --- the technician's side ------------------------------------------------------------------------------------

    def request(self, operation="update", args=None, id_=None, device=DEVICE, site=SITE, life_s=900, **changes):
        """A request that was issued now; `changes` go over its fields."""
        now_s = self.clock.wall_s()
        self.counter = max(int(now_s * 1000), self.counter + 1)
        target = Target(site, device, operation, id_ or new_id(now_s, os.urandom(5)))
        if args is None:
            args = {"model": "keywords"} if operation == "update" else {}
        made = Request(target, int(now_s), int(now_s) + life_s, self.counter, args)
        return replace(made, **changes)

    def signed(self, role="technician", *words, **changes):
        """The request, its bytes."""
        request = self.request(*words, **changes)
        return request, sign_request(self.keys[role], request)

    def deliver(self, topic, payload, retain=False):
        """Hand a message over as the uplink would, and wait until it is settled."""
        mid = 1 + len(self.told) + int.from_bytes(os.urandom(2), "big")
        self.port.offer(Message(topic, payload, retain, mid=mid))
        end_s = time.monotonic() + 10
        while mid not in self.port.settled():
            assert time.monotonic() < end_s, "it was never acknowledged"
            time.sleep(0.0005)

    def send(self, request, data, retain=False):
        """Deliver on the request's own topic; returns the states that were told about its id by now."""
        target = request.target
        self.deliver(topic(target.operation, target.id), data, retain)
        return self.states(target.id)

    def ask(self, role="technician", *words, **changes):
        """Sign, deliver, and return the last state (None when nothing was said)."""
        request, data = self.signed(role, *words, **changes)
        states = self.send(request, data)
        return states[-1] if states else None

    # --- what came of it ------------------------------------------------------------------------------------------

    def drain(self):
        """Take everything that the uplink would publish now."""
        while (told := self.port.next()) is not None:
            self.told.append(told)
        return self.told

    def states(self, id_):
        """All states told about one id so far, in order."""
        return [cbor.decode(t.body) for t in self.drain() if t.body and t.name.endswith(f"/{id_}")]

    def status(self, id_, wanted):
        """Wait until the last state of `id_` is `wanted`; returns it."""
        assert until(lambda: (s := self.states(id_)) and s[-1]["status"] == wanted), self.states(id_)
        return self.states(id_)[-1]

    def audit(self):
        """The trail, read from the closed journal."""
        with Journal(self.config.journal) as journal:
            return [link.entry.line for link in journal.audit(0, 1000)]

    # --- trust ----------------------------------------------------------------------------------------------------

    def list_technicians(self, *entries):
        """trust/technicians.json of (key, role, sites, devices, not_after)."""
        listed = tuple(
            Technician(public_text(spki(key.public.public)), role, f"listed {role}", sites, devices, not_after)
            for key, role, sites, devices, not_after in entries
        )
        self._write("technicians.json", Technicians(listed).encode())

    def revoke(self, *keys):
        """trust/revoked.json."""
        entries = tuple(RevokedKey(key.public.key_id.hex(), "laptop stolen") for key in keys)
        self._write("revoked.json", Revoked(entries).encode())

    def _write(self, name, data):
        fresh = self.depot / "trust" / f"{name}.new"
        fresh.write_bytes(data)
        fresh.replace(self.depot / "trust" / name)


def topic(operation, id_, prefix=f"limpet/v1/{SITE}/{DEVICE}"):
    """Where a request goes."""
    return f"{prefix}/req/{operation}/{id_}"


def move(status, **more):
    """A handler's next state."""
    return Move(status, **more)

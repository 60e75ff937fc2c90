"""Who may read follows the signed lists while the agent runs, and readers follow the list of void keys."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.envelope import DeviceIdentity, Opener, ReaderKey, Sealer, SigningKey, Topics, Trust, TrustedDevice
from agent.envelope.keyfiles import write_private, write_public
from agent.envelope.keys import spki
from agent.envelope.message import MessageType
from agent.envelope.setup import make_opener
from agent.errors import ConfigError, EnvelopeError
from agent.papers.readers import NO_READERS, REVOKED, UNREADABLE, Readership, WatchedSealer
from agent.settings.envelope import DeviceTrust, ReaderConfig, ReaderLimits
from tests.agents import limpet, running, site, status
from tests.enrolling import DEVICE, SITE, Alarms, Clock


@dataclass
class Room:
    """A device that seals for readers by lists, and two readers with their keys."""

    folder: Path
    clock: Clock
    alarms: Alarms
    signing: SigningKey
    old: ReaderKey
    new: ReaderKey

    def readership(self, *listed):
        kid = self.signing.public.key_id.hex()
        return Readership([key.public for key in listed], self.folder, SITE, DEVICE, kid, self.alarms)

    def sealer(self, *listed):
        identity = DeviceIdentity(SITE, DEVICE, self.signing)
        sealer = Sealer(identity, [key.public for key in listed], clock=self.clock.mono_s)
        return WatchedSealer(sealer, self.readership(*listed), self.clock)

    def sign(self, *readers, revoked=(), **scope):
        """What the updater brings: the list of readers, and the void keys."""
        entries = [
            {"public": public(key), "name": "somebody", "sites": ["*"], "devices": ["*"], **scope} for key in readers
        ]
        self._put("readers.json", {"schema": 1, "readers": entries})
        self.revoke(*revoked)

    def revoke(self, *keys):
        kids = [{"kid": key.public.key_id.hex(), "reason": "lost"} for key in keys]
        self._put("revoked.json", {"schema": 1, "keys": kids})

    def _put(self, name, table):
        fresh = self.folder / f"{name}.new"
        fresh.write_text(json.dumps(table))
        fresh.rename(self.folder / name)

    def envelope(self, sealer, after_s=2.0):
        self.clock.gone_s += after_s
        return sealer.current_envelope()

    def opens(self, key, envelope, sealed):
        """Whether `key` opens what was sealed under `envelope`."""
        trust = Trust((TrustedDevice(SITE, DEVICE, "sealed", (self.signing.public,)),))
        opener = Opener([key], trust, ReaderLimits(), clock=self.clock.mono_s, wall=self.clock.wall_s)
        topics = Topics(SITE, DEVICE)
        opener.open(f"{topics.prefix}/{envelope.tail}", envelope.payload)
        try:
            return bool(opener.open(topics.twin("config"), sealed))
        except EnvelopeError:
            return False


def public(key):
    """As the signed lists hold it."""
    return base64.b64encode(spki(key.public.public)).decode()


def say(sealer):
    """Something sealed under the current epoch."""
    return sealer.seal(MessageType.TWIN, "config", b"\xa0")


@pytest.fixture
def room(tmp_path):
    (tmp_path / "trust").mkdir()
    old, new = ReaderKey.generate(), ReaderKey.generate()
    return Room(tmp_path / "trust", Clock(), Alarms(), SigningKey.generate(), old, new)


def test_a_reader_of_the_signed_list_is_added_without_a_new_epoch(room):
    """The same key id in a new envelope: the new reader opens what was sealed before, too."""
    sealer = room.sealer(room.old)
    first = room.envelope(sealer)
    sealed = say(sealer)
    room.sign(room.new)
    second = room.envelope(sealer)
    assert second.kid == first.kid
    assert second is not first
    assert room.opens(room.new, second, sealed)
    assert not room.opens(room.new, first, sealed)
    assert room.envelope(sealer) is second, "said once"


@pytest.mark.parametrize("how", ["removed", "revoked", "listed in limpet.toml and revoked"])
def test_a_reader_who_is_removed_reads_nothing_from_then_on(room, how):
    """D3: a new epoch at once; the old reader's key opens nothing of it."""
    listed = [room.old, room.new] if how.startswith("listed") else [room.old]
    sealer = room.sealer(*listed)
    room.sign(room.new)
    first = room.envelope(sealer)
    assert room.opens(room.new, first, say(sealer))
    room.sign(*([] if how == "removed" else [room.new]), revoked=() if how == "removed" else [room.new])
    second = room.envelope(sealer)
    assert second.kid != first.kid
    sealed = say(sealer)
    assert room.opens(room.old, second, sealed)
    assert not room.opens(room.new, second, sealed)


def test_entries_for_other_devices_and_of_other_kinds_are_left_out(room):
    """Sites and devices are honoured; a signing key among the readers does not stop the others."""
    sealer = room.sealer(room.old)
    first = room.envelope(sealer)
    room.sign(room.new, sites=["elsewhere"])
    assert room.envelope(sealer).kid == first.kid
    assert not room.opens(room.new, room.envelope(sealer), say(sealer))
    room.sign(room.signing, room.new)
    assert room.opens(room.new, room.envelope(sealer), say(sealer))


def test_when_all_readers_are_revoked_nothing_is_published(room):
    """Fails closed: no envelope and no message, an alarm; the next list mends it."""
    sealer = room.sealer(room.old)
    room.envelope(sealer)
    room.sign(revoked=[room.old])
    with pytest.raises(ConfigError, match="none is left"):
        room.envelope(sealer)
    assert "nothing is published" in room.alarms[NO_READERS]
    with pytest.raises(EnvelopeError):
        say(sealer)
    with pytest.raises(ConfigError, match="none is left"):
        sealer.current_envelope()
    room.sign(room.new, revoked=[room.old])
    assert room.opens(room.new, room.envelope(sealer), say(sealer))
    assert NO_READERS not in room.alarms


@pytest.mark.parametrize("name", ["readers.json", "revoked.json"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 9}', b'{"schema":1,"keys":7}'], ids=str)
def test_a_damaged_list_changes_nothing_and_is_alarmed(room, name, content):
    """G1: what was read last counts; the alarm names the file and goes when it is mended."""
    sealer = room.sealer(room.old)
    room.sign(room.new)
    first = room.envelope(sealer)
    (room.folder / name).write_bytes(content)
    assert room.envelope(sealer) is first
    assert name in room.alarms[UNREADABLE]
    room.sign(room.new)
    room.envelope(sealer)
    assert UNREADABLE not in room.alarms


def test_before_the_void_keys_are_known_nothing_is_sealed(room):
    """G1: an unreadable revoked.json at the start fails closed, and says which file."""
    (room.folder / "revoked.json").write_bytes(b"torn")
    sealer = room.sealer(room.old)
    with pytest.raises(ConfigError, match=r"revoked\.json"):
        room.envelope(sealer)
    with pytest.raises(EnvelopeError):
        say(sealer)
    room.revoke(room.new)
    assert room.opens(room.old, room.envelope(sealer), say(sealer))


def test_a_revoked_list_that_vanishes_is_not_forgotten(room):
    """Deleting the file gives nobody his key back."""
    sealer = room.sealer(room.old, room.new)
    room.revoke(room.new)
    first = room.envelope(sealer)
    (room.folder / "revoked.json").unlink()
    assert room.envelope(sealer) is first
    assert not room.opens(room.new, first, say(sealer))


def test_a_device_whose_own_key_is_revoked_says_so(room):
    """Its readers refuse it; the device raises the alarm."""
    sealer = room.sealer(room.old)
    room.revoke(room.signing)
    room.envelope(sealer)
    assert "enrol the device anew" in room.alarms[REVOKED]


# --- the other side: a device whose key is void


def _eyes(room, tmp_path):
    """A reader from its configuration files, as `limpet watch` makes it."""
    write_private(tmp_path / "reader.key", room.old.pem())
    write_public(tmp_path / "device.pub", spki(room.signing.public.public, pem=True))
    device = DeviceTrust(SITE, DEVICE, keys=(tmp_path / "device.pub",))
    return make_opener(ReaderConfig(tmp_path / "reader.key", (device,), revoked=room.folder / "revoked.json"))


def test_a_revoked_device_is_disbelieved_at_once_also_in_an_epoch_that_is_open(room, tmp_path):
    """D3: neither its next envelope counts nor what it seals under the one that the reader has."""
    room.revoke()
    eyes, sealer, topics = _eyes(room, tmp_path), room.sealer(room.old), Topics(SITE, DEVICE)
    envelope = room.envelope(sealer)
    tail = f"{topics.prefix}/{envelope.tail}"
    eyes.open(tail, envelope.payload)
    assert eyes.open(topics.twin("config"), say(sealer))
    room.revoke(room.signing)
    with pytest.raises(EnvelopeError, match="revoked"):
        eyes.open(topics.twin("config"), say(sealer))
    with pytest.raises(EnvelopeError, match="revoked"):
        eyes.open(tail, envelope.payload)
    (room.folder / "revoked.json").write_text("torn")
    with pytest.raises(EnvelopeError, match="revoked"):
        eyes.open(tail, envelope.payload)


@pytest.mark.parametrize("content", [None, b"", b"torn"], ids=["missing", "empty", "torn"])
def test_a_reader_without_its_list_of_void_keys_does_not_start(room, tmp_path, content):
    """G1: it was named, so it counts; the message says which file."""
    if content is not None:
        (room.folder / "revoked.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"\[reader\] revoked .*revoked\.json"):
        _eyes(room, tmp_path)


# --- a whole agent

def _sees(reader, limit_s=20):
    """Whether `limpet watch` shows three events in time."""
    watcher = limpet("watch", "--reader", reader, "--count", 3, "--for", limit_s, "--json")
    lines = watcher.communicate(timeout=60)[0].splitlines()
    return sum(json.loads(line)["type"] == "event" for line in lines) >= 3


def test_a_running_agent_lets_readers_in_and_out_without_a_restart(room, tmp_path):
    """Over a real broker: added, removed, all revoked (nothing leaves, nothing is lost), and mended."""
    with site(tmp_path / "site") as place:
        place.count()
        place.extra = f'[updates]\nfolder = "{tmp_path}"\n'
        config, reader = place.write()
        room.old = ReaderKey.load(place.keys.reader.key)
        write_private(tmp_path / "new.key", room.new.pem())
        other = tmp_path / "site" / "other.toml"
        other.write_text(reader.read_text().replace(str(place.keys.reader.key), str(tmp_path / "new.key")))
        with running(config, tmp_path / "agent.log"):
            status(place.socket, lambda s: s["uplink"]["acked_events"] >= 3)
            room.sign(room.new)
            assert _sees(other)
            room.sign()
            assert _sees(reader)
            assert not _sees(other, limit_s=3)
            room.sign(revoked=[room.old])
            said = status(place.socket, lambda s: any("no-readers" in reason for reason in s["reasons"]))
            acked = said["uplink"]["acked_events"]
            kept = status(place.socket, lambda s: s["outbox"]["events"] >= said["outbox"]["events"] + 20)
            assert kept["uplink"]["acked_events"] <= acked + 20, "what was under way"
            room.sign(room.new, revoked=[room.old])
            status(place.socket, lambda s: s["uplink"]["acked_events"] >= acked + 40 and s["health"] == "ok", 40)
            assert _sees(other)
            assert not _sees(reader, limit_s=3)

"""Certificates renew themselves in two slots: the old pair serves until the new one has connected, never none."""

import contextlib
import datetime as dt
import threading
import time
from dataclasses import dataclass, replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.cli.check import look
from agent.envelope import ReaderKey
from agent.envelope.keyfiles import write_public
from agent.envelope.keys import spki
from agent.errors import ConfigError, UplinkError
from agent.identity import NamedCertificate
from agent.papers.pairs import ALARM, STRIKES, PairedLink, Pairs
from agent.papers.renewal import Renewal
from agent.settings.identity import IdentityConfig
from tests.agents import COUNTING, running, status, write_rows
from tests.broker import mosquitto
from tests.enrolling import Alarms, Clock, Device
from tests.est_server import PEM, Issuer, est_server

DAY_S = 86400.0


@dataclass
class Scene:
    """An enrolled device in this process, its EST server, and the lane's body."""

    device: Device
    est: object
    clock: Clock
    alarms: Alarms
    renewal: Renewal
    pairs: Pairs

    @property
    def watched(self):
        return self.renewal._watched[0]

    def look(self, after_s=0.0):
        self.clock.gone_s += after_s
        self.renewal.look(self.watched)
        return self.slots.state()

    @property
    def slots(self):
        return self.device.slots

    def serial(self, slot):
        return x509.load_pem_x509_certificate(self.slots.pair(slot).certificate.read_bytes()).serial_number


def found(scene):
    """Which slot is in use and which is to be tried, as the next start finds them."""
    state = scene.slots.state()
    return state.active, state.candidate


@pytest.fixture
def scene(tmp_path):
    with est_server(tmp_path / "est") as est:
        device = Device(tmp_path, est).write()
        tls = replace(device.tls)
        tls.request()
        under_way = device.slots.request()
        csr = x509.load_pem_x509_csr(under_way[1])
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        tls.take([est.root.issue(csr.public_key(), csr.subject, names, est.lifetime)], [est.root.certificate])
        clock, alarms = Clock(), Alarms()
        config = IdentityConfig(enabled=True, folder=device.identity, est=est.url, est_ca_file=est.anchors)
        purposes = {"tls": replace(device.tls, now_s=clock.wall_s)}
        renewal = Renewal(config, device.slots, purposes, clock, alarms)
        yield Scene(device, est, clock, alarms, renewal, Pairs(device.slots, clock, alarms, bench_s=60))


# --- the lane


def test_a_device_without_certificates_still_gives_signs_of_life(tmp_path):
    """The lane has nothing to look at, and must not be taken for stuck: that would make the health degraded."""
    config, stop, beats = IdentityConfig(folder=tmp_path), threading.Event(), []

    def beat():
        beats.append(1)
        stop.set()

    Renewal(config, None, {}, Clock(), Alarms()).run(stop, beat)
    assert beats


# --- renewing


def test_nothing_is_asked_before_two_thirds_of_life(scene):
    """At 39 of 60 days nothing, at 41 a new key and a candidate; the pair in use is not touched."""
    old = scene.slots.pair("a")
    before = old.key.read_bytes(), old.certificate.read_bytes()
    assert scene.look(39 * DAY_S).candidate is None
    assert scene.est.log == []
    assert scene.look(2 * DAY_S).candidate == "b"
    assert scene.est.operations == ["cacerts", "simplereenroll"]
    assert (old.key.read_bytes(), old.certificate.read_bytes()) == before
    assert scene.slots.pair("b").key.read_bytes() != before[0]
    assert scene.look(DAY_S).candidate == "b", "a second is not asked for while one waits to connect"
    assert scene.est.operations.count("simplereenroll") == 1


def test_the_new_pair_is_in_use_once_it_has_connected(scene):
    """Until then the old one is; then the old slot is free for the next renewal."""
    scene.look(41 * DAY_S)
    chosen = scene.pairs.choose()
    assert chosen.slot == "b"
    assert scene.slots.state().active == "a"
    scene.pairs.connected(chosen)
    assert found(scene) == ("b", None)
    assert scene.slots.spare() == "a"
    assert scene.alarms == {}


def test_a_network_that_is_down_is_no_verdict(scene):
    """Both pairs take turns while nothing connects, and the renewed one is kept."""
    scene.look(41 * DAY_S)
    tried = []
    for _ in range(20):
        pair = scene.pairs.choose()
        tried.append(pair.slot)
        scene.pairs.failed(pair, "no route")
    assert tried == ["b", "a"] * 10
    assert scene.slots.state().candidate == "b"
    assert scene.alarms == {}


def test_a_renewed_pair_that_the_broker_refuses_is_given_up_and_another_asked_for(scene):
    """Three times the old pair connects where the new one did not: alarm, back to the old, and anew after a wait."""
    scene.look(41 * DAY_S)
    for _ in range(STRIKES):
        candidate = scene.pairs.choose()
        assert candidate.slot == "b"
        scene.pairs.failed(candidate, "the broker does not trust the authority of our certificate")
        old = scene.pairs.choose()
        assert old.slot == "a"
        scene.pairs.connected(old)
        assert "does not trust the authority" in scene.alarms[ALARM]
        assert scene.pairs.choose().slot == "a", "the old one serves for a while"
        scene.clock.gone_s += 61
    assert scene.slots.state().candidate is None
    assert not scene.slots.pair("b").certificate.exists()
    assert scene.look(60).candidate is None, "not in a loop"
    assert scene.look(7 * 3600).candidate == "b"
    scene.pairs.connected(scene.pairs.choose())
    assert ALARM not in scene.alarms


def test_failures_are_retried_ever_more_rarely_and_alarmed_before_the_end(scene):
    """No alarm for one bad day; then one that names the end and the reason; it goes when the renewal succeeds."""
    scene.est.tamper = lambda *_: (500, "text/plain", b"database is locked")
    scene.look(41 * DAY_S)
    assert scene.alarms == {}
    for _ in range(200):
        scene.look(600)
    attempts = scene.est.operations.count("simplereenroll")
    assert 5 <= attempts < 60, "it backs off"
    assert "database is locked" in scene.alarms["tls-certificate"]
    assert "ends 20" in scene.alarms["tls-certificate"]
    scene.est.tamper = None
    for _ in range(40):
        scene.look(600)
    assert scene.slots.state().candidate == "b"
    scene.pairs.connected(scene.pairs.choose())
    scene.look()
    assert scene.alarms == {}


def test_a_request_that_is_looked_at_by_people_is_asked_again_with_the_same_key(scene):
    """202 for days: one key, one request, and the certificate in the end."""
    scene.est.pending, scene.est.retry_after = 3, "3600"
    for _ in range(5):
        scene.look(41 * DAY_S if not scene.est.log else 3601)
    requests = {entry[2] for entry in scene.est.log if entry[0] == "simplereenroll"}
    assert len(requests) == 1
    assert scene.slots.state().candidate == "b"


def test_after_the_end_it_keeps_trying_and_a_claim_token_helps(scene, monkeypatch):
    """Expired in an outage: alarm, tries go on; with a claim token the device enrols again, and the token goes."""
    scene.est.tamper = lambda *_: (403, "text/plain", b"too old")
    scene.look(61 * DAY_S)
    assert "ended 20" in scene.alarms["tls-certificate"]
    assert "too old" in scene.alarms["tls-certificate"]
    assert scene.pairs.choose().slot == "a", "the old pair stays: it is all there is"
    scene.device.claim()
    config = replace(scene.renewal._config, token_file=scene.device.token)
    monkeypatch.setattr(scene.renewal, "_config", config)
    refusal = 403, "text/plain", b"too old"
    scene.est.tamper = lambda chain, _: chain if scene.est.operations[-1] == "simpleenroll" else refusal
    scene.est.age = dt.timedelta(minutes=5) - dt.timedelta(seconds=scene.clock.gone_s)
    assert scene.look(7 * 3600).candidate == "b"
    assert scene.est.operations[-3:] == ["simplereenroll", "cacerts", "simpleenroll"]
    assert not scene.device.token.exists()


def test_a_certificate_that_has_really_ended_is_refused_by_tls_and_the_device_comes_back_with_a_token(scene):
    """The EST server hangs up on it in the handshake: the reason is told, and the claim token is tried next."""
    csr = x509.load_pem_x509_csr(scene.device.tls.request())
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=61)
    ended = scene.est.root.issue(csr.public_key(), csr.subject, names, dt.timedelta(days=60), start=start)
    scene.slots.fill("b", ended.public_bytes(PEM))
    scene.slots.promote("b")
    scene.look()
    assert "enrol again with a claim token" in scene.alarms["tls-certificate"]
    scene.renewal._config = replace(scene.renewal._config, token_file=scene.device.token)
    scene.device.claim()
    assert scene.look(7 * 3600).candidate == "a"
    assert scene.est.operations == ["cacerts", "simpleenroll"]
    scene.pairs.connected(scene.pairs.choose())
    scene.look()
    assert scene.alarms == {}


def test_without_an_est_server_the_alarm_comes_in_time(scene, tmp_path):
    """A certificate that is renewed by hand: alarm with a quarter of its life left, with what to do."""
    config = IdentityConfig(enabled=True, folder=scene.device.identity)
    named = NamedCertificate(scene.slots.pair("a").certificate)
    for purpose, words in ((scene.device.tls, "limpet enroll --csr-out"), (named, str(named.path))):
        clock, alarms = Clock(), Alarms()
        renewal = Renewal(config, scene.slots, {"tls": purpose}, clock, alarms)
        clock.gone_s = 44 * DAY_S
        renewal.look(renewal._watched[0])
        assert alarms == {}
        clock.gone_s = 46 * DAY_S
        renewal.look(renewal._watched[0])
        assert words in alarms["tls-certificate"]


def test_a_token_that_only_root_may_read_does_not_stop_the_renewal(scene):
    """What was left there for `limpet enroll`, or is open to others, is passed over: the pair proves the device."""
    scene.device.claim()
    scene.device.token.chmod(0o644)
    scene.renewal._config = replace(scene.renewal._config, token_file=scene.device.token)
    assert scene.look(41 * DAY_S).candidate == "b"
    assert scene.est.operations[-1] == "simplereenroll"


# --- whatever is lost


def test_a_disk_that_takes_no_note_costs_no_connection(scene, monkeypatch):
    """The new pair connects while the disk is full: it stays connected, and is noted with its next connection."""
    scene.look(41 * DAY_S)
    chosen = scene.pairs.choose()
    full = OSError(28, "No space left on device", str(scene.device.identity))
    with monkeypatch.context() as patch:
        patch.setattr("agent.identity.slots.write_durably", lambda *_: (_ for _ in ()).throw(full))
        scene.pairs.connected(chosen)
        assert found(scene) == ("a", "b")
        assert not scene.pairs.waiting(chosen)
    scene.pairs.connected(scene.pairs.choose())
    assert found(scene) == ("b", None)


def test_a_lost_or_damaged_record_is_mended_from_the_slots(scene):
    """state.json missing, empty or torn: the whole pairs are found, the newer one is a candidate."""
    scene.look(41 * DAY_S)
    record = scene.device.identity / "state.json"
    for content in (None, b"", b'{"schema": 1, "active": "a", "can', b'{"schema": 2}', b'{"schema":1,"active":"c"}'):
        record.unlink(missing_ok=True)
        if content is not None:
            record.write_bytes(content)
        assert found(scene) == ("a", "b")
    scene.slots.promote("b")
    record.write_bytes(b"")
    assert set(found(scene)) == {"a", "b"}, "both are tried"


def test_a_damaged_pair_gives_way_to_the_whole_one(scene):
    """Bit rot in the pair in use, after a renewal: the older pair, still there, is used."""
    scene.look(41 * DAY_S)
    scene.slots.promote("b")
    scene.slots.pair("b").certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nrot\n-----END CERTIFICATE-----\n")
    assert scene.slots.state().active == "a"


@pytest.mark.parametrize("what", ["open", "gone", "key gone", "mixed"])
def test_a_pair_that_cannot_be_trusted_is_not_shown_to_anyone(scene, what):
    """G1: a key open to others, no folder, no key, a key of another pair: no connection, and the reason."""
    pair = scene.slots.pair("a")
    if what == "open":
        pair.key.chmod(0o644)
    elif what == "gone":
        scene.device.identity.rename(scene.device.folder / "moved")
    elif what == "key gone":
        pair.key.unlink()
    else:
        pair.key.write_bytes(scene.slots.pair("a").key.read_bytes().replace(b"M", b"N", 1))
    with pytest.raises(ConfigError, match="chmod 600" if what == "open" else "limpet enroll"):
        scene.pairs.choose()


# --- a real broker


@contextlib.contextmanager
def _plant(folder, *authorities):
    """A broker that asks for client certificates and believes `authorities` beside its own."""
    with mosquitto(folder, running=False) as broker:
        pems = b"".join(it.certificate.public_bytes(PEM) for it in authorities)
        (broker.folder / "ca.pem").write_bytes(broker.authority.pem() + pems)
        broker.start()
        yield broker


def _uplink_table(broker, extra=""):
    ca = broker.folder / "ca.pem"
    return (
        f'[uplink]\nbroker = "mqtts://localhost:{broker.tls_port}"\nca_file = "{ca}"\nreconnect_first_s = 0.05\n'
        f'reconnect_cap_s = 0.5\n{extra}'
    )


def _revoke(broker, issuer, *serials):
    """Have the broker refuse certificates by their numbers, from its next start on."""
    now = dt.datetime.now(dt.UTC)

    def crl(key, name, numbers):
        builder = x509.CertificateRevocationListBuilder().issuer_name(name)
        builder = builder.last_update(now - dt.timedelta(hours=1)).next_update(now + dt.timedelta(days=1))
        for number in numbers:
            entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(key, hashes.SHA256()).public_bytes(PEM)

    authority = broker.authority
    text = crl(issuer.key, issuer.name, serials) + crl(authority._key, authority.certificate.subject, ())
    (broker.folder / "crl.pem").write_bytes(text)
    conf = broker.folder / "mosquitto.conf"
    lines = conf.read_text().replace("tls_version tlsv1.3", f"tls_version tlsv1.3\ncrlfile {broker.folder}/crl.pem")
    conf.write_text(lines)


def test_a_link_changes_to_the_renewed_pair_and_the_old_one_is_not_used_any_more(scene, tmp_path):
    """With the real broker: connected with the old, leaves in good order for the new; the broker may now revoke it."""
    with _plant(tmp_path, scene.est.root) as broker:
        config = broker.uplink(tls=True, certificate=None, key=None)
        first = scene.serial("a")
        with PairedLink(scene.pairs, config, "limpet-device") as link:
            link.connect()
            assert link.turn(0.1)
            scene.est.age = -dt.timedelta(0)
            scene.look(41 * DAY_S)
            assert not link.turn(0.1)
            assert "renewed" in link.trouble
        # the clock of this test is 41 days ahead of the broker's
        with PairedLink(scene.pairs, config, "limpet-device") as link:
            link.connect()
            assert link.turn(0.1)
        assert scene.slots.state().active == "b"
        broker.stop()
        _revoke(broker, scene.est.root, first)
        broker.start()
        with PairedLink(scene.pairs, config, "limpet-device") as link:
            link.connect()
        scene.slots.pair("b").certificate.write_bytes(scene.slots.pair("a").certificate.read_bytes())
        scene.slots.pair("b").key.write_bytes(scene.slots.pair("a").key.read_bytes())
        with PairedLink(scene.pairs, config, "limpet-device") as link, pytest.raises(UplinkError):
            link.connect()


def test_a_new_authority_that_the_broker_does_not_know_leaves_the_old_pair_in_use(scene, tmp_path):
    """The broker refuses the renewed certificate: three tries, each followed by the old pair, which connects."""
    with _plant(tmp_path, scene.est.root) as broker:
        config = broker.uplink(tls=True, certificate=None, key=None)
        scene.est.issuer = Issuer("a new authority")
        scene.renewal._config = replace(scene.renewal._config, authority=tmp_path / "both.pem")
        both = scene.est.root.certificate.public_bytes(PEM) + scene.est.issuer.certificate.public_bytes(PEM)
        (tmp_path / "both.pem").write_bytes(both)
        assert scene.look(41 * DAY_S).candidate == "b"
        for _ in range(STRIKES):
            link = PairedLink(scene.pairs, config, "limpet-device")
            with link, pytest.raises(UplinkError, match="authority"):
                link.connect()
            with PairedLink(scene.pairs, config, "limpet-device") as link:
                link.connect()
            scene.clock.gone_s += 61
        assert found(scene) == ("a", None)
        assert "does not connect" in scene.alarms[ALARM]


def test_a_whole_agent_enrols_connects_and_renews_itself(tmp_path):
    """`limpet enroll` by EST with a claim token, `limpet run`, a renewal while it runs; then the old one is revoked."""
    with est_server(tmp_path / "est") as est, _plant(tmp_path, est.root) as broker:
        reader = ReaderKey.generate()
        write_public(tmp_path / "reader.pub", spki(reader.public.public, pem=True))
        (tmp_path / "count.toml").write_text(COUNTING)
        device = Device(tmp_path, est)
        device.extra = (
            _uplink_table(broker) + f'[paths]\nruntime = "{tmp_path}/run"\npipelines = ["{tmp_path}/count.toml"]\n'
            f'[store]\nfolder = "{tmp_path}/outbox"\nkey_file = "{tmp_path}/store.key"\n'
            f'[updates]\nfolder = "{tmp_path}/depot"\nspool = "{tmp_path}/spool"\n'
            f'[envelope]\nsigning_key = "{device.identity}/limpet.signing.key"\nreaders = ["{tmp_path}/reader.pub"]\n'
            f'[sources.rows]\nkind = "replay"\npath = "{write_rows(tmp_path)}"\nloop = true\n'
        )
        device.write(certify_signing=True)
        est.age = dt.timedelta(days=41)
        device.enroll()
        est.age = dt.timedelta(minutes=5)
        first = x509.load_pem_x509_certificate(device.slots.pair("a").certificate.read_bytes()).serial_number
        log = tmp_path / "agent.log"
        with running(device.config, log):
            socket = tmp_path / "run" / "control.sock"
            said = status(socket, lambda s: s["uplink"]["connects"] >= 2 and s["uplink"]["connected"], 40)
            assert device.slots.state().active == "b", log.read_text()
            assert said["identity"]["tls"]["not_after_s"] > time.time() + 50 * DAY_S
            assert said["identity"]["signing"]["not_after_s"] > time.time() + 50 * DAY_S
            broker.stop()
            _revoke(broker, est.root, first)
            broker.start()
            acked = status(socket, lambda s: s["uplink"]["connected"])["uplink"]["acked_events"]
            last = status(socket, lambda s: s["uplink"]["acked_events"] > acked + 3, 30)
        assert last["health"] == "ok", last["reasons"]
        words = [checked.what for checked in look(device.config) if not checked.problem]
        assert any("tls certificate of device by Test EST root" in line for line in words), words
    text = log.read_text()
    assert "once-only" not in text
    assert "PRIVATE" not in text

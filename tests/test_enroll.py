"""`limpet enroll`: keys that never leave the device, by EST or by files, whole after any interruption."""

import datetime as dt
import multiprocessing
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cryptography import x509

from agent.cli.check import look
from agent.envelope.keys import ReaderKey, SigningKey
from agent.errors import ConfigError
from agent.identity import Est, Proof, Slots, TlsEnrolment, enrol, keys, pair_in_use
from agent.identity.certificate import parse, pem, public_der
from tests.enrolling import WHO, Device, private_bytes
from tests.est_server import PEM, Issuer, est_server


@pytest.fixture
def est(tmp_path):
    with est_server(tmp_path / "est") as made:
        yield made


@pytest.fixture
def device(tmp_path, est):
    (tmp_path / "device").mkdir()
    return Device(tmp_path / "device", est).write()


def _sign(device, request, **changes):
    """What an authority by hand does: a certificate for the request in a file; returns it and the authority's file."""
    issuer = changes.pop("issuer", None) or Issuer("authority by hand")
    csr = x509.load_pem_x509_csr(request.read_bytes())
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    made = issuer.issue(changes.get("key", csr.public_key()), csr.subject, names, dt.timedelta(days=30))
    (device.folder / "ca.pem").write_bytes(issuer.certificate.public_bytes(PEM))
    (device.folder / "made.pem").write_bytes(made.public_bytes(PEM))
    return device.folder / "made.pem", device.folder / "ca.pem"


# --- the course of it


def test_three_keys_of_one_purpose_each_and_none_shows(device, est):
    """TLS P-256, signing Ed25519, X25519 for models: files of mode 0600, not a byte of them in any output."""
    shown = device.enroll()
    files = sorted(device.identity.rglob("*.key"))
    assert [path.name for path in files] == ["tls.key", "limpet.model.key", "limpet.signing.key"]
    for path in (*files, *device.identity.rglob("tls.pem"), device.identity / "state.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert all(line not in shown for line in private_bytes(device.identity))
    assert "once-only" not in shown
    signing = SigningKey.load(device.identity / "limpet.signing.key").public
    model = ReaderKey.load(device.identity / "limpet.model.key").public
    assert signing.key_id.hex() in shown
    assert model.key_id.hex() in shown
    tls = keys.load_private(device.identity / "a" / "tls.key")
    assert public_der(est.issued[0]) == keys.public_bytes(tls)
    assert len({signing.key_id, model.key_id, keys.public_bytes(tls)}) == 3


def test_the_certificate_carries_the_names_that_brokers_and_readers_look_for(device, est):
    """Common name and the one URI limpet://SITE/DEVICE; the token is spent, a second run asks for nothing."""
    device.enroll()
    (made,) = est.issued
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [WHO.uri]
    assert made.subject.rfc4514_string() == f"CN={WHO.common_name}"
    assert not device.token.exists()
    assert "valid until" in device.enroll()
    assert est.operations == ["cacerts", "simpleenroll"]


def test_the_signing_key_is_certified_too_when_asked(device, est):
    """With the fresh TLS pair, not with the token again, which may count only once."""
    device.write(certify_signing=True)
    est.accounts = {"claim": "once-only"}
    est.tamper = lambda chain, _: est.accounts.clear() or chain
    device.enroll()
    assert est.operations == ["cacerts", "simpleenroll"] * 2
    certificate = parse((device.identity / "signing.pem").read_bytes(), "signing.pem")[0]
    signing = SigningKey.load(device.identity / "limpet.signing.key")
    assert public_der(certificate) == keys.public_bytes(keys.private_of(signing.pem(), Path("memory")))


def test_renew_asks_for_a_new_pair_and_keeps_the_old_one_until_it_has_connected(device, est):
    """--renew fills the other slot; the pair in use stays."""
    device.enroll()
    device.enroll("--renew")
    assert est.operations[-1] == "simplereenroll"
    state = device.slots.state()
    assert (state.active, state.candidate) == ("a", "b")


def test_the_token_is_kept_until_the_certificate_is_there(device, est):
    """A server that fails, or answers nonsense, does not cost the device its only claim."""
    for answer, status in (
        ((500, "text/plain", b"database is locked"), 1),
        ([Issuer("stranger").certificate], 2),
        ((200, "text/html", b"<h1>pay</h1>"), 1),
    ):
        est.tamper = lambda *_, answer=answer: answer
        text = device.enroll(status=status)
        assert "Traceback" not in text
        assert device.token.exists()
        assert device.slots.state().active is None
    est.tamper = None
    device.enroll()
    assert not device.token.exists()
    assert len({entry[2] for entry in est.log if entry[2]}) == 1, "one key, one request, all the time"


def test_an_officer_who_takes_days_is_asked_again_with_the_same_request(device, est):
    """202: the command waits as long as it was told to, ends with 1, and goes on at the next call."""
    est.pending, est.retry_after = 2, "1"
    assert "run this again" in device.enroll("--wait", "0", status=1)
    assert device.token.exists()
    assert "asking again in 1 s" in device.enroll("--wait", "5")
    assert len({entry[2] for entry in est.log if entry[2]}) == 1
    assert device.slots.state().active == "a"


def test_without_a_token_the_server_says_who_is_missing(device, est):
    """The operator learns that a claim token is needed."""
    device.token.unlink()
    assert "claim token" in device.enroll(status=1)
    device.claim("single-word")
    device.enroll()


def test_by_files_without_any_server(tmp_path):
    """--csr-out, an authority by hand, --certificate: the same checks."""
    device = Device(tmp_path).write()
    request = tmp_path / "device.csr"
    device.enroll("--csr-out", request)
    first = request.read_bytes()
    device.enroll("--csr-out", request)
    assert request.read_bytes() == first, "asking again makes no other key"
    certificate, authority = _sign(device, request)
    assert "who may issue" in device.enroll("--certificate", certificate, status=2)
    assert "valid until" in device.enroll("--certificate", certificate, "--authority", authority)
    assert device.slots.state().active == "a"
    device.enroll("--purpose", "signing", "--csr-out", request)
    certificate, authority = _sign(device, request)
    device.enroll("--purpose", "signing", "--certificate", certificate, "--authority", authority)
    assert (device.identity / "signing.pem").exists()


def test_a_wrong_certificate_is_refused_and_the_right_one_taken_afterwards(tmp_path):
    """For another key, or by a stranger: nothing changes, and the request still waits."""
    device = Device(tmp_path).write()
    request = tmp_path / "device.csr"
    device.enroll("--csr-out", request)
    other = keys.private_of(keys.new_tls_key(), tmp_path).public_key()
    certificate, authority = _sign(device, request, key=other)
    assert "another key" in device.enroll("--certificate", certificate, "--authority", authority, status=2)
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pem([Issuer("stranger").certificate]))
    certificate, authority = _sign(device, request)
    assert "vouches for" in device.enroll("--certificate", certificate, "--authority", stranger, status=2)
    assert device.slots.state().active is None
    device.enroll("--certificate", certificate, "--authority", authority)
    assert "no request is under way" in device.enroll(
        "--certificate", certificate, "--authority", authority, status=2
    )
    assert device.slots.state().active == "a"


def test_keys_that_are_there_are_kept(device, tmp_path):
    """A device that was set up by hand keeps its signing key, wherever limpet.toml says it lies."""
    own = tmp_path / "own.key"
    own.write_bytes(SigningKey.generate().pem())
    own.chmod(0o600)
    before = own.read_bytes()
    device.extra = f'[envelope]\nsigning_key = "{own}"\n'
    device.write().enroll()
    assert own.read_bytes() == before
    assert not (device.identity / "limpet.signing.key").exists()


# --- fails closed


def test_check_names_a_trust_anchor_that_is_gone(device):
    """G1: not in two months, when the certificate is renewed, but when the operator asks."""
    device.enroll()
    assert any(said.what == "trust anchors" and not said.problem for said in look(device.config))
    device.est.anchors.unlink()
    (wrong,) = [said for said in look(device.config) if said.what == "trust anchors"]
    assert str(device.est.anchors) in wrong.problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.est.anchors.unlink(), "est_ca_file"),
        (lambda d: d.token.chmod(0o644), "chmod 600"),
        (lambda d: d.token.write_text("two\nlines"), "claim token in one line"),
        (lambda d: d.write(authority=str(d.folder / "none.pem")), "none.pem"),
        (lambda d: d.write(est="http://localhost/"), "https://"),
        (lambda d: d.write(common_name="a/b"), "common_name"),
    ],
    ids=["no anchor", "open token", "bad token", "no authority", "cleartext", "bad name"],
)
def test_what_is_missing_or_open_stops_the_enrolment(device, est, change, words):
    """G1: the trust anchor, the token, the authority: nothing is sent, and the message says what to do."""
    change(device)
    text = device.enroll(status=2)
    assert words in text
    assert "simpleenroll" not in est.operations


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("what", ["a/tls.key", "a/tls.pem", "a", "state.json", ""])
def test_a_file_that_may_not_be_read_is_never_taken_for_absent(device, what):
    """G1, mode 000 as an ordinary user: an error with the file's name, not a fresh start without a pair."""
    device.enroll()
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(device.identity, folder / "identity")
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        (folder / "identity" / what).chmod(0)
        os.seteuid(nobody.pw_uid)
        with pytest.raises(ConfigError, match=r"cannot be read|Permission denied"):
            Slots(folder / "identity").state()
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another user")
def test_root_enrols_for_the_agents_user(device, tmp_path):
    """--user: the folder is that user's alone, the signing and the model key stay root's."""
    (tmp_path / "credstore").mkdir(mode=0o700)
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        shutil.copy(device.est.anchors, folder / "anchor.pem")
        device.write(folder=str(folder / "state" / "identity"), est_ca_file=str(folder / "anchor.pem"))
        device.enroll("--user", "nobody", "--keys", tmp_path / "credstore")
        nobody = pwd.getpwnam("nobody").pw_uid
        assert {path.stat().st_uid for path in (folder / "state").rglob("*")} == {nobody}
        assert {path.stat().st_uid for path in (tmp_path / "credstore").iterdir()} == {0}
        assert sorted(path.name for path in (tmp_path / "credstore").iterdir()) == [
            "limpet.model.key", "limpet.signing.key",
        ]  # fmt: skip
        assert Slots(folder / "state" / "identity").state().active == "a"
        assert "no such user" in device.enroll("--user", "nobody-at-all", status=2)
    finally:
        shutil.rmtree(folder)


# --- killed at every step

CALLS = ("write", "fsync", "rename", "unlink", "mkdir", "fchmod")
"""System calls of the way to the disk; sockets use others."""


def _step(folder, url, anchors):
    """Enrol, or renew and take the new pair into use; waits first, until somebody watches."""
    os.kill(os.getpid(), signal.SIGSTOP)
    slots = Slots(folder)
    pair = pair_in_use(slots)
    proof = Proof(pair=pair) if pair else Proof(token="claim:once-only")
    enrol(TlsEnrolment(slots, WHO), Est(url, anchors), [proof], ())
    waiting = slots.state().candidate
    if waiting is not None:
        slots.promote(waiting)


def _killed(processes, device, call, number):
    """Do it all in a process that strace kills at the `number`-th `call`; True when it got that far."""
    child = processes.Process(target=_step, args=(device.identity, device.est.url, device.est.anchors))
    child.start()
    _until(child.pid, "State", "T")
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    tracer = subprocess.Popen(["strace", "-qq", "-o", "/dev/null", *inject, "-p", str(child.pid)])
    _until(child.pid, "TracerPid", str(tracer.pid))
    os.kill(child.pid, signal.SIGCONT)
    child.join(30)
    tracer.wait(10)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _until(pid, key, value):
    """Wait until /proc says so."""
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        if f"\n{key}:\t{value}" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"{key} is not {value}")


def _whole_pair(slots):
    """The certificate in use, which belongs to its key; None before the first enrolment."""
    active = slots.state().active
    if active is None:
        return None
    pair = slots.pair(active)
    leaf = parse(pair.certificate.read_bytes(), "tls.pem")[0]
    assert public_der(leaf) == keys.public_bytes(keys.load_private(pair.key))
    return leaf.serial_number


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_killed_at_every_step_of_enrolment_and_renewal_there_is_a_whole_pair(device, est):
    """G3: SIGKILL at each system call on the way to the disk: old or new, never none, and the next run goes on."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["__main__", "tests.test_enroll"])
    kills = 0
    last = None
    for first in (True, False):
        for call in CALLS:
            for number in range(1, 40):
                if first:
                    shutil.rmtree(device.identity, ignore_errors=True)
                died = _killed(processes, device, call, number)
                kills += died
                serials = [it.serial_number for it in est.issued]
                now = _whole_pair(device.slots)
                if first:
                    assert now in (None, serials[-1] if serials else None)
                else:
                    assert now in (last, *serials[serials.index(last) + 1:]), "never older than the one that was in use"
                if not died:
                    assert now is not None
                    last = now
                    break
                last = last if first else now
    assert kills >= 30, kills
    assert _whole_pair(device.slots) is not None

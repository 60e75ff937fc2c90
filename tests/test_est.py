"""EST (RFC 7030): our client against a server that strongSwan's client finds good, and against rude ones."""

import base64
import datetime as dt
import email.utils
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from agent.errors import ConfigError, UplinkError
from agent.identity import Est, Pair, Pending, Proof, Who, est, keys
from agent.identity.certificate import checked, describe, parse, pem
from agent.identity.est import EstRefusedError
from tests.est_server import DER, PEM, ExtendedKeyUsageOID, Issuer, est_server

WHO = Who.of("plant-7", "press.3")
TOKEN = Proof(token="claim:once-only")
NOW_S = time.time()


@pytest.fixture(scope="module")
def key():
    return keys.private_of(keys.new_tls_key(), "memory")


@pytest.fixture
def request_der(key, tmp_path):
    return keys.request_der(keys.make_request(key, WHO, for_tls=True), tmp_path)[0]


@pytest.fixture
def server(tmp_path):
    with est_server(tmp_path / "est") as made:
        yield made


@pytest.fixture
def client(server):
    return Est(server.url, server.anchors)


def _pair(folder, key, chain):
    """A pair as files."""
    plain = serialization.NoEncryption()
    pair = Pair("a", folder / "pair.pem", folder / "pair.key")
    pair.certificate.write_bytes(pem(chain))
    pair.key.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain))
    return pair


# --- what others make of us, and we of them


def test_openssl_reads_our_requests(tmp_path):
    """PKCS#10 with the common name, the URI and the use; signed by the key, P-256 as well as Ed25519."""
    p256, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    for private, for_tls in ((p256, True), (edwards, False)):
        path = tmp_path / "request.csr"
        path.write_bytes(keys.make_request(private, WHO, for_tls=for_tls))
        done = subprocess.run(
            ["openssl", "req", "-in", path, "-noout", "-verify", "-text"], capture_output=True, text=True, check=True
        )
        said = done.stdout + done.stderr
        assert "self-signature verify OK" in said
        assert "CN = limpet-plant-7-press.3" in said
        assert "URI:limpet://plant-7/press.3" in said
        assert "Digital Signature" in said
        assert ("TLS Web Client Authentication" in said) == for_tls


def test_we_read_the_pkcs7_of_openssl(tmp_path):
    """Certificates in PKCS#7, PEM and DER, as `openssl crl2pkcs7` makes them."""
    root = Issuer("somebody")
    (tmp_path / "c.pem").write_bytes(root.certificate.public_bytes(PEM))
    for form in ("PEM", "DER"):
        out = tmp_path / f"c.{form}"
        line = ["openssl", "crl2pkcs7", "-nocrl", "-certfile", tmp_path / "c.pem", "-outform", form, "-out", out]
        subprocess.run(line, check=True)
        assert parse(out.read_bytes(), "file") == (root.certificate,)


def test_strongswan_enrols_with_the_server_of_these_tests(server, tmp_path):
    """The server is no echo of our client: strongSwan's `pki --est` fetches authorities, enrols and renews with it."""
    if not shutil.which("pki"):
        pytest.skip("strongSwan's pki with --est is not installed (strongswan-pki, libstrongswan-extra-plugins)")

    def pki(*words):
        done = subprocess.run(["pki", *map(str, words)], capture_output=True, check=False, timeout=30)
        if any(sign in done.stderr for sign in (b"'curl': failed", b"'openssl': failed", b"unknown option")):
            pytest.skip("this strongSwan cannot speak EST, or lacks its curl or openssl plugin")
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    where = ("--url", server.url, "--cacert", server.anchors)
    pki("--estca", *where, "--caout", tmp_path / "ca", "--outform", "pem")
    assert any(server.root.certificate.public_bytes(PEM).strip() in p.read_bytes() for p in tmp_path.glob("ca*"))
    for name in ("old", "new"):
        subprocess.run(
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
             "/CN=foreign", "-addext", "subjectAltName=URI:limpet://a/b", "-keyout", tmp_path / f"{name}.key",
             "-out", tmp_path / f"{name}.csr", "-outform", "DER"], check=True, capture_output=True,
        )  # fmt: skip
    first = pki("--est", *where, "--in", tmp_path / "old.csr", "--userpass", "claim:once-only")
    (tmp_path / "old.pem").write_bytes(x509.load_der_x509_certificate(first).public_bytes(PEM))
    second = pki("--est", *where, "--in", tmp_path / "new.csr", "--cert", tmp_path / "old.pem", "--key",
                 tmp_path / "old.key")  # fmt: skip
    assert x509.load_der_x509_certificate(second) == server.issued[-1]
    assert server.operations[-2:] == ["simpleenroll", "simplereenroll"]


# --- the course of it


@pytest.mark.parametrize("proof", [TOKEN, Proof(token="single-word")], ids=["basic", "bearer"])
def test_a_claim_token_brings_a_certificate(client, server, key, request_der, proof):
    """HTTP Basic and Bearer; what comes is for our key, with our names."""
    anchors = client.authorities(proof)
    chain = checked(client.enroll(request_der, proof, again=False), keys.public_bytes(key), WHO, anchors, NOW_S,
                    for_tls=True)  # fmt: skip
    assert describe(chain[0]).common_name == WHO.common_name
    assert server.operations == ["cacerts", "simpleenroll"]


def test_answers_in_wrapped_base64_are_read_too(client, server, request_der):
    """RFC 7030 wrote MIME lines, RFC 8951 none; servers do both."""

    def wrapped(chain, _request):
        der = est.pkcs7.serialize_certificates(chain, DER)
        return 200, "application/pkcs7-mime", base64.encodebytes(der).replace(b"\n", b"\r\n")

    server.tamper = wrapped
    assert client.enroll(request_der, TOKEN, again=False) == (server.issued[-1],)


def test_a_wrong_token_is_refused_and_not_repeated(client, request_der):
    """The error says what to check and does not show the token."""
    with pytest.raises(EstRefusedError, match="check the claim token") as caught:
        client.enroll(request_der, Proof(token="claim:hunter2"), again=False)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Proof(token="claim:hunter2"))


def test_a_renewal_proves_itself_by_the_certificate(client, server, key, request_der, tmp_path):
    """simplereenroll over mTLS; without the certificate, or with other names, the server refuses."""
    chain = client.enroll(request_der, TOKEN, again=False)
    mine = Proof(pair=_pair(tmp_path, key, chain))
    (renewed,) = client.enroll(request_der, mine, again=True)
    assert renewed != chain[0]
    with pytest.raises(EstRefusedError, match="needs the certificate"):
        client.enroll(request_der, TOKEN, again=True)
    other = keys.make_request(key, Who.of("plant-7", "press.4"), for_tls=True)
    with pytest.raises(UplinkError, match="keeps subject and names"):
        client.enroll(keys.request_der(other, tmp_path)[0], mine, again=True)


@pytest.mark.parametrize(
    ("said", "least_s", "most_s"),
    [("7", 7, 7), ("0", 1, 1), ("99999999", 86400, 86400), ("soon", 300, 300), ("", 300, 300), ("date", 50, 61)],
)
def test_pending_says_when_to_ask_again(client, server, request_der, said, least_s, most_s):
    """202 with Retry-After in seconds or as a date; kept within a second and a day."""
    server.pending = 1
    server.retry_after = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1), usegmt=True) \
        if said == "date" else said  # fmt: skip
    outcome = client.enroll(request_der, TOKEN, again=False)
    assert isinstance(outcome, Pending)
    assert least_s <= outcome.retry_after_s <= most_s


# --- whom we believe, and for how long we listen


def test_a_server_of_another_authority_is_not_believed(server, request_der, tmp_path):
    """The explicit trust anchor alone counts, not the system's store."""
    other = tmp_path / "other.pem"
    other.write_bytes(Issuer("another").certificate.public_bytes(PEM))
    with pytest.raises(UplinkError, match="est_ca_file"):
        Est(server.url, other).enroll(request_der, TOKEN, again=False)
    assert server.log == []


@pytest.mark.parametrize("content", [None, b"", b"nonsense"], ids=["missing", "empty", "nonsense"])
def test_without_a_trust_anchor_nothing_is_asked(server, request_der, tmp_path, content):
    """G1: a missing, empty or damaged anchor fails closed and says why."""
    anchors = tmp_path / "anchors.pem"
    if content is not None:
        anchors.write_bytes(content)
    with pytest.raises(ConfigError, match=r"est_ca_file .*no EST server is believed"):
        Est(server.url, anchors).enroll(request_der, TOKEN, again=False)
    assert server.log == []


RUDE = {
    "redirect": (302, "text/plain", b"", {"Location": "https://evil.example/"}),
    "portal": (200, "text/html", b"<h1>Pay for your room</h1>"),
    "no base64": (200, "application/pkcs7-mime", b"\xff\xfe***"),
    "other pkcs7": (200, "application/pkcs7-mime", base64.b64encode(
        bytes.fromhex("3011 0609 2a864886f70d010701 a004 0402 6869"))),
    "no pkcs7": (200, "application/pkcs7-mime", base64.b64encode(b"hello")),
    "endless": (200, "application/pkcs7-mime", b"A" * (est.ANSWER_LIMIT_BYTES + 1)),
    "broken": (500, "text/plain", b"stack\x1b[31m overflow"),
    "empty": (200, "application/pkcs7-mime", base64.b64encode(est.pkcs7.serialize_certificates(
        [Issuer("x").certificate] * (est.MAX_CERTIFICATES + 1), DER))),
}  # fmt: skip


@pytest.mark.parametrize("answer", RUDE.values(), ids=RUDE)
def test_rude_answers_are_errors_with_a_word(client, server, request_der, answer):
    """Redirects are not followed, pages are no certificates, sizes are bounded, escapes do not reach the log."""
    server.tamper = lambda *_: answer
    with pytest.raises(UplinkError, match=r"EST server https://localhost") as caught:
        client.enroll(request_der, TOKEN, again=False)
    assert "\x1b" not in str(caught.value)


def test_a_trickle_ends_in_time(server, client, request_der, monkeypatch):
    """An answer that never comes to its end is given up after the total time, not after each byte's."""
    monkeypatch.setattr(est, "TOTAL_S", 0.6)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.folder / "est-server.pem", server.folder / "est-server.key")
    done = threading.Event()

    def trickle():
        peer = context.wrap_socket(line.accept()[0], server_side=True)
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nContent-Length: 100000\r\n\r\n")
        while not done.wait(0.05):
            try:
                peer.sendall(b"A")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as line:
        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        start_s = time.monotonic()
        with pytest.raises(UplinkError, match="took more than"):
            Est(f"https://localhost:{line.getsockname()[1]}", client.anchors).enroll(request_der, TOKEN, again=False)
        done.set()
        thread.join(5)
    assert time.monotonic() - start_s < 5


# --- what is taken


def _certificate(key, issuer=None, **changes):
    """A certificate for `key` with one thing changed."""
    issuer = issuer or Issuer("authority")
    uri = changes.get("uri", WHO.uri)
    names = None if uri is None else x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, changes.get("name", WHO.common_name))])
    start = dt.datetime.now(dt.UTC) + changes.get("starts", -dt.timedelta(days=1))
    return issuer, issuer.issue(key.public_key(), subject, names, changes.get("lifetime", dt.timedelta(days=30)),
                                changes.get("usage", ExtendedKeyUsageOID.CLIENT_AUTH), start)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "other"}, "is for 'other'"),
        ({"uri": "limpet://plant-7/press.4"}, "must copy the subject"),
        ({"uri": "https://plant-7/press.3"}, "must copy the subject"),
        ({"uri": None}, "extensions that cannot be read"),
        ({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, "lacks clientAuth"),
        ({"lifetime": dt.timedelta(hours=1)}, "set the clock, or renew"),
        ({"starts": dt.timedelta(days=2)}, "begins in the future"),
    ],
    ids=lambda c: next(iter(c)) if isinstance(c, dict) else "",
)
def test_a_certificate_that_is_not_as_requested_is_refused(key, changes, words):
    """Names, use and time are checked before it is taken."""
    issuer, made = _certificate(key, **changes)
    with pytest.raises(ConfigError, match=words):
        checked([made], keys.public_bytes(key), WHO, [issuer.certificate], NOW_S, for_tls=True)


def test_a_certificate_for_another_key_or_by_another_authority_is_refused(key):
    """A stranger's certificate, and ours by a stranger of the same name."""
    issuer, made = _certificate(key)
    with pytest.raises(ConfigError, match="another key"):
        checked([made], keys.public_bytes(keys.private_of(keys.new_tls_key(), "memory")), WHO, [issuer.certificate],
                NOW_S, for_tls=True)  # fmt: skip
    for anchors in ([Issuer("authority").certificate], []):
        with pytest.raises(ConfigError, match="no named authority"):
            checked([made], keys.public_bytes(key), WHO, anchors, NOW_S, for_tls=True)
    assert checked([made], keys.public_bytes(key), WHO, [issuer.certificate], NOW_S, for_tls=True) == (made,)


def test_a_chain_over_an_intermediate_is_taken_with_it(key):
    """The broker needs the intermediate as well; another device's certificate is no intermediate."""
    root = Issuer("root")
    middle = Issuer("middle", root)
    _, made = _certificate(key, middle)
    chain = checked([middle.certificate, made], keys.public_bytes(key), WHO, [root.certificate], NOW_S, for_tls=True)
    assert chain == (made, middle.certificate)
    stranger = keys.private_of(keys.new_tls_key(), "memory")
    leaf_issuer = Issuer("press.9")
    leaf_issuer.key, leaf_issuer.certificate = stranger, _certificate(stranger, root, name="press.9")[1]
    _, forged = _certificate(key, leaf_issuer)
    with pytest.raises(ConfigError, match="no named authority"):
        checked([forged, leaf_issuer.certificate], keys.public_bytes(key), WHO, [root.certificate], NOW_S, for_tls=True)

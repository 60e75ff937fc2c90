"""An EST server (RFC 7030) with its own authority, faithful where a client could notice, and as rude as a test wants.

    with est_server(tmp_path) as est:
        est.url, est.anchors            # what a device is told
        est.pending = 2                 # answer 202 twice, with Retry-After
        est.lifetime = timedelta(...)   # of the certificates to come

cacerts, csrattrs, simpleenroll and simplereenroll over TLS with optional client certificates. A first enrolment needs
HTTP Basic, a bearer token, or a certificate of this authority; a renewal needs the certificate that is renewed, with
the same subject and names in the request (4.2.2). Requests are checked for their own signature; answers are PKCS#7
certs-only in base64. There is no packaged server to test against, so tests/test_est.py checks this one with
strongSwan's EST client.
"""

import base64
import contextlib
import datetime as dt
import ipaddress
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
CHALLENGE_ASKED = base64.b64encode(bytes.fromhex("300b06092a864886f70d010907"))
"""CsrAttrs with one attribute, challengePassword: what most servers say."""


class Issuer:
    """An authority: a key and its certificate, by itself or by another one."""

    def __init__(self, name, parent=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = parent or self
        self.parent = parent
        builder = _builder(self.name, by.name, self.key.public_key(), dt.timedelta(days=3650))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        self.certificate = builder.sign(by.key, hashes.SHA256())

    def issue(self, public, subject, names, lifetime, usage=ExtendedKeyUsageOID.CLIENT_AUTH, start=None):
        """A certificate for a device or a server."""
        builder = _builder(subject, self.name, public, lifetime, start)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer_key, critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Est:
    """The server's state, which tests read and change."""

    folder: Path
    root: Issuer
    issuer: Issuer
    url: str = ""
    accounts: dict = field(default_factory=lambda: {"claim": "once-only"})
    bearer: str = "single-word"
    lifetime: dt.timedelta = dt.timedelta(days=60)
    age: dt.timedelta = dt.timedelta(minutes=5)
    """How long ago the certificates to come began."""
    pending: int = 0
    retry_after: str = "1"
    tamper: object = None
    """Certificates -> certificates, or a (status, headers, body) to answer."""
    log: list = field(default_factory=list)
    """(operation, who, request in DER) in the order of arrival."""
    issued: list = field(default_factory=list)

    @property
    def anchors(self):
        return self.folder / "est-ca.pem"

    @property
    def operations(self):
        return [entry[0] for entry in self.log]


@contextlib.contextmanager
def est_server(folder, intermediate=False):
    """A server on a free port of loopback until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Issuer("Test EST root")
    state = Est(folder, root, Issuer("Test EST issuing", root) if intermediate else root)
    state.anchors.write_bytes(root.certificate.public_bytes(PEM))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    server.daemon_threads = True
    server.socket = _tls(state).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _tls(state):
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = state.root.issue(
        key.public_key(), subject, x509.SubjectAlternativeName(names), dt.timedelta(days=1),
        ExtendedKeyUsageOID.SERVER_AUTH,
    )  # fmt: skip
    (state.folder / "est-server.pem").write_bytes(certificate.public_bytes(PEM))
    plain = serialization.NoEncryption()
    (state.folder / "est-server.key").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(state.folder / "est-server.pem", state.folder / "est-server.key")
    context.load_verify_locations(state.anchors)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _handler(state):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self):
            operation = self._operation()
            state.log.append((operation, self._certified(), b""))
            if operation == "cacerts":
                chain = [state.root.certificate] + ([state.issuer.certificate] if state.issuer.parent else [])
                self._certificates(chain)
            elif operation == "csrattrs":
                self._answer(200, "application/csrattrs", CHALLENGE_ASKED)
            else:
                self._answer(404, "text/plain", b"no such operation")

        def do_POST(self):
            operation = self._operation()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if operation not in ("simpleenroll", "simplereenroll"):
                return self._answer(404, "text/plain", b"no such operation")
            if self.headers.get_content_type() != "application/pkcs10":
                return self._answer(415, "text/plain", b"application/pkcs10 is wanted")
            try:
                request = x509.load_der_x509_csr(base64.b64decode(b"".join(body.split()), validate=True))
            except ValueError:
                return self._answer(400, "text/plain", b"not a certificate request")
            state.log.append((operation, self._certified(), request.public_bytes(DER)))
            if not request.is_signature_valid:
                return self._answer(400, "text/plain", b"the request is not signed by its key")
            refusal = self._refusal(operation, request)
            if refusal:
                return self._answer(*refusal)
            if state.pending:
                state.pending -= 1
                return self._answer(202, "text/plain", b"an officer looks at it", {"Retry-After": state.retry_after})
            self._issue(request)
            return None

        def _operation(self):
            base, _, operation = self.path.rpartition("/")
            return operation if base == "/.well-known/est" else "?"

        def _certified(self):
            """The subject alternative name of the client certificate that TLS has verified, or nothing."""
            der = self.connection.getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der) if der else None

        def _refusal(self, operation, request):
            shown = self._certified()
            if operation == "simpleenroll":
                if shown is not None or self._known():
                    return None
                return 401, "text/plain", b"who are you?", {"WWW-Authenticate": 'Basic realm="est"'}
            if shown is None:
                return 403, "text/plain", b"a renewal needs the certificate"
            if shown.subject != request.subject or _san(shown) != _san(request):
                return 400, "text/plain", b"a renewal keeps subject and names"
            return None

        def _known(self):
            scheme, _, word = self.headers.get("Authorization", "").partition(" ")
            if scheme == "Bearer":
                return word == state.bearer
            if scheme != "Basic":
                return False
            name, _, secret = base64.b64decode(word).decode().partition(":")
            return state.accounts.get(name) == secret

        def _issue(self, request):
            names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            start = dt.datetime.now(dt.UTC) - state.age
            made = state.issuer.issue(request.public_key(), request.subject, names, state.lifetime, start=start)
            chain = [made] + ([state.issuer.certificate] if state.issuer.parent else [])
            state.issued.append(made)
            if state.tamper is not None:
                changed = state.tamper(chain, request)
                if isinstance(changed, tuple):
                    return self._answer(*changed)
                chain = changed
            return self._certificates(chain)

        def _certificates(self, chain):
            der = pkcs7.serialize_certificates(chain, DER)
            body = base64.b64encode(der)
            self._answer(200, "application/pkcs7-mime; smime-type=certs-only", body,
                         {"Content-Transfer-Encoding": "base64"})  # fmt: skip

        def _answer(self, status, kind, body, headers=()):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

        def handle(self):
            with contextlib.suppress(OSError):
                super().handle()

    return Handler


def _san(holder):
    try:
        return holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _builder(subject, issuer, public, lifetime, start=None):
    begin = start or dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(authority):
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip

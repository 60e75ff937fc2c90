"""A client of EST, Enrollment over Secure Transport (RFC 7030, clarified by RFC 8951).

The server is believed only by the explicit trust anchor that the operator named; a redirect is not followed. Owns the
HTTP exchange and its limits: every answer is bounded in size and time before it is looked at. Which certificate is
taken is decided by the caller. Ours is proved by the pair in use (mTLS) or by a claim token, which is never logged.
"""

import base64
import email.utils
import encodings.idna  # noqa: F401 - loaded now: later `limpet enroll --user` may not read Python's own folder
import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from agent.errors import ConfigError, UplinkError
from agent.identity.certificate import FAULTS, MAX_CERTIFICATES
from agent.identity.slots import Pair

WELL_KNOWN: Final = "/.well-known/est"
ANSWER_LIMIT_BYTES: Final = 256 * 1024
TIMEOUT_S: Final = 20.0
"""Longest wait for the connection and for each read, seconds."""
TOTAL_S: Final = 60.0
"""Longest time for one whole answer, seconds."""
RETRY_MOST_S: Final = 86400.0
RETRY_DEFAULT_S: Final = 300.0
_CERTS_ONLY: Final = "application/pkcs7-mime"


class EstRefusedError(UplinkError):
    """The server does not let this device in: token, certificate or permission."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The server has the request and wants to be asked again with the same one."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Proof:
    """How this device proves itself to the server: the pair in use, a claim token, or both."""

    pair: Pair | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Est:
    """One EST server."""

    url: str
    """https://host[:port][/path]; without a path `WELL_KNOWN` is meant."""
    anchors: Path
    """Certificates (PEM) of the authorities that may vouch for the server."""

    def authorities(self, proof: Proof) -> tuple[x509.Certificate, ...]:
        """The authorities that issue certificates here (4.1). Raises UplinkError or ConfigError."""
        return self._certificates(self._ask("GET", "cacerts", proof), "cacerts")

    def enroll(self, request: bytes, proof: Proof, *, again: bool) -> tuple[x509.Certificate, ...] | Pending:
        """Have a request (PKCS#10, DER) certified, anew or `again` (4.2). Raises UplinkError or ConfigError.

        EstRefusedError, an UplinkError, says that the proof was not accepted.
        """
        operation = "simplereenroll" if again else "simpleenroll"
        answer = self._ask("POST", operation, proof, base64.encodebytes(request))
        if answer.status in (202, 503) and (answer.status == 202 or "retry-after" in answer.headers):
            return Pending(_retry_after_s(answer.headers.get("retry-after", "")))
        return self._certificates(answer, operation)

    # --- one exchange ---------------------------------------------------------------------------------------------

    def _ask(self, method: str, operation: str, proof: Proof, body: bytes | None = None) -> _Answer:
        parts = urlsplit(self.url)
        path = f"{parts.path.rstrip('/') or WELL_KNOWN}/{operation}"
        headers = {"Accept": _CERTS_ONLY}
        if body is not None:
            headers |= {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
        if proof.token is not None:
            headers["Authorization"] = _authorization(proof.token)
        context = self._context(proof.pair)
        line = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context)
        try:
            line.request(method, path, body, headers)
            return _read(line.getresponse())
        except ssl.SSLCertVerificationError as exc:
            raise UplinkError(f"{self._where}: {_distrust(exc)}") from exc
        except (ssl.SSLError, ConnectionResetError, BrokenPipeError) as exc:  # TLS 1.3 tells of a refusal only later
            said = getattr(exc, "reason", None) or exc
            raise EstRefusedError(f"{self._where}: TLS failed ({said}): {_tls_advice(proof)}") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            why = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
            raise UplinkError(f"{self._where}: {why}: check [identity] est and the network") from exc
        finally:
            line.close()

    def _context(self, pair: Pair | None) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            made.load_verify_locations(self.anchors)
        except (OSError, ssl.SSLError) as exc:
            why = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc
            raise ConfigError(
                f"[identity] est_ca_file {self.anchors}: {why}: without a trust anchor in PEM no EST server is believed"
            ) from exc
        if pair is not None:
            try:
                made.load_cert_chain(pair.certificate, pair.key)
            except (OSError, ssl.SSLError) as exc:
                raise ConfigError(f"{pair.certificate}: cannot be used with its key: {exc}: enrol anew") from exc
        return made

    def _certificates(self, answer: _Answer, operation: str) -> tuple[x509.Certificate, ...]:
        self._require_ok(answer, operation)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _CERTS_ONLY:
            raise UplinkError(f"{self._where}: {operation} answered {kind or 'no content type'}: no EST server there")
        try:
            der = base64.b64decode(b"".join(answer.body.split()), validate=True)
            found = pkcs7.load_der_pkcs7_certificates(der)
        except FAULTS as exc:
            raise UplinkError(f"{self._where}: {operation} answered no PKCS#7 certificates in base64: {exc}") from exc
        if not 1 <= len(found) <= MAX_CERTIFICATES:
            raise UplinkError(f"{self._where}: {operation} answered {len(found)} certificates")
        return tuple(found)

    def _require_ok(self, answer: _Answer, operation: str) -> None:
        if answer.status == 200:
            return
        said = _words(answer)
        if answer.status in (401, 403):
            advice = "check the claim token, or the certificate's right to renew itself, at the server"
            raise EstRefusedError(f"{self._where}: {operation} not allowed (HTTP {answer.status}{said}): {advice}")
        if 300 <= answer.status < 400:
            target = answer.headers.get("location", "elsewhere")
            raise UplinkError(f"{self._where}: it points to {target}: if that is right, put it into [identity] est")
        raise UplinkError(f"{self._where}: {operation} failed (HTTP {answer.status}{said}): look at the server's log")

    @property
    def _where(self) -> str:
        return f"EST server {self.url}"


def _read(response: http.client.HTTPResponse) -> _Answer:
    """The whole answer. Raises ValueError when it is too large or too slow."""
    until_s = time.monotonic() + TOTAL_S
    body = bytearray()
    while chunk := response.read1(16384):
        body += chunk
        if len(body) > ANSWER_LIMIT_BYTES:
            raise ValueError(f"the answer has more than {ANSWER_LIMIT_BYTES} bytes")
        if time.monotonic() > until_s:
            raise ValueError(f"the answer took more than {TOTAL_S:g} s")
    if response.length:
        raise ValueError("the answer was cut off")
    return _Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, bytes(body))


def _authorization(token: str) -> str:
    """HTTP Basic (RFC 7617) for "name:secret", Bearer (RFC 6750) for a single word."""
    if ":" in token:
        return "Basic " + base64.b64encode(token.encode()).decode()
    return f"Bearer {token}"


def _retry_after_s(text: str) -> float:
    """Seconds, or an HTTP date (RFC 9110, 10.2.3), kept within a second and a day."""
    try:
        wait_s = float(text) if text.isdigit() else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        wait_s = RETRY_DEFAULT_S
    return min(max(1.0, wait_s), RETRY_MOST_S)


def _words(answer: _Answer) -> str:
    """What the server said in plain text, for the operator; nothing that would break a line."""
    if not answer.headers.get("content-type", "").startswith("text/plain"):
        return ""
    text = "".join(c if c.isprintable() else " " for c in answer.body[:200].decode(errors="replace")).strip()
    return f", {text}" if text else ""


def _distrust(exc: ssl.SSLCertVerificationError) -> str:
    said = exc.verify_message
    return f"its certificate is refused ({said}): check [identity] est_ca_file, the server's name, and the clock"


def _tls_advice(proof: Proof) -> str:
    if proof.pair is None:
        return "check [identity] est; it may ask for a client certificate, which the first contact has not"
    return "it may not accept this device's certificate any more: enrol again with a claim token"

"""What protects the hop: the password and the TLS context, made of files or credentials that the operator named."""

import ssl
from collections.abc import Callable
from pathlib import Path

from agent.credentials import locate
from agent.errors import ConfigError
from agent.settings.uplink import UplinkConfig


def password(path: Path) -> str:
    try:
        raw = locate(path).read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"[uplink] password_file {path}: {exc.strerror}: the agent's user must read it") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"[uplink] password_file {path}: not text: its first line must be the password") from exc
    if not raw.strip():
        raise ConfigError(f"[uplink] password_file {path}: empty: its first line must be the password")
    return raw.splitlines()[0]


def context(config: UplinkConfig) -> ssl.SSLContext:
    """TLS 1.3 only, the broker's name and chain checked, our certificate if there is one. Raises ConfigError."""
    # The system's authorities are read only where they count: that takes tens of milliseconds of every connection.
    made = ssl.create_default_context() if config.ca_file is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if config.ca_file is not None:
        _load("ca_file", config.ca_file, lambda: made.load_verify_locations(config.ca_file))
    if config.certificate is not None:
        key = locate(config.key) if config.key else None
        _load("certificate", config.certificate, lambda: made.load_cert_chain(config.certificate or "", key))
    return made


def _load(what: str, path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as exc:
        raise ConfigError(
            f"[uplink] {what} {path}: {exc.reason or exc}: it must be PEM, and a key must belong to its certificate"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"[uplink] {what} {path}: {exc.strerror}: the agent's user must be able to read it") from exc

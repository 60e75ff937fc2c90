"""Keys that are reached by an address: cloud key services, security modules, GnuPG, a file elsewhere.

Which there are, and what each needs, is securesystemslib's matter (docs/repository.md lists them). Owned here: fetching
the public half once, signing by address, and the words when a foreign service fails.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    AWSSigner,
    AzureSigner,
    GCPSigner,
    GPGSigner,
    HSMSigner,
    Key,
    Signature,
    Signer,
    SSlibKey,
    TKeySigner,
    VaultSigner,
)

from agent.envelope.keyfiles import read_private
from agent.errors import ConfigError

Ask = Callable[[str], str]
"""Asks a person for a secret, in words that say which; returns it."""
SCHEMES: Final = tuple(sorted(SIGNER_FOR_URI_SCHEME))
_SHOWN: Final = 12
_SERVICE_ERRORS: Final = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "pkcs11.exceptions": ("PKCS11Error",),
    "google.api_core.exceptions": ("GoogleAPIError",),
    "azure.core.exceptions": ("AzureError",),
    "hvac.exceptions": ("VaultError",),
}
"""What the packages behind the addresses raise. One that was never imported raised nothing."""


def no_answer(what: str) -> str:
    """An `Ask` for where nobody can be asked. Raises ConfigError."""
    raise ConfigError(f"{what} is needed and nobody can be asked here: give --passphrase-file, or use a terminal")


def short(keyid: str) -> str:
    """A key id as tables show it."""
    return keyid[:_SHOWN]


def open_signer(uri: str, key: Key, ask: Ask) -> Signer:
    """What signs with the key at this address. Raises ConfigError."""
    try:
        return Signer.from_priv_key_uri(uri, key, ask)
    except _foreign() as exc:
        raise ConfigError(f"key {short(key.keyid)} at {uri} cannot be used: {_words(exc)}") from exc


def sign(signer: Signer, data: bytes) -> Signature:
    """A signature over `data`, checked before it is kept. Raises ConfigError."""
    key = signer.public_key
    try:
        made = signer.sign(data)
    except _foreign() as exc:
        raise ConfigError(f"key {short(key.keyid)} did not sign: {_words(exc)}") from exc
    try:
        key.verify_signature(made, data)
    except UnverifiedSignatureError as exc:
        words = "its service made a signature that its public key does not accept: is it the key that was imported?"
        raise ConfigError(f"key {short(key.keyid)}: {words}") from exc
    return made


def import_key(address: str, ask: Ask) -> tuple[Key, str]:
    """The public half of the key at `address`, and the address to sign by. Raises ConfigError."""
    scheme, _, rest = address.partition(":")
    try:
        uri, key = _IMPORT[scheme](rest, ask)
    except _foreign() as exc:
        raise ConfigError(f"key {address} cannot be reached: {_words(exc)}") from exc
    return key, uri


def _foreign() -> tuple[type[BaseException], ...]:
    found: list[type[BaseException]] = [SecureSystemsError, ValueError, OSError, LookupError, AssertionError]
    for module, names in _SERVICE_ERRORS.items():
        found.extend(getattr(sys.modules[module], name) for name in names if module in sys.modules)
    return tuple(found)


def _words(exc: BaseException) -> str:
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__


def _azure(rest: str, _: Ask) -> tuple[str, Key]:
    """azurekms://<vault>.vault.azure.net/keys/<key>."""
    parts = urlsplit(f"azurekms:{rest}")
    return AzureSigner.import_(parts.netloc.partition(".")[0], parts.path.removeprefix("/keys/"))


def _hsm(rest: str, ask: Ask) -> tuple[str, Key]:
    """hsm:[<key id>][?label=<token>]."""
    number, _, query = rest.partition("?")
    label = parse_qs(query).get("label", [None])[0]
    return HSMSigner.import_(int(number) if number else None, label, ask)


def _file(rest: str, ask: Ask) -> tuple[str, Key]:
    """file2:<path>: a private key file that lies elsewhere and is read anew for each signature."""
    private: Any = serialization.load_pem_private_key(read_private(Path(rest)), None)
    return f"file2:{rest}", SSlibKey.from_crypto(private.public_key())


_IMPORT: Final[Mapping[str, Callable[[str, Ask], tuple[str, Key]]]] = {
    "awskms": lambda rest, _: AWSSigner.import_(rest),
    "azurekms": _azure,
    "file2": _file,
    "gcpkms": lambda rest, _: GCPSigner.import_(rest),
    "gnupg": lambda rest, _: GPGSigner.import_(rest.lower()),
    "hsm": _hsm,
    "hv": lambda rest, _: VaultSigner.import_(rest),
    "tkey": lambda _, __: TKeySigner.import_(),
}

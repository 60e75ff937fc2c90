"""Keys and certificates: files that only their owner may read, and whose word counts."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent import codec
from agent.cli import main
from agent.envelope import (
    DeviceIdentity,
    MessageType,
    PlainSealer,
    ReaderKey,
    ReaderPublic,
    Sealer,
    SigningKey,
    Topics,
    VerifyKey,
    Zip,
)
from agent.envelope.keyfiles import write_private, write_public
from agent.envelope.keys import spki
from agent.envelope.setup import batch_zip, make_opener, make_sealer
from agent.errors import ConfigError, EnvelopeError
from agent.settings.envelope import DeviceTrust, EnvelopeConfig, ReaderConfig
from tests.sealing import DEVICE, SITE, Line, authority, device_certificate, event


@pytest.fixture
def line():
    return Line()


# --- key files


def test_private_keys_open_to_others_are_refused(tmp_path):
    """chmod is named in the error."""
    path = tmp_path / "device.key"
    write_private(path, SigningKey.generate().pem())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    SigningKey.load(path)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            SigningKey.load(path)


def test_a_credential_is_found_by_its_name(tmp_path):
    """systemd guards its credentials with an access list, which shows as group bits."""
    key = ReaderKey.generate()
    write_private(tmp_path / "reader", key.pem())
    (tmp_path / "reader").chmod(0o440)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert ReaderKey.load(Path("reader"), environment).public.key_id == key.public.key_id


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n"])
def test_files_that_hold_no_key_are_config_errors(tmp_path, content):
    """The message names the file and the command that makes a good one."""
    path = tmp_path / "bad"
    write_private(path, content)
    for load in (SigningKey.load, ReaderKey.load, VerifyKey.load, ReaderPublic.load):
        with pytest.raises(ConfigError, match=r"bad: .*limpet keys new"):
            load(path)


def test_keys_do_not_mix(tmp_path):
    """A reader key cannot sign, a signing key cannot read."""
    write_private(tmp_path / "r", ReaderKey.generate().pem())
    write_private(tmp_path / "d", SigningKey.generate().pem())
    with pytest.raises(ConfigError, match="not a signing key"):
        SigningKey.load(tmp_path / "r")
    with pytest.raises(ConfigError, match="not a reader key"):
        ReaderKey.load(tmp_path / "d")


def test_a_key_is_never_overwritten(tmp_path):
    """A lost key cannot be made again."""
    write_private(tmp_path / "k", b"x" * 32)
    with pytest.raises(ConfigError, match="never overwritten"):
        write_private(tmp_path / "k", b"y" * 32)


def test_keys_do_not_show(line):
    """No repr of anything that holds a key shows its bytes."""
    envelope = line.sealer.current_envelope()
    epoch = line.sealer._epoch.key
    shown = repr((line.signing, line.reader, line.identity, epoch, envelope, line.sealer, line.opener))
    for secret in (epoch.key, epoch.base_iv):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert "PRIVATE" not in shown


def test_configuration_makes_both_ends(tmp_path):
    """From files to a sealer and an opener that understand each other; zstd is refused where there is none."""
    signing, reader = SigningKey.generate(), ReaderKey.generate()
    for name, key in (("device", signing), ("reader", reader)):
        write_private(tmp_path / f"{name}.key", key.pem())
        write_public(tmp_path / f"{name}.pub", spki(key.public.public, pem=True))
    sealing = EnvelopeConfig(signing_key=tmp_path / "device.key", readers=(tmp_path / "reader.pub",))
    sealer = make_sealer(sealing, SITE, DEVICE)
    opener = make_opener(
        ReaderConfig(key=tmp_path / "reader.key", device=(DeviceTrust(SITE, DEVICE, keys=(tmp_path / "device.pub",)),))
    )
    topics, envelope = Topics(SITE, DEVICE), sealer.current_envelope()
    opener.open(f"{topics.prefix}/{envelope.tail}", envelope.payload)
    (opened,) = opener.open(topics.event("door"), sealer.seal(MessageType.EVENT, "door", codec.encode(event())))
    assert opened.events == (event(),)
    assert batch_zip(sealing) is Zip.DEFLATE_RAW
    assert isinstance(make_sealer(EnvelopeConfig(mode="plain"), SITE, DEVICE), PlainSealer)
    with pytest.raises(ConfigError, match="limpet keys new"):
        make_sealer(EnvelopeConfig(), SITE, DEVICE)


@pytest.mark.parametrize("bad", ["", "a/b", "+", "#", "ü", "-x", "x" * 65, "gap"])
def test_names_that_cannot_stand_in_a_topic_are_refused(bad):
    """No slash, no wildcard, no stream called gap."""
    with pytest.raises(EnvelopeError):
        Topics(SITE, DEVICE).event(bad)
    if bad != "gap":
        with pytest.raises(EnvelopeError):
            Topics(bad, DEVICE)


def test_the_command_makes_keys_that_work(tmp_path, capsys):
    """`limpet keys new` writes a private key of mode 0600 and the public key that belongs to it."""
    for role, said, kind in (
        ("device", "signing", SigningKey), ("technician", "signing", SigningKey), ("reader", "reader", ReaderKey)
    ):  # fmt: skip
        assert main(["keys", "new", role, "--out", str(tmp_path / "keys")]) == 0
        private = tmp_path / "keys" / f"{role}.key"
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        key_id = kind.load(private).public.key_id.hex()
        capsys.readouterr()
        assert main(["keys", "id", str(private.with_suffix(".pub"))]) == 0
        assert capsys.readouterr().out.startswith(f"{said} {key_id} ")
    assert main(["keys", "new", "device", "--out", str(tmp_path / "keys")]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_a_missing_private_key_is_told_with_both_its_places(tmp_path, monkeypatch):
    """A bare name may be a credential: whoever looks for it must hear of the folder where it belongs."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credstore"))
    with pytest.raises(ConfigError, match=r"limpet\.signing\.key: .*, nor is there .*/credstore/limpet\.signing\.key"):
        SigningKey.load(tmp_path / "limpet.signing.key")


def test_keys_are_made_here_where_nothing_else_is_said(tmp_path, monkeypatch):
    """`limpet keys new reader`, as messages and pages write it, works as it stands."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "new", "reader"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["reader.key", "reader.pub"]


# --- certificates


def _certify(line, issuer, **changes):
    """Let `line` send a certificate of `issuer` along."""
    made = device_certificate(issuer, line.signing.public.public, **changes)
    line.identity = DeviceIdentity(SITE, DEVICE, line.signing, made.public_bytes(Encoding.DER))
    line.sealer = Sealer(line.identity, [line.reader.public], clock=line.clock)


def test_a_device_certified_by_the_site_is_believed(line):
    """x5chain: a device that is not listed opens when the site's authority vouches for it."""
    issuer = authority()
    _certify(line, issuer)
    opener = line.another_opener(devices=(), authority=issuer[1], authority_site=SITE)
    line.tell(opener)
    assert opener.open(line.topics.event("door"), line.seal_event(event()))[0].events == (event(),)


@pytest.mark.parametrize(
    "changes",
    [{"device": "other"}, {"site": "other"}, {"days": -1}, {"ca": True}, {"uris": ()}, {"uris": ("http://x/y",)}],
    ids=lambda c: next(iter(c)),
)
def test_a_wrong_certificate_is_refused(line, changes):
    """Another name, an expired one, an authority posing as a device, no name: refused."""
    issuer = authority()
    _certify(line, issuer, **changes)
    with pytest.raises(EnvelopeError):
        line.tell(line.another_opener(devices=(), authority=issuer[1], authority_site=SITE))


def test_a_certificate_of_another_authority_is_refused(line):
    """Same name, other key: the signature of the issuer counts."""
    _certify(line, authority())
    with pytest.raises(EnvelopeError, match="not issued by"):
        line.tell(line.another_opener(devices=(), authority=authority()[1], authority_site=SITE))


def test_an_authority_vouches_for_its_own_site_only(line):
    """An authority of one site cannot certify a device of another."""
    issuer = authority()
    _certify(line, issuer)
    with pytest.raises(EnvelopeError, match="does not trust"):
        line.tell(line.another_opener(devices=(), authority=issuer[1], authority_site="plant-8"))

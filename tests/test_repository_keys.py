"""Keys of a repository: thresholds, people in different places, rotation, revocation, passphrases, key services."""

import contextlib
import datetime as dt
import importlib.util
import os
import random
import shutil
import subprocess
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater

from agent.envelope.keyfiles import write_private
from agent.errors import ConfigError
from agent.repository import Keyring, Lifetimes, Publisher, Workspace
from agent.repository.keyring import public_key
from agent.repository.modules import no_answer, short
from agent.repository.publisher import KeyPlan, Outcome
from agent.repository.roles import TOP
from tests.repositories import MODELS, Repo, served, versioned


def refreshed(url, folder, root):
    """A stock client that has seen what is there."""
    folder.mkdir(exist_ok=True)
    updater = Updater(str(folder), f"{url}/metadata/", str(folder), f"{url}/targets/", bootstrap=root)
    updater.refresh()
    return updater


def away(repo, role, count, to):
    """Take `count` private keys of a role to another place; returns it."""
    to.mkdir()
    for path in sorted((repo.workspace.keys / role).glob("*.key"))[:count]:
        for one in (path, path.with_suffix(".pub")):
            shutil.move(one, to / one.name)
    return to


def test_below_its_threshold_nothing_is_published(tmp_path):
    """Two of three must sign: one alone makes a draft, and the second, elsewhere, makes it public."""
    repo = Repo(tmp_path, {"targets": KeyPlan(3, 2)})
    elsewhere = away(repo, "targets", 2, tmp_path / "ben")
    repo.add(MODELS / "vibration", channel=None)
    waiting = {w.role: w for w in repo.outcome.waiting}
    assert set(waiting) == {"targets", "model-vibration"}
    assert (waiting["targets"].signed, waiting["targets"].threshold, len(waiting["targets"].missing)) == (1, 2, 2)
    assert repo.publisher.roles.published("targets").signed.version == 1
    assert repo.publisher.roles.published("model-vibration") is None

    repo.keyring = Keyring((elsewhere,))
    with repo.workspace.held():
        publisher = repo.publisher
        assert publisher.sign() == {"targets": 2, "model-vibration": 2}
        outcome = publisher.finish()
    assert (outcome.waiting, outcome.fresh) == ((), True)
    repo.publish()
    with served(repo.mirror) as url:
        assert refreshed(url, tmp_path / "c", repo.root).get_targetinfo("models/vibration/1.0.0.json")


@pytest.mark.parametrize("plan", [KeyPlan(1, 0), KeyPlan(1, 2), KeyPlan(2, 3), KeyPlan(0, 1), KeyPlan(1, -1)])
def test_a_threshold_is_at_least_one_and_at_most_all_keys(tmp_path, plan):
    """Zero would mean that nobody needs to sign."""
    with pytest.raises(ConfigError, match="threshold"):
        Repo(tmp_path, {"targets": plan})
    assert not (tmp_path / "work").exists()


def test_a_threshold_counts_keys_and_not_how_often_they_are_named(tmp_path):
    """The same .pub file twice is one key."""
    key = Keyring().make(tmp_path / "k", "targets")
    path = str(tmp_path / "k" / f"targets-{short(key.keyid)}.pub")
    with pytest.raises(ConfigError, match="threshold of 2 with 1 keys"):
        Repo(tmp_path, {"targets": KeyPlan(0, 2, (path, path))})


def test_a_device_follows_the_root_through_rotations(tmp_path):
    """From the first anchor over two new root keys and new keys of every role."""
    repo = Repo(tmp_path)
    first = repo.root
    repo.add(MODELS / "vibration")
    before = {key for _, keys in (repo.publisher.roles.keys(role) for role in TOP) for key in keys}
    for role in ("root", *TOP):
        repo.do(lambda p, role=role: p.rotate(role))
        assert repo.outcome.waiting == ()
    after = {key for _, keys in (repo.publisher.roles.keys(role) for role in TOP) for key in keys}
    assert not before & after
    assert Metadata.from_bytes(repo.root).signed.version == 6
    with served(repo.mirror) as url:
        assert refreshed(url, tmp_path / "c", first).get_targetinfo("models/vibration/1.0.0.json")


def test_a_key_that_left_the_top_role_signs_no_family_either(tmp_path):
    """Families start with the top role's keys and follow when one is changed."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    (old,) = repo.publisher.roles.keys("targets")[1]
    repo.do(lambda p: p.rotate("targets"))
    assert old not in repo.publisher.roles.keys("model-vibration")[1]
    signed = repo.publisher.roles.published("model-vibration").signatures
    assert old not in signed
    with served(repo.mirror) as url:
        assert refreshed(url, tmp_path / "c", repo.root).get_targetinfo("models/vibration/1.0.0.json")


def test_a_root_waits_for_those_who_must_sign_beneath_it(tmp_path):
    """A new key for targets is not published before targets is signed with it: else devices would see half of it."""
    repo = Repo(tmp_path)
    other = Keyring().make(tmp_path / "ben", "targets")
    path = str(tmp_path / "ben" / f"targets-{short(other.keyid)}.pub")
    repo.do(lambda p: p.rotate("targets", path))
    assert [w.role for w in repo.outcome.waiting] == ["targets"]
    assert repo.publisher.roles.published("root").signed.version == 1
    assert repo.publisher.roles.draft("root") is not None
    repo.keyring = Keyring((tmp_path / "ben",))
    repo.do(lambda p: p.sign())
    assert repo.outcome.waiting == ()
    assert repo.publisher.roles.published("root").signed.version == 2
    with served(repo.mirror) as url:
        refreshed(url, tmp_path / "c", repo.root)


def test_a_root_needs_its_predecessor(tmp_path):
    """Who has the new key alone cannot take a repository over."""
    repo = Repo(tmp_path)
    away(repo, "root", 1, tmp_path / "safe")
    repo.do(lambda p: p.rotate("root"))
    (waiting,) = repo.outcome.waiting
    assert (waiting.role, waiting.by, waiting.signed) == ("root", "previous", 0)
    assert repo.publisher.roles.published("root").signed.version == 1


def test_growing_from_one_laptop_to_two_people(tmp_path):
    """A second key beside the first, then a threshold of two: each step is signed by those it asks."""
    repo = Repo(tmp_path)
    repo.do(lambda p: p.rotate("root", add=True))
    repo.do(lambda p: p.rotate("root", add=True, threshold=2))
    threshold, keys = repo.publisher.roles.keys("root")
    assert (threshold, len(keys)) == (2, 3)
    away(repo, "root", 2, tmp_path / "others")
    repo.do(lambda p: p.rotate("timestamp"))
    assert [(w.role, w.signed, w.threshold) for w in repo.outcome.waiting if not w.by] == [("root", 1, 2)]


def test_a_revoked_key_leaves_every_role(tmp_path):
    """And a key without which a role could not be signed any more is not revoked but rotated."""
    repo = Repo(tmp_path, {"targets": KeyPlan(3, 2)})
    repo.add(MODELS / "vibration")
    stolen = sorted(repo.publisher.roles.keys("targets")[1])[0]
    assert set(repo.do(lambda p: p.revoke(stolen[:10]))) == {"targets", "model-vibration"}
    assert stolen not in repo.publisher.roles.keys("model-vibration")[1]
    assert repo.outcome.waiting == ()
    with pytest.raises(ConfigError, match="limpet repo rotate"):
        repo.publisher.revoke(next(iter(repo.publisher.roles.keys("timestamp")[1])))
    with pytest.raises(ConfigError, match="0 keys begin so"):
        repo.publisher.revoke("ffffffffffffffff")
    with pytest.raises(ConfigError, match="keys begin so"):
        repo.publisher.revoke("")


def test_what_a_stolen_key_signed_is_refused_after_its_revocation(tmp_path):
    """A client that has the new root takes nothing from the old timestamp key, whatever number it carries."""
    repo = Repo(tmp_path)
    thief = Keyring((tmp_path / "stolen",))
    shutil.copytree(repo.workspace.keys / "timestamp", tmp_path / "stolen")
    (old,) = repo.publisher.roles.keys("timestamp")[1].values()
    repo.do(lambda p: p.rotate("timestamp"))
    forged = Metadata.from_file(str(repo.mirror / "metadata/timestamp.json"))
    forged.signed.version = 99
    forged.sign(thief.signer(old))
    with served(repo.mirror) as url:
        refreshed(url, tmp_path / "c", repo.root)
        (repo.mirror / "metadata/timestamp.json").write_bytes(forged.to_bytes())
        with pytest.raises(RepositoryError):
            refreshed(url, tmp_path / "c", repo.root)


def test_offline_keys_are_not_needed_from_day_to_day(tmp_path):
    """With root and targets away, a new timestamp is made; with the online keys away, the repository says so."""
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    repo = Repo(tmp_path, days=Lifetimes(timestamp=2, snapshot=2), now=now)
    shutil.move(repo.workspace.keys / "root", tmp_path / "safe-root")
    shutil.move(repo.workspace.keys / "targets", tmp_path / "safe-targets")
    repo.fixed = now + dt.timedelta(days=1, hours=12)
    assert repo.publisher.finish().fresh
    assert repo.publisher.roles.published("timestamp").signed.expires == repo.fixed + dt.timedelta(days=2)
    shutil.move(repo.workspace.keys / "timestamp", tmp_path / "lost")
    assert not repo.publisher.refresh()


def test_a_key_file_with_a_passphrase_signs_when_it_is_told(tmp_path):
    """The file alone is worth nothing; a wrong passphrase and no passphrase are told apart from a lost key."""
    workspace = Workspace(tmp_path / "work")
    plans = dict.fromkeys(TOP, KeyPlan())
    now = dt.datetime.now(dt.UTC)
    right = Keyring(new_passphrase=b"correct horse")
    assert Publisher.create(workspace, right, plans, Lifetimes(), now).finish().fresh
    text = next((workspace.keys / "root").glob("*.key")).read_text()
    assert "ENCRYPTED" in text
    with pytest.raises(ConfigError, match="does not open it"):
        Publisher(workspace, Keyring(passphrase=b"wrong"), now).refresh()
    with pytest.raises(ConfigError, match="nobody can be asked"):
        Publisher(workspace, Keyring(ask=no_answer), now).refresh()
    with pytest.raises(ConfigError, match="the passphrase is wrong"):
        Publisher(workspace, Keyring(ask=lambda _: "wrong"), now).refresh()
    assert Publisher(workspace, Keyring(ask=lambda _: "correct horse"), now).refresh()
    assert Publisher(workspace, Keyring(passphrase=b"correct horse"), now).refresh()


def test_a_private_key_that_others_can_read_is_not_used(tmp_path):
    """As everywhere in Limpet."""
    repo = Repo(tmp_path)
    for path in (repo.workspace.keys / "timestamp").glob("*.key"):
        path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        repo.publisher.refresh()


@pytest.mark.parametrize("algorithm", ["ed25519", "es256"])
def test_keys_of_both_kinds_sign(tmp_path, algorithm):
    """P-256 for tokens and services that know nothing else."""
    repo = Repo(tmp_path, dict.fromkeys(TOP, KeyPlan(algorithm=algorithm)))
    repo.publish()
    with served(repo.mirror) as url:
        refreshed(url, tmp_path / "c", repo.root)


def test_a_key_in_a_file_elsewhere_is_used_by_its_address(tmp_path):
    """file2: is an address like any other: kept in repository.json, opened for each signature."""
    key = Keyring().make(tmp_path / "stick", "root")
    path = tmp_path / "stick" / f"root-{short(key.keyid)}.key"
    repo = Repo(tmp_path, {"root": KeyPlan(0, 1, (f"file2:{path}",))})
    assert repo.outcome == repo.publisher.finish()
    assert repo.workspace.settings().uris == {key.keyid: f"file2:{path}"}
    write_private(tmp_path / "other.key", b"nothing")
    with pytest.raises(ConfigError, match="cannot be reached"):
        Repo(tmp_path / "2", {"root": KeyPlan(0, 1, (f"file2:{tmp_path / 'other.key'}",))})
    with pytest.raises(ConfigError, match="no public key in PEM"):
        public_key(path)


@pytest.fixture
def aws(monkeypatch):
    """AWS's interfaces as a server on loopback."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    server.stop()


def test_a_cloud_key_service_that_signs_something_else_is_found_out(tmp_path, aws):
    """Over the service's own interface: the public half is fetched, the signature is checked before it is kept.

    The server at hand hashes the digest that it is to sign once more, so its signature fits nothing: a good stand-in
    for a key that was changed behind the publisher's back.
    """
    made = boto3.client("kms").create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["KeyId"]
    plan = KeyPlan(0, 1, (f"awskms:{made}",))
    with pytest.raises(ConfigError, match="its public key does not accept"):
        Repo(tmp_path, {"snapshot": plan, "timestamp": plan})
    publisher = Publisher(Workspace(tmp_path / "work"), Keyring(), dt.datetime.now(dt.UTC))
    (keyid,) = publisher.roles.keys("timestamp")[1]
    assert publisher.workspace.settings().uris[keyid] == f"awskms:{made}"
    assert publisher.roles.published("timestamp") is None
    with pytest.raises(ConfigError, match="awskms:nothing cannot be reached"):
        Repo(tmp_path / "2", {"root": KeyPlan(0, 1, ("awskms:nothing",))})


@pytest.mark.skipif(not shutil.which("gpg"), reason="needs gpg")
def test_a_key_in_gnupg_signs(tmp_path, monkeypatch):
    """An address whose private half really is elsewhere: a key in GnuPG's keyring, used by its fingerprint."""
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    gpg = ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "publisher", "rsa2048", "sign", "never"], check=True, capture_output=True)
    try:
        listed = subprocess.run(["gpg", "-k", "--with-colons"], check=True, capture_output=True, text=True).stdout
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        repo = Repo(tmp_path, {"targets": KeyPlan(0, 1, (f"gnupg:{fingerprint}",))})
        repo.add(MODELS / "vibration")
        with served(repo.mirror) as url:
            assert refreshed(url, tmp_path / "c", repo.root).get_targetinfo("models/vibration/1.0.0.json")
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_do_devices_see_a_whole_repository(tmp_path, seed):
    """Keys come and go, are rotated, added and revoked at random: a device with the first root can always follow.

    Each step is done with some private keys away, so drafts pile up, are changed while they wait, and are signed later.
    """
    rng = random.Random(seed)
    repo = Repo(tmp_path, {"root": KeyPlan(2), "targets": KeyPlan(2)})
    first, away_now = repo.root, tmp_path / "away"
    repo.add(MODELS / "vibration")
    steps = [
        lambda p: p.sign(),
        lambda p: p.rotate("root", old=rng.choice(sorted(p.roles.keys("root")[1])), threshold=rng.choice((0, 1, 2))),
        lambda p: p.rotate("targets", old=rng.choice(sorted(p.roles.keys("targets")[1]))),
        lambda p: p.rotate("targets", add=True, threshold=rng.choice((1, 2))),
        lambda p: p.rotate("model-vibration", old=rng.choice(sorted(p.roles.keys("model-vibration")[1]))),
        lambda p: p.rotate("timestamp"),
        lambda p: p.revoke(rng.choice(sorted(p.roles.keys("targets")[1]))),
        lambda p: p.put("config/base.toml", rng.randbytes(4)),
        lambda p: p.release("model", "vibration", "1.0.0", "beta", rng.randrange(100)),
    ]
    repo.publish = lambda: None
    published = 0
    for _ in range(14):
        if away_now.exists():
            shutil.copytree(away_now, repo.workspace.keys, dirs_exist_ok=True)
            shutil.rmtree(away_now)
        for path in rng.sample(sorted(repo.workspace.keys.rglob("*.key")), 2):
            if path.parent.name not in {"snapshot", "timestamp"}:
                (away_now / path.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.move(path, away_now / path.parent.name / path.name)
        with contextlib.suppress(ConfigError):  # what cannot be done is refused, and that is all
            repo.do(rng.choice(steps))
        if repo.publisher.finish().fresh:
            published += 1
            with served(repo.workspace.public) as url:
                updater = refreshed(url, tmp_path / "device", first)
                assert updater.get_targetinfo("models/vibration/1.0.0.json")
    assert published > 5


class Died(Exception):  # noqa: N818
    """The process was killed."""


class DyingWorkspace(Workspace):
    """One that dies before so many writes and removals are done."""

    left = 0

    def _die(self):
        if DyingWorkspace.left == 0:
            raise Died
        DyingWorkspace.left -= 1

    def write(self, path, data):
        self._die()
        super().write(path, data)

    def remove(self, path):
        self._die()
        super().remove(path)


def test_a_publisher_that_dies_anywhere_goes_on_where_it_was(tmp_path):
    """A change of keys that touches root, targets and a family, killed before every single write, then tried again."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    first, start = repo.root, tmp_path / "start"
    (original,) = repo.publisher.roles.keys("targets")[1]
    shutil.copytree(repo.workspace.folder, start)
    deaths, died = 0, True
    while died:
        folder = tmp_path / f"work-{deaths}"
        shutil.copytree(start, folder)
        DyingWorkspace.left = deaths
        died = False
        try:
            publisher = Publisher(DyingWorkspace(folder), Keyring(), repo.now)
            publisher.rotate("targets")
            publisher.finish()
        except Died:
            died = True
            deaths += 1
        publisher = Publisher(Workspace(folder), Keyring(), repo.now)
        publisher.sign()
        publisher.finish()
        publisher.rotate("targets")
        assert publisher.finish() == Outcome((), fresh=True)
        for role in ("targets", "model-vibration"):
            assert original not in publisher.roles.keys(role)[1]
        with served(folder / "public") as url:
            updater = refreshed(url, tmp_path / f"device-{deaths}-{died}", first)
            assert updater.get_targetinfo("models/vibration/1.0.0.json")
    assert deaths > 8


MODULE = os.environ.get("PYKCS11LIB", "/usr/lib/softhsm/libsofthsm2.so")


@pytest.mark.skipif(
    not (shutil.which("softhsm2-util") and Path(MODULE).exists() and importlib.util.find_spec("pkcs11")),
    reason="needs softhsm2 (Debian) and python-pkcs11",
)
def test_a_key_in_a_security_module_signs(tmp_path, monkeypatch):
    """Through PKCS#11: the PIN is asked for, the private half never leaves the token."""
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    monkeypatch.setenv("PYKCS11LIB", MODULE)
    words = ["softhsm2-util", "--module", MODULE, "--init-token", "--free", "--label", "limpet", "--pin", "1234"]
    subprocess.run([*words, "--so-pin", "1234"], check=True, capture_output=True)
    with pkcs11.lib(MODULE).get_token(token_label="limpet").open(rw=True, user_pin="1234") as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True).generate_keypair(store=True, id=b"\x02")
    asked = []
    keyring = Keyring(ask=lambda what: asked.append(what) or "1234")
    plans = dict.fromkeys(TOP, KeyPlan()) | {"root": KeyPlan(0, 1, ("hsm:2?label=limpet",))}
    publisher = Publisher.create(Workspace(tmp_path / "work"), keyring, plans, Lifetimes(), dt.datetime.now(dt.UTC))
    assert publisher.finish().fresh
    assert asked == ["pin"]


def test_two_processes_never_work_on_one_repository(tmp_path):
    """The second is told to wait."""
    repo = Repo(tmp_path)
    with repo.workspace.held(), pytest.raises(ConfigError, match="another 'limpet repo'"), repo.workspace.held():
        pass
    with pytest.raises(ConfigError, match="limpet repo init"), Workspace(tmp_path / "none").held():
        pass


def test_a_repository_is_never_made_over_another(tmp_path):
    """Its keys could not be had again."""
    Repo(tmp_path)
    with pytest.raises(ConfigError, match="never made anew"):
        Repo(tmp_path)


def test_a_draft_that_waits_is_not_published_and_does_not_stop_the_rest(tmp_path):
    """A family whose key is away waits; the day's timestamp does not."""
    repo = Repo(tmp_path)
    repo.add(MODELS / "vibration")
    other = Keyring().make(tmp_path / "ben", "family")
    path = str(tmp_path / "ben" / f"family-{short(other.keyid)}.pub")
    repo.do(lambda p: p.rotate("model-vibration", path))
    assert {w.role for w in repo.outcome.waiting} == {"model-vibration"}
    repo.keyring = Keyring((tmp_path / "ben",))
    repo.do(lambda p: p.sign())
    repo.keyring = Keyring()
    repo.add(versioned(MODELS / "vibration", tmp_path / "v2", "1.1.0"))
    assert {w.role for w in repo.outcome.waiting} == {"model-vibration"}
    repo.publish()
    with served(repo.mirror) as url:
        updater = refreshed(url, tmp_path / "c", repo.root)
        assert updater.get_targetinfo("models/vibration/1.0.0.json")
        assert updater.get_targetinfo("models/vibration/1.1.0.json") is None

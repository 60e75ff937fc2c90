"""`limpet repo` as a publisher types it: from one laptop to two people, and what is said on the way."""

import json
import re
import shutil
import types

import pytest

from agent.cli import main
from agent.envelope.keyfiles import write_public
from agent.envelope.keys import ReaderKey, SigningKey, spki
from tests.repositories import MODELS, versioned


@pytest.fixture
def repo(tmp_path, capsys):
    """Runs `limpet repo WORDS`; gives exit status and what was printed. The repository is tmp_path/r."""

    def call(verb, *words):
        where = () if verb == "init" else ("--repo", str(tmp_path / "r"))
        try:
            status = main(["repo", verb, *map(str, words), *where])
        except SystemExit as exc:
            status = exc.code
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


def rows(repo):
    """What `limpet repo status` says to programs."""
    found = [json.loads(line) for line in repo("status", "--json")[1].splitlines()]
    return {row["role"]: row for row in found if "role" in row}, [row for row in found if "family" in row]


def test_from_nothing_to_a_published_model_in_three_commands(repo, tmp_path):
    """init, add, publish: the shortest way, with the keys on one laptop."""
    status, said = repo("init", tmp_path / "r")
    assert (status, "trust anchor" in said) == (0, True)
    status, said = repo("add", MODELS / "vibration", "--channel", "stable")
    assert (status, "released vibration 1.0.0 in stable to 100 %" in said) == (0, True)
    status, said = repo("publish", tmp_path / "mirror")
    assert (status, "as a device does" in said) == (0, True)
    assert not [path for path in (tmp_path / "mirror").rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    roles, families = rows(repo)
    assert {role: row["version"] for role, row in roles.items()} == {
        "root": 1, "targets": 2, "model-vibration": 1, "snapshot": 2, "timestamp": 2,
    }  # fmt: skip
    assert roles["root"]["ends_in_days"] in (364, 365)
    assert [(row["version"], row["offered"]) for row in families] == [("1.0.0", ["stable 100%"])]
    table = repo("status")[1]
    assert "model-vibration" in table
    assert "* the private half is at hand" in table


def test_two_people_sign_in_two_places(repo, tmp_path):
    """Who adds a version is told whose signature is missing; the other signs elsewhere; exit 1 until then."""
    repo("init", tmp_path / "r", "--targets-keys", "2", "--targets-threshold", "2", "--root-keys", "3",
         "--root-threshold", "2")  # fmt: skip
    ben = tmp_path / "ben"
    ben.mkdir()
    first = sorted((tmp_path / "r/keys/targets").glob("*.key"))[0]
    for path in (first, first.with_suffix(".pub")):
        shutil.move(path, ben / path.name)
    status, said = repo("add", MODELS / "vibration", "--no-selftest", "--channel", "beta", "--rollout", "10")
    assert status == 1
    assert "targets 2 waits: 1 of 2 signatures; missing" in said
    assert "limpet repo sign --keys DIR" in said
    assert "1 of 2, missing" in rows(repo)[0]["targets"]["pending"]
    status, said = repo("publish", tmp_path / "mirror")
    assert (status, "read back 0 targets" in said) == (1, True)
    public = first.with_suffix(".pub").name
    (ben / public).rename(tmp_path / public)
    status, said = repo("sign", "--keys", ben)
    assert (status, "a key is NAME.key with its NAME.pub beside it" in said) == (1, True)
    (tmp_path / public).rename(ben / public)
    status, said = repo("sign", "--keys", ben)
    assert (status, "model-vibration: 1 signatures added" in said) == (0, True)
    status, said = repo("publish", tmp_path / "mirror")
    assert (status, "read back 2 targets" in said) == (0, True)


def test_versions_go_through_channels(repo, tmp_path):
    """Added, offered to a share, to all, withdrawn."""
    repo("init", tmp_path / "r")
    status, said = repo("add", MODELS / "vibration", "--no-selftest")
    assert (status, "offered nowhere yet" in said) == (0, True)
    repo("add", versioned(MODELS / "vibration", tmp_path / "v2", "1.1.0"), "--no-selftest")
    repo("release", "vibration", "1.0.0", "--channel", "stable")
    status, said = repo("release", "vibration", "1.1.0", "--channel", "stable", "--rollout", "5")
    assert (status, "vibration stable: 1.1.0 to 5 %, 1.0.0 to 100 %" in said) == (0, True)
    assert "offered to nobody" not in said
    repo("release", "vibration", "1.1.0", "--channel", "beta")
    assert "1.0.0 is offered to nobody: a newer" in repo("release", "vibration", "1.0.0", "--channel", "beta")[1]
    assert repo("withdraw", "vibration", "1.1.0")[0] == 0
    assert [row["version"] for row in rows(repo)[1]] == ["1.0.0"]
    status, said = repo("release", "vibration", "1.1.0", "--channel", "stable")
    assert (status, "was never added: there are 1.0.0" in said) == (2, True)


def test_trust_configuration_and_releases_of_the_agent_are_targets(repo, tmp_path):
    """From files as people write them."""
    repo("init", tmp_path / "r")
    write_public(tmp_path / "anna.pub", spki(SigningKey.generate().public.public, pem=True))
    write_public(tmp_path / "desk.pub", spki(ReaderKey.generate().public.public, pem=True))
    scope = 'sites = ["*"]\ndevices = ["*"]\n'
    (tmp_path / "t.toml").write_text(f'[[keys]]\nfile = "anna.pub"\nname = "Anna"\nrole = "admin"\n{scope}')
    (tmp_path / "r.toml").write_text(f'[[readers]]\nfile = "desk.pub"\nname = "desk"\n{scope}')
    (tmp_path / "v.toml").write_text('[[keys]]\nkid = "0123456789abcdef"\nreason = "laptop lost"\n')
    for kind, file in (("technicians", "t.toml"), ("readers", "r.toml"), ("revoked", "v.toml")):
        assert repo("trust", kind, tmp_path / file)[0] == 0
    (tmp_path / "base.toml").write_text("schema = 1\n")
    assert repo("config", tmp_path / "base.toml")[0] == 0
    (tmp_path / "release").mkdir()
    (tmp_path / "release/a.whl").write_bytes(b"wheel")
    assert repo("add-agent", tmp_path / "release", "0.2.0", "--channel", "stable")[0] == 0
    status, said = repo("publish", tmp_path / "mirror")
    assert (status, "read back 6 targets" in said) == (0, True)
    assert repo("config", tmp_path / "base.toml", "--remove")[0] == 0
    status, said = repo("config", tmp_path / "base.toml", "--remove")
    assert (status, "no such target" in said) == (2, True)


def test_keys_are_changed_by_name(repo, tmp_path):
    """rotate, revoke, renew, refresh: each says what it did, and what it needs when it cannot."""
    repo("init", tmp_path / "r")
    assert repo("rotate", "timestamp")[0] == 0
    assert repo("rotate", "targets", "--add")[0] == 0
    status, said = repo("rotate", "targets")
    assert (status, "say with --old which one leaves" in said) == (2, True)
    keyid = rows(repo)[0]["targets"]["keys"][0].rstrip("*")
    assert repo("revoke", keyid)[0] == 0
    assert repo("renew", "targets")[1].startswith("renewed: targets")
    assert repo("renew")[1].startswith("nothing ends within 30 days")
    assert repo("refresh")[0] == 0
    status, said = repo("rotate", "targets", "--threshold", "3")
    assert (status, "threshold of 3" in said) == (2, True)
    status, said = repo("rotate", "model-nothing")
    assert (status, "no role 'model-nothing'" in said) == (2, True)


def test_a_passphrase_comes_from_a_file_or_is_typed_twice(repo, tmp_path, monkeypatch):
    """And without it, and without a terminal, the answer says what to give."""
    (tmp_path / "words").write_text("correct horse\n")
    given = ("--passphrase-file", tmp_path / "words")
    assert repo("init", tmp_path / "r", *given)[0] == 0
    status, said = repo("refresh")
    assert (status, "--passphrase-file" in said) == (2, True)
    assert repo("refresh", *given)[0] == 0
    typed = iter(["new words", "new words", "one", "another"])
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
        terminal.setattr("getpass.getpass", lambda _: next(typed))
        assert repo("rotate", "timestamp", "--ask-passphrase", *given)[0] == 0
        assert repo("rotate", "timestamp", "--ask-passphrase", *given)[0] == 2
    assert all("ENCRYPTED" in path.read_text() for path in (tmp_path / "r/keys").rglob("*.key"))
    (tmp_path / "words").write_text("new words\n")
    assert repo("rotate", "targets", *given)[0] == 2  # root's is still the old one
    (tmp_path / "empty").write_text("\n")
    status, said = repo("refresh", "--passphrase-file", tmp_path / "empty")
    assert (status, "empty" in said) == (2, True)


def test_a_sealed_model_is_told_as_such(repo, tmp_path):
    """status counts for how many keys a version is sealed."""
    repo("init", tmp_path / "r")
    write_public(tmp_path / "door.pub", spki(ReaderKey.generate().public.public, pem=True))
    status, said = repo("add", MODELS / "vibration", "--no-selftest", "--seal-for", tmp_path / "door.pub")
    assert (status, "sealed for 1 key" in said) == (0, True)
    assert rows(repo)[1][0]["sealed_for"] == 1


def test_sealing_what_was_published_before_keeps_no_secret(repo, tmp_path):
    """The blob of an earlier plain version stays in the repository, and the publisher hears of it."""
    folder = tmp_path / "vibration"
    shutil.copytree(MODELS / "vibration", folder)
    repo("init", tmp_path / "r")
    main(["keys", "new", "reader", "--out", str(tmp_path), "--name", "door"])
    assert "is no secret" not in repo("add", folder, "--no-selftest")[1]
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(re.sub(r'(?m)^version = ".*"', 'version = "9.0.0"', text))
    status, said = repo("add", folder, "--no-selftest", "--seal-for", tmp_path / "door.pub")
    assert (status, "is no secret: the same file lies here unencrypted" in said) == (0, True)


def test_where_there_is_no_repository_the_answer_says_so(repo, tmp_path):
    """Every verb, and init where one is already."""
    status, said = repo("status")
    assert (status, "limpet repo init" in said) == (2, True)
    repo("init", tmp_path / "r")
    status, said = repo("init", tmp_path / "r")
    assert (status, "never made anew" in said) == (2, True)
    (tmp_path / "r/pending/targets.json").write_text("{}")
    status, said = repo("status")
    assert (status, "damaged" in said) == (2, True)

"""tools/tuf_client.py keeps the contract of the public TUF conformance suite, and the workflow behind it.

The suite itself runs at the end when the variable TUF_CONFORMANCE names a checkout of it.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from agent.durable import locked
from tests.fault_server import Fault, FaultServer
from tests.tuf_repository import TufRepository, days

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "tuf_client.py"
TOP = {"root.json", "timestamp.json", "snapshot.json", "targets.json"}


class Client:
    """The tool with its folders and a repository to speak to."""

    def __init__(self, folder, server, monkeypatch):
        spec = importlib.util.spec_from_file_location("tuf_client", TOOL)
        self._tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._tool)
        self._patch = monkeypatch
        self.server = server
        self.repository = TufRepository(server.files)
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self.anchor = folder / "anchor.json"

    def run(self, *words):
        """Exit status of the tool, in this process."""
        self._patch.setattr(sys, "argv", [str(TOOL), "--metadata-dir", str(self.metadata), *words])
        self.server.requests.clear()
        return self._tool.main()

    def init(self, root=None):
        self.anchor.write_bytes(root or self.repository.anchor)
        return self.run("init", str(self.anchor))

    def refresh(self):
        return self.run("--metadata-url", f"{self.server.url}/metadata", "refresh")

    def download(self, *names):
        words = [word for name in names for word in ("--target-name", name)]
        where = ["--target-base-url", f"{self.server.url}/targets", "--target-dir", str(self.targets)]
        return self.run("--metadata-url", f"{self.server.url}/metadata/", *words, *where, "download")

    def version(self, role):
        path = self.metadata / f"{role}.json"
        return Metadata.from_file(str(path)).signed.version if path.exists() else None

    def versions(self):
        return tuple(self.version(role) for role in ("root", "timestamp", "snapshot", "targets"))

    def asked(self):
        """Metadata that was asked for, in order."""
        return [path.removeprefix("metadata/") for path in self.server.asked("metadata/")]

    def got(self):
        """What lies in the folder of targets."""
        return {path.name: path.read_bytes() for path in self.targets.rglob("*") if path.is_file()}


@pytest.fixture
def client(tmp_path, monkeypatch):
    with FaultServer() as server:
        made = Client(tmp_path, server, monkeypatch)
        assert made.init() == 0
        yield made


def test_init_asks_nothing_and_refresh_asks_in_the_order_of_the_workflow(client):
    """Four files of top-level metadata, the newest root asked for once."""
    assert client.server.requests == []
    assert client.refresh() == 0
    assert client.asked() == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert client.versions() == (1, 1, 1, 1)


def test_metadata_is_kept_as_served_under_names_without_versions(client):
    """Byte for byte, and nothing else in the folder ends in .json."""
    client.refresh()
    assert {path.name for path in client.metadata.glob("*.json")} == TOP
    for name in ("1.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"):
        assert (client.metadata / name.removeprefix("1.")).read_bytes() == client.repository.served(name)


def test_a_second_refresh_asks_only_for_news(client):
    """Root and timestamp; the rest is here."""
    client.refresh()
    assert client.refresh() == 0
    assert client.asked() == ["2.root.json", "timestamp.json"]


@pytest.mark.parametrize("damage", ["no version", "other signature", "no json", "nothing", "threshold 0"])
def test_a_root_that_is_none_is_refused_before_any_request(client, damage):
    """Whatever init says of it, refresh fails and no byte is asked of the network."""
    table = json.loads(client.repository.anchor)
    if damage == "no version":
        del table["signed"]["version"]
    elif damage == "other signature":
        table["signatures"][0]["sig"] = "00" * 64
    elif damage == "threshold 0":
        table["signed"]["roles"]["root"]["threshold"] = 0
    data = {"no json": b"{", "nothing": b" "}.get(damage, json.dumps(table).encode())
    client.init(data)
    assert client.refresh() == 1
    assert client.server.requests == []


def test_without_init_nothing_is_trusted(client):
    """No pinned root, no refresh; and a root that cannot be read is no init."""
    shutil.rmtree(client.metadata)
    client.metadata.mkdir()
    assert client.refresh() == 1
    assert client.run("init", "/nowhere/root.json") == 1
    assert client.server.requests == []


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_older_version_is_refused(client, role):
    """Rollback of each role, signed by its own keys."""
    repository = client.repository
    repository.publish()
    repository.publish()
    assert client.refresh() == 0
    assert client.versions() == (1, 3, 3, 3)
    old = repository.roles[role].signed
    old.version = 2
    if role == "timestamp":
        repository.publish_timestamp(bump=False)
    elif role == "snapshot":
        repository.timestamp.version += 1
        repository.publish_online(bump=False)
    else:
        repository.publish(bump=False)
        repository.snapshot.version = repository.timestamp.version = 9
        repository.publish_online()
    assert client.refresh() == 1
    assert client.version(role) == 3


def test_a_timestamp_that_names_an_older_snapshot_is_refused(client):
    """Its own version is newer."""
    client.repository.publish()
    client.refresh()
    client.repository.timestamp.snapshot_meta.version = 1
    client.repository.publish_timestamp()
    assert client.refresh() == 1
    assert client.versions() == (1, 2, 2, 2)


def test_a_snapshot_that_forgets_a_role_is_refused(client):
    """Withholding a delegation is a rollback too."""
    client.repository.delegate("model-a", ["models/a/*"], [7])
    client.repository.publish("model-a", "targets")
    assert client.refresh() == 0
    del client.repository.snapshot.meta["model-a.json"]
    client.repository.publish_online()
    assert client.refresh() == 1
    assert client.version("snapshot") == 2


def test_a_timestamp_of_the_same_version_does_not_replace_the_one_that_is_kept(client):
    """Content that changed without a new version is no news."""
    client.refresh()
    before = (client.metadata / "timestamp.json").read_bytes()
    client.repository.timestamp.unrecognized_fields["more"] = 1
    client.repository.publish_timestamp(bump=False)
    assert client.refresh() == 0
    assert (client.metadata / "timestamp.json").read_bytes() == before


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_expired_metadata_is_refused(client, role):
    """Freeze: what has expired cannot be the newest."""
    client.refresh()
    client.repository.roles[role].signed.expires = days(-1)
    client.repository.publish_root() if role == "root" else client.repository.publish()
    assert client.refresh() == 1
    client.repository.roles[role].signed.expires = days(1)
    client.repository.publish_root() if role == "root" else client.repository.publish()
    assert client.refresh() == 0


def test_an_expired_root_on_the_way_does_no_harm(client):
    """Only the last one has to hold."""
    client.repository.root.expires = days(-1)
    client.repository.publish_root()
    client.repository.root.expires = days(9)
    client.repository.publish_root()
    assert client.refresh() == 0
    assert client.version("root") == 3


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_files_of_two_states_are_not_mixed(client, role):
    """A file that its parent does not name by hash, or by version, is refused."""
    client.repository.publish()
    name = f"metadata/2.{role}.json"
    client.server.files[name] = client.server.files[name].replace(b'"spec_version"', b' "spec_version"')
    assert client.refresh() == 1
    client.server.files[name] = client.server.files[f"metadata/1.{role}.json"]
    assert client.refresh() == 1
    assert client.version(role) is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_fast_forward_is_healed_by_new_keys(client, role):
    """Stolen keys signed version 2^31; the owner rotates them, and goes on with the old numbers."""
    repository = client.repository
    repository.roles[role].signed.version = 2**31
    repository.publish_timestamp(bump=False) if role == "timestamp" else repository.publish(bump=False)
    repository.timestamp.version += 1
    assert client.refresh() == 0
    assert client.version(role) == 2**31
    for number, name in enumerate(("timestamp", "snapshot")):
        repository.rekey(name, [20 + number])
    repository.publish_root()
    repository.roles[role].signed.version = 2
    for name in ("timestamp", "snapshot"):
        repository.roles[name].signed.version = 2
    repository.publish()
    assert client.refresh() == 0
    assert client.version(role) == 3


THRESHOLDS = [
    # keys before, keys after, threshold before and after, who signs the new root, whether it is taken
    ([0], [10], 1, 1, [10, 0], True),
    ([0], [10], 1, 1, [10], False),
    ([0], [10], 1, 1, [0], False),
    ([0], [0, 10, 11], 1, 2, [0, 10], True),
    ([0], [0, 10, 11], 1, 2, [0], False),
    ([0, 10, 11, 12, 13], [0, 10, 12, 13, 14], 3, 3, [0, 10, 11, 14], True),
    ([0, 10, 11, 12, 13], [0, 10, 12, 13, 14], 3, 3, [0, 13, 14], False),
    ([0, 10, 11, 12, 13], [0, 10, 12, 13, 14], 3, 3, [0, 10, 11], False),
    ([0, 10, 11], [0, 10, 11], 2, 1, [0, 11], True),
    ([0, 10, 11], [0, 10, 11], 2, 1, [0], False),
    ([0], [10], 1, 1, [15, 10, 16, 0, 17], True),
]


@pytest.mark.parametrize(("old", "new", "least", "then", "signers", "good"), THRESHOLDS)
def test_a_new_root_needs_the_old_and_the_new_threshold(client, old, new, least, then, signers, good):
    """Both, each with its own keys."""
    repository = client.repository
    repository.rekey("root", old, least)
    repository.publish_root(signers=[*old, 0])
    repository.rekey("root", new, then)
    repository.publish_root(signers=signers)
    assert client.refresh() == (0 if good else 1)
    assert client.version("root") == (3 if good else 2)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(("signers", "good"), [([4, 5], True), ([5, 6, 8], True), ([4, 8, 9], False), ([4, 4], False)])
def test_a_role_needs_its_threshold(client, role, signers, good):
    """Two of three; strangers and the same key twice do not count."""
    repository = client.repository
    repository.rekey(role, [4, 5, 6], 2)
    repository.publish_root()
    repository.keys[role] = signers
    repository.publish()
    assert client.refresh() == (0 if good else 1)


def test_300_new_roots_are_caught_up_with_in_steps_of_256(client):
    """And the ones that are here never count again: the start after asks for the next one only."""
    for _ in range(300):
        client.repository.publish_root()
    client.refresh()
    assert client.version("root") == 257
    assert client.refresh() == 0
    assert client.version("root") == 301
    assert client.refresh() == 0
    assert client.asked() == ["302.root.json", "timestamp.json"]


def test_a_folder_that_lost_its_roots_heals_from_the_pin(client):
    """What a power cut or a person removed is fetched again, up from the pinned root."""
    client.repository.publish_root()
    client.refresh()
    shutil.rmtree(client.metadata / "root_history")
    (client.metadata / "root.json").unlink()
    assert client.refresh() == 0
    assert client.version("root") == 2
    assert client.asked()[:2] == ["2.root.json", "3.root.json"]


def test_another_root_than_the_pin_in_the_folder_is_not_believed(client, tmp_path):
    """root.json is a result, never a source."""
    other = TufRepository({})
    other.rekey("root", [30])
    other.publish_root(bump=False)
    link = client.metadata / "root.json"
    link.unlink(missing_ok=True)
    link.write_bytes(other.served("1.root.json"))
    assert client.refresh() == 0
    assert link.read_bytes() == client.repository.anchor


@pytest.mark.parametrize("status", [403, 404])
def test_no_next_root_may_be_said_by_403_or_404(client, status):
    """Buckets say 403."""
    client.server.faults["metadata/2.root.json"] = Fault(status=status)
    assert client.refresh() == 0


def test_metadata_that_does_not_end_is_refused(client):
    """Each role has its largest size; the rest is not even read."""
    client.server.files["metadata/timestamp.json"] = b"{" + b" " * 20_000_000
    assert client.refresh() == 1
    assert client.server.sent_bytes < 10_000_000
    assert client.version("timestamp") is None


def test_a_delegation_is_walked_in_order_of_trust(client):
    """Depth first; a role whose paths do not match is not asked for."""
    repository = client.repository
    repository.delegate("a", ["*"], [10])
    repository.delegate("b", ["x/*"], [11])
    repository.delegate("c", ["*.bin"], [12])
    repository.delegate("aa", ["*"], [13], delegator="a")
    repository.add("target.bin", b"yes", role="c")
    repository.publish("a", "aa", "b", "c", "targets")
    assert client.download("target.bin") == 0
    assert client.got() == {"target.bin": b"yes"}
    assert client.asked()[4:] == ["1.a.json", "1.aa.json", "1.c.json"]


def test_a_terminating_delegation_ends_the_search(client):
    """What it does not know is nowhere."""
    client.repository.delegate("a", ["models/a/*"], [10], terminating=True)
    client.repository.delegate("b", ["*/*/*"], [11])
    client.repository.add("models/a/x", b"from b", role="b")
    client.repository.publish("a", "b", "targets")
    assert client.download("models/a/x") == 1
    assert client.got() == {}
    assert "1.b.json" not in client.asked()


def test_a_circle_and_a_long_row_of_delegations_end(client):
    """Each role is visited once, and at most 32 of them."""
    client.repository.delegate("a", ["*"], [10])
    client.repository.delegate("targets", ["*"], [3], delegator="a")
    client.repository.publish("a", "targets")
    assert client.download("nowhere") == 1
    for number in range(40):
        above = f"r{number - 1}" if number else "targets"
        client.repository.delegate(f"r{number}", ["*"], [11], delegator=above)
    client.repository.publish(*(f"r{number}" for number in range(40)), "targets")
    assert client.download("nowhere") == 1
    assert len([name for name in client.asked() if ".r" in name and "root" not in name]) <= 32


def test_a_role_reached_by_two_ways_is_checked_on_each(client):
    """A diamond: what one parent's key signed is not taken for the other parent's word."""
    repository = client.repository
    repository.delegate("left", ["*/*"], [10])
    repository.delegate("right", ["*/*"], [11])
    repository.delegate("shared", ["a/*"], [12], delegator="left", terminating=False)
    repository.delegate("shared", ["b/*"], [13], delegator="right")
    repository.keys["shared"] = [12]
    repository.add("a/x", b"for the left one", role="shared")
    repository.add("b/x", b"signed by the left key only", role="shared")
    repository.publish("shared", "left", "right", "targets")
    assert client.download("a/x", "b/x") == 1
    assert client.download("b/x") == 1
    assert client.got() == {"a%2Fx": b"for the left one"}


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "a b", "%2e"])
def test_unusual_role_names_stay_in_the_folder(client, role):
    """Quoted in the request and on the disk."""
    client.repository.delegate(role, ["*"], [10])
    client.repository.publish(role, "targets")
    assert client.download("nowhere") == 1
    assert len(list(client.metadata.glob("*.json"))) == 5
    assert {path.name for path in client.metadata.parent.iterdir()} == {"metadata", "targets", "anchor.json"}


@pytest.mark.parametrize("name", ["plain", "a/b/c", "with space", "ümlaut", "..a", "100%25", "a/../../../b"])
def test_target_names_stay_in_the_folder(client, name):
    """One file per target, below the folder, whatever its name."""
    client.repository.add(name, b"content")
    client.server.files = client.repository.files = _normal(client.server.files)
    client.repository.publish()
    assert client.download(name) == (1 if ".." in name.split("/") else 0)
    assert all(path.parent == client.targets for path in client.targets.rglob("*"))
    assert {path.name for path in client.metadata.parent.iterdir()} == {"metadata", "targets", "anchor.json"}


def test_several_targets_share_one_look_at_the_repository(client):
    """Metadata once; both files."""
    client.repository.add("a", b"1")
    client.repository.add("b", b"2")
    client.repository.publish()
    assert client.download("a", "b") == 0
    assert client.got() == {"a": b"1", "b": b"2"}
    assert client.asked() == ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"]


def test_the_first_failure_among_several_targets_is_the_last_thing_done(client):
    """What came before stays, what comes after is not asked for."""
    client.repository.add("a", b"1")
    client.repository.add("c", b"3")
    client.repository.publish()
    assert client.download("a", "b", "c") == 1
    assert client.got() == {"a": b"1"}


def test_a_good_target_is_not_fetched_again_and_a_damaged_one_is(client):
    """Checked by its signed hash each time."""
    client.repository.add("a", b"good")
    client.repository.publish()
    assert client.download("a") == 0
    assert client.download("a") == 0
    assert client.server.asked("targets/") == []
    (client.targets / "a").write_bytes(b"gone")
    assert client.download("a") == 0
    assert len(client.server.asked("targets/")) == 1
    assert client.got() == {"a": b"good"}


def test_a_new_version_of_a_target_takes_the_place_of_the_old(client):
    """The same file name."""
    client.repository.add("a", b"old")
    client.repository.publish()
    client.download("a")
    client.repository.add("a", b"newer")
    client.repository.publish()
    assert client.download("a") == 0
    assert client.got() == {"a": b"newer"}


@pytest.mark.parametrize("content", [b"good?", b"good and more", b"g", b""])
def test_a_target_that_was_exchanged_is_refused(client, content):
    """Same length, longer, shorter, empty: the good one stays, and nothing of the bad one does."""
    client.repository.add("a", b"good!")
    client.repository.publish()
    client.download("a")
    other = client.repository.add("b", b"good.")
    client.repository.publish()
    client.server.files[f"targets/{other.hashes['sha256']}.b"] = content
    assert client.download("b") == 1
    finished = {name: data for name, data in client.got().items() if not name.endswith(".part")}
    assert finished == {"a": b"good!"}


def test_a_repository_without_consistent_snapshots_works(client):
    """Plain names, for metadata and for targets."""
    client.server.files.clear()
    client.repository = TufRepository(client.server.files, consistent=False)
    assert client.init() == 0
    client.repository.add("d/a", b"1")
    client.repository.publish()
    assert client.download("d/a") == 0
    assert client.asked() == ["2.root.json", "timestamp.json", "snapshot.json", "targets.json"]
    assert client.got() == {"d%2Fa": b"1"}


def test_fields_that_nobody_knows_are_signed_and_kept(client):
    """In a role, a key and the root."""
    root = client.repository.root
    root.unrecognized_fields["more"] = "x"
    root.keys[root.roles["root"].keyids[0]].unrecognized_fields["more"] = {"a": 1}
    client.repository.publish_root()
    assert client.refresh() == 0
    assert client.version("root") == 2


def test_a_second_client_on_the_same_folder_is_turned_away(client, capsys):
    """One process at a time."""
    with locked(client.metadata / "lock") as free:
        assert free
        assert client.refresh() == 1
    assert "another client is at work" in capsys.readouterr().err
    assert client.server.requests == []


def test_it_runs_as_one_executable_file(client, tmp_path):
    """Started by its path alone, like the suite does; under a moved clock when there is faketime."""
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = [TOOL, "--metadata-dir", client.metadata, "--metadata-url", f"{client.server.url}/metadata", "refresh"]
    assert subprocess.run(words, env=env, check=False, timeout=60).returncode == 0
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("the rest needs the program faketime")
    late = days(400).strftime("%Y-%m-%d %H:%M:%S")
    done = subprocess.run([faketime, late, *words], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "is expired" in done.stderr) == (1, True), done.stderr


def test_the_public_suite_passes(tmp_path):
    """All of it, against this client."""
    checkout = os.environ.get("TUF_CONFORMANCE")
    if not checkout:
        pytest.skip("set TUF_CONFORMANCE to a checkout of the TUF conformance suite to run it")
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": checkout,
    }
    words = [sys.executable, "-m", "pytest", "tuf_conformance", "--entrypoint", TOOL, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 100
    assert "xfailed" not in done.stdout


def _normal(files):
    """A server sees a path with its dots resolved."""
    return {os.path.normpath(path): data for path, data in files.items()}


"""Attacks on the way of an update, from its metadata to its files: refused, said, and what is there stays.

The letters are the rows of the table of attacks in docs/security.md.
"""

import contextlib
import hashlib
import io
import lzma
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.errors import UpdateError
from agent.package import Blob, Delta, FileEntry
from agent.package.chunks import cut, encode_chunks
from agent.package.squeeze import difference, squeeze
from agent.updates.client import Repository
from agent.updates.floor import HOUR_S, RELEASED_S, YEAR_S, Floor
from agent.updates.local import BASE, LocalFetcher
from agent.updates.pace import Limits
from agent.updates.ways import fetch_files
from agent.updates.web import WebFetcher
from tests.fault_server import Fault, FaultServer
from tests.tuf_repository import TufRepository, days

ROOT = Path(__file__).resolve().parent.parent
QUICK = Limits(retry_s=0.02, silence_s=5.0, keep_free_bytes=0, tries=3)
DAY_S = 86400.0
POINTER = "models/keywords/stable.json"


def blob(data):
    return Blob(len(data), hashlib.sha256(data).hexdigest())


class Site:
    """A repository with one model family on a server, and a device that looks at it."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.tuf = TufRepository(server.files)
        self.tuf.delegate("model-keywords", ["models/keywords/*"], [8], terminating=True)
        self.tuf.add(POINTER, b'{"v":1}', role="model-keywords")
        self.tuf.publish("model-keywords", "targets")
        self.root = self.tuf.anchor

    def publish(self, data):
        """A new state of the pointer, signed as it should be."""
        self.tuf.add(POINTER, data, role="model-keywords")
        self.tuf.publish("model-keywords")

    def read(self, floor=None, limits=QUICK):
        """What the device reads after a refresh."""
        with Repository(self.folder / "metadata", self.server.url, self.root, WebFetcher(limits), floor) as repository:
            repository.refresh()
            return repository.read(POINTER, 1 << 16)

    def refused(self, **kwargs):
        with pytest.raises(UpdateError) as caught:
            self.read(**kwargs)
        return caught.value

    def pointer_url(self):
        return next(path for path in self.server.files if path.endswith(".stable.json"))


@pytest.fixture
def site(tmp_path):
    with FaultServer() as server:
        yield Site(tmp_path, server)


def test_a_target_is_read_and_one_that_nobody_signed_is_not(site):
    """The plain case: known, read, limited, and kept files are not fetched again."""
    with Repository(site.folder / "metadata", site.server.url + "/", site.root, WebFetcher(QUICK)) as repository:
        with pytest.raises(UpdateError, match="was not refreshed"):
            repository.read(POINTER, 100)
        repository.refresh()
        assert repository.read(POINTER, 100) == b'{"v":1}'
        assert (repository.known(POINTER), repository.known("models/keywords/9.json")) == (True, False)
        assert repository.read("models/other/x", 100) is None
        assert repository.sha256(POINTER) == hashlib.sha256(b'{"v":1}').hexdigest()
        with pytest.raises(UpdateError, match="at most 3 are taken"):
            repository.read(POINTER, 3)
        kept = site.folder / "kept"
        kept.write_bytes(b'{"v":1}')
        site.server.requests.clear()
        assert repository.read(POINTER, 100, kept) == b'{"v":1}'
        assert site.server.requests == []
        kept.write_bytes(b'{"v":2}')
        assert repository.read(POINTER, 100, kept) == b'{"v":1}'


def test_a_folder_gives_the_same_as_a_server(site, tmp_path):
    """A stick with a copy of the repository, and the same checks."""
    stick = tmp_path / "stick"
    for path, data in site.server.files.items():
        (stick / path).parent.mkdir(parents=True, exist_ok=True)
        (stick / path).write_bytes(data)
    with Repository(tmp_path / "m", BASE, site.root, LocalFetcher(stick, QUICK)) as repository:
        repository.refresh()
        assert repository.read(POINTER, 100) == b'{"v":1}'
    (stick / site.pointer_url()).write_bytes(b'{"v":9}')
    with Repository(tmp_path / "m", BASE, site.root, LocalFetcher(stick, QUICK)) as repository:
        repository.refresh()
        with pytest.raises(UpdateError) as caught:
            repository.read(POINTER, 100)
    assert caught.value.reason == "VERIFY_FAILED"


def test_a1_a_target_without_end_stops_at_its_signed_length(site):
    """26 MB in chunks where 7 bytes were signed."""
    site.server.faults[site.pointer_url()] = Fault(endless=True)
    assert site.refused().reason == "VERIFY_FAILED"
    assert site.server.sent_bytes < 5_000_000


def test_a2_a_wrong_bit_is_refused(site):
    """In a target, and in each file of metadata."""
    metadata = ("timestamp", "2.snapshot", "2.targets", "1.model-keywords")
    for path in (site.pointer_url(), *(f"metadata/{name}.json" for name in metadata)):
        shutil.rmtree(site.folder / "metadata", ignore_errors=True)
        site.server.faults = {path: Fault(flip=len(site.server.files[path]) // 2)}
        assert site.refused().reason in {"VERIFY_FAILED", "REJECTED_BAD_SIGNATURE"}, path
    site.server.faults = {}
    assert site.read() == b'{"v":1}'


def test_a3_metadata_that_is_cut_short_is_fetched_again_and_said_cleanly(site):
    """Two cuts heal; a link that stays broken is a failed download, never a foreign error."""
    site.server.faults["metadata/2.snapshot.json"] = Fault(times=2, cut_after=100)
    assert site.read() == b'{"v":1}'
    site.publish(b'{"v":2}')
    site.server.faults["metadata/3.snapshot.json"] = Fault(cut_after=100, reset=True)
    assert site.refused().reason == "DOWNLOAD_FAILED"


def test_a5_a_trickle_of_metadata_is_broken_off(site):
    """Within the grace."""
    site.server.faults["metadata/timestamp.json"] = Fault(trickle_s=0.05)
    start_s = time.monotonic()
    assert site.refused(limits=Limits(grace_s=0.5, keep_free_bytes=0)).reason == "TIMED_OUT"
    assert time.monotonic() - start_s < 4


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500), Fault(status=403), Fault(page=True), Fault(location="/metadata/timestamp.json"),
        Fault(silent=True),
    ],
    ids=["500", "403", "portal", "loop", "silent"],
)  # fmt: skip
def test_a6_a_broken_server_is_a_clean_error_and_the_next_try_works(site, fault):
    """What was proved before stays, and nothing of the trouble does."""
    assert site.read() == b'{"v":1}'
    before = sorted((path.name, path.read_bytes()) for path in (site.folder / "metadata").glob("*.json"))
    site.publish(b'{"v":2}')
    site.server.faults["metadata/timestamp.json"] = fault
    limits = Limits(retry_s=0.02, silence_s=0.3, keep_free_bytes=0, tries=2)
    assert site.refused(limits=limits).reason == "DOWNLOAD_FAILED"
    assert sorted((path.name, path.read_bytes()) for path in (site.folder / "metadata").glob("*.json")) == before
    site.server.faults = {}
    assert site.read() == b'{"v":2}'


def test_a8_a_second_updater_is_turned_away_and_the_first_goes_on(site):
    """Another process holds the metadata: busy, at once, without a request; free again when it has died."""
    hold = (
        "import pathlib, sys\nfrom agent.durable import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print(1, flush=True), input()"
    )
    site.read()
    words = [sys.executable, "-c", hold, site.folder / "metadata" / "lock"]
    other = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        site.server.requests.clear()
        assert site.refused().reason == "REJECTED_BUSY"
        assert site.server.requests == []
    finally:
        other.kill()
        other.communicate()
    assert site.read() == b'{"v":1}'


def test_a_rollback_of_the_repository_is_refused_after_a_restart(site):
    """What the device has seen is on its disk."""
    old = dict(site.server.files)
    site.publish(b'{"v":2}')
    assert site.read() == b'{"v":2}'
    site.server.files.clear()
    site.server.files.update(old)
    assert site.refused().reason == "REJECTED_ROLLBACK_ATTACK"


def test_b3_metadata_is_on_the_disk_before_it_counts(site, monkeypatch):
    """Each file is flushed, then named, then its folder is flushed: a power cut never brings an older state back."""
    steps = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(handle):
        fsync(handle)
        steps.append(("flushed", Path(f"/proc/self/fd/{handle}").readlink().name))

    def noted_rename(old, new):
        rename(old, new)
        steps.append(("named", Path(new).name))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    site.read()
    for name, folder in (("1.root.json", "root_history"), ("timestamp.json", "metadata"), ("targets.json", "metadata")):
        place = steps.index(("named", name))
        assert steps[place - 1 : place + 2] == [("flushed", f"{name}.new"), ("named", name), ("flushed", folder)]


def test_another_repository_is_not_believed(site):
    """Well signed, by other keys."""
    site.tuf.rekey("timestamp", [77])
    site.tuf.publish_timestamp()
    assert site.refused().reason == "REJECTED_BAD_SIGNATURE"


# --- time


class TurnedClock:
    """Wall time as a test sets it."""

    def __init__(self, wall_s):
        self.now_s = wall_s

    def mono_s(self):
        return time.monotonic()

    def wall_s(self):
        return self.now_s

    def state(self):
        return "unsynced"

    def sleep(self, seconds):
        time.sleep(seconds)


@pytest.fixture
def floor_of(tmp_path):
    """Makes the floor of a start of the updater at some wall time, days from now; no time server in sight."""
    now_s = time.time()

    def start(at_days, released_days=-100.0):
        clock = TurnedClock(now_s + at_days * DAY_S)
        return Floor(tmp_path / "floor.json", clock, now_s + released_days * DAY_S, tmp_path / "timesync")

    return start


def in_1970(floor_of):
    return floor_of(0.5 - time.time() / DAY_S)


def test_c1_a_clock_in_1970_installs_what_is_fresh(site, floor_of):
    """The release's date stands in for the time."""
    assert site.read(in_1970(floor_of)) == b'{"v":1}'


def test_c2_a_clock_in_1970_does_not_accept_what_is_frozen(site, floor_of):
    """The server shows what was signed for a week; the device knew a later time before it lost its clock."""
    assert site.read(floor_of(0)) == b'{"v":1}'
    assert site.refused(floor=floor_of(8)).reason == "REJECTED_EXPIRED"
    error = site.refused(floor=in_1970(floor_of))
    assert error.reason == "REJECTED_EXPIRED"
    assert "signs anew" in str(error)
    assert "its clock says 1970-01-01: set it" in str(error)


def test_c2_metadata_older_than_the_release_is_refused_on_a_first_start(site, floor_of):
    """Nothing kept yet, a clock in 1970: the release's date is enough."""
    site.tuf.timestamp.expires = days(-3)
    site.tuf.publish_timestamp()
    assert site.read(floor_of(-9000, released_days=-9)) == b'{"v":1}'
    assert site.refused(floor=floor_of(-9000, released_days=-1)).reason == "REJECTED_EXPIRED"


def test_c3_a_clock_ten_years_ahead_refuses_and_poisons_nothing(site, floor_of):
    """Refused while it is wrong; installed as soon as it is right again."""
    assert site.read(floor_of(0)) == b'{"v":1}'
    wrong = floor_of(3650)
    assert site.refused(floor=wrong).reason == "REJECTED_EXPIRED"
    wrong.keep()
    site.publish(b'{"v":2}')
    right = floor_of(1)
    assert abs(right.now_s() - time.time() - DAY_S) < HOUR_S
    assert site.read(right) == b'{"v":2}'


def test_c3_nor_does_one_that_runs_ahead_in_steps(floor_of, tmp_path):
    """Eleven months at a time: at most a year beyond the last time that signed metadata vouched for."""
    for step in range(1, 30):
        floor_of(step * 330).keep()
    assert floor_of(0).floor_s <= time.time() - 100 * DAY_S + YEAR_S
    (tmp_path / "timesync").touch()
    os.utime(tmp_path / "timesync", (0, time.time() + 10 * YEAR_S))
    assert floor_of(0).floor_s <= time.time() - 100 * DAY_S + YEAR_S


def test_c4_metadata_that_expired_while_offline_recovers_at_the_first_refresh(site, floor_of):
    """60 days without a network: refused only as long as nothing new is signed."""
    assert site.read(floor_of(0)) == b'{"v":1}'
    later = floor_of(60)
    assert site.refused(floor=later).reason == "REJECTED_EXPIRED"
    for role in ("timestamp", "snapshot", "targets"):
        site.tuf.roles[role].signed.expires = days(90)
    site.tuf.roles["model-keywords"].signed.expires = days(90)
    site.tuf.publish("model-keywords", "targets")
    assert site.read(later) == b'{"v":1}'


def test_a_device_from_the_shelf_believes_its_clock_when_signed_metadata_does(site, floor_of):
    """Two years after its release: not believed at first, vouched for by metadata that has not expired."""
    floor = floor_of(0, released_days=-800)
    assert floor.floor_s < time.time() - YEAR_S
    assert site.read(floor) == b'{"v":1}'
    assert abs(in_1970(floor_of).floor_s - time.time()) < HOUR_S


def test_the_floor_is_written_at_most_hourly_and_survives_damage(floor_of, tmp_path):
    """Flash wears; a damaged file is as good as none, never a crash."""
    file = tmp_path / "floor.json"
    floor_of(0).keep()
    first = file.read_bytes()
    floor_of(0.5 / 24).keep()
    assert file.read_bytes() == first
    floor_of(1.5 / 24).keep()
    assert file.read_bytes() != first
    for damage in (b"", b"{", b'{"schema":1}', b'{"schema":1,"floor_s":1e99,"vouched_s":1}', b"[1]", bytes(9000)):
        file.write_bytes(damage)
        assert floor_of(0).now_s() == pytest.approx(time.time(), abs=60)
    assert time.time() > RELEASED_S


def test_the_clock_file_of_timesyncd_raises_the_floor(floor_of, tmp_path):
    """Its time of change is the last synchronised time."""
    (tmp_path / "timesync").touch()
    assert in_1970(floor_of).now_s() == pytest.approx(time.time(), abs=60)


# --- keys


def test_d1_300_new_roots_while_offline(site):
    """Caught up with in two looks."""
    for _ in range(300):
        site.tuf.publish_root()
    with contextlib.suppress(UpdateError):
        site.read()
    assert site.read() == b'{"v":1}'


def test_d2_a_stolen_online_key_installs_nothing_and_new_keys_end_it(site):
    """It can sign snapshots and timestamps; targets it cannot, and rotation takes even that away."""
    assert site.read() == b'{"v":1}'
    good = site.tuf.keys["model-keywords"]
    site.tuf.keys["model-keywords"] = [66]
    site.publish(b'{"v":"evil"}')
    assert site.refused().reason == "REJECTED_BAD_SIGNATURE"
    site.tuf.keys["model-keywords"] = good
    for number, role in enumerate(("timestamp", "snapshot")):
        site.tuf.rekey(role, [40 + number])
    site.tuf.publish_root()
    site.publish(b'{"v":3}')
    assert site.read() == b'{"v":3}'
    site.tuf.keys["timestamp"] = [1]
    site.tuf.publish_timestamp()
    assert site.refused().reason == "REJECTED_BAD_SIGNATURE"


# --- files


class Depot:
    """Files that the device has, by their sha256, and a server with blobs."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.files = {}
        self.told = []

    def own(self, data, name="old"):
        path = self.folder / name
        path.write_bytes(data)
        self.files[hashlib.sha256(data).hexdigest()] = path
        return path

    def serve(self, data):
        self.server.files[f"blobs/{blob(data).sha256}"] = data
        return blob(data)

    def entry(self, data, path="weights.onnx", **ways):
        return FileEntry(path, len(data), self.serve(data).sha256, **ways)

    def fetch(self, *entries, limits=QUICK):
        """Bring them; the bytes that came over the wire."""
        fetcher = WebFetcher(limits)
        fetch_files(
            entries, self.folder / "stage", self.files.get, fetcher, f"{self.server.url}/blobs",
            lambda done, total: self.told.append((done, total)), near=lambda entry: self.files.values(),
        )  # fmt: skip
        return fetcher.received_bytes

    def got(self, path="weights.onnx"):
        return (self.folder / "stage" / path).read_bytes()


@pytest.fixture
def depot(tmp_path):
    with FaultServer() as server:
        yield Depot(tmp_path, server)


NOISE = random.Random(5)
OLD = NOISE.randbytes(1_000_000)
HEAD = OLD[:980_000] + NOISE.randbytes(20_000)
TUNED = bytes((byte + (1 if NOISE.random() < 0.1 else 0)) & 255 for byte in OLD)


def packed(blocks):
    return b"".join(squeeze(blocks))


def delta_of(old, new):
    return packed(difference(io.BytesIO(old), io.BytesIO(new)))


def chunks_of(data):
    return encode_chunks(cut(io.BytesIO(data)))


def test_files_come_whole_when_nothing_is_here(depot):
    """Several files in folders; progress ends at the total; nothing unfinished is left."""
    small = depot.entry(b"[model]", "model.toml")
    deep = depot.entry(OLD, "parts/a/weights.onnx")
    empty = depot.entry(b"", "empty")
    received = depot.fetch(small, deep, empty)
    assert (depot.got("model.toml"), depot.got("parts/a/weights.onnx"), depot.got("empty")) == (b"[model]", OLD, b"")
    assert depot.told[-1] == (len(OLD) + 7, len(OLD) + 7)
    assert all(a[0] <= b[0] for a, b in zip(depot.told, depot.told[1:], strict=False))
    assert len(OLD) < received < len(OLD) + 2000
    assert not (depot.folder / "stage" / ".parts").exists()


def test_what_is_here_is_not_fetched(depot):
    """The same file under another name, and a second call."""
    depot.own(OLD)
    entry = depot.entry(OLD)
    assert depot.fetch(entry) == 0
    assert depot.got() == OLD
    assert depot.fetch(entry) == 0


def test_a_new_head_costs_its_chunks(depot):
    """2 % changed: the list and what is around the change, in one request for it."""
    depot.own(OLD)
    entry = depot.entry(HEAD, chunks=depot.serve(chunks_of(HEAD)), xz=depot.serve(packed([HEAD])))
    assert depot.fetch(entry) < 45_000
    assert depot.got() == HEAD
    assert len(depot.server.requests) == 2


def test_a_fine_tune_costs_its_delta(depot):
    """A tenth of the bytes moved by one: the delta, because no chunk stayed."""
    depot.own(OLD)
    delta = delta_of(OLD, TUNED)
    entry = depot.entry(
        TUNED, chunks=depot.serve(chunks_of(TUNED)),
        deltas=(Delta(blob(OLD).sha256, len(delta), depot.serve(delta).sha256),),
    )  # fmt: skip
    assert depot.fetch(entry) < len(delta) + 5000
    assert depot.got() == TUNED
    assert len(delta) < 0.12 * len(TUNED)


def test_a_new_model_that_packs_comes_packed(depot):
    """Half of it zeros."""
    data = OLD[:500_000] + bytes(500_000)
    entry = depot.entry(data, xz=depot.serve(packed([data])))
    assert depot.fetch(entry) < 505_000
    assert depot.got() == data


def test_changes_in_many_places_are_asked_for_together(depot):
    """Thirty places, two requests for them."""
    new = bytearray(OLD)
    for place in range(5000, 1_000_000, 33_333):
        new[place] ^= 255
    depot.own(OLD)
    entry = depot.entry(bytes(new), chunks=depot.serve(chunks_of(new)))
    received = depot.fetch(entry)
    assert depot.got() == bytes(new)
    assert received < 800_000
    assert len(depot.server.requests) <= 3


def test_chunks_that_came_before_the_link_broke_are_not_fetched_again(depot):
    """Half of the file is new; the link breaks, for good; the next update goes on."""
    new = OLD[:500_000] + NOISE.randbytes(500_000)
    depot.own(OLD)
    entry = depot.entry(new, chunks=depot.serve(chunks_of(new)))
    path = f"blobs/{entry.sha256}"
    depot.server.faults[path] = Fault(trickle_s=0.05, trickle_after=300_000)
    with pytest.raises(UpdateError) as caught:
        depot.fetch(entry, limits=Limits(grace_s=0.3, keep_free_bytes=0, retry_s=0.02))
    assert caught.value.reason == "TIMED_OUT"
    del depot.server.faults[path]
    assert depot.fetch(entry) < 230_000
    assert depot.got() == new


def bomb(length):
    """A small xz stream that unpacks to `length` zeros."""
    coder = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0)
    step = bytes(1 << 22)
    return b"".join(coder.compress(step) for _ in range(length // len(step))) + coder.flush()


@pytest.mark.parametrize("trick", ["noise", "bomb", "wrong bytes", "short", "trailing"])
def test_a9_a_hostile_delta_or_archive_is_refused_and_the_whole_file_used(depot, trick):
    """Signed as a way, wrong in itself: its output decides, within the signed length and little memory."""
    tricks = {
        "noise": lambda: NOISE.randbytes(5000), "bomb": lambda: bomb(100 << 20),
        "wrong bytes": lambda: packed([TUNED[:-1] + b"?"]),
        "short": lambda: packed([OLD[:1000]]), "trailing": lambda: packed([OLD]) + b"more",
    }  # fmt: skip
    bad = tricks[trick]()
    depot.own(OLD)
    new = HEAD
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    by_delta = depot.entry(new, "a", deltas=(Delta(blob(OLD).sha256, 10, depot.serve(bad).sha256),))
    by_delta = FileEntry("a", len(new), by_delta.sha256, deltas=(Delta(blob(OLD).sha256, len(bad), blob(bad).sha256),))
    by_xz = FileEntry("b", len(new), by_delta.sha256, xz=blob(bad))
    depot.fetch(by_delta)
    assert depot.got("a") == new
    depot.fetch(by_xz)
    assert depot.got("b") == new
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 90_000  # KiB


def test_a9_a_delta_on_another_base_than_it_says_is_found_out(depot):
    """The depot's file has rotted: the output is wrong, the whole file comes."""
    depot.files[blob(OLD).sha256] = depot.own(TUNED)
    delta = delta_of(OLD, HEAD)
    entry = depot.entry(HEAD, deltas=(Delta(blob(OLD).sha256, len(delta), depot.serve(delta).sha256),))
    depot.fetch(entry)
    assert depot.got() == HEAD


@pytest.mark.parametrize("lie", ["hash", "length", "noise"])
def test_a9_a_chunk_list_that_lies_is_found_out(depot, lie):
    """Of wrong pieces, of another length, of nothing sensible."""
    depot.own(OLD)
    listed = {"hash": chunks_of(TUNED), "length": chunks_of(HEAD[:-5]), "noise": NOISE.randbytes(360)}[lie]
    entry = depot.entry(HEAD, chunks=depot.serve(listed))
    depot.fetch(entry)
    assert depot.got() == HEAD


@pytest.mark.parametrize("fault", [Fault(no_range=True), Fault(status=404, times=1), Fault(flip=990_000, times=1)])
def test_a9_a_server_that_fails_at_ranges_gives_the_whole_file(depot, fault):
    """No ranges, a passing 404, wrong bytes in a range."""
    depot.own(OLD)
    entry = depot.entry(HEAD, chunks=depot.serve(chunks_of(HEAD)))
    depot.server.faults[f"blobs/{entry.sha256}"] = fault
    depot.fetch(entry)
    assert depot.got() == HEAD


def test_a2_a4_a_wrong_whole_file_is_refused_and_leaves_nothing(depot):
    """No way gives the signed bytes: an error, no file, no part."""
    entry = depot.entry(HEAD)
    depot.server.faults[f"blobs/{entry.sha256}"] = Fault(flip=3)
    with pytest.raises(UpdateError) as caught:
        depot.fetch(entry)
    assert caught.value.reason == "VERIFY_FAILED"
    assert [path for path in (depot.folder / "stage").rglob("*") if path.is_file()] == []


def test_a3_a_package_goes_on_where_it_stopped(depot):
    """The file that was done, and the part of the one that was not, are still there."""
    first, second = depot.entry(OLD, "a"), depot.entry(HEAD, "b")
    depot.server.faults[f"blobs/{second.sha256}"] = Fault(cut_after=400_000, times=1)
    with pytest.raises(UpdateError):
        depot.fetch(first, second, limits=Limits(tries=1, keep_free_bytes=0))
    assert depot.fetch(first, second) < 601_000
    assert (depot.got("a"), depot.got("b")) == (OLD, HEAD)


def test_a_caller_that_has_had_enough_ends_it(depot):
    """What `progress` raises comes out at once, and no other way is tried after it."""
    depot.own(OLD)
    entry = depot.entry(HEAD, xz=depot.serve(packed([HEAD])), chunks=depot.serve(chunks_of(HEAD)))

    def refuse(done, total):
        raise UpdateError("cancelled", "CANCELED")

    with pytest.raises(UpdateError, match="cancelled"):
        fetch_files(
            [entry], depot.folder / "stage", depot.files.get, WebFetcher(QUICK), f"{depot.server.url}/blobs", refuse,
            near=lambda entry: depot.files.values(),
        )  # fmt: skip
    assert len(depot.server.requests) == 1


def test_progress_never_runs_backwards(depot):
    """Not even when an archive proves wrong at its end and the whole file comes after it."""
    entry = depot.entry(HEAD, xz=depot.serve(packed([HEAD[:-1] + b"?"])))
    depot.fetch(entry)
    done = [count for count, _ in depot.told]
    assert done == sorted(done)
    assert done[-1] == len(HEAD)


def test_a7_a_package_larger_than_the_disk_is_refused_before_a_byte(depot):
    """All of its files together, with the room that must stay free."""
    entry = depot.entry(OLD)
    with pytest.raises(UpdateError) as caught:
        depot.fetch(entry, limits=Limits(keep_free_bytes=1 << 60))
    assert caught.value.reason == "NO_SPACE"
    assert depot.server.requests == []

"""What a hostile neighbour of the updater can do to it: an agent that was taken over, a stick, a mirror."""

import bz2
import gzip
import json
import lzma
import os
import tarfile
import tracemalloc

import pytest

from agent.depot import Writer, read_state
from agent.depot.record import FACTORY, MODELS_LIMIT
from agent.depot.state import LIMIT_BYTES
from agent.errors import UpdateError
from agent.release.place import release_id
from agent.release.proof import FILES_LIMIT, ROLES
from agent.release.proof import prove as prove_release
from agent.release.wish import Wish
from agent.updates.client import ROOT_LIMIT_BYTES
from agent.updates.jobs import Book, Job, drop
from agent.updates.spool import work_local
from agent.updates.stick import unpacked
from tests import depot_life
from tests.depot_life import NAME, OLD, pick


class Device:
    """A depot with a committed model, and a spool."""

    def __init__(self, folder):
        self.depot, self.spool = folder / "depot", folder / "spool"
        self.depot.mkdir()
        self.spool.mkdir()
        depot_life.prepare(self.depot)
        self.book = Book(self.depot)

    def forge(self, name, **fields):
        """A job as a hostile agent writes it: no class of ours looks at it first."""
        table = {"schema": 1, "id": name, "do": "pin", "model": NAME} | fields
        (self.spool / f"{name}.json").write_text(json.dumps(table))

    def work(self):
        return work_local(self.depot, self.spool, self.book)

    def still_well(self):
        """The record is whole, the model is there, and an honest job is done."""
        state = read_state(self.depot)
        assert not state.damaged
        assert state.model(NAME).active == pick(OLD)
        drop(self.spool, Job("honest", "pin", NAME))
        self.work()
        assert self.book.get("honest").status == "successful", self.book.get("honest")
        assert not read_state(self.depot).alarm


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "full folder", "pipe", "link to nothing", "link to itself", "unreadable"])
def test_junk_in_the_spool_stops_no_job(device, kind):
    """Whatever lies there under the name of a job: the jobs after it are done."""
    path = device.spool / "junk.json"
    match kind:
        case "folder":
            path.mkdir()
        case "full folder":
            (path / "more").mkdir(parents=True)
        case "pipe":
            os.mkfifo(path)
        case "link to nothing":
            path.symlink_to("nowhere")
        case "link to itself":
            path.symlink_to(path)
        case "unreadable":
            path.write_bytes(b"\xff\xfe{")
            path.chmod(0)
    device.still_well()
    assert not os.path.lexists(path), "it would start the updater for ever"


@pytest.mark.parametrize("detail", [
    {"generation": 2**53}, {"generation": "9" * 400}, {"generation": 1e300}, {"resumed": "often"}, {"mode": "live"},
])  # fmt: skip
def test_a_job_writes_nothing_that_only_the_updater_knows(device, detail):
    """The generation of the record is the updater's own count: a forged one would wear it out."""
    device.forge("update", do="update", detail=detail)
    device.forge("activate", do="activate", version="9.9.9", detail=detail)
    assert device.work() == []
    assert (device.book.get("update"), device.book.get("activate")) == (None, None)
    device.still_well()


@pytest.mark.parametrize("detail", [{"text": "x"}, {"status": "successful"}, {"self": 1}, {"mode": "shadow"}])
@pytest.mark.parametrize("verdict", ["commit", "roll_back", "promote"])
def test_a_verdict_may_call_its_evidence_as_it_likes(device, detail, verdict):
    """Names that mean something to the updater end no process of it."""
    with Writer(device.depot) as writer:
        device.book.open(Job("job", "update", NAME)).move("probation")
        writer.save(writer.state.begin_trial(NAME, pick(0), tries=2, mode="shadow", job="job", now_s=0.0, older=True))
    device.forge("verdict", do="verdict", verdict=verdict, sha256=pick(0).sha256, detail=detail)
    device.work()
    assert not read_state(device.depot).damaged
    drop(device.spool, Job("honest", "unpin", NAME))
    device.work()
    assert device.book.get("honest").status == "successful"


def test_names_of_models_that_nobody_has_fill_no_record(device):
    """A flood of names would make the record larger than its limit; unpinning one says nothing worth keeping."""
    with Writer(device.depot) as writer:
        state = writer.state
        for n in range(MODELS_LIMIT - 1):
            state = state.pin(f"nobody-has-{n}")
        writer.save(state)
    device.forge("flood", model="one-too-many")
    device.forge("unpin", do="unpin", model="nor-this")
    device.work()
    assert len(read_state(device.depot).models) == MODELS_LIMIT
    assert "unpin" in device.book.get("flood").text
    device.still_well()


def test_a_pin_brings_back_nothing_old_and_nothing_bad(device):
    """A technician may pin; lowering the floor and forgetting what went wrong takes an admin's activate."""
    with Writer(device.depot) as writer:
        state = writer.state.activate(NAME, pick(OLD)).refuse(NAME, pick(0), "it went wrong")
        writer.save(state)
    depot_life.bring(device.depot, 0)
    for version, status in (("1.0.0", "failed"), ("factory", "successful")):
        device.forge(f"pin-{version}", version=version)
        device.work()
        assert device.book.get(f"pin-{version}").status == status
    model = read_state(device.depot).model(NAME)
    assert (model.floor, model.pinned) == ("1.1.0", FACTORY)
    assert model.is_bad(pick(0))
    device.forge("a-unpin", do="unpin")
    device.work()
    device.forge("back", version="1.1.0")  # the way back is open
    device.work()
    assert read_state(device.depot).model(NAME).pinned == pick(OLD)


def test_a_record_that_could_not_be_read_again_is_not_written(device):
    """One byte over the limit would turn every model into the factory's."""
    with Writer(device.depot) as writer:
        state = writer.state
        for n in range(LIMIT_BYTES // 160):
            state = state.refuse(f"model-{n}", pick(OLD), "for the test")
        with pytest.raises(UpdateError, match="larger than"):
            writer.save(state)
    device.still_well()


# --- a stick ---------------------------------------------------------------------------------------------------------


def _header(name="f", size=0, kind=tarfile.REGTYPE, pax=None):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.PAX_FORMAT) if pax is None else _pax(pax) + member.tobuf(tarfile.USTAR_FORMAT)


def _pax(fields):
    lines = b""
    for key, value in fields.items():
        text = f" {key}={value}\n".encode()
        size = len(text) + 2 if len(text) + 2 < 100 else len(text) + 3
        lines += b"%d" % size + text
    return _header("pax", len(lines), tarfile.XHDTYPE) + lines.ljust(-(-len(lines) // 512) * 512, b"\0")


def _packed(path, pieces, opener=open):
    with opener(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
    return path


def _zeros(mib):
    return (bytes(1 << 20) for _ in range(mib))


ODD = {
    "negative size": {"size": -512}, "year of the sun's end": {"mtime": "9" * 30}, "zero in a name": {"path": "a\0b"},
    "a way out": {"path": "a/../../out"}, "another way out": {"path": "/tmp/limpet-out"},
}  # fmt: skip


def _hostile(path, how):
    """An archive, or something under its name, that is none."""
    match how:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "header bomb":
            _packed(path, [_header("pax", 90 << 20, tarfile.XHDTYPE), *_zeros(90), _header()], lzma.open)
        case "long name bomb":
            _packed(path, [_header("n", 90 << 20, tarfile.GNUTYPE_LONGNAME), *_zeros(90), _header()], gzip.open)
        case "sparse map bomb":
            more = bytearray(512)
            more[504] = 1  # another header of holes follows
            sparse = bytearray(tarfile.TarInfo("s").tobuf(tarfile.GNU_FORMAT))
            sparse[156:157], sparse[482] = tarfile.GNUTYPE_SPARSE, 1
            sparse[148:156] = b"%06o\0 " % (sum(sparse) - sum(sparse[148:156]) + 8 * 32)
            _packed(path, [bytes(sparse), *(bytes(more) * 2048 for _ in range(64))], bz2.open)
        case "dictionary bomb":
            filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
            path.write_bytes(lzma.compress(_header(size=1 << 20) + bytes(1 << 20), filters=filters))
        case "data bomb":
            _packed(path, [_header(size=90 << 20), *_zeros(90)], lzma.open)
        case "cut off":
            path.write_bytes(gzip.compress(_header(size=5000) + bytes(5000))[:-20])
        case _:
            _packed(path, [_header(pax=ODD[how]), bytes(1024)])
    return path


@pytest.mark.parametrize("how", [
    "a pipe", "a device", "header bomb", "long name bomb", "sparse map bomb", "dictionary bomb", "data bomb", "cut off",
    *ODD,
])  # fmt: skip
def test_a_hostile_archive_is_refused_in_words_and_small_memory(tmp_path, how):
    """No wait, no bomb, no way out of its folder; nothing of it is left."""
    place = _hostile(tmp_path / "stick.tar", how)
    tracemalloc.start()
    try:
        with pytest.raises(UpdateError, match=r"stick\.tar"), unpacked(place, tmp_path / "into", 64_000_000):
            pass
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert {path.name for path in tmp_path.iterdir()} == {"stick.tar"}


def test_links_of_an_archive_are_passed_over(tmp_path):
    """What would be written through one lies in a plain folder of the archive's own."""
    link = tarfile.TarInfo("metadata")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    place = _packed(tmp_path / "stick.tar", [link.tobuf(), _header("metadata/out"), bytes(1024)])
    with unpacked(place, tmp_path / "into", 1_000_000) as folder:
        assert (folder / "metadata" / "out").is_file()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opener", [open, gzip.open, bz2.open, lzma.open])
def test_a_stick_may_be_packed_in_any_way(tmp_path, opener):
    """By its first bytes, not by its name."""
    body = b'{"x": 1}' * 20_000
    pieces = [_header("a/metadata/root.json", len(body)), body.ljust(-(-len(body) // 512) * 512, b"\0"), bytes(1024)]
    with unpacked(_packed(tmp_path / "stick", pieces, opener), tmp_path / "into", 64_000_000) as folder:
        assert (folder / "metadata" / "root.json").read_bytes() == body
    assert not (tmp_path / "into").exists()


# --- an updater that was taken over, towards root --------------------------------------------------------------------

ROOT_JSON = b'{"signed": {"version": 1}}'


@pytest.mark.parametrize("how", [
    "version 1e400", "version text", "deep", "a huge root", "a pipe", "a link", "a folder", "nothing", "many roots",
])  # fmt: skip
def test_root_refuses_hostile_metadata_in_words(tmp_path, how):
    """Every end is an answer: a root step that dies would be asked again at every look. Nothing fills root's disk."""
    metadata = tmp_path / "depot" / "metadata"
    (metadata / "root_history").mkdir(parents=True)
    for role in ROLES:
        (metadata / f"{role}.json").write_bytes(ROOT_JSON)
    path = metadata / "snapshot.json"
    path.unlink()
    match how:
        case "version 1e400":
            path.write_bytes(b'{"signed": {"version": 1e400}}')
        case "version text":
            path.write_bytes(b'{"signed": {"version": "../../etc"}}')
        case "deep":
            path.write_bytes(b"[" * 100_000)
        case "a huge root":
            path.write_bytes(ROOT_JSON)
            (metadata / "root_history" / "2.root.json").write_bytes(bytes(ROOT_LIMIT_BYTES + 1))
        case "a pipe":
            os.mkfifo(path)
        case "a link":
            path.symlink_to("/etc/shadow")
        case "a folder":
            path.mkdir()
        case "many roots":
            path.write_bytes(ROOT_JSON)
            for n in range(FILES_LIMIT + 50):
                (metadata / "root_history" / f"{n}.root.json").write_bytes(b"%d" % n)
            (metadata / "root_history" / "x.root.json").write_bytes(b"x")
    package = tmp_path / "depot" / "releases" / f"9.0.0-{'a' * 12}"
    package.mkdir(parents=True)
    (package / "package.json").write_bytes(b"{}")
    wish = Wish("try", release_id("9.0.0", "a" * 64), "9.0.0", "a" * 64)
    staging = tmp_path / "staging"
    with pytest.raises(UpdateError):
        prove_release(tmp_path / "depot", wish, b"{}", tmp_path / "accepted", staging)
    roots = {int(path.name.partition(".")[0]) for path in staging.rglob("*.root.json")}
    assert how != "many roots" or roots == set(range(50, FILES_LIMIT + 50))
    assert sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()) < 1 << 20

"""What an agent that was taken over can do to the updater through the spool: no more than asking."""

import json
import os

import pytest

from agent.depot import Writer, read_state
from agent.depot.record import FACTORY, MODELS_LIMIT
from agent.depot.state import LIMIT_BYTES
from agent.errors import UpdateError
from agent.updates.jobs import Book, Job, drop
from agent.updates.spool import work_local
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
    """A flood of names would make the record larger than its limit."""
    for n in range(MODELS_LIMIT + 20):
        device.forge(f"flood-{n}", do="pin", model=f"nobody-has-{n}")
        device.forge(f"unpin-{n}", do="unpin", model=f"nor-this-{n}")
    device.work()
    models = read_state(device.depot).models
    assert len(models) == MODELS_LIMIT
    assert not [name for name in models if name.startswith("nor-this")]
    assert device.book.get(f"flood-{MODELS_LIMIT + 19}").status == "failed"
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

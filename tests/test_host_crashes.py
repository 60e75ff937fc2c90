"""What a model does to its process stays there: crashes, hangs, greed, and the wait before another try."""

import os
import signal
import threading
import time

import pytest

from agent.errors import ModelError
from tests import hosts, vendors
from tests.hosts import fed, gone, pids, works

vendor = pytest.fixture(hosts.vendor)


@pytest.mark.parametrize(
    ("deed", "signal_name"), [(vendors.SEGFAULT, "SIGSEGV"), (vendors.ABORT, "SIGABRT"), (vendors.GREED, "SIGABRT")]
)
def test_a_model_that_takes_its_process_along_is_a_model_error(vendor, deed, signal_name):
    """It says how it ended, it is counted, and the next view after the wait finds another worker of the same host."""
    runner = vendor(memory_limit_mb=2000)
    assert works(runner)
    with pytest.raises(ModelError, match=f"vendor 1.0.0 .* its host ended with {signal_name}.*: tried again in"):
        runner.run(fed(deed))
    vendor.clock.sleep(61)
    assert works(runner)
    tally = runner.info.host
    assert (tally.starts, tally.crashes, tally.hangs) == (1, 1, 0)
    assert signal_name in tally.last


def test_a_run_that_hangs_is_killed_at_its_deadline(vendor):
    """Even one that holds Python's lock in C; afterwards nothing of it is left."""
    runner = vendor(deadline_s=0.3)
    assert works(runner)
    worker = pids(runner)[1]
    with pytest.raises(ModelError, match=r"its host was killed because a run took longer than 0\.3 s"):
        runner.run(fed(vendors.HANG))
    assert gone(worker)
    vendor.clock.sleep(61)
    assert works(runner)
    assert (runner.info.host.starts, runner.info.host.crashes, runner.info.host.hangs) == (1, 0, 1)


def test_a_host_that_serves_alone_is_killed_whole_and_loaded_again(vendor):
    """With threads there are no forks: who hangs is the host."""
    runner = vendor(deadline_s=0.3, threads=2, workers=4)
    assert works(runner)
    top, *workers = pids(runner)
    assert workers == []
    with pytest.raises(ModelError, match="a run took longer"):
        runner.run(fed(vendors.HANG))
    assert gone(top)
    vendor.clock.sleep(61)
    assert works(runner)
    assert (runner.info.host.starts, runner.info.host.hangs) == (2, 1)


def test_a_host_that_goes_is_started_again_once_for_all(vendor):
    """Two threads lose their connections with it: one crash is counted, one start follows."""
    runner = vendor(workers=2)
    both = threading.Barrier(2)

    def look():
        both.wait()
        runner.run(fed(vendors.LATE))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(pids(runner)) == 3
    threading.Timer(0.3, os.kill, (pids(runner)[0], signal.SIGKILL)).start()
    with pytest.raises(ModelError, match="its host ended with SIGKILL"):
        runner.run(fed(vendors.HANG))
    with pytest.raises(ModelError, match="its host ended with SIGKILL"):
        [runner.run(fed(1)) for _ in range(2)]
    vendor.clock.sleep(61)
    assert works(runner)
    assert works(runner)
    assert (runner.info.host.starts, runner.info.host.crashes) == (2, 1)


def test_a_crash_leaves_the_other_workers_alone(vendor):
    """What one worker is computing meanwhile comes out right, and its connection goes on."""
    runner = vendor(workers=2)
    late = []
    thread = threading.Thread(target=lambda: late.append(runner.run(fed(vendors.LATE))["y"][0, 0]))
    thread.start()
    while len(pids(runner)) < 2:
        time.sleep(0.01)
    with pytest.raises(ModelError, match="SIGSEGV"):
        runner.run(fed(vendors.SEGFAULT))
    thread.join(10)
    assert late == [vendors.LATE + 1]
    assert works(runner)


def test_until_the_wait_is_over_runs_are_refused_at_once(vendor):
    """The wait grows with every crash in a row, so that a model that crashes on every view keeps nobody busy."""
    runner, waits_s = vendor(), []
    for _ in range(6):
        with pytest.raises(ModelError, match="tried again in") as told:
            runner.run(fed(vendors.SEGFAULT))
        waits_s.append(runner._revival._due_s - vendor.clock.now_s)
        assert f"tried again in {waits_s[-1]:.1f} s" in str(told.value)
        before = pids(runner)
        with pytest.raises(ModelError, match="tried again in"):
            runner.run(fed(1))
        assert pids(runner) == before
        vendor.clock.sleep(waits_s[-1])
    ceilings = [0.5 * 2**i for i in range(6)]
    assert all(0.05 <= wait <= ceiling for wait, ceiling in zip(waits_s, ceilings, strict=True))
    assert works(runner)


def test_what_the_model_refuses_costs_no_process(vendor):
    """An error that the runtime reports is passed on with its words."""
    runner = vendor()
    with pytest.raises(ModelError, match="failed while running it: node 7 does not like this"):
        runner.run(fed(vendors.REFUSE))
    assert works(runner)
    assert (runner.info.host.crashes, runner.info.host.starts) == (0, 1)


def test_a_model_that_talks_without_end_fills_no_memory(vendor):
    """Of what it says a megabyte is kept, and it runs on."""
    runner = vendor()
    for _ in range(3):
        runner.run(fed(vendors.CHATTER))
    assert os.fstat(runner._revival._hosting._said).st_size <= 1 << 20
    assert works(runner)


def test_a_file_that_changed_meanwhile_is_not_loaded_again(vendor, tmp_path):
    """A host is only started again with the very bytes that were verified."""
    runner = vendor()
    os.kill(pids(runner)[0], signal.SIGKILL)
    (tmp_path / "model" / "net.tflite").write_bytes(b"something else")
    with pytest.raises(ModelError, match="SIGKILL"):
        runner.run(fed(1))
    vendor.clock.sleep(61)
    with pytest.raises(ModelError, match="its file has changed since it was opened: install the model again"):
        runner.run(fed(1))

"""The depot: what its record may say, how it changes, and what is left when it is damaged."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.depot import (
    AGENT,
    FACTORY,
    ModelState,
    State,
    Writer,
    burn_all,
    collect,
    folder_of,
    ordered,
    put,
    read_state,
    read_token,
    whole,
    write_token,
)
from agent.depot.record import BAD_LIMIT
from agent.depot.state import decode, encode
from agent.errors import UpdateError
from agent.package import version_order
from agent.progress import Progress
from tests import depot_life as life

NAME = life.NAME
V1, V2, V3 = life.pick(1), life.pick(2), life.pick(3)


def _tried(state, pick=V2, **how):
    return state.begin_trial(NAME, pick, **{"tries": 3, "mode": "live", "job": "j", "now_s": 1.0} | how)


def _committed(state, pick):
    return _tried(state, pick).commit(NAME, pick.sha256)


def _save(folder, change):
    with Writer(folder) as writer:
        return writer.save(change(writer.state))


def _bring(folder, number):
    life.bring(folder, number)
    return folder_of(folder, NAME, life.pick(number))


def test_a_commit_keeps_the_version_before_as_the_way_back_and_raises_the_floor():
    """Only a commit raises it: a failed trial can never stand in the way of going back."""
    state = _committed(State(), V1)
    tried = _tried(state, V2)
    assert (tried.model(NAME).active, tried.model(NAME).floor) == (V1, V1.version)
    model = tried.commit(NAME, V2.sha256).model(NAME)
    assert (model.active, model.good, model.trial, model.floor) == (V2, V1, None, V2.version)
    assert model.ways_back == (V2, V1, None)


def test_a_rolled_back_version_is_bad_and_is_not_tried_again():
    """The record says why."""
    state = _tried(_committed(State(), V1)).roll_back(NAME, V2.sha256, "wrong answers")
    assert state.model(NAME).active == V1
    assert state.model(NAME).is_bad(V2) == "wrong answers"
    with pytest.raises(UpdateError, match="wrong answers") as caught:
        _tried(state, V2)
    assert caught.value.reason == "PROBATION_FAILED"


def test_the_list_of_bad_versions_forgets_the_oldest_first():
    """It never grows beyond its limit."""
    state = State()
    for number in range(1, BAD_LIMIT + 4):
        state = _tried(state, life.pick(number)).roll_back(NAME, life.pick(number).sha256, "bad")
    assert [bad.version for bad in state.model(NAME).bad] == [f"1.{n}.0" for n in range(4, BAD_LIMIT + 4)]


def test_a_version_below_the_floor_is_refused_as_an_attack_unless_an_admin_activates_it():
    """Going back to what was good needs no permission."""
    state = _committed(_committed(State(), V1), V2)
    with pytest.raises(UpdateError, match="older than") as caught:
        _tried(state, V1)
    assert caught.value.reason == "REJECTED_ROLLBACK_ATTACK"
    assert state.go_back(NAME, "asked").model(NAME).active == V1
    lowered = state.activate(NAME, V1).model(NAME)
    assert (lowered.active, lowered.good, lowered.floor) == (V1, V2, V1.version)


def test_going_back_leads_to_the_version_before_then_to_the_factory_and_then_no_further():
    """Three deep: active, good, factory."""
    state = _committed(_committed(State(), V1), V2).go_back(NAME, "asked")
    assert (state.model(NAME).active, bool(state.model(NAME).is_bad(V2))) == (V1, True)
    state = state.go_back(NAME, "asked")
    assert state.model(NAME).active is None
    with pytest.raises(UpdateError, match="nothing before it"):
        state.go_back(NAME, "asked")


def test_each_start_burns_a_try_and_the_last_one_rolls_back():
    """Three tries: the swap that began it and two starts."""
    state = _tried(_committed(State(), V1), tries=3)
    left = []
    while state.model(NAME).trial:
        left.append(state.model(NAME).trial.tries_left)
        state = state.burn()
    assert left == [2, 1, 0]
    assert (state.model(NAME).active, bool(state.model(NAME).is_bad(V2))) == (V1, True)


def test_a_candidate_runs_only_with_a_token_that_proves_its_burnt_try(tmp_path):
    """No token, or one from before the burn that counts, and the committed version runs: it fails closed."""
    _save(tmp_path, lambda state: _committed(state, V1))
    _save(tmp_path, _tried)
    state = burn_all(tmp_path)
    model, token = state.model(NAME), tmp_path / "token"
    assert model.chosen(read_token(token)) == V1
    write_token(token, state.generation)
    assert model.chosen(read_token(token)) == V2
    assert model.chosen(state.generation + 1) == V1, "a later burn did not count for this trial"
    assert replace(model, trial=replace(model.trial, mode="shadow")).chosen(read_token(token)) == V1
    token.write_text("rubbish")
    assert model.chosen(read_token(token)) == V1


def test_the_agents_own_release_is_burnt_only_by_a_start_that_runs_it(tmp_path):
    """Models are burnt by every start."""
    _save(tmp_path, lambda s: s.begin_trial(AGENT, V2, tries=2, mode="live", job="j", now_s=0.0))
    assert burn_all(tmp_path).agent.trial.tries_left == 1
    assert burn_all(tmp_path, agent=True).agent.trial.tries_left == 0
    assert burn_all(tmp_path, agent=True).agent.trial is None


def test_a_pinned_model_takes_nothing_else_until_it_is_unpinned():
    """Neither a trial, nor a way back, nor an activation; the factory's model can be pinned too."""
    state = _committed(State(), V1).pin(NAME)
    for change in (_tried, lambda s: s.go_back(NAME, "asked"), lambda s: s.activate(NAME, V2)):
        with pytest.raises(UpdateError, match="pinned to"):
            change(state)
    assert _tried(state.unpin(NAME)).model(NAME).trial
    assert State().pin(NAME).model(NAME).pinned == FACTORY
    with pytest.raises(UpdateError, match="pinned to the factory"):
        _tried(State().pin(NAME))


def test_a_candidate_that_was_good_in_the_shadow_goes_live_with_a_try_of_its_own():
    """Its mode and its token change, nothing else does."""
    state = replace(_tried(State(), mode="shadow"), generation=7).promote(NAME, V2.sha256, 3)
    trial = state.model(NAME).trial
    assert (trial.mode, trial.tries_left, trial.burnt) == ("live", 2, 8)


def test_a_verdict_on_something_else_changes_nothing():
    """It comes too late, or twice."""
    for verdict in (lambda s: s.commit(NAME, V1.sha256), lambda s: s.roll_back(NAME, V1.sha256, "")):
        with pytest.raises(UpdateError, match="too late"):
            verdict(_tried(State(), V2))


_VERSIONS = st.from_regex(r"\A(0|[1-9]\d?)\.(0|[1-9]\d?)\.(0|[1-9]\d?)(-[a-z0-9]{1,3}(\.[a-z0-9]{1,3})?)?\Z")


@given(_VERSIONS, _VERSIONS)
def test_versions_are_ordered_as_the_repository_orders_them(one, other):
    """The floor and the channel must never disagree."""
    assert (ordered(one) < ordered(other)) == (version_order(one) < version_order(other))
    assert ordered("") < ordered(one)


DOINGS = ("try1", "try2", "try3", "commit", "roll_back", "burn", "back", "pin", "unpin", "old")


@given(st.lists(st.sampled_from(DOINGS)))
def test_whatever_happens_the_record_reads_back_and_what_is_needed_is_kept(doings):
    """Any order of transitions: refused ones change nothing, and the written record is the same."""
    state = State()
    doing = {
        "try1": lambda s: _tried(s, V1), "try2": lambda s: _tried(s, V2), "try3": lambda s: _tried(s, V3),
        "commit": lambda s: s.commit(NAME, s.model(NAME).trial.sha256 if s.model(NAME).trial else ""),
        "roll_back": lambda s: s.roll_back(NAME, s.model(NAME).trial.sha256 if s.model(NAME).trial else "", "bad"),
        "burn": lambda s: s.burn(), "back": lambda s: s.go_back(NAME, "asked"), "pin": lambda s: s.pin(NAME),
        "unpin": lambda s: s.unpin(NAME), "old": lambda s: s.activate(NAME, V1),
    }  # fmt: skip
    for name in doings:
        try:
            state = replace(doing[name](state), generation=state.generation + 1)
        except UpdateError:
            continue
        model = state.model(NAME)
        assert decode(encode(state)) == state
        assert {p for p in (model.active, model.good) if p} <= model.kept
        assert model.trial is None or not model.is_bad(model.trial.pick)
        assert model.active is None or model.pinned in (None, model.active)


def test_an_older_agent_reads_the_record_of_a_newer_one():
    """A release that rolls back must find its models: keys that it does not know are passed over."""
    state = _tried(_committed(State(), V1))
    table = json.loads(encode(state))
    table["models"][NAME] |= {"colour": "blue"}
    table["models"][NAME]["trial"] |= {"more": 1}
    table["models"][NAME]["active"] |= {"more": 1}
    del table["sum"]
    table["sum"] = hashlib.sha256(json.dumps(table, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
    assert decode(json.dumps(table).encode()) == state


@pytest.mark.parametrize("damage", ["", "\0\0\0", "rubbish", "[]", '{"schema": 2}', "flip", "deep", "huge"])
@pytest.mark.parametrize("file", ["state.json", "state.bak.json"])
def test_one_damaged_copy_of_the_record_costs_nothing(tmp_path, file, damage):
    """The other one counts, the damage is said, set aside for people, and healed by the next change."""
    before = _save(tmp_path, lambda state: _committed(state, V1))
    whole_text = (tmp_path / file).read_text()
    bad = {"flip": whole_text.replace("1.1.0", "1.1.1"), "deep": "[" * 100_000, "huge": "x" * 2_000_000}
    (tmp_path / file).write_text(bad.get(damage, damage))
    state = read_state(tmp_path)
    assert state.models == before.models
    assert state.generation == before.generation
    assert file in state.damaged
    healed = _save(tmp_path, lambda state: state.pin(NAME))
    assert read_state(tmp_path) == healed
    assert not healed.damaged
    assert file in healed.alarm
    assert (tmp_path / f"{file}.damaged").exists()


def test_a_record_that_is_gone_altogether_means_the_factorys_models_and_nothing_is_removed(tmp_path):
    """What lies on the disk may be the last good one; the next update finds it there and needs no download."""
    there = _bring(tmp_path, 1)
    _save(tmp_path, lambda state: _committed(state, V1))
    for file in ("state.json", "state.bak.json"):
        (tmp_path / file).write_bytes(b"")
    state = read_state(tmp_path)
    assert state.model(NAME).chosen(99) is None
    assert "factory" in state.damaged
    assert collect(tmp_path) == ()
    assert burn_all(tmp_path).generation == 1, "healed at the next start"
    assert collect(tmp_path) == ()
    assert whole(there, life.files(1))
    assert read_state(tmp_path).alarm


def test_an_old_copy_that_is_put_back_does_not_bring_the_past_back(tmp_path):
    """One old copy: the other counts, and it is said. The generation never goes back."""
    old = _save(tmp_path, lambda state: _committed(state, V1))
    saved = (tmp_path / "state.json").read_bytes()
    for _ in range(3):
        state = _save(tmp_path, lambda state: state.pin(NAME))
    (tmp_path / "state.json").write_bytes(saved)
    found = read_state(tmp_path)
    assert (found.generation, found.model(NAME).pinned) == (state.generation, V1)
    assert "an old one" in found.damaged
    assert _save(tmp_path, lambda state: state).generation > state.generation > old.generation


def test_old_copies_of_both_files_are_told_on_by_the_newest_job(tmp_path):
    """The count goes on above what a job noted, so no token and no trial of the past is believed again."""
    _save(tmp_path, lambda state: _committed(state, V1))
    copies = {file: (tmp_path / file).read_bytes() for file in ("state.json", "state.bak.json")}
    state = _save(tmp_path, lambda state: _committed(state, V2))
    for _ in range(5):
        state = _save(tmp_path, lambda state: state.pin(NAME))
    (tmp_path / "jobs").mkdir()
    done = Progress("j", "pin", "successful", detail={"generation": state.generation})
    (tmp_path / "jobs" / "j.json").write_bytes(done.encode())
    for file, data in copies.items():
        (tmp_path / file).write_bytes(data)
    with Writer(tmp_path) as writer:
        assert "an old one is back" in writer.state.damaged
        assert writer.save(writer.state).generation > state.generation
    assert "an old one is back" in read_state(tmp_path).alarm


def test_two_writers_at_once_do_not_lose_a_change(tmp_path):
    """Each waits for the other; one that holds on too long makes the other say busy."""
    threads = [
        threading.Thread(target=lambda n=n: _save(tmp_path, lambda s: s.changed(f"m{n}", ModelState(active=V1))))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_state(tmp_path).models) == 8
    with Writer(tmp_path), pytest.raises(UpdateError) as caught, Writer(tmp_path, wait_s=0.05):
        pass
    assert caught.value.reason == "REJECTED_BUSY"


def test_what_is_put_in_is_whole_read_only_and_readable_by_the_agent(tmp_path):
    """Files 0444, folders 0755, whatever the umask says."""
    before = os.umask(0o077)
    try:
        there = _bring(tmp_path, 1)
    finally:
        os.umask(before)
    modes = {path.relative_to(there).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in there.rglob("*")}
    assert modes == {"model.toml": 0o444, "golden": 0o755, "golden/weights.bin": 0o444, "package.json": 0o444}
    assert stat.S_IMODE(there.stat().st_mode) == 0o755
    assert stat.S_IMODE(there.parent.stat().st_mode) == 0o755


def test_what_was_not_signed_is_not_put_in(tmp_path):
    """A changed file, a file too many, a link, a missing file, another package."""

    def stage(change):
        staged = life.stage(tmp_path, 1)
        change(staged)
        with pytest.raises(UpdateError) as caught:
            put(tmp_path, NAME, V1, life.package(1), life.files(1), staged)
        assert caught.value.reason in ("VERIFY_FAILED", "FAILED")
        assert not folder_of(tmp_path, NAME, V1).exists()
        subprocess.run(["rm", "-rf", str(staged)], check=True)

    stage(lambda staged: (staged / "model.toml").write_bytes(b"version = 9\n"))
    stage(lambda staged: (staged / "more.bin").write_bytes(b"x"))
    stage(lambda staged: (staged / "link").symlink_to("/etc/passwd"))
    stage(lambda staged: (staged / "golden" / "weights.bin").unlink())
    with pytest.raises(UpdateError, match="not the package"):
        put(tmp_path, NAME, V1, life.package(2), life.files(1), life.stage(tmp_path, 1))


def test_a_model_that_rotted_is_replaced_when_it_is_put_in_again(tmp_path):
    """One flipped bit; one that is whole is let be."""
    there = _bring(tmp_path, 1)
    before = there.stat().st_ino
    _bring(tmp_path, 1)
    assert there.stat().st_ino == before
    weights = there / "golden" / "weights.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"\x03" + weights.read_bytes()[1:])
    assert not whole(there, life.files(1))
    _bring(tmp_path, 1)
    assert whole(there, life.files(1))


def test_only_what_nobody_needs_is_collected(tmp_path):
    """Never the active, the good one, the one on trial, the pinned one, nor a model that the record does not know."""
    for number in range(5):
        _bring(tmp_path, number)
    stranger = tmp_path / "models" / "stranger" / ("1.0.0-" + "a" * 12)
    stranger.mkdir(parents=True)
    _save(tmp_path, lambda state: _committed(_committed(state, life.pick(0)), life.pick(1)))
    _save(tmp_path, lambda state: _tried(state, life.pick(2)))
    gone = {path.name for path in collect(tmp_path)}
    assert gone == {folder_of(tmp_path, NAME, life.pick(n)).name for n in (3, 4)}
    assert stranger.is_dir()
    assert not any((tmp_path / "parts").iterdir())


def test_the_step_before_a_start_is_light():
    """Neither TUF nor numpy nor a runtime is loaded for tries and verdicts."""
    heavy = "numpy tuf urllib3 onnxruntime ai_edge_litert cv2 cryptography securesystemslib"
    script = (
        "import sys, agent.cli.update as u; from agent.updates import spool, verdicts;"
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_root())
    assert said.stdout.strip() == "[]"


def test_the_depot_needs_its_owner(tmp_path):
    """A folder that cannot be written says whose it is to be, and the record is as it was."""
    missing = tmp_path / "missing"
    with pytest.raises(UpdateError, match="user that owns"), Writer(missing):
        pass


def _root():
    return Path(__file__).resolve().parent.parent

"""Old formats: read as if they were new, rewritten with their comments, never guessed; and `limpet config`."""

import json
import subprocess
import sys
import tomllib

import pytest

from agent import migrations
from agent.config import make_config, read_tables
from agent.errors import ConfigError
from agent.layers.allowed import Layer
from agent.layers.record import RECORDS, Record, Remote
from agent.migrations import TOML, Ladder, drop_key, rename_key, replace_value, set_schema
from agent.reconfigure.rewrite import carry_out, plan
from tests.agents import ROOT, limpet, running, status
from tests.remote import device, files, fleet, in_mode, record, until

OLD = """\
# A device in the field.
schema = 0   # first of all

[device]
site = "plant"            # never changes
name = "pump-3"

[log] # quiet, please
  verbosity = "warning"   # was "info" # until May
burst = 10

[store]
budget_kib = 65536   # a small card
old_key = true

[sources.rows]
kind = "load"
"""
NEW = """\
# A device in the field.
schema = 1   # first of all

[device]
site = "plant"            # never changes
name = "pump-3"

[log] # quiet, please
  level = "warning"   # was "info" # until May
burst = 10

[store]
budget_mib = 64   # a small card
# no longer known: old_key = true

[sources.rows]
kind = "load"
"""


def _to_one(text):
    """A step such as a release would record: a renamed key, another unit, a key that is gone."""
    text = rename_key(text, "log", "verbosity", "level")
    if "budget_kib" in text:
        text = replace_value(text, "store", "budget_kib", lambda kib: str(int(kib) // 1024))
    text = rename_key(text, "store", "budget_kib", "budget_mib")
    return set_schema(drop_key(text, "store", "old_key"), 1)


LADDER = Ladder("limpet.toml", 1, {0: _to_one})


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "limpet.toml"
    path.write_text(OLD)
    path.chmod(0o640)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text('[log]\nverbosity = "error" # louder\n')
    return path


def test_there_is_no_step_today_and_the_tables_say_so():
    """Every format is its first: a step that is added here has to come with a test of its own."""
    assert (TOML.current, dict(TOML.steps)) == (1, {})
    assert (RECORDS.current, dict(RECORDS.steps)) == (1, {})


def test_a_step_keeps_comments_order_and_everything_that_it_does_not_name():
    """What the operator wrote is the operator's."""
    assert _to_one(OLD) == NEW
    assert _to_one(NEW) == NEW, "a step does not mind being run twice"


def test_a_ladder_is_climbed_one_recorded_step_at_a_time():
    """n to n + 1, in order, from wherever the document stands."""
    ladder = Ladder("thing", 4, {2: lambda d: [*d, "to 3"], 3: lambda d: [*d, "to 4"]})
    assert ladder.climb([], 2, "f") == ["to 3", "to 4"]
    assert ladder.climb([], 3, "f") == ["to 4"]
    assert ladder.climb([], 4, "f") == []
    wrong = ((5, "newer than this agent"), (1, "no way from 1 to 4"), (True, "no version"), ("2", "no version"))
    for schema, words in wrong:
        with pytest.raises(ConfigError, match=words):
            ladder.climb([], schema, "f")


def test_an_old_file_is_read_without_being_rewritten(old):
    """After an update the agent starts at once, and after going back the old agent finds its own file."""
    config = make_config(read_tables(old, LADDER), old)
    assert (config.log.level, config.store.budget_mib) == ("error", 64)
    assert old.read_text() == OLD


def test_a_rewrite_leaves_the_old_file_beside_the_new_one(old):
    """Same mode, a backup by the format's number, and what is read is the same before and after."""
    before = make_config(read_tables(old, LADDER), old)
    kept = carry_out(old, plan(old, LADDER))
    assert old.read_text() == NEW
    assert [path.name for path in kept] == ["a.toml.schema-0", "limpet.toml.schema-0"]
    assert (old.parent / "limpet.toml.schema-0").read_text() == OLD
    assert old.stat().st_mode & 0o777 == 0o640
    assert make_config(read_tables(old), old) == before
    assert plan(old, LADDER) == ()


def test_a_rewrite_that_stopped_halfway_is_finished_by_the_next(old):
    """limpet.toml, whose number decides, comes last; the first backup is never overwritten."""
    planned = plan(old, LADDER)
    assert [one.path.name for one in planned] == ["a.toml", "limpet.toml"]
    carry_out(old, planned[:1])
    assert make_config(read_tables(old, LADDER), old).log.level == "error"
    carry_out(old, plan(old, LADDER))
    assert old.read_text() == NEW
    assert "verbosity" in (old.parent / "conf.d" / "a.toml.schema-0").read_text()


def test_an_older_backup_is_never_overwritten(old):
    """An operator who went back and edited again keeps both."""
    aside = old.with_name("limpet.toml.schema-0")
    aside.write_text("mine")
    carry_out(old, plan(old, LADDER))
    assert aside.read_text() == "mine"
    assert old.with_name("limpet.toml.schema-0.1").read_text() == OLD


def test_a_rewrite_that_would_not_load_writes_nothing(old):
    """The strict loader sees the result first."""
    bad = Ladder("limpet.toml", 1, {0: lambda text: set_schema(text, 1)})
    with pytest.raises(ConfigError, match="unknown key 'verbosity'"):
        plan(old, bad)
    broken = Ladder("limpet.toml", 1, {0: lambda text: text.replace("]", "", 1)})
    with pytest.raises(ConfigError, match="would be no TOML"):
        plan(old, broken)
    assert old.read_text() == OLD
    assert sorted(p.name for p in old.parent.iterdir()) == ["conf.d", "limpet.toml"]


def test_a_newer_format_is_refused_with_what_to_do(old):
    """Never guessed at, neither by the loader nor by migrate."""
    old.write_text(OLD.replace("schema = 0", "schema = 9"))
    with pytest.raises(ConfigError, match="newer than this agent, which reads 1: update the agent"):
        plan(old, LADDER)
    child = limpet("config", "migrate", "--config", old)
    assert "newer than this agent" in child.communicate(timeout=30)[1]
    assert child.returncode == 2


def test_edits_see_quotes_headers_and_commented_keys():
    """A # in a string is no comment, and a key that is commented out is no key."""
    text = '# level = "a"\n[log]\n#level = "b"\nlevel = "c # d" # e\n[[log.level]]\nlevel = 1\n'
    assert rename_key(text, "log", "level", "x") == text.replace('\nlevel = "c', '\nx = "c')
    changed = replace_value(text, "log", "level", lambda value: migrations.quoted(tomllib.loads(f"v={value}")["v"][:1]))
    assert 'level = "c" # e\n' in changed


# --- limpet config -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    with device(tmp_path) as made:
        yield made


def _config(*words):
    child = limpet("config", *words)
    out, errors = child.communicate(timeout=30)
    return child.returncode, out, errors


LAID = Remote(
    (Layer("base", {"schema": 1, "log": {"burst": 21}}),),
    {"log": {"level": "warning"}, "pipelines": {"count": {"class": "routine"}}},
)


def test_show_says_where_each_key_comes_from(place):
    """Files by their path, layers by their name, defaults on request."""
    _, config = place
    files(config).write(Record(1, LAID), Record())
    code, out, errors = _config("show", "--json", "--config", config)
    assert code == 0, errors
    rows = {row["key"]: row for row in map(json.loads, out.splitlines())}
    assert rows["log.burst"] == {"key": "log.burst", "value": 21, "from": "layer base"}
    assert rows["log.level"]["from"] == "layer set-config"
    assert rows["pipelines.count.class"]["value"] == "routine"
    assert rows["device.site"]["from"] == str(config)
    assert "cache.entries" not in rows
    _, out, _ = _config("show", "--all", "--config", config)
    assert "[cache]" in out
    assert any(line.startswith("entries = 1024") and line.endswith("# default") for line in out.splitlines())
    body = "\n".join(line for line in out.splitlines() if not line.startswith("# "))
    assert tomllib.loads(body)["log"] == {"burst": 21, "level": "warning"}


def test_diff_says_what_remote_layers_change(place):
    """Old value, new value, layer; the exit status tells whether there is anything."""
    _, config = place
    assert _config("diff", "--config", config)[:2] == (0, "nothing is changed from afar\n")
    files(config).write(Record(1, LAID), Record())
    code, out, _ = _config("diff", "--config", config)
    assert code == 1
    assert "log.burst: not set -> 21  (base)" in out
    assert 'pipelines.count.class: not set -> "routine"  (set-config)' in out


def test_revert_by_the_running_agent(place, tmp_path):
    """A change on trial is given up at once; what was kept goes back by the same way that it came."""
    made, config = place
    files(config).write(Record(1, LAID, before={}), Record())
    with running(config, tmp_path / "agent.log"):
        assert in_mode(made.socket, "normal")["configuration"]["layers"] == ["base", "set-config"]
        fleet(tmp_path, "base", "[log]\nburst = 21\n")
        code, out, errors = _config("revert", "--config", config)
        assert code == 0, errors
        assert "restarts" in out
        until(lambda: record(config).committed.settings == {})
        status(made.socket, lambda s: s["configuration"]["layers"] == ["base"])


def test_revert_while_no_agent_runs_counts_for_the_next_start(place, tmp_path):
    """The record says so, and the next agent keeps it."""
    made, config = place
    files(config).write(Record(1, LAID, before={"log": {"level": "error"}}), Record())
    code, out, errors = _config("revert", "--config", config)
    assert (code, out) == (0, "the next start goes back\n"), errors
    assert "on trial (revert)" in _config("diff", "--config", config)[1]
    assert _config("revert", "--config", config)[1] == "the change on trial is taken back\n"
    assert _config("revert", "--config", config)[1] == "the next start goes back\n"
    with running(config, tmp_path / "agent.log"):
        status(made.socket, lambda s: s["pipelines"]["count"]["results"])
        until(lambda: record(config).committed.settings == {"log": {"level": "error"}})


def test_migrate_has_nothing_to_do_today(place):
    """And says so."""
    _, config = place
    code, out, _ = _config("migrate", "--config", config)
    assert code == 0
    assert "its format is the current one" in out


def test_the_command_loads_no_heavy_package():
    """An operator on a small device waits for no runtime to see a setting."""
    code = "import sys, agent.cli.config; print(sorted({'cv2', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

"""Layers from afar: what they may change, what they never may, how they merge, and what is remembered of them."""

import dataclasses
import json
import re
import tomllib

import pytest

from agent.config import Config, read_tables
from agent.errors import ConfigError
from agent.health import Health
from agent.layerfiles import LayerFiles, read_fleet
from agent.layers import allowed
from agent.layers.allowed import Layer
from agent.layers.effective import effective, written_by
from agent.layers.record import Baseline, Provisional, Record, Remote, decode, encode
from agent.settings import capture
from agent.settings.core import ModelUse, PipelineConfig
from agent.settings.remote import RemoteConfig
from agent.settings.runtime import RuntimeOptions
from agent.strict import build
from tests.agents import ROOT

LOCAL = """
schema = 1
[device]
site = "plant"
name = "pump-3"
[paths]
pipelines = ["pipelines"]
[store]
folder = "outbox"
key_file = "store.key"
[updates]
folder = "depot"
group = "pumps"
[sources.rows]
kind = "load"
interval_s = 1.0
[sources.film]
kind = "replay"
path = "film.gif"
[sources.tool]
kind = "exec"
argv = ["cat", "rows.csv"]
output = "lines"
"""

DOOR = """
schema = 1
name = "door"
source = "rows"
[gate]
step = "interval"
every_s = 1.0
[detector]
step = "streaming_zscore"
threshold = 3.0
[[rule]]
kind = "appears"
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "front.toml").write_text(DOOR)
    (tmp_path / "limpet.toml").write_text(LOCAL)
    return tmp_path / "limpet.toml"


def _laid(path, *tables, extra=""):
    path.write_text(path.read_text() + extra)
    layers = [Layer(f"l{i}", table) for i, table in enumerate(tables)]
    return effective(path, read_tables(path), layers)


def test_every_harmless_table_takes_a_change(path):
    """What the list names can be changed, each key in its own table."""
    made = _laid(
        path,
        {
            "schema": 1, "log": {"level": "debug"}, "cache": {"size_mb": 2.0}, "store": {"budget_mib": 64},
            "uplink": {"window": 7}, "supervisor": {"revive_cap_s": 9.0}, "metrics": {"series_limit": 9},
            "updates": {"channel": "beta"}, "sources": {"rows": {"interval_s": 5.0}},
        },
    )  # fmt: skip
    config = made.config
    assert (config.log.level, config.cache.size_mb, config.store.budget_mib) == ("debug", 2.0, 64)
    assert (config.uplink.window, config.updates.channel) == (7, "beta")
    assert made.sources["rows"].interval_s == 5.0
    assert made.broken == {}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"device": {"name": "other"}}, r"layer l0 \[device\]: key 'name': may not be changed from afar"),
        ({"device": {}}, r"layer l0: key 'device'"),
        ({"paths": {"pipelines": ["/tmp"]}}, r"\[paths\]: key 'pipelines'"),
        ({"envelope": {"mode": "plain"}}, r"\[envelope\]: key 'mode'"),
        ({"envelope": {"readers": []}}, r"\[envelope\]: key 'readers'"),
        ({"uplink": {"broker": "mqtts://evil:8883"}}, r"\[uplink\]: key 'broker': may not be changed from afar: of"),
        ({"uplink": {"ca_file": "x"}}, r"\[uplink\]: key 'ca_file'"),
        ({"store": {"folder": "/tmp"}}, r"\[store\]: key 'folder'"),
        ({"store": {"key_file": "/tmp/k"}}, r"\[store\]: key 'key_file'"),
        ({"models": {"folders": ["/tmp"]}}, r"\[models\]: key 'folders'"),
        ({"metrics": {"listen": "0.0.0.0:1"}}, r"\[metrics\]: key 'listen'"),
        ({"metrics": {"allow_remote": True}}, r"\[metrics\]: key 'allow_remote'"),
        ({"updates": {"root": "r"}}, r"\[updates\]: key 'root'"),
        ({"updates": {"repository": "https://evil"}}, r"\[updates\]: key 'repository'"),
        ({"commands": {"enabled": True}}, r"\[commands\]: key 'enabled'"),
        ({"remote": {"deny": []}}, r"\[remote\]: key 'deny'"),
        ({"sources": {"new": {"kind": "load"}}}, r"\[sources.new\]: key 'kind': a source is made in limpet.toml"),
        ({"sources": {"tool": {"argv": ["sh"]}}}, r"\[sources.tool\]: key 'argv': .* of kind exec only none"),
        ({"sources": {"tool": {"fps": 1}}}, r"\[sources.tool\]: key 'fps'"),
        ({"sources": {"film": {"path": "/etc/passwd"}}}, r"\[sources.film\]: key 'path'"),
        ({"sources": {"film": {"kind": "exec"}}}, r"\[sources.film\]: key 'kind'"),
        ({"pipelines": {"door": {"model": {"name": "../x"}}}}, "from afar a model is named, never a path"),
        ({"pipelines": {"door": {"model": {"name": "/x"}}}}, "never a path"),
        ({"pipelines": {"door": {"model": {"runtime": {"delegates": [{"path": "x.so"}]}}}}}, "key 'delegates'"),
        ({"pipelines": {"door": {"model": {"runtime": {"python": "/tmp/x"}}}}}, "key 'python'"),
        ({"plugins": {"allow": ["evil"]}}, r"\[plugins\]: key 'allow'"),
        ({"plugins": {"folder": "/tmp"}}, r"\[plugins\]: key 'folder'"),
        ({"pipelines": {"door": {"name": "x"}}}, r"\[pipelines.door\]: key 'name'"),
        ({"pipelines": {"a/b": {"source": "rows"}}}, r"a pipeline is a table \[pipelines.<name>\]"),
        ({"pipelines": 3}, "layer l0: key 'pipelines'"),
        ({"foo": 1}, "layer l0: key 'foo'"),
        ({"schema": 2}, "layer l0: key 'schema'"),
        ({"log": {"level": b"debug"}}, "must be text"),
        ({"cache": {"ttl_s": float("nan")}}, "finite number"),
        ({"cache": {"size_mb": 4000.0}}, r"\[cache\]: key 'size_mb': 4000.0 is out of range: from afar"),
        ({"store": {"budget_mib": 2048}}, "out of range: from afar it may be 16 to 1024"),
        ({"log": {"level": "loud"}}, r"layer l0 \[log\]: key 'level': 'loud' is not allowed"),
        ({"log": 3}, r"layer l0: key 'log'"),
    ],
)  # fmt: skip
def test_whatever_is_not_on_the_list_is_refused_by_layer_table_and_key(path, table, words):
    """Identity, keys, paths, addresses, commands, libraries: never; values out of range neither."""
    with pytest.raises(ConfigError, match=words):
        _laid(path, table)


def test_the_updaters_table_is_the_fleets(path):
    """The updater reads signed layers by itself; a single request must not seem to work and change nothing."""
    local = read_tables(path)
    assert effective(path, local, [Layer("base", {"updates": {"channel": "beta"}})]).config.updates.channel == "beta"
    with pytest.raises(ConfigError, match=r"layer set-config \[updates\]: key 'channel': is the updater's"):
        effective(path, local, [Layer("set-config", {"updates": {"channel": "beta"}})])


def test_the_list_names_only_keys_that_exist():
    """A key that was renamed in the settings would otherwise be closed for ever without a word."""
    hints = {part.name: part.default_factory for part in dataclasses.fields(Config) if part.name != "schema"}
    for table, keys in allowed.TABLES.items():
        assert keys <= {part.name for part in dataclasses.fields(hints[table])}, table
    kinds = {dataclasses.fields(kind)[[f.name for f in dataclasses.fields(kind)].index("kind")].default: kind
             for kind in capture.SourceConfig.__args__}  # fmt: skip
    assert set(allowed.SOURCES) == set(kinds)
    for kind, keys in allowed.SOURCES.items():
        assert keys <= {part.name for part in dataclasses.fields(kinds[kind])}, kind
    assert {part.name.rstrip("_") for part in dataclasses.fields(PipelineConfig)} >= allowed.PIPELINES
    assert {part.name for part in dataclasses.fields(ModelUse)} >= allowed.MODEL
    assert {part.name for part in dataclasses.fields(RuntimeOptions)} - allowed.RUNTIME == {
        "delegates", "isolation", "python", "workers", "deadline_s", "load_deadline_s", "memory_limit_mb",
    }  # fmt: skip


def test_no_file_address_or_command_is_on_the_list():
    """Whatever holds a path, wherever it stands, cannot be set from afar."""
    for table, keys in allowed.TABLES.items():
        for part in dataclasses.fields(type(getattr(Config(schema=1), table))):
            if part.name in keys:
                assert "Path" not in str(part.type), (table, part.name)
    for kind in capture.SourceConfig.__args__:
        named = {part.name: part for part in dataclasses.fields(kind)}
        for key in allowed.SOURCES[named["kind"].default]:
            assert "Path" not in str(named[key].type), key
            assert key not in {"argv", "ffmpeg", "input_options", "url", "device", "port", "root", "path"}


def test_the_operator_may_lock_more(path):
    """deny takes keys or whole tables; allow leaves only what it names; both say so."""
    table = {"pipelines": {"door": {"enabled": False}}, "log": {"level": "debug"}}
    assert _laid(path, table).pipelines == ()
    locked = '\n[remote]\ndeny = ["pipelines.door"]\n'
    with pytest.raises(ConfigError, match=r"\[pipelines.door\]: key 'enabled': is locked by \[remote\]"):
        _laid(path, table, extra=locked)
    path.write_text(LOCAL + '\n[remote]\nallow = ["pipelines.*"]\n')
    with pytest.raises(ConfigError, match=r"\[log\]: key 'level': is locked"):
        _laid(path, table)
    assert _laid(path, {"pipelines": {"door": {"enabled": False}}}).pipelines == ()


def test_the_higher_layer_wins_key_by_key(path):
    """base, then group, then device; what the higher does not name stays."""
    made = _laid(path, {"log": {"level": "debug", "burst": 3}}, {"log": {"level": "warning"}})
    assert (made.config.log.level, made.config.log.burst) == ("warning", 3)
    told = {".".join(key): who for key, _, who in written_by(read_tables(path), [
        Layer("base", {"log": {"level": "debug", "burst": 3}}), Layer("set-config", {"log": {"level": "warning"}}),
    ])}  # fmt: skip
    assert told["log.level"] == "layer set-config"
    assert told["log.burst"] == "layer base"
    assert told["device.name"] == str(path)


def test_a_pipeline_is_changed_by_its_name_not_by_its_file(path):
    """A threshold changes and the rest of the detector stays; a step that is named anew replaces the one below."""
    made = _laid(
        path,
        {"pipelines": {"door": {"detector": {"threshold": 9.0}}}},
        {"pipelines": {"door": {"gate": {"step": "interval", "every_s": 5.0}, "class": "routine"}}},
    )
    (door,) = made.pipelines
    assert door.config.detector == {"step": "streaming_zscore", "threshold": 9.0}
    assert door.config.gate == {"step": "interval", "every_s": 5.0}
    assert door.config.class_ == "routine"
    assert [rule.kind for rule in door.config.rule] == ["appears"]


def test_a_layer_may_bring_a_whole_new_pipeline_on_a_source_that_is_there(path):
    """It needs what every pipeline needs; what is missing is said of the layer."""
    new = {"source": "film", "detector": {"step": "streaming_zscore"}, "rule": [{"kind": "every", "period_s": 60.0}]}
    made = _laid(path, {"pipelines": {"extra": new}})
    assert [file.config.name for file in made.pipelines] == ["door", "extra"]
    made = _laid(path, {"pipelines": {"extra": {"detector": {"step": "streaming_zscore"}}}})
    assert "layer l0 [pipelines.extra]: key 'source' is missing" in made.broken["pipeline extra"]
    assert "changed by layer l0" in made.broken["pipeline extra"]


def test_a_wrong_word_in_a_pipeline_names_the_layer_that_wrote_it(path):
    """Not the file below, which is right."""
    made = _laid(path, {"pipelines": {"door": {"rule": [{"kind": "appears", "labl": "x"}]}}})
    assert "labl" in made.broken["pipeline front"] or "labl" in made.broken["pipeline door"]
    made = _laid(path, {"pipelines": {"door": {"class": "urgent"}}})
    assert any("layer l0: key 'class'" in why for why in made.broken.values())


def test_a_layer_never_changes_what_it_is_laid_over(path):
    """The local tables serve again for the next proposal."""
    local = read_tables(path)
    before = json.dumps(local)
    effective(path, local, [Layer("l", {"log": {"level": "debug"}, "sources": {"rows": {"interval_s": 9.0}}})])
    assert json.dumps(local) == before


def test_the_page_shows_layers_that_are_accepted_and_the_list_as_it_is(path):
    """docs/remote-configuration.md: its examples load, and its table names the keys of the code."""
    page = (ROOT / "docs" / "remote-configuration.md").read_text()
    layer, remote = (tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    kinds = {"microphone": "microphone"}
    allowed.require_allowed(Layer("base", layer), kinds, build(RemoteConfig, {}, "x"))
    with pytest.raises(ConfigError, match="is locked"):
        allowed.require_allowed(Layer("base", layer), kinds, build(RemoteConfig, remote["remote"], "x"))
    rows = dict(re.findall(r"^\| `\[([a-z.<>]+)\]` \| `([a-z_ ]+)`", page, re.MULTILINE))
    told = {table: frozenset(keys.split()) for table, keys in rows.items()}
    assert {table: told[table] for table in allowed.TABLES} == dict(allowed.TABLES)
    assert told["pipelines.<name>"] == allowed.PIPELINES
    assert told["pipelines.<name>.model.runtime"] == allowed.RUNTIME


def test_fleet_layers_are_read_lowest_first(path, tmp_path):
    """base, this device's group, this device; others' files are nothing to it."""
    folder = tmp_path / "depot" / "config"
    folder.mkdir(parents=True)
    for name in ("base", "group-pumps", "group-fans", "device-plant-pump-3", "device-plant-pump-4"):
        (folder / f"{name}.toml").write_text(f'schema = 1\n[log]\nlevel = "info"\n# {name}\n')
    config = effective(path, read_tables(path), ()).config
    assert [layer.name for layer in read_fleet(config)] == ["base", "group-pumps", "device-plant-pump-3"]
    (folder / "base.toml").chmod(0o666)
    with pytest.raises(ConfigError, match="others than its owner may write it"):
        read_fleet(config)
    (folder / "base.toml").chmod(0o644)
    (folder / "base.toml").write_text("schema = 2")
    with pytest.raises(ConfigError, match=r"base\.toml: key 'schema'"):
        read_fleet(config)
    (folder / "base.toml").write_text("x" * 300_000)
    with pytest.raises(ConfigError, match="larger than"):
        read_fleet(config)


BASELINE = Baseline("ok", ("door",), connected=True)
CHANGE = Provisional(
    Remote((Layer("base", {"log": {"burst": 3}}),), {"log": {"level": "debug"}}), "set-config", "job-1", 2, 60.0,
    BASELINE, 1.5,
)  # fmt: skip


def test_a_record_comes_back_as_it_was_written():
    """Every part of it, and half of it is seen to be half."""
    record = Record().propose(CHANGE).burn().give_up("PROBATION_FAILED", "bad", "abc", 2.0)
    record = record.propose(CHANGE).commit(3.0).propose(CHANGE)
    data = encode(record)
    assert decode(data, "r") == record
    for broken in (data[:-20], data.replace(b'"bad"', b'"bud"'), b"[]", b"\xff\xfe", b""):
        with pytest.raises(ConfigError, match="r: is damaged"):
            decode(broken, "r")


def test_the_way_back_is_never_written_by_a_change_on_trial():
    """committed changes in one place only: commit."""
    start = Record(committed=Remote(settings={"log": {"burst": 1}}))
    tried = start.propose(CHANGE).burn().burn()
    assert tried.committed == start.committed
    with pytest.raises(ValueError, match="no try is left"):
        tried.burn()
    assert tried.give_up("ROLLED_BACK", "x", "", 0.0).committed == start.committed
    kept = tried.commit(0.0)
    assert (kept.committed, kept.before, kept.provisional) == (CHANGE.remote, {"log": {"burst": 1}}, None)
    with pytest.raises(ValueError, match="is on trial"):
        tried.propose(CHANGE)


def test_what_failed_is_not_tried_again_until_limpet_toml_changes():
    """Otherwise a bad fleet layer would restart the agent for ever."""
    record = Record().propose(CHANGE).give_up("PROBATION_FAILED", "door fell silent", "local-1", 0.0)
    assert record.refuses(CHANGE.remote, "local-1") == "door fell silent"
    assert record.refuses(CHANGE.remote, "local-2") == ""
    end = record.outcome("job-1")
    assert end is not None
    assert (end.kept, end.reason) == (False, "PROBATION_FAILED")
    for i in range(100):
        record = record.propose(CHANGE).give_up("FAILED", str(i), "x", 0.0)
    assert (len(record.refused), len(record.ended)) == (16, 32)


@pytest.mark.parametrize(
    ("health", "running", "connected", "words"),
    [
        (Health("ok"), ("door",), True, ""),
        (Health("ok"), ("door", "more"), True, ""),
        (Health("degraded", ("lane x failed",)), ("door",), True, "degraded, it was ok: lane x failed"),
        (Health("ok"), (), True, "do not: door"),
        (Health("ok"), ("door",), False, "broker"),
    ],
)
def test_worse_than_before_is_said_in_words(health, running, connected, words):
    """Health, pipelines, uplink: each of them counts."""
    lack = BASELINE.lacks(health, running, connected=connected)
    assert (words in lack) if words else lack == ""


def test_a_degraded_agent_may_stay_degraded():
    """A broken camera does not stand in the way of mending a threshold."""
    assert Baseline("degraded", (), connected=False).lacks(Health("degraded", ("eye",)), (), connected=False) == ""


def test_two_writers_do_not_overwrite_each_other(tmp_path):
    """A record that changed since it was read is not replaced."""
    files = LayerFiles(tmp_path / "remote")
    files.write(Record().propose(CHANGE), Record())
    with pytest.raises(ConfigError, match="another process"):
        files.write(Record(generation=1), Record())
    assert files.read().provisional == CHANGE
    assert (tmp_path / "remote").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "remote" / "record.json").stat().st_mode & 0o777 == 0o600


def test_a_layer_is_a_plain_record():
    """The strict loader reads it back, unknown keys refused."""
    assert build(Layer, {"name": "base", "table": {"log": {}}}, "x") == Layer("base", {"log": {}})

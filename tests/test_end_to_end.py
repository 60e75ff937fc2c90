"""The whole way: recordings, shipped models, outbox, seal, TLS, a real broker, and a reader in another process."""

import json
import random
import subprocess
import sys
import time
import tomllib

from tests.agents import MODELS, PIPELINES, ROOT, limpet, running, site, status, stop


def _read(name):
    return tomllib.loads((MODELS / name / "demo.toml").read_text())


def _record(place, source, pipeline, recording):
    place.add(source, PIPELINES / f"{pipeline}.toml", kind="replay", path=str(MODELS / recording), speed="max")


def _watch(reader, count):
    return limpet("watch", "--reader", reader, "--count", count, "--for", 60, "--json")


def _lines(child):
    out, err = child.communicate(timeout=90)
    return [json.loads(line) for line in out.splitlines()], err


def test_three_shipped_pipelines_send_exactly_the_expected_events(tmp_path):
    """A separate process decrypts each event of each recording once, sealed, in order, and nothing else."""
    words = [word["label"] for word in _read("keywords")["word"]]
    readings = [reading["text"] for reading in _read("digits")["reading"]]
    expected = len(words) + len(readings) + 2
    with site(tmp_path) as place:
        _record(place, "camera", "meter", "digits/demo.mp4")
        _record(place, "microphone", "keywords", "keywords/demo.wav")
        _record(place, "vibration", "vibration", "vibration/demo.csv")
        config, reader = place.write()
        watcher = _watch(reader, expected)
        with running(config, tmp_path / "agent.log"):
            done = status(
                place.socket,
                lambda s: all(lane["phase"] == "ended" for lane in s["lanes"] if ":" in lane["name"])
                and s["uplink"]["acked_events"] >= expected,
                60,
            )
            lines, errors = _lines(watcher)
    events = [line for line in lines if line["type"] == "event"]
    assert watcher.returncode == 0, errors
    assert done["health"] == "ok"
    assert done["uplink"]["acked_events"] == expected
    assert all(event["sealed"] and event["replay"] for event in events)
    by_stream = {name: [e for e in events if e["stream"] == name] for name in ("meter", "keywords", "vibration")}
    assert [e["body"]["label"] for e in by_stream["meter"]] == readings
    assert [e["body"]["label"] for e in by_stream["keywords"]] == words
    assert [e["kind"] for e in by_stream["vibration"]] == ["appears", "clears"]
    for stream in by_stream.values():
        assert [e["seq"] for e in stream] == list(range(len(stream)))
        assert all(e["model"]["sha256"] and e["pipeline_digest"] and e["config_digest"] for e in stream)


def test_the_broker_sees_no_content(tmp_path):
    """What a subscriber without the reader's key gets holds no word of an event."""
    with site(tmp_path) as place:
        _record(place, "camera", "meter", "digits/demo.mp4")
        config, reader = place.write()
        text = reader.read_text()
        (tmp_path / "stranger.toml").write_text(text.replace(str(place.keys.reader.key), str(_stranger(tmp_path))))
        watcher = limpet("watch", "--reader", tmp_path / "stranger.toml", "--for", 12, "--json", "--all")
        with running(config, tmp_path / "agent.log"):
            status(place.socket, lambda s: s["uplink"]["acked_events"] >= 5, 30)
            lines, _ = _lines(watcher)
    assert [line for line in lines if line["type"] == "event"] == []
    refused = [line["reason"] for line in lines if line["type"] == "refused"]
    assert refused
    assert all("not among the readers" in reason for reason in refused)
    assert "01234" not in json.dumps(lines)


def _stranger(folder):
    child = limpet("keys", "new", "reader", "--out", folder / "stranger")
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    assert "private key" in out
    stop(child)
    return folder / "stranger" / "reader.key"

BUSY = """
schema = 1
name = "{name}"
source = "rows"
class = "{event_class}"
[detector]
step = "streaming_zscore"
warm_rows = 2
always = true
[[rule]]
kind = "every"
period_s = 0.02
"""
KILLS = 50


def _noted(config, notes, log):
    with log.open("a") as sink:
        return subprocess.Popen(
            [sys.executable, "-P", ROOT / "tests" / "noted_agent.py", config, notes],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, stdout=sink, stderr=sink,
        )  # fmt: skip


def _wait_for_notes(notes, more_than, child, log):
    until_s = time.monotonic() + 30
    while notes.stat().st_size <= more_than:
        assert child.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < until_s, log.read_text()[-2000:]
        time.sleep(0.02)


def test_fifty_kills_of_the_agent_and_25_broker_restarts_lose_no_accepted_event(tmp_path):
    """kill -9 under load over TLS, half of them while the broker is down: every accepted event arrives, decrypted."""
    (tmp_path / "rows.csv").write_text("t,x\n" + "".join(f"{i / 200:.3f},{i % 7}\n" for i in range(1000)))
    notes, log, heard = tmp_path / "accepted", tmp_path / "agent.log", tmp_path / "heard"
    notes.touch()
    rng = random.Random(7)
    with site(tmp_path) as place, heard.open("w") as sink:
        for name in ("critical", "routine"):
            (tmp_path / f"{name}.toml").write_text(BUSY.format(name=name, event_class=name))
        place.add("rows", tmp_path / "critical.toml", kind="replay", path=str(tmp_path / "rows.csv"), loop=True)
        config, reader = place.write()
        both = f'"{tmp_path / "critical.toml"}", "{tmp_path / "routine.toml"}"'
        config.write_text(config.read_text().replace(f'"{tmp_path / "critical.toml"}"', both))
        reader.write_text(reader.read_text().replace("[broker]\n", "[broker]\nreconnect_cap_s = 2\n"))
        watcher = limpet("watch", "--reader", reader, "--json", stdout=sink)
        for kill in range(KILLS):
            (place.broker.stop if kill % 2 else place.broker.start)()
            child = _noted(config, notes, log)
            _wait_for_notes(notes, notes.stat().st_size, child, log)
            time.sleep(rng.uniform(0, 0.3))
            child.kill()
            child.wait()
        place.broker.start()
        with running(config, log):
            status(place.socket, lambda s: s["uplink"]["connected"] and s["uplink"]["acked_events"] > 0, 60)
            accepted = set(notes.read_text().split())
            _wait_until_heard(heard, accepted, 60)
        stop(watcher)
    assert len(accepted) > 10 * KILLS
    assert accepted - _heard_ids(heard) == set()


def _heard_ids(heard):
    whole = heard.read_text().rpartition("\n")[0].splitlines()  # the last line may still be on its way
    return {line["id"] for line in map(json.loads, whole) if line["type"] == "event"}


def _wait_until_heard(heard, accepted, limit_s):
    until_s = time.monotonic() + limit_s
    while accepted - _heard_ids(heard) and time.monotonic() < until_s:
        time.sleep(0.5)

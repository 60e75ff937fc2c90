"""The whole way: recordings, shipped models, outbox, seal, TLS, a real broker, and a reader in another process."""

import json
import tomllib

import pytest

from tests.agents import MODELS, PIPELINES, limpet, running, site, status, stop

pytestmark = pytest.mark.skipif(not (MODELS / "keywords").is_dir(), reason="the shipped models are not built yet")


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
        watcher = limpet("watch", "--reader", tmp_path / "stranger.toml", "--for", 12, "--json")
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

"""A real agent is asked by `limpet request` through a real broker: every operation that needs the running agent."""

import base64
import json
import wave
from io import BytesIO
from pathlib import Path

import pytest

from agent.progress import Progress
from agent.updates.jobs import Job
from pipelines.image import decode_image
from tests.agents import MODELS, PIPELINES, limpet, running, site, status
from tests.lite import until

COMMANDS = """
[commands]
enabled = true
snapshot = true
journal = "commands.db"
per_minute = 300

[[commands.key]]
name = "ann"
role = "{role}"
public = "{public}"

[updates]
folder = "depot"
spool = "spool"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A site with a camera and a microphone whose recordings go round for ever, and an agent that runs."""
    folder = tmp_path_factory.mktemp("agent")
    with site(folder) as made:
        for source, pipeline, recording in (
            ("camera", "meter", "digits/demo.mp4"), ("microphone", "keywords", "keywords/demo.wav"),
            ("vibration", "vibration", "vibration/demo.csv"),
        ):  # fmt: skip
            path = str(MODELS / recording)
            made.add(source, PIPELINES / f"{pipeline}.toml", kind="replay", path=path, loop=True)
        made.extra = COMMANDS.format(role="admin", public=made.keys.technician.certificate)
        for name in ("depot", "spool"):
            (folder / name).mkdir()
        made.config, made.reader = made.write()
        made.reader.write_text(made.reader.read_text() + f'\n[technician]\nkey = "{made.keys.technician.key}"\n')
        with running(made.config, folder / "agent.log") as made.agent:
            status(made.socket, lambda s: s["uplink"]["connected"])
            yield made


def request(place, *words, wait=True):
    """`limpet request WORDS`: exit status, and the last state."""
    child = limpet("request", *words, "--device", "demo/here", "--reader", place.reader, "--json", "--timeout", 40)
    if not wait:
        return child
    out, err = child.communicate(timeout=60)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines, err + (place.folder / "agent.log").read_text()[-2000:]
    return child.returncode, lines[-1]


def test_ping(place):
    """Is anybody there: version and health."""
    code, last = request(place, "ping")
    assert (code, last["status"]) == (0, "successful"), last
    assert last["detail"]["health"] in ("ok", "degraded")


def test_limpet_check_looks_at_the_keys(place, tmp_path):
    """In order here; a device where every request would be refused is told so before it starts."""
    out, _ = limpet("check", "--config", place.config).communicate(timeout=60)
    assert "ok      keys of commands" in out
    alone = tmp_path / "limpet.toml"
    alone.write_text(f'schema = 1\n[commands]\nenabled = true\n[updates]\nfolder = "{tmp_path}"\n')
    out, _ = limpet("check", "--config", alone).communicate(timeout=60)
    assert "no key counts on this device" in out


def test_collect_diagnostics_shows_how_the_agent_is_and_no_secret(place):
    """Lanes, outbox, log lines; none of the passwords and keys of the site."""
    code, last = request(place, "collect-diagnostics")
    assert code == 0, last
    assert {"lanes", "outbox", "uplink"} <= set(last["detail"]["status"])
    assert any("uplink=connected" in line for line in last["detail"]["log"])
    told = json.dumps(last)
    assert len(told) < 64 * 1024
    for secret in [path.read_text().strip() for path in place.keys.passwords.values()]:
        assert secret not in told
    assert "PRIVATE KEY" not in told


def _snapshot(place, source, *more):
    """The event of a snapshot, as a reader gets it."""
    watcher = limpet("watch", "--reader", place.reader, "--for", 40, "--json")
    code, last = request(place, "snapshot", "--source", source, *more)
    assert code == 0, last
    for line in watcher.stdout:
        event = json.loads(line)
        if event.get("kind") == "snapshot" and event["body"]["request"] == last["id"]:
            break
    watcher.terminate()
    watcher.communicate(timeout=15)
    assert event["sealed"]
    assert (event["stream"], event["body"]["by"], event["body"]["source"]) == ("snapshot", "ann", source)
    return event["media"]


def test_a_snapshot_of_a_camera_is_a_picture(place):
    """JPEG of at most the width asked for; sealed like every event."""
    media = _snapshot(place, "camera")
    image = decode_image(base64.b64decode(media["base64"]), "snapshot")
    assert media["type"] == "image/jpeg"
    assert image.shape[:2] == (media["height"], media["width"])
    assert image.std() > 5


def test_a_snapshot_of_a_microphone_is_sound(place):
    """WAV of the length asked for, 16 bit."""
    media = _snapshot(place, "microphone", "--seconds", 1)
    with wave.open(BytesIO(base64.b64decode(media["base64"]))) as sound:
        assert 1.0 <= sound.getnframes() / sound.getframerate() < 2.0
        assert any(sound.readframes(sound.getnframes()))


def test_a_snapshot_of_a_sensor_is_a_window_of_rows(place):
    """Time and one number per channel."""
    media = _snapshot(place, "vibration", "--seconds", 0.2)
    assert media["type"] == "rows"
    assert len(media["rows"]) > 10
    assert all(len(row) == 1 + len(media["channels"]) for row in media["rows"])


def test_a_source_that_nobody_looks_at_is_refused_in_words(place):
    """Says which there are."""
    code, last = request(place, "snapshot", "--source", "nowhere")
    assert code == 1
    assert "camera, microphone, vibration" in last["text"]


def test_an_update_is_left_for_the_updater_and_its_progress_is_told(place):
    """The job lies in the spool under the request's id; what the updater writes becomes the command's state."""
    child = request(place, "update", "--model", "keywords", "--version", "1.1.0", wait=False)
    spool, jobs = place.folder / "spool", place.folder / "depot" / "jobs"
    path = _first(spool)
    job = Job.decode(path.read_bytes(), "job")
    assert (job.do, job.model, job.version, job.detail) == ("update", "keywords", "1.1.0", {"by": "ann"})
    assert path.stat().st_mode & 0o777 == 0o640
    path.unlink()
    jobs.mkdir(exist_ok=True)
    progress = Progress(job.id, "update")
    for name, more in (
        ("download", {"done_bytes": 5, "total_bytes": 9}), ("probation", {}),
        ("failed", {"reason": "ROLLED_BACK", "text": "rolled back to 1.0.0: it was slow"}),
    ):  # fmt: skip
        progress = progress.moved(1.0, status=name, **more)
        (jobs / "new").write_bytes(progress.encode())
        (jobs / "new").replace(jobs / f"{job.id}.json")
        last = _line_of(child, name)
    assert child.wait(30) == 1
    assert (last["status"], last["reason"], last["text"]) == ("failed", "ROLLED_BACK", progress.text)


def _first(spool):
    found = []
    assert until(lambda: found.extend(spool.glob("*.json")) or found, 20)
    return Path(found[0])


def _line_of(child, status):
    """The first line that tells `status`."""
    for text in child.stdout:
        if (line := json.loads(text)).get("status") == status:
            return line
    raise AssertionError(child.stderr.read())


def test_set_config_restarts_with_the_change_and_keeps_it(place):
    """Provisional, tried by a start, and then told as successful by the agent that came after."""
    change = place.folder / "change.toml"
    change.write_text("[log]\nburst = 77\n")
    code, last = request(place, "set-config", change)
    assert (code, last["status"]) == (0, "successful"), last


def test_restart_starts_a_new_process_and_says_so(place):
    """The start time goes back, the command has ended, and it does not happen again."""
    before = status(place.socket)["up_s"]
    code, last = request(place, "restart")
    assert (code, last["status"]) == (0, "successful"), last
    after = status(place.socket, lambda s: s["uplink"]["connected"])
    assert after["up_s"] < before + 5
    assert (place.folder / "agent.log").read_text().count("a technician asked for it") == 1


def test_limpet_audit_verifies_the_running_agents_trail(place):
    """Through the socket while the agent runs; a published head fits, a false one shows."""
    code, _ = request(place, "ping")
    assert code == 0
    done = limpet("audit", "verify", "--config", place.config)
    out, err = done.communicate(timeout=30)
    assert done.returncode == 0, err
    assert "none changed or missing; head " in out
    listed, _ = limpet("audit", "list", "--config", place.config, "--json").communicate(timeout=30)
    entries = [json.loads(line) for line in listed.splitlines()]
    assert entries[-1]["n"] >= 2
    assert {"admit", "successful"} <= {entry["what"] for entry in entries}
    false = f"{entries[-1]['n']}:{'00' * 32}"
    bad = limpet("audit", "verify", "--config", place.config, "--head", false)
    out, err = bad.communicate(timeout=30)
    assert bad.returncode == 1
    assert "rewritten" in err

"""The page, in Debian's real Chromium, at mosquitto's WebSocket listener: what a real sealer says shows decrypted."""

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import cbor, codec
from agent.cli import dashboard
from agent.envelope import (
    DeviceIdentity,
    MessageType,
    PlainSealer,
    ReaderKey,
    Sealer,
    SigningKey,
    Topics,
    Zip,
)
from agent.envelope.keyfiles import write_private
from agent.envelope.keys import spki
from agent.errors import ConfigError
from agent.mqtt import Link, Message
from tests.broker import mosquitto
from tests.browser import CHROMIUM, BrowserError, Page
from tests.sealing import event

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests/vectors/wire.json"
KEPT = """new Promise((resolve, reject) => {
    const asked = indexedDB.open("limpet", 1);
    asked.onerror = () => reject(asked.error);
    asked.onsuccess = () => {
        const got = asked.result.transaction("keys").objectStore("keys").get("reader");
        got.onsuccess = () => resolve(got.result);
    };
})"""

pytestmark = [
    pytest.mark.xdist_group("dashboard"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is tested in the real browser"),
]


@pytest.fixture(scope="module")
def built():
    """The page with MQTT.js in it, from the lock."""
    spec = importlib.util.spec_from_file_location("build_dashboard", ROOT / "tools/build_dashboard.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    if tool.main() != 0:
        pytest.skip("MQTT.js cannot be fetched: the page is not built")


class Scene:
    """A broker, two devices, a served page, and a browser that has it open."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.broker = stack.enter_context(mosquitto(folder))
        self.signing, self.reader = SigningKey.generate(), ReaderKey.generate()
        self.topics, self.plain_topics = Topics("site", "device"), Topics("site", "lamp")
        self.sealer = Sealer(DeviceIdentity("site", "device", self.signing), [self.reader.public])
        write_private(folder / "reader.key", self.reader.pem())
        self.link = stack.enter_context(Link(self.broker.uplink("root"), "test-device"))
        self.link.connect()
        self.address = stack.enter_context(self._served())
        (folder / "profile").mkdir()
        self.page = stack.enter_context(Page(folder / "profile"))

    def config(self):
        """What the page is told: whom to believe."""
        return {
            "broker": f"ws://127.0.0.1:{self.broker.websocket_port}/",
            "username": "reader",
            "password": "secret of reader",
            "devices": [
                {"site": "site", "device": "device", "keys": [spki(self.signing.public.public, pem=True).decode()]},
                {"site": "site", "device": "lamp", "mode": "plain"},
            ],
        }

    @contextlib.contextmanager
    def _served(self):
        """`limpet dashboard` as a person starts it."""
        file = self.folder / "page.json"
        file.write_text(json.dumps(self.config()))
        command = [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main())"]
        process = subprocess.Popen(
            [*command, "dashboard", "--config", str(file), "--port", "0"],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()

    def say(self, topic, payload, retain=False):
        """Publish and wait until the broker has it."""
        mid = self.link.publish(Message(topic, payload, retain))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            self.link.turn(0.05)
            if any(ack.mid == mid for ack in self.link.acks):
                self.link.acks.clear()
                return
        pytest.fail("the broker did not acknowledge")

    def say_keys(self):
        """Publish the current key envelope."""
        envelope = self.sealer.current_envelope()
        self.say(f"{self.topics.prefix}/{envelope.tail}", envelope.payload, retain=True)

    def say_event(self, made, topic=None):
        """Seal and publish one event."""
        payload = self.sealer.seal(MessageType.EVENT, made.draft.stream, codec.encode(made))
        self.say(topic or self.topics.event(made.draft.stream), payload)

    def sees(self, words, where="#events"):
        """Wait until the page shows `words`."""
        self.page.wait(f"document.querySelector({where!r}).innerText.includes({json.dumps(words)})")


@pytest.fixture(scope="module")
def scene(built, tmp_path_factory):
    """One scene for all tests here: a browser takes seconds to start. The key was chosen as a file, and kept."""
    with contextlib.ExitStack() as stack:
        made = Scene(tmp_path_factory.mktemp("dashboard"), stack)
        made.page.open(made.address)
        made.page.wait("!document.getElementById('setup').hidden")
        made.page.choose_file("#key-file", made.folder / "reader.key")
        made.page.run("document.getElementById('key-keep').checked = true")
        made.page.run("document.querySelector('#setup-form button[type=submit]').click()")
        made.page.wait("document.getElementById('link').textContent.startsWith('connected')")
        made.say_keys()
        yield made


def test_sealed_events_show_decrypted(scene):
    """One by one and as a batch, with their badges."""
    scene.say_event(event(1, body={"label": "forklift", "score": 0.875}))
    scene.sees("forklift")
    scene.sees("88 %")
    batch = [event(i, body={"label": f"crate-{i}", "score": 0.5}) for i in range(10, 15)]
    payload = cbor.array_of([codec.encode(e) for e in batch])
    sealed = scene.sealer.seal(MessageType.BATCH, "door", payload, Zip.DEFLATE_RAW)
    scene.say(scene.topics.event("door"), sealed)
    for i in range(10, 15):
        scene.sees(f"crate-{i}")
    row = "[...document.querySelectorAll('.event')].find((e) => e.innerText.includes('forklift'))"
    assert scene.page.run(f"[...{row}.querySelectorAll('.badge')].map((b) => b.textContent)") == ["replay", "sealed"]


def test_a_row_opens_to_the_whole_event(scene):
    """Everything the event says is there, as text."""
    scene.say_event(event(20, body={"label": "pallet", "value": -40.5, "unit": "Cel"}))
    scene.sees("pallet")
    scene.page.run("document.querySelector('.event summary').click()")
    scene.page.wait("document.querySelector('.event pre') !== null")
    assert json.loads(scene.page.run("document.querySelector('.event pre').textContent"))["body"]["value"] == -40.5


def test_gaps_and_alarms_stand_out(scene):
    """A gap record and an alarm have rows of their own; lost events are counted at the device."""
    lost = {"reason": "outbox full", "first": 30, "last": 46, "count": 17, "upper_bound": True}
    gap = codec.encode(event(47, kind="gap", body=lost))
    scene.say(scene.topics.gap("door"), scene.sealer.seal(MessageType.GAP, "door", gap))
    scene.sees("at most 17 lost")
    scene.sees("17 lost", "#devices")
    alarm = scene.sealer.seal(MessageType.ALARM, "disk", cbor.encode({"label": "disk nearly full"}))
    scene.say(scene.topics.alarm("disk"), alarm)
    scene.sees("disk nearly full")
    assert scene.page.run("document.querySelectorAll('.event.gap').length") == 1
    assert scene.page.run("document.querySelector('.event.alarm').innerText.includes('signed')")


def test_states_of_devices_show(scene):
    """Status is retained and shown as what the device says."""
    scene.say(scene.topics.status, b'{"state":"online"}', retain=True)
    scene.say(scene.plain_topics.status, b'{"state":"offline"}', retain=True)
    scene.page.wait("document.querySelectorAll('.dot.online').length === 1")
    scene.page.wait("document.querySelectorAll('.dot.offline').length === 1")


def say_state(scene, status, version, **more):
    """Publish the state of an update, signed and sealed."""
    body = {"id": "u1", "operation": "update", "status": status, "version": version, "t_wall_s": 1.0,
            "detail": {"model": "doorbell", "version": "1.1.0"}, **more}  # fmt: skip
    sealed = scene.sealer.seal(MessageType.STATE, "update/u1", cbor.encode(body))
    scene.say(scene.topics.state("update", "u1"), sealed, retain=True)


def test_an_update_shows_how_far_it_has_come_and_how_it_ended(scene):
    """Its steps fill up at the device; old news changes nothing; a failure keeps the step that it had reached."""
    done = "document.querySelectorAll('.commands .done').length"
    say_state(scene, "download", 2, done_bytes=300, total_bytes=1000)
    scene.sees("update doorbell 1.1.0 download", "#devices")
    scene.sees("update doorbell 1.1.0 30 %")
    say_state(scene, "probation", 5)
    scene.page.wait(f"{done} === 6")
    say_state(scene, "verify", 3)
    say_state(scene, "failed", 6, reason="ROLLED_BACK", text="it went wrong")
    scene.sees("update doorbell 1.1.0 failed", "#devices")
    scene.sees("ROLLED_BACK: it went wrong")
    assert scene.page.run(done) == 6
    assert scene.page.run("document.querySelectorAll('.commands .bad').length") == 1


def test_a_plain_payload_of_a_sealed_device_is_refused(scene):
    """A broker that slips in JSON is shown as refused, and its words are not among the events."""
    forged = PlainSealer().seal(MessageType.EVENT, "door", codec.encode(event(50, body={"label": "impostor"})))
    scene.say(scene.topics.event("door"), forged)
    scene.sees("expected to seal", "#refused")
    assert not scene.page.run("document.body.innerText.includes('impostor')")


def test_replays_and_forgeries_are_refused(scene):
    """The same bytes again, bytes from another stream, an envelope by a stranger: counted, not shown."""
    sealed = scene.sealer.seal(MessageType.EVENT, "door", codec.encode(event(60, body={"label": "once"})))
    scene.say(scene.topics.event("door"), sealed)
    scene.sees("once")
    before = int(scene.page.run("document.getElementById('refused-count').textContent"))
    scene.say(scene.topics.event("door"), sealed)
    scene.say(scene.topics.event("gate"), sealed)
    stranger = Sealer(DeviceIdentity("site", "device", SigningKey.generate()), [scene.reader.public]).current_envelope()
    scene.say(f"{scene.topics.prefix}/{stranger.tail}", stranger.payload)
    scene.page.wait(f"Number(document.getElementById('refused-count').textContent) === {before + 3}")
    rows = "[...document.querySelectorAll('.event')].filter((e) => e.innerText.includes('once'))"
    assert scene.page.run(f"{rows}.length") == 1


def test_a_device_in_plain_mode_shows_as_plain(scene):
    """Plain is allowed where it was chosen, and marked."""
    said = codec.encode(event(1, "kitchen", body={"label": "kettle"}))
    plain = PlainSealer().seal(MessageType.EVENT, "kitchen", said)
    scene.say(scene.plain_topics.event("kitchen"), plain)
    scene.sees("kettle")
    assert scene.page.run("document.querySelector('.event').innerText.includes('plain')")


def test_messages_wait_for_their_envelope(scene):
    """After a restart of the device an event may overtake its key: it shows when the key is there."""
    scene.sealer = Sealer(DeviceIdentity("site", "device", scene.signing), [scene.reader.public])
    scene.sealer.current_envelope()
    scene.say_event(event(70, body={"label": "early bird"}))
    scene.page.wait("document.getElementById('counts').innerText.includes('waiting for a key\\n1')")
    scene.say_keys()
    scene.sees("early bird")


def test_markup_in_events_stays_text(scene):
    """A label that looks like HTML is shown, letter by letter."""
    label = "<img src=x onerror=alert(1)><b>bold</b>"
    scene.say_event(event(80, body={"label": label, "unit": label, "value": label}))
    scene.sees(label)
    assert scene.page.run("document.querySelectorAll('#events img, #events b b').length") == 0


def test_strings_cannot_become_markup_or_code(scene):
    """Trusted Types and the policy hold in the real browser."""
    attempt = "try { document.body.innerHTML = '<b>x</b>'; 'allowed' } catch (error) { error.name }"
    assert scene.page.run(attempt) == "TypeError"
    violations = """new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
        fetch('http://127.0.0.1:9/').catch(() => 0);
    })"""
    assert scene.page.run(violations) == "connect-src"
    scene.page.events.clear()


def test_the_key_can_be_used_and_never_read(scene):
    """exportKey rejects in every format, and the key says so itself."""
    for form in ("pkcs8", "jwk", "raw"):
        with pytest.raises(BrowserError, match=r"InvalidAccessError|not extractable"):
            scene.page.run(f"{KEPT}.then((key) => crypto.subtle.exportKey('{form}', key))")
    assert scene.page.run(f"{KEPT}.then((key) => [key.type, key.extractable, key.usages.join()])") == [
        "private", False, "deriveBits",
    ]  # fmt: skip
    assert scene.page.run("document.getElementById('key-text').value + document.getElementById('key-file').value") == ""


def test_a_kept_key_opens_the_page_again(scene):
    """Loaded anew, the page connects by itself and reads the retained key envelope."""
    scene.page.open(scene.address)
    scene.page.wait("document.getElementById('link').textContent.startsWith('connected')")
    scene.page.wait("document.querySelectorAll('.dot.online').length === 1")
    scene.say_event(event(90, body={"label": "welcome back"}))
    scene.sees("welcome back")


def test_a_broker_that_restarts_is_found_again(scene):
    """The page says that the connection is gone, and comes back by itself."""
    scene.broker.stop()
    scene.page.wait("document.getElementById('link').textContent.includes('lost')")
    scene.broker.start()
    scene.page.wait("document.getElementById('link').textContent.startsWith('connected')")
    scene.link.close()
    scene.link = Link(scene.broker.uplink("root"), "test-device")
    scene.link.connect()
    scene.say_keys()
    scene.say_event(event(95, body={"label": "after the storm"}))
    scene.sees("after the storm")


def test_wrong_keys_are_explained(scene):
    """A device key in place of the reader's: the page says what it is and what to do."""
    words = json.dumps(scene.signing.pem().decode())
    said = scene.page.run(f"import('/js/keys.js').then((m) => m.readerFromPem({words})).catch((e) => e.message)")
    assert "limpet keys new reader" in said


def test_the_modules_of_the_page_agree_with_the_vectors(scene):
    """The page's own opener reads every vector but zstd and refuses every bad one."""
    vectors = json.loads(VECTORS.read_text())
    script = (ROOT / "tests/page_vectors.js").read_text()
    lines = {line["name"]: line for line in scene.page.run(f"({script})({json.dumps(vectors)})")}
    for vector in vectors["opens"]:
        if vector["name"] == "batch, zip 2":
            assert "zstd" in lines[vector["name"]]["refused"]
        else:
            assert lines[vector["name"]]["opened"] == vector["expect"]
    assert all("refused" in lines[vector["name"]] for vector in vectors["refused"])


def test_the_page_asks_nobody_else_and_complains_of_nothing(scene):
    """No request leaves for a third party; no error stands in the console."""
    scene.page.events.clear()
    scene.page.open(scene.address)
    scene.page.wait("document.getElementById('link').textContent.startsWith('connected')")
    asked = scene.page.requested()
    allowed = (scene.address, scene.config()["broker"], "data:")
    assert len(asked) >= 8
    assert [url for url in asked if not url.startswith(allowed)] == []
    assert scene.page.complaints() == []


def test_a_picture_can_be_taken(scene):
    """What a person sees is not an empty page."""
    scene.page.screenshot(scene.folder / "page.png")
    assert (scene.folder / "page.png").stat().st_size > 20_000
    if "LIMPET_SCREENSHOT" in os.environ:
        shutil.copy(scene.folder / "page.png", os.environ["LIMPET_SCREENSHOT"])


def test_forgetting_the_key_forgets_it(scene):
    """The last one here: nothing is kept, and the page asks again."""
    scene.page.run("document.getElementById('key-forget').click()")
    scene.page.wait("document.getElementById('key-state').textContent.startsWith('No key')")
    assert scene.page.run(f"{KEPT}.then((key) => key === undefined)")
    scene.page.open(scene.address)
    scene.page.wait("!document.getElementById('setup').hidden")


# --- the server alone


def _ask(scene, method, path, host=None):
    port = int(scene.address.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def test_only_the_files_of_the_page_are_served(scene):
    """No listing, no way out of the folder, no other method, no other host."""
    assert _ask(scene, "GET", "/").status == 200
    assert _ask(scene, "GET", "/config.json").status == 200
    assert _ask(scene, "HEAD", "/style.css").body == b""
    for path in (
        "/js/", "/js", "/vendor/", "/../cli/keys.py", "/js/../../cli/keys.py", "/%2e%2e/pyproject.toml",
        "/vendor/.lock",
    ):  # fmt: skip
        assert _ask(scene, "GET", path).status == 404, path
    assert _ask(scene, "POST", "/").status == 501
    assert _ask(scene, "GET", "/", "evil.example").status == 421


def test_every_answer_is_locked_down(scene):
    """Policy, no caching, no sniffing; the policy names the one broker."""
    answer = _ask(scene, "GET", "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert f"connect-src 'self' ws://127.0.0.1:{scene.broker.websocket_port};" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"devices": []}', *(f'{{"devices": [], "broker": "{b}"}}' for b in ("http://x", "ws://x; y", "ws://"))],
)
def test_a_bad_configuration_is_a_config_error(tmp_path, content):
    """The file is named; nothing of it can widen the policy."""
    (tmp_path / "page.json").write_text(content)
    with pytest.raises(ConfigError, match=r"page\.json"):
        dashboard.read_config(tmp_path / "page.json")


def test_a_port_in_use_is_a_config_error(built):
    """And the message says what to do."""
    server = dashboard.make_server({}, 0)
    with server, pytest.raises(ConfigError, match="--port"):
        dashboard.make_server({}, server.server_port)

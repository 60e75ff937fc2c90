"""Write tests/vectors/wire.json: messages sealed with published test keys, for readers in other languages.

Everything but the HPKE wraps and the ES256 signature comes out the same each time; those two are random by nature.
The keys are derived from sentences in this file: they are for tests, and protect nothing.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from agent import cbor, codec
from agent.envelope import DeviceIdentity, MessageType, PlainSealer, ReaderKey, Sealer, SigningKey, Topics, Zip
from agent.envelope import message as message_module
from agent.envelope.keys import spki
from agent.records import Draft, Event, ModelRef
from agent.request import Request, Target, external, sign_request

WARNING = "TEST KEYS, published on purpose. Never use them for anything but tests of readers."
WALL_S = 1790000000


def secret(sentence: str, size: int = 32) -> bytes:
    """Bytes that anybody can make again."""
    return hashlib.sha256(f"limpet test vector: {sentence}".encode()).digest()[:size]


def entropy(device: str) -> Any:
    """The random bytes of an epoch, in the order in which a sealer asks: kid, key, base IV."""
    names = {8: "kid", 32: "epoch key", 12: "base IV"}
    return lambda size: secret(f"{device} {names[size]}", size)


class Device:
    """A device with fixed keys and a sealer that draws no randomness of its own."""

    def __init__(self, device: str, key: SigningKey, readers: list[ReaderKey]) -> None:
        self.topics = Topics("test-site", device)
        self.key = key
        self.sealer = Sealer(
            DeviceIdentity("test-site", device, key),
            [reader.public for reader in readers],
            wall=lambda: WALL_S,
            entropy=entropy(device),
        )

    def about(self) -> dict[str, Any]:
        """What a reader must know to trust it."""
        public = self.key.public
        return {
            "site": self.topics.site,
            "device": self.topics.device,
            "mode": "sealed",
            "key_id": public.key_id.hex(),
            "public_spki": spki(public.public).hex(),
        }

    def envelope(self) -> dict[str, Any]:
        """The key envelope as a vector."""
        made = self.sealer.current_envelope()
        topic = f"{self.topics.prefix}/{made.tail}"
        name = f"key envelope of {self.topics.device}"
        return {"name": name, "topic": topic, "payload": made.payload.hex(), "expect": []}

    def message(
        self, name: str, kind: MessageType, topic: str, said: list[Any], zip_: Zip = Zip.NONE
    ) -> dict[str, Any]:
        """A sealed message with the steps between, so that a reader under work can see where it goes wrong."""
        maps = [codec.to_map(one) if isinstance(one, Event) else one for one in said]
        encoded = [cbor.encode(one) for one in maps]
        tail = self._name(topic)
        payload = cbor.array_of(encoded) if kind is MessageType.BATCH else encoded[0]
        sealed = self.sealer.seal(kind, tail, payload, zip_)
        steps = self._steps(sealed, tail)
        return {"name": name, "topic": topic, "payload": sealed.hex(), "steps": steps, "expect": maps}

    def _name(self, topic: str) -> str:
        """What the page calls the name of a message: "<op>/<id>" of a state, else the level after the first."""
        levels = topic.removeprefix(f"{self.topics.prefix}/").split("/")
        return "/".join(levels[1:]) if levels[0] == "cmd" else levels[1]

    def _steps(self, sealed: bytes, tail: str) -> dict[str, Any]:
        parts = message_module.parse(sealed)
        device, ask = self.topics.device, entropy(self.topics.device)
        epoch = message_module.EpochKey(ask(8), ask(32), ask(12))
        where = message_module.Address(self.topics.site, device, tail)
        external = [message_module.CONTEXT, self.topics.site, device, int(parts.message_type), tail, parts.kid, parts.n]
        return {
            "n": parts.n,
            "nonce": message_module.nonce(epoch.base_iv, parts.n).hex(),
            "protected": parts.protected.hex(),
            "external": cbor.encode(external).hex(),
            "decrypted": message_module.open_(parts, epoch, where).hex(),
        }


def event(number: int, stream: str, kind: str, body: dict[str, Any], full: bool = False) -> Event:
    """An event; `full` sets every optional key."""
    extra: dict[str, Any] = {}
    if full:
        extra = {
            "replay": True, "model": ModelRef("digits", "1.0.0", "ab" * 32), "pipeline": "meter",
            "pipeline_digest": "11" * 16, "config_digest": "22" * 16, "input_digest": "33" * 16, "cache": "exact",
            "decided_by": "appears 3 of 5", "media": {"kind": "jpeg", "bytes": 1234},
        }  # fmt: skip
    draft = Draft(stream, kind, body, WALL_S + number, 5.25 + number, "critical", "synced", **extra)
    return Event(f"0190a5d0-0000-7000-8000-{number:012x}", "5f0c5f0c5f0c5f0c", number, draft)


def vectors() -> dict[str, Any]:
    """All vectors."""
    reader = ReaderKey(x25519.X25519PrivateKey.from_private_bytes(secret("reader key")))
    guest = ReaderKey(x25519.X25519PrivateKey.from_private_bytes(secret("second reader key")))
    edge_key = ed25519.Ed25519PrivateKey.from_private_bytes(secret("edge signing key"))
    vault_key = ec.derive_private_key(int.from_bytes(secret("vault signing key"), "big") >> 1, ec.SECP256R1())
    technician = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(secret("technician key")))
    edge = Device("edge", SigningKey(edge_key), [guest, reader])
    vault = Device("vault", SigningKey(vault_key), [reader])
    opens = [edge.envelope(), *_messages(edge), vault.envelope(), _second_suite(vault), *_plain()]
    unheard = edge.message("", MessageType.EVENT, edge.topics.event("door"), [event(99, "door", "appears", {})])
    return {
        "warning": WARNING,
        "reader": {
            "key_id": reader.public.key_id.hex(),
            "private_raw": secret("reader key").hex(),
            "public_raw": reader.public.public.public_bytes_raw().hex(),
        },
        "devices": [
            edge.about(), vault.about(), {"site": "test-site", "device": "lamp", "mode": "plain"},
        ],
        "epochs": [
            {"device": d, "kid": entropy(d)(8).hex(), "key": entropy(d)(32).hex(), "base_iv": entropy(d)(12).hex()}
            for d in ("edge", "vault")
        ],
        "technician": {
            "key_id": technician.public.key_id.hex(), "private_raw": secret("technician key").hex(),
            "public_spki": spki(technician.public.public).hex(),
        },
        "requests": _requests(technician),
        "opens": opens,
        "refused": _refused(opens, unheard),
    }  # fmt: skip


def _messages(edge: Device) -> list[dict[str, Any]]:
    full = event(1, "door", "appears", {"label": "person", "score": 0.875, "box": [1, 2.5, 300, 400.25]}, full=True)
    short = event(2, "door", "clears", {"label": "naïve ✓", "present_s": 1.1, "nothing": None, "flags": [True, False]})
    lost = {"reason": "outbox full", "first": 64, "last": 80, "count": 17, "upper_bound": False}
    door, gap = edge.topics.event("door"), event(63, "door", "gap", lost)
    twin, alarm = {"digits": {"version": "1.0.0", "sha256": "ab" * 32}}, {"free_bytes": 0}
    return [
        edge.message("event, every key", MessageType.EVENT, door, [full]),
        edge.message("event, required keys", MessageType.EVENT, door, [short]),
        *(_batch(edge, zip_, 3 + 20 * zip_) for zip_ in Zip),
        edge.message("gap", MessageType.GAP, edge.topics.gap("door"), [gap]),
        edge.message("twin", MessageType.TWIN, edge.topics.twin("models"), [twin]),
        edge.message("alarm", MessageType.ALARM, edge.topics.alarm("disk"), [alarm]),
        edge.message("state", MessageType.STATE, edge.topics.state("update", "19d2ac0f3801"), [_state()]),
        edge.message("capability", MessageType.CAPABILITY, edge.topics.capability("update"), [_capability()]),
    ]


def _state() -> dict[str, Any]:
    return {
        "id": "19d2ac0f3801", "operation": "update", "status": "download", "version": 3, "reason": "", "text": "",
        "t_wall_s": WALL_S + 0.5, "done_bytes": 65536, "total_bytes": 1048576, "detail": {"model": "keywords"},
        "by": "ann",
    }  # fmt: skip


def _capability() -> dict[str, Any]:
    args = {"model": "a string", "version": "a string"}
    return {"schema": 1, "roles": ["technician", "admin"], "args": args, "mutating": True}


def _requests(key: SigningKey) -> list[dict[str, Any]]:
    """Signed requests; Ed25519 makes the same bytes each time."""
    now_s, args = WALL_S, {"model": "keywords", "version": "1.1.0"}
    made: list[dict[str, Any]] = []
    asked: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("request, update", "update", {"args": args}),
        ("request, no arguments", "ping", {}),
        ("request, with the device's nonce", "rollback", {"args": {"model": "keywords"}, "nonce": bytes(range(8))}),
        ("request, another fleet", "update", {"args": args, "audience": "acme"}),
    )
    for name, operation, more in asked:
        target = Target("test-site", "edge", operation, "19d2ac0f3801")
        request = Request(target, now_s, now_s + 900, now_s * 1000 + len(made), **more)
        topic = Topics(target.site, target.device).request(operation, target.id)
        said: dict[str, Any] = {"site": target.site, "device": target.device, "operation": operation, "id": target.id}
        said |= {"audience": request.audience, "issued_s": now_s, "expires_s": now_s + 900}
        said |= {"counter": request.counter, "args": dict(request.args), "nonce": request.nonce.hex()}
        said |= {"key_id": key.public.key_id.hex(), "external": external(target).hex()}
        made.append({"name": name, "topic": topic, "payload": sign_request(key, request).hex(), **said})
    return made


def _batch(edge: Device, zip_: Zip, first: int) -> dict[str, Any]:
    numbers = range(first, first + 20)
    said = [event(i, "door", "counts", {"label": "person", "count": i, "before": i - 1}) for i in numbers]
    return edge.message(f"batch, zip {int(zip_)}", MessageType.BATCH, edge.topics.event("door"), said, zip_)


def _second_suite(vault: Device) -> dict[str, Any]:
    body = {"label": "temp", "value": -40.5, "unit": "Cel", "threshold": -40, "direction": "falling"}
    said = event(1, "seal", "crosses", body)
    return vault.message("event under an ES256 envelope", MessageType.EVENT, vault.topics.event("seal"), [said])


def _plain() -> list[dict[str, Any]]:
    said, topics = event(1, "kitchen", "appears", {"label": "light"}), Topics("test-site", "lamp")
    payload = PlainSealer().seal(MessageType.EVENT, "kitchen", codec.encode(said)).hex()
    status = b'{"state":"online","mqtt":"5"}'
    return [
        {"name": "plain event", "topic": topics.event("kitchen"), "payload": payload, "expect": [codec.to_map(said)]},
        {"name": "status", "topic": topics.status, "payload": status.hex(), "expect": [json.loads(status)]},
    ]


def _refused(opens: list[dict[str, Any]], unheard: dict[str, Any]) -> list[dict[str, Any]]:
    """What must not open, to be tried after `opens`; `unheard` is a good message that is not among them."""
    by_name = {vector["name"]: vector for vector in opens}
    envelope, heard = by_name["key envelope of edge"], by_name["event, required keys"]
    topic, payload = unheard["topic"], unheard["payload"]
    other_site = envelope["payload"].replace(b"test-site".hex(), b"best-site".hex())
    refused = [
        ("replay", heard["topic"], heard["payload"]),
        ("another stream", topic.replace("door", "gate"), payload),
        ("another kind of topic", topic.replace("/e/", "/twin/"), payload),
        ("last byte flipped", topic, _flip_last(payload)),
        ("cut short", topic, payload[:-2]),
        ("a byte too many", topic, payload + "00"),
        ("plain from a sealed device", topic, by_name["plain event"]["payload"]),
        ("envelope on another topic", envelope["topic"][:-2] + "00", envelope["payload"]),
        ("envelope with another site", envelope["topic"], other_site),
        ("envelope with another signature", envelope["topic"], _flip_last(envelope["payload"])),
    ]
    return [{"name": name, "topic": topic, "payload": payload} for name, topic, payload in refused]


def _flip_last(payload: str) -> str:
    return payload[:-2] + f"{int(payload[-2:], 16) ^ 1:02x}"


def main(path: Path) -> None:
    """Write the file."""
    path.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path}: written")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/vectors/wire.json")

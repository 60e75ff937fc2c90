"""One connection to a broker, driven by the thread that uses it.

paho keeps what it cannot send in memory without a limit and sends it again after a reconnect, for ever if need be. So a
`Link` lives for one connection: it publishes only while connected, and what was not acknowledged when it breaks belongs
to the caller again. Publishing and its acknowledgements do not pass through paho (`packets` says why); all the rest
does. Nothing runs in paho's callbacks but appending to a queue. Not thread-safe, but for `wake`.
"""

import ipaddress
import logging
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, cast

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.broker import Ack, Message, Session, words
from agent.errors import UplinkError
from agent.mqtt import packets
from agent.mqtt.protect import context, password
from agent.mqtt.stream import Stream, Wrapping
from agent.mqtt.words import distrust, tls_advice
from agent.settings.uplink import UplinkConfig

log = logging.getLogger(__name__)

RECEIVED_LIMIT: Final = 1000
"""Received messages that may wait for the caller; those beyond it are dropped and counted."""
RECEIVED_BYTES: Final = 4 << 20
"""Largest packet that we accept, bytes; v5 brokers keep to it."""
PACKET_LIMIT: Final = 268_435_455
"""Largest MQTT packet there is, bytes."""
PACKETS: Final = 16
"""Received packets that one turn looks at; the broker is heard again when the caller had a chance to take them."""
MIDS: Final = range(4096, 65536)
"""Packet ids of what is published; paho counts its subscriptions from 1 up."""


class Link:
    """One connection. Raises UplinkError wherever the network or the broker is at fault, with what to do about it."""

    def __init__(self, config: UplinkConfig, client_id: str, will: Message | None = None) -> None:
        """Nothing happens before `connect`."""
        self._config = config
        self._v5 = config.protocol == "5"
        self.acks: deque[Ack] = deque()
        self.received: deque[Message] = deque()
        self.dropped = 0
        self._granted: tuple[ReasonCode, bool, Properties | None] | None = None
        self._subscribed: dict[int, list[ReasonCode]] = {}
        self._broken = ""
        self._said = _Said()
        self._mid = MIDS.start - 1
        self._open: set[int] = set()
        """Packet ids that wait for an answer."""
        self._by_hand = False
        self._woken = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._client = self._make(client_id, will)

    # --- one connection -------------------------------------------------------------------------------------------

    def connect(self, unanswered: int = 0, packet_bytes: int = 0) -> Session:
        """Connect and wait for the broker's answer. Raises UplinkError, or ConfigError for a file it cannot use.

        `unanswered` above 0: what is received is acknowledged by hand (`answer`), and at most so many may wait for
        that. `packet_bytes`: the largest packet that the broker may send. MQTT 3.1.1 can ask for neither limit.
        """
        config, self._by_hand = self._config, unanswered > 0
        self._client.manual_ack_set(self._by_hand)
        self._protect()
        options: dict[str, Any] = {"keepalive": config.keepalive_s}
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = config.session_expiry_s
            properties.MaximumPacketSize = packet_bytes or RECEIVED_BYTES
            if unanswered:
                properties.ReceiveMaximum = unanswered
            options |= {"clean_start": False, "properties": properties}
        where = f"broker {config.host}:{config.port}"
        try:
            self._client.connect(self._address(), config.port, **options)
        except ssl.SSLCertVerificationError as exc:
            raise UplinkError(f"{where}: {distrust(exc)}") from exc
        except ssl.SSLError as exc:
            raise UplinkError(f"{where}: TLS failed: {exc.reason or exc}: {tls_advice(str(exc))}") from exc
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
            raise UplinkError(f"{where}: cannot be reached: {reason}: check [uplink] broker and the network") from exc
        return self._await_grant(where)

    def _await_grant(self, where: str) -> Session:
        until_s = monotonic() + self._config.connect_timeout_s
        while self._granted is None:
            left_s = until_s - monotonic()
            if left_s <= 0:
                raise UplinkError(f"{where}: it accepted the connection and then said nothing: is this an MQTT port?")
            if not self.turn(min(left_s, 0.5)) and self._granted is None:
                raise UplinkError(f"{where}: {self._broken}: {tls_advice(self._broken)}")
        code, present, properties = self._granted
        if code.value >= 0x80:
            raise UplinkError(f"{where}: refused the connection: {words(code.value)}")
        window = min(self._config.window, getattr(properties, "ReceiveMaximum", 65535))
        return Session(present, window, getattr(properties, "MaximumPacketSize", PACKET_LIMIT))

    @property
    def connected(self) -> bool:
        """True between the broker's welcome and the first sign that the connection is gone."""
        return self._granted is not None and not self._broken

    @property
    def trouble(self) -> str:
        """Why the connection is gone; empty while it is not."""
        return self._broken

    def publish(self, message: Message) -> int:
        """Send at QoS 1; the answer comes as an `Ack` with the returned id. Raises UplinkError when not connected."""
        if not self.connected:
            raise UplinkError(f"not connected: {self._broken}")
        mid = self._mid = self._free_mid()
        expiry_s = message.expiry_s if self._v5 else None
        packet = packets.publish(
            mid, message.topic, message.payload, retain=message.retain, v5=self._v5, expiry_s=expiry_s
        )
        self._open.add(mid)
        self._sending(lambda stream: stream.send(packet))
        return mid

    def _free_mid(self) -> int:
        mid = self._mid
        while True:
            mid = mid + 1 if mid + 1 in MIDS else MIDS.start
            if mid not in self._open:
                return mid

    def flush(self) -> None:
        """Let what was published leave now, as far as the network takes it; `turn` does so too."""
        self._sending(Stream.flush)

    def _sending(self, work: Callable[[Stream], object]) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            work(stream)
        except OSError as exc:
            stream.receive()  # perhaps it said why
            self._hear(stream)
            self._broken = self._broken or f"sending failed: {exc.strerror or exc}"

    @property
    def _stream(self) -> Stream | None:
        """What `Wrapping` made; None before and after the connection."""
        return cast("Stream | None", self._client.socket())

    def answer(self, mid: int) -> None:
        """Acknowledge a received message; the caller keeps the order of arrival (MQTT 5, 4.6)."""
        if self.connected and self._client.ack(mid, 1) != MQTTErrorCode.MQTT_ERR_SUCCESS and not self._broken:
            self._broken = "sending an acknowledgement failed"

    def subscribe(self, filters: Sequence[str], *, retained: bool = True) -> None:
        """Subscribe at QoS 1 and wait for the grant. Raises UplinkError when one is refused.

        `retained` false: what the broker keeps is not sent (MQTT 3.1.1 sends it all the same, marked as retained).
        """
        handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
        options: Any = 1
        if self._v5:
            options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=handling)
        _, mid = self._client.subscribe([(topic, options) for topic in filters])
        until_s = monotonic() + self._config.connect_timeout_s
        while mid not in self._subscribed:
            if not self.turn(0.2) or monotonic() > until_s:
                raise UplinkError(f"subscription was not answered: {self._broken or 'the broker said nothing'}")
        for topic, code in zip(filters, self._subscribed.pop(mid), strict=True):
            if code.value >= 0x80:
                raise UplinkError(f"subscription to {topic} refused: {words(code.value)}: add a read line to its ACL")

    def turn(self, timeout_s: float) -> bool:
        """Wait for the network, a `wake` or the timeout, and do what is due; False when the connection is gone."""
        stream = self._stream
        if stream is None or self._broken:
            self._broken = self._broken or _last(self._said.text, MQTTErrorCode.MQTT_ERR_CONN_LOST)
            return False
        self.flush()
        if self._broken:
            return False
        writes = [stream] if stream.unsent else []
        wait_s = 0 if stream.readable else timeout_s
        both: list[Stream | socket.socket] = [stream, self._wake_out]
        readable, _, _ = select.select(both, writes, [], wait_s)
        if self._wake_out in readable:
            self._wake_out.recv(4096)
            self._woken = False  # only now: a byte sent before it is read would leave `wake` silent for ever
        if stream in readable and not stream.readable:
            stream.receive()
        self._hear(stream)
        self.flush()
        return not self._broken

    def _hear(self, stream: Stream) -> None:
        """Have paho read what came, and do what is due."""
        code, left = 0, PACKETS
        try:
            while stream.readable and left > 0 and not code:
                code, left = self._client.loop_read(), left - 1
            code = code or self._client.loop_misc()
        except (ValueError, IndexError, KeyError, TypeError, struct.error) as exc:  # paho's reader on malformed packets
            self._broken = f"the broker sent a packet that cannot be read ({exc})"
            return
        if code and not self._broken:
            self._broken = _last(self._said.text, MQTTErrorCode(code))

    def wake(self) -> None:
        """End a wait in `turn` early; from any thread, never blocks."""
        if not self._woken:
            self._woken = True
            try:
                self._wake_in.send(b"\0")
            except OSError:
                return  # full: it will wake anyway; closed: nobody waits

    def leave(self, why: str) -> None:
        """Say goodbye, so that the last will is not sent; `why` is what `trouble` says from then on."""
        if self.connected:
            self._broken = why
            self._client.disconnect()
        self._broken = self._broken or why

    def close(self) -> None:
        """Say goodbye if connected, so that the last will is not sent, and let the socket go."""
        self.leave("closed")
        sock: Any = self._client.socket()
        if sock is not None:
            sock.close()
        self._wake_in.close()
        self._wake_out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- making it ------------------------------------------------------------------------------------------------

    def _make(self, client_id: str, will: Message | None) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if self._v5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._config.connect_timeout_s
        if will is not None:
            client.will_set(will.topic, will.payload, 1, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.enable_logger(self._said.logger)
        return client

    def _protect(self) -> None:
        config = self._config
        if config.username is not None and config.password_file is not None:
            self._client.username_pw_set(config.username, password(config.password_file))
        sieve = packets.Sieve(self._answered)
        wrapping = Wrapping(context(config) if config.tls else None, sieve.sift)
        self._client.tls_set_context(cast("ssl.SSLContext", wrapping))

    def _address(self) -> str:
        """The host to connect to; in cleartext only an address that is allowed, resolved once."""
        config = self._config
        if config.tls or config.loopback:
            return config.host
        for *_, address in socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM):
            found = ipaddress.ip_address(str(address[0]).partition("%")[0])
            if found.is_private or found.is_loopback:
                return str(address[0])
        raise UplinkError(f"broker {config.host}: no private address: cleartext is for private networks, use mqtts://")

    # --- paho's callbacks: they only note ---------------------------------------------------------------------------

    def _on_connect(self, _c: Client, _u: object, flags: Any, code: ReasonCode, properties: Properties | None) -> None:
        self._granted = (code, bool(flags.session_present), properties)

    def _on_disconnect(self, _c: Client, _u: object, flags: Any, code: ReasonCode, _p: Properties | None) -> None:
        if flags.is_disconnect_packet_from_server:
            self._broken = f"the broker ended the connection: {words(code.value)}"

    def _answered(self, mid: int, code: int) -> None:
        if mid in self._open:
            self._open.remove(mid)
            self.acks.append(Ack(mid, code))

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        if len(self.received) >= RECEIVED_LIMIT:
            self.dropped += 1
            return
        mid = message.mid if self._by_hand and message.qos == 1 else 0
        self.received.append(Message(message.topic, bytes(message.payload), message.retain, mid=mid))

    def _on_subscribe(self, _c: Client, _u: object, mid: int, codes: list[ReasonCode], _p: Properties) -> None:
        self._subscribed[mid] = codes


class _Said(logging.Handler):
    """Keeps paho's last error. Its callback for logs would have every step written out, for nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.logger = logging.Logger("paho", logging.ERROR)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def _last(text: str, code: MQTTErrorCode) -> str:
    """What paho logged about a failure, or the name of its code; paho says nothing when the other side just left."""
    if not text and code == MQTTErrorCode.MQTT_ERR_CONN_LOST:
        return "the other side closed it"
    return text.partition(": ")[2] or text or code.name.removeprefix("MQTT_ERR_").lower().replace("_", " ")

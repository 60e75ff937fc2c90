"""One connection to a broker, driven by the thread that uses it.

paho keeps what it cannot send in memory without a limit and sends it again after a reconnect, for ever if need be. So a
`Link` lives for one connection: it publishes only while connected, and what was not acknowledged when it breaks belongs
to the caller again. Nothing runs in paho's callbacks but appending to a queue. Not thread-safe, but for `wake`.
"""

import ipaddress
import logging
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.broker import Ack, Message, Session, words
from agent.errors import UplinkError
from agent.mqtt.protect import context, password
from agent.mqtt.words import distrust, tls_advice
from agent.settings.uplink import UplinkConfig

log = logging.getLogger(__name__)

RECEIVED_LIMIT: Final = 1000
"""Received messages that may wait for the caller; those beyond it are dropped and counted."""
RECEIVED_BYTES: Final = 4 << 20
"""Largest packet that we accept, bytes; v5 brokers keep to it."""
PACKET_LIMIT: Final = 268_435_455
"""Largest MQTT packet there is, bytes."""


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
        self._last_log = ""
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
        self._client.on_socket_register_write = None  # from now on the broker can work while we go on
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
        properties = None
        if self._v5 and message.expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = message.expiry_s
        info = self._client.publish(message.topic, message.payload, 1, message.retain, properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS and not self._broken:
            self._broken = f"sending failed: {_last(self._last_log, info.rc)}"
        return info.mid

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
        sock = self._client.socket()
        if sock is None or self._broken:
            self._broken = self._broken or _last(self._last_log, MQTTErrorCode.MQTT_ERR_CONN_LOST)
            return False
        waiting: Any = sock
        pending = getattr(waiting, "pending", int)()
        writes = [sock] if self._client.want_write() else []
        readable, writable, _ = select.select([sock, self._wake_out], writes, [], 0 if pending else timeout_s)
        if self._wake_out in readable:
            self._woken = False
            self._wake_out.recv(4096)
        self._pump(bool(pending) or sock in readable, bool(writable))
        return not self._broken

    def _pump(self, read: bool, write: bool) -> None:
        try:
            codes = [self._client.loop_read() if read else 0, self._client.loop_write() if write else 0]
            codes.append(self._client.loop_misc())
        except (ValueError, IndexError, KeyError, TypeError, struct.error) as exc:  # paho's reader on malformed packets
            self._broken = f"the broker sent a packet that cannot be read ({exc})"
            return
        failed = next((code for code in codes if code), None)
        if failed is not None and not self._broken:
            self._broken = _last(self._last_log, MQTTErrorCode(failed))

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
            self._pump(read=False, write=self._client.want_write())
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
        client.max_inflight_messages_set(0)  # the caller's window is the limit
        if will is not None:
            client.will_set(will.topic, will.payload, 1, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_log = self._on_log
        # With this hook set, paho leaves writing to `turn`, which reads first: an alert about our certificate that
        # arrives while CONNECT is being written would be lost otherwise. It goes when the broker has welcomed us.
        client.on_socket_register_write = _noted
        return client

    def _protect(self) -> None:
        config = self._config
        if config.username is not None and config.password_file is not None:
            self._client.username_pw_set(config.username, password(config.password_file))
        if config.tls:
            self._client.tls_set_context(context(config))

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

    def _on_publish(self, _c: Client, _u: object, mid: int, code: ReasonCode, _p: Properties) -> None:
        self.acks.append(Ack(mid, code.value))

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        if len(self.received) >= RECEIVED_LIMIT:
            self.dropped += 1
            return
        mid = message.mid if self._by_hand and message.qos == 1 else 0
        self.received.append(Message(message.topic, bytes(message.payload), message.retain, mid=mid))

    def _on_subscribe(self, _c: Client, _u: object, mid: int, codes: list[ReasonCode], _p: Properties) -> None:
        self._subscribed[mid] = codes

    def _on_log(self, _c: Client, _u: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._last_log = text


def _noted(_client: Client, _userdata: object, _sock: object) -> None:
    return


def _last(text: str, code: MQTTErrorCode) -> str:
    """What paho logged about a failure, or the name of its code; paho says nothing when the other side just left."""
    if not text and code == MQTTErrorCode.MQTT_ERR_CONN_LOST:
        return "the other side closed it"
    return text.partition(": ")[2] or text or code.name.removeprefix("MQTT_ERR_").lower().replace("_", " ")

"""The door to MQTT: the only place that knows paho."""

from agent.broker import Message
from agent.mqtt.link import Link

__all__ = ["Link", "Message"]

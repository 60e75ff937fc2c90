"""The embedded broker's process: amqtt with TLS, WebSocket, passwords and an access list, from one JSON file.

A script that `agent.demo.broker` runs with the path of that file; it imports nothing of the agent. MQTT v3.1.1 only.
Of 200 messages for an absent reader 107 came, and its sessions end with its process: good for a first look, not a site.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerType
from amqtt.plugins.authentication import Argon2Hasher


def amqtt_config(settings: dict[str, Any]) -> BrokerConfig:
    """amqtt's configuration: a TLS listener, a WebSocket listener, accounts, access lists."""
    files = {"cafile": settings["authority"], "certfile": settings["certificate"], "keyfile": settings["key"]}
    lists = {"publish_acl": settings["write"], "acl": settings["read"]}  # 0.12 has no other name for subscribe
    config = {
        "listeners": {
            "default": {"type": "ws", "bind": f"127.0.0.1:{settings['websocket_port']}"},
            "tls": {"bind": f"127.0.0.1:{settings['port']}", "ssl": True, **files},
        },
        "plugins": {
            "amqtt.plugins.authentication.FileAuthPlugin": {"password_file": settings["password_file"]},
            "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": lists,
        },
    }
    made = BrokerConfig.from_dict(config)
    made.listeners["tls"].type = ListenerType.TCP  # what equals amqtt's default is replaced by the listener "default"
    return made


async def serve(settings: dict[str, Any]) -> None:
    """Run until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended.set)
    broker = Broker(amqtt_config(settings))
    await broker.start()
    await ended.wait()
    await broker.shutdown()


def main() -> None:
    """Read the settings, hash the passwords into amqtt's file, serve."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    settings = json.loads(Path(sys.argv[1]).read_text())
    lines = [f"{name}:{Argon2Hasher().hash(password)}\n" for name, password in settings["passwords"].items()]
    with os.fdopen(os.open(settings["password_file"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(lines)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()

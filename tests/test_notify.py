"""The line to systemd: what is sent, where, and what happens when nobody listens."""

import logging
import socket
import threading

import pytest

from agent.errors import ConfigError
from agent.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's end: (address as in NOTIFY_SOCKET, its socket), once as a path, once abstract."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            address = str(tmp_path / "notify")
            sock.bind(address)
        else:
            sock.bind("")  # Linux chooses a free abstract name
            address = "@" + sock.getsockname()[1:].decode()
        sock.settimeout(2)
        yield address, sock


def test_every_word_arrives_as_systemd_expects_it(manager):
    """READY, STATUS, WATCHDOG and STOPPING, one datagram each, the status on one line."""
    address, sock = manager
    notifier = Notifier(address)
    notifier.ready("3 lanes")
    notifier.status("camera away\nREADY=1")
    notifier.watchdog()
    notifier.stopping()
    assert [sock.recv(4096).decode() for _ in range(4)] == [
        "READY=1\nSTATUS=3 lanes",
        "STATUS=camera away READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_without_a_service_manager_nothing_happens():
    """A checkout on a desk needs no special case."""
    notifier = Notifier.from_environment({}, 7)
    notifier.ready()
    notifier.watchdog()
    assert notifier.feed_s is None


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "7"}, 20.0),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_when_systemd_says_so(variables, watchdog_s):
    """The limit is read in seconds, fed at half of it, and the variables are kept from child processes."""
    environ = {"NOTIFY_SOCKET": "/run/x", "HOME": "/", **variables}
    notifier = Notifier.from_environment(environ, 7)
    assert notifier.watchdog_s == watchdog_s
    assert notifier.feed_s == (watchdog_s and watchdog_s / 2)
    assert environ == {"HOME": "/"}


def test_a_dead_socket_is_told_once_and_survived(tmp_path, caplog):
    """The agent goes on; systemd's time limits decide."""
    notifier = Notifier(str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        notifier.ready()
        notifier.watchdog()
    assert len(caplog.records) == 1
    assert "nobody" in caplog.text


def test_a_full_socket_does_not_hold_the_agent_up(manager):
    """A manager that reads nothing costs a bounded wait, not a hang."""
    address, _ = manager
    notifier = Notifier(address)
    done = threading.Event()

    def shout():
        for _ in range(64):  # the kernel queues some ten datagrams (net.unix.max_dgram_qlen), then it would block
            notifier.watchdog()
            if notifier._told_broken:
                break
        done.set()

    threading.Thread(target=shout, daemon=True).start()
    assert done.wait(10)
    assert notifier._told_broken


def test_an_address_that_is_no_unix_socket_is_refused():
    """vsock and other forms are told apart from a path."""
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        Notifier("vsock:2:1234")

"""An OpenStack Swift of one process on loopback: proxy with s3api and tempauth, and account, container and object
below. Only its cache, memcached elsewhere, is a dict here.

Run by the Python that has Swift (Debian's, /usr/bin/python3): swift_server.py FOLDER. Prints the proxy's port.
"""

import logging
import os
import sys
from pathlib import Path

import eventlet

eventlet.patcher.monkey_patch(all=False, socket=True, select=True, thread=True)

import eventlet.wsgi  # noqa: E402
from swift.common import utils  # noqa: E402

FOLDER = Path(sys.argv[1])
STORES = ("account", "container", "object")
COMMON = "[DEFAULT]\nswift_dir = {folder}\ndevices = {folder}\nmount_check = false\nlog_level = ERROR\nworkers = 0\n"
PROXY = """
account_autocreate = true
[pipeline:main]
pipeline = catch_errors gatekeeper s3api tempauth slo dlo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
"""


class Memory:
    """What Swift's proxy wants of memcached, in this process."""

    def __init__(self, app):
        self.app, self.kept = app, {}

    def __call__(self, environ, start):
        environ["swift.cache"] = self
        return self.app(environ, start)

    def get(self, key, raise_on_error=False):
        return self.kept.get(key)

    def set(self, key, value, **_):
        self.kept[key] = value

    def incr(self, key, delta=1, time=0):
        self.kept[key] = self.kept.get(key, 0) + delta
        return self.kept[key]

    def delete(self, key, server_key=None):
        self.kept.pop(key, None)


def write_configuration():
    """swift.conf, and one file per server."""
    (FOLDER / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = a\nswift_hash_path_prefix = b\n")
    common = COMMON.format(folder=FOLDER)
    (FOLDER / "proxy.conf").write_text(common + PROXY)
    for store in STORES:
        app = f"[pipeline:main]\npipeline = {store}-server\n[app:{store}-server]\nuse = egg:swift#{store}\n"
        (FOLDER / f"{store}.conf").write_text(common + app)
        (FOLDER / "disk").mkdir(exist_ok=True)


def write_ring(store, port):
    """A ring of one device."""
    from swift.common.ring import RingBuilder

    builder = RingBuilder(2, 1, 0)
    builder.add_dev({"id": 0, "zone": 1, "region": 1, "weight": 1, "ip": "127.0.0.1", "port": port, "device": "disk"})
    builder.rebalance()
    builder.get_ring().save(str(FOLDER / f"{store}.ring.gz"))


def main():
    """Serve until killed."""
    from swift.common.wsgi import loadapp

    write_configuration()
    utils.SWIFT_CONF_FILE = str(FOLDER / "swift.conf")
    utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b"b", b"a"
    listening = {name: eventlet.listen(("127.0.0.1", 0)) for name in (*STORES, "proxy")}
    for store in STORES:
        write_ring(store, listening[store].getsockname()[1])
    silent = logging.getLogger("silent")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    apps = {name: loadapp(str(FOLDER / f"{name}.conf")) for name in listening}
    apps["proxy"] = Memory(apps["proxy"])
    threads = [eventlet.spawn(eventlet.wsgi.server, listening[name], app, silent) for name, app in apps.items()]
    print(listening["proxy"].getsockname()[1], flush=True)
    for thread in threads:
        thread.wait()


if __name__ == "__main__":
    os.chdir(FOLDER)
    main()

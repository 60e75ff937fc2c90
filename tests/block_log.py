"""A disk that remembers every write and every flush, so that a power cut at any moment can be played again.

A file system of our own on /dev/fuse (the kernel's protocol, version 7.31) that holds a single file. The kernel's loop
driver makes a block device of that file and turns each cache flush of the device into an fsync; so what is logged is
what a disk sees under a real ext4: its journal, its barriers, its delayed writes. An image after a cut holds every
write up to the last flush, and any part of those after it.

Needs root, /dev/fuse and loop devices. Run it in a mount namespace of its own: whatever happens, the mounts go with it.
"""

import contextlib
import ctypes
import enum
import errno
import os
import stat
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

MAX_WRITE = 128 * 1024
FILE_NODE = 2
_HEADER = struct.Struct("<IIQQIIIHH")
_ATTR = struct.Struct("<6Q10I")
_libc = ctypes.CDLL(None, use_errno=True)


class Op(enum.IntEnum):
    """What the kernel asks of a file system, as far as it asks us (include/uapi/linux/fuse.h)."""

    LOOKUP, FORGET, GETATTR, SETATTR = 1, 2, 3, 4
    OPEN, READ, WRITE, STATFS, RELEASE = 14, 15, 16, 17, 18
    FSYNC, FLUSH, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 20, 25, 26, 36, 38, 42


@dataclass(frozen=True, slots=True)
class Written:
    """One write of the disk."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything before it is on the platter."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the workload said, so that the log can be read."""

    words: str


@dataclass
class BlockLog:
    """The disk: its first image and everything that happened to it since."""

    image: bytearray
    first: bytes = b""
    events: list = field(default_factory=list)

    def start(self):
        """From now on everything is logged."""
        self.first = bytes(self.image)
        self.events.clear()

    def write(self, offset, data):
        self.image[offset : offset + len(data)] = data
        self.events.append(Written(offset, bytes(data)))

    def after(self, count, lost=lambda _number: False):
        """The image when the power went after `count` events: `lost(n)` says which un-flushed writes never arrived."""
        flushed = max((n for n in range(count) if isinstance(self.events[n], Flush)), default=-1)
        image = bytearray(self.first)
        for n, event in enumerate(self.events[:count]):
            if isinstance(event, Written) and (n < flushed or not lost(n)):
                image[event.offset : event.offset + len(event.data)] = event.data
        return image


class FuseDisk:
    """Serves a BlockLog as the file `disk` in `folder` until the end of the block."""

    def __init__(self, log, folder):
        self.log, self.folder = log, folder
        self._fd = -1

    @property
    def path(self):
        return self.folder / "disk"

    def __enter__(self):
        self.folder.mkdir(exist_ok=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0"
        if _libc.mount(b"limpet", str(self.folder).encode(), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount of a fuse file system")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        _libc.umount2(str(self.folder).encode(), 2)
        self._thread.join(5)
        os.close(self._fd)

    def _serve(self):
        while True:
            try:
                request = os.read(self._fd, MAX_WRITE + 4096)
            except OSError as exc:
                if exc.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
            if opcode in (Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT):
                continue
            error, body = 0, b""
            try:
                body = self._answer(opcode, node, memoryview(request)[_HEADER.size :])
            except OSError as exc:
                error = -exc.errno
            with contextlib.suppress(FileNotFoundError):  # whoever asked was interrupted and has gone
                os.write(self._fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)

    def _answer(self, opcode, node, body):
        match opcode:
            case Op.INIT:
                return struct.pack("<IIIIHHIIHHI7I", 7, 31, MAX_WRITE, 0, 16, 12, MAX_WRITE, 1, 0, 0, 0, *[0] * 7)
            case Op.LOOKUP if bytes(body) == b"disk\0":
                return struct.pack("<QQQQII", FILE_NODE, 0, 3600, 3600, 0, 0) + self._attributes(FILE_NODE)
            case Op.LOOKUP:
                raise OSError(errno.ENOENT, "")
            case Op.GETATTR | Op.SETATTR:
                return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
            case Op.OPEN:
                return struct.pack("<QII", 1, 0, 0)
            case Op.READ:
                _, offset, size = struct.unpack_from("<QQI", body)
                return bytes(self.log.image[offset : offset + size])
            case Op.WRITE:
                _, offset, size = struct.unpack_from("<QQI", body)
                self.log.write(offset, body[40 : 40 + size])
                return struct.pack("<II", size, 0)
            case Op.STATFS:
                return struct.pack("<5Q4I6I", 1024, 0, 0, 1, 0, 4096, 255, 4096, 0, *[0] * 6)
            case Op.FSYNC:
                self.log.events.append(Flush())
                return b""
            case Op.RELEASE | Op.FLUSH | Op.DESTROY:
                return b""
        raise OSError(errno.ENOSYS, "")

    def _attributes(self, node):
        size = len(self.log.image) if node == FILE_NODE else 0
        mode = stat.S_IFREG | 0o600 if node == FILE_NODE else stat.S_IFDIR | 0o700
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Mounted:
    """An ext4 image mounted on `folder` by way of a loop device, for the block."""

    def __init__(self, image, folder):
        self.image, self.folder = image, folder

    def __enter__(self):
        self.folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "ext4", "-o", "loop", self.image, self.folder], check=True, capture_output=True)
        return self.folder

    def __exit__(self, *_):
        subprocess.run(["umount", self.folder], check=True, capture_output=True)


def formatted(path, size_bytes):
    """An empty ext4 image as a disk would be: journal, barriers, ordered data."""
    with Path(path).open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-F", path], check=True)
    return bytearray(Path(path).read_bytes())

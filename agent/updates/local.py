"""A repository in a folder: a USB stick, a mounted share. The same checks as over the network, without its limits.

What lies on a stick is as hostile as what comes over a wire: only plain files below the folder are read, no links out
of it, no pipes or devices that would block.
"""

import os
import random
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote

from agent.clock import Clock
from agent.errors import UpdateError
from agent.updates.fetch import Answer, Fetcher
from agent.updates.pace import Limits
from agent.updates.parts import BLOCK_BYTES
from agent.updates.spans import Span

BASE: Final = "file:///repository"
"""The base URL under which a `LocalFetcher` shows its folder."""


class LocalFetcher(Fetcher):
    """Reads below `folder`; URLs begin with `BASE`."""

    def __init__(
        self, folder: Path, limits: Limits | None = None, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        """Raises UpdateError when `folder` cannot be found."""
        super().__init__(limits, clock, rng)
        try:
            self._folder = folder.resolve(strict=True)
        except OSError as exc:
            raise UpdateError(f"{folder}: {exc.strerror}: is the stick in, is it mounted?", "DOWNLOAD_FAILED") from exc

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        del headers  # a folder needs no resume: reading again costs nothing
        file = self._open(url)
        if file is None:
            yield Answer(404, {}, iter(()))
            return
        with file:
            length = str(os.fstat(file.fileno()).st_size)
            yield Answer(200, {"Content-Length": length}, self._blocks(url, file))

    def spans(self, url: str, spans: Sequence[Span], length: int) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of the wanted ranges. Raises UpdateError (DOWNLOAD_FAILED)."""
        del length
        file = self._open(url)
        if file is None:
            raise UpdateError(f"{url}: is not in {self._folder}", "DOWNLOAD_FAILED")
        with file:
            for start, end in ((at, span.end) for span in spans for at in range(span.start, span.end, BLOCK_BYTES)):
                try:
                    data = os.pread(file.fileno(), min(BLOCK_BYTES, end - start), start)
                except OSError as exc:
                    words = f"{url}: {self._folder} cannot be read any more: {exc.strerror}"
                    raise UpdateError(words, "DOWNLOAD_FAILED") from exc
                self._count(len(data))
                yield start, data

    def _open(self, url: str) -> BinaryIO | None:
        path = self._folder / unquote(url.removeprefix(BASE)).lstrip("/")
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self._folder):
                raise UpdateError(f"{path}: leads out of {self._folder}: refused", "DOWNLOAD_FAILED")
            handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, RuntimeError, ValueError) as exc:
            raise UpdateError(f"{path}: cannot be read: {exc}", "DOWNLOAD_FAILED") from exc
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise UpdateError(f"{path}: is no plain file: refused", "DOWNLOAD_FAILED")
        return os.fdopen(handle, "rb")

    def _blocks(self, url: str, file: BinaryIO) -> Iterator[bytes]:
        try:
            while block := file.read(BLOCK_BYTES):
                self._count(len(block))
                yield block
        except OSError as exc:
            raise UpdateError(f"{url}: {self._folder} cannot be read any more: {exc}", "DOWNLOAD_FAILED") from exc

    def _count(self, count: int) -> None:
        self._pace.patience_s()
        self._pace.received_bytes += count

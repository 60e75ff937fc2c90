"""Bringing bytes: small files into memory, blobs onto the disk with resume, single ranges of a blob.

Everything here distrusts the other side: sizes are known from signed metadata before a byte is asked for, an answer
that does not fit them is refused at its headers, and the sha256 of what the disk gives back decides. Where the bytes
come from is `_answer`'s business: a web server (agent/updates/web.py) or a folder (agent/updates/local.py).
"""

import io
import logging
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, TypeVar

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface

from agent.backoff import Backoff
from agent.clock import Clock, SystemClock
from agent.errors import UpdateError
from agent.updates.pace import Limits, Pace
from agent.updates.parts import Part, sha256_of
from agent.updates.spans import MOST_SPANS, Span, boundary, content_range, parts_of, range_header

log = logging.getLogger(__name__)

PROGRESS_BYTES: Final = 1 << 16
"""A try that brought at least so much was no failure, even if it was cut short."""
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_WEB_PAGE = "a web page came instead: log in to this network, or check the URL"

Count = Callable[[int], None]
"""Told how many bytes of the file are there."""
T = TypeVar("T")


class InterruptedTransferError(UpdateError):
    """The connection broke or the server stumbled; what has come is good, and another try may go on from there."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "DOWNLOAD_FAILED")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side says, before its body is read."""

    status: int
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    chunks: Iterator[bytes]
    """The body as it arrives; raises InterruptedTransferError when it ends before its time."""

    @property
    def length(self) -> int | None:
        """Bytes of the body, if the other side says so."""
        value = self.headers.get("Content-Length", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None

    @property
    def validator(self) -> str:
        """What If-Range may say of this object: a strong ETag, else its date; empty when it has neither."""
        etag = self.headers.get("ETag", "")
        return etag if etag.startswith('"') else self.headers.get("Last-Modified", "")


class Fetcher(FetcherInterface):
    """Transfers of one update, within one set of limits. Not for two threads."""

    vouched = "signed"
    """How messages call the bytes whose length and sha256 were known before."""

    def __init__(
        self, limits: Limits | None = None, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        self.limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._pace = Pace(self.limits, self._clock)
        self._one_span = False

    @property
    def received_bytes(self) -> int:
        """All that came in, headers and what was thrown away included."""
        return self._pace.received_bytes

    @abstractmethod
    def _answer(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        """Ask for `url`. Raises UpdateError; InterruptedTransferError when another try makes sense."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A small file. Raises DownloadHTTPError (a status that is no success: TUF must see it), else UpdateError."""
        return self.retried(lambda: self._small(url, max_length))

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """The same as a file; never in /tmp."""
        yield io.BytesIO(self.download_bytes(url, max_length))

    def blob(self, url: str, part: Path, length: int, sha256: str, progress: Count | None = None) -> None:
        """Fill `part`, going on where an earlier try stopped, until it is the file with this sha256.

        Raises UpdateError: NO_SPACE (before a byte, or clean in the middle), TIMED_OUT and DOWNLOAD_FAILED (the part
        stays), VERIFY_FAILED (it went).
        """
        kept = Part(part, length, self.limits.keep_free_bytes)
        self.whole(url, kept, lambda file: sha256_of(file) == sha256, progress)

    def whole(self, url: str, part: Part, good: Callable[[BinaryIO], bool], progress: Count | None = None) -> None:
        """`blob` with any proof. A part put together from several answers that proves wrong is fetched once more."""
        for _ in range(2):
            pieced = self.retried(lambda: self._pour(url, part, progress), part.size)
            if part.proves(good):
                return
            page = part.begins_with(b"<")
            part.drop()
            if not pieced:
                break
            log.warning("update part=%s state=restarted reason=another object than the one begun with", part.path.name)
        words = f"{url}: these are not the bytes that were {self.vouched}"
        raise UpdateError(f"{words}: {_WEB_PAGE}" if page else words, "VERIFY_FAILED")

    def spans(self, url: str, spans: Sequence[Span], length: int) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of the wanted ranges of an object of `length` bytes, and perhaps of others beside them.

        The caller sees what is still missing. Raises UpdateError (DOWNLOAD_FAILED) when the server knows no ranges.
        """
        left = list(spans)
        while left:
            step = 1 if self._one_span else MOST_SPANS
            wanted, left = left[:step], left[step:]
            try:
                yield from self._some(url, wanted, length)
            except _OneSpanOnlyError:
                log.info("update url=%s state=one range per request", url)
                self._one_span, left = True, [*wanted, *left]

    def _some(self, url: str, wanted: Sequence[Span], length: int) -> Iterator[tuple[int, bytes]]:
        with self._answer(url, {"Range": range_header(wanted)}) as answer:
            mark = boundary(answer.headers.get("Content-Type", ""))
            only = content_range(answer.headers.get("Content-Range", ""), length)
            if answer.status == 206 and mark:
                yield from parts_of(answer.chunks, mark, length)
            elif answer.status == 206 and only and (len(wanted) == 1 or len(only) >= wanted[-1].end - wanted[0].start):
                yield from _counted(answer.chunks, only)
            elif answer.status in {200, 206} and len(wanted) > 1:
                raise _OneSpanOnlyError
            else:
                raise UpdateError(f"{url}: the server gives no ranges (status {answer.status})", "DOWNLOAD_FAILED")

    def _fetch(self, url: str) -> Iterator[bytes]:
        """What TUF's interface asks for; every way in this project goes through the methods above."""
        with self._answer(url, {}) as answer:
            _refuse_status(url, answer)
            yield from answer.chunks

    def _small(self, url: str, max_length: int) -> bytes:
        data = bytearray()
        with self._answer(url, {}) as answer:
            _refuse_status(url, answer)
            for chunk in answer.chunks:
                data += chunk
                if len(data) > max_length:
                    raise UpdateError(f"{url}: goes on after the {max_length} bytes allowed", "VERIFY_FAILED")
        if data.lstrip()[:1] == b"<":
            raise UpdateError(f"{url}: {_WEB_PAGE}", "DOWNLOAD_FAILED")
        return bytes(data)

    def _pour(self, url: str, part: Part, progress: Count | None) -> bool:
        """One try to get the rest. Returns whether the part begins with bytes of an earlier answer."""
        have = part.size()
        if have == part.length:
            with part.opened(have):
                return have > 0
        part.make_room()
        with self._answer(url, _resume(part, have)) as answer:
            start = _start(url, answer, part, have, self.vouched)
            part.note(answer.validator)
            self._write(url, answer, part, start, progress)
        return start > 0

    def _write(self, url: str, answer: Answer, part: Part, start: int, progress: Count | None) -> None:
        done = start
        with part.opened(start) as file:
            for chunk in answer.chunks:
                done += len(chunk)
                if done > part.length:
                    part.drop()
                    raise UpdateError(f"{url}: goes on after the {part.length} {self.vouched} bytes", "VERIFY_FAILED")
                file.write(chunk)
                if progress:
                    progress(done)
        if done < part.length:
            raise InterruptedTransferError(f"{url}: ended after {done} of {part.length} bytes")

    def retried(self, act: Callable[[], T], done: Callable[[], int] = int) -> T:
        """`act` until it works or has failed `tries` times in a row; `done` tells whether a try brought anything."""
        backoff = self._fresh_backoff()
        while True:
            before = done()
            try:
                return act()
            except InterruptedTransferError as exc:
                if done() - before >= PROGRESS_BYTES:
                    backoff = self._fresh_backoff()
                wait_s = backoff.failed(self._clock.mono_s())
                if backoff.failures >= self.limits.tries:
                    raise
                log.info("update state=interrupted wait_s=%.1f reason=%s", wait_s, exc)
                self._pace.wait(wait_s)

    def _fresh_backoff(self) -> Backoff:
        return Backoff(self._rng, first_s=self.limits.retry_s, cap_s=60.0)


class _OneSpanOnlyError(Exception):
    """The server does not answer a request for several ranges with several."""


def _resume(part: Part, have: int) -> dict[str, str]:
    if not have:
        return {}
    validator = part.validator()
    return {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})


def _start(url: str, answer: Answer, part: Part, have: int, vouched: str) -> int:
    """Where the answer's body belongs. Raises UpdateError when it cannot be (a piece of) the file that is wanted."""
    if answer.status == 206:
        span = content_range(answer.headers.get("Content-Range", ""), part.length)
        if span and span.start == have:
            return have
    if answer.status in {206, 416}:
        part.drop()
        raise InterruptedTransferError(f"{url}: the server has not the rest of what was begun; again from the start")
    try:
        _refuse_status(url, answer)
    except DownloadHTTPError as exc:
        raise UpdateError(str(exc), "DOWNLOAD_FAILED") from exc
    if answer.length not in {None, part.length}:
        page = f": {_WEB_PAGE}" if "html" in answer.headers.get("Content-Type", "") else ""
        raise UpdateError(f"{url}: {answer.length} bytes, but {part.length} were {vouched}{page}", "VERIFY_FAILED")
    return 0


def _refuse_status(url: str, answer: Answer) -> None:
    if answer.status in _TRY_AGAIN:
        raise InterruptedTransferError(f"{url}: the server is in trouble (status {answer.status})")
    if answer.status != 200:
        raise DownloadHTTPError(f"{url}: the server does not give it (status {answer.status})", answer.status)


def _counted(chunks: Iterator[bytes], span: Span) -> Iterator[tuple[int, bytes]]:
    start = span.start
    for chunk in chunks:
        if start + len(chunk) > span.end:
            raise UpdateError("the server sends more than the range that it announced", "DOWNLOAD_FAILED")
        yield start, chunk
        start += len(chunk)

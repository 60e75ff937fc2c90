"""The door to OpenCV: V4L2 cameras, video files and GIFs, and raw pixels that became BGR; picture files besides.

Network streams never come here: an open or read that hangs in OpenCV cannot be cancelled (they go through
`agent.capture.stream`, a child that can be killed). For V4L2 the wait is `waitAny`, which has a timeout.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2

from agent.capture.source import Closing, Pacer, Patience, Stamp
from agent.errors import CaptureError
from agent.records import Array, Sample
from agent.settings.capture import PixFmt, V4l2Config
from agent.tomlfile import read_plain
from pipelines.image import decode_image
from pipelines.imagefile import check_size

_MOST_BYTES_PER_MEGAPIXEL = 8_000_000  # four values of 16 bits, not compressed
_METADATA_BYTES = 16 << 20
_SHORT_BY = 0.05  # containers that only estimate their length are within a few per cent


class V4l2Source(Closing):
    """A camera behind /dev/video*. Frames that `fps` does not let pass are taken from the driver but not decoded."""

    def __init__(self, config: V4l2Config, stamp: Stamp) -> None:
        """Opens the camera. Raises CaptureError."""
        self._config, self._stamp = config, stamp
        _check_node(config.device)
        self._pacer = Pacer(config.fps)
        self._capture = cv2.VideoCapture(str(config.device), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            self.close()
            raise CaptureError(
                f"{config.device}: is no camera that OpenCV can open: is another program using it,"
                " or is it the metadata node of a camera (try the next number)?"
            )
        self._ask(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc) if config.fourcc else 0)
        self._ask(cv2.CAP_PROP_FRAME_WIDTH, config.width)
        self._ask(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
        # the driver queues 4 frames; the oldest of them is 130 ms old at 30 fps
        self._ask(cv2.CAP_PROP_BUFFERSIZE, 2)
        self._patience = Patience(stamp.clock, config.read_timeout_s, config.read_timeout_s)

    def read(self, timeout_s: float) -> Sample | None:
        """The next frame, BGR. Raises CaptureError when the camera is gone or silent."""
        if not self._wait(timeout_s):
            self._patience.check(str(self._config.device), "frame", "unplug the camera and plug it in again")
            return None
        self._patience.heard()
        if not self._pacer.passes(self._stamp.clock.mono_s()):
            self._discard()
            return None
        good, frame = self._capture.retrieve()
        if not good or frame is None:
            raise CaptureError(f"{self._config.device}: delivered a frame that cannot be decoded: try another fourcc")
        check_size(self._config.device, frame.shape[1], frame.shape[0], self._config.max_megapixels)
        return self._stamp.sample("image", frame)

    def counts(self) -> Mapping[str, int]:
        """paced: frames held back by `fps`."""
        return {"paced": self._pacer.held_back}

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()

    def _discard(self) -> None:
        """Take the frame unconverted: after `waitAny` only `retrieve` makes room for the next one."""
        self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        self._capture.retrieve()
        self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)

    def _ask(self, what: int, value: float) -> None:
        if value:
            self._capture.set(what, value)

    def _wait(self, timeout_s: float) -> bool:
        """Wait for a frame. A camera that was pulled out shows as an error of the poll."""
        try:
            ready, _ = cv2.VideoCapture.waitAny([self._capture], int(timeout_s * 1e9))
        except cv2.error as exc:
            raise CaptureError(f"{self._config.device}: the camera is gone: plug it in again ({exc.err})") from exc
        return bool(ready)


def video_frames(path: Path, fps: float, max_megapixels: float) -> Iterator[tuple[float, Array]]:
    """Every frame of a video or GIF as (media time in seconds, BGR). `fps` replaces the file's own times.

    Raises CaptureError at the start for what is no video, at the end when frames are missing: a file that was cut
    off delivers what it has, and then says so.
    """
    # FFmpeg's threads decode no more per second of CPU, a seventh less (measured), and each holds pictures of its own
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened():
            raise CaptureError(
                f"{path}: is no video that can be played, or was cut off before its index was written:"
                " try ffmpeg -i IN -c copy OUT.mkv, or record it again"
            )
        width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        check_size(path, width, height, max_megapixels)
        yield from _frames(capture, path, fps)
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, path: Path, fps: float) -> Iterator[tuple[float, Array]]:
    claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    step_s = 1 / (fps or capture.get(cv2.CAP_PROP_FPS) or 25.0)
    count, t_s = 0, -1.0
    while True:
        good, frame = capture.read()
        if not good or frame is None:
            break
        stated_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        # a file without usable times counts frames instead
        t_s = count * step_s if fps else stated_s if stated_s > t_s else t_s + step_s
        count += 1
        yield t_s, frame
    if not count:
        raise CaptureError(f"{path}: holds no picture that can be decoded: record it again")
    if claimed - count > max(2.0, _SHORT_BY * claimed):
        raise CaptureError(
            f"{path}: ends after {count} of {claimed:.0f} pictures: it was cut off or is damaged; what it has was used"
        )


def read_picture(path: Path, max_megapixels: float) -> Array:
    """Decode one picture: uint8 [height, width, 3] BGR, turned upright after its EXIF tag. Raises CaptureError."""
    limit_bytes = int(max_megapixels * _MOST_BYTES_PER_MEGAPIXEL) + _METADATA_BYTES
    try:
        data = read_plain(path, limit_bytes)
    except OSError as exc:
        raise CaptureError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(data) > limit_bytes:
        raise CaptureError(f"{path}: is larger than any picture of max_megapixels = {max_megapixels:g} can be")
    return decode_image(data, str(path), max_megapixels)


def to_bgr(raw: Array, pix_fmt: PixFmt, width: int, height: int) -> Array:
    """Raw bytes, uint8 [n], -> uint8 [height, width, 3] BGR, or [height, width] for gray. YUV is BT.601, 16 to 235."""
    match pix_fmt:
        case "bgr24":
            return raw.reshape(height, width, 3)
        case "gray":
            return raw.reshape(height, width)
        case "rgb24":
            return cv2.cvtColor(raw.reshape(height, width, 3), cv2.COLOR_RGB2BGR)
        case "yuyv422":
            return cv2.cvtColor(raw.reshape(height, width, 2), cv2.COLOR_YUV2BGR_YUYV)
        case "yuv420p":
            return cv2.cvtColor(raw.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420)
        case "nv12":
            return cv2.cvtColor(raw.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_NV12)


def _check_node(device: Path) -> None:
    try:
        mode = device.stat().st_mode
    except FileNotFoundError as exc:
        raise CaptureError(f"{device}: there is no such camera: plug it in, or look at ls /dev/v4l/by-id") from exc
    except OSError as exc:
        raise CaptureError(f"{device}: cannot be reached: {exc.strerror}") from exc
    if not stat.S_ISCHR(mode):
        raise CaptureError(f"{device}: is not a device: for a recording use kind = 'replay'")
    if not os.access(device, os.R_OK | os.W_OK):
        raise CaptureError(f"{device}: permission denied: add the agent's user to the group 'video'")

"""Network cameras against real servers: RTSP from GStreamer, MJPEG over HTTP; they stall, die, come back, refuse."""

import functools
import http.server
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.capture import open_source
from agent.capture.child import mask
from agent.capture.stream import ffmpeg_command
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.settings.capture import UrlConfig
from tests.recordings import picture, take, until_broken

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("jpegenc", "rtpjpegpay", "videotestsrc")))
"""

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@functools.cache
def _has_rtsp_server():
    command = [SYSTEM_PYTHON, "-c", PROBE]
    return Path(SYSTEM_PYTHON).exists() and not subprocess.run(command, capture_output=True, check=False).returncode


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _RtspServer:
    def __init__(self, *login):
        self.port, self.login = _free_port(), login
        self.start()

    def start(self):
        command = [SYSTEM_PYTHON, str(SERVER), str(self.port), *self.login]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.streams = self.process.stdout.readline().split()[1:]

    def url(self, name):
        return f"rtsp://127.0.0.1:{self.port}/{name}"

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def rtsp():
    if not _has_rtsp_server():
        pytest.skip("no GStreamer RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0")
    server = _RtspServer()
    yield server
    server.stop()


def _open(url, **settings):
    return open_source("cam", UrlConfig(url=url, **settings), SystemClock())


@pytest.mark.parametrize(("name", "white", "blue"), [("h264", 255, (255, 0, 0)), ("jpeg", 235, (239, 15, 15))])
def test_an_rtsp_camera_plays_live(rtsp, name, white, blue):
    """Frames come at the camera's rate with the colours sent (this JPEG encoder writes video levels, 16 to 235)."""
    if name not in rtsp.streams:
        pytest.skip("no x264 encoder: apt install gstreamer1.0-plugins-ugly")
    with _open(rtsp.url(name)) as source:
        samples = take(source, 25)
    assert samples[-1].data.shape == (240, 320, 3)
    assert 0.5 < samples[-1].t_s - samples[14].t_s < 1.0
    np.testing.assert_allclose(samples[-1].data[60, 20], [white] * 3, atol=3)
    np.testing.assert_allclose(samples[-1].data[60, 300], blue, atol=3)


def test_the_child_scales_and_thins_out(rtsp):
    """Width 160 keeps the proportion; 5 frames per second are chosen before they reach the agent."""
    with _open(rtsp.url("jpeg"), width=160, fps=5) as source:
        samples = take(source, 10)
        assert source.counts() == {"paced": 0}
    assert samples[-1].data.shape == (120, 160, 3)
    assert 0.7 < samples[-1].t_s - samples[5].t_s < 1.1


def test_the_microphone_of_a_camera_plays(rtsp):
    """8 kHz mu-law over RTP arrives as a tone of 1000 Hz at 16 kHz."""
    with _open(rtsp.url("tone"), modality="audio") as source:
        samples = take(source, 15)
    sound = np.concatenate([s.data for s in samples[-10:]])
    assert len(sound) == 16000
    assert np.abs(np.fft.rfft(sound * np.hanning(16000))).argmax() == pytest.approx(1000, abs=2)


def test_a_camera_that_stalls_breaks_at_the_deadline_and_plays_again(rtsp):
    """The server is stopped in mid stream: broken after 1 s, open fails in time, and when it goes on so do we."""
    with _open(rtsp.url("jpeg"), read_timeout_s=1.0) as source:
        take(source, 5)
        rtsp.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        _, error = until_broken(source)
        assert time.monotonic() - began < 2.5
    assert "no frame for 1 s: look at the camera" in str(error)
    with _open(rtsp.url("jpeg"), open_timeout_s=1.0) as source:
        began = time.monotonic()
        _, error = until_broken(source)
        assert time.monotonic() - began < 2.5
    rtsp.process.send_signal(signal.SIGCONT)
    with _open(rtsp.url("jpeg")) as source:
        take(source, 3)


def test_a_camera_that_dies_breaks_and_plays_again_when_it_is_back(rtsp):
    """Reboot of the camera: an error that names the URL, then a new opening continues the numbers with a gap."""
    with _open(rtsp.url("jpeg"), read_timeout_s=3.0) as source:
        last = take(source, 5)[-1]
        rtsp.stop()
        _, error = until_broken(source)
    assert rtsp.url("jpeg") in str(error)
    with _open(rtsp.url("jpeg")) as source:
        _, error = until_broken(source)
        assert "Connection refused" in str(error)
    rtsp.start()
    config = UrlConfig(url=rtsp.url("jpeg"))
    with open_source("cam", config, SystemClock(), first_seq=last.seq + 1) as source:
        sample = take(source, 1)[0]
    assert (sample.seq, sample.gap) == (last.seq + 1, True)


def test_a_camera_with_a_password(tmp_path):
    """Right credentials play; wrong ones are refused; neither is ever in a message."""
    if not _has_rtsp_server():
        pytest.skip("no GStreamer RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0")
    server, secret = _RtspServer("admin", "p@ss:w/rd"), tmp_path / "camera"
    try:
        secret.touch(mode=0o600)
        secret.write_text("admin:p@ss:w/rd\n")
        with _open(server.url("jpeg"), credentials_file=secret) as source:
            take(source, 3)
        secret.write_text("admin:wrong\n")
        with _open(server.url("jpeg"), credentials_file=secret) as source:
            _, error = until_broken(source)
        assert "401 Unauthorized" in str(error)
        assert "wrong" not in str(error)
        assert "admin" not in str(error)
    finally:
        server.stop()


def test_credentials_that_everybody_can_read_are_refused(tmp_path):
    """The message carries the command that mends it; a file in another form is refused too."""
    secret = tmp_path / "camera"
    secret.write_text("admin:secret")
    secret.chmod(0o644)
    with pytest.raises(CaptureError, match="everybody can read the camera's credentials: chmod 600"):
        _open("rtsp://127.0.0.1/x", credentials_file=secret)
    secret.chmod(0o600)
    secret.write_text("secret")
    with pytest.raises(CaptureError, match="must hold one line USER:PASSWORD") as caught:
        _open("rtsp://127.0.0.1/x", credentials_file=secret)
    assert "secret" not in str(caught.value).replace(str(secret), "")


def test_a_password_with_any_character_stays_one_password(tmp_path):
    """What would end the login part of a URL is escaped, and masked as a whole."""
    secret = tmp_path / "camera"
    secret.touch(mode=0o600)
    secret.write_text("u:a@b/c:d e")
    command = ffmpeg_command(UrlConfig(url="rtsp://cam:554/s", credentials_file=secret))
    assert "rtsp://u:a%40b%2Fc%3Ad%20e@cam:554/s" in command
    assert mask(" ".join(command)).count("***@cam:554/s") == 1
    assert "%40b" not in mask(" ".join(command))


class _Mjpeg(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        if self.path != "/stream":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(self.server.frames):
            jpeg = cv2.imencode(".jpg", picture(number, 160, 120), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def mjpeg():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg)
    server.frames = 10_000
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.frames = 0
    server.shutdown()
    server.server_close()
    thread.join()


def test_mjpeg_over_http_plays_and_is_paced(mjpeg):
    """20 frames per second held to 5: fresh ones pass, the others are counted."""
    with _open(f"http://127.0.0.1:{mjpeg.server_port}/stream", fps=5) as source:
        samples = take(source, 8)
        assert source.counts()["paced"] > 10
    assert samples[-1].data.shape == (120, 160, 3)
    np.testing.assert_allclose(samples[-1].data[60, 140], [0, 0, 200], atol=12)
    assert 0.5 < samples[-1].t_s - samples[4].t_s < 0.9


def test_a_stream_that_ends_is_broken_not_over(mjpeg):
    """A camera has no end: when the server closes, the source says so and can be opened again."""
    mjpeg.frames = 12
    with _open(f"http://127.0.0.1:{mjpeg.server_port}/stream") as source:
        samples, error = until_broken(source)
    assert len(samples) >= 10
    assert "ended with status 0" in str(error)


def test_http_refusals_and_missing_programs_are_told(mjpeg):
    """404, nobody there, and a machine without ffmpeg."""
    with _open(f"http://127.0.0.1:{mjpeg.server_port}/other") as source:
        assert "404" in str(until_broken(source)[1])
    with _open(f"http://127.0.0.1:{_free_port()}/stream") as source:
        assert "Connection refused" in str(until_broken(source)[1])
    with pytest.raises(CaptureError, match="no-ffmpeg: is not installed or not on PATH"):
        _open("http://127.0.0.1/stream", ffmpeg="no-ffmpeg")


def test_a_server_that_says_nothing_breaks_at_the_open_deadline():
    """Accepts the connection, never answers: broken after 0.7 s, and no child is left."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with _open(f"http://127.0.0.1:{silent.getsockname()[1]}/x", open_timeout_s=0.7) as source:
            pid = source._child.pid
            began = time.monotonic()
            _, error = until_broken(source)
        assert time.monotonic() - began < 3
    assert "no frame for 0.7 s" in str(error)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

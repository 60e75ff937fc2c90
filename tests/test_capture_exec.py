"""Commands as sources: frames, sound and lines by deadline, and nothing of a command survives its source."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.capture import EndOfStream, open_source
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.settings.capture import ExecConfig, LineFormat, PcmFormat
from tests.recordings import drain, picture, take, until_broken


def _python(code):
    """A command that runs `code`, with `write(bytes)` to its standard output."""
    prelude = "import sys\ndef write(b): sys.stdout.buffer.write(b); sys.stdout.flush()\n"
    return (sys.executable, "-c", prelude + code)


def _open(argv, **settings):
    return open_source("cmd", ExecConfig(argv=argv, **settings), SystemClock())


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _gone(pid, limit_s=5.0):
    until = time.monotonic() + limit_s
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not _alive(pid)


def _raw(image, pix_fmt):
    if pix_fmt == "nv12":
        planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).reshape(-1)
        y, u, v = np.split(planes, [64 * 48, 64 * 48 * 5 // 4])
        return np.concatenate([y, np.stack([u, v], 1).reshape(-1)]).tobytes()
    codes = {"rgb24": cv2.COLOR_BGR2RGB, "gray": cv2.COLOR_BGR2GRAY, "yuv420p": cv2.COLOR_BGR2YUV_I420}
    if pix_fmt == "yuyv422":
        return cv2.cvtColor(image, cv2.COLOR_BGR2YUV_YUYV).tobytes()
    return (cv2.cvtColor(image, codes[pix_fmt]) if pix_fmt in codes else image).tobytes()


@pytest.mark.parametrize("pix_fmt", ["bgr24", "rgb24", "gray", "yuv420p", "nv12", "yuyv422"])
def test_raw_frames_of_every_layout_show_the_same_picture(tmp_path, pix_fmt):
    """What a command writes in any of six layouts arrives as the picture it was."""
    (tmp_path / "raw").write_bytes(b"".join(_raw(picture(n), pix_fmt) for n in range(3)))
    source = _open(("cat", str(tmp_path / "raw")), width=64, height=48, pix_fmt=pix_fmt, on_exit="end")
    samples = drain(source)
    assert len(samples) == 3
    for number, sample in enumerate(samples):
        expected = picture(number) if pix_fmt != "gray" else cv2.cvtColor(picture(number), cv2.COLOR_BGR2GRAY)
        assert sample.data.shape == expected.shape
        np.testing.assert_allclose(sample.data.astype(int), expected, atol=3)


def test_y4m_brings_its_own_size():
    """YUV4MPEG2 from the real ffmpeg: size and colours need no configuration."""
    argv = ("ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "color=c=0xC81E3C:s=322x182:r=10:d=1")
    source = _open((*argv, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"), output="y4m", on_exit="end")
    samples = drain(source)
    assert len(samples) == 10
    assert samples[0].data.shape == (182, 322, 3)
    np.testing.assert_allclose(samples[5].data[90, 160], [0x3C, 0x1E, 0xC8], atol=4)


def test_y4m_frames_may_have_parameters_and_come_in_any_pieces(tmp_path):
    """Lines of any length before the planes, written in pieces of any size: every picture is the one that was sent."""
    pictures = [np.full((16, 24), 10 * n, np.uint8) + np.arange(24, dtype=np.uint8) for n in range(8)]
    words = (b"FRAME", b"FRAME Ip", b"FRAME XCOLORRANGE=LIMITED", b"FRAME")
    stream = b"YUV4MPEG2 W24 H16 F25:1 Cmono\n"
    stream += b"".join(words[n % 4] + b"\n" + picture_.tobytes() for n, picture_ in enumerate(pictures))
    (tmp_path / "stream").write_bytes(stream)
    for piece in (1, 7, 391, 100_000):
        code = f"d = open({str(tmp_path / 'stream')!r}, 'rb').read()\n"
        code += f"for i in range(0, len(d), {piece}): write(d[i:i + {piece}])"
        samples = drain(_open(_python(code), output="y4m", on_exit="end"))
        assert [sample.data.tolist() for sample in samples] == [picture_.tolist() for picture_ in pictures]


def test_y4m_that_loses_its_place_is_told():
    """What stands where a frame's line belongs is no picture."""
    code = "write(b'YUV4MPEG2 W8 H8 F25:1 Cmono\\n' + b'FRAME\\n' + bytes(64) + b'FRUME\\n' + bytes(64))"
    with _open(_python(code), output="y4m") as source:
        samples, error = until_broken(source)
    assert len(samples) == 1
    assert "lost its place" in str(error)


def test_a_frame_arrives_whole_however_it_is_cut():
    """A writer that dribbles bytes over half a second delivers one whole frame."""
    code = "import time\nfor i in range(64):\n write(bytes([7]) * (64 * 48 * 3 // 64))\n time.sleep(.008)"
    (sample,) = drain(_open(_python(code), width=64, height=48, on_exit="end"))
    assert (sample.data == 7).all()


def test_fps_holds_frames_back_without_falling_behind(tmp_path):
    """A command at 50 per second, held to 10: the frames that pass are fresh, the others are counted."""
    code = "import time, struct\nwhile 1:\n write(struct.pack('<d', time.monotonic()) + bytes(184))\n time.sleep(.02)"
    with _open(_python(code), width=8, height=8, fps=10) as source:
        samples = take(source, 12)
        assert source.counts()["paced"] >= 30
    ages = [s.t_mono_s - float(np.frombuffer(s.data.tobytes()[:8], "<f8")[0]) for s in samples]
    assert max(ages) < 0.2
    assert 0.8 < samples[-1].t_mono_s - samples[0].t_mono_s < 1.5


def test_sound_comes_in_chunks_at_16_khz():
    """One second of 44.1 kHz stereo from ffmpeg is one second of 16 kHz mono."""
    tone = ("-f", "lavfi", "-i", "sine=f=1000:r=44100:d=1")
    argv = ("ffmpeg", "-loglevel", "error", *tone, "-ac", "2", "-f", "f32le", "-")
    pcm = PcmFormat(encoding="f32le", rate_hz=44100, channels=2)
    samples = drain(_open(argv, output="pcm", pcm=pcm, on_exit="end"))
    sound = np.concatenate([s.data for s in samples])
    assert len(sound) == 16000
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(16000)))
    assert spectrum.argmax() == 1000
    np.testing.assert_allclose(np.diff([s.t_s for s in samples]), 0.1, atol=1e-6)


def test_lines_become_rows():
    """A command that prints JSON is a sensor; junk between is counted."""
    code = "print('{\"t\": 1, \"temp\": 20.5}'); print('junk'); print('{\"t\": 2, \"temp\": null}')"
    lines = LineFormat(format="json", units={"temp": "Cel"})
    source = _open(_python(code), output="lines", lines=lines, on_exit="end")
    samples = drain(source)
    np.testing.assert_array_equal([s.data for s in samples], [[20.5], [np.nan]])
    assert (samples[0].channels[0].name, samples[0].channels[0].unit) == ("temp", "Cel")
    assert source.counts() == {"bad_lines": 1, "long_lines": 0, "not_a_number": 1}


# bad input


def test_a_command_that_fails_says_why_without_its_password():
    """Status and the last words of its standard error, with logins masked."""
    code = "sys.stderr.write('cannot open rtsp://admin:pass%40word@10.0.0.7/live\\n'); sys.exit(3)"
    with _open(_python(code), output="y4m") as source:
        samples, error = until_broken(source)
    assert not samples
    assert "ended with status 3" in str(error)
    assert "cannot open rtsp://***@10.0.0.7/live" in str(error)
    assert "admin" not in str(error)
    assert "pass" not in str(error)


def test_a_flood_on_standard_error_is_bounded_and_does_not_stop_the_data():
    """A megabyte of complaints neither blocks the frames nor stays in memory."""
    code = "for i in range(20):\n sys.stderr.write('x' * 50000 + '\\n')\n write(bytes(192))\nsys.exit(1)"
    with _open(_python(code), width=8, height=8) as source:
        samples, error = until_broken(source)
    assert len(samples) == 20
    assert len(str(error)) < 3000


def test_a_command_that_is_not_there_says_so():
    """The name of the program, and what to do."""
    with pytest.raises(CaptureError, match="no-such-camera-tool: is not installed or not on PATH"):
        _open(("no-such-camera-tool",), output="y4m")


def test_a_silent_command_breaks_at_its_open_deadline():
    """0.4 s without a first frame: broken, and killed."""
    began = time.monotonic()
    with _open(("sleep", "60"), output="y4m", open_timeout_s=0.4) as source:
        pid = source._child.pid
        _, error = until_broken(source)
    assert "no frame for 0.4 s" in str(error)
    assert time.monotonic() - began < 3
    assert _gone(pid)


def test_bytes_that_trickle_do_not_reset_the_deadline():
    """A byte now and then is no frame: the deadline counts whole frames, and read keeps its timeout."""
    code = "import time\nwhile 1:\n write(b'x')\n time.sleep(.05)"
    with _open(_python(code), width=640, height=480, open_timeout_s=0.6) as source:
        began = time.monotonic()
        assert source.read(0.2) is None
        assert time.monotonic() - began < 0.5
        _, error = until_broken(source, limit_s=5)
    assert "no frame for 0.6 s" in str(error)


def test_a_command_that_stalls_breaks_at_its_read_deadline():
    """A frame, then nothing: broken after the read deadline, and killed although the stopped process cannot react."""
    code = "import time\nwrite(bytes(192))\ntime.sleep(60)"
    source = _open(_python(code), width=8, height=8, read_timeout_s=0.4, stop_grace_s=0.2)
    with source:
        take(source, 1)
        pid = source._child.pid
        os.kill(pid, signal.SIGSTOP)
        _, error = until_broken(source)
    assert "no frame for 0.4 s" in str(error)
    assert _gone(pid)


def test_the_whole_group_dies_even_when_it_ignores_sigterm(tmp_path):
    """A shell that ignores SIGTERM and its background children are all gone after close, within grace and a moment."""
    script = f"trap '' TERM; sleep 300 & echo $! > {tmp_path}/a; sleep 300 & echo $! > {tmp_path}/b; wait"
    source = _open(("sh", "-c", script), output="y4m", stop_grace_s=0.3)
    while not (tmp_path / "b").exists() or not (tmp_path / "b").read_text().strip():
        source.read(0.05)
    pids = [source._child.pid, *(int((tmp_path / n).read_text()) for n in "ab")]
    assert all(_alive(pid) for pid in pids)
    began = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - began < 2
    assert all(_gone(pid) for pid in pids)


def test_the_command_dies_with_the_agent():
    """kill -9 of the process that opened the source takes the command with it."""
    code = (
        "import time\nfrom agent.capture import open_source\nfrom agent.clock import SystemClock\n"
        "from agent.settings.capture import ExecConfig\n"
        "s = open_source('x', ExecConfig(argv=('sleep', '300'), output='y4m'), SystemClock())\n"
        "print(s._child.pid, flush=True)\ntime.sleep(300)"
    )
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as agent:
        pid = int(agent.stdout.readline())
        until = time.monotonic() + 5
        while Path(f"/proc/{pid}/comm").read_text().strip() != "sleep" and time.monotonic() < until:
            time.sleep(0.02)
        assert _alive(pid)
        agent.kill()
    assert _gone(pid)


def test_an_endless_stream_needs_the_memory_of_a_frame_and_stops_at_once():
    """A command that writes as fast as it can is read for a second without growing, and ends when it is told."""
    with _open(("cat", "/dev/zero"), width=640, height=480) as source:
        pid = source._child.pid
        take(source, 50)
        before, seen = _resident_kb(), 0
        while seen < 400:
            seen += source.read(1.0) is not None
        assert _resident_kb() - before < 20_000
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert _gone(pid)


def _resident_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_a_stream_that_is_not_y4m_is_refused():
    """Another format, an impossible size, a colour layout that is not understood."""
    for header, says in (
        ("hello world", "does not write YUV4MPEG2"),
        ("YUV4MPEG2 W99999 H99999 F25:1", "more than max_megapixels"),
        ("YUV4MPEG2 W0 H0 F25:1", "0 x 0 pixels"),
        ("YUV4MPEG2 W64 H48 F25:1 C444", "8-bit 4:2:0"),
        ("YUV4MPEG2 W63 H48 F25:1 C420jpeg", "needs an even width"),
        ("x" * 10_000, "does not write YUV4MPEG2"),
    ):
        with _open(("echo", header), output="y4m") as source:
            _, error = until_broken(source)
        assert says in str(error), header
        assert not isinstance(error, EndOfStream)


def test_many_openings_leak_nothing():
    """Thirty commands later the process has as many open files and children as before."""
    for _ in range(3):
        _open(("true",), output="y4m").close()
    before = _belongings()
    for _ in range(30):
        _open(("true",), output="y4m", stop_grace_s=0.1).close()
    assert _belongings() == before


def _belongings():
    """Open files, and children that are alive or were not reaped."""
    children = [Path(f"/proc/self/task/{task.name}/children").read_text() for task in Path("/proc/self/task").iterdir()]
    return len(list(Path("/proc/self/fd").iterdir())), sorted("".join(children).split())

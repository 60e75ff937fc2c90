"""Recordings as sources: everything in order, nothing dropped, at the right pace; bad files say what to do."""

import os
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.capture import EndOfStream, file_source, inbox_limits, open_source
from agent.errors import CaptureError
from agent.settings.capture import LineFormat, MicrophoneConfig, ReplayConfig, V4l2Config
from tests.clocks import FakeClock
from tests.recordings import drain, picture, tone, until_broken, wav_bytes, write_video

ROOT = Path(__file__).resolve().parent.parent


def _all(path, modality="auto", **settings):
    return drain(file_source(path, modality, FakeClock(), ReplayConfig(path=path, **settings)))


def test_a_picture_is_one_sample(tmp_path):
    """BGR, unchanged by a lossless format, read-only, marked as a recording."""
    cv2.imwrite(str(tmp_path / "a.png"), picture(5))
    (sample,) = _all(tmp_path / "a.png")
    np.testing.assert_array_equal(sample.data, picture(5))
    assert (sample.modality, sample.seq, sample.replay, sample.source) == ("image", 0, True, "a.png")
    with pytest.raises(ValueError, match="read-only"):
        sample.data[0, 0, 0] = 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".pgm"])
def test_every_picture_format_passes_the_size_check(tmp_path, suffix):
    """The header reader knows each format that the decoder is given; grey pictures come as BGR."""
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), picture(5)[:, :, 0] if suffix == ".pgm" else picture(5))
    (sample,) = _all(path)
    assert sample.data.shape == (48, 64, 3)


def test_a_folder_is_read_by_name_at_its_own_pace(tmp_path):
    """Names decide the order, `fps` the media time; other files are left alone."""
    for number in (3, 1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    (tmp_path / "notes.txt").write_text("no picture")
    samples = _all(tmp_path, fps=4)
    assert [s.t_s for s in samples] == [0, 0.25, 0.5]
    assert [int(s.data[0, 0, 0]) for s in samples] == [20, 40, 60]


def test_a_video_delivers_every_frame_with_its_media_time(tmp_path):
    """30 frames at 10 per second are 30 samples from 0.0 to 2.9 s, in order."""
    samples = _all(write_video(tmp_path / "v.avi"))
    assert [s.seq for s in samples] == list(range(30))
    np.testing.assert_allclose([s.t_s for s in samples], np.arange(30) / 10, atol=1e-3)
    np.testing.assert_allclose([s.data[0, 0, 0] for s in samples], [(n * 20) % 240 for n in range(30)], atol=6)


def test_a_gif_is_a_video(tmp_path):
    """Every frame of an animation comes, with its delay."""
    frames = [picture(n) for n in range(5)]
    animation = cv2.Animation()
    animation.frames = frames
    animation.durations = np.full(5, 200, np.int32)
    assert cv2.imwriteanimation(str(tmp_path / "a.gif"), animation)
    samples = _all(tmp_path / "a.gif")
    assert len(samples) == 5
    np.testing.assert_allclose([s.t_s for s in samples], np.arange(5) * 0.2, atol=0.02)


def test_the_demo_recording_is_what_its_table_says():
    """The shipped video has the size, rate, length and the changes of display that its table names."""
    table = tomllib.loads((ROOT / "models/digits/demo.toml").read_text())
    path = ROOT / "models/digits/demo.mp4"
    samples = _all(path)
    assert path.stat().st_size < 400_000
    assert len(samples) == table["frames"]
    assert samples[0].data.shape == (table["height"], table["width"], 3)
    for shown in table["reading"]:
        inside = [s.data for s in samples if shown["t0_s"] + 0.05 < s.t_s < shown["t1_s"] - 0.05]
        assert len(inside) > 35
        for (x1, y1, x2, y2), digit in zip(table["cells"], shown["text"], strict=True):
            cell = inside[len(inside) // 2][y1:y2, x1:x2].mean(axis=2)
            middle_lit = cell[56:64, 24:48].mean() < 80
            assert middle_lit == (digit in "2345689"), (shown["text"], digit)


def test_realtime_waits_and_max_does_not(tmp_path):
    """At its own pace a recording of 2.9 s takes 2.9 s; as fast as possible it takes no time."""
    path = write_video(tmp_path / "v.avi")
    for speed, expected_s in (("realtime", 2.9), ("max", 0.0)):
        clock = FakeClock()
        samples = drain(open_source("v", ReplayConfig(path=path, speed=speed), clock))
        assert len(samples) == 30
        assert clock.slept_s == pytest.approx(expected_s, abs=0.01)


def test_read_keeps_its_timeout(tmp_path):
    """A sample that is not due yet is None after the timeout, not a long wait."""
    clock = FakeClock()
    with open_source("v", ReplayConfig(path=write_video(tmp_path / "v.avi", fps=1)), clock) as source:
        assert source.read(0.1).seq == 0
        before = clock.slept_s
        assert source.read(0.1) is None
        assert clock.slept_s - before == pytest.approx(0.1)


def test_a_loop_goes_on_counting_and_marks_the_seam(tmp_path):
    """Second round: numbers and times go on, the first sample behind the seam carries the gap."""
    path = write_video(tmp_path / "v.avi", frames=3)
    with open_source("v", ReplayConfig(path=path, loop=True, speed="max"), FakeClock()) as source:
        samples = [source.read(0.1) for _ in range(7)]
    assert [s.seq for s in samples] == list(range(7))
    assert [s.gap for s in samples] == [False] * 3 + [True, False, False] + [True]
    np.testing.assert_allclose([s.t_s for s in samples], np.arange(7) / 10, atol=2e-3)


def test_reopening_goes_on_counting_with_a_gap(tmp_path):
    """`first_seq` continues the numbers of the broken source, and the tear shows."""
    path = write_video(tmp_path / "v.avi", frames=2)
    samples = drain(open_source("v", ReplayConfig(path=path, speed="max"), FakeClock(), first_seq=17))
    assert [(s.seq, s.gap) for s in samples] == [(17, True), (18, False)]


def test_rows_have_names_units_and_times(tmp_path):
    """The time column places rows in the stream, the others become channels."""
    (tmp_path / "a.csv").write_text(
        "timestamp,temp,hum\n2024-01-01 00:00:00,20.5,40\n2024-01-01 00:00:10,21,\n2024-01-01 00:00:20,x,42\n"
    )
    samples = _all(tmp_path / "a.csv", lines=LineFormat(units={"temp": "Cel"}))
    assert [(c.name, c.unit) for c in samples[0].channels] == [("temp", "Cel"), ("hum", "1")]
    assert [s.t_s for s in samples] == [0, 10, 20]
    assert samples[0].rate_hz == pytest.approx(0.1)
    np.testing.assert_array_equal([s.data for s in samples], [[20.5, 40], [21, np.nan], [np.nan, 42]])


def test_npy_is_a_tensor_or_a_series(tmp_path):
    """A saved array goes to the model as it is; asked for a series its rows come one by one."""
    array = np.arange(12, dtype=np.int8).reshape(4, 3)
    np.save(tmp_path / "a.npy", array)
    (sample,) = _all(tmp_path / "a.npy")
    assert sample.modality == "tensor"
    assert _all(tmp_path / "a.npy", "audio")[0].modality == "tensor"
    np.testing.assert_array_equal(sample.data, array)
    rows = _all(tmp_path / "a.npy", "series", rows_hz=2)
    np.testing.assert_array_equal([r.data for r in rows], array)
    assert [r.t_s for r in rows] == [0, 0.5, 1, 1.5]


def test_inboxes_fit_their_sources(tmp_path):
    """Newest frame wins, two seconds of sound, rows wait, and nothing replayed at full speed is dropped."""
    assert inbox_limits(V4l2Config()) == (1, "drop_oldest")
    assert inbox_limits(MicrophoneConfig(chunk_s=0.05)) == (40, "drop_oldest")
    assert inbox_limits(ReplayConfig(path=tmp_path / "a.csv"))[1] == "block"
    assert inbox_limits(ReplayConfig(path=tmp_path / "a.mp4")) == (1, "drop_oldest")
    assert inbox_limits(ReplayConfig(path=tmp_path / "a.mp4", speed="max"))[1] == "block"


# bad input


def _bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.wav", "a.csv", "a.npy", "a.gif"])
def test_an_empty_file_is_refused(tmp_path, name):
    """0 bytes of anything: the message names the file and says to record it again."""
    with pytest.raises(CaptureError, match=rf"{name}: is empty \(0 bytes\): record it again"):
        file_source(_bad(tmp_path, name, b""), "auto", FakeClock())


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.mp4", "a.avi", "a.wav", "a.csv", "a.jsonl", "a.npy", "a.gif", "a.bin"]
)
def test_noise_is_refused(tmp_path, name):
    """Random bytes under any name give a CaptureError with the name, never another exception."""
    noise = np.random.default_rng(7).integers(0, 256, 5000, np.uint8).tobytes()
    with pytest.raises(CaptureError, match=name):
        file_source(_bad(tmp_path, name, noise), "auto", FakeClock())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".npy", ".wav", ".avi", ".mkv"])
def test_every_cut_of_a_file_is_survived(tmp_path, suffix):
    """Cut anywhere, a recording either delivers what it has or breaks with a CaptureError; nothing else happens."""
    whole = tmp_path / f"whole{suffix}"
    if suffix in (".avi", ".mkv"):
        write_video(whole, frames=6)
    elif suffix == ".npy":
        np.save(whole, np.zeros((20, 20)))
    elif suffix == ".wav":
        whole.write_bytes(wav_bytes(bytes(4000)))
    else:
        cv2.imwrite(str(whole), picture(3))
    content = whole.read_bytes()
    for size in sorted({1, 4, 11, 13, 20, 27, 40, 60, len(content) // 3, len(content) // 2, len(content) - 1}):
        cut = _bad(tmp_path, f"cut{suffix}", content[:size])
        try:
            drain(file_source(cut, "auto", FakeClock()))
        except CaptureError as exc:
            assert str(cut) in str(exc)


def test_a_truncated_video_delivers_what_it_has_and_then_says_so(tmp_path):
    """Half a video: the frames that are there come all, then the error says how many are missing."""
    content = write_video(tmp_path / "v.avi", frames=100).read_bytes()
    path = _bad(tmp_path, "cut.avi", content[: len(content) // 2])
    with file_source(path, "image", FakeClock()) as source:
        samples, error = until_broken(source)
    assert 30 < len(samples) < 60
    assert "cut.avi: ends after" in str(error)
    assert "of 100 pictures: it was cut off" in str(error)
    assert not isinstance(error, EndOfStream)


def test_the_agent_takes_a_truncated_video_as_ended(tmp_path, caplog):
    """As a source of the agent the same file is logged and ends: opening it again would only repeat it."""
    content = write_video(tmp_path / "v.avi", frames=100).read_bytes()
    path = _bad(tmp_path, "cut.avi", content[: len(content) // 2])
    assert len(drain(open_source("v", ReplayConfig(path=path, speed="max"), FakeClock()))) > 30
    assert "it was cut off" in caplog.text


def test_a_video_without_its_index_says_what_to_do(tmp_path):
    """An mp4 whose recorder lost power has no index: it cannot be played, and the message says so."""
    content = write_video(tmp_path / "v.mp4", fourcc="mp4v").read_bytes()
    path = _bad(tmp_path, "cut.mp4", content[: len(content) // 2])
    with pytest.raises(CaptureError, match="cut off before its index was written"):
        file_source(path, "auto", FakeClock())


def test_a_pixel_bomb_is_refused_before_it_is_decoded(tmp_path):
    """A header that claims 60000 x 60000 pixels costs nothing."""
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    head = bytearray((tmp_path / "a.png").read_bytes())
    head[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(CaptureError, match="60000 x 60000 pixels, more than max_megapixels"):
        file_source(_bad(tmp_path, "bomb.png", bytes(head)), "auto", FakeClock())
    video = write_video(tmp_path / "v.avi", frames=3)
    with pytest.raises(CaptureError, match="64 x 48 pixels, more than max_megapixels"):
        file_source(video, "auto", FakeClock(), ReplayConfig(path=video, max_megapixels=0.001))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".ppm"])
def test_half_a_picture_is_none(tmp_path, suffix):
    """A decoder would paint the missing half grey and say nothing: a model must not be asked about that."""
    whole = tmp_path / f"whole{suffix}"
    cv2.imwrite(str(whole), picture(3))
    path = _bad(tmp_path, f"half{suffix}", whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(CaptureError, match=f"half{suffix}"):
        drain(file_source(path, "image", FakeClock()))


def test_a_picture_file_larger_than_its_pixels_can_be_is_refused(tmp_path):
    """What no picture of the allowed size can need is not read into memory."""
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    with (tmp_path / "a.png").open("ab") as file:
        file.truncate(17 << 20)
    path = tmp_path / "a.png"
    with pytest.raises(CaptureError, match=r"a\.png: is larger than any picture"):
        drain(file_source(path, "image", FakeClock(), ReplayConfig(path=path, max_megapixels=0.01)))


def test_a_pipe_among_pictures_holds_nobody_up(tmp_path):
    """Only the name of a folder's entry is looked at when it is listed; what it is shows when it is read."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(CaptureError, match=r"a\.png: cannot be read: it is no regular file"):
        drain(file_source(tmp_path, "image", FakeClock()))


@pytest.mark.parametrize("name", ["BME280_temperature,humidity", "P2,P3", "BM,\0x"])
def test_a_table_whose_header_begins_like_a_picture_is_a_table(tmp_path, name):
    """Two letters do not make a picture of it."""
    path = _bad(tmp_path, "a.csv", f"{name}\n1,2\n3,4\n".encode())
    assert [s.data.tolist() for s in drain(file_source(path, "auto", FakeClock()))] == [[1, 2], [3, 4]]


def test_what_never_ends_is_no_recording(tmp_path):
    """A pipe or a device has no end: it is refused at once instead of hanging."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        with pytest.raises(CaptureError, match="is not a regular file and may never end"):
            file_source(path, "auto", FakeClock())


def test_places_that_hold_nothing_say_so(tmp_path):
    """A missing file, an empty folder and a folder given as sound are told apart."""
    with pytest.raises(CaptureError, match="does not exist"):
        file_source(tmp_path / "none.png", "auto", FakeClock())
    with pytest.raises(CaptureError, match="holds no pictures"):
        file_source(tmp_path, "auto", FakeClock())
    with pytest.raises(CaptureError, match="is image, but audio is wanted"):
        file_source(tmp_path, "audio", FakeClock())


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    """The permission is named, not a decoder's confusion. Needs a user that is not allowed everything."""
    path = write_video(tmp_path / "v.avi", frames=2)
    path.chmod(0)
    if os.access(path, os.R_OK):
        tmp_path.chmod(0o755)
        _refused_for_nobody(path)
        return
    with pytest.raises(CaptureError, match="permission denied"):
        file_source(path, "auto", FakeClock())


def _refused_for_nobody(path):
    """Root may read everything: a child with another user's rights tries it."""
    for folder in path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said = "no error"
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            file_source(path, "auto", FakeClock())
        except CaptureError as exc:
            said = str(exc)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    said = os.read(read, 1000).decode()
    os.waitpid(child, 0)
    assert "permission denied: let the agent's user read it" in said


def test_a_wav_plays_whole_in_chunks(tmp_path):
    """2.05 s at 16 kHz: 21 chunks, bit for bit, with their places."""
    data = (tone(440, 16000, 2.05) * 32767).astype("<i2")
    samples = _all(_bad(tmp_path, "a.wav", wav_bytes(data.tobytes())))
    assert [len(s.data) for s in samples] == [1600] * 20 + [800]
    np.testing.assert_array_equal(np.concatenate([s.data for s in samples]), data)
    assert samples[-1].t_s == pytest.approx(2.0)
    assert samples[0].rate_hz == 16000

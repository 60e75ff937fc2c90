"""Sound of any width, rate and channel count becomes 16 kHz mono, exactly; WAV headers that lie hurt nobody."""

import struct
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture import file_source
from agent.capture.pcm import ToMono, decode
from agent.capture.resample import Resampler
from agent.errors import CaptureError
from agent.settings.capture import PcmFormat, ReplayConfig
from tests.clocks import FakeClock
from tests.recordings import drain, tone, wav_bytes


def _mono(pcm, raw, rate=16000, channel="mix", cuts=()):
    mono = ToMono(pcm, channel, rate, 1600)
    chunks, at = [], 0
    for cut in (*cuts, len(raw)):
        chunks += mono.push(raw[at:cut])
        at = cut
    return np.concatenate([*chunks, *mono.flush(), np.zeros(0, np.int16)])


def _play(path, **settings_):
    source = file_source(path, "audio", FakeClock(), ReplayConfig(path=path, **settings_))
    return np.concatenate([sample.data for sample in drain(source)])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000, 44099, 1000])
def test_a_tone_keeps_its_pitch_level_and_place(rate):
    """A sine of any input rate is the same sine at 16 kHz, to a ten-thousandth of full scale."""
    hz = min(1000, rate / 4)
    x = tone(hz, rate, 1.0).astype(np.float32)
    resampler = Resampler(rate, 16000)
    y = np.concatenate([resampler.push(x), resampler.flush()])
    assert len(y) == 16000
    np.testing.assert_allclose(y[3000:-3000], tone(hz, 16000, 1.0)[3000:-3000], atol=1e-4)


def test_what_16_khz_cannot_carry_is_silenced():
    """Tones above 8.2 kHz come out below -75 dB instead of as other tones; up to 6.8 kHz nothing changes."""
    for hz, low_db, high_db in ((8300, -300, -75), (10_000, -300, -75), (23_000, -300, -75), (6800, -0.02, 0.02)):
        x = tone(hz, 48000, 0.5, 1.0).astype(np.float32)
        y = Resampler(48000, 16000).push(x)[500:-500]
        assert low_db <= 20 * np.log10(np.sqrt(2 * np.mean(y**2)) + 1e-15) <= high_db, hz


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000]),
    cuts=st.lists(st.integers(0, 9000), max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_where_the_stream_is_cut_changes_nothing(rate, cuts, seed):
    """Any way of cutting the bytes, inside a value too, gives the same samples, bit for bit."""
    raw = np.random.default_rng(seed).integers(-32768, 32768, 4500, np.int16).astype("<i2").tobytes()
    pcm = PcmFormat(rate_hz=rate)
    np.testing.assert_array_equal(_mono(pcm, raw, cuts=sorted(cuts)), _mono(pcm, raw))


def test_16_khz_mono_passes_bit_for_bit():
    """Every 16-bit value comes out as it went in."""
    values = np.arange(-32768, 32768).astype("<i2")
    np.testing.assert_array_equal(_mono(PcmFormat(), values.tobytes()), values)


def test_every_width_carries_the_same_sound():
    """A ramp written in eight encodings reads back the same within the encoding's own step."""
    x = np.linspace(-0.9, 0.9, 1000)
    packed24 = np.rint(x * 8388608).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    encoded = {
        "u8": (np.rint(x * 128 + 128).astype(np.uint8).tobytes(), 1 / 256),
        "s16le": (np.rint(x * 32768).astype("<i2").tobytes(), 1 / 65536),
        "s24le": (packed24, 2**-24),
        "s32le": (np.rint(x * 2**31).astype("<i4").tobytes(), 2**-32),
        "f32le": (x.astype("<f4").tobytes(), 1e-7),
        "f64le": (x.astype("<f8").tobytes(), 1e-15),
    }
    for encoding, (raw, step) in encoded.items():
        np.testing.assert_allclose(decode(raw, encoding), x, atol=step, err_msg=encoding)


def test_telephone_codes_are_those_of_g711():
    """Known code words of ITU-T G.711: silence, full scale, and the sign."""
    assert decode(bytes([0xD5, 0x55, 0xAA, 0x2A]), "alaw").tolist() == [1 / 4096, -1 / 4096, 4032 / 4096, -4032 / 4096]
    assert decode(bytes([0xFF, 0x7F, 0x80, 0x00]), "mulaw").tolist() == [0, 0, 8031 / 8192, -8031 / 8192]


def test_channels_are_mixed_or_chosen():
    """The mean of all by default, or the one that is asked for; one that is not there is refused."""
    frames = np.array([[100, 300], [-200, 400]], "<i2")
    pcm = PcmFormat(channels=2)
    assert _mono(pcm, frames.tobytes()).tolist() == [200, 100]
    assert _mono(pcm, frames.tobytes(), channel=1).tolist() == [300, 400]
    with pytest.raises(ValueError, match="channel 2 does not exist: the sound has 2"):
        ToMono(pcm, 2, 16000, 1600)


def test_values_that_are_no_numbers_become_silence_and_are_counted():
    """NaN and infinity from a float recording do not reach a model."""
    mono = ToMono(PcmFormat(encoding="f32le"), "mix", 16000, 4)
    (chunk,) = mono.push(np.array([0.5, np.nan, np.inf, 2.0], "<f4").tobytes())
    assert chunk.tolist() == [16384, 0, 0, 32767]
    assert mono.not_a_number == 2


def test_what_pythons_wave_writes_is_read(tmp_path):
    """44.1 kHz, stereo, 24 bit: one second comes out as one second of the same tone."""
    x = np.rint(tone(500, 44100, 1.0) * 8388607).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(3)
        file.setframerate(44100)
        file.writeframes(np.repeat(x[:, None], 2, axis=1).tobytes())
    y = _play(tmp_path / "a.wav")
    assert len(y) == 16000
    np.testing.assert_allclose(y[500:-500] / 32768, tone(500, 16000, 1.0)[500:-500], atol=1e-4)


SOUND = np.arange(2000).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("lies", "samples"),
    [
        ({"data_size": 0, "riff_size": 0}, 2000),
        ({"data_size": 0xFFFFFFFF, "riff_size": 0xFFFFFFFF}, 2000),
        ({"data_size": 10_000_000}, 2000),
        ({"data_size": 2**31}, 2000),
        ({"data_size": 3999}, 1999),
        ({"riff_size": 3}, 2000),
        ({"extra": b"LIST" + struct.pack("<I", 5) + b"junk!\0"}, 2000),
    ],
)
def test_a_header_that_lies_about_sizes_costs_nothing(tmp_path, lies, samples):
    """Sizes of 0, -1, too large, odd, with a list in between: the sound that is there is played, all of it."""
    path = tmp_path / "lie.wav"
    path.write_bytes(wav_bytes(SOUND, **lies))
    np.testing.assert_array_equal(_play(path), np.arange(2000)[:samples])


@pytest.mark.parametrize(
    ("lies", "says"),
    [
        ({"channels": 0}, "claims 0 channels"),
        ({"channels": 6000}, "claims 6000 channels"),
        ({"rate": 0}, "claims 0 samples per second"),
        ({"rate": 4_000_000_000}, "claims 4000000000 samples per second"),
        ({"bits": 0}, "0 bits"),
        ({"bits": 999}, "999 bits"),
        ({"block": 0}, "is not supported"),
        ({"block": 7}, "is not supported"),
        ({"tag": 2}, "WAV format 2 .* is not supported: convert it, e.g. ffmpeg"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path, lies, says):
    """No channels, no rate, absurd widths, compressed formats: what is wrong and what to do."""
    path = tmp_path / "lie.wav"
    path.write_bytes(wav_bytes(SOUND, **lies))
    with pytest.raises(CaptureError, match=f"lie.wav: .*{says}"):
        file_source(path, "audio", FakeClock())


def test_a_wav_without_sound_is_refused(tmp_path):
    """A header alone, a header cut short, sound before its format."""
    whole = wav_bytes(b"")
    contents = {"holds no sound": whole, "cut off|holds no sound|no WAV": whole[:30], "no fmt chunk": b"".join([
        b"RIFF", struct.pack("<I", 20), b"WAVEdata", struct.pack("<I", 4), bytes(4)])}  # fmt: skip
    for says, content in contents.items():
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(CaptureError, match=says):
            file_source(tmp_path / "a.wav", "audio", FakeClock())


def test_sound_in_another_format_names_the_conversion(tmp_path):
    """An MP3 called .wav: the message carries the ffmpeg command."""
    (tmp_path / "a.wav").write_bytes(b"ID3\x04" + bytes(500))
    with pytest.raises(CaptureError, match=r"is no WAV file: convert it, e\.g\. ffmpeg -i IN"):
        file_source(tmp_path / "a.wav", "audio", FakeClock())


def test_an_hour_of_sound_needs_the_memory_of_a_chunk(tmp_path):
    """A long file is never in memory as a whole: reading 20 MB keeps below 3 MB."""
    import tracemalloc

    (tmp_path / "long.wav").write_bytes(wav_bytes(bytes(20_000_000)))
    source = file_source(tmp_path / "long.wav", "audio", FakeClock())
    tracemalloc.start()
    for _ in range(2000):
        source.read(0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    source.close()
    assert peak < 3_000_000

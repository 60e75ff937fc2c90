"""Makes small recordings for the capture tests, and reads sources to their end."""

import struct
import time

import cv2
import numpy as np

from agent.capture import EndOfStream
from agent.errors import CaptureError


def drain(source, limit_s=20.0):
    """Every sample until the end of the stream."""
    samples, until = [], time.monotonic() + limit_s
    with source:
        while time.monotonic() < until:
            try:
                sample = source.read(0.5)
            except EndOfStream:
                return samples
            if sample is not None:
                samples.append(sample)
    raise AssertionError(f"no end after {limit_s} s and {len(samples)} samples")


def take(source, count, limit_s=20.0):
    """The next `count` samples of a live source."""
    samples, until = [], time.monotonic() + limit_s
    while len(samples) < count and time.monotonic() < until:
        sample = source.read(0.2)
        if sample is not None:
            samples.append(sample)
    assert len(samples) == count, f"{len(samples)} of {count} samples in {limit_s} s"
    return samples


def until_broken(source, limit_s=20.0):
    """Reads until the source breaks; returns its samples and the error."""
    samples, until = [], time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            sample = source.read(0.2)
        except CaptureError as exc:
            return samples, exc
        if sample is not None:
            samples.append(sample)
    raise AssertionError(f"still well after {limit_s} s")


def picture(number, width=64, height=48):
    """A picture whose left half has a brightness that tells its number."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (number * 20) % 240
    image[:, width // 2 :] = (0, 0, 200)
    return image


def write_video(path, frames=30, fps=10, fourcc="MJPG", size=(64, 48)):
    """A video of numbered pictures."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, size)
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number, *size))
    writer.release()
    return path


def wav_bytes(data, **lies):
    """A 16-bit mono WAV file at 16 kHz around `data`; `lies` overrides what the header says, field by field."""
    said = {"tag": 1, "channels": 1, "rate": 16000, "byte_rate": 32000, "block": 2, "bits": 16} | lies
    fmt = struct.pack("<HHIIHH", *(said[name] for name in ("tag", "channels", "rate", "byte_rate", "block", "bits")))
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    body += lies.get("extra", b"") + b"data" + struct.pack("<I", lies.get("data_size", len(data))) + data
    return b"RIFF" + struct.pack("<I", lies.get("riff_size", len(body))) + body


def tone(hz, rate, seconds, level=0.5):
    """float64 [n], a sine."""
    return level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def write_wav(path, signal, rate):
    """One channel; `signal` in steps of 16 bits."""
    path.write_bytes(wav_bytes(np.asarray(signal).astype("<i2").tobytes(), rate=rate, byte_rate=2 * rate))


def write_tone(path, seconds, rate=16000):
    """440 Hz, at a quarter of full scale."""
    write_wav(path, tone(440, rate, seconds, level=8000), rate)

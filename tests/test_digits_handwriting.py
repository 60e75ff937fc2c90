"""The tool that measures the digit reader on real handwriting: it reads the formats rightly and counts rightly."""

import gzip
import struct

import cv2
import numpy as np
import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from tests import realdata
from tools.handwriting import digits, halves
from tools.measure_handwriting import as_photographed, figures, wilson


def _drawn(side, digit):
    """A picture of `side` pixels with light ink that is other for each digit."""
    image = np.zeros((side, side), np.uint8)
    image[2 : side - 2, 2 + digit % 4 : 4 + digit % 4] = 255
    return image


def test_every_format_gives_the_picture_and_its_digit(tmp_path):
    """IDX, MNIST, optdigits, USPS and Semeion as text, plain or gzipped, and pictures named after their digit."""
    ink = np.array([_drawn(28, digit) for digit in range(10)])
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 10, 28, 28) + ink.tobytes())
    labels = gzip.compress(struct.pack(">2I", 0x801, 10) + bytes(range(10)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    mnist = "label,pixels\n" + "\n".join(",".join(map(str, (d, *ink[d].ravel()))) for d in range(10))
    (tmp_path / "mnist.csv").write_text(mnist)
    small = np.array([_drawn(8, digit) for digit in range(10)]) // 15.9
    rows = "\n".join(",".join(map(str, (*small[d].ravel(), d))) for d in range(10))
    (tmp_path / "optdigits.tes.gz").write_bytes(gzip.compress(rows.encode()))
    fine = np.array([_drawn(16, digit) for digit in range(10)]) / 255
    usps = "\n".join(" ".join(f"{x:.4f}" for x in (d, *(fine[d].ravel() * 2 - 1))) for d in range(10))
    (tmp_path / "zip.test").write_text(usps)
    semeion = "\n".join(" ".join(f"{x:.4f}" for x in (*fine[d].ravel(), *np.eye(10)[d])) for d in range(10))
    (tmp_path / "semeion.data").write_text(semeion)
    (tmp_path / "7").mkdir()
    cv2.imwrite(str(tmp_path / "7" / "photo.png"), 255 - ink[7])
    cv2.imwrite(str(tmp_path / "sample3.png"), ink[3])
    (tmp_path / "notes.txt").write_text("nothing to read here")
    found = digits(tmp_path)
    assert set(found) == {
        "t10k-images-idx3-ubyte", "mnist.csv", "optdigits.tes.gz", "zip.test", "semeion.data", "pictures",
    }  # fmt: skip
    assert sorted(digit for _, digit in found.pop("pictures")) == [3, 7]
    for name, read in found.items():
        assert [digit for _, digit in read] == list(range(10)), name
        for image, _ in read:
            assert (image.shape, image.dtype) == ((28, 28), np.uint8)
            assert (np.median(image), image.max()) == (0, 255), f"{name}: light ink on dark"
    for name in ("t10k-images-idx3-ubyte", "mnist.csv"):
        assert all(np.array_equal(image, ink[digit]) for image, digit in found[name])
    assert np.array_equal(digits(tmp_path)["pictures"][0][0], ink[7])


def test_a_folder_without_digits_is_refused(tmp_path):
    """With a word on what to put there."""
    (tmp_path / "a.csv").write_text("1,2,3\n")
    with pytest.raises(SystemExit, match="no digits: put IDX, CSV, Semeion or USPS files there"):
        digits(tmp_path)


def test_the_halves_are_told_apart_by_the_pixels():
    """Whatever the order or the company: a picture is always in the same half, and never in both."""
    rng = np.random.default_rng(0)
    read = [(rng.integers(0, 255, (28, 28), dtype=np.uint8), i % 10) for i in range(400)]
    first, second = halves(read)
    assert (len(first) + len(second), 150 < len(first) < 250) == (400, True)
    again = halves(read[::-1][:100])
    assert {id(image) for image, _ in again[0]} <= {id(image) for image, _ in first}


def test_the_interval_is_wilsons():
    """The published example of 81 of 263 at 95 %: 0.2553 to 0.3662; no share of a few reaches beyond 1."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(5, 5) == pytest.approx((0.5655, 1.0), abs=5e-5)


@realdata.needed
def test_the_five_real_digits_are_read_in_every_way(tmp_path):
    """Five digits of MNIST, as they are and inverted; each photograph is the same whenever it is taken."""
    for digit in range(5):
        source = realdata.ROOT / "inputs" / f"sample{digit}.png"
        (tmp_path / source.name).symlink_to(source)
    manifest = load_manifest(realdata.REPO / "models" / "digits")
    (measured,) = digits(tmp_path).values()
    told = figures(Inference(manifest, open_model(manifest)), measured)
    assert (told["as it is"], told["inverted"]) == ((5, 5), (5, 5))
    assert told["photographed"][1] == 5
    assert np.array_equal(as_photographed(measured[0][0], 3), as_photographed(measured[0][0], 3))

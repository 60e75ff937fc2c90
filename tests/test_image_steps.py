"""Image steps: pixels go where the mapping says, values become what the formula says, bad files are named."""

import contextlib
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import CaptureError, ConfigError, ModelError
from agent.records import View
from pipelines import make_step
from pipelines.image import decode_image, image_view, source_box


def _pre(step, **keys):
    return make_step("pre", {"step": step, **keys}, "a test")


def _picture(width=120, height=80, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _file(kind, image):
    ok, data = cv2.imencode(kind, image)
    assert ok
    return data.tobytes()


def _source_point(view, x, y):
    return source_box(view, (x, y, x, y))[:2]


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".webp"])
def test_image_files_decode_to_bgr(kind):
    """A red square is red whatever the file kind: channel 2 of BGR."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 2] = 250
    decoded = decode_image(_file(kind, image), "red")
    assert decoded.shape == (40, 60, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - image).max() <= 6
    assert not decoded.flags.writeable


def test_grey_and_deep_files_decode_to_eight_bit_bgr():
    """Grey becomes three equal channels and 16 bit becomes the upper 8."""
    grey = _picture(channels=1)
    assert (decode_image(_file(".png", grey), "grey") == grey[:, :, None]).all()
    assert (decode_image(_file(".png", grey.astype(np.uint16) << 8), "deep") == grey[:, :, None]).all()


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".webp"])
def test_a_cut_off_file_is_refused(kind):
    """Half a file is an error that names the file, never half a picture."""
    data = _file(kind, _picture())
    for size in (0, 1, 5, 20, len(data) // 2, len(data) - 3):
        with pytest.raises(CaptureError, match="door"):
            decode_image(data[:size], "door")


def _png_claiming(width, height):
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [head, b"IDAT" + zlib.compress(b"\0"), b"IEND"]
    body = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_small_file_that_claims_a_huge_picture_is_refused_before_decoding():
    """A hundred bytes cannot make the decoder allocate gigabytes."""
    with pytest.raises(CaptureError, match="60000 x 60000 pixels"):
        decode_image(_png_claiming(60_000, 60_000), "bomb.png")
    with pytest.raises(CaptureError, match="0 x 5 pixels"):
        decode_image(_png_claiming(0, 5), "empty.png")


def test_what_is_no_image_says_what_it_starts_with():
    """A text file given by mistake is told from a damaged picture."""
    with pytest.raises(CaptureError, match="68 65 6c 6c"):
        decode_image(b"hello, world", "notes.txt")
    with pytest.raises(CaptureError, match="the file is empty"):
        decode_image(b"", "empty.png")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_capture_errors(data):
    """Any byte changed anywhere: a picture comes out or a CaptureError, nothing else."""
    kind = data.draw(st.sampled_from([".png", ".jpg", ".bmp", ".webp"]))
    raw = bytearray(_file(kind, _picture(24, 16)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 200) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CaptureError):
        assert decode_image(bytes(raw), "damaged", max_megapixels=1.0).ndim == 3


@pytest.mark.parametrize("name", ["nearest", "linear", "area", "cubic"])
def test_resize_does_the_named_interpolation(name):
    """The result is that of the library's interpolation of this name, down and up."""
    image, flag = _picture(), getattr(cv2, f"INTER_{name.upper()}")
    for width, height in ((31, 17), (200, 150)):
        resized = _pre("resize", width_px=width, height_px=height, interpolation=name)(image_view(image))
        assert (resized.data == cv2.resize(image, (width, height), interpolation=flag)).all()


def test_area_resize_averages_whole_blocks():
    """By a whole factor, each pixel is the mean of its block: what the recorded model scores were made with."""
    image = _picture(96, 64)
    small = _pre("resize", width_px=24, height_px=16, interpolation="area")(image_view(image)).data
    means = image.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.5


def test_resize_wants_its_interpolation_named():
    """Scores depend on it, so there is no default."""
    with pytest.raises(ConfigError, match="'interpolation' is missing"):
        _pre("resize", width_px=8, height_px=8)


STEP_CASES = {
    "resize": {"width_px": 50, "height_px": 70, "interpolation": "linear"},
    "letterbox": {"width_px": 96, "height_px": 96, "interpolation": "area"},
    "letterbox top left": {"width_px": 33, "height_px": 96, "interpolation": "area", "align": "top_left"},
    "letterbox kept small": {"width_px": 300, "height_px": 301, "interpolation": "area", "enlarge": False},
    "crop": {"box": [10, 20, 110, 75]},
    "crop by fraction": {"box": [0.25, 0.1, 0.75, 0.9], "unit": "fraction"},
    "centre_crop": {"aspect": 1.0, "fraction": 0.875},
}


@pytest.mark.parametrize("case", STEP_CASES)
def test_a_bright_dot_maps_back_to_where_it_was(case):
    """Draw a square in the source, find its centre after the step: scale and offset lead back to it."""
    image = np.zeros((80, 120), np.uint8)
    image[38:46, 54:66] = 255
    view = _pre(case.split(" ")[0], **STEP_CASES[case])(image_view(image))
    y, x = np.nonzero(view.data > 180)
    centre = _source_point(view, x.mean() + 0.5, y.mean() + 0.5)
    assert centre == pytest.approx((60, 42), abs=1.0)
    assert view.size == (120, 80)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(STEP_CASES)), min_size=1, max_size=4),
    st.integers(64, 400), st.integers(64, 400),
)  # fmt: skip
def test_the_mapping_of_a_chain_is_that_of_its_corners(chain, width, height):
    """However steps are chained, the corners of what a step kept lie where the step before had them."""
    view = image_view(np.zeros((height, width), np.uint8))
    for case in chain:
        before = replace(view, data=np.full_like(view.data, 255))
        try:
            view = _pre(case.split(" ")[0], **STEP_CASES[case])(before)
        except ConfigError:
            continue  # the crop does not fit what an earlier step left
        rows, columns = np.nonzero(view.data == 255)  # a letterbox fills with another grey
        kept = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        came_from = _kept_box(case, before)
        assert source_box(view, kept) == pytest.approx(source_box(before, came_from), abs=1e-6)
        assert view.size == (width, height)


def _kept_box(case, view):
    """The box of `view` that the step keeps, by its definition."""
    height, width = view.data.shape
    if case == "crop":
        return 10, 20, 110, 75
    if case == "crop by fraction":
        return round(width * 0.25), round(height * 0.1), round(width * 0.75), round(height * 0.9)
    if case == "centre_crop":
        side = round(min(width, height) * 0.875)
        return (width - side) // 2, (height - side) // 2, (width - side) // 2 + side, (height - side) // 2 + side
    return 0, 0, width, height


def test_letterbox_keeps_the_shape_and_fills_the_rest():
    """A wide picture gets equal bars above and below."""
    view = _pre("letterbox", width_px=60, height_px=60, interpolation="area", fill=7)(
        image_view(np.full((40, 120, 3), 200, np.uint8))
    )
    assert (view.data[:20] == 7).all()
    assert (view.data[20:40] == 200).all()
    assert (view.data[40:] == 7).all()
    assert view.offset == (0.0, -40.0)
    assert view.scale == (2.0, 2.0)


def test_centre_crop_takes_the_middle():
    """7/8 of the shorter side, centred, as public image classifiers want it."""
    image = _picture(160, 96)
    view = _pre("centre_crop", fraction=0.875)(image_view(image))
    assert (view.data == image[6:90, 38:122]).all()
    assert view.offset == (38, 6)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"box": [10, 0, 5, 5]}, "left < right"),
        ({"box": [-1, 0, 5, 5]}, "left < right"),
        ({"box": [0, 0, 1.5, 1], "unit": "fraction"}, "from 0 to 1"),
        ({"box": [0, 0, 5]}, "3 values"),
        ({"box": [0, 0, 5, 5], "units": "px"}, "did you mean 'unit'"),
    ],
)
def test_a_wrong_box_is_refused_when_it_is_read(keys, words):
    """The configuration is wrong before any picture comes."""
    with pytest.raises(ConfigError, match=words):
        _pre("crop", **keys)


def test_a_box_outside_the_picture_says_how_large_the_picture_is():
    """It can only be seen when a picture comes; the message has both."""
    with pytest.raises(ConfigError, match="120x80 pixels"):
        _pre("crop", box=[0, 0, 640, 480])(image_view(_picture()))


def test_mask_paints_over_and_leaves_the_input_alone():
    """What is masked is gone from the view; the sample that others see is untouched."""
    image = _picture()
    image.flags.writeable = False
    before = image.copy()
    view = _pre("mask", boxes=[[0.0, 0.0, 0.5, 0.5], [0.9, 0.9, 1.0, 1.0]], unit="fraction", fill=3)(image_view(image))
    assert (view.data[:40, :60] == 3).all()
    assert (view.data[72:, 108:] == 3).all()
    assert (view.data[:40, 60:] == before[:40, 60:]).all()
    assert (image == before).all()


def test_no_step_writes_into_its_input():
    """Views share memory with samples that other pipelines read."""
    for case, keys in STEP_CASES.items():
        image = _picture()
        image.flags.writeable = False
        _pre(case.split(" ")[0], **keys)(image_view(image))
    for step, keys in (("contrast", {}), ("normalise", {}), ("layout", {"order": "NCHW"}), ("colour", {"to": "rgb"})):
        _pre(step, **keys)(image_view(image))


def test_colour_reorders_and_greys():
    """RGB is BGR turned round; grey weighs the channels by ITU-R BT.601."""
    image = _picture()
    view = image_view(image)
    assert (_pre("colour", to="rgb")(view).data == image[:, :, ::-1]).all()
    assert (_pre("colour", to="bgr")(view).data == image).all()
    grey = image @ np.array([0.114, 0.587, 0.299])
    assert np.abs(_pre("colour", to="grey")(view).data - grey).max() <= 0.51


def test_colour_of_equal_channels_is_exact():
    """A grey file, decoded to three equal channels, comes back as the very same grey."""
    grey = _picture(channels=1)
    view = image_view(np.repeat(grey[:, :, None], 3, axis=2))
    assert (_pre("colour", to="grey")(view).data == grey).all()
    assert (_pre("colour", to="rgb")(image_view(grey)).data == view.data).all()


def test_normalise_follows_its_formula_per_channel():
    """(x / 255 - mean) / std, the published constants of ImageNet models."""
    image = _picture()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    view = _pre("normalise", divide_by=255, mean=mean, std=std)(image_view(image))
    assert view.data.dtype == np.float32
    assert np.allclose(view.data, (image / 255.0 - mean) / std, atol=1e-5)


def test_normalise_refuses_means_for_other_channels():
    """Three means for a grey picture are a mistake of the model's author."""
    with pytest.raises(ModelError, match="3 values for 1 channels"):
        _pre("normalise", mean=[1, 2, 3])(image_view(_picture(channels=1)))


def test_contrast_stretches_a_faint_picture_and_leaves_a_blank_one():
    """Percentiles become 0 and 255; noise on a blank wall stays noise."""
    faint = (_picture(channels=1) // 8 + 100).astype(np.uint8)
    stretched = _pre("contrast", low=0, high=100)(image_view(faint)).data
    assert (stretched.min(), stretched.max()) == (0, 255)
    order = np.argsort(faint, axis=None)
    assert (np.diff(stretched.ravel()[order].astype(int)) >= 0).all()
    blank = (_picture(channels=1) // 64 + 100).astype(np.uint8)
    assert (_pre("contrast")(image_view(blank)).data == blank).all()


def test_layout_orders_axes_and_casts_with_saturation():
    """NCHW moves channels first, a grey picture gets its channel, integers round to even and saturate."""
    image = _picture()
    assert (_pre("layout", order="NCHW")(image_view(image)).data[0, 1] == image[:, :, 1]).all()
    assert _pre("layout", order="NHWC")(image_view(image[:, :, 0])).data.shape == (1, 80, 120, 1)
    assert _pre("layout", order="NHW")(image_view(image[:, :, 0])).data.shape == (1, 80, 120)
    values = View(np.array([[-300.0, -1.5, 0.5, 1.5, 300.0]], np.float32))
    assert _pre("layout", order="NHW", dtype="int8")(values).data.ravel().tolist() == [-128, -2, 0, 2, 127]
    with pytest.raises(ModelError, match="grey picture"):
        _pre("layout", order="NHW")(image_view(image))


def test_steps_name_themselves_when_they_get_no_picture():
    """Sound into an image step is a mistake that the message explains."""
    for step, keys in (("resize", STEP_CASES["resize"]), ("normalise", {}), ("mask", {"boxes": [[0, 0, 1, 1]]})):
        with pytest.raises(ModelError, match=f"step '{step}' takes a picture"):
            _pre(step, **keys)(View(np.zeros(16_000, np.int16)))
    with pytest.raises(ModelError, match="before 'layout'"):
        _pre("resize", **STEP_CASES["resize"])(View(np.zeros((1, 3, 8, 8), np.uint8)))


def test_cells_cut_a_grid_in_reading_order():
    """Each cell carries its own piece and its box in source pixels, through an earlier crop and resize."""
    image = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, 20, axis=0).repeat(10, axis=1)
    image = cv2.copyMakeBorder(image, 5, 5, 7, 7, cv2.BORDER_CONSTANT, value=255)
    view = _pre("crop", box=[7, 5, 37, 45])(image_view(image))
    view = _pre("resize", width_px=60, height_px=80, interpolation="nearest")(view)
    view = _pre("cells", width_px=8, height_px=12, interpolation="area", rows=2, columns=3)(view)
    assert view.data.shape == (6, 12, 8)
    assert [int(cell.mean()) for cell in view.data] == [0, 40, 80, 120, 160, 200]
    assert view.cells[0] == pytest.approx((7, 5, 17, 25))
    assert view.cells[5] == pytest.approx((27, 25, 37, 45))


def test_steps_after_cells_treat_every_cell():
    """Colour, contrast, resize, normalise and layout give what they give for each cell alone."""
    image = _picture(90, 60)
    chain = [
        _pre("resize", width_px=16, height_px=20, interpolation="area"),
        _pre("colour", to="grey"),
        _pre("contrast"),
        _pre("normalise", divide_by=255),
        _pre("layout", order="NHWC"),
    ]
    boxes = [[0, 0, 30, 60], [30, 0, 60, 60], [55, 5, 90, 50]]
    size = {"width_px": 30, "height_px": 60, "interpolation": "area"}
    together = _pre("cells", **size, boxes=boxes)(image_view(image))
    alone = [_pre("cells", **size, boxes=[box])(image_view(image)) for box in boxes]
    for step in chain:
        together = step(together)
        alone = [step(view) for view in alone]
    assert together.data.shape == (3, 1, 20, 16, 1)
    assert (together.data == np.concatenate([view.data for view in alone])).all()
    assert together.cells == tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)


def test_cells_widen_by_their_margin_and_stop_at_the_edge():
    """A margin takes some surroundings in, clipped to the picture."""
    view = _pre("cells", width_px=4, height_px=4, interpolation="area", boxes=[[0, 10, 20, 50]], margin=0.25)(
        image_view(_picture())
    )
    assert view.cells == ((0.0, 0.0, 25.0, 60.0),)


def test_cells_take_boxes_or_a_grid():
    """Both or neither is refused."""
    size = {"width_px": 4, "height_px": 4, "interpolation": "area"}
    for keys in ({}, {"rows": 2}, {"rows": 1, "columns": 2, "boxes": [[0, 0, 1, 1]]}):
        with pytest.raises(ConfigError, match="either 'boxes' or both"):
            _pre("cells", **size, **keys)
    with pytest.raises(ConfigError, match="do not fit 6x6"):
        _pre("cells", **size, rows=1, columns=8)(image_view(_picture(6, 6)))

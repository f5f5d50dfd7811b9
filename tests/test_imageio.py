"""Reading image files, letterbox geometry, network input."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from hypothesis import given
from hypothesis import strategies as st

from edge_centernet.errors import SourceError
from edge_centernet.imageio import read_image
from edge_centernet.manifest import ModelSpec, Quant, TensorSpec
from edge_centernet.preprocess import Letterbox, letterbox, prepare

# Left half (10, 200, 30) BGR, right half black; 60 wide, 40 high.
PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[:, :30] = (10, 200, 30)


def save(path: Path, image: Any, *how: int) -> Path:
    """An image file by OpenCV."""
    assert cv2.imwrite(str(path), image, list(how))
    return path


def png_header(path: Path, width: int, height: int) -> Path:
    """A sound PNG that claims to be of any size and holds one pixel's worth of data."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 4)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".jpg"])
def test_reads_every_format_in_bgr(tmp_path: Path, suffix: str) -> None:
    """The colours come back in BGR order, exactly where the format is lossless."""
    lossless = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()
    image = read_image(save(tmp_path / f"a{suffix}", PICTURE, *lossless))
    # JPEG keeps half the colour resolution: leave out the columns at the edge.
    flat = np.r_[0:26, 34:60] if suffix == ".jpg" else np.r_[0:60]
    np.testing.assert_allclose(
        image[:, flat].astype(int), PICTURE[:, flat], atol=4 if suffix == ".jpg" else 0
    )


def test_grey_becomes_three_channels(tmp_path: Path) -> None:
    """A grey PNG gives three equal channels."""
    image = read_image(save(tmp_path / "a.png", PICTURE[..., 1]))
    assert np.array_equal(image, np.repeat(PICTURE[..., 1:2], 3, axis=2))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    """An RGBA PNG gives its colours, whatever its alpha."""
    alpha = np.full((40, 60, 1), 77, np.uint8)
    assert np.array_equal(
        read_image(save(tmp_path / "a.png", np.concatenate([PICTURE, alpha], axis=2))), PICTURE
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(tmp_path: Path, suffix: str, channels: int) -> None:
    """A 16-bit file keeps its brightness: it is neither clipped nor shown as noise."""
    wide = np.dstack([PICTURE, np.full((40, 60), 255, np.uint8)])[..., :channels].astype(np.uint16) * 257
    expected = PICTURE if channels > 1 else np.repeat(PICTURE[..., :1], 3, axis=2)
    image = read_image(save(tmp_path / f"a{suffix}", wide))
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(int), expected, atol=1)


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_jpeg_colour_spaces(tmp_path: Path, mode: str) -> None:
    """CMYK, grey and RGB JPEGs come out in the right colours."""
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(PICTURE[..., ::-1].copy()).convert(mode).save(tmp_path / "a.jpg", quality=95)
    expected = np.array(pillow.open(tmp_path / "a.jpg").convert("RGB"))[..., ::-1]
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").astype(int), expected, atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """All eight orientations: the picture stands as a viewer shows it."""
    pillow = pytest.importorskip("PIL.Image")
    ops = pytest.importorskip("PIL.ImageOps")
    picture = PICTURE.copy()
    picture[:10] = 255
    exif = pillow.Exif()
    exif[0x112] = orientation
    pillow.fromarray(picture[..., ::-1].copy()).save(tmp_path / "a.jpg", quality=98, exif=exif)
    expected = np.array(ops.exif_transpose(pillow.open(tmp_path / "a.jpg")))[..., ::-1]
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.97])
def test_a_cut_image_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    """Decoders that fill the missing part with grey would give wrong answers: a cut file is an error."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 110, 3)).astype(np.uint8)
    path = save(tmp_path / f"a{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(SourceError, match=path.name):
        read_image(path)


def test_a_cut_jpeg_with_a_thumbnail_is_refused(tmp_path: Path) -> None:
    """The end marker of the thumbnail inside EXIF is not taken for the end of the picture."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 110, 3)).astype(np.uint8)
    data = save(tmp_path / "a.jpg", noise).read_bytes()
    thumbnail = save(tmp_path / "t.jpg", PICTURE).read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image(tmp_path / "a.jpg").shape == (90, 110, 3)
    (tmp_path / "a.jpg").write_bytes(whole[:-500])
    with pytest.raises(SourceError, match="cut off"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jpg", b"", "empty file"),
        ("text.jpg", b"this is no picture\n" * 9, "something else"),
        ("page.png", b"<!DOCTYPE html><html></html>", "something else"),
        ("head.jpg", b"\xff\xd8", "cut off"),
        ("bad.png", b"\x89PNG\r\n\x1a\n" + bytes(60), "cut off"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """One line names the file and what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}: .*{says}") as error:
        read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """Each is called what it is."""
    with pytest.raises(SourceError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(SourceError, match="a folder"):
        read_image(tmp_path)


def test_thirty_thousand_pixels_square_are_refused_before_decoding(tmp_path: Path) -> None:
    """The header is enough: the message gives the size, the limit and the way around it."""
    with pytest.raises(
        SourceError, match=r"30000x30000 is more than \d+ pixels; .*EDGE_CENTERNET_MAX_IMAGE_PIXELS"
    ):
        read_image(png_header(tmp_path / "a.png", 30000, 30000))


def test_the_pixel_limit_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2400 pixels pass a limit of 2400 and fail one of 2399; nonsense is named."""
    path = save(tmp_path / "a.png", PICTURE)
    monkeypatch.setenv("EDGE_CENTERNET_MAX_IMAGE_PIXELS", "2400")
    assert read_image(path).shape == PICTURE.shape
    for text, says in (("2399", "60x40 is more than 2399"), ("many", "expected a number")):
        monkeypatch.setenv("EDGE_CENTERNET_MAX_IMAGE_PIXELS", text)
        with pytest.raises(SourceError, match=says):
            read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_damage_never_ends_in_another_exception(tmp_path: Path, suffix: str) -> None:
    """Flipped bytes anywhere give a picture or a SourceError."""
    rng = np.random.default_rng(1)
    data = save(tmp_path / f"a{suffix}", PICTURE).read_bytes()
    for _ in range(60):
        bad = bytearray(data)
        for at in rng.integers(0, len(bad), 4):
            bad[at] = rng.integers(0, 256)
        (tmp_path / f"b{suffix}").write_bytes(bad)
        with contextlib.suppress(SourceError):
            assert read_image(tmp_path / f"b{suffix}").ndim == 3


sizes = st.integers(1, 3000)


@given(sizes, sizes, st.sampled_from([(320, 320), (96, 128), (416, 256)]), st.integers(0, 2**32 - 1))
def test_letterbox_maps_invert_each_other(width: int, height: int, frame: tuple[int, int], seed: int) -> None:
    """A box inside the image survives the way to network input and back, and lies inside the frame there."""
    box = Letterbox(width, height, frame[1], frame[0])
    low, high = np.sort(np.random.default_rng(seed).uniform(0, [width, height], (2, 5, 2)), axis=0)
    xyxy = np.concatenate([low, high], axis=1).astype(np.float32)  # (5, 4)
    inside = box.to_input(xyxy)
    assert (inside >= -0.01).all()
    assert (inside <= [frame[1] + 0.01, frame[0] + 0.01] * 2).all()
    np.testing.assert_allclose(box.to_image(inside), xyxy, atol=1e-3 * max(1, max(width, height) / 300))


def test_letterbox_by_hand() -> None:
    """500x375 into 320x320: scale 0.64, 240 rows, 40 above and below; boxes beyond the image are clipped."""
    box = Letterbox(500, 375, 320, 320)
    assert (box.scale, box.new_width, box.new_height, box.left, box.top) == (0.64, 320, 240, 0, 40)
    np.testing.assert_allclose(box.to_input(np.array([[100, 100, 200, 300]])), [[64, 104, 128, 232]])
    np.testing.assert_allclose(box.to_image(np.array([[-9, 0, 400, 400]])), [[0, 0, 500, 375]])


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_letterbox_picture(color: str) -> None:
    """The picture stands in the middle in the model's colour order, the rest has the padding's value."""
    spec = replace(squares.manifest(True).model, color=color, pad_value=7)
    frame, _ = letterbox(np.full((96, 64, 3), (1, 2, 3), np.uint8), spec)
    assert frame.shape == (96, 128, 3)
    assert frame[50, 60].tolist() == ([3, 2, 1] if color == "rgb" else [1, 2, 3])
    assert (frame[:, :32] == 7).all()
    assert (frame[:, 96:] == 7).all()
    assert (frame[:, 32:96] != 7).all()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1)])
def test_extreme_shapes_pass(shape: tuple[int, int]) -> None:
    """A line of pixels keeps at least one row in the network input."""
    x, box = prepare(np.zeros((*shape, 3), np.uint8), squares.manifest(True))
    assert x.shape == (1, 3, 96, 128)
    assert min(box.new_width, box.new_height) >= 1


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(bad: Any) -> None:
    """Only (H, W, 3) uint8 is an image."""
    with pytest.raises(SourceError, match="expected \\(H, W, 3\\) uint8"):
        letterbox(bad, squares.manifest(True).model)


@pytest.mark.parametrize(
    ("dtype", "quant"),
    [
        ("uint8", Quant(1 / 128, 128)),
        ("int8", Quant(1 / 128, 0)),
        ("int8", Quant(0.02, -10)),
        ("uint8", Quant(0.003, 90)),
        ("float32", None),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mean", [(128.0, 128.0, 128.0), (123.7, 116.3, 103.5)])
def test_prepare_follows_its_formula(dtype: str, quant: Quant | None, layout: Any, mean: Any) -> None:
    """Stored = clip(round((pixel - mean) / std / scale) + zero point), contiguous, in the right layout."""
    manifest = squares.manifest(True)
    shape = (1, 3, 96, 128) if layout == "NCHW" else (1, 96, 128, 3)
    model = replace(manifest.model, mean=mean, std=(128.0, 64.0, 57.4))
    manifest = replace(manifest, model=model, input=TensorSpec("image", shape, layout, dtype, quant))
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    real = (image[..., ::-1].astype(np.float64) - mean) / model.std
    if quant is None:
        expected = real
    else:
        limits = np.iinfo(np.dtype(dtype))
        expected = np.clip(np.rint(real / quant.scale) + quant.zero_point, limits.min, limits.max)
    x, _ = prepare(image, manifest)
    assert (x.dtype.name, x.shape, x.flags.c_contiguous) == (dtype, shape, True)
    np.testing.assert_allclose(
        x[0] if layout == "NHWC" else x[0].transpose(1, 2, 0), expected, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(96, 64), (40, 300), (500, 375), (96, 128)])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
def test_prepare_is_letterbox_and_a_table(
    shape: tuple[int, int], color: str, layout: Any, dtype: str
) -> None:
    """In fewer passes, but the same values, padding included, for every order of colours and channels."""
    manifest = squares.manifest(True)
    quant = {"uint8": Quant(1 / 128, 128), "int8": Quant(0.02, -10), "float32": None}[dtype]
    mean = (128.0, 128.0, 128.0) if dtype == "uint8" else (123.7, 116.3, 103.5)
    std = (128.0, 128.0, 128.0) if dtype == "uint8" else (128.0, 64.0, 57.4)
    manifest = replace(
        manifest,
        model=replace(manifest.model, color=color, mean=mean, std=std, pad_value=7),
        input=TensorSpec(
            "image", (1, 3, 96, 128) if layout == "NCHW" else (1, 96, 128, 3), layout, dtype, quant
        ),
    )
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    frame, box = letterbox(image, manifest.model)
    real = (frame.astype(np.float64) - mean) / std
    if quant is not None:
        limits = np.iinfo(np.dtype(dtype))
        real = np.clip(np.rint(real / quant.scale) + quant.zero_point, limits.min, limits.max)
    x, same_box = prepare(image, manifest)
    assert same_box == box
    np.testing.assert_array_equal(x[0] if layout == "NHWC" else x[0].transpose(1, 2, 0), real.astype(dtype))


def test_the_usual_int8_input_is_pixel_minus_128() -> None:
    """Lossless: every pixel value has its own stored value."""
    manifest = squares.manifest(True)
    manifest = replace(
        manifest, input=TensorSpec("image", (1, 96, 128, 3), "NHWC", "int8", Quant(1 / 128, 0))
    )
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    assert np.array_equal(prepare(image, manifest)[0][0].astype(int), image[..., ::-1].astype(int) - 128)


def test_resize_is_bilinear() -> None:
    """OpenCV's INTER_LINEAR agrees with a NumPy bilinear resize (half-pixel centres) within one step."""
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    frame, box = letterbox(image, ModelSpec("a", "1", 96, 128, ("x",), color="bgr"))
    assert (box.new_width, box.new_height) == (128, 96)

    def axis(new: int, old: int) -> tuple[Any, Any, Any]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), old - 2)
        return low, low + 1, at - low

    y0, y1, fy = axis(96, 60)
    x0, x1, fx = axis(128, 80)
    rows = image[y0] * (1 - fy)[:, None, None] + image[y1] * fy[:, None, None]
    expected = rows[:, x0] * (1 - fx)[None, :, None] + rows[:, x1] * fx[None, :, None]
    np.testing.assert_allclose(frame, expected, atol=1)

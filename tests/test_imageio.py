"""Reading image files and their sizes, letterbox geometry, network input."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import struct
import sys
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

from edge_centernet import imageio
from edge_centernet.errors import SourceError
from edge_centernet.extras import command_for
from edge_centernet.imageio import image_size, read_image
from edge_centernet.manifest import ModelSpec, Quant, TensorSpec
from edge_centernet.preprocess import Letterbox, letterbox, prepare

# Left half (10, 200, 30) BGR, right half black; 60 wide, 40 high.
PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[:, :30] = (10, 200, 30)


def save(path: Path, image: Any, *how: int) -> Path:
    """An image file by OpenCV."""
    assert cv2.imwrite(str(path), image, list(how))
    return path


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def ihdr(width: int, height: int) -> tuple[bytes, bytes]:
    """The header chunk of an RGB image."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


IDAT, IEND = (b"IDAT", zlib.compress(bytes(40 * (1 + 60 * 3)))), (b"IEND", b"")  # 60x40 black pixels


def exif(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    """A block of EXIF with an orientation and nothing else. kind: 3 for SHORT, 4 for LONG."""
    entry = struct.pack(
        order + "HHI" + ("I" if kind == 4 else "HH"), 0x0112, kind, 1, orientation, *[0] * (kind == 3)
    )
    return (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def tiff(*tags: tuple[int, int, int, int], pixels: bytes = bytes(4)) -> bytes:
    """A little-endian TIFF of these (tag, type, count, value), with its pixels at 8."""
    at = 8 + len(pixels)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHI", b"II", 42, at) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


GREY_TIFF = ((256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
             (277, 3, 1, 1), (278, 3, 1, 2), (279, 4, 1, 4))  # fmt: skip


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def png_header(path: Path, width: int, height: int) -> Path:
    """A sound PNG that claims to be of any size and holds one pixel's worth of data."""
    path.write_bytes(png(ihdr(width, height), (b"IDAT", zlib.compress(b"\0" * 4)), IEND))
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
    with pytest.raises(SourceError, match=r"none\.jpg: no such file; expected an image"):
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


def oriented_jpeg(path: Path, orientation: int) -> Path:
    """A 40x30 JPEG, with an EXIF orientation unless it is 0."""
    data = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    if orientation:
        data = data[:2] + segment(0xE1, b"Exif\0\0" + exif(orientation)) + data[2:]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_the_header_tells_the_size_that_reading_gives(tmp_path: Path, orientation: int) -> None:
    """Whatever way the camera was held."""
    path = oriented_jpeg(tmp_path / "a.jpg", orientation)
    height, width, _ = read_image(path).shape
    assert image_size(path) == (width, height) == ((30, 40) if orientation in range(5, 9) else (40, 30))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_every_format_is_turned_as_a_viewer_does(tmp_path: Path, suffix: str, orientation: int) -> None:
    """By EXIF, AVIF by its boxes: both sizes and pixels, whatever OpenCV's release does on its own."""
    pillow, ops = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    path = tmp_path / f"a.{suffix}"
    tags = pillow.Exif()
    tags[0x112] = orientation
    picture = cv2.resize(PICTURE, (60, 40))
    picture[:10] = 255
    how = {"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": tags, "quality": 95}
    try:
        pillow.fromarray(picture[..., ::-1].copy()).save(path, **how)
    except (KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {suffix}")
    if suffix == "avif" and cv2.imread(str(path)) is None:
        pytest.skip("this OpenCV reads no AVIF")
    expected = np.array(ops.exif_transpose(pillow.open(path)).convert("RGB"))[..., ::-1]
    image = read_image(path)
    assert image.shape == expected.shape
    assert image_size(path) == image.shape[1::-1]
    assert np.abs(image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("place", ["in front", "behind 8 kB of text", "behind the pixels"])
def test_exif_of_a_png_counts_wherever_it_stands(tmp_path: Path, place: str) -> None:
    """A data set's sizes come from the header: they must be those that training sees."""
    chunks = [ihdr(60, 40), (b"tEXt", b"note\0" + b"x" * 8000), IDAT]
    chunks.insert(
        {"in front": 1, "behind 8 kB of text": 2, "behind the pixels": 3}[place], (b"eXIf", exif(6))
    )
    (tmp_path / "a.png").write_bytes(png(*chunks, IEND))
    assert read_image(tmp_path / "a.png").shape == (60, 40, 3)
    assert image_size(tmp_path / "a.png") == (40, 60)


@pytest.mark.parametrize(("first", "second", "turned"), [(6, 1, True), (1, 6, False), (9, 6, False)])
def test_the_first_of_two_exif_segments_counts(tmp_path: Path, first: int, second: int, turned: bool) -> None:
    """As for viewers; size and pixels agree. An orientation above 8 is none."""
    whole = oriented_jpeg(tmp_path / "a.jpg", 0).read_bytes()
    blocks = b"".join(segment(0xE1, b"Exif\0\0" + exif(o)) for o in (first, second))
    (tmp_path / "a.jpg").write_bytes(whole[:2] + blocks + whole[2:])
    assert image_size(tmp_path / "a.jpg") == ((30, 40) if turned else (40, 30))
    assert read_image(tmp_path / "a.jpg").shape == ((40, 30, 3) if turned else (30, 40, 3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_may_be_a_long(tmp_path: Path, order: str) -> None:
    """Some writers store four bytes, in either order."""
    (tmp_path / "a.png").write_bytes(png(ihdr(60, 40), (b"eXIf", exif(8, order, 4)), IDAT, IEND))
    assert read_image(tmp_path / "a.png").shape == (60, 40, 3)


# ---- headers that say two things, and files that take more than they give -------------------------------


def progressive(side: int, scans: int) -> bytes:
    """A grey progressive JPEG, each of whose many scans says nothing about all blocks in some bytes."""
    blocks = (side // 8) ** 2
    start = segment(0xDB, b"\0" + b"\1" * 64) + segment(
        0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0)
    )
    tables = segment(0xC4, b"\0\1" + bytes(16)) + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    dc = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8 + 1)
    ac = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(2 * (blocks // (1 << 14) + 1))
    return b"\xff\xd8" + start + tables + dc + ac * scans + b"\xff\xd9"


TWO_FRAMES = segment(0xC0, struct.pack(">BHHB9s", 8, 30, 40, 3, bytes(9)))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("late.png", png((b"tEXt", b"a\0b"), ihdr(60, 40), IDAT, IEND), "damaged"),
        ("double.png", png(ihdr(60, 40), ihdr(30000, 30000), IDAT, IEND), "damaged"),
        ("double2.png", png(ihdr(30000, 30000), ihdr(60, 40), IDAT, IEND), "damaged"),
        ("chunks.png", png(ihdr(60, 40), *[(b"tEXt", b"")] * (1 << 17), IDAT, IEND), "damaged"),
        ("cr.ppm", b"P6\n#x\r30000 30000\n#\n1 1\n255\n" + bytes(3), "30000x30000 is more than"),
        ("cr.pgm", b"P5\t#x\r30000\r#1 1\r30000 255\n" + bytes(3), "30000x30000 is"),
        ("word.pgm", b"P5\nx30000 30000 255\n" + bytes(3), "damaged"),
        ("twice.tif", tiff((256, 3, 1, 2), (256, 4, 1, 60000), *GREY_TIFF[1:]), "damaged"),
        ("two.tif", tiff((256, 3, 2, 2), *GREY_TIFF[1:]), "damaged"),
        ("type.tif", tiff((256, 5, 1, 2), *GREY_TIFF[1:]), "damaged"),
        ("tile.tif", tiff(*GREY_TIFF, (322, 4, 1, 1 << 14), (323, 4, 1, 1 << 14)), "damaged"),
        ("wide.tif", tiff(*GREY_TIFF[:6], (277, 3, 1, 60000), *GREY_TIFF[7:]), "60000 channels"),
        ("twice.jpg", b"\xff\xd8" + TWO_FRAMES * 2 + segment(0xDA, bytes(10)) + b"\xff\xd9", "damaged"),
        ("restart.jpg", b"\xff\xd8\xff\xd0" + TWO_FRAMES + segment(0xDA, bytes(10)) + b"\xff\xd9", "damaged"),
        ("fill.jpg", b"\xff\xd8" + b"\xff" * (1 << 18), "damaged"),
        ("scans.jpg", progressive(8192, 40), "at most 16 scans at 8192x8192 pixels, got more"),
        ("os2.bmp", b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 60000, 60000, 1, 24), "60000x60000 is"),
        ("min.bmp", b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 1, -(1 << 31), 1, 24), "is more than"),
        ("a.webp", b"RIFF\x16\0\0\0WEBPALPH" + bytes(18), "damaged"),
        ("boxes.heic", b"\0\0\0\x14ftypheic\0\0\0\0heic" + b"\0\0\0\x08free" * 5000, "damaged"),
        ("no.avif", b"\0\0\0\x14ftypavif\0\0\0\0avif\0\0\0\x0cmeta\0\0\0\0", "damaged"),
    ],
)  # fmt: skip
def test_a_header_that_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a decoder that reads it otherwise takes gigabytes or minutes for it."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}.*{says}"):
        read_image(tmp_path / name)


def test_an_image_of_usual_scans_is_read(tmp_path: Path) -> None:
    """The same file with ten scans, and one that an encoder wrote."""
    (tmp_path / "a.jpg").write_bytes(progressive(64, 10))
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    path = save(tmp_path / "b.jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert read_image(path).shape == PICTURE.shape


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_packed_texts_of_a_png_are_not_unpacked(tmp_path: Path, kind: bytes) -> None:
    """Neither in front of the pixels nor behind them: libpng would take 8 MB and a second for each."""
    packed = zlib.compress(bytes(7_000_000), 9)
    text = (kind, b"a\0" + (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + packed)
    data = png(ihdr(60, 40), text, IDAT, text, IEND)
    assert len(data) > 10_000
    assert imageio._without_texts(data) == png(ihdr(60, 40), IDAT, IEND)
    (tmp_path / "a.png").write_bytes(data)
    assert read_image(tmp_path / "a.png").shape == (40, 60, 3)


def test_a_file_beyond_256_mb_is_not_read(tmp_path: Path) -> None:
    """Its length is enough to refuse it, whatever it holds."""
    path = save(tmp_path / "a.bmp", PICTURE)
    os.truncate(path, imageio.MAX_BYTES + 1)
    with pytest.raises(SourceError, match="at most 256 MB"):
        read_image(path)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """Neither for its size nor for its pixels."""
    os.mkfifo(tmp_path / "a.png")
    for read in (image_size, read_image):
        with pytest.raises(SourceError, match="not a regular file"):
            read(tmp_path / "a.png")


# ---- formats of phones, cameras and the web ------------------------------------------------------------

# What pillow-heif wrote for a picture of 128x64, red on the left and blue on the right, as two tiles of 64x64
# with a turn by 90 degrees against the clock.
GRID = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAettZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ABBpZGF0AAAAAQCAAEAAAABMaWxvYwEAAABEQAADAAEAAQAAAAAAAAABAAAAAAAAAAgAAgAAAAAAAAIFAAEAAAAKAAAAGgADAAAA"
    "AAAAAh8AAQAAAAoAAAAaAAAATWlpbmYAAAAAAAMAAAAVaW5mZQIAAAAAAQAAZ3JpZAAAAAAVaW5mZQIAAAEAAgAAaHZjMQAAAAAV"
    "aW5mZQIAAAEAAwAAaHZjMQAAAAAOcGl0bQAAAAAAAQAAAOtpcHJwAAAAwWlwY28AAAAUaXNwZQAAAAAAAACAAAAAQAAAAHhodmND"
    "AQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAe"
    "oCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABRpc3BlAAAAAAAAAEAAAABAAAAAEHBpeGkAAAAAAwgICAAA"
    "AAlpcm90AQAAACJpcG1hAAAAAAAAAAMAAQMBhIUAAgOCAwQAAwOCAwQAAAAcaXJlZgAAAAAAAAAQZGltZwABAAIAAgADAAAAPG1k"
    "YXQAAAAWKAGvGYD3fIU3//ihh/5rWv+vwV4tHAAAABYoAa8ZgPd8hTf//CvIR92Ub+GBXi0c"
)


def test_heic_is_read_whole_and_turned(tmp_path: Path) -> None:
    """Both tiles, and upright; the size agrees."""
    pytest.importorskip("pillow_heif", reason="needs the heic extra")
    (tmp_path / "a.heic").write_bytes(base64.b64decode(GRID))
    image = read_image(tmp_path / "a.heic")
    assert image.shape == (128, 64, 3)
    assert image_size(tmp_path / "a.heic") == (64, 128)
    np.testing.assert_allclose(image[20, 30].astype(int), (255, 0, 0), atol=20)  # the right tile is above
    np.testing.assert_allclose(image[100, 30].astype(int), (0, 0, 255), atol=20)


def test_heic_without_its_package_names_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with what to install and what to do else."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(base64.b64decode(GRID))  # iPhones' photos are often renamed
    with pytest.raises(SourceError, match=rf"a HEIC image.*{re.escape(command_for('heic'))}; or convert"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
def test_a_cut_heic_is_refused(tmp_path: Path, part: float) -> None:
    """Whether its package is there or not."""
    whole = base64.b64decode(GRID)
    (tmp_path / "a.heic").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(SourceError, match=r"a\.heic: the image is cut off or damaged"):
        read_image(tmp_path / "a.heic")


def test_the_size_of_a_heic_counts_before_it_is_decoded(tmp_path: Path) -> None:
    """The largest of those in its header."""
    data = base64.b64decode(GRID)
    sizes = struct.pack(">II", 128, 64)
    assert sizes in data
    (tmp_path / "a.heic").write_bytes(data.replace(sizes, struct.pack(">II", 30000, 30000)))
    with pytest.raises(SourceError, match="30000x30000 is more than"):
        read_image(tmp_path / "a.heic")


def test_gif_gives_its_first_picture(tmp_path: Path) -> None:
    """Also under another name."""
    pillow = pytest.importorskip("PIL.Image")
    frames = [pillow.fromarray(np.full((40, 60, 3), grey, np.uint8)) for grey in (90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    try:
        image = read_image(tmp_path / "a.gif")
    except SourceError as error:
        assert "built without GIF" in str(error)  # noqa: PT017
    else:
        assert image.shape == (40, 60, 3)
        assert abs(int(image.mean()) - 90) < 5


def test_pbm_is_read(tmp_path: Path) -> None:
    """One bit a pixel, 1 is black."""
    (tmp_path / "a.pbm").write_bytes(b"P4\n# note\n8 2\n\xf0\x0f")
    assert read_image(tmp_path / "a.pbm")[..., 0].tolist() == [[0] * 4 + [255] * 4, [255] * 4 + [0] * 4]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("float.tif", tiff(*GREY_TIFF[:2], (258, 3, 1, 32), *GREY_TIFF[3:], (339, 3, 1, 3)), "floating"),
        ("signed.tif", tiff(*GREY_TIFF, (339, 3, 1, 2)), "signed"),
        ("wide.tif", tiff(*GREY_TIFF[:2], (258, 3, 1, 32), *GREY_TIFF[3:]), "32-bit samples"),
        ("big.tif", b"II+\0\x08\0\0\0" + bytes(60), "BigTIFF"),
        ("preview.tif", tiff((254, 4, 1, 1), *GREY_TIFF), "camera raw"),
        ("a.dng", tiff(*GREY_TIFF, (50706, 1, 4, 0x401)), "camera raw"),
        ("a.nef", tiff(*GREY_TIFF), "camera raw"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(60), "camera raw"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(60), "camera raw"),
        ("a.orf", b"IIRO\x08\0\0\0" + bytes(60), "camera raw"),
        ("a.jxl", b"\xff\x0a" + bytes(60), "JPEG XL"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), "JPEG 2000"),
        ("a.psd", b"8BPS\0\1" + bytes(60), "Photoshop"),
        ("a.pdf", b"%PDF-1.7\n", "PDF"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_its_name(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    """Not as something damaged, and never by a preview of it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        SourceError, match=rf"{name}: expected a JPEG.*, got .*{what}.*which is not read; "
    ) as error:
        read_image(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff", "ppm"])
def test_other_formats_tell_their_size_too(tmp_path: Path, suffix: str) -> None:
    """Through the header or through the decoder."""
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    assert image_size(path) == (40, 30)


def test_a_file_without_a_size_is_an_error(tmp_path: Path) -> None:
    """Missing, empty, cut in the header, or text."""
    whole = oriented_jpeg(tmp_path / "whole.jpg", 6).read_bytes()
    for name, data in {"none": None, "empty": b"", "cut": whole[:30], "text": b"hello"}.items():
        path = tmp_path / f"{name}.jpg"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(SourceError, match=f"{name}.jpg"):
            image_size(path)


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

"""From an image file to pixels, with limits that are checked before anything is decoded.

Training, calibration, verification and detection all read images here, so that they see the same pixels. The
header is read by hand, for two reasons: an image of 30000x30000 pixels must not take a board's memory, and
some decoders fill the missing part of a cut file with grey and report nothing.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import SourceError
from edge_centernet.system.logs import silence_opencv

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# 2^27 pixels decode to 400 MB of BGR, as much as a 1 GB board can hold; OpenCV's own limit is 2^30.
MAX_PIXELS_VARIABLE = "EDGE_CENTERNET_MAX_IMAGE_PIXELS"
MAX_PIXELS = 1 << 27
# JPEG's "start of frame" markers: 0xC0 to 0xCF without DHT, JPG and DAC, which lie among them (ITU-T T.81)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _APP1 = 0xDA, 0xE1

Image = NDArray[np.uint8]  # (H, W, 3)


def read_image(path: str | Path) -> Image:
    """Read a JPEG, PNG, BMP, WebP, TIFF or PNM file as (H, W, 3) uint8 BGR, turned as its EXIF tag says.

    Grey becomes three equal channels, 16 bits become 8, CMYK becomes BGR, alpha is dropped.
    Raises SourceError for a file that is missing, empty, cut off, not an image, or larger than the pixel
    limit, which EDGE_CENTERNET_MAX_IMAGE_PIXELS changes.
    """
    path = Path(path)
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise SourceError(f"{path}: cannot read the image: {error.strerror}") from None
    if data is None:
        what = "a folder" if path.is_dir() else "no such file" if not path.exists() else "not a regular file"
        raise SourceError(f"{path}: expected an image file, got {what}")
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image:
    """The same for the bytes of an image file; `name` appears in the error messages."""
    if not data:
        raise SourceError(f"{name}: expected an image, got an empty file (0 bytes)")
    check_header(data, name)
    silence_opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None or image.size == 0:
        raise SourceError(f"{name}: the image is damaged and cannot be decoded")
    return image.astype(np.uint8, copy=False)


def sample_photo() -> Path:
    """The path of the photo that comes with the package: a person and a cat, 1126x512 pixels."""
    return Path(__file__).resolve().parent / "assets" / "sample.jpg"


def check_header(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) in pixels from the header of an image file.

    Raises SourceError for an unknown format, a file that is cut off, and more pixels than the limit.
    """
    try:
        size = _header_size(data)
    except (struct.error, IndexError, ValueError):
        raise SourceError(f"{name}: the image is cut off or damaged; copy it again") from None
    if size is None:
        raise SourceError(f"{name}: expected a JPEG, PNG, BMP, WebP, TIFF or PNM image, got something else")
    width, height = size
    text = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not text.isdecimal():
        raise SourceError(f"{MAX_PIXELS_VARIABLE}: expected a number of pixels, got {text!r}")
    limit = int(text)
    if width < 1 or height < 1:
        raise SourceError(f"{name}: the image is damaged: its header says {width}x{height} pixels")
    if width * height > limit:
        raise SourceError(
            f"{name}: {width}x{height} is more than {limit} pixels; "
            f"make it smaller or set {MAX_PIXELS_VARIABLE}"
        )
    return width, height


def is_image(start: bytes) -> bool:
    """Whether a file that starts with these bytes (16 are enough) is of an image format that we read."""
    return start.startswith(
        (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"P2", b"P3", b"P5", b"P6")
    ) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def _header_size(data: bytes) -> tuple[int, int] | None:
    """(width, height), or None for an unknown format.

    Raises ValueError, IndexError or struct.error for a file that is cut off.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_size(data)
    if data[:2] == b"BM":
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)  # a negative height means rows from top to bottom
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        # Tags 256 and 257: ImageWidth, ImageLength
        tags = {tag: value for tag, value in _tiff_entries(data) if tag in (256, 257)}
        if len(tags) != 2:
            raise ValueError("no size")
        return tags[256], tags[257]
    if data[:2] in (b"P2", b"P3", b"P5", b"P6"):  # PNM: a text header, in which # begins a comment
        words: list[bytes] = []
        for line in data[2:4096].split(b"\n"):
            words += line.split(b"#")[0].split()
            if len(words) >= 2:
                return int(words[0]), int(words[1])
        raise ValueError("no size")
    return None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as `read_image` will return them, EXIF rotation included.

    JPEG and plain PNG are read by their header alone, for data sets of many images whose labels do not hold
    the sizes; others are decoded. Raises SourceError for a file that is missing or not an image.
    """
    size = None
    try:
        with path.open("rb") as file:
            magic = file.read(33)
            if magic[:2] == b"\xff\xd8":
                size = _jpeg_size_as_read(file)
            elif magic[:8] == b"\x89PNG\r\n\x1a\n" and len(magic) == 33 and file.read(4096).find(b"eXIf") < 0:
                size = struct.unpack(">II", magic[16:24])
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); expected an image") from None
    except (struct.error, ValueError):  # cut off inside the header: `read_image` reports it
        size = None
    if size is None:
        height, width, _ = read_image(path).shape
        size = width, height
    return size


def _jpeg_size_as_read(file: BinaryIO) -> tuple[int, int] | None:
    turned = False
    for marker, body in _jpeg_segments(file):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">xHH", body)
            return (height, width) if turned else (width, height)
        if marker == _APP1 and body.startswith(b"Exif\0\0"):
            # Orientations 5 to 8 lie on their side. A damaged EXIF block counts as none, as for OpenCV.
            orientation = 1
            with suppress(struct.error):
                orientation = next((value for tag, value in _tiff_entries(body[6:]) if tag == 0x0112), 1)
            turned = orientation >= 5
    return None


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment, up to and with the start of the scan; ValueError for a cut file."""
    file.seek(2)
    marker = 0
    while marker != _SCAN:
        start, marker = file.read(2)  # at the end of the file there are not two: ValueError
        while start == marker == 0xFF:  # fill bytes
            (marker,) = file.read(1)
        length = int.from_bytes(file.read(2), "big")
        if start != 0xFF or length < 2:
            raise ValueError("no marker")
        yield marker, file.read(length - 2)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size, file = None, io.BytesIO(data)
    for marker, body in _jpeg_segments(file):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">xHH", body)
            size = (width, height)
    # FF D9 ends the image. It cannot occur inside entropy-coded data (FF is followed by 00 there), so its
    # absence after the scan began means a cut file.
    if size is None or data.find(b"\xff\xd9", file.tell()) < 0:
        raise ValueError("no frame or no end")
    return size


def _png_size(data: bytes) -> tuple[int, int]:
    # All chunks and their checksums, not the header alone: that finds a cut or damaged file without decoding.
    at, size = 8, None
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IHDR":
            size = struct.unpack_from(">II", data, at + 8)
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(data[at + 4 : at + 8 + length]) != crc:
            raise ValueError("checksum")
        if kind == b"IEND":
            if size is None:
                raise ValueError("no IHDR")
            return size[0], size[1]
        at += 12 + length


def _webp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ValueError("cut")
    kind = data[12:16]  # extended, lossless, else lossy: three headers that store the size in three ways
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int]]:
    """(tag, value) of the first directory in a TIFF file or a JPEG's EXIF block; right for SHORT and LONG."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)  # 3: SHORT
        yield tag, value

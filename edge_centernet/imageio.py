"""From an image file to pixels, with limits that are checked before anything is decoded.

Training, calibration, verification and detection all read images here, so that they see the same pixels. The
header is read by hand, for three reasons: an image of 30000x30000 pixels must not take a board's memory, some
decoders fill the missing part of a cut file with grey and report nothing, and OpenCV's releases differ in the
images that they turn. A header that can be read in two ways, such as one with two sizes, counts as damaged.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import SourceError
from edge_centernet.extras import command_for
from edge_centernet.system.logs import silence_opencv

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif"),
    *(".jfif", ".jpe", ".avif", ".heic", ".heif", ".hif"),
)
# 2^26 pixels take up to 600 MB while they are decoded and turned; OpenCV's own limit is 2^30.
MAX_PIXELS_VARIABLE = "EDGE_CENTERNET_MAX_IMAGE_PIXELS"
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28  # of a file: an uncompressed image at the pixel limit has about as many
# A progressive JPEG goes through the whole image once for each scan, of which some bytes are enough. Encoders
# write about ten; this allows 16 at the pixel limit.
_MAX_SCANNED = 1 << 30  # pixels times scans
_MAX_PARTS = 1 << 17  # segments or chunks of a file; the largest PNGs have some 30,000
_MAX_BOXES = 4096  # of an AVIF or HEIC file, on each level
_MAX_TILE = 1 << 24  # pixels of a TIFF's tile, which may be larger than the image and is decoded as a whole
# JPEG's "start of frame" markers: 0xC0 to 0xCF without DHT, JPG and DAC, which lie among them (ITU-T T.81)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _APP1, _END = 0xDA, 0xE1, 0xD9
_MARKER = re.compile(
    rb"\xff[^\x00\xd0-\xd7\xff]"
)  # inside of a scan: FF 00 is data, FF D0 to FF D7 restart it
_PNG, _EXIF = b"\x89PNG\r\n\x1a\n", b"Exif\0\0"
# Magic number, width and height, with blanks or comments between them, as OpenCV reads them.
_PNM = re.compile(rb"P[1-6]\s(?:#[^\r\n]*[\r\n]|\s)*(\d{1,9})\s(?:#[^\r\n]*[\r\n]|\s)*(\d{1,9})\s")
_RAW = "camera raw"
_RAW_SUFFIXES = frozenset(
    (".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".nef", ".nrw", ".pef", ".srw")
)
_WAY_OUT = {
    _RAW: "develop it and save it as JPEG",
    "HEIC": "convert it to JPEG (iPhone: Settings, Camera, Formats, Most Compatible)",
}
# Formats that begin with these bytes. Those in the second table are not read, and are refused by their name.
_READ = {
    "JPEG": (b"\xff\xd8",),
    "PNG": (_PNG,),
    "TIFF": (b"II*\0", b"MM\0*"),
    "GIF": (b"GIF87a", b"GIF89a"),
}
_NOT_READ = {
    _RAW: (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILMCCD-RAW", b"FOVb"),
    "BigTIFF": (b"II+\0", b"MM\0+"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xffO\xffQ"),
    "OpenEXR": (b"v/1\x01",),
    "Radiance HDR": (b"#?RADIANCE", b"#?RGBE"),
    "Photoshop": (b"8BPS",),
    "PDF": (b"%PDF-",),
    "SVG": (b"<svg",),
    "QOI": (b"qoif",),
    "DDS": (b"DDS ",),
    "PAM": (b"P7\n",),
    "PFM": (b"PF\n", b"Pf\n"),
}
FORMATS = "JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, HEIC or PNM"
# (turns by 90 degrees against the clock, then the axis of a mirror) of HEIF -> orientation of EXIF
_HEIF_TURNS: dict[tuple[int, int | None], int] = {
    (0, None): 1, (0, 0): 4, (0, 1): 2,
    (1, None): 8, (1, 0): 5, (1, 1): 7,
    (2, None): 3, (2, 0): 2, (2, 1): 4,
    (3, None): 6, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
# Orientation of EXIF, from 2 on -> what turns the image upright
_UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}

Image = NDArray[np.uint8]  # (H, W, 3)


class Header(NamedTuple):
    """What the header of an image says: pixels as they are stored, and how to turn them (EXIF, 1 to 8)."""

    width: int
    height: int
    orientation: int = 1


class _Refused(ValueError):
    """An image that is sound, and of a kind that is not read; the message names it."""


def read_image(path: str | Path) -> Image:
    """Read an image file as (H, W, 3) uint8 BGR, turned as it says itself (EXIF and the like).

    JPEG, PNG, BMP, WebP, TIFF, GIF (its first picture), PNM; AVIF where OpenCV was built with it; HEIC with
    the extra `heic`. Grey becomes three equal channels, 16 bits become 8, CMYK becomes BGR, alpha is dropped.
    Raises SourceError for a file that is missing, empty, cut off, of another format, or larger than the pixel
    limit, which EDGE_CENTERNET_MAX_IMAGE_PIXELS changes, or than 256 MB.
    """
    path = Path(path)
    try:
        data = None
        if path.is_file():
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot read the image: {error.strerror}") from None
    if data is None:
        if not path.exists():
            raise SourceError(f"{path}: no such file; expected an image")
        what = "a folder" if path.is_dir() else "not a regular file"
        raise SourceError(f"{path}: expected an image file, got {what}")
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image:
    """The same for the bytes of an image file; `name` appears in the error messages."""
    if not data:
        raise SourceError(f"{name}: expected an image, got an empty file (0 bytes)")
    if len(data) > MAX_BYTES:
        raise SourceError(f"{name}: expected an image of at most {MAX_BYTES >> 20} MB, got a larger file")
    header = check_header(data, name)
    kind = image_format(data)
    if kind == "HEIC":
        return _decode_heic(data, header, name)
    silence_opencv()
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(_without_texts(data), np.uint8), how)
    except cv2.error:
        image = None
    if image is None or image.size == 0:
        if kind in ("AVIF", "GIF"):
            raise SourceError(
                f"{name}: the image is damaged, or this OpenCV ({cv2.__version__}) was built without {kind}; "
                "install a newer one, or convert it to JPEG"
            )
        raise SourceError(f"{name}: the image is damaged and cannot be decoded")
    if header.orientation > 1:
        image = _UPRIGHT[header.orientation](image)
    return image.astype(np.uint8, copy=False)


def _decode_heic(data: bytes, header: Header, name: str) -> Image:
    try:
        import pillow_heif
    except ImportError:
        raise SourceError(
            f"{name}: a HEIC image, which needs one more package: {command_for('heic')}; or "
            f"{_WAY_OUT['HEIC']}"
        ) from None
    try:
        opened = pillow_heif.open_heif(data, convert_hdr_to_8bit=True, bgr_mode=True)
        width, height = opened.size  # of the whole grid; the header's sizes may be of its tiles
        _check_size(width, height, name)
        image: NDArray[Any] = np.asarray(opened)  # decodes all of its tiles, and turns as its boxes say
    except SourceError:
        raise
    except Exception as error:  # libheif's errors come as several classes
        raise SourceError(f"{name}: the HEIC image is damaged and cannot be decoded ({error})") from None
    if image.ndim == 2 or image.shape[2] < 3:
        image = np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=2)
    image = np.ascontiguousarray(image[..., :3])
    # EXIF counts only where no box tells how to turn it: phones write both, and mean the same.
    exif = opened.info.get("exif") or b""
    if header.orientation == 1 and (orientation := _orientation(exif)) > 1:
        image = _UPRIGHT[orientation](image)
    return image.astype(np.uint8, copy=False)


def sample_photo() -> Path:
    """The path of the photo that comes with the package: a person and a cat, 1126x512 pixels."""
    return Path(__file__).resolve().parent / "assets" / "sample.jpg"


def check_header(data: bytes, name: str) -> Header:
    """The header of an image file, before anything of it is decoded.

    Raises SourceError for a format that is not read, a file that is cut off, and more pixels than the limit.
    """
    try:
        header = _header(data, Path(name).suffix.lower())
    except _Refused as error:
        raise SourceError(f"{name}: {error}") from None
    except (struct.error, IndexError, ValueError):
        raise SourceError(f"{name}: the image is cut off or damaged; copy it again") from None
    if header is None:
        raise SourceError(f"{name}: expected a {FORMATS} image, got something else")
    _check_size(header.width, header.height, name)
    return header


def _check_size(width: int, height: int, name: str) -> None:
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


def image_format(start: bytes) -> str:
    """The image format of a file that starts with these bytes (64 are enough), read or not; "" for others."""
    for kinds in (_READ, _NOT_READ):
        for kind, magics in kinds.items():
            if start.startswith(magics):
                return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"  # by the length of its header, too: texts may begin with BM
    if re.match(rb"P[1-6]\s", start):
        return "PNM"
    if start[4:8] == b"ftyp":  # HEIF: a box with the major brand, its version, and the compatible ones
        end = min(int.from_bytes(start[:4], "big"), len(start))
        brands = {start[8:12], *(start[at : at + 4] for at in range(16, end, 4))}
        if b"crx " in brands:
            return _RAW
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return "HEIC"
    return ""


def _header(data: bytes, suffix: str) -> Header | None:
    """The header, or None for an unknown format; suffix: of the file's name.

    Raises ValueError, IndexError or struct.error for a file that is cut off or damaged, _Refused for one of a
    kind that is not read.
    """
    kind = image_format(data[:4096])
    if kind in _NOT_READ or (kind == "TIFF" and suffix in _RAW_SUFFIXES):
        raise _refused(kind if kind in _NOT_READ else _RAW)
    if kind == "JPEG":
        return _jpeg_whole(data)
    if kind == "PNG":
        return _png_header(io.BytesIO(data), whole=True)
    if kind == "BMP":
        if data[14] == 12:  # OS/2
            return Header(*struct.unpack_from("<HH", data, 18))
        width, height = struct.unpack_from("<ii", data, 18)
        return Header(abs(width), abs(height))  # a negative height means rows from top to bottom
    if kind == "WebP":
        return _webp_header(data)
    if kind == "TIFF":
        return _tiff_header(data)
    if kind == "GIF":
        return Header(*struct.unpack_from("<HH", data, 6))
    if kind == "PNM":
        found = _PNM.match(data[:4096])
        if found is None:
            raise ValueError("no size")
        return Header(int(found[1]), int(found[2]))
    return _heif_header(data) if kind else None


def _refused(what: str) -> _Refused:
    way = _WAY_OUT.get(what, "convert it to JPEG or PNG")
    return _Refused(f"expected a {FORMATS} image, got {what}, which is not read; {way}")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as `read_image` will return them, turned as the image says.

    JPEG and PNG are read by their headers alone, for data sets of many images whose labels do not hold the
    sizes; others are decoded. Raises SourceError for a file that is missing or not an image.
    """
    header = None
    try:
        if path.is_file():  # not a FIFO, which would be waited for
            with path.open("rb") as file:
                magic = file.read(8)
                if magic[:2] == b"\xff\xd8":
                    header = _jpeg_header(file)
                elif magic == _PNG:
                    header = _png_header(file, whole=False)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); expected an image") from None
    except (struct.error, IndexError, ValueError):  # cut off inside the header: `read_image` reports it
        header = None
    if header is None:
        height, width, _ = read_image(path).shape
        return width, height
    turned = header.orientation >= 5  # 5 to 8 lie on their side
    return (header.height, header.width) if turned else (header.width, header.height)


# ---- the formats, each with what its header says ------------------------------------------------------


def _orientation(exif: bytes) -> int:
    """1 to 8 from a block of EXIF, which is a small TIFF file; 1 where it says nothing, or nothing sound."""
    with suppress(struct.error):
        for tag, values in _tiff_entries(exif.removeprefix(_EXIF)):
            if tag == 0x0112:
                return values[0] if values and 1 <= values[0] <= 8 else 1
    return 1


def _jpeg_header(file: BinaryIO) -> Header:
    """The header of a JPEG; the file then stands where its first scan begins. ValueError for a cut file."""
    file.seek(2)
    size: tuple[int, int] | None = None
    orientation = 0
    for _ in range(_MAX_PARTS):
        start, marker = file.read(2)  # at the end of the file there are not two: ValueError
        if start == marker == 0xFF:  # a fill byte in front of the marker
            file.seek(-1, os.SEEK_CUR)
            continue
        length = int.from_bytes(file.read(2), "big")
        # Markers below C0 and from D0 to D9 have no length, and no place here.
        if start != 0xFF or marker < 0xC0 or 0xD0 <= marker <= _END or length < 2:
            raise ValueError("no marker")
        body = file.read(length - 2)
        if marker in _FRAMES:
            if size is not None:
                raise ValueError("two sizes")
            height, width = struct.unpack_from(">xHH", body)
            size = (width, height)
        elif marker == _APP1 and body.startswith(_EXIF) and not orientation:  # the first block counts
            orientation = _orientation(body)
        elif marker == _SCAN and size is not None:
            return Header(*size, orientation or 1)
    raise ValueError("no scan")


def _jpeg_whole(data: bytes) -> Header:
    """The header of a JPEG that is not cut off, and does not take longer to decode than its size allows."""
    file = io.BytesIO(data)
    header = _jpeg_header(file)
    at, scans = file.tell(), 1
    for _ in range(_MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None:
            raise ValueError("no end")
        marker = data[found.start() + 1]
        if marker == _END:
            return header
        scans += marker == _SCAN
        if scans * header.width * header.height > _MAX_SCANNED:
            raise _Refused(
                f"expected a progressive JPEG of at most {_MAX_SCANNED // (header.width * header.height)} "
                f"scans at {header.width}x{header.height} pixels, got more; save it again"
            )
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        if marker < 0xC0 or length < 2:
            raise ValueError("no marker")
        at = found.end() + length
    raise ValueError("no end")


def _png_header(file: BinaryIO, whole: bool) -> Header:
    """The header of a PNG, whose EXIF may stand behind the pixels.

    whole: compare all checksums, which finds a cut or damaged file without decoding.
    """
    file.seek(len(_PNG))
    size: tuple[int, int] | None = None
    orientation = 0
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if length > MAX_BYTES or (kind == b"IHDR") != (size is None):
            raise ValueError("IHDR is not the first and the only one")
        if not whole and kind not in (b"IHDR", b"eXIf"):
            file.seek(length + 4, os.SEEK_CUR)
        else:
            body = file.read(length)
            if zlib.crc32(body, zlib.crc32(kind)) != struct.unpack(">I", file.read(4))[0]:
                raise ValueError("checksum")
            if kind == b"IHDR":
                size = struct.unpack_from(">II", body)
            elif kind == b"eXIf" and not orientation:
                orientation = _orientation(body)
        if kind == b"IEND" and size is not None:
            return Header(*size, orientation or 1)
    raise ValueError("no end")


def _without_texts(data: bytes) -> bytes:
    """A sound PNG without its compressed texts, of which libpng unpacks 8 MB each; others as they are."""
    if not data.startswith(_PNG) or (b"zTXt" not in data and b"iTXt" not in data):
        return data
    kept, start, at, kind = [], 0, len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in (b"zTXt", b"iTXt"):
            kept.append(data[start:at])
            start = end
        at = end
    return b"".join([*kept, data[start:]])


def _webp_header(data: bytes) -> Header:
    end = struct.unpack_from("<I", data, 4)[0] + 8
    if end > len(data):
        raise ValueError("cut")
    kind = data[12:16]  # extended, lossless, else lossy: three headers that store the size in three ways
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if kind != b"VP8X":
        raise ValueError("no size")
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    at = 12
    for _ in range(_MAX_PARTS):
        if at + 8 > end:
            return Header(width, height)
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            return Header(width, height, _orientation(data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    raise ValueError("no end")


def _tiff_header(data: bytes) -> Header:
    """Without its orientation, which OpenCV applies whatever it is told."""
    known = (254, 256, 257, 258, 277, 322, 323, 339, 50706)
    entries = [entry for entry in _tiff_entries(data) if entry[0] in known]
    tags = dict(entries)
    if len(tags) != len(entries):
        raise ValueError("a tag twice")
    # 254: bit 0 says that this is a smaller copy of another picture; 50706: DNGVersion; CR: Canon's CR2
    if 50706 in tags or data[8:10] == b"CR" or (254 in tags and tags[254][0] & 1):
        raise _refused(_RAW)
    bits, form = tags.get(258, (1,)), tags.get(339, (1,))
    if not {1, 4}.issuperset(form) or not {1, 2, 4, 8, 16}.issuperset(bits) or tags.get(277, (1,))[0] > 8:
        sample = "floating-point" if 3 in form else "signed" if 2 in form else f"{max(bits)}-bit"
        raise _refused(f"TIFF of {tags.get(277, (1,))[0]} channels with {sample} samples")
    if tags.get(322, (1,))[0] * tags.get(323, (1,))[0] > _MAX_TILE:
        raise ValueError("a huge tile")
    (width,), (height,) = tags.get(256, ()), tags.get(257, ())
    return Header(width, height)


def _tiff_entries(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(tag, its first values, four at most) of the first directory of a TIFF file or of a block of EXIF.

    No values for types other than BYTE, SHORT and LONG.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    if not order:
        return
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, length, place = struct.unpack_from(order + "HHII", data, entry)
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        values: tuple[int, ...] = ()
        if code is not None:
            inside = length * struct.calcsize(code) <= 4  # then in the entry itself
            with suppress(struct.error):
                values = struct.unpack_from(
                    f"{order}{min(length, 4)}{code}", data, entry + 8 if inside else place
                )
        yield tag, values


def _heif_header(data: bytes) -> Header:
    """The largest of the sizes in an AVIF or HEIC file, and how its main picture is turned."""
    # All of the outer boxes are gone through, which finds a cut file.
    ((begin, end),) = [(at, end) for kind, at, end in _boxes(data, 0, len(data)) if kind == b"meta"]
    main, properties, used = 0, list[tuple[bytes, int]](), dict[int, list[int]]()
    for kind, start, stop in _boxes(data, begin + 4, end):
        if kind == b"pitm":
            main = int.from_bytes(data[start + 4 : start + (8 if data[start] else 6)], "big")
        for inner, first, last in _boxes(data, start, stop) if kind == b"iprp" else ():
            if inner == b"ipco":
                properties = [(name, at) for name, at, _ in _boxes(data, first, last)]
            elif inner == b"ipma":
                used |= _heif_properties(data[first:last])
    sizes = [struct.unpack_from(">II", data, at + 4) for name, at in properties if name == b"ispe"]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    turns, mirror = 0, None
    for index in used.get(main, ()):
        name, at = properties[index - 1]
        if name == b"irot":
            turns = data[at] & 3
        elif name == b"imir":
            mirror = data[at] & 1
    return Header(width, height, _HEIF_TURNS[turns, mirror])


def _heif_properties(data: bytes) -> dict[int, list[int]]:
    """Item -> numbers of its properties, from 1 on, out of the content of an `ipma` box."""
    wide, long = data[0] > 0, data[3] & 1
    (count,) = struct.unpack_from(">I", data, 4)
    at, found = 8, dict[int, list[int]]()
    for _ in range(min(count, _MAX_PARTS)):
        (item,) = struct.unpack_from(">I" if wide else ">H", data, at)
        at += 5 if wide else 3
        numbers = struct.unpack_from(f">{data[at - 1]}{'H' if long else 'B'}", data, at)
        at += len(numbers) * (2 if long else 1)
        # The highest bit says that a reader must know the property; number 0 stands for none.
        found[item] = [number for n in numbers if (number := n & (0x7FFF if long else 0x7F))]
    return found


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of the boxes from `at` to `end`."""
    for _ in range(_MAX_BOXES):
        if at >= end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            (length,), start = struct.unpack_from(">Q", data, start), at + 16
        length = length or end - at  # 0: up to the end
        if at + length > end or start > at + length:
            raise ValueError("cut")
        yield kind, start, at + length
        at += length
    raise ValueError("too many boxes")

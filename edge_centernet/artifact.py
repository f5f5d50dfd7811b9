"""The manifest inside a model file, and the hash of the rest of it.

Each format has a place for it that engines ignore: `metadata_props` in ONNX, `rt_info` in OpenVINO's XML, and
a ZIP entry behind the flatbuffer in TFLite. All three are read with the standard library alone, so that no
engine is needed to learn what a file is. A file may come from anywhere: whatever it says of itself, reading
it takes seconds, and memory of some times its length.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from edge_centernet.errors import ArtifactError, ManifestError
from edge_centernet.manifest import KEY, Manifest

# The kinds of file that carry a manifest; a test compares them with those that the engines run.
SUFFIXES = (".onnx", ".xml", ".tflite")
_MANIFEST_IN_XML = re.compile(rb'<%s value="[^"]*"' % KEY.encode())
_MAX_BYTES = 1 << 29  # of a file; the largest networks for boards have a tenth of it
_MAX_XML = 1 << 23  # bytes; each can become a hundred in memory
_MAX_ENTRY = (
    1 << 22
)  # bytes of a manifest or another entry behind a flatbuffer; the largest have some 100,000
_MAX_ENTRIES, _MAX_DIRECTORY = 64, 1 << 16  # entries of that archive, and bytes of its list of them
_MAX_FIELDS = 1 << 17  # of one message of protobuf; large graphs have some thousand nodes
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError)
_METADATA_PROPS = 14  # field number in ONNX's ModelProto; its entries hold key = 1, value = 2
_REGENERATE = "copy it again, or make it with 'edge-centernet convert'"


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a .onnx, .xml or .tflite file.

    Raises ArtifactError when the file is missing, cut off, of another kind or without a manifest, and
    ManifestError when the manifest itself says something impossible.
    """
    path = Path(path)
    check_exists(path)
    text = {".onnx": _from_onnx, ".xml": _from_xml, ".tflite": _from_tflite}[path.suffix.lower()](path)
    if text is None:
        raise ArtifactError(f"{path}: holds no edge-centernet manifest: not a model of ours; {_REGENERATE}")
    # The manifest does not know the file that it stands in: the path is put in front of its message.
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def check_exists(path: Path) -> None:
    """ArtifactError unless `path` is a non-empty file of a known suffix, and a .xml has its .bin."""
    if path.suffix.lower() not in SUFFIXES:
        raise ArtifactError(
            f"{path}: expected a model file ending in {', '.join(SUFFIXES)}, got {path.suffix!r}"
        )
    for part in files_of(path):
        if not part.is_file():
            got = "a folder" if part.is_dir() else "no such file"
            raise ArtifactError(f"{part}: {got}; expected a model file")
        size, most = part.stat().st_size, _MAX_XML if part.suffix.lower() == ".xml" else _MAX_BYTES
        if size == 0:
            raise ArtifactError(f"{part}: expected a model file, got an empty one (0 bytes); {_REGENERATE}")
        if size > most:
            raise ArtifactError(f"{part}: expected a model file of at most {most >> 20} MB, got a larger one")


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that make up one artifact: OpenVINO keeps the weights of model.xml in model.bin."""
    return (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,)


def content_sha256(path: Path, manifest: Manifest) -> str:
    """Hexadecimal SHA-256 of all that a model file holds but this number, which its manifest carries.

    Raises ArtifactError for a file whose parts cannot be told apart.
    """
    # 1. The file without its manifest.
    data, digest = path.read_bytes(), hashlib.sha256()
    parts = {".onnx": _onnx_parts, ".xml": _xml_parts, ".tflite": _tflite_parts}[path.suffix.lower()]
    for part in parts(path, data):
        digest.update(part)
    # 2. The manifest without its hash, in the canonical form of `to_json`.
    digest.update(replace(manifest, content_sha256="").to_json().encode())
    return digest.hexdigest()


def check_content(path: Path, manifest: Manifest) -> None:
    """ArtifactError where a file is not, to the bit, what was written with its manifest."""
    if manifest.content_sha256 and content_sha256(path, manifest) != manifest.content_sha256:
        raise damaged(path, "its content is not what its manifest was written for")


def _onnx_parts(path: Path, data: bytes) -> Iterator[bytes]:
    try:
        places = [place for number, _, place in _fields(memoryview(data)) if number == _METADATA_PROPS]
    except (ValueError, IndexError) as error:
        raise damaged(path, f"ONNX: {error}") from None
    at = 0
    for place in places:
        yield data[at : place.start]
        at = place.stop
    yield data[at:]


def _xml_parts(path: Path, data: bytes) -> Iterator[bytes]:
    yield from _MANIFEST_IN_XML.split(data)
    yield path.with_suffix(".bin").read_bytes()


def _tflite_parts(path: Path, data: bytes) -> Iterator[bytes]:
    # The order of the ZIP entries counts, their compression and times do not: only the flatbuffer in front of
    # them is hashed byte by byte.
    try:
        with _archive(path) as archive:
            yield data[: min(entry.header_offset for entry in archive.infolist())]
            for entry in archive.infolist():
                if entry.filename != f"{KEY}.json":
                    yield entry.filename.encode()
                    yield _unpacked(archive, entry)
    except _ZIP_ERRORS as error:
        raise damaged(path, f"ZIP: {error}") from None


def stopped(path: Path, engine: str, error: Exception) -> ArtifactError:
    """The error for a file that an engine opened and then could not run."""
    why = str(error).strip().splitlines() or [type(error).__name__]
    return ArtifactError(f"{path}: {engine} opened it but stopped while it ran ({why[0]}); {_REGENERATE}")


def damaged(path: Path, why: str) -> ArtifactError:
    """The error for a file that starts like a model and does not end like one."""
    return ArtifactError(f"{path}: the model file is cut off or damaged ({why}); {_REGENERATE}")


def _from_onnx(path: Path) -> str | None:
    try:
        for number, value, _ in _fields(memoryview(path.read_bytes())):
            if number == _METADATA_PROPS:
                entry = {field: bytes(text) for field, text, _ in _fields(value, most=8)}
                if entry[1] == KEY.encode():
                    return entry[2].decode()
        return None
    except (ValueError, IndexError, KeyError) as error:
        raise damaged(path, f"ONNX: {error}") from None


def _from_xml(path: Path) -> str | None:
    try:
        data = path.read_bytes()
        # OpenVINO writes none; entities in it can become gigabytes. UTF-16, which has zeros, would hide it.
        if b"<!DOCTYPE" in data or b"\0" in data:
            raise ValueError("a document type")
        root = ElementTree.fromstring(data)
        ends = [
            int(data.get("offset", 0)) + int(data.get("size", 0))
            for data in root.iter("data")
            if data.get("size")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise damaged(path, f"XML: {error}") from None
    # A .bin that was cut off is found by what the .xml takes from it: an engine that maps the file into
    # memory need not notice.
    weights = path.with_suffix(".bin")
    missing = max(ends, default=0) - weights.stat().st_size
    if missing > 0:
        raise damaged(weights, f"{missing} bytes are missing")
    entry = root.find(f"rt_info/{KEY}")
    return None if entry is None else entry.get("value")


def _from_tflite(path: Path) -> str | None:
    with path.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            raise ArtifactError(f"{path}: expected a TFLite model, got something else; {_REGENERATE}")
    try:
        with _archive(path) as archive:
            return _unpacked(archive, archive.getinfo(f"{KEY}.json")).decode()
    except KeyError:
        return None
    except _ZIP_ERRORS:
        raise ArtifactError(
            f"{path}: holds no edge-centernet manifest at its end: cut off, or not a model of ours; "
            f"{_REGENERATE}"
        ) from None


def _archive(path: Path) -> zipfile.ZipFile:
    """The ZIP archive behind a flatbuffer; ValueError for one with too long a list of entries."""
    # `zipfile` reads all of the list first. Its length stands in a record at the end, which is looked for as
    # there: without a comment behind it, else in the last 64 kB. A second record, for archives beyond 4 GB,
    # would count in place of that one.
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 20 + 22 + (1 << 16)), 2)
        tail = file.read()
    at = len(tail) - 22
    if tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6")
    if (
        int.from_bytes(tail[at + 12 : at + 16], "little") > _MAX_DIRECTORY
        or tail[at - 20 : at - 16] == b"PK\6\7"
    ):
        raise ValueError("too many entries")
    archive = zipfile.ZipFile(path)
    if len(archive.infolist()) > _MAX_ENTRIES:
        archive.close()
        raise ValueError("too many entries")
    return archive


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """An entry's content; ValueError for one that is larger than any of ours, whatever its header says."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a limit
        raise ValueError("an unknown compression")
    with archive.open(entry) as file:
        content = file.read(_MAX_ENTRY + 1)
    if len(content) > _MAX_ENTRY:
        raise ValueError(f"{entry.filename} unpacks to more than {_MAX_ENTRY >> 20} MB")
    return content


# ---- protobuf, which ONNX files are made of ----------------------------------------------------------
# Read by hand: a board that runs the TFLite file has neither `onnx` nor `protobuf`, and neither of them can
# tell where in the file a field lies, which the hash needs.

Field = tuple[int, "int | memoryview", slice]


def protobuf_fields(data: memoryview, most: int = _MAX_FIELDS) -> list[Field]:
    """The fields of one message, in the order of the file: (field number, value, where with its tag).

    The value is an int for a varint, else the bytes: text, a message of its own, packed numbers, or the 4 or
    8 bytes of a number. Raises ValueError or IndexError for a message that is cut off or is none, or has more
    than `most` fields.
    """
    found: list[Field] = []
    at = 0
    while at < len(data):
        start = at
        if len(found) == most:
            raise ValueError(f"more than {most} fields in a message")
        tag, at = _varint(data, at)
        wire = tag & 7  # 0: varint, 1: 8 bytes, 2: a length and so many bytes, 5: 4 bytes
        value: int | memoryview
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            length, at = _varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            value = data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError(f"{at - len(data)} bytes are missing")
        found.append((tag >> 3, value, slice(start, at)))
    return found


def protobuf_messages(data: memoryview, number: int) -> list[memoryview]:
    """The values of one repeated field that holds bytes, text or messages."""
    return [value for found, value, _ in _fields(data) if found == number]


def _fields(data: memoryview, most: int = _MAX_FIELDS) -> list[tuple[int, memoryview, slice]]:
    """As `protobuf_fields`, without the numbers."""
    found = protobuf_fields(data, most)
    return [(number, value, place) for number, value, place in found if isinstance(value, memoryview)]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(number, where it ends) of a varint that begins at `at`: seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):  # 64 bits
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")

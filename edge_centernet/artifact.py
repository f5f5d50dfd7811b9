"""The manifest inside a model file, read with the standard library only: no engine is needed to know what a file is.

Where it sits: ONNX `metadata_props`, OpenVINO `rt_info`, TFLite a ZIP entry appended to the flatbuffer.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from edge_centernet.errors import ArtifactError, ManifestError
from edge_centernet.manifest import KEY, Manifest
from edge_centernet.protobuf import fields

# The kinds of file that carry a manifest; a test holds them equal to those that the engines run.
SUFFIXES = (".onnx", ".xml", ".tflite")
_MANIFEST_IN_XML = re.compile(rb'<%s value="[^"]*"' % KEY.encode())
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
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def check_exists(path: Path) -> None:
    """ArtifactError unless `path` is a non-empty file with a suffix that we know (and a .xml has its .bin)."""
    if path.suffix.lower() not in SUFFIXES:
        raise ArtifactError(
            f"{path}: expected a model file ending in {', '.join(SUFFIXES)}, got {path.suffix!r}"
        )
    for part in files_of(path):
        if not part.is_file():
            raise ArtifactError(
                f"{part}: expected a model file, got {'a folder' if part.is_dir() else 'no such file'}"
            )
        if part.stat().st_size == 0:
            raise ArtifactError(f"{part}: expected a model file, got an empty one (0 bytes); {_REGENERATE}")


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that make up one artifact: OpenVINO keeps the weights of model.xml in model.bin."""
    return (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,)


def content_sha256(path: Path, manifest: Manifest) -> str:
    """Hexadecimal SHA-256 of all that a model file holds but this number, which its manifest carries.

    Raises ArtifactError for a file whose parts cannot be told apart.
    """
    data, digest = path.read_bytes(), hashlib.sha256()
    for part in {".onnx": _onnx_parts, ".xml": _xml_parts, ".tflite": _tflite_parts}[path.suffix.lower()](
        path, data
    ):
        digest.update(part)
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
    try:
        with zipfile.ZipFile(path) as archive:
            yield data[: min(entry.header_offset for entry in archive.infolist())]
            for entry in archive.infolist():
                if entry.filename != f"{KEY}.json":
                    yield entry.filename.encode()
                    yield archive.read(entry)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
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
                entry = {field: bytes(text) for field, text, _ in _fields(value)}
                if entry[1] == KEY.encode():
                    return entry[2].decode()
        return None
    except (ValueError, IndexError, KeyError) as error:
        raise damaged(path, f"ONNX: {error}") from None


def _fields(data: memoryview) -> list[tuple[int, memoryview, slice]]:
    """As protobuf.fields, without the numbers."""
    return [(number, value, place) for number, value, place in fields(data) if isinstance(value, memoryview)]


def _from_xml(path: Path) -> str | None:
    try:
        root = ElementTree.parse(path).getroot()
        ends = [
            int(data.get("offset", 0)) + int(data.get("size", 0))
            for data in root.iter("data")
            if data.get("size")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise damaged(path, f"XML: {error}") from None
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
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{KEY}.json").decode()
    except KeyError:
        return None
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise ArtifactError(
            f"{path}: holds no edge-centernet manifest at its end: cut off, or not a model of ours; {_REGENERATE}"
        ) from None

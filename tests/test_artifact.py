"""Manifests read from files, without an engine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import squares
from support import ENGINES, copy_artifact

from edge_centernet.artifact import files_of, read_manifest
from edge_centernet.errors import ArtifactError, EdgeCenterNetError, ManifestError
from edge_centernet.files import sha256
from edge_centernet.manifest import Manifest
from edge_centernet.model_zoo import find_model

Artifacts = dict[tuple[str, str], Path]
every = pytest.mark.parametrize("engine", ENGINES)


@every
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_reads_what_the_converter_wrote(artifacts: Artifacts, engine: str, precision: str) -> None:
    """The same model comes out of all three formats, with the tensors of each."""
    manifest = read_manifest(artifacts[engine, precision])
    assert manifest.model == squares.manifest(True).model
    assert manifest.precision == precision
    assert manifest.input.layout == ("NHWC" if engine == "tflite" else "NCHW")


def test_needs_the_standard_library_only() -> None:
    """A rescue system with nothing but Python can still read a manifest."""
    code = (
        "import sys; before = set(sys.modules); "
        "import edge_centernet.artifact; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(squares.python("-c", code), capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert not roots & {
        "numpy",
        "cv2",
        "onnx",
        "openvino",
        "onnxruntime",
        "ai_edge_litert",
        "flatbuffers",
        "click",
    }


@every
def test_any_cut_is_an_error(artifacts: Artifacts, engine: str, tmp_path: Path) -> None:
    """A file that ends early anywhere raises ArtifactError naming it."""
    path = copy_artifact(artifacts[engine, "int8"], tmp_path)
    data = path.read_bytes().rstrip(b"\n")  # a .xml without its last newline is whole
    for end in [*range(0, len(data), max(1, len(data) // 97)), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(ArtifactError, match=path.name):
            read_manifest(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
def test_other_files_are_errors(suffix: str, tmp_path: Path) -> None:
    """Text, zeros and random bytes under a model's name."""
    path = tmp_path / f"a{suffix}"
    path.with_suffix(".bin").write_bytes(b"x")
    for content in (b"hello\n", bytes(500), bytes(range(256)) * 4, b"\xff" * 300):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=path.name):
            read_manifest(path)


def tflite_with(path: Path, artifacts: Artifacts, compression: int, fill: bytes, count: int = 1) -> Path:
    """The squares network, with so many bytes of filling, packed, in front of the manifest's text."""
    data = artifacts["tflite", "int8"].read_bytes()
    with zipfile.ZipFile(artifacts["tflite", "int8"]) as archive:
        manifest = archive.read("edge_centernet.json")
        path.write_bytes(data[: archive.infolist()[0].header_offset])
    with zipfile.ZipFile(path, "a", compression) as archive:
        for number in range(count - 1):
            archive.writestr(f"{number}", b"")
        archive.writestr("edge_centernet.json", fill + manifest)
    return path


@pytest.mark.parametrize(
    ("compression", "honest"),
    [
        (zipfile.ZIP_DEFLATED, True),
        (zipfile.ZIP_DEFLATED, False),
        (zipfile.ZIP_BZIP2, False),
        (zipfile.ZIP_LZMA, False),
    ],
)
def test_a_manifest_that_unpacks_to_gigabytes_is_refused(
    artifacts: Artifacts, tmp_path: Path, compression: int, honest: bool
) -> None:
    """After some megabytes, whatever its header says of its length."""
    size = 20_000_000
    path = tflite_with(tmp_path / "a.tflite", artifacts, compression, b" " * size)
    data = bytearray(path.read_bytes())
    if not honest:  # the length in the list at the end, which counts
        at = data.rfind(b"PK\1\2") + 24
        data[at : at + 4] = (1000).to_bytes(4, "little")
        path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=r"a\.tflite"):
        read_manifest(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size


def test_an_archive_of_thousands_of_entries_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    """By the length of its list, before that is read; 64 are too many as well."""
    for count in (65, 2000):
        path = tflite_with(tmp_path / "a.tflite", artifacts, zipfile.ZIP_STORED, b"", count)
        with pytest.raises(ArtifactError, match=r"a\.tflite"):
            read_manifest(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff" * 300_000, "a number of more than 64 bits"),
        (b"\x08\x01" * 200_000, "more than 131072 fields"),
        (b"\x72\x20" + b"\x08\x01" * 16, "more than 8 fields"),
    ],
)
def test_protobuf_that_would_take_minutes_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """Numbers without an end, and more fields than any network has."""
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=f"a.onnx.*{says}"):
        read_manifest(tmp_path / "a.onnx")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_xml_file_with_a_document_type_is_refused(tmp_path: Path, encoding: str) -> None:
    """Its entities can become gigabytes; OpenVINO writes none."""
    text = '<?xml version="1.0" encoding="@"?><!DOCTYPE net [<!ENTITY a "b">]><net>&a;</net>'
    (tmp_path / "a.xml").write_bytes(text.replace("@", encoding).encode(encoding))
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"a\.xml.*a document type"):
        read_manifest(tmp_path / "a.xml")


@pytest.mark.parametrize(("name", "says"), [("a.onnx", "512 MB"), ("a.tflite", "512 MB"), ("a.xml", "8 MB")])
def test_a_file_beyond_any_network_is_refused_unread(tmp_path: Path, name: str, says: str) -> None:
    """By its length."""
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / name).write_bytes(b"x")
    os.truncate(tmp_path / name, 1 << 40)
    with pytest.raises(ArtifactError, match=f"{name}: expected a model file of at most {says}"):
        read_manifest(tmp_path / name)


def test_a_manifest_of_brackets_is_one_line(artifacts: Artifacts, tmp_path: Path) -> None:
    """Nested deeper than Python's parser goes."""
    path = tflite_with(tmp_path / "a.tflite", artifacts, zipfile.ZIP_DEFLATED, b"[" * 200_000)
    with pytest.raises(ManifestError, match="expected a JSON object"):
        read_manifest(path)


@pytest.mark.parametrize("side", [4128, 1 << 25])
def test_an_input_beyond_any_memory_is_refused(side: int) -> None:
    """The largest side is 4096 pixels."""
    with pytest.raises(ManifestError, match=f"a multiple of 32 pixels up to 4096, got {side}"):
        replace(squares.manifest(True).model, height=side)


def test_an_unknown_suffix_is_an_error(tmp_path: Path) -> None:
    """The suffixes that are known are listed."""
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"ending in \.onnx, \.xml, \.tflite, got '\.pt'"):
        read_manifest(tmp_path / "a.pt")


def test_a_manifest_of_the_future_is_an_error(artifacts: Artifacts, tmp_path: Path) -> None:
    """The message names the file and says which release to install."""
    path = tmp_path / "a.onnx"
    path.write_bytes(artifacts["onnxruntime", "int8"].read_bytes().replace(b'"schema": 1', b'"schema": 9'))
    with pytest.raises(ManifestError, match=r"a\.onnx: manifest schema: expected 1, got 9"):
        read_manifest(path)


def test_sha256(artifacts: Artifacts) -> None:
    """As hashlib says."""
    path = artifacts["openvino", "int8"]
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.suffix for p in files_of(path)] == [".xml", ".bin"]


def test_find_model_takes_paths_as_they_are(onnx_model: Path) -> None:
    """A file is itself, whatever suffix is asked for."""
    assert find_model(onnx_model) == onnx_model
    assert find_model(str(onnx_model), ".xml") == onnx_model


@pytest.mark.parametrize("name", ["nosuchmodel", "no/such/file.onnx", "missing.tflite", "."])
def test_find_model_refuses_what_is_not_there(name: str) -> None:
    """A name and a path each get their own message."""
    with pytest.raises(EdgeCenterNetError, match=r"no such file|a folder"):
        find_model(name)


def test_scores_of_each_class_are_in_the_manifest_or_left_out() -> None:
    """Empty ones are not written, so that releases which do not know them read the rest; others come back."""
    plain = squares.manifest(True)
    assert not {"class_thresholds", "score_scale", "score_shift"} & set(json.loads(plain.to_json())["model"])
    model = replace(
        plain.model, class_thresholds=(0.1, 0.2, 0.3), score_scale=(1.0, 2.0, 3.0), score_shift=(0.0,) * 3
    )
    own = replace(plain, model=model)
    assert Manifest.from_json(own.to_json()) == own
    assert (plain.model.suggested, model.suggested) == (0.3, (0.1, 0.2, 0.3))
    narrow = model.narrowed([2, 0])
    assert (narrow.classes, narrow.class_thresholds, narrow.score_scale) == (
        (model.classes[2], model.classes[0]), (0.3, 0.1), (3.0, 1.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"threshold": 1.5}, "expected 0..1, got 1.5"),
        ({"class_thresholds": (0.5,)}, "class_thresholds: expected none or one for each of 3 classes, got 1"),
        ({"class_thresholds": (0.5, -0.1, 0.5)}, "expected 0..1"),
        ({"score_scale": (1.0,) * 3}, "as many finite numbers"),
        ({"score_scale": (1.0, 0.0, 1.0), "score_shift": (0.0,) * 3}, "expected numbers above 0"),
        ({"score_scale": (1.0,) * 3, "score_shift": (0.0, float("nan"), 0.0)}, "finite"),
    ],
)
def test_scores_that_cannot_be_are_refused(fields: dict[str, Any], says: str) -> None:
    """A threshold outside 0..1, another number of classes, a scale that would turn the order around."""
    with pytest.raises(ManifestError, match=says):
        replace(squares.manifest(True).model, **fields)

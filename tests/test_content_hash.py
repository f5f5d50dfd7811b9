"""One changed bit anywhere in a model file, its manifest included, is found before an engine sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the convert extra")
pytest.importorskip("openvino", reason="needs the openvino extra")
pytest.importorskip("ai_edge_litert", reason="needs the tflite extra")

from edge_centernet.artifact import check_content, files_of, read_manifest
from edge_centernet.converters import convert
from edge_centernet.errors import ArtifactError, EdgeCenterNetError, ManifestError
from edge_centernet.model_zoo import find_model
from edge_centernet.runtimes import open_runtime

NAME = "centernet-nano-256"
FILES = (f"{NAME}.xml", f"{NAME}.tflite", f"{NAME}.onnx", f"{NAME}-tensorrt.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano model in every format."""
    out = tmp_path_factory.mktemp("hash")
    convert(find_model(NAME, ".onnx"), ["openvino", "tflite", "onnx", "tensorrt"], "int8", out)
    return out


@pytest.mark.parametrize("name", FILES)
def test_a_fresh_file_has_its_hash_and_opens(made: Path, name: str) -> None:
    """64 hexadecimal digits, and they fit."""
    manifest = read_manifest(made / name)
    check_content(made / name, manifest)

    assert len(manifest.content_sha256) == 64
    open_runtime(made / name, threads=1).close()


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused_or_changes_nothing(made: Path, tmp_path: Path, name: str) -> None:
    """50 places of each file: refused with a clear line, or (a ZIP's dates) read as exactly the same."""
    seed = np.random.default_rng(1)
    path = Path(shutil.copytree(made, tmp_path / "models")) / name
    before, refused = read_manifest(path), 0
    for _ in range(50):
        part = files_of(path)[seed.integers(len(files_of(path)))]
        whole = part.read_bytes()
        data = bytearray(whole)
        data[seed.integers(len(data))] ^= 1 << int(seed.integers(8))
        part.write_bytes(data)
        try:
            manifest = read_manifest(path)
            check_content(path, manifest)
            assert manifest == before
        except (ArtifactError, ManifestError):
            refused += 1
        part.write_bytes(whole)

    assert refused >= 47


@pytest.mark.parametrize(("old", "new"), [(b"potted plant", b"potted planT"), (b"letterbox", b"letterb0x")])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_manifest_is_refused(made: Path, tmp_path: Path, name: str, old: bytes, new: bytes) -> None:
    """A class by another name, another way to resize: the file does not open."""
    path = Path(shutil.copytree(made, tmp_path / "models")) / name
    path.write_bytes(path.read_bytes().replace(old, new))

    with pytest.raises(EdgeCenterNetError):
        open_runtime(path, threads=1)

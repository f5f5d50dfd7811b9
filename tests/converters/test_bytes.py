"""The same network gives the same bytes, today and tomorrow."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the convert extra")
pytest.importorskip("openvino", reason="needs the openvino extra")

from edge_centernet.artifact import read_manifest
from edge_centernet.converters import convert
from edge_centernet.model_zoo import find_model

NANO = find_model("centernet-nano-256", ".onnx")


@pytest.mark.slow
def test_two_runs_are_identical(tmp_path: Path) -> None:
    """Every file of every target, manifest, self-check and seal included."""
    digests = []
    for name in "ab":
        command = [
            sys.executable,
            "-m",
            "edge_centernet",
            "convert",
            str(NANO),
            "--out",
            str(tmp_path / name),
        ]
        subprocess.run(command, check=True, capture_output=True)
        digests.append(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / name).iterdir()}
        )

    assert len(digests[0]) == 5
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_the_weights_of_the_shipped_model_come_out_as_ever(tmp_path: Path) -> None:
    """What the writers make of the shipped nano model is known by its hash; a change of theirs must be meant.

    Of the TFLite file the part in front of the manifest, of OpenVINO's the weights: the rest names package
    versions.
    """
    tflite, openvino = (
        convert(NANO, [target], "int8", tmp_path)[0].path for target in ("tflite", "openvino")
    )
    flatbuffer = tflite.read_bytes().split(b"PK\x03\x04")[0]

    assert hashlib.sha256(flatbuffer).hexdigest()[:16] == "dbf8a2e7392b72cb"
    assert hashlib.sha256(openvino.with_suffix(".bin").read_bytes()).hexdigest()[:16] == "9063aac144dcced6"
    assert read_manifest(tflite).model.version == "2"

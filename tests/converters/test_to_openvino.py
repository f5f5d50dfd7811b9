"""The OpenVINO IR: really int8, and the same integers on every processor."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import file_precision
import pytest
import qdq_factory

from edge_centernet import qdq
from edge_centernet.artifact import read_manifest
from edge_centernet.converters import to_openvino
from edge_centernet.errors import ConversionError


@pytest.fixture(scope="module")
def int8_file(network: qdq.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`network` as int8."""
    path = tmp_path_factory.mktemp("openvino") / "int8.xml"
    to_openvino.convert(network, "int8")(path, False)
    return path


def test_every_convolution_runs_in_int8(network: qdq.Network, int8_file: Path) -> None:
    """OpenVINO executes integer kernels for all convolutions, the first and the last included."""
    kernels = file_precision.openvino_kernels(int8_file)
    assert file_precision.openvino_float_layers(int8_file) == []
    assert len(kernels) == sum(isinstance(op, qdq.Conv) for op in network.ops)


def test_the_check_finds_float_convolutions(mobilenet_file: Path, tmp_path: Path) -> None:
    """The check itself works: in the fp32 file it reports every convolution."""
    network = qdq.load(mobilenet_file)
    to_openvino.convert(network, "fp32")(tmp_path / "float.xml", False)
    found = file_precision.openvino_float_layers(tmp_path / "float.xml")
    assert len(found) == sum(isinstance(op, qdq.Conv) for op in network.ops)


def test_model_api_finds_labels_and_preprocessing(network: qdq.Network, int8_file: Path) -> None:
    """rt_info/model_info as Open Model Zoo writes it: strings; class names with spaces become one word."""
    section = ElementTree.parse(int8_file).getroot().find("rt_info/model_info")
    assert section is not None
    found = {entry.tag: entry.get("value") for entry in section}

    assert found == {
        "model_type": "CenterNet",
        "labels": " ".join(name.replace(" ", "_") for name in network.manifest.model.classes),
        "resize_type": "fit_to_window_letterbox",
        "pad_value": "128",
        "reverse_input_channels": "True",
        "confidence_threshold": "0.3",
    }


def test_a_second_conversion_writes_the_same_file(
    network: qdq.Network, int8_file: Path, tmp_path: Path
) -> None:
    """Names of nodes come from their place, not from how many graphs this process has built."""
    again = tmp_path / int8_file.name
    to_openvino.convert(network, "int8")(again, False)

    assert again.read_bytes() == int8_file.read_bytes()
    assert again.with_suffix(".bin").read_bytes() == int8_file.with_suffix(".bin").read_bytes()


def test_weights_take_a_byte_each(network: qdq.Network, int8_file: Path) -> None:
    """The .bin holds int8 weights, not their floats: about the count of weights in bytes."""
    weights = sum(op.weight.size for op in network.ops if isinstance(op, qdq.Conv))
    assert weights < int8_file.with_suffix(".bin").stat().st_size < 1.5 * weights


def test_only_this_file_s_manifest_is_inside(int8_file: Path) -> None:
    """OpenVINO copies the source's metadata unless stopped; two manifests would contradict each other."""
    text = int8_file.read_text()
    assert text.count("checkpoint_sha256") == 1
    assert ElementTree.fromstring(text).find("rt_info/edge_centernet") is not None
    assert read_manifest(int8_file).made_by["openvino"]


def test_eight_bit_weights_are_refused(tmp_path: Path) -> None:
    """Dense weights beyond 64 saturate on x86 without VNNI: refused everywhere, not only where it shows."""
    network = qdq.load(qdq_factory.write(tmp_path / "wide.onnx", weight_max=127))
    with pytest.raises(ConversionError, match=r"\[-64, 64\].*without VNNI"):
        to_openvino.convert(network, "int8")


def test_depthwise_weights_may_use_eight_bits(tmp_path: Path) -> None:
    """Depthwise kernels multiply one product at a time and cannot overflow."""
    network = qdq.load(qdq_factory.write(tmp_path / "x.onnx", weight_max=63, depthwise_max=127))
    assert to_openvino.saturating(network) == []

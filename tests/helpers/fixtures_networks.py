"""Interchange files of small networks that the tests of qdq and of the converters share, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import qdq_factory

from edge_centernet import qdq


@pytest.fixture(scope="session")
def mobilenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV2-like interchange file, 96x128, 7-bit dense weights."""
    return qdq_factory.write(tmp_path_factory.mktemp("mobilenet") / "mobilenet.onnx", weight_max=63)


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-like interchange file: symmetric padding, 7x7 stem, padded MaxPool."""
    how = {"backbone": "resnet", "scale": 0.25, "weight_max": 63}
    return qdq_factory.write(tmp_path_factory.mktemp("resnet") / "resnet.onnx", **how)


@pytest.fixture(scope="session")
def deconv_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-like interchange file with the original CenterNet's neck."""
    how = {"backbone": "resnet", "scale": 0.25, "weight_max": 63, "neck_kind": "deconv"}
    return qdq_factory.write(tmp_path_factory.mktemp("deconv") / "deconv.onnx", **how)


@pytest.fixture(scope="session", params=["mobilenet", "resnet", "deconv"])
def network_file(request: pytest.FixtureRequest) -> Path:
    """All of them, one after the other."""
    path: Path = request.getfixturevalue(f"{request.param}_file")
    return path


@pytest.fixture(scope="session")
def network(network_file: Path) -> qdq.Network:
    """The typed graph of `network_file`."""
    return qdq.load(network_file)

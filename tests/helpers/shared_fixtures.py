"""Fixtures that tests of several folders share: a broker, keys and bundles, interchange files."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import qdq_factory
from sshd import new_key

from edge_centernet import qdq
from edge_centernet.deploy.boards import Target, find_target
from edge_centernet.deploy.bundle import Contents, make_bundle
from edge_centernet.deploy.signing import signers_line

if TYPE_CHECKING:
    from broker import Mosquitto

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whoever signs the bundles."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen: apt-get install openssh-client")
    return new_key(tmp_path_factory.mktemp("key") / "id")


@pytest.fixture(scope="session")
def signers(key: Path) -> Path:
    """The file that boards pin."""
    path = key.with_name("signers")
    path.write_text(signers_line(key))
    return path


@pytest.fixture(scope="session")
def here() -> Target:
    """A target that this computer is."""
    if platform.machine() != "x86_64":
        pytest.skip(f"bundles are tested on x86_64, this is {platform.machine()}")
    return find_target("x86", PYTHON, "ai-edge-litert")


@pytest.fixture(scope="session")
def bundle(here: Target, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle with the default model."""
    return make_bundle(here, Contents("centernet-mbv2-320"), key, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def nano(here: Target, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the nano model alone."""
    contents = Contents("centernet-nano-256", only_model=True)
    return make_bundle(here, contents, key, tmp_path_factory.mktemp("nano"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Running."""
    from broker import Mosquitto  # here: it skips where the extra `live` is missing

    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


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

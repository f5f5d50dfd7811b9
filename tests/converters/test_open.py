"""Whatever a user has becomes the interchange network, or one line says what is missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import qdq_factory

torch = pytest.importorskip("torch", reason="reads checkpoints")

from edge_centernet import qdq  # noqa: E402
from edge_centernet.calibration.quantize import Options  # noqa: E402
from edge_centernet.converters import convert  # noqa: E402
from edge_centernet.converters.open import Calibration, open_network  # noqa: E402
from edge_centernet.errors import ConfigError, SourceError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import save_checkpoint  # noqa: E402
from edge_centernet.network.fake_quant import prepare_qat, set_observing, settle_weights  # noqa: E402


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for i, picture in enumerate(qdq_factory.photos(10, 64, 64)):
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network as training leaves it: float, and quantized."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    model = CenterNet(
        ModelSpec("tiny", "1", 64, 64, ("a", "b")), Architecture("mobilenet_v2", 0.25, (16, 16, 16), 16)
    )
    torch.nn.init.normal_(model.heat.conv.weight, std=0.5)
    save_checkpoint(folder / "float.safetensors", model.eval(), "float")
    prepare_qat(model)
    set_observing(model, True)
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64) * 255)
    settle_weights(model)
    save_checkpoint(folder / "qat.safetensors", model, "qat")
    return {"float": folder / "float.safetensors", "qat": folder / "qat.safetensors"}


@pytest.mark.slow
def test_a_float_checkpoint_is_quantized_on_the_users_images(
    checkpoints: dict[str, Path], photos: Path
) -> None:
    """The manifest names the images by their hash; another set of images is another hash."""
    networks = [open_network(checkpoints["float"], Calibration(photos, count)) for count in (10, 5)]
    hashes = {network.manifest.calibration_sha256 for network, _, _ in networks}

    assert len(hashes) == 2
    assert all(len(digest) == 64 for digest in hashes)
    assert [report.images for _, _, report in networks if report is not None] == [10, 5]


def test_a_quantized_checkpoint_keeps_its_scales(checkpoints: dict[str, Path]) -> None:
    """No images are needed, and none were used."""
    network, _, report = open_network(checkpoints["qat"])

    assert report is None
    assert network.manifest.calibration_sha256 == ""
    assert network.manifest.heat.quant is not None


def test_a_float_network_without_images_is_refused(checkpoints: dict[str, Path]) -> None:
    """Never four sample photos in silence: the reason, and the option to give."""
    with pytest.raises(
        ConfigError, match=r"float network; int8 needs ranges measured on .* add --calibration"
    ):
        open_network(checkpoints["float"])


def test_a_quantized_checkpoint_with_images_is_refused(checkpoints: dict[str, Path], photos: Path) -> None:
    """Its learned scales would be thrown away."""
    with pytest.raises(
        ConfigError, match=r"quantized in training and keeps those scales; leave --calibration out"
    ):
        open_network(checkpoints["qat"], Calibration(photos))


def test_a_folder_without_images_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(SourceError, match="expected a folder of images"):
        open_network(checkpoints["float"], Calibration(tmp_path))


@pytest.mark.slow
def test_a_float_onnx_of_ours_can_be_quantized_again(
    mobilenet_file: Path, photos: Path, tmp_path: Path
) -> None:
    """QDQ -> `convert --fp32` -> calibration: the same operations, other scales; likewise to symmetric."""
    pictures = qdq_factory.photos(3, 96, 128)
    fp32 = convert(mobilenet_file, ["onnx"], "fp32", tmp_path, pictures=pictures)[0].path
    with pytest.raises(ConfigError, match="add --calibration"):
        open_network(fp32)
    before = qdq.load(mobilenet_file)
    again = open_network(fp32, Calibration(photos)).network
    symmetric = open_network(mobilenet_file, Calibration(photos, options=Options(symmetric=True))).network

    assert [type(op) for op in again.ops] == [type(op) for op in before.ops]
    assert {op.y.quant.zero_point for op in again.ops} != {0}
    assert {op.y.quant.zero_point for op in symmetric.ops} == {0}


@pytest.mark.slow
def test_float_files_need_no_images(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """`convert --fp32` of a float checkpoint: what was trained, in every engine."""
    network, _, _ = open_network(checkpoints["float"], fp32=True)
    made = convert(checkpoints["float"], ["onnx", "tflite"], "fp32", tmp_path, network=network)

    assert {a.path.name for a in made} == {"float-fp32.onnx", "float-fp32.tflite"}
    assert all(not a.report.failures for a in made)

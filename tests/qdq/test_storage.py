"""The form of a QDQ network on disk: integers for ONNX Runtime, and still the network as trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edge_centernet import __version__, qdq
from edge_centernet.converters import to_onnx
from edge_centernet.errors import ConversionError
from edge_centernet.manifest import ModelSpec, Quant
from edge_centernet.model_zoo import find_model
from edge_centernet.qdq.onnx_graph import HEADS, interchange_manifest
from edge_centernet.qdq.storage import to_compute_form, to_storage_form


@pytest.fixture(scope="module")
def shipped() -> qdq.Network:
    """The smaller model of the package."""
    return qdq.load(find_model("centernet-nano-256", ".onnx"))


def convolutions(network: qdq.Network) -> list[qdq.Conv]:
    """In graph order."""
    return [op for op in network.ops if isinstance(op, qdq.Conv)]


def test_the_way_there_and_back_changes_nothing(shipped: qdq.Network) -> None:
    """Weights to the last bit, scales, zero points, heads."""
    again = qdq.parse(to_storage_form(shipped.model))

    assert again.heads == shipped.heads
    assert len(again.ops) == len(shipped.ops)
    for before, after in zip(convolutions(shipped), convolutions(again), strict=True):
        assert np.array_equal(before.weight, after.weight)
        assert np.array_equal(before.weight_scale, after.weight_scale)
        assert (before.x, before.y, before.act) == (after.x, after.y, after.act)


def test_weights_are_stored_as_bytes(shipped: qdq.Network) -> None:
    """No float initializer with four dimensions is left; about one byte for a weight, four for a bias."""
    stored = to_storage_form(shipped.model)
    weights = [i for i in stored.graph.initializer if len(i.dims) == 4]

    assert {numpy_helper.to_array(i).dtype.name for i in weights} == {"int8"}
    assert stored.ByteSize() < 1.9 * sum(op.weight.size for op in convolutions(shipped))


def test_onnx_runtime_computes_integers(shipped: qdq.Network, tmp_path: Path) -> None:
    """All convolutions but the last of each head, which stay int8 for the decoder, become QLinearConv."""
    source, optimised = tmp_path / "stored.onnx", tmp_path / "optimised.onnx"
    to_onnx.convert(shipped, "int8")(source, True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    count = Counter(node.op_type for node in onnx.load(optimised).graph.node)

    assert count["QLinearConv"] == len(convolutions(shipped)) - 3


def test_weights_off_the_grid_stay_floats(mobilenet_file: Path) -> None:
    """A network whose weights are not multiples of their scales keeps them: nothing is rounded silently."""
    network = qdq.load(mobilenet_file)
    first = convolutions(network)[0]
    model = to_compute_form(network.model)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.shape == first.weight.shape and np.array_equal(value, first.weight):
            tensor.CopyFrom(
                numpy_helper.from_array(value + 0.3 * first.weight_scale.reshape(-1, 1, 1, 1), tensor.name)
            )
    again = convolutions(qdq.parse(to_storage_form(model)))[0]

    assert not np.array_equal(again.weight, first.weight)
    assert np.allclose(
        again.weight, first.weight + 0.3 * first.weight_scale.reshape(-1, 1, 1, 1), rtol=0, atol=1e-7
    )


SPEC = ModelSpec("tiny", "1", 96, 64, ("circle", "square", "star"))
QUANTS = {"heat": Quant(0.05, 12), "size": Quant(0.1, -128), "offset": Quant(0.01, 3)}


def test_the_interchange_manifest_describes_every_tensor() -> None:
    """uint8 image in, pixel - 128 over 128; int8 heads at a quarter of its size, with the scales given."""
    manifest = interchange_manifest(SPEC, QUANTS, {"torch": "2.7"}, checkpoint_sha256="ab" * 32)

    assert (manifest.precision, manifest.model, manifest.checkpoint_sha256) == ("int8", SPEC, "ab" * 32)
    assert (manifest.input.name, manifest.input.shape) == ("image", (1, 3, SPEC.height, SPEC.width))
    assert (manifest.input.dtype, manifest.input.quant) == ("uint8", Quant(1 / 128, 128))
    rows, columns = SPEC.height // 4, SPEC.width // 4
    for role, channels in zip(HEADS, (3, 2, 2), strict=True):
        tensor = getattr(manifest, role)
        assert (tensor.name, tensor.shape) == (role, (1, channels, rows, columns))
        assert (tensor.layout, tensor.dtype, tensor.quant) == ("NCHW", "int8", QUANTS[role])
    assert manifest.made_by == {"edge-centernet": __version__, "torch": "2.7"}
    assert (manifest.verified, manifest.golden, manifest.content_sha256) == (False, None, "")


@pytest.mark.parametrize("change", [{"mean": (128.0, 128.0, 127.0)}, {"std": (58.0, 57.0, 57.0)}])
def test_another_normalisation_has_no_interchange_manifest(change: dict[str, tuple[float, ...]]) -> None:
    """Only (pixel - 128) / 128 puts every pixel on an integer."""
    fields = {**vars(SPEC), **change}
    with pytest.raises(ConversionError, match="export: expected mean and std 128, got"):
        interchange_manifest(ModelSpec(**fields), QUANTS, {})

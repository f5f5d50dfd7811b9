"""The ONNX file for TensorRT: floats in and out, no zero point but 0, and the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the convert extra")
pytest.importorskip("onnxruntime", reason="needs the onnxruntime extra")

from edge_centernet import qdq  # noqa: E402
from edge_centernet.artifact import read_manifest  # noqa: E402
from edge_centernet.converters import convert  # noqa: E402
from edge_centernet.converters.to_tensorrt import engine_command, is_symmetric, symmetric  # noqa: E402
from edge_centernet.model_zoo import find_model  # noqa: E402
from edge_centernet.qdq.onnx_graph import HEADS  # noqa: E402

SHIPPED = find_model("centernet-nano-256", ".onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The shipped nano model for TensorRT, and what was said while it was made."""
    lines: list[str] = []
    (artifact,) = convert(
        SHIPPED, ["tensorrt"], "int8", tmp_path_factory.mktemp("trt"), progress=lines.append
    )
    return artifact.path, lines


def test_every_zero_point_is_zero_and_weights_are_per_channel(made: tuple[Path, list[str]]) -> None:
    """TensorRT refuses other zero points; weights have one scale for each output channel, on axis 0."""
    graph = onnx.load(made[0]).graph
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    weights = [node for node in pairs if node.op_type == "QuantizeLinear" and node.input[0] in values]

    assert all(values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any() for node in pairs)
    assert len(weights) == sum(node.op_type == "Conv" for node in graph.node)
    for node in weights:
        assert values[node.input[1]].shape == values[node.input[0]].shape[:1]
        assert [a.i for a in node.attribute if a.name == "axis"] == [0]


def test_it_reads_normalised_floats_and_answers_in_floats(made: tuple[Path, list[str]]) -> None:
    """No integer at the ends: TensorRT binds float tensors, and the manifest says so."""
    model, manifest = onnx.load(made[0]), read_manifest(made[0])
    ends = [*model.graph.input, *model.graph.output]

    assert made[0].name == "centernet-nano-256-tensorrt.onnx"
    assert {t.type.tensor_type.elem_type for t in ends} == {onnx.TensorProto.FLOAT}
    assert (manifest.input.dtype, manifest.heat.dtype, manifest.precision) == ("float32", "float32", "int8")
    assert manifest.verified


def test_the_cost_of_wider_steps_is_reported(made: tuple[Path, list[str]]) -> None:
    """The shipped network learned zero points: what giving them up costs on the sample photos is reported."""
    (line,) = [line for line in made[1] if "zero point 0 only" in line]
    matched, found = (int(line.split("steps ")[1].split()[i]) for i in (0, 2))

    assert 0.7 * found <= matched <= found
    assert found >= 20


def test_a_symmetric_network_is_taken_as_it_is() -> None:
    """Making it symmetric again changes scales by no more than rounding up to an odd number of steps."""
    once = symmetric(qdq.load(SHIPPED))
    twice = symmetric(once)

    assert not is_symmetric(qdq.load(SHIPPED))
    assert is_symmetric(once)
    for a, b in zip(once.ops, twice.ops, strict=True):
        assert b.y.quant.scale == pytest.approx(a.y.quant.scale, rel=2.1 / 127)


def test_wider_steps_reach_as_far_as_the_learned_range_did() -> None:
    """Every symmetric tensor stores what the asymmetric one could, in steps at most twice as wide."""
    before = qdq.load(SHIPPED)
    for role in HEADS:
        old, new = before.heads[role].quant, symmetric(before).heads[role].quant
        reach = max(127 - old.zero_point, 128 + old.zero_point) * old.scale

        assert reach <= 127 * new.scale * 1.0001 <= 2.02 * 127 * old.scale


def test_the_command_builds_what_the_file_holds() -> None:
    """--int8 for a quantized network; a float one runs in float16."""
    path = Path("somewhere/net-tensorrt.onnx")

    assert engine_command(path, "int8") == (
        "trtexec --onnx=net-tensorrt.onnx --int8 --fp16 --saveEngine=net-tensorrt.engine"
    )
    assert (
        engine_command(path, "fp32")
        == "trtexec --onnx=net-tensorrt.onnx --fp16 --saveEngine=net-tensorrt.engine"
    )

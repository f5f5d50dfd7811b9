"""Reading the interchange file: what is understood, and how the rest is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edge_centernet import qdq
from edge_centernet.errors import ArtifactError, ConversionError
from edge_centernet.manifest import Quant


def changed(path: Path, out: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of a network with its graph edited."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, out)
    return out


def first(graph: onnx.GraphProto, op: str) -> onnx.NodeProto:
    """The first node of a type."""
    return next(n for n in graph.node if n.op_type == op)


def test_mobilenet_is_read_completely(mobilenet_file: Path) -> None:
    """Every float operation of the ONNX file appears once in the typed graph, activations folded in."""
    network = qdq.load(mobilenet_file)
    nodes = Counter(n.op_type for n in network.model.graph.node)
    kinds = Counter(type(op).__name__ for op in network.ops)
    assert kinds == {"Conv": nodes["Conv"], "Add": nodes["Add"], "Upsample": nodes["Resize"]}
    assert sum(getattr(op, "act", "") == "relu6" for op in network.ops) == nodes["Clip"]


def test_shapes_are_those_of_onnx(network: qdq.Network) -> None:
    """The shapes computed while reading equal ONNX's own shape inference."""
    inferred = onnx.shape_inference.infer_shapes(network.model, strict_mode=True).graph
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.value_info, *inferred.output)
    }
    assert [(1, *op.y.shape) for op in network.ops] == [shapes[op.y.name] for op in network.ops]


def test_input_is_stored_as_pixel_minus_128(network: qdq.Network) -> None:
    """uint8 with zero point 128 becomes int8 with zero point 0."""
    assert network.input.quant == Quant(1 / 128, 0)


def test_weights_are_quantized_as_onnx_does(network: qdq.Network) -> None:
    """`weight_int8` equals what ONNX Runtime's QuantizeLinear stores, for every convolution."""
    convs = [op for op in network.ops if isinstance(op, qdq.Conv)]
    for op in convs:
        values = {"w": op.weight, "s": op.weight_scale, "z": np.zeros(len(op.weight_scale), np.int8)}
        infos = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in values.items()
        ]
        node = helper.make_node("QuantizeLinear", list(values), ["q"], axis=0)
        graph = helper.make_graph(
            [node], "q", infos, [helper.make_tensor_value_info("q", TensorProto.INT8, None)]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(op.weight_int8, session.run(None, values)[0])


def test_unknown_operation_is_named(mobilenet_file: Path, tmp_path: Path) -> None:
    """An operation that no writer knows is refused by node and type."""

    def change(graph: onnx.GraphProto) -> None:
        node = first(graph, "Clip")
        node.op_type = "HardSwish"
        node.name = "activation_7"
        del node.input[1:]

    path = changed(mobilenet_file, tmp_path / "x.onnx", change)
    with pytest.raises(
        ConversionError, match=r"HardSwish.*activation_7|behind it, found HardSwish 'activation_7'"
    ):
        qdq.load(path)


def test_conv_without_quantized_result_is_named(mobilenet_file: Path, tmp_path: Path) -> None:
    """A convolution that feeds another directly, without Q/DQ, is refused by name."""

    def change(graph: onnx.GraphProto) -> None:
        relu = first(graph, "Clip")
        dequantized = next(n for n in graph.node if n.name == f"{relu.output[0]}_dequant").output[0]
        for node in graph.node:
            node.input[:] = [relu.output[0] if name == dequantized else name for name in node.input]

    path = changed(mobilenet_file, tmp_path / "x.onnx", change)
    with pytest.raises(ConversionError, match=r"Clip node 'node_clip_1_3'.*found 2"):
        qdq.load(path)


def test_dilated_conv_is_refused(mobilenet_file: Path, tmp_path: Path) -> None:
    """Dilation would silently be ignored by a careless writer."""

    def change(graph: onnx.GraphProto) -> None:
        first(graph, "Conv").attribute.append(helper.make_attribute("dilations", [2, 2]))

    path = changed(mobilenet_file, tmp_path / "x.onnx", change)
    with pytest.raises(ConversionError, match="dilated"):
        qdq.load(path)


def test_bilinear_resize_is_refused(mobilenet_file: Path, tmp_path: Path) -> None:
    """Only nearest keeps stored integers as they are."""

    def change(graph: onnx.GraphProto) -> None:
        node = first(graph, "Resize")
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = b"linear"

    path = changed(mobilenet_file, tmp_path / "x.onnx", change)
    with pytest.raises(ConversionError, match=r"Resize node .*nearest"):
        qdq.load(path)


@pytest.mark.parametrize(
    ("op", "attribute", "axes", "message"),
    [
        ("DepthToSpace", b"CRD", None, "DepthToSpace node .*expected mode DCR"),
        ("Slice", None, [1, 2], "Slice node .*a crop of height and width, got axes"),
    ],
)
def test_other_interleavings_and_slices_are_refused(
    deconv_file: Path, tmp_path: Path, op: str, attribute: bytes | None, axes: list[int] | None, message: str
) -> None:
    """Another order of channels, or a slice of them, would shuffle the picture."""

    def change(graph: onnx.GraphProto) -> None:
        node = first(graph, op)
        for mode in (a for a in node.attribute if a.name == "mode" and attribute):
            mode.s = attribute
        for constant in (i for i in graph.initializer if axes and i.name == node.input[3]):
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array(axes), constant.name))

    path = changed(deconv_file, tmp_path / "x.onnx", change)
    with pytest.raises(ConversionError, match=message):
        qdq.load(path)


def test_changed_scale_is_noticed(mobilenet_file: Path, tmp_path: Path) -> None:
    """A head whose scale differs from the manifest's would make every device decode wrong boxes."""

    def change(graph: onnx.GraphProto) -> None:
        quantize = next(n for n in graph.node if n.output[0] == "size")
        scale = next(i for i in graph.initializer if i.name == quantize.input[1])
        scale.CopyFrom(onnx.numpy_helper.from_array(np.array(0.5, np.float32), scale.name))

    path = changed(mobilenet_file, tmp_path / "x.onnx", change)
    with pytest.raises(ConversionError, match="output size: the manifest says"):
        qdq.load(path)


def test_missing_head_is_named(mobilenet_file: Path, tmp_path: Path) -> None:
    """The error names the output that is expected and those that are there."""

    def change(graph: onnx.GraphProto) -> None:
        del graph.output[1]

    path = changed(mobilenet_file, tmp_path / "x.onnx", change)
    with pytest.raises(ConversionError, match="'size', found: heat, offset"):
        qdq.load(path)


def test_foreign_network_is_refused(mobilenet_file: Path, tmp_path: Path) -> None:
    """An ONNX file without our manifest is not one of ours, whatever its graph."""
    model = onnx.load(mobilenet_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ConversionError, match="some other ONNX network"):
        qdq.load(tmp_path / "x.onnx")


@pytest.mark.parametrize("length", [0, 1, 1000, 300_000])
def test_truncated_file_is_damaged(mobilenet_file: Path, tmp_path: Path, length: int) -> None:
    """A file cut off anywhere is reported as damaged, not as a crash of the parser."""
    path = tmp_path / "cut.onnx"
    path.write_bytes(mobilenet_file.read_bytes()[:length])
    with pytest.raises((ArtifactError, ConversionError)) as caught:
        qdq.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ArtifactError, match=r"nowhere\.onnx"):
        qdq.load(tmp_path / "nowhere.onnx")

"""Two ways to write down one QDQ network, and the way from each to the other.

Working form: activations int8, weights float32 in front of their QuantizeLinear; what is trained, calibrated
and converted. Stored form: activations uint8 with the zero point moved by 128, weights as the integers they
are. It is a third of the size, and ONNX Runtime runs it as integers on every processor: on x86 it leaves int8
activations that have two readers in float. Both mean the same numbers, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_centernet.qdq.onnx_graph import HEADS, copy_of, drop_unused

SHIFT = 128  # uint8 = int8 + SHIFT


def to_storage_form(model: Any) -> Any:
    """A copy in the stored form. Heads stay int8: they are what the decoder reads."""
    stored = copy_of(model)
    _change_activations(stored.graph, "int8", "uint8", leave=set(HEADS))
    _fold_weights(stored.graph)
    drop_unused(stored.graph)
    return stored


def to_compute_form(model: Any) -> Any:
    """A copy in the working form; other networks and those that are in it already come back as they were."""
    working = copy_of(model)
    _change_activations(working.graph, "uint8", "int8", leave={entry.name for entry in working.graph.input})
    _unfold_weights(working.graph)
    return working


def _change_activations(graph: Any, old: str, new: str, leave: set[str]) -> None:
    """Give every per-tensor Q/DQ pair of type `old` the type `new`, but for the quantized tensors in `leave`."""
    from onnx import TensorProto, numpy_helper

    constants = {i.name: i for i in graph.initializer}
    types = {v.name: v.type.tensor_type for v in graph.value_info}
    for node in graph.node:
        quantized = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        if quantized in leave or node.input[0] in constants or node.input[2] not in constants:
            continue
        zero = numpy_helper.to_array(constants[node.input[2]])
        if zero.dtype != old or zero.size != 1:
            continue
        moved = np.asarray(zero.astype(int) + (SHIFT if new == "uint8" else -SHIFT), new)
        name = f"zero_point/{new}/{int(moved.reshape(()))}/{moved.ndim}"
        if name not in constants:
            graph.initializer.append(numpy_helper.from_array(moved, name))
            constants[name] = graph.initializer[-1]
        node.input[2] = name
        if quantized in types:
            types[quantized].elem_type = TensorProto.DataType.Value(new.upper())


def _fold_weights(graph: Any) -> None:
    """Store the integers of a weight where they give back its floats exactly, as they do after training."""
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in constants]:
        weight, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
        step = _along_axis(scale, weight.ndim, node)
        integers = np.rint(weight / step)
        limits = np.iinfo(zero.dtype)
        if (
            zero.any()
            or np.abs(integers).max(initial=0) > limits.max
            or not np.array_equal(integers * step, weight)
        ):
            continue
        graph.initializer.append(numpy_helper.from_array(integers.astype(zero.dtype), node.output[0]))
        graph.node.remove(node)


def _unfold_weights(graph: Any) -> None:
    """The reverse: a float initializer and a QuantizeLinear in front of each DequantizeLinear of stored integers."""
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in graph.initializer}
    nodes = []
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        integers = None if stored is None else numpy_helper.to_array(stored)
        if (
            integers is not None
            and integers.ndim == 4
            and integers.dtype == np.int8
            and node.input[1] in constants
        ):
            scale = numpy_helper.to_array(constants[node.input[1]])
            weight = integers.astype(np.float32) * _along_axis(scale, integers.ndim, node)
            real = f"{node.input[0]}/real"
            graph.initializer.append(numpy_helper.from_array(weight, real))
            graph.initializer.remove(stored)
            copied = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            quantize = [real, *node.input[1:]]
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", quantize, [node.input[0]], f"{node.name}/quantize", **copied
                )
            )
        nodes.append(node)
    if len(nodes) != len(graph.node):
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)


def _along_axis(scale: Any, ndim: int, node: Any) -> Any:
    """The scale in a shape that multiplies a weight: (O, 1, 1, 1) where it is per channel."""
    if scale.ndim == 0:
        return scale
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return scale.reshape([-1 if d == axis else 1 for d in range(ndim)])

"""Two ways to write down one QDQ network, and the way from each to the other.

Compute form: activations int8, weights float32 in front of their QuantizeLinear; what is trained, calibrated
and converted. Storage form: activations uint8 with the zero point moved by 128, weights as the integers they
are. It is a third of the size, and ONNX Runtime runs it as integers on every processor: on x86 it leaves int8
activations that have two readers in float. Both mean the same numbers, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_centernet.qdq.onnx_graph import HEADS, copy_of, drop_unused

SHIFT = 128  # uint8 = int8 + SHIFT


def to_storage_form(model: Any) -> Any:
    """A copy in the storage form."""
    from onnx import numpy_helper

    stored = copy_of(model)
    graph = stored.graph
    # 1. Activations become uint8. Heads stay int8: they are what the decoder reads.
    _change_activations(graph, "int8", "uint8", leave=set(HEADS))
    # 2. Weights become integers, but only where these give back the floats exactly, as they do after
    #    training: rounding others here would change the network.
    constants = {i.name: i for i in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in constants]:
        weight, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
        step = _along_axis(scale, weight.ndim, node)
        integers = np.rint(weight / step)
        fits = np.abs(integers).max(initial=0) <= np.iinfo(zero.dtype).max
        if zero.any() or not fits or not np.array_equal(integers * step, weight):
            continue
        graph.initializer.append(numpy_helper.from_array(integers.astype(zero.dtype), node.output[0]))
        graph.node.remove(node)
    drop_unused(graph)
    return stored


def to_compute_form(model: Any) -> Any:
    """A copy in the compute form; other networks and those that are in it already come back as they were."""
    from onnx import helper, numpy_helper

    working = copy_of(model)
    graph = working.graph
    # 1. Activations become int8. The image stays uint8: it is what programs pass in.
    _change_activations(graph, "uint8", "int8", leave={entry.name for entry in graph.input})
    # 2. Integer weights become float initializers with a QuantizeLinear in front of their DequantizeLinear.
    constants = {i.name: i for i in graph.initializer}
    nodes = []
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        integers = None if stored is None else numpy_helper.to_array(stored)
        # Four dimensions: a convolution's weight, and not some other constant of a foreign network.
        weight = integers is not None and integers.ndim == 4 and integers.dtype == np.int8
        if integers is not None and weight and node.input[1] in constants:
            scale = numpy_helper.to_array(constants[node.input[1]])
            floats = integers.astype(np.float32) * _along_axis(scale, integers.ndim, node)
            real = f"{node.input[0]}/real"
            graph.initializer.append(numpy_helper.from_array(floats, real))
            graph.initializer.remove(stored)
            copied = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs, name = [real, *node.input[1:]], f"{node.name}/quantize"
            nodes.append(helper.make_node("QuantizeLinear", inputs, [node.input[0]], name, **copied))
        nodes.append(node)
    if len(nodes) != len(graph.node):
        # Copies, because deleting the list of nodes invalidates its members.
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return working


def _change_activations(graph: Any, old: str, new: str, leave: set[str]) -> None:
    """Give every per-tensor Q/DQ pair of type `old` the type `new`, except those of tensors in `leave`."""
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
        # Equal zero points share one initializer, which many pairs read: the old ones are left as they are.
        name = f"zero_point/{new}/{int(moved.reshape(()))}/{moved.ndim}"
        if name not in constants:
            graph.initializer.append(numpy_helper.from_array(moved, name))
            constants[name] = graph.initializer[-1]
        node.input[2] = name
        if quantized in types:
            types[quantized].elem_type = TensorProto.DataType.Value(new.upper())


def _along_axis(scale: Any, ndim: int, node: Any) -> Any:
    """The scale in a shape that multiplies a weight: (O, 1, 1, 1) where it is per output channel."""
    if scale.ndim == 0:
        return scale
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return scale.reshape([-1 if d == axis else 1 for d in range(ndim)])

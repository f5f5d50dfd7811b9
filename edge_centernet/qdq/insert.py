"""Inserting Q/DQ pairs: where a float ONNX network is quantized, and which tensors must share one scale.

    x (1, 3, H, W) float32 -> Conv, Relu, Add, Resize ... -> heat, size, offset float32
becomes
    image uint8 -> DequantizeLinear(1/128, 128) -> Conv ... -> QuantizeLinear -> heat, size, offset int8
with one pair behind every Conv and Add (behind their activation, if they have one) and one on every weight.
Operations that only move values (nearest Resize, MaxPool, DepthToSpace, Slice) need none: what they read is
quantized already. A Concat gets one all the same, because engines expect it there, and so does a linear
Resize, which computes new values. Scales are placeholders until `fill` replaces them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_centernet import qdq
from edge_centernet.errors import ConversionError
from edge_centernet.manifest import ModelSpec
from edge_centernet.preprocess import IMAGE_QUANT
from edge_centernet.qdq.onnx_graph import HEADS, copy_of, drop_unused

_ACTIVATIONS = ("Relu", "Clip")
IMAGE = "image"
STORED = "/stored"  # suffix of a quantized tensor's name; the real one is the name without it


def real_name(tensor: qdq.Tensor) -> str:
    """The name of a stored tensor in the float network."""
    return tensor.name.removesuffix(STORED)


def with_quantizers(float_model: Any, spec: ModelSpec) -> Any:
    """An onnx.ModelProto with placeholders of 1 for every scale and 0 for every zero point.

    float_model: its one input is (1, 3, H, W) float32, (pixel - 128) / 128 in spec.color order; its outputs
    have the names HEADS, heat as logits. Raises ConversionError where it is something else.
    """
    model = copy_of(float_model)
    inserter = _Inserter(model.graph)
    inserter.check_ends()
    for node in list(model.graph.node):  # a copy: nodes are inserted on the way
        if node.op_type == "Conv":
            inserter.weight(node)
        linear = any(a.name == "mode" and a.s == b"linear" for a in node.attribute)
        if node.op_type in ("Conv", "Add", "Concat") or (node.op_type == "Resize" and linear):
            inserter.activation(node)
    inserter.integer_input(spec)
    return model


class _Inserter:
    """Changes one graph in place, node by node."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.consts = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def check_ends(self) -> None:
        """Raise ConversionError unless there are one input and the three heads under their names."""
        inputs = [i.name for i in self.graph.input if i.name not in self.consts]
        outputs = {o.name for o in self.graph.output}
        if len(inputs) != 1 or outputs != set(HEADS):
            raise ConversionError(
                f"expected one input and the outputs {', '.join(HEADS)}, got {', '.join(inputs)} and "
                f"{', '.join(sorted(outputs))}"
            )
        self.input = inputs[0]

    def weight(self, conv: Any) -> None:
        """Weight -> QuantizeLinear -> DequantizeLinear -> Conv, per output channel.

        A missing bias becomes zeros, since bias correction may need one.
        """
        value = self.consts.get(conv.input[1])
        if value is None:
            raise ConversionError(
                f"Conv node {conv.name!r}: expected a constant weight, got {conv.input[1]!r}"
            )
        name, channels = conv.name, len(value)
        given = conv.input[2] if len(conv.input) > 2 else ""
        bias = self.consts.get(given) if given else np.zeros(channels, np.float32)
        if bias is None:
            raise ConversionError(f"Conv node {conv.name!r}: expected a constant bias, got {given!r}")
        scale, zero = f"{name}/weight/scale", f"{name}/weight/zero"
        self.constant(f"{name}/weight", value.astype(np.float32))
        self.constant(f"{name}/bias", bias.astype(np.float32))
        self.constant(scale, np.ones(channels, np.float32))
        self.constant(zero, np.zeros(channels, np.int8))
        self.before(conv, "QuantizeLinear", [f"{name}/weight", scale, zero], f"{name}/weight{STORED}", axis=0)
        self.before(
            conv, "DequantizeLinear", [f"{name}/weight{STORED}", scale, zero], f"{name}/weight/real", axis=0
        )
        del conv.input[1:]
        conv.input.extend([f"{name}/weight/real", f"{name}/bias"])

    def activation(self, node: Any) -> None:
        """Result -> QuantizeLinear -> DequantizeLinear -> its readers; a head ends at the QuantizeLinear."""
        # Behind the activation function and not in front of it: engines compute both in one kernel, and what
        # ReLU cuts off need not take up any of the 256 steps.
        last, name = node, node.output[0]
        after = self.consumers.get(name, [])
        if len(after) == 1 and after[0].op_type in _ACTIVATIONS and name not in HEADS:
            last, name = after[0], after[0].output[0]
        scale, zero = f"{name}/scale", f"{name}/zero"
        self.constant(scale, np.ones((), np.float32))
        self.constant(zero, np.zeros((), np.int8))
        if name in HEADS:
            last.output[0] = f"{name}/float"
            self.behind(last, "QuantizeLinear", [f"{name}/float", scale, zero], name)
            return
        quantize = self.behind(last, "QuantizeLinear", [name, scale, zero], f"{name}{STORED}")
        self.behind(quantize, "DequantizeLinear", [f"{name}{STORED}", scale, zero], f"{name}/real")
        for reader in self.consumers.get(name, []):
            reader.input[:] = [f"{name}/real" if n == name else n for n in reader.input]

    def integer_input(self, spec: ModelSpec) -> None:
        """DequantizeLinear(uint8 image, 1/128, 128) in front, which is exact; heads become int8."""
        from onnx import TensorProto, helper

        self.constant(f"{IMAGE}/dequantize/scale", np.array(IMAGE_QUANT.scale, np.float32))
        self.constant(f"{IMAGE}/dequantize/zero", np.array(IMAGE_QUANT.zero_point, np.uint8))
        inputs = [IMAGE, f"{IMAGE}/dequantize/scale", f"{IMAGE}/dequantize/zero"]
        node = helper.make_node("DequantizeLinear", inputs, [self.input], name=f"{IMAGE}/dequantize")
        self.graph.node.insert(0, node)
        del self.graph.input[:]
        shape = [1, 3, spec.height, spec.width]
        self.graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))
        for output in self.graph.output:
            output.type.tensor_type.elem_type = TensorProto.INT8
        del self.graph.value_info[:]  # types and shapes of intermediate tensors, which no longer hold
        drop_unused(self.graph)

    def constant(self, name: str, value: Any) -> None:
        """Add an initializer."""
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def before(self, node: Any, op_type: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        """Insert a node in front of another."""
        return self._insert(self._position(node), op_type, inputs, output, **attributes)

    def behind(self, node: Any, op_type: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        """Insert a node behind another."""
        return self._insert(self._position(node) + 1, op_type, inputs, output, **attributes)

    def _insert(self, at: int, op_type: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        from onnx import helper

        self.graph.node.insert(at, helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return self.graph.node[at]

    def _position(self, node: Any) -> int:
        return next(i for i, other in enumerate(self.graph.node) if other.output[0] == node.output[0])


def fill(model: Any, values: dict[str, Any]) -> None:
    """Replace initializers by name, in place: {name: array}."""
    from onnx import numpy_helper

    for initializer in model.graph.initializer:
        if initializer.name in values:
            initializer.CopyFrom(
                numpy_helper.from_array(np.asarray(values[initializer.name]), initializer.name)
            )


def shared_scales(network: qdq.Network) -> list[list[list[str]]]:
    """Groups of tensors that must share a scale; each is a list of sets that share their zero point too.

    Names are real ones, in the order of the network. Tensors of one set hold integers that are moved from one
    to the other (Concat, Resize); the sets of one group meet in an addition.
    """
    stored, scaled = _Union(), _Union()
    # Two passes: which sets an addition joins is known only once the sets are complete.
    for op in network.ops:
        if isinstance(op, qdq.Concat):
            stored.join(*(part.name for part in op.parts), op.y.name)
        elif not isinstance(op, qdq.Conv | qdq.Add):
            stored.join(op.x.name, op.y.name)
    for op in network.ops:
        if isinstance(op, qdq.Add):
            scaled.join(*(stored.root(t.name) for t in (op.a, op.b, op.y)))
    groups: dict[str, dict[str, list[str]]] = {}
    for op in network.ops:
        own = stored.root(op.y.name)
        groups.setdefault(scaled.root(own), {}).setdefault(own, []).append(real_name(op.y))
    return [list(sets.values()) for sets in groups.values()]


class _Union:
    """Names that belong together: a union-find structure, without ranks, for networks have few tensors."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The one name that stands for all that were joined with `name`."""
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name

    def join(self, *names: str) -> None:
        """Join the groups of these names; the root of the first one stands for all."""
        for name in names[1:]:
            self._parent[self.root(name)] = self.root(names[0])

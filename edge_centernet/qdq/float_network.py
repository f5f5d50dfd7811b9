"""Interchange networks back in float32: the whole network, or only the layers that int8 hurts most."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from edge_centernet import qdq
from edge_centernet.qdq.insert import fill
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS, copy_of, drop_unused


def float_model(network: Network) -> Any:
    """The network as trained: float32 weights, no Q/DQ; uint8 in as before, the heads in float32."""
    from onnx import TensorProto, helper, numpy_helper

    model = copy_of(network.model)
    graph = model.graph
    # 1. Every tensor behind a DequantizeLinear is replaced by what its QuantizeLinear read. Those without a
    #    QuantizeLinear in the graph, the image and stored weights, get a name of their own.
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    real = {
        node.output[0]: quantized.get(node.input[0], f"{node.input[0]}/real")
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    }
    real |= {quantized[role]: role for role in HEADS}
    # 2. (pixel - 128) / 128 in three nodes: some engines take a DequantizeLinear for a quantized network.
    name, quant = network.input.name, network.manifest.input.quant
    assert quant is not None  # checked by TensorSpec: uint8 carries its quantization
    for constant, value in (("image/sub/zero", quant.zero_point), ("image/mul/scale", quant.scale)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), constant))
    nodes = [
        helper.make_node("Cast", [name], ["image/float"], name="image/cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["image/float", "image/sub/zero"], ["image/centred"], name="image/sub"),
        helper.make_node("Mul", ["image/centred", "image/mul/scale"], [f"{name}/real"], name="image/mul"),
    ]
    # 3. All other nodes under the new names.
    for node in network.model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            plain = type(node)()
            plain.CopyFrom(node)
            plain.input[:] = [real.get(name, name) for name in node.input]
            plain.output[:] = [real.get(name, name) for name in node.output]
            nodes.append(plain)
    for stale in (graph.node, graph.output, graph.value_info):
        del stale[:]
    graph.node.extend(nodes)
    for role in HEADS:
        shape = [1, *network.heads[role].shape]
        graph.output.append(helper.make_tensor_value_info(role, TensorProto.FLOAT, shape))
    drop_unused(graph)
    return model


def with_floats(network: Network, names: Collection[str], original: Network | None = None) -> Any:
    """An onnx.ModelProto in which the operations `names` (Conv or Add) are computed in float32.

    Between two of them nothing is rounded; what any other operation reads is stored in int8 as before.
    original: a network with the same operations, whose weights and biases replace the rounded ones.
    """
    model = copy_of(network.model)
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    chosen = [node for node in graph.node if node.name in names]
    # 1. The results of the chosen operations. An activation function belongs to the operation in front of it.
    ends = set()
    for node in chosen:
        readers = [other for other in graph.node if node.output[0] in other.input]
        activated = len(readers) == 1 and readers[0].op_type in ("Relu", "Clip")
        ends.add((readers[0] if activated else node).output[0])
    # 2. Behind their Q/DQ pairs: the name of the dequantized result -> the float result itself.
    unrounded = {}
    for node in graph.node:
        quantize = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is not None and quantize.op_type == "QuantizeLinear" and quantize.input[0] in ends:
            unrounded[node.output[0]] = quantize.input[0]
    # 3. The chosen operations read those, and float weights. All others keep reading behind the Q/DQ pair.
    weights: dict[str, Any] = {}
    sources = {op.name: op for op in (original or network).ops if isinstance(op, qdq.Conv)}
    for node in chosen:
        node.input[:] = [unrounded.get(name, name) for name in node.input]
        if node.op_type == "Conv":
            dequantize = producers[node.input[1]]  # weight -> QuantizeLinear -> DequantizeLinear -> Conv
            node.input[1] = producers[dequantize.input[0]].input[0]
            source = sources[node.name]
            weights |= {node.input[1]: source.weight, node.input[2]: source.bias}
    fill(model, weights)
    drop_unused(graph)
    return model

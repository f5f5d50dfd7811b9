"""The float network inside the interchange network: the same operations without any Q/DQ."""

from __future__ import annotations

from typing import Any

from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS, copy_of, drop_unused


def float_model(network: Network) -> Any:
    """The network as trained, float32 weights, no Q/DQ; still uint8 in, heads float32 under the same names."""
    from onnx import TensorProto, helper

    model = copy_of(network.model)
    graph = model.graph
    real = _real_names(graph)
    nodes = _normalise(graph, network)
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


def _real_names(graph: Any) -> dict[str, str]:
    """Tensor name -> the name that replaces it: what DequantizeLinear made becomes what QuantizeLinear read."""
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    real = {
        node.output[0]: quantized.get(node.input[0], f"{node.input[0]}/real")
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    }
    return real | {quantized[role]: role for role in HEADS}


def _normalise(graph: Any, network: Network) -> list[Any]:
    """(pixel - 128) / 128 in three nodes: a DequantizeLinear would count as quantized in some engines."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    name, quant = network.input.name, network.manifest.input.quant
    assert quant is not None  # checked by TensorSpec: uint8 carries its quantization
    graph.initializer.append(
        numpy_helper.from_array(np.array(quant.zero_point, np.float32), "image/sub/zero")
    )
    graph.initializer.append(numpy_helper.from_array(np.array(quant.scale, np.float32), "image/mul/scale"))
    return [
        helper.make_node("Cast", [name], ["image/float"], name="image/cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["image/float", "image/sub/zero"], ["image/centred"], name="image/sub"),
        helper.make_node("Mul", ["image/centred", "image/mul/scale"], [f"{name}/real"], name="image/mul"),
    ]

"""Some operations of a quantized network back to float: for layers that int8 hurts most."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edge_centernet import qdq
from edge_centernet.qdq.insert import fill
from edge_centernet.qdq.onnx_graph import copy_of, drop_unused


def with_floats(network: qdq.Network, names: Collection[str], original: qdq.Network | None = None) -> Any:
    """An onnx.ModelProto in which the operations `names` (Conv or Add) are computed in float32.

    Between two of them nothing is rounded; what any other operation reads is stored in int8 as before.
    original: a network with the same operations, whose weights and biases replace the rounded ones.
    """
    model = copy_of(network.model)
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    chosen = [node for node in graph.node if node.name in names]
    ends = {_end(graph, node) for node in chosen}  # names of their results, behind the activation
    weights: dict[str, Any] = {}
    sources = {op.name: op for op in (original or network).ops if isinstance(op, qdq.Conv)}
    for node in chosen:
        node.input[:] = [_unstored(producers, name, ends) for name in node.input]
        if node.op_type == "Conv":
            quantize = producers[
                producers[node.input[1]].input[0]
            ]  # weight -> QuantizeLinear -> DequantizeLinear
            node.input[1] = quantize.input[0]
            source = sources[node.name]
            weights |= {node.input[1]: source.weight, node.input[2]: source.bias}
    fill(model, weights)
    drop_unused(graph)
    return model


def _end(graph: Any, node: Any) -> str:
    """The name of a node's result behind its Relu or Clip."""
    readers = [other for other in graph.node if node.output[0] in other.input]
    activated = len(readers) == 1 and readers[0].op_type in ("Relu", "Clip")
    return str((readers[0] if activated else node).output[0])


def _unstored(producers: dict[str, Any], name: str, ends: set[str]) -> str:
    """Where `name` is a float operation's result behind Q/DQ: the result itself; else `name`."""
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return name
    quantize = producers.get(dequantize.input[0])
    if quantize is not None and quantize.op_type == "QuantizeLinear" and quantize.input[0] in ends:
        return str(quantize.input[0])
    return name

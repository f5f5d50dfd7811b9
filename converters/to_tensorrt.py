"""QDQ network -> ONNX as TensorRT reads it: floats in and out, every zero point 0, the only one it supports.

    image float32 (pixel - mean) / std -> Q/DQ -> Conv ... -> Q/DQ -> heat, size, offset float32

An engine is built by the board that will run it (`engine_command`): those of other boards or releases do not
load. NVIDIA TensorRT developer guide, "Working with Quantized Types": explicit quantization, per-channel
weights on axis 0.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_centernet import qdq
from edge_centernet.calibration.scheme import settled_bias, symmetric_quants
from edge_centernet.converters import Save
from edge_centernet.converters.to_onnx import checked_save
from edge_centernet.manifest import Precision, Quant, nchw_specs
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.float_onnx import without_normalisation
from edge_centernet.qdq.insert import real_name, shared_scales
from edge_centernet.qdq.onnx_graph import HEADS, copy_of, drop_unused, set_manifest


def engine_command(path: Path, precision: Precision) -> str:
    """The command that builds the engine on the board; layers without a quantizer run in float16."""
    flags = "--int8 --fp16" if precision == "int8" else "--fp16"
    return f"trtexec --onnx={path.name} {flags} --saveEngine={path.stem}.engine"


def is_symmetric(network: qdq.Network) -> bool:
    """Whether every activation has zero point 0 (the image's 128 of uint8 is int8's 0)."""
    return all(op.y.quant.zero_point == 0 for op in network.ops)


def symmetric(network: qdq.Network) -> qdq.Network:
    """The same weights with zero points of 0: steps become as wide as the larger side of each range needs.

    A range that begins at 0, behind every ReLU, loses half of its steps: calibrate or train with --symmetric
    where that costs too much.
    """
    model = copy_of(network.model)
    # 1. The new scales; tensors that meet in an addition, or are moved into one another, keep sharing theirs.
    own = {real_name(op.y): (op.y.name, op.y.quant) for op in network.ops if op.y.quant != qdq.UNUSED}
    quants: dict[str, Quant] = {}  # by name of the stored tensor
    for group in shared_scales(network):
        members = [own[name] for names in group for name in names if name in own]
        widened = symmetric_quants([quant for _, quant in members])
        quants.update(zip((name for name, _ in members), widened, strict=True))
    # 2. Every Q/DQ pair reads them. The pair behind an operation that moves values repeats that one's scale.
    owner: dict[str, str] = {}  # stored tensor -> the operation's result it holds
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            name = owner[node.output[0]] = node.output[0] if node.output[0] in quants else node.input[0]
        elif node.op_type == "DequantizeLinear":
            name = owner.get(node.input[0], "")
        else:
            continue
        if name in quants:
            del node.input[1:]
            node.input.extend([f"{name}/symmetric/scale", f"{name}/symmetric/zero"])
    # 3. Biases in whole steps of the new s_in * s_w. The scales of the weights stay.
    biases = {}
    for op in network.ops:
        if isinstance(op, qdq.Conv) and not op.real:
            s_in = quants.get(op.x.name, op.x.quant).scale  # the image's is not among them
            biases[op.name] = settled_bias(op.bias, s_in, op.weight_scale)
    for node in model.graph.node:
        if node.name in biases:
            node.input[2:] = [_constant(model.graph, f"{node.name}/symmetric/bias", biases[node.name])]
    for name, quant in quants.items():
        _constant(model.graph, f"{name}/symmetric/scale", np.array(quant.scale, np.float32))
        _constant(model.graph, f"{name}/symmetric/zero", np.array(0, np.int8))
    drop_unused(model.graph)
    manifest = network.manifest
    heads = {role: replace(getattr(manifest, role), quant=quants[network.heads[role].name]) for role in HEADS}
    set_manifest(model, manifest.with_tensors(**heads))
    return qdq.parse(model)


def convert(network: qdq.Network, precision: Precision) -> Save:
    """Build and check the model; the result writes it to a .onnx. In int8 the network has to be symmetric."""
    model = _float_ends(network) if precision == "int8" else without_normalisation(float_model(network))
    specs = {**nchw_specs(network.manifest, "fp32"), "precision": precision}
    specs["input"] = replace(
        network.manifest.input, name=model.graph.input[0].name, dtype="float32", quant=None
    )
    return checked_save(model, network.manifest, specs)


def _float_ends(network: qdq.Network) -> Any:
    """A copy whose image is float32 and quantized by the network itself, and whose heads are float32."""
    from onnx import TensorProto, helper

    model = copy_of(network.model)
    graph, image = model.graph, network.input.name
    # The image's DequantizeLinear of uint8 becomes a pair of int8, zero point 0 instead of 128.
    first = next(node for node in graph.node if node.input[0] == image)
    scale = _constant(graph, f"{image}/scale", np.array(network.input.quant.scale, np.float32))
    zero = _constant(graph, f"{image}/zero", np.array(network.input.quant.zero_point, np.int8))
    pair = [
        helper.make_node(
            "QuantizeLinear", [image, scale, zero], [f"{image}/stored"], name=f"{image}/quantize"
        ),
        helper.make_node(
            "DequantizeLinear", [f"{image}/stored", scale, zero], first.output, name=f"{image}/real"
        ),
    ]
    nodes = pair + [node for node in graph.node if node != first]
    for role in HEADS:
        last = next(node for node in nodes if node.output[0] == role)
        last.output[0] = f"{role}/stored"
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{role}/stored", *last.input[1:]], [role], name=f"{role}/dequantize"
            )
        )
    del graph.node[:], graph.input[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(image, TensorProto.FLOAT, [1, *network.input.shape]))
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    drop_unused(graph)
    return model


def _constant(graph: Any, name: str, value: Any) -> str:
    """Add an initializer; returns its name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))
    return name

"""QAT checkpoint -> QDQ ONNX, the one interchange file every converter reads (no torch needed from there on).

    image uint8 (1, 3, H, W) -> DequantizeLinear(1/128, 128) -> Conv ... -> QuantizeLinear -> heat, size,
    offset int8

Real values, scales and zero points are those of training; nothing is measured again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_centernet.errors import ConversionError
from edge_centernet.files import write_atomic
from edge_centernet.manifest import InputSize, ModelSpec, Quant
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import load_checkpoint
from edge_centernet.network.fake_quant import bake
from edge_centernet.network.layers import fold_batchnorm
from edge_centernet.preprocess import IMAGE_QUANT
from edge_centernet.qdq.float_onnx import merge_pads
from edge_centernet.qdq.onnx_graph import HEADS, constants_as_initializers, interchange_manifest, set_manifest

OPSET = 17
_REAL_INPUT = "normalized"  # what Normalize puts out; the DequantizeLinear in front of it replaces Normalize


class _Core(nn.Module):
    """The network behind Normalize."""

    def __init__(self, model: CenterNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.core(x)


def export_onnx(checkpoint: Path, out: Path, size: InputSize | None = None) -> Path:
    """Write `out` (.onnx) from a "qat" checkpoint, atomically, and return it.

    size: of the input, if not that of the checkpoint; the learned scales are kept.
    Raises ConversionError for a float checkpoint: it has no activation ranges.
    """
    model, stage = load_checkpoint(checkpoint)
    if stage == "float":
        raise ConversionError(
            f"{checkpoint}: expected a QAT checkpoint, got a {stage} one: train with qat_epochs >= 0"
        )
    model.spec = model.spec if size is None else model.spec.resized(size)
    proto = qdq_onnx(model, hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    write_atomic(out, proto.SerializeToString(deterministic=True))
    return out


def qdq_onnx(model: CenterNet, checkpoint_sha256: str) -> Any:
    """A network behind `prepare_qat`, its ranges measured, as onnx.ModelProto; turns it into constants in place."""
    import onnx

    manifest = interchange_manifest(
        model.spec, _head_quants(model), {"torch": torch.__version__}, checkpoint_sha256
    )
    bake(model)
    proto = _simplify(_trace(model))
    _integer_input(proto, model.spec)
    _integer_outputs(proto)
    merge_pads(proto.graph)
    set_manifest(proto, manifest)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def float_onnx(model: CenterNet) -> Any:
    """A float network as onnx.ModelProto: (pixel - 128) / 128 in, float32 heads out; folds its BatchNorm in place."""
    import onnx

    fold_batchnorm(model.eval())
    proto = _simplify(_trace(model))
    merge_pads(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _head_quants(model: CenterNet) -> dict[str, Quant]:
    """The scales that training learned for the three outputs."""
    quants = {}
    for role in HEADS:
        scale, zero_point = getattr(model, role).out_quant.scale_zero_point()
        quants[role] = Quant(float(scale), int(zero_point))
    return quants


def _trace(model: CenterNet) -> Any:
    """TorchScript export: the dynamo exporter decomposes fake quantizers into float arithmetic."""
    import onnx

    spec = model.spec
    example = torch.zeros(1, 3, spec.height, spec.width)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announces the exporter's retirement and traces constants
        path = os.path.join(folder, "network.onnx")
        torch.onnx.export(
            _Core(model).eval(), (example,), path, opset_version=OPSET, dynamo=False,
            input_names=[_REAL_INPUT], output_names=list(HEADS), do_constant_folding=True,
        )  # fmt: skip
        return onnx.load(path)


def _simplify(proto: Any) -> Any:
    """Fold the arithmetic on constant shapes that tracing leaves behind; Q and DQ stay."""
    import onnxsim

    simplified, ok = onnxsim.simplify(proto)
    if not ok:
        raise ConversionError(
            "export: onnxsim's simplified graph does not compute the same as the traced one"
        )
    constants_as_initializers(simplified.graph)
    return simplified


def _integer_input(proto: Any, spec: ModelSpec) -> None:
    """Put DequantizeLinear(uint8 image, 1/128, 128) in front: (pixel - 128) / 128, exactly."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(IMAGE_QUANT.scale, np.float32), "image_scale"),
            numpy_helper.from_array(np.array(IMAGE_QUANT.zero_point, np.uint8), "image_zero_point"),
        ]
    )
    node = helper.make_node(
        "DequantizeLinear",
        ["image", "image_scale", "image_zero_point"],
        [_REAL_INPUT],
        name="image_dequantize",
    )
    graph.node.insert(0, node)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, spec.height, spec.width])
    del graph.input[:]
    graph.input.append(image)


def _integer_outputs(proto: Any) -> None:
    """Drop each head's last DequantizeLinear: the stored integers are the output."""
    from onnx import TensorProto

    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantize = producers[output.name]
        quantize = producers[dequantize.input[0]]
        if (quantize.op_type, dequantize.op_type) != ("QuantizeLinear", "DequantizeLinear"):
            raise ConversionError(f"export: expected {output.name} behind Q and DQ, got {dequantize.op_type}")
        graph.node.remove(dequantize)
        quantize.output[0] = output.name
        output.type.tensor_type.elem_type = TensorProto.INT8

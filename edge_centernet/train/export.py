"""QAT checkpoint -> QDQ ONNX, the one interchange file that every converter reads without PyTorch.

    image uint8 (1, 3, H, W) -> DequantizeLinear(1/128, 128) -> Conv ... -> QuantizeLinear
      -> heat, size, offset int8

Weights, scales and zero points are those of training; nothing is measured again.
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
from edge_centernet.manifest import InputSize, Quant
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import load_checkpoint
from edge_centernet.network.fake_quant import bake
from edge_centernet.network.layers import fold_batchnorm
from edge_centernet.preprocess import IMAGE_QUANT
from edge_centernet.qdq.float_onnx import merge_pads
from edge_centernet.qdq.onnx_graph import HEADS, constants_as_initializers, interchange_manifest, set_manifest

OPSET = 17
_REAL_INPUT = "normalized"  # the output of Normalize, which a DequantizeLinear replaces


class _Core(nn.Module):
    """The network behind Normalize, as a module that can be traced."""

    def __init__(self, model: CenterNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.core(x)


def export_onnx(checkpoint: Path, out: Path, size: InputSize | None = None) -> Path:
    """Write `out` (.onnx) from a "qat" checkpoint, atomically, and return it.

    size: of the input, if not that of the checkpoint; the learned scales stay the same.
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
    """A network with measured quantizers (`prepare_qat`) as onnx.ModelProto.

    The model's weights and quantizers become constants, in place. Raises ConversionError where the traced
    graph is not what it should be.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # 1. The manifest has the scales that training learned for the three outputs.
    quants = {}
    for role in HEADS:
        scale, zero_point = getattr(model, role).out_quant.scale_zero_point()
        quants[role] = Quant(float(scale), int(zero_point))
    manifest = interchange_manifest(model.spec, quants, {"torch": torch.__version__}, checkpoint_sha256)
    # 2. The graph, float in and float out.
    bake(model)
    proto = _traced(model)
    graph = proto.graph
    # 3. In front, DequantizeLinear(uint8 image, 1/128, 128) takes Normalize's place: it computes
    # (pixel - 128) / 128, exactly.
    step = numpy_helper.from_array(np.array(IMAGE_QUANT.scale, np.float32), "image_scale")
    grey = numpy_helper.from_array(np.array(IMAGE_QUANT.zero_point, np.uint8), "image_zero_point")
    graph.initializer.extend([step, grey])
    inputs = ["image", step.name, grey.name]
    node = helper.make_node("DequantizeLinear", inputs, [_REAL_INPUT], name="image_dequantize")
    graph.node.insert(0, node)
    shape = [1, 3, model.spec.height, model.spec.width]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))
    # 4. Each head loses its last DequantizeLinear: the stored integers are the output.
    producers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantize = producers[output.name]
        quantize = producers[dequantize.input[0]]
        if (quantize.op_type, dequantize.op_type) != ("QuantizeLinear", "DequantizeLinear"):
            raise ConversionError(f"export: expected {output.name} behind Q and DQ, got {dequantize.op_type}")
        graph.node.remove(dequantize)
        quantize.output[0] = output.name
        output.type.tensor_type.elem_type = TensorProto.INT8
    # 5. What belongs to every interchange file.
    merge_pads(graph)
    set_manifest(proto, manifest)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def float_onnx(model: CenterNet) -> Any:
    """A float network as onnx.ModelProto: (pixel - 128) / 128 in, float32 heads out.

    The model's BatchNorm is folded in place.
    """
    import onnx

    fold_batchnorm(model.eval())
    proto = _traced(model)
    merge_pads(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _traced(model: CenterNet) -> Any:
    """The network behind Normalize as onnx.ModelProto, without the arithmetic that tracing leaves behind."""
    import onnx
    import onnxsim

    spec = model.spec
    example = torch.zeros(1, 3, spec.height, spec.width)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announces the exporter's retirement and traces constants
        path = os.path.join(folder, "network.onnx")
        torch.onnx.export(
            _Core(model).eval(),
            (example,),
            path,
            opset_version=OPSET,
            dynamo=False,  # the dynamo exporter decomposes fake quantizers into float arithmetic
            input_names=[_REAL_INPUT],
            output_names=list(HEADS),
            do_constant_folding=True,
        )
        proto = onnx.load(path)
    # Arithmetic on constant shapes is folded; Q and DQ stay.
    simplified, ok = onnxsim.simplify(proto)
    if not ok:
        raise ConversionError(
            "export: onnxsim's simplified graph does not compute the same as the traced one"
        )
    constants_as_initializers(simplified.graph)
    return simplified

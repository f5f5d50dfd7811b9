"""The precision that is executed: of TFLite read from the file, of OpenVINO reported by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_centernet.runtimes.engines import openvino_core

# int32 holds biases, pad widths and sizes.
_INTEGER_TYPES = ("INT8", "INT32")
_INTEGER_OPS = (
    *("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD", "RESIZE_NEAREST_NEIGHBOR", "MAX_POOL_2D"),
    *("DEPTH_TO_SPACE", "SLICE", "RESIZE_BILINEAR", "CONCATENATION"),
)


def tflite_float_tensors(path: Path) -> list[str]:
    """What keeps a .tflite from being full integer: tensors and operators of other types. Empty: nothing."""
    import tflite

    model: Any = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    types = {v: k for k, v in vars(tflite.TensorType).items() if isinstance(v, int)}
    codes = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    operators = [model.OperatorCodes(i).BuiltinCode() for i in range(model.OperatorCodesLength())]
    return [
        *(
            f"tensor {t.Name().decode()} {types[t.Type()]}"
            for t in tensors
            if types[t.Type()] not in _INTEGER_TYPES
        ),
        *(f"operator {codes[code]}" for code in operators if codes[code] not in _INTEGER_OPS),
    ]


def openvino_kernels(path: Path) -> dict[str, str]:
    """Convolution -> OpenVINO's kernel: "..._I8" for integers, "..._i8" where the input is signed."""
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled: Any = openvino_core().compile_model(path, "CPU", options)
    kernels = {}
    for node in compiled.get_runtime_model().get_ops():
        info = {key: str(node.get_rt_info()[key].astype(str)) for key in ("layerType", "primitiveType")}
        if info["layerType"] == "Convolution":
            kernels[node.get_friendly_name()] = info["primitiveType"]
    return kernels


def openvino_float_layers(path: Path) -> list[str]:
    """The convolutions that OpenVINO does not execute in int8, with their kernels. Empty: int8 throughout."""
    return [
        f"{name} {kernel}"
        for name, kernel in openvino_kernels(path).items()
        if not kernel.lower().endswith("_i8")
    ]

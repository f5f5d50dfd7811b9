"""A network of others in an engine: a few lines each, since such files have no manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ArtifactError, MissingDependency
from edge_centernet.runtimes import engines

Array = NDArray[Any]
# Suffix -> the engines that run such a file, the default first.
OF_SUFFIX = {
    ".onnx": ("openvino", "onnxruntime"),
    ".xml": ("openvino",),
    ".tflite": ("tflite",),
    ".param": ("ncnn",),
}
# Engine -> the pip extra that installs it.
EXTRAS = {**{engine.name: engine.extra for engine in engines.ENGINES.values()}, "ncnn": "label"}


class Net(Protocol):
    """An opened network. height, width: of its input, in pixels. dtype: of its input, as NumPy names it."""

    height: int
    width: int
    dtype: str

    def run(self, x: Array) -> list[Array]:
        """Run a batch of one; all outputs in the file's order."""


class OpenVINONet:
    """An .onnx or .xml with input (1, 3, H, W)."""

    def __init__(self, path: Path, threads: int | None) -> None:
        """Compile it with the options that ours are compiled with (runtimes/ov.py)."""
        options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._request = (
            engines.openvino_core().compile_model(str(path), "CPU", options).create_infer_request()
        )
        port = self._request.model_inputs[0]
        self._name, self.dtype = port.get_any_name(), str(port.get_element_type().to_dtype())
        self.height, self.width = (int(side) for side in port.get_shape()[2:])

    def run(self, x: Array) -> list[Array]:
        """See Net.run."""
        self._request.infer({self._name: x}, share_inputs=True, share_outputs=True)
        return [tensor.data for tensor in self._request.output_tensors]


class ONNXRuntimeNet:
    """An .onnx with input (1, 3, H, W)."""

    def __init__(self, path: Path, threads: int | None) -> None:
        """Open it on the CPU."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        port = self._session.get_inputs()[0]
        self._name, self.dtype = port.name, "float32" if "float" in port.type else "uint8"
        self.height, self.width = port.shape[2:]

    def run(self, x: Array) -> list[Array]:
        """See Net.run."""
        outputs: list[Array] = self._session.run(None, {self._name: x})
        return outputs


class TFLiteNet:
    """A .tflite with input (1, H, W, 3); quantized outputs are returned as real values."""

    def __init__(self, path: Path, threads: int | None) -> None:
        """Open it with XNNPACK, the default."""
        from edge_centernet.runtimes.tflite import interpreter_class

        self._interpreter = interpreter_class()(model_content=path.read_bytes(), num_threads=threads)
        self._interpreter.allocate_tensors()
        port = self._interpreter.get_input_details()[0]
        self._index, self.dtype = port["index"], np.dtype(port["dtype"]).name
        self.height, self.width = (int(side) for side in port["shape"][1:3])
        self._outputs = self._interpreter.get_output_details()

    def run(self, x: Array) -> list[Array]:
        """See Net.run."""
        self._interpreter.set_tensor(self._index, x)
        self._interpreter.invoke()
        real: list[Array] = []
        for output in self._outputs:
            value: Array = self._interpreter.get_tensor(output["index"])
            scale, zero_point = output["quantization"]  # scale 0: not quantized
            real.append((value.astype(np.float32) - zero_point) * np.float32(scale) if scale else value)
        return real


class NCNNNet:
    """An ncnn .param with its .bin beside it."""

    dtype = "float32"

    def __init__(self, path: Path, threads: int | None) -> None:
        """Open it with ncnn's defaults: it chooses its arithmetic (fp16 or bf16 if the CPU has it)."""
        try:
            import ncnn
        except ImportError:
            raise MissingDependency.for_extra(f"{path}: running .param files", EXTRAS["ncnn"]) from None
        self._ncnn, self._net = ncnn, ncnn.Net()
        if threads is not None:
            self._net.opt.num_threads = threads
        if self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin"))):
            raise ArtifactError(f"{path}: expected an ncnn .param and its .bin, ncnn cannot read them")
        self.height, self.width = _ncnn_size(path)

    def run(self, x: Array) -> list[Array]:
        """See Net.run; outputs have no batch axis."""
        with self._net.create_extractor() as extractor:
            extractor.input(self._net.input_names()[0], self._ncnn.Mat(x[0]))
            return [np.array(extractor.extract(name)[1]) for name in self._net.output_names()]


def _ncnn_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the input in pixels: parameters 1 and 0 of the layer Input, if it has them.

    Otherwise it is the number that the file name ends with, as in nanodet-plus-m_416, or else 320.
    """
    line = next((line for line in path.read_text().splitlines() if line.startswith("Input")), "")
    sides = dict(part.split("=", 1) for part in line.split() if "=" in part)
    named = re.search(r"[-_](\d{3})$", path.stem)
    side = int(named[1]) if named else 320
    return int(sides.get("1", side)), int(sides.get("0", side))


def open_net(path: Path, engine: str, threads: int | None = None) -> Net:
    """Open a file in an engine; threads: CPU threads, None leaves it to the engine.

    Raises ArtifactError for a file that the engine cannot read, MissingDependency without the engine.
    """
    kinds: dict[str, Any] = {
        "openvino": OpenVINONet,
        "onnxruntime": ONNXRuntimeNet,
        "tflite": TFLiteNet,
        "ncnn": NCNNNet,
    }
    try:
        net: Net = kinds[engine](path, threads)
    except ImportError:
        raise MissingDependency.for_extra(f"{path}: {engine}", EXTRAS[engine]) from None
    except (RuntimeError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{path}: {engine} cannot read it: {str(error).strip().splitlines()[-1]}"
        ) from None
    return net


def file_size(path: Path) -> int:
    """Return the bytes of a network with its weights, which .xml and .param keep in a second file."""
    beside = path.with_suffix(".bin") if path.suffix in (".xml", ".param") else None
    return path.stat().st_size + (beside.stat().st_size if beside else 0)


def installed(engine: str) -> bool:
    """Whether `engine` can be imported here."""
    return engines.installed(engine) if engine in engines.ENGINES else engines.is_installed(engine)


def precision(file: Path) -> str:
    """Return "int8" if the file holds quantized weights, else "fp32"."""
    if file.suffix == ".tflite":
        from edge_centernet.runtimes.tflite import interpreter_class

        details = interpreter_class()(model_content=file.read_bytes()).get_tensor_details()
        stored = {np.dtype(t["dtype"]).name for t in details if len(t["shape"]) == 4}
        return "int8" if stored & {"int8", "uint8"} else "fp32"
    quantized = {".onnx": b"DequantizeLinear", ".xml": b"FakeQuantize", ".param": b"Quantize"}[file.suffix]
    return "int8" if quantized in file.read_bytes() else "fp32"

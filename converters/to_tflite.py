"""QDQ network -> TFLite flatbuffer: full-integer int8, or float32 behind a uint8 input.

NHWC throughout, one operator per operation of the network plus PAD where TensorFlow's SAME does not fit; no
float islands, no transposes. Why our own writer: docs/decisions/0002-own-tflite-writer.md.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.converters.base import Save, written_manifest
from edge_centernet.converters.tflite_metadata import LABELS, metadata
from edge_centernet.converters.tflite_metadata import NAME as METADATA
from edge_centernet.errors import MissingDependency
from edge_centernet.manifest import KEY, Manifest, ModelSpec, Precision, Quant, TensorSpec
from edge_centernet.qdq.network import (
    UNUSED,
    Activation,
    Add,
    Concat,
    Conv,
    Crop,
    DepthToSpace,
    MaxPool,
    Network,
    Op,
    Tensor,
    Upsample,
    quantize_weight,
)
from edge_centernet.qdq.onnx_graph import HEADS

Array = NDArray[Any]
Pads = tuple[int, int, int, int]
# A bias is stored as int32; beyond this it could overflow once products are added to it.
BIAS_LIMIT = float(1 << 30)
WRITER_VERSION = "4"  # counts changes that change the bytes
SIGNATURE = "serving_default"  # the one that tools ask for when none is named


def convert(network: Network, precision: Precision) -> Save:
    """Build the flatbuffer; the result writes it to a .tflite. The same network gives the same bytes."""
    return _convert(Int8Graph if precision == "int8" else FloatGraph, network, precision)


def convert_uint8(network: Network, precision: Precision) -> Save:
    """The same with pixels as they come, uint8, for programs that cannot subtract 128; one more operator."""
    return _convert(Uint8Graph if precision == "int8" else FloatGraph, network, precision)


def _convert(kind: type[Graph], network: Network, precision: Precision) -> Save:
    try:
        import tflite  # noqa: F401  (schema only)
    except ImportError:
        raise MissingDependency.for_extra("converting to TFLite", "convert") from None
    graph = kind(network)
    for op in network.ops:
        graph.add_op(op)
    flatbuffer = graph.finish()
    specs = tensor_specs(network, precision, graph.input_dtype)

    def save(out: Path, verified: bool, content_sha256: str = "") -> Manifest:
        manifest = written_manifest(
            network.manifest, specs, "tflite-writer", WRITER_VERSION, verified, content_sha256
        )
        out.write_bytes(append_files(flatbuffer, manifest))
        return manifest

    return save


def append_files(flatbuffer: bytes, manifest: Manifest) -> bytes:
    """Associated files as TFLite knows them: a ZIP archive behind the flatbuffer, which readers of either ignore."""
    files = {f"{KEY}.json": manifest.to_json(), LABELS: "".join(f"{c}\n" for c in manifest.model.classes)}
    buffer = io.BytesIO()
    buffer.write(flatbuffer)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(
                name, date_time=(1980, 1, 1, 0, 0, 0)
            )  # fixed: equal networks are equal bytes
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


def tensor_specs(network: Network, precision: Precision, dtype: str) -> dict[str, Any]:
    """NHWC specs of what the file holds; dtype: of its input."""
    manifest, int8 = network.manifest, precision == "int8"
    channels, height, width = network.input.shape
    quant = network.input.quant if dtype == "int8" else manifest.input.quant
    specs = {"input": TensorSpec(manifest.input.name, (1, height, width, channels), "NHWC", dtype, quant)}
    for role in HEADS:
        tensor = network.heads[role]
        channels, height, width = tensor.shape
        shape = (1, height, width, channels)
        specs[role] = TensorSpec(
            role, shape, "NHWC", *(("int8", tensor.quant) if int8 else ("float32", None))
        )
    return {**specs, "precision": precision}


@dataclass
class _Row:
    """One tensor of the file; data: None for activations."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: bytes | None
    scales: Array
    zero_point: int
    axis: int


@dataclass
class _Step:
    """One operator of the file: schema name, version, tensor indices, options."""

    code: str
    version: int
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any]


class Graph:
    """What both precisions share: tensor table, operators, padding, serialisation."""

    activation_type = "INT8"
    input_dtype = "int8"

    def __init__(self, network: Network) -> None:
        """Start with the input tensor alone."""
        self.network = network
        self.rows: list[_Row] = []
        self.steps: list[_Step] = []
        self.index: dict[str, int] = {}  # activation name -> tensor index
        self.add_input()

    def add_input(self) -> None:
        """The graph's input, from which `activation(network.input)` is computed."""
        self.inputs = [self.activation(self.network.input)]

    def add_picture(self, code: str, name: str) -> None:
        """A uint8 input, and the operator that makes the graph's own image of it, under another name."""
        spec, image = self.network.manifest.input, self.network.input
        assert spec.quant is not None  # checked by TensorSpec: uint8 carries its quantization
        channels, height, width = image.shape
        shape, scale, zero = (1, height, width, channels), spec.quant.scale, spec.quant.zero_point
        self.inputs = [self.row(spec.name, shape, "UINT8", scales=scale, zero_point=zero)]
        self.step(code, 1, self.inputs, self.activation(image, name))
        self.index[image.name] = self.index[name]

    def weights(self, conv: Conv) -> tuple[int, int]:
        """Tensor indices of the kernel and the bias."""
        raise NotImplementedError

    def row(
        self, name: str, shape: tuple[int, ...], dtype: str, data: Array | None = None, **quant: Any
    ) -> int:
        """Append a tensor; quant: scales, zero_point, axis. Returns its index."""
        scales = np.asarray(quant.get("scales", ()), np.float32).reshape(-1)
        stored = None if data is None else np.ascontiguousarray(data).tobytes()
        row = _Row(name, shape, dtype, stored, scales, quant.get("zero_point", 0), quant.get("axis", 0))
        self.rows.append(row)
        return len(self.rows) - 1

    def activation(self, tensor: Tensor, name: str = "") -> int:
        """The index of an activation, (C, H, W) -> [1, H, W, C], made on first use."""
        name = name or tensor.name
        if name not in self.index:
            channels, height, width = tensor.shape
            quant = self.stored_as(tensor.quant)
            self.index[name] = self.row(name, (1, height, width, channels), self.activation_type, **quant)
        return self.index[name]

    def stored_as(self, quant: Quant) -> dict[str, Any]:
        """Quantization parameters of activations."""
        return {"scales": quant.scale, "zero_point": quant.zero_point}

    def step(self, code: str, version: int, inputs: list[int], output: int, **options: Any) -> None:
        """Append an operator."""
        self.steps.append(_Step(code, version, inputs, [output], options))

    def add_op(self, op: Op) -> None:
        """Append one operation of the network."""
        match op:
            case Conv():
                self.add_conv(op)
            case Add():
                inputs = [self.activation(op.a), self.activation(op.b)]
                self.step("ADD", 2, inputs, self.activation(op.y), FusedActivationFunction=_fused(op.act))
            case Upsample():
                size = self.row(f"{op.name}/size", (2,), "INT32", np.array(op.y.shape[1:], np.int32))
                inputs = [self.activation(op.x), size]
                if op.linear:
                    self.step("RESIZE_BILINEAR", 3, inputs, self.activation(op.y), HalfPixelCenters=True)
                else:
                    self.step("RESIZE_NEAREST_NEIGHBOR", 2, inputs, self.activation(op.y))
            case Concat():
                self.step(
                    "CONCATENATION",
                    2,
                    [self.activation(part) for part in op.parts],
                    self.activation(op.y),
                    Axis=3,
                )
            case MaxPool():
                x, padding = self.padded(op.x, op.kernel, op.stride, op.pads, op.y.shape, op.name)
                window = {"FilterHeight": op.kernel[0], "FilterWidth": op.kernel[1], **_strides(op.stride)}
                self.step("MAX_POOL_2D", 2, [x], self.activation(op.y), Padding=padding, **window)

            case DepthToSpace():
                self.step(
                    "DEPTH_TO_SPACE", 1, [self.activation(op.x)], self.activation(op.y), BlockSize=op.block
                )
            case Crop():
                channels, height, width = op.y.shape
                begin = self.row(
                    f"{op.name}/begin", (4,), "INT32", np.array([0, op.top, op.left, 0], np.int32)
                )
                size = self.row(
                    f"{op.name}/size", (4,), "INT32", np.array([1, height, width, channels], np.int32)
                )
                self.step("SLICE", 2, [self.activation(op.x), begin, size], self.activation(op.y))

    def add_conv(self, op: Conv) -> None:
        """CONV_2D or DEPTHWISE_CONV_2D, with a PAD in front where SAME and VALID do not fit."""
        kernel = (op.weight.shape[2], op.weight.shape[3])
        x, padding = self.padded(op.x, kernel, op.stride, op.pads, op.y.shape, op.name)
        inputs = [x, *self.weights(op)]
        options = {"Padding": padding, **_strides(op.stride), "FusedActivationFunction": _fused(op.act)}
        if op.groups == 1:
            self.step("CONV_2D", 3, inputs, self.activation(op.y), **options)
        else:
            options["DepthMultiplier"] = op.y.shape[0] // op.x.shape[0]
            self.step("DEPTHWISE_CONV_2D", 3, inputs, self.activation(op.y), **options)

    def padded(
        self,
        x: Tensor,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        pads: Pads,
        out: tuple[int, ...],
        name: str,
    ) -> tuple[int, int]:
        """(index of the tensor to read, SAME or VALID)."""
        from tflite.Padding import Padding

        if not any(pads):
            return self.activation(x), Padding.VALID
        if pads == same_pads(x.shape[1:], kernel, stride):
            return self.activation(x), Padding.SAME
        top, left, bottom, right = pads
        table = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        amounts = self.row(f"{name}/pads", (4, 2), "INT32", table)
        shape = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right)
        wide = self.activation(Tensor(x.name, shape, x.quant), f"{name}/padded")
        self.step("PAD", 2, [self.activation(x), amounts], wide)
        return wide, Padding.VALID

    def finish(self) -> bytes:
        """The flatbuffer."""
        outputs = [self.index[self.network.heads[role].name] for role in HEADS]
        return serialise(self.rows, self.steps, self.inputs, outputs, self.network.manifest.model)


class Int8Graph(Graph):
    """Everything int8, but for operations that are to stay in float; biases int32 with scale s_in * s_w."""

    def __init__(self, network: Network) -> None:
        """Start with the input tensor alone."""
        super().__init__(network)
        self.island = _Island(self)

    def add_op(self, op: Op) -> None:
        """Append one operation; a float one between DEQUANTIZE and QUANTIZE."""
        if not isinstance(op, Conv | Add) or not op.real:
            super().add_op(op)
            return
        for x in (op.x,) if isinstance(op, Conv) else (op.a, op.b):
            if x.name not in self.island.index:
                self.step("DEQUANTIZE", 3, [self.activation(x)], self.island.activation(x))
        self.island.add_op(op)
        if op.y.quant is not UNUSED:
            self.step("QUANTIZE", 2, [self.island.activation(op.y)], self.activation(op.y))

    def weights(self, conv: Conv) -> tuple[int, int]:
        """Kernel [O, kh, kw, I] or, depthwise, [1, kh, kw, O]; bias [O]."""
        scale = safe_scale(conv)
        kernel, axis = _kernel_layout(conv, quantize_weight(conv.weight, scale))
        stored = self.row(f"{conv.name}/weight", kernel.shape, "INT8", kernel, scales=scale, axis=axis)
        # float32 products, because that is how engines compute the scale of the accumulator
        bias_scale = np.float32(conv.x.quant.scale) * scale
        bias = np.rint(conv.bias.astype(np.float64) / bias_scale.astype(np.float64)).astype(np.int32)
        return stored, self.row(f"{conv.name}/bias", bias.shape, "INT32", bias, scales=bias_scale)


class Uint8Graph(Int8Graph):
    """int8 behind a uint8 input, from which QUANTIZE takes 128."""

    input_dtype = "uint8"

    def add_input(self) -> None:
        """The uint8 picture and its QUANTIZE."""
        self.add_picture("QUANTIZE", f"{self.network.input.name}/stored")


class FloatGraph(Graph):
    """float32 behind a uint8 input, which DEQUANTIZE turns into (pixel - 128) / 128."""

    activation_type = "FLOAT32"
    input_dtype = "uint8"

    def add_input(self) -> None:
        """The uint8 picture and its DEQUANTIZE."""
        self.add_picture("DEQUANTIZE", f"{self.network.input.name}/real")

    def stored_as(self, quant: Quant) -> dict[str, Any]:
        """Floats have no quantization."""
        return {}

    def weights(self, conv: Conv) -> tuple[int, int]:
        """Kernel as above, bias [O], float32 as trained."""
        kernel, _ = _kernel_layout(conv, conv.weight)
        stored = self.row(f"{conv.name}/weight", kernel.shape, "FLOAT32", kernel)
        return stored, self.row(f"{conv.name}/bias", conv.bias.shape, "FLOAT32", conv.bias)


class _Island(FloatGraph):
    """The float operations inside an int8 graph: its tables and operators, activations of their own."""

    def __init__(self, graph: Graph) -> None:
        self.network, self.rows, self.steps = graph.network, graph.rows, graph.steps
        self.index: dict[str, int] = {}

    def activation(self, tensor: Tensor, name: str = "") -> int:
        """The index of the float tensor, made on first use."""
        name = name or tensor.name
        if name not in self.index:
            self.index[name] = super().activation(tensor, f"{name}/float")
        return self.index[name]


def safe_scale(conv: Conv) -> Array:
    """(O,) weight scales, larger where a dead channel's tiny scale would push its bias out of int32.

    The weights of such a channel shrink to nothing, which they are beside a bias 2^23 times their size.
    """
    smallest = np.abs(conv.bias) / (np.float32(conv.x.quant.scale) * BIAS_LIMIT)
    return np.maximum(conv.weight_scale, smallest.astype(np.float32))


def same_pads(size: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int]) -> Pads:
    """(top, left, bottom, right) that TensorFlow's SAME adds: as little as possible, the odd pixel at the end."""
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2


def _kernel_layout(conv: Conv, weight: Array) -> tuple[Array, int]:
    """(kernel, axis of the output channels): ONNX (O, I, kh, kw) -> TFLite's two layouts."""
    if conv.groups == 1:
        return weight.transpose(0, 2, 3, 1), 0
    return weight.transpose(1, 2, 3, 0), 3


def _strides(stride: tuple[int, int]) -> dict[str, int]:
    return {"StrideH": stride[0], "StrideW": stride[1]}


def _fused(act: Activation) -> int:
    from tflite.ActivationFunctionType import ActivationFunctionType as Fused

    return int({"linear": Fused.NONE, "relu": Fused.RELU, "relu6": Fused.RELU6}[act])


# Operator -> its options table in the schema.
_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "ADD": "AddOptions",
    "PAD": "PadOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "CONCATENATION": "ConcatenationOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SLICE": "SliceOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "QUANTIZE": "QuantizeOptions",
}


def serialise(
    rows: list[_Row], steps: list[_Step], inputs: list[int], outputs: list[int], spec: ModelSpec
) -> bytes:
    """The TFLite flatbuffer (schema version 3) of one subgraph, with its metadata."""
    import flatbuffers

    b: Any = flatbuffers.Builder(1 << 20)
    # Buffer 0 is empty by convention; activations point to it.
    buffers, tensors = [_buffer(b, None)], []
    zeros: dict[
        bytes, int
    ] = {}  # zero points, 8 bytes each: equal ones are written once, a seventh of the file
    for row in rows:
        position = 0
        if row.data is not None:
            position = len(buffers)
            buffers.append(_buffer(b, row.data))
        tensors.append(_tensor(b, row, position, zeros))
    codes = sorted({(step.code, step.version) for step in steps})
    operators = [_operator(b, step, codes.index((step.code, step.version))) for step in steps]
    subgraph = _table(
        b, "SubGraph",
        Tensors=_offsets(b, tensors), Inputs=_ints(b, inputs), Outputs=_ints(b, outputs),
        Operators=_offsets(b, operators), Name=b.CreateString("main"),
    )  # fmt: skip
    ends = [_offsets(b, [_tensor_map(b, rows[i].name, i) for i in indices]) for indices in (inputs, outputs)]
    key = b.CreateString(SIGNATURE)
    signature = _table(b, "SignatureDef", Inputs=ends[0], Outputs=ends[1], SignatureKey=key, SubgraphIndex=0)
    entry = _table(b, "Metadata", Name=b.CreateString(METADATA), Buffer=len(buffers))
    buffers.append(_buffer(b, metadata(spec, rows[inputs[0]].name)))
    model = _table(
        b, "Model",
        Version=3, OperatorCodes=_offsets(b, [_code(b, *code) for code in codes]),
        Subgraphs=_offsets(b, [subgraph]), Description=b.CreateString(f"edge-centernet {spec.name}"),
        Buffers=_offsets(b, buffers), Metadata=_offsets(b, [entry]), SignatureDefs=_offsets(b, [signature]),
    )  # fmt: skip
    b.Finish(model, b"TFL3")  # the schema's file identifier
    return bytes(b.Output())


def _tensor_map(b: Any, name: str, index: int) -> int:
    return _table(b, "TensorMap", Name=b.CreateString(name), TensorIndex=index)


def _tensor(b: Any, row: _Row, position: int, written: dict[bytes, int]) -> int:
    from tflite.TensorType import TensorType

    quant = {}
    if row.scales.size:
        zeros = np.full(row.scales.size, row.zero_point, np.int64)
        if zeros.tobytes() not in written:
            written[zeros.tobytes()] = b.CreateNumpyVector(zeros)
        scale, zero = b.CreateNumpyVector(row.scales), written[zeros.tobytes()]
        quant["Quantization"] = _table(
            b, "QuantizationParameters", Scale=scale, ZeroPoint=zero, QuantizedDimension=row.axis
        )
    return _table(
        b, "Tensor",
        Shape=_ints(b, row.shape), Type=getattr(TensorType, row.dtype), Buffer=position,
        Name=b.CreateString(row.name), **quant,
    )  # fmt: skip


def _operator(b: Any, step: _Step, code: int) -> int:
    from tflite.BuiltinOptions import BuiltinOptions

    kind = _OPTIONS[step.code]
    options = dict(step.options)
    if "Conv" in kind:  # the schema's default is 1, but not every reader applies defaults
        options |= {"DilationWFactor": 1, "DilationHFactor": 1}
    table = _table(b, kind, **options)
    return _table(
        b, "Operator",
        OpcodeIndex=code, Inputs=_ints(b, step.inputs), Outputs=_ints(b, step.outputs),
        BuiltinOptionsType=getattr(BuiltinOptions, kind), BuiltinOptions=table,
    )  # fmt: skip


def _code(b: Any, code: str, version: int) -> int:
    from tflite.BuiltinOperator import BuiltinOperator

    number = getattr(BuiltinOperator, code)
    # Readers older than 2020 know the one-byte field only; all our codes fit it.
    return _table(b, "OperatorCode", DeprecatedBuiltinCode=number, Version=version, BuiltinCode=number)


def _buffer(b: Any, data: bytes | None) -> int:
    if data is None:
        return _table(b, "Buffer")
    b.StartVector(1, len(data), 16)  # the schema's force_align: kernels read weights in place
    b.head = b.Head() - len(data)
    b.Bytes[b.Head() : b.Head() + len(data)] = data
    return _table(b, "Buffer", Data=b.EndVector())


def _table(b: Any, name: str, **fields: Any) -> int:
    """Write one schema table; `fields` in the schema's CamelCase, offsets already written."""
    import importlib

    module = importlib.import_module(f"tflite.{name}")
    getattr(module, f"{name}Start")(b)
    for key, value in fields.items():
        getattr(module, f"{name}Add{key}")(b, value)
    return int(getattr(module, f"{name}End")(b))


def _ints(b: Any, values: Any) -> int:
    return int(b.CreateNumpyVector(np.array(list(values), np.int32)))


def _offsets(b: Any, values: list[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependUOffsetTRelative(value)
    return int(b.EndVector())

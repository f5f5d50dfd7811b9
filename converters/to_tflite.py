"""QDQ network -> TFLite flatbuffer: full-integer int8, or float32 behind a uint8 input.

NHWC throughout, one operator for each operation of the network plus PAD where TensorFlow's SAME does not fit;
nothing in between is computed in float, nothing is transposed. Why our own writer:
docs/decisions/0002-own-tflite-writer.md.

It works in two steps. A `Graph` lists the tensors of the file, `rows`, and its operators, `steps`, in the
order of the network. `serialise` turns both lists into bytes. The same network must give the same bytes, so
whatever the format leaves open follows from the order of these lists.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.calibration.scheme import fitting_scales, stored_bias
from edge_centernet.converters import Save, written_manifest
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
WRITER_VERSION = "4"  # counts changes that change the bytes
SIGNATURE = "serving_default"  # the name that tools use when none is given


def convert(network: Network, precision: Precision) -> Save:
    """Build the flatbuffer; the result writes it to a .tflite. The same network gives the same bytes."""
    return _convert(Int8Graph if precision == "int8" else FloatGraph, network, precision)


def convert_uint8(network: Network, precision: Precision) -> Save:
    """The same with raw uint8 pixels as input, for programs that cannot subtract 128; one more operator."""
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
    """The flatbuffer with TFLite's associated files: the manifest, and labels.txt.

    They are a ZIP archive behind it. A flatbuffer is read from its start and an archive from its end, so that
    readers of one do not notice the other.
    """
    files = {f"{KEY}.json": manifest.to_json(), LABELS: "".join(f"{c}\n" for c in manifest.model.classes)}
    buffer = io.BytesIO()
    buffer.write(flatbuffer)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            # A fixed time and the attributes of Unix, wherever it runs: equal networks give equal bytes.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


def tensor_specs(network: Network, precision: Precision, dtype: str) -> dict[str, Any]:
    """The fields of the manifest that describe the file: NHWC tensors, precision. dtype: of its input."""
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
    """One tensor of the file; data: None for activations, which engines allocate themselves."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: bytes | None
    scales: Array
    zero_point: int
    axis: int


@dataclass
class _Step:
    """One operator of the file.

    code: its name in the schema. version: the first one with these types and options, since an engine refuses
    operators newer than itself. inputs, outputs: indices of tensors. options: fields of its options table.
    """

    code: str
    version: int
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any]


class Graph:
    """What both precisions share: the tables of tensors and operators, and padding."""

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
        """A uint8 input, and the operator `code` that turns it into the graph's own image, named `name`."""
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
                parts = [self.activation(part) for part in op.parts]
                self.step("CONCATENATION", 2, parts, self.activation(op.y), Axis=3)  # channels are last
            case MaxPool():
                x, padding = self.padded(op.x, op.kernel, op.stride, op.pads, op.y.shape, op.name)
                window = {"FilterHeight": op.kernel[0], "FilterWidth": op.kernel[1], **_strides(op.stride)}
                self.step("MAX_POOL_2D", 2, [x], self.activation(op.y), Padding=padding, **window)
            case DepthToSpace():
                x = self.activation(op.x)
                self.step("DEPTH_TO_SPACE", 1, [x], self.activation(op.y), BlockSize=op.block)
            case Crop():
                channels, height, width = op.y.shape
                corner = np.array([0, op.top, op.left, 0], np.int32)
                extent = np.array([1, height, width, channels], np.int32)
                begin = self.row(f"{op.name}/begin", (4,), "INT32", corner)
                size = self.row(f"{op.name}/size", (4,), "INT32", extent)
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
        """A window's padding in TFLite's terms: (index of the tensor to read, SAME or VALID).

        Args:
            x: what the window slides over.
            kernel: its height and width.
            stride: of rows and columns.
            pads: top, left, bottom, right.
            out: (C, H, W) of the result.
            name: of the operation.
        """
        from tflite.Padding import Padding

        # TFLite knows no amounts, only SAME and VALID. SAME is preferred to a PAD of its own, which would
        # write and read the whole tensor once more.
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
        """Tensor indices of the kernel, [O, kh, kw, I] or depthwise [1, kh, kw, O], and of the bias, [O]."""
        s_in = conv.x.quant.scale
        scale = fitting_scales(conv.bias, s_in, conv.weight_scale)
        kernel, axis = _kernel_layout(conv, quantize_weight(conv.weight, scale))
        stored = self.row(f"{conv.name}/weight", kernel.shape, "INT8", kernel, scales=scale, axis=axis)
        bias, bias_scale = stored_bias(conv.bias, s_in, scale)
        return stored, self.row(f"{conv.name}/bias", bias.shape, "INT32", bias, scales=bias_scale)


class Uint8Graph(Int8Graph):
    """int8 behind a uint8 input, from which QUANTIZE takes 128."""

    input_dtype = "uint8"

    def add_input(self) -> None:
        """The uint8 image and its QUANTIZE."""
        self.add_picture("QUANTIZE", f"{self.network.input.name}/stored")


class FloatGraph(Graph):
    """float32 behind a uint8 input, which DEQUANTIZE turns into (pixel - 128) / 128."""

    activation_type = "FLOAT32"
    input_dtype = "uint8"

    def add_input(self) -> None:
        """The uint8 image and its DEQUANTIZE."""
        self.add_picture("DEQUANTIZE", f"{self.network.input.name}/real")

    def stored_as(self, quant: Quant) -> dict[str, Any]:
        """Floats have no quantization."""
        return {}

    def weights(self, conv: Conv) -> tuple[int, int]:
        """Tensor indices of the kernel, in the layouts of int8, and of the bias; float32 as trained."""
        kernel, _ = _kernel_layout(conv, conv.weight)
        stored = self.row(f"{conv.name}/weight", kernel.shape, "FLOAT32", kernel)
        return stored, self.row(f"{conv.name}/bias", conv.bias.shape, "FLOAT32", conv.bias)


class _Island(FloatGraph):
    """The float operations inside an int8 graph: they share its tables, but have activations of their own."""

    def __init__(self, graph: Graph) -> None:
        self.network, self.rows, self.steps = graph.network, graph.rows, graph.steps
        self.index: dict[str, int] = {}

    def activation(self, tensor: Tensor, name: str = "") -> int:
        """The index of the float tensor, made on first use."""
        name = name or tensor.name
        if name not in self.index:
            self.index[name] = super().activation(tensor, f"{name}/float")
        return self.index[name]


def same_pads(size: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int]) -> Pads:
    """(top, left, bottom, right) of TensorFlow's SAME: as little as possible, the odd pixel at the end."""
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


# ---- the flatbuffer ----
#
# A FlatBuffer is built from its end to its start, and a table may only point to what has been written
# already: children first, the Model last. So the bytes stand in the order of the calls below, reversed.
#
# The order of the buffers is another thing: their indices in the Model.
#   0         empty. Index 0 means "no data": activations have it, and readers take it for granted.
#   1 .. n    the data of constant tensors, in the order of `rows`: a weight, its bias, the next weight and so
#             on, as the network reads them.
#   n + 1     the metadata. It is last, since its index is known only when all tensors have theirs; other
#             indices do not depend on it.
# Buffers are not shared, though equal constants exist (sizes, pads): they are a few bytes each.


def serialise(
    rows: list[_Row], steps: list[_Step], inputs: list[int], outputs: list[int], spec: ModelSpec
) -> bytes:
    """The TFLite flatbuffer (schema version 3) of one subgraph, with its metadata.

    Args:
        rows: its tensors.
        steps: its operators, in order of execution.
        inputs: indices of tensors.
        outputs: indices of tensors, in the order of HEADS: programs find them by place as well as by name.
        spec: for the metadata.
    """
    import flatbuffers
    from tflite.BuiltinOperator import BuiltinOperator

    b: Any = flatbuffers.Builder(1 << 20)
    # 1. Tensors, the data of each in front of its table.
    buffers, tensors = [_buffer(b, None)], []
    # Zero points take 8 bytes a channel, all of them 0 for weights: equal vectors are written once, which
    # saves a seventh of the file.
    zeros: dict[bytes, int] = {}
    for row in rows:
        position = 0
        if row.data is not None:
            position = len(buffers)
            buffers.append(_buffer(b, row.data))
        tensors.append(_tensor(b, row, position, zeros))
    # 2. Operators. They name their kind by its place in a list without repetitions, sorted so that it does
    #    not depend on which kind comes first.
    codes = sorted({(step.code, step.version) for step in steps})
    operators = [_operator(b, step, codes.index((step.code, step.version))) for step in steps]
    subgraph = _table(
        b, "SubGraph",
        Tensors=_offsets(b, tensors), Inputs=_ints(b, inputs), Outputs=_ints(b, outputs),
        Operators=_offsets(b, operators), Name=b.CreateString("main"),
    )  # fmt: skip
    # 3. The signature, by which programs find inputs and outputs under their names.
    ends = []
    for indices in (inputs, outputs):
        maps = [_table(b, "TensorMap", Name=b.CreateString(rows[i].name), TensorIndex=i) for i in indices]
        ends.append(_offsets(b, maps))
    key = b.CreateString(SIGNATURE)
    signature = _table(b, "SignatureDef", Inputs=ends[0], Outputs=ends[1], SignatureKey=key, SubgraphIndex=0)
    # 4. The metadata, in a buffer behind all others.
    entry = _table(b, "Metadata", Name=b.CreateString(METADATA), Buffer=len(buffers))
    buffers.append(_buffer(b, metadata(spec, rows[inputs[0]].name)))
    # 5. The model. Readers older than 2020 know the one-byte code only; all codes used here fit it.
    kinds = []
    for code, version in codes:
        number = getattr(BuiltinOperator, code)
        fields = {"DeprecatedBuiltinCode": number, "Version": version, "BuiltinCode": number}
        kinds.append(_table(b, "OperatorCode", **fields))
    model = _table(
        b, "Model",
        Version=3, OperatorCodes=_offsets(b, kinds), Subgraphs=_offsets(b, [subgraph]),
        Description=b.CreateString(f"edge-centernet {spec.name}"),
        Buffers=_offsets(b, buffers), Metadata=_offsets(b, [entry]), SignatureDefs=_offsets(b, [signature]),
    )  # fmt: skip
    b.Finish(model, b"TFL3")  # the schema's file identifier
    return bytes(b.Output())


def _tensor(b: Any, row: _Row, position: int, written: dict[bytes, int]) -> int:
    """A Tensor table; position: of its buffer; written: zero points -> where they stand already."""
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
    """An Operator table with its options; code: the place of its kind in the list of operator codes."""
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
    """A vector of offsets; written backwards like everything else, so that it reads in order."""
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependUOffsetTRelative(value)
    return int(b.EndVector())

"""From a QDQ ONNX file to the typed graph; what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConversionError, ManifestError
from edge_centernet.manifest import KEY, Manifest, Quant
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
)
from edge_centernet.qdq.onnx_graph import HEADS, manifest_of, read_model
from edge_centernet.qdq.storage import to_compute_form

Array = NDArray[Any]


def load(path: Path) -> Network:
    """Read and check an interchange file.

    Raises:
        ArtifactError: the file is missing or is not a readable ONNX file.
        ConversionError: it is ONNX, but not one of our networks.
        MissingDependency: the extra `convert` is not installed.
    """
    return parse_from(path, read_model(path))


def parse_from(path: Path, model: Any) -> Network:
    """`parse`, its errors beginning with the file that the model was read from."""
    try:
        return parse(model)
    except (ConversionError, ManifestError) as error:
        raise ConversionError(f"{path}: {error}") from None


def parse(model: Any) -> Network:
    """The typed graph of an onnx.ModelProto; raises ConversionError naming the node that does not fit."""
    manifest = _manifest(model)
    model = to_compute_form(model)
    reader = _Reader(model.graph)
    for node in model.graph.node:
        reader.read(node)
    heads = {role: reader.head(role) for role in HEADS}
    assert reader.image is not None  # heads exist, so the input was read
    network = Network(model, manifest, reader.image, tuple(reader.ops), heads)
    _check_manifest(network)
    return network


def _manifest(model: Any) -> Manifest:
    manifest = manifest_of(model)
    if manifest is None:
        raise ConversionError(
            f"expected an edge-centernet network (metadata {KEY!r}), got some other ONNX network"
        )
    return manifest


def _check_manifest(network: Network) -> None:
    """The graph and the manifest must tell the same story, or every device would decode nonsense."""
    manifest = network.manifest
    if manifest.precision != "int8":
        raise ConversionError(
            f"expected the quantized (QDQ) network, got a {manifest.precision} one: it has no scales"
        )
    if network.input.shape != manifest.input.chw:
        raise ConversionError(
            f"input: the manifest says {manifest.input.chw}, the graph {network.input.shape}"
        )
    for role in HEADS:
        tensor, spec = network.heads[role], getattr(manifest, role)
        if (tensor.shape, tensor.quant) != (spec.chw, spec.quant):
            raise ConversionError(
                f"output {role}: the manifest says {spec.chw} {spec.quant}, the graph {tensor.shape} {tensor.quant}"
            )


@dataclass
class _Weight:
    """A quantized weight on its way from its initializer to its Conv."""

    value: Array
    scale: Array


@dataclass
class _Reader:
    """Walks the nodes in graph order; each `_read_...` handles one op type."""

    graph: Any
    image: Tensor | None = None
    ops: list[Op] = field(default_factory=list)

    def __post_init__(self) -> None:
        from onnx import numpy_helper

        self.consts: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.weights: dict[str, _Weight] = {}
        self.stored: dict[str, Tensor] = {}  # int8 side: behind QuantizeLinear, before DequantizeLinear
        self.real: dict[str, Tensor] = {}  # float side: what Conv, Add, Resize and the like read
        self.consumers: dict[str, list[Any]] = {}
        self.floats: set[str] = set()  # those of `real` that were never stored
        self.done: set[str] = set()  # activations and QuantizeLinears that belong to the op in front of them
        for node in self.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def read(self, node: Any) -> None:
        """Dispatch on the op type."""
        if node.output[0] in self.done:
            return
        handlers: dict[str, Callable[[Any], None]] = {
            "QuantizeLinear": self._read_quantize,
            "DequantizeLinear": self._read_dequantize,
            "Conv": self._read_conv,
            "Add": self._read_add,
            "Concat": self._read_concat,
            "Resize": self._read_resize,
            "MaxPool": self._read_maxpool,
            "DepthToSpace": self._read_depth_to_space,
            "Slice": self._read_slice,
            "Constant": self._read_constant,
            "Identity": self._read_identity,
        }
        if node.op_type not in handlers:
            raise _error(
                node, f"this operation is not supported; expected one of {', '.join(sorted(handlers))}"
            )
        handlers[node.op_type](node)

    def head(self, role: str) -> Tensor:
        """The int8 graph output named `role`."""
        if role not in {o.name for o in self.graph.output} or role not in self.stored:
            found = ", ".join(o.name for o in self.graph.output)
            raise ConversionError(f"expected an int8 graph output named {role!r}, found: {found}")
        return self.stored[role]

    def _read_constant(self, node: Any) -> None:
        from onnx import numpy_helper

        self.consts[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def _read_identity(self, node: Any) -> None:
        """Exporters share equal initializers through Identity."""
        self.consts[node.output[0]] = self._const(node, 0)

    def _read_quantize(self, node: Any) -> None:
        """Of a weight; those behind activations were taken by `_finish`."""
        value = self.consts.get(node.input[0])
        if value is None:
            raise _error(
                node, f"input {node.input[0]!r} is neither a weight nor the result of a supported operation"
            )
        scale, zero = self._const(node, 1).reshape(-1), self._const(node, 2)
        if zero.dtype != np.int8 or zero.any():
            raise _error(node, "weights must be int8 with zero point 0")
        if len(scale) not in (1, len(value)) or (len(scale) > 1 and _attrs(node).get("axis", 1) != 0):
            raise _error(node, "weight scales must be one for all or one per output channel (axis 0)")
        self.weights[node.output[0]] = _Weight(
            value, np.broadcast_to(scale, (len(value),)).astype(np.float32)
        )

    def _read_dequantize(self, node: Any) -> None:
        source, result = node.input[0], node.output[0]
        if source in self.weights:
            self.weights[result] = self.weights[source]
        elif source in self.stored:
            if self._quant(node) != self.stored[source].quant:
                raise _error(node, "its scale and zero point differ from those of its QuantizeLinear")
            self.real[result] = self.stored[source]
        elif source in {i.name for i in self.graph.input}:
            self.image = self._image(node)
            self.real[result] = self.image
        else:
            raise _error(node, f"input {source!r} is neither the image nor the result of a QuantizeLinear")

    def _image(self, node: Any) -> Tensor:
        """The uint8 graph input; int8 engines store pixel - 128, hence the zero point moves by 128."""
        info = next(i for i in self.graph.input if i.name == node.input[0])
        shape = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        zero = self._const(node, 2)
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or zero.dtype != np.uint8:
            raise _error(
                node, f"the image must be uint8 [1, 3, height, width], got {zero.dtype} {list(shape)}"
            )
        quant = Quant(float(self._const(node, 1)), int(zero) - 128)
        return Tensor(info.name, (shape[1], shape[2], shape[3]), quant)

    def _read_conv(self, node: Any) -> None:
        attrs, weight = _attrs(node), self.weights.get(node.input[1])
        if real := weight is None:
            value = self._const(node, 1)
            weight = _Weight(value, np.ones(len(value), np.float32))
        x = self._input(node, 0, real)
        out, per_group, *kernel = weight.value.shape
        groups = attrs.get("group", 1)
        if groups != 1 and (groups != x.shape[0] or per_group != 1):
            raise _error(
                node,
                f"expected 1 group or one per channel (depthwise), got {groups} for {x.shape[0]} channels",
            )
        if any(d != 1 for d in attrs.get("dilations", [1, 1])):
            raise _error(node, "dilated convolutions are not supported")
        stride, pads, size = _window(node, x, kernel)
        bias = self._const(node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(out)
        act, y = self._finish(node, (out, *size), real)
        self.ops.append(
            Conv(
                node.name, x, y, weight.value.astype(np.float32), weight.scale, bias.astype(np.float32),
                stride, pads, groups, act, real,
            )
        )  # fmt: skip

    def _read_add(self, node: Any) -> None:
        real = any(name in self.floats for name in node.input) or self._read_as_float(node)
        a, b = self._input(node, 0, real), self._input(node, 1, real)
        if a.shape != b.shape:
            raise _error(node, f"expected two tensors of one shape, got {a.shape} and {b.shape}")
        act, y = self._finish(node, a.shape, real)
        self.ops.append(Add(node.name, a, b, y, act, real))

    def _read_as_float(self, node: Any) -> bool:
        """Whether somebody reads the result, behind its activation, without a QuantizeLinear in between."""
        after = self.consumers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type in ("Relu", "Clip"):
            after = self.consumers.get(after[0].output[0], [])
        return any(reader.op_type in ("Conv", "Add") for reader in after)

    def _read_concat(self, node: Any) -> None:
        parts = tuple(self._input(node, i) for i in range(len(node.input)))
        first = parts[0]
        if _attrs(node).get("axis") != 1 or any(part.shape[1:] != first.shape[1:] for part in parts):
            raise _error(node, f"expected channels of maps of one size, got {[part.shape for part in parts]}")
        if any(part.quant != first.quant for part in parts):
            raise _error(node, "expected one scale and zero point for all its inputs")
        y = self._same_storage(node, first, (sum(part.shape[0] for part in parts), *first.shape[1:]))
        self.ops.append(Concat(node.name, parts, y))

    def _read_resize(self, node: Any) -> None:
        attrs, x = _attrs(node), self._input(node, 0)
        mode = attrs.get("mode", b"nearest")
        rule = (
            attrs.get("coordinate_transformation_mode", b"half_pixel"),
            attrs.get("nearest_mode", b"round_prefer_floor"),
        )
        linear = mode == b"linear" and rule[0] in (b"half_pixel", b"pytorch_half_pixel")
        # at whole factors both rules read source pixel floor(i / factor)
        nearest = mode == b"nearest" and rule in (
            (b"asymmetric", b"floor"),
            (b"half_pixel", b"round_prefer_floor"),
        )
        if not linear and not nearest:
            raise _error(
                node,
                "expected a nearest Resize (asymmetric with floor, or half_pixel with round_prefer_floor) or a linear "
                "one (half_pixel; align_corners is not supported)",
            )
        if len(node.input) > 2 and node.input[2]:
            factors = [float(f) for f in self._const(node, 2)]
        else:
            factors = [float(s) / d for s, d in zip(self._const(node, 3), (1, *x.shape), strict=True)]
        factor = int(factors[2])
        if factors != [1, 1, factor, factor] or factor < 2:
            raise _error(node, f"expected one whole factor for height and width, got {factors}")
        y = self._same_storage(node, x, (x.shape[0], x.shape[1] * factor, x.shape[2] * factor))
        self.ops.append(Upsample(node.name, x, y, factor, linear))

    def _read_maxpool(self, node: Any) -> None:
        attrs, x = _attrs(node), self._input(node, 0)
        if attrs.get("ceil_mode", 0) or any(d != 1 for d in attrs.get("dilations", [1, 1])):
            raise _error(node, "ceil_mode and dilations are not supported")
        kernel = attrs["kernel_shape"]
        stride, pads, size = _window(node, x, kernel)
        producer = next((op for op in self.ops if op.y is x), None)
        if any(pads) and getattr(producer, "act", "linear") == "linear":
            raise _error(node, "padding is supported behind a Relu only (zeros must never win)")
        y = self._same_storage(node, x, (x.shape[0], *size))
        self.ops.append(MaxPool(node.name, x, y, (kernel[0], kernel[1]), stride, pads))

    def _read_depth_to_space(self, node: Any) -> None:
        attrs, x = _attrs(node), self._input(node, 0)
        block, (channels, height, width) = attrs["blocksize"], x.shape
        if attrs.get("mode", b"DCR") != b"DCR" or channels % block**2:
            raise _error(node, f"expected mode DCR and a multiple of {block**2} channels, got {channels}")
        y = self._same_storage(node, x, (channels // block**2, height * block, width * block))
        self.ops.append(DepthToSpace(node.name, x, y, block))

    def _read_slice(self, node: Any) -> None:
        x = self._input(node, 0)
        begins, ends, axes = (self._const(node, i).tolist() for i in (1, 2, 3))
        steps = self._const(node, 4).tolist() if len(node.input) > 4 and node.input[4] else [1] * len(axes)
        if not set(axes) <= {2, 3} or set(steps) != {1}:
            raise _error(node, f"expected a crop of height and width, got axes {axes} with steps {steps}")
        rows, columns = range(x.shape[1]), range(x.shape[2])
        for axis, begin, end in zip(axes, begins, ends, strict=True):
            part = slice(begin, end)
            rows, columns = (rows[part], columns) if axis == 2 else (rows, columns[part])
        if not rows or not columns:
            raise _error(node, "nothing is left of height or width")
        y = self._same_storage(node, x, (x.shape[0], len(rows), len(columns)))
        self.ops.append(Crop(node.name, x, y, rows[0], columns[0]))

    def _finish(self, node: Any, shape: tuple[int, ...], real: bool) -> tuple[Activation, Tensor]:
        """Follow Relu or Clip and QuantizeLinear behind `node`; returns the activation and the stored tensor."""
        act: Activation = "linear"
        after = self.consumers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type in ("Relu", "Clip"):
            node = after[0]
            act = "relu" if node.op_type == "Relu" else self._clip(node)
            self.done.add(node.output[0])
        if real:
            return act, self._float_result(node, shape)
        last = self._only_consumer(node)
        if last.op_type != "QuantizeLinear":
            raise _error(node, f"expected QuantizeLinear behind it, found {last.op_type} {last.name!r}")
        self.done.add(last.output[0])
        y = Tensor(last.output[0], (shape[0], shape[1], shape[2]), self._quant(last))
        self.stored[y.name] = y
        return act, y

    def _float_result(self, node: Any, shape: tuple[int, ...]) -> Tensor:
        """What a float operation puts out: read as it is by other float ones, through QuantizeLinear by all others."""
        name = node.output[0]
        stores = [n for n in self.consumers.get(name, []) if n.op_type == "QuantizeLinear"]
        if len(stores) > 1:
            raise _error(node, f"expected one QuantizeLinear behind it, found {len(stores)}")
        y = Tensor(name, (shape[0], shape[1], shape[2]), UNUSED)
        if stores:
            y = replace(y, name=stores[0].output[0], quant=self._quant(stores[0]))
            self.done.add(y.name)
            self.stored[y.name] = y
        self.real[name] = y
        self.floats.add(name)
        return y

    def _same_storage(self, node: Any, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The result of an operation that moves stored integers; a Q/DQ pair behind it must not change them."""
        y = Tensor(node.output[0], shape, x.quant)
        self.real[y.name] = y
        for after in self.consumers.get(y.name, []):
            if after.op_type == "QuantizeLinear":
                if self._quant(after) != x.quant:
                    raise _error(after, f"behind {node.op_type} the scale and zero point must not change")
                self.stored[after.output[0]] = y
                self.done.add(after.output[0])
        return y

    def _clip(self, node: Any) -> Activation:
        low = float(self._const(node, 1)) if len(node.input) > 1 and node.input[1] else -np.inf
        high = float(self._const(node, 2)) if len(node.input) > 2 and node.input[2] else np.inf
        if low == 0 and high in (6, np.inf):
            return "relu6" if high == 6 else "relu"
        raise _error(node, f"expected limits 0 and 6, got {low} and {high}")

    def _only_consumer(self, node: Any) -> Any:
        after = self.consumers.get(node.output[0], [])
        if len(after) != 1:
            raise _error(
                node, f"expected one reader of its result (Relu, Clip or QuantizeLinear), found {len(after)}"
            )
        return after[0]

    def _quant(self, node: Any) -> Quant:
        scale, zero = self._const(node, 1), self._const(node, 2)
        if scale.size != 1 or zero.dtype != np.int8:
            raise _error(node, f"activations must be int8 with one scale, got {zero.dtype} with {scale.size}")
        return Quant(float(scale.reshape(())), int(zero.reshape(())))

    def _input(self, node: Any, index: int, real: bool = False) -> Tensor:
        x = self.real.get(node.input[index])
        if x is None or (node.input[index] in self.floats and not real):
            raise _error(
                node,
                f"input {node.input[index]!r} is not quantized: expected the result of a DequantizeLinear",
            )
        return x

    def _const(self, node: Any, index: int) -> Array:
        if index >= len(node.input) or (value := self.consts.get(node.input[index])) is None:
            raise _error(node, f"input {index} must be a constant")
        return value


def _attrs(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _window(
    node: Any, x: Tensor, kernel: list[int]
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """(stride, pads top left bottom right, output height and width) of a Conv or MaxPool."""
    attrs = _attrs(node)
    if attrs.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _error(node, "expected explicit pads, got auto_pad")
    stride, pads = attrs.get("strides", [1, 1]), attrs.get("pads", [0, 0, 0, 0])
    height, width = ((x.shape[1 + i] + pads[i] + pads[2 + i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return (stride[0], stride[1]), (pads[0], pads[1], pads[2], pads[3]), (height, width)


def _error(node: Any, why: str) -> ConversionError:
    return ConversionError(f"{node.op_type} node {node.name or node.output[0]!r}: {why}")

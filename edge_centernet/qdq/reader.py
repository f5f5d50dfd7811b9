"""From a QDQ ONNX file to the typed graph; what does not fit is named.

Reading has three duties, a class for each: `_Tensors` knows what every name in the graph stands for,
`_Quantizers` follows the Q/DQ pairs, and `_Operations` turns all other nodes into the typed operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConversionError, ManifestError
from edge_centernet.manifest import KEY, Quant
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
    manifest = manifest_of(model)
    if manifest is None:
        raise ConversionError(
            f"expected an edge-centernet network (metadata {KEY!r}), got some other ONNX network"
        )
    # Files may hold either form; writers see the compute form only.
    model = to_compute_form(model)
    tensors = _Tensors(model.graph)
    quantizers = _Quantizers(tensors)
    operations = _Operations(tensors, quantizers)
    readers: dict[str, Callable[[Any], None]] = {
        "QuantizeLinear": quantizers.quantize,
        "DequantizeLinear": quantizers.dequantize,
        "Conv": operations.conv,
        "Add": operations.add,
        "Concat": operations.concat,
        "Resize": operations.resize,
        "MaxPool": operations.max_pool,
        "DepthToSpace": operations.depth_to_space,
        "Slice": operations.crop,
        "Constant": tensors.constant,
        "Identity": tensors.identity,
    }
    # ONNX lists nodes in an order of execution, so that whatever a node reads has been read before.
    for node in model.graph.node:
        if node.output[0] in quantizers.taken:
            continue
        if node.op_type not in readers:
            raise _error(
                node, f"this operation is not supported; expected one of {', '.join(sorted(readers))}"
            )
        readers[node.op_type](node)
    heads = {role: tensors.head(role) for role in HEADS}
    assert tensors.image is not None  # heads exist, so the input was read
    network = Network(model, manifest, tensors.image, tuple(operations.ops), heads)
    _check_manifest(network)
    return network


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
                f"output {role}: the manifest says {spec.chw} {spec.quant}, "
                f"the graph {tensor.shape} {tensor.quant}"
            )


class _Tensors:
    """What every name in the graph stands for: a constant, an activation, or the image."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.consts: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        # Each activation has two names: that of its integers, between QuantizeLinear and DequantizeLinear,
        # and that of the real values, which Conv, Add, Resize and the like read.
        self.stored: dict[str, Tensor] = {}
        self.real: dict[str, Tensor] = {}
        self.floats: set[str] = set()  # those of `real` that were never stored
        self.image: Tensor | None = None
        self._consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def constant(self, node: Any) -> None:
        """A Constant node is an initializer in another place."""
        from onnx import numpy_helper

        self.consts[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def identity(self, node: Any) -> None:
        """Exporters share equal initializers through Identity."""
        self.consts[node.output[0]] = self.const(node, 0)

    def const(self, node: Any, index: int) -> Array:
        """An input of a node that has to be a constant."""
        if index >= len(node.input) or (value := self.consts.get(node.input[index])) is None:
            raise _error(node, f"input {index} must be a constant")
        return value

    def input(self, node: Any, index: int, real: bool = False) -> Tensor:
        """An activation that a node reads; real: one that was never stored will do."""
        x = self.real.get(node.input[index])
        if x is None or (node.input[index] in self.floats and not real):
            raise _error(
                node,
                f"input {node.input[index]!r} is not quantized: expected the result of a DequantizeLinear",
            )
        return x

    def readers(self, node: Any) -> list[Any]:
        """The nodes that read the result of `node`, in graph order."""
        return self._consumers.get(node.output[0], [])

    def activation(self, node: Any) -> Any:
        """The Relu or Clip that alone reads the result of `node`, or None."""
        after = self.readers(node)
        return after[0] if len(after) == 1 and after[0].op_type in ("Relu", "Clip") else None

    def head(self, role: str) -> Tensor:
        """The int8 graph output named `role`."""
        if role not in {o.name for o in self.graph.output} or role not in self.stored:
            found = ", ".join(o.name for o in self.graph.output)
            raise ConversionError(f"expected an int8 graph output named {role!r}, found: {found}")
        return self.stored[role]


class _Quantizers:
    """Follows the Q/DQ pairs: how weights, the image and the results of operations are stored."""

    def __init__(self, tensors: _Tensors) -> None:
        self.tensors = tensors
        # Name of a quantized weight, before or behind its DequantizeLinear -> (float weight, (O,) scales).
        self.weights: dict[str, tuple[Array, Array]] = {}
        # Results of activation functions and QuantizeLinears that belong to the operation in front of them.
        self.taken: set[str] = set()

    def quantize(self, node: Any) -> None:
        """QuantizeLinear of a weight; those behind operations were taken along by `result` and `moved`."""
        value = self.tensors.consts.get(node.input[0])
        if value is None:
            raise _error(
                node, f"input {node.input[0]!r} is neither a weight nor the result of a supported operation"
            )
        scale, zero = self.tensors.const(node, 1).reshape(-1), self.tensors.const(node, 2)
        if zero.dtype != np.int8 or zero.any():
            raise _error(node, "weights must be int8 with zero point 0")
        if len(scale) not in (1, len(value)) or (len(scale) > 1 and _attrs(node).get("axis", 1) != 0):
            raise _error(node, "weight scales must be one for all or one per output channel (axis 0)")
        scales = np.broadcast_to(scale, (len(value),)).astype(np.float32)
        self.weights[node.output[0]] = (value, scales)

    def dequantize(self, node: Any) -> None:
        """DequantizeLinear of a weight, of a stored activation, or of the uint8 image."""
        source, result, tensors = node.input[0], node.output[0], self.tensors
        if source in self.weights:
            self.weights[result] = self.weights[source]
        elif source in tensors.stored:
            if self.quant(node) != tensors.stored[source].quant:
                raise _error(node, "its scale and zero point differ from those of its QuantizeLinear")
            tensors.real[result] = tensors.stored[source]
        elif info := next((i for i in tensors.graph.input if i.name == source), None):
            shape = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
            zero = tensors.const(node, 2)
            if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or zero.dtype != np.uint8:
                raise _error(
                    node, f"the image must be uint8 [1, 3, height, width], got {zero.dtype} {list(shape)}"
                )
            # int8 engines store pixel - 128, hence the zero point moves by 128.
            quant = Quant(float(tensors.const(node, 1)), int(zero) - 128)
            tensors.image = Tensor(source, (shape[1], shape[2], shape[3]), quant)
            tensors.real[result] = tensors.image
        else:
            raise _error(node, f"input {source!r} is neither the image nor the result of a QuantizeLinear")

    def quant(self, node: Any) -> Quant:
        """Scale and zero point of a Q or DQ node on an activation."""
        scale, zero = self.tensors.const(node, 1), self.tensors.const(node, 2)
        if scale.size != 1 or zero.dtype != np.int8:
            raise _error(node, f"activations must be int8 with one scale, got {zero.dtype} with {scale.size}")
        return Quant(float(scale.reshape(())), int(zero.reshape(())))

    def result(self, node: Any, shape: tuple[int, ...], real: bool) -> tuple[Activation, Tensor]:
        """The activation function behind an operation that computes, and its result, (C, H, W).

        real: the operation is a float one. Other float operations read its result as it is, all others read
        it through a QuantizeLinear, which need not be there.
        """
        tensors, act = self.tensors, "linear"
        if (activation := tensors.activation(node)) is not None:
            node, act = activation, "relu"
            if node.op_type == "Clip":
                given = [len(node.input) > i and bool(node.input[i]) for i in (1, 2)]
                low = float(tensors.const(node, 1)) if given[0] else -np.inf
                high = float(tensors.const(node, 2)) if given[1] else np.inf
                if low != 0 or high not in (6, np.inf):
                    raise _error(node, f"expected limits 0 and 6, got {low} and {high}")
                act = "relu6" if high == 6 else "relu"
            self.taken.add(node.output[0])
        after = tensors.readers(node)
        if real:
            after = [reader for reader in after if reader.op_type == "QuantizeLinear"]
            if len(after) > 1:
                raise _error(node, f"expected one QuantizeLinear behind it, found {len(after)}")
        elif len(after) != 1:
            raise _error(
                node, f"expected one reader of its result (Relu, Clip or QuantizeLinear), found {len(after)}"
            )
        elif after[0].op_type != "QuantizeLinear":
            raise _error(
                node, f"expected QuantizeLinear behind it, found {after[0].op_type} {after[0].name!r}"
            )
        y = Tensor(node.output[0], (shape[0], shape[1], shape[2]), UNUSED)
        if after:
            y = replace(y, name=after[0].output[0], quant=self.quant(after[0]))
            self.taken.add(y.name)
            tensors.stored[y.name] = y
        if real:
            tensors.real[node.output[0]] = y
            tensors.floats.add(node.output[0])
        return cast(Activation, act), y

    def moved(self, node: Any, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The result of an operation that moves integers of x; a Q/DQ pair behind it must not change them."""
        y = Tensor(node.output[0], shape, x.quant)
        self.tensors.real[y.name] = y
        for after in self.tensors.readers(node):
            if after.op_type == "QuantizeLinear":
                if self.quant(after) != x.quant:
                    raise _error(after, f"behind {node.op_type} the scale and zero point must not change")
                self.tensors.stored[after.output[0]] = y
                self.taken.add(after.output[0])
        return y


class _Operations:
    """Makes the typed operations, `ops`, in graph order; a method for each op type."""

    def __init__(self, tensors: _Tensors, quantizers: _Quantizers) -> None:
        self.tensors, self.quantizers = tensors, quantizers
        self.ops: list[Op] = []

    def conv(self, node: Any) -> None:
        """Conv, computed in float32 where its weight has no Q/DQ pair."""
        attrs, quantized = _attrs(node), self.quantizers.weights.get(node.input[1])
        real = quantized is None
        if quantized is None:
            weight = self.tensors.const(node, 1)
            scale = np.ones(len(weight), np.float32)  # not used
        else:
            weight, scale = quantized
        x = self.tensors.input(node, 0, real)
        out, per_group, *kernel = weight.shape
        groups = attrs.get("group", 1)
        if groups != 1 and (groups != x.shape[0] or per_group != 1):
            raise _error(
                node,
                f"expected 1 group or one per channel (depthwise), got {groups} for {x.shape[0]} channels",
            )
        if any(d != 1 for d in attrs.get("dilations", [1, 1])):
            raise _error(node, "dilated convolutions are not supported")
        stride, pads, size = _window(node, x, kernel)
        bias = self.tensors.const(node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(out)
        act, y = self.quantizers.result(node, (out, *size), real)
        weight, bias = weight.astype(np.float32), bias.astype(np.float32)
        self.ops.append(Conv(node.name, x, y, weight, scale, bias, stride, pads, groups, act, real))

    def add(self, node: Any) -> None:
        """Add. An addition has no weight that would tell whether it is a float one, but its neighbours do."""
        # Float is what reads a result that was never stored, or whose own result is read unstored.
        last = self.tensors.activation(node) or node
        real = any(name in self.tensors.floats for name in node.input) or any(
            reader.op_type in ("Conv", "Add") for reader in self.tensors.readers(last)
        )
        a, b = self.tensors.input(node, 0, real), self.tensors.input(node, 1, real)
        if a.shape != b.shape:
            raise _error(node, f"expected two tensors of one shape, got {a.shape} and {b.shape}")
        act, y = self.quantizers.result(node, a.shape, real)
        self.ops.append(Add(node.name, a, b, y, act, real))

    def concat(self, node: Any) -> None:
        """Concat of channels."""
        parts = tuple(self.tensors.input(node, i) for i in range(len(node.input)))
        first = parts[0]
        if _attrs(node).get("axis") != 1 or any(part.shape[1:] != first.shape[1:] for part in parts):
            raise _error(node, f"expected channels of maps of one size, got {[part.shape for part in parts]}")
        if any(part.quant != first.quant for part in parts):
            raise _error(node, "expected one scale and zero point for all its inputs")
        y = self.quantizers.moved(node, first, (sum(part.shape[0] for part in parts), *first.shape[1:]))
        self.ops.append(Concat(node.name, parts, y))

    def resize(self, node: Any) -> None:
        """Resize by a whole factor."""
        attrs, x = _attrs(node), self.tensors.input(node, 0)
        mode = attrs.get("mode", b"nearest")
        rule = (
            attrs.get("coordinate_transformation_mode", b"half_pixel"),
            attrs.get("nearest_mode", b"round_prefer_floor"),
        )
        linear = mode == b"linear" and rule[0] in (b"half_pixel", b"pytorch_half_pixel")
        # At whole factors both rules read source pixel floor(i / factor).
        nearest = mode == b"nearest" and rule in (
            (b"asymmetric", b"floor"),
            (b"half_pixel", b"round_prefer_floor"),
        )
        if not linear and not nearest:
            raise _error(
                node,
                "expected a nearest Resize (asymmetric with floor, or half_pixel with round_prefer_floor) or "
                "a linear one (half_pixel; align_corners is not supported)",
            )
        if len(node.input) > 2 and node.input[2]:
            factors = [float(f) for f in self.tensors.const(node, 2)]
        else:  # simplifiers write the result's size instead
            factors = [float(s) / d for s, d in zip(self.tensors.const(node, 3), (1, *x.shape), strict=True)]
        factor = int(factors[2])
        if factors != [1, 1, factor, factor] or factor < 2:
            raise _error(node, f"expected one whole factor for height and width, got {factors}")
        y = self.quantizers.moved(node, x, (x.shape[0], x.shape[1] * factor, x.shape[2] * factor))
        self.ops.append(Upsample(node.name, x, y, factor, linear))

    def max_pool(self, node: Any) -> None:
        """MaxPool, padded only where no value is negative: some engines pad with zeros."""
        attrs, x = _attrs(node), self.tensors.input(node, 0)
        if attrs.get("ceil_mode", 0) or any(d != 1 for d in attrs.get("dilations", [1, 1])):
            raise _error(node, "ceil_mode and dilations are not supported")
        kernel = attrs["kernel_shape"]
        stride, pads, size = _window(node, x, kernel)
        producer = next((op for op in self.ops if op.y is x), None)
        if any(pads) and getattr(producer, "act", "linear") == "linear":
            raise _error(node, "padding is supported behind a Relu only (zeros must never win)")
        y = self.quantizers.moved(node, x, (x.shape[0], *size))
        self.ops.append(MaxPool(node.name, x, y, (kernel[0], kernel[1]), stride, pads))

    def depth_to_space(self, node: Any) -> None:
        """DepthToSpace in the order of TFLite, which knows no other."""
        attrs, x = _attrs(node), self.tensors.input(node, 0)
        block, (channels, height, width) = attrs["blocksize"], x.shape
        if attrs.get("mode", b"DCR") != b"DCR" or channels % block**2:
            raise _error(node, f"expected mode DCR and a multiple of {block**2} channels, got {channels}")
        y = self.quantizers.moved(node, x, (channels // block**2, height * block, width * block))
        self.ops.append(DepthToSpace(node.name, x, y, block))

    def crop(self, node: Any) -> None:
        """Slice of height and width."""
        x, const = self.tensors.input(node, 0), self.tensors.const
        begins, ends, axes = (const(node, i).tolist() for i in (1, 2, 3))
        steps = const(node, 4).tolist() if len(node.input) > 4 and node.input[4] else [1] * len(axes)
        if not set(axes) <= {2, 3} or set(steps) != {1}:
            raise _error(node, f"expected a crop of height and width, got axes {axes} with steps {steps}")
        # Python slices a range by ONNX's rules: negative ends count from behind, larger ones are cut.
        rows, columns = range(x.shape[1]), range(x.shape[2])
        for axis, begin, end in zip(axes, begins, ends, strict=True):
            part = slice(begin, end)
            rows, columns = (rows[part], columns) if axis == 2 else (rows, columns[part])
        if not rows or not columns:
            raise _error(node, "nothing is left of height or width")
        y = self.quantizers.moved(node, x, (x.shape[0], len(rows), len(columns)))
        self.ops.append(Crop(node.name, x, y, rows[0], columns[0]))


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

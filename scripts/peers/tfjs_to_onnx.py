"""A TensorFlow.js graph model -> ONNX: what the two detectors of the npm registry are made of, and no more.

TensorFlow computes on (N, H, W, C); here maps are stored as (N, C, H, W) wherever that saves a Transpose, so
that no engine has to find out. What is not among the operations below raises ConversionError naming the node.
Batch size is 1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_centernet.errors import ConversionError

Array = NDArray[Any]
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def convert(model_json: Path, input_name: str, shape: Sequence[int], outputs: Sequence[str]) -> Any:
    """The part of the graph between `input_name` and `outputs` as onnx.ModelProto.

    input_name: any tensor. shape: its (1, C, H, W), whatever the layout that TensorFlow has it in. All
      float32.
    """
    content = json.loads(model_json.read_text())
    nodes = {node["name"]: node for node in content["modelTopology"]["node"]}
    writer = _Writer(nodes, _weights(model_json.parent, content["weightsManifest"]), input_name)
    for name in outputs:
        writer.need(name)
        writer.finish(name)
    into = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, list(shape))]
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    arrays = {name: np.ascontiguousarray(value) for name, value in writer.constants.items()}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(writer.nodes, model_json.stem, into, out, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def _weights(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, Array]:
    """Name -> value; those kept as float16 are widened."""
    found: dict[str, Array] = {}
    for group in manifest:
        data, at = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", entry)["dtype"])
            if stored.kind == "u":
                name = f"{folder}: {entry['name']}"
                raise ConversionError(f"{name}: expected float weights, got them as {stored}")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            value = np.frombuffer(data, stored, count, at).reshape(entry["shape"])
            found[entry["name"]] = value.astype(entry["dtype"])
            at += count * stored.itemsize
    return found


class _Writer:
    """Appends ONNX nodes for what the outputs need, inputs first."""

    def __init__(self, graph: dict[str, Any], weights: dict[str, Array], input_name: str) -> None:
        self._graph, self._weights, self._done = graph, weights, {input_name}
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self._values: dict[str, Array] = {}  # what is known before the network runs: shapes, permutations
        first = next(node for node in graph.values() if node["op"] == "Placeholder")
        is_nchw = input_name == first["name"] and _is_nchw(first)
        self._stored = {input_name: input_name}  # TensorFlow's tensor -> the one here
        self._turned = set() if is_nchw else {input_name}  # (N, H, W, C) for TensorFlow, (N, C, H, W) here
        self._write: dict[str, Callable[[str, dict[str, Any], list[str]], None]] = {
            "Conv2D": self._conv, "_FusedConv2D": self._conv, "DepthwiseConv2dNative": self._conv,
            "MaxPool": self._pool, "ResizeBilinear": self._resize, "FusedBatchNorm": self._batchnorm,
            "Transpose": self._transpose, "SplitV": self._split,
        }  # fmt: skip

    def need(self, tensor: str) -> None:
        """Make sure that `tensor` ("node" or "node:1") is written or known."""
        name = tensor.split(":")[0]
        if name in self._done:
            return
        self._done.add(name)
        if name in self._weights:
            self._values[name] = self._weights[name]
            return
        node = self._graph[name]
        if node["op"] == "Shape":
            return  # asked for its batch size only
        inputs = [i for i in node.get("input", []) if not i.startswith("^")]
        for i in inputs:
            self.need(i)
        if (known := self._fold(node, inputs)) is not None:
            self._values[name] = known
        elif node["op"] in self._write:
            self._write[node["op"]](name, node["attr"], inputs)
        else:
            self._simple(name, node, inputs)

    def _fold(self, node: dict[str, Any], inputs: list[str]) -> Array | None:
        """The value of an operation on shapes; None where there is none before the network runs."""
        if node["op"] == "StridedSlice" and self._graph[inputs[0]]["op"] == "Shape":
            return np.array(1, np.int32)  # the batch size
        if not inputs or any(i not in self._values for i in inputs):
            return None
        values = [self._values[i] for i in inputs]
        if node["op"] == "Pack":
            return np.stack(values)
        if node["op"] in ("Add", "AddV2"):
            return np.asarray(values[0] + values[1])
        if node["op"] == "SparseToDense":
            indices, shape, entries, default = values
            dense = np.full(shape.reshape(-1), default)
            dense[tuple(indices.reshape(-1, dense.ndim).T)] = entries
            return dense
        return None

    def finish(self, name: str) -> None:
        """Give an output its own name."""
        self._put("Identity", [self._straight(name)], name)

    def _simple(self, name: str, node: dict[str, Any], inputs: list[str]) -> None:
        """Operations that ONNX has too."""
        attr = node["attr"]
        match node["op"]:
            case "Add" | "AddV2" | "BiasAdd" | "AddN":
                self._elementwise("Add", name, inputs)
            case "Mul" | "Sigmoid" | "Relu" | "Identity":
                self._elementwise(node["op"], name, inputs)
            case "Relu6":
                self._elementwise("Clip", name, inputs, [self._const(name, 0.0), self._const(name, 6.0)])
            case "LeakyRelu":
                self._elementwise("LeakyRelu", name, inputs, alpha=float(attr["alpha"]["f"]))
            case "ConcatV2":
                parts = [self._straight(i) for i in inputs[:-1]]
                self._emit("Concat", name, parts, axis=int(self._values[inputs[-1]]))
            case "Reshape":
                shape = self._const(name, self._values[inputs[1]].astype(np.int64))
                self._emit("Reshape", name, [self._straight(inputs[0]), shape])
            case "Squeeze":
                axes = np.array([int(i) for i in attr["squeeze_dims"]["list"]["i"]], np.int64)
                self._emit("Squeeze", name, [self._straight(inputs[0]), self._const(name, axes)])
            case "Pad" | "PadV2":
                amounts = self._values[inputs[1]].T.reshape(-1).astype(np.int64)  # all begins, then all ends
                rest = [self._const(name, self._values[inputs[2]])] if len(inputs) > 2 else []
                self._emit("Pad", name, [self._straight(inputs[0]), self._const(name, amounts), *rest])
            case other:
                raise ConversionError(f"{name}: the operation {other} is not supported")

    def _elementwise(
        self, op: str, name: str, inputs: list[str], more: Sequence[str] = (), **attributes: Any
    ) -> None:
        """In whatever layout its maps have; a constant of channels follows them."""
        turned = all(i in self._turned or i in self._values for i in inputs)
        read = []
        for i in inputs:
            if i not in self._values:
                read.append(self._stored[i] if turned else self._straight(i))
                continue
            value = self._values[i]
            read.append(self._const(name, value.reshape(-1, 1, 1) if turned and value.ndim == 1 else value))
        self._emit(op, name, [*read, *more], turned, **attributes)

    def _conv(self, name: str, attr: dict[str, Any], inputs: list[str]) -> None:
        """Conv2D and its depthwise form, with the bias and activation that were fused into it."""
        weight, groups = self._values[inputs[1]], 1  # (kh, kw, I, O), depthwise (kh, kw, C, multiplier)
        if self._graph[name]["op"].startswith("Depthwise"):
            kh, kw, groups, multiplier = weight.shape
            weight = weight.reshape(kh, kw, 1, groups * multiplier)
        kernel = self._const(name, weight.transpose(3, 2, 0, 1))
        steps = [_bytes(step).decode() for step in attr.get("fused_ops", {}).get("list", {}).get("s", [])]
        bias = [self._const(name, self._values[inputs[2]])] if "BiasAdd" in steps else []
        if not set(steps) <= {"BiasAdd", "Relu", "Relu6"}:
            got = ", ".join(steps)
            raise ConversionError(f"{name}: expected BiasAdd, Relu or Relu6 fused into it, got {got}")
        where = {"kernel_shape": list(weight.shape[:2]), "group": groups, **_window(attr)}
        self._emit("Conv", name, [self._nchw(inputs[0]), kernel, *bias], True, **where)
        if "Relu6" in steps:
            limits = [self._stored[name], self._const(name, 0.0), self._const(name, 6.0)]
            self._stored[name] = self._put("Clip", limits, f"{name}/act")
        elif "Relu" in steps:
            self._stored[name] = self._put("Relu", [self._stored[name]], f"{name}/act")

    def _pool(self, name: str, attr: dict[str, Any], inputs: list[str]) -> None:
        size = [int(i) for i in attr["ksize"]["list"]["i"][1:3]]
        self._emit("MaxPool", name, [self._nchw(inputs[0])], True, kernel_shape=size, **_window(attr))

    def _resize(self, name: str, attr: dict[str, Any], inputs: list[str]) -> None:
        if not attr.get("half_pixel_centers", {}).get("b") or attr.get("align_corners", {}).get("b"):
            raise ConversionError(f"{name}: expected a ResizeBilinear with half_pixel_centers")
        x = self._nchw(inputs[0])
        first = [self._const(name, np.array([0])), self._const(name, np.array([2]))]
        channels = self._put("Slice", [self._put("Shape", [x], f"{name}/shape"), *first], f"{name}/channels")
        sides = self._const(name, self._values[inputs[1]].astype(np.int64))
        size = self._put("Concat", [channels, sides], f"{name}/size", axis=0)
        rule = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        self._emit("Resize", name, [x, "", "", size], True, **rule)

    def _batchnorm(self, name: str, attr: dict[str, Any], inputs: list[str]) -> None:
        """Of constants: a product and a sum."""
        scale, offset, mean, variance = (self._values[i].reshape(-1, 1, 1) for i in inputs[1:])
        gain = scale / np.sqrt(variance + attr["epsilon"]["f"])
        y = self._put("Mul", [self._nchw(inputs[0]), self._const(name, gain)], f"{name}/mul")
        self._emit("Add", name, [y, self._const(name, offset - mean * gain)], True)

    def _transpose(self, name: str, attr: dict[str, Any], inputs: list[str]) -> None:
        """Between the two layouts of a map: nothing moves, its name alone changes sides."""
        order, x = self._values[inputs[1]].tolist(), inputs[0]
        if order == TO_NHWC and x not in self._turned:
            self._stored[name] = self._stored[x]
            self._turned.add(name)
        elif order == TO_NCHW and x in self._turned:
            self._stored[name] = self._stored[x]
        else:
            self._emit("Transpose", name, [self._straight(x)], perm=order)

    def _split(self, name: str, attr: dict[str, Any], inputs: list[str]) -> None:
        sizes, axis = self._values[inputs[1]].astype(np.int64), int(self._values[inputs[2]])
        read = [self._straight(inputs[0]), self._const(name, sizes)]
        names = [name, *(f"{name}:{i}" for i in range(1, len(sizes)))]
        stored = [f"{part}/split" for part in names]
        self.nodes.append(helper.make_node("Split", read, stored, axis=axis))
        self._stored.update(zip(names, stored, strict=True))

    def _nchw(self, name: str) -> str:
        """TensorFlow's (N, H, W, C) map `name` as (N, C, H, W)."""
        if name in self._turned:
            return self._stored[name]
        return self._put("Transpose", [self._stored[name]], f"{name}/nchw{len(self.nodes)}", perm=TO_NCHW)

    def _straight(self, name: str) -> str:
        """`name` in the layout that TensorFlow has it in."""
        if name not in self._turned:
            return self._stored[name]
        return self._put("Transpose", [self._stored[name]], f"{name}/nhwc{len(self.nodes)}", perm=TO_NHWC)

    def _emit(self, op: str, name: str, inputs: list[str], turned: bool = False, **attributes: Any) -> None:
        """Append what computes TensorFlow's tensor `name`."""
        self._stored[name] = self._put(op, inputs, f"{name}/{op}", **attributes)
        if turned:
            self._turned.add(name)

    def _put(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _const(self, owner: str, value: Any) -> str:
        """A constant: float32, or of what integer type it is."""
        array = np.asarray(value)
        name = f"{owner}/const{len(self.constants)}"
        self.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name


def _is_nchw(placeholder: dict[str, Any]) -> bool:
    """Whether a network's own input has its three colours first."""
    sides = [int(d["size"]) for d in placeholder["attr"]["shape"]["shape"]["dim"]]
    return len(sides) == 4 and sides[1] == 3


def _window(attr: dict[str, Any]) -> dict[str, Any]:
    """Strides and padding in ONNX's words. TensorFlow's SAME puts the odd pixel at the end."""
    padding = _bytes(attr["padding"]["s"]).decode()
    strides = [int(i) for i in attr["strides"]["list"]["i"][1:3]]
    return {"strides": strides, "auto_pad": {"SAME": "SAME_UPPER", "VALID": "VALID"}[padding]}


def _bytes(text: str | list[int]) -> bytes:
    """A string of the graph: base64, or a list of numbers in files of older converters."""
    return bytes(text) if isinstance(text, list) else base64.b64decode(text)

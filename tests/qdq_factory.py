"""A small but realistic QDQ network in the interchange format, built with `onnx.helper` and random weights.

Same structure as the shipped network: inverted residuals with TensorFlow SAME padding at stride 2, depthwise
convolutions, residual additions, a nearest x2 neck with lateral additions up to stride 4, three heads.
Scales are measured: the float network runs on calibration images while it is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_centernet.manifest import KEY, Manifest, ModelSpec, Quant, TensorSpec

Array = NDArray[Any]
SAME_STRIDE_2 = [0, 0, 1, 1]


def run_node(node: onnx.NodeProto, inputs: dict[str, Array]) -> Array:
    """One node on given inputs, by ONNX Runtime."""
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in inputs.items()
    ]
    out = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", infos, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


@dataclass
class Network:
    """A float network, evaluated on the calibration images while it is built.

    Knowing every activation, `conv` can normalise its output per channel as BatchNorm would (an unnormalised
    random network is chaotic: one rounding step in the stem changes everything behind it) and ranges are
    exact.
    """

    rng: np.random.Generator
    weight_max: int = 127
    depthwise_max: int = 127
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    consts: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)  # largest stored value of each weight
    quants: dict[str, Quant] = field(default_factory=dict)
    values: dict[str, Array] = field(
        default_factory=dict
    )  # activations of the calibration images, (N, C, H, W)

    def name(self, kind: str) -> str:
        """A fresh tensor name."""
        return f"{kind}_{len(self.nodes)}_{len(self.consts)}"

    def channels(self, x: str) -> int:
        """Channel count of an activation."""
        return int(self.values[x].shape[1])

    def node(self, op: str, inputs: list[str], output: str = "", **attrs: Any) -> str:
        """Append one node and evaluate it; returns its output."""
        output = output or self.name(op.lower())
        node = helper.make_node(op, inputs, [output], name=f"node_{output}", **attrs)
        self.nodes.append(node)
        known = self.consts | self.weights | self.values
        self.values[output] = run_node(node, {i: known[i] for i in inputs if i})
        return output

    def const(self, kind: str, value: Any) -> str:
        """Append one initializer; returns its name."""
        name = self.name(kind)
        self.consts[name] = np.asarray(value)
        return name

    def conv(
        self, x: str, out: int, k: int = 1, stride: int = 1, groups: int = 1, act: str = "relu6", **how: Any
    ) -> str:
        """Convolution with heavy-tailed random weights, normalised output, activation, quantization.

        how: pads (ONNX order), mean and std of the output, name of the output.
        """
        weight_name, bias_name = self.name("w"), self.name("b")
        pads = how.get("pads") or (SAME_STRIDE_2 if stride == 2 and k == 3 else [k // 2] * 4)
        attrs = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": pads, "group": groups}
        # with mean 1 rounding noise averages out, as in trained networks; with mean 0 every layer amplifies
        # it
        weight = (self.rng.standard_t(5, (out, self.channels(x) // groups, k, k)) + 1.0).astype(np.float32)
        inputs = {x: self.values[x], "w": weight, "b": np.zeros(out, np.float32)}
        y = run_node(helper.make_node("Conv", [*inputs], ["y"], **attrs), inputs)
        mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3)) + 1e-3
        gain = how.get("std", 1.0) * self.rng.uniform(0.5, 1.5, out) / std
        shift = how.get("mean", 0.0) + self.rng.normal(0, 0.3, out)
        self.limits[weight_name] = self.weight_max if groups == 1 else self.depthwise_max
        self.weights[weight_name] = (weight * gain[:, None, None, None]).astype(np.float32)
        self.consts[bias_name] = (shift - mean * gain).astype(np.float32)
        return self.activate(
            self.node("Conv", [x, weight_name, bias_name], how.get("output", ""), **attrs), act
        )

    def activate(self, x: str, act: str) -> str:
        """relu6 (Clip), relu or linear; the result gets a Q/DQ pair."""
        if act == "relu6":
            low, high = self.const("low", np.float32(0)), self.const("high", np.float32(6))
            x = self.node("Clip", [x, low, high])
        elif act == "relu":
            x = self.node("Relu", [x])
        # the 0.02 % tails saturate, as with learned step sizes
        self.quants[x] = affine(*np.quantile(self.values[x], [0.0002, 0.9998]))
        return x

    def add(self, a: str, b: str, act: str = "linear") -> str:
        """Elementwise addition, quantized."""
        return self.activate(self.node("Add", [a, b]), act)

    def inverted_residual(self, x: str, out: int, stride: int, expand: int = 6) -> str:
        """MobileNetV2's block: expand, depthwise, project, and the shortcut where shapes allow."""
        cin = self.channels(x)
        y = self.conv(x, cin * expand) if expand > 1 else x
        y = self.conv(y, cin * expand, 3, stride, groups=cin * expand)
        y = self.conv(y, out, act="linear")
        return self.add(x, y) if stride == 1 and cin == out else y

    def upsample(self, x: str) -> str:
        """Nearest x2, as torch exports it; no Q/DQ behind it."""
        scales = self.const("scales", np.array([1, 1, 2, 2], np.float32))
        attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.node("Resize", [x, "", scales], **attrs)


def mobilenet(net: Network, x: str, width: float) -> list[str]:
    """Features at strides 4, 8, 16, 32."""
    ch = [max(8, int(c * width) // 8 * 8) for c in (32, 16, 24, 32, 64, 96, 160, 320)]
    x = net.conv(x, ch[0], 3, 2)  # (B, C, H/2, W/2)
    x = net.inverted_residual(x, ch[1], 1, expand=1)
    features = []
    for out, stride, repeat in ((ch[2], 2, 2), (ch[3], 2, 2), (ch[4], 2, 2), (ch[5], 1, 1), (ch[6], 2, 2)):
        for i in range(repeat):
            x = net.inverted_residual(x, out, stride if i == 0 else 1)
        features.append(x)
    return [features[0], features[1], features[3], features[4]]


def resnet(net: Network, x: str, width: float) -> list[str]:
    """Features at strides 4, 8, 16, 32 from basic blocks with symmetric padding and a padded MaxPool."""
    ch = [max(8, int(c * width) // 8 * 8) for c in (64, 128, 256, 512)]
    x = net.conv(x, ch[0], 7, 2, act="relu", pads=[3] * 4)
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    features = []
    for i, out in enumerate(ch):
        stride = 1 if i == 0 else 2
        y = net.conv(x, out, 3, stride, act="relu", pads=[1] * 4)
        y = net.conv(y, out, 3, act="linear")
        x = net.add(x if stride == 1 else net.conv(x, out, 1, 2, act="linear"), y, "relu")
        features.append(x)
    return features


def lateral_neck(net: Network, features: list[str], neck: int) -> str:
    """Nearest x2 and lateral additions, up to stride 4."""
    x = net.conv(features[-1], neck, act="linear")
    for feature in reversed(features[:-1]):
        x = net.add(net.upsample(x), net.conv(feature, neck, act="linear"), "relu")
        x = net.conv(net.conv(x, neck, 3, groups=neck), neck)
    return x


def deconv_neck(net: Network, features: list[str], neck: int) -> str:
    """Three transposed convolutions as in the original CenterNet: a 2x2 convolution and an interleaving."""
    x = features[-1]
    for _ in range(3):
        x = net.conv(x, 4 * neck, 2, act="relu", pads=[1] * 4)  # (B, 4 * neck, H + 1, W + 1)
        x = net.node("DepthToSpace", [x], blocksize=2, mode="DCR")
        x = net.node("Slice", [x, *(net.const("cut", np.array(v)) for v in ([1, 1], [-1, -1], [2, 3]))])
    return x


def heads(net: Network, x: str, classes: int, neck: int) -> None:
    """The heads `heat`, `size`, `offset`."""
    for role, channels, mean, std in (
        ("heat", classes, -2.0, 2.0),
        ("size", 2, 6.0, 2.0),
        ("offset", 2, 0.5, 0.2),
    ):
        y = net.conv(net.conv(x, neck, 3, groups=neck), neck)
        net.conv(y, channels, act="linear", output=f"{role}_float", mean=mean, std=std)


def affine(low: float, high: float) -> Quant:
    """Int8 quantization of [low, high], zero included exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    return Quant(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def quantize(net: Network) -> list[onnx.NodeProto]:
    """The nodes with Q/DQ pairs put behind observed tensors, weights and input."""
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}

    def pair(x: str, scale: Array, zero: Array, axis: int | None = None) -> None:
        params = [net.const("scale", scale), net.const("zero", zero)]
        attrs = {} if axis is None else {"axis": axis}
        head = x.removesuffix("_float") if x.endswith("_float") and x != "image_float" else ""
        quantized, back = head or f"{x}_q", f"{x}_dq"
        nodes.append(
            helper.make_node("QuantizeLinear", [x, *params], [quantized], name=f"{x}_quant", **attrs)
        )
        if not head:
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [quantized, *params], [back], name=f"{x}_dequant", **attrs
                )
            )
            renamed[x] = back

    params = [net.const("scale", np.float32(1 / 128)), net.const("zero", np.uint8(128))]
    nodes.append(helper.make_node("DequantizeLinear", ["image", *params], ["image_dq"], name="image_dequant"))
    renamed["image_float"] = "image_dq"
    for name, weight in net.weights.items():
        scale = np.abs(weight).max((1, 2, 3)) / net.limits[name]
        pair(name, scale.astype(np.float32), np.zeros(len(scale), np.int8), 0)
    for node in net.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [renamed.get(i, i) for i in node.input]
        nodes.append(copy)
        if quant := net.quants.get(node.output[0]):
            pair(node.output[0], np.float32(quant.scale), np.int8(quant.zero_point))
    return nodes


def photos(count: int, height: int, width: int, seed: int = 0) -> list[Array]:
    """Smooth colourful pictures with edges, (H, W, 3) uint8: natural enough for realistic activations."""
    import cv2

    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(6):
            x, y = rng.integers(0, width), rng.integers(0, height)
            color = tuple(int(c) for c in rng.integers(0, 256, 3))
            cv2.rectangle(
                image,
                (int(x), int(y)),
                (int(x + rng.integers(8, 90)), int(y + rng.integers(8, 90))),
                color,
                -1,
            )
        images.append(image)
    return images


def build(
    height: int = 96,
    width: int = 128,
    classes: int = 5,
    *,
    backbone: str = "mobilenet",
    scale: float = 0.5,
    neck: int = 32,
    neck_kind: str = "lateral",
    weight_max: int = 127,
    depthwise_max: int = 127,
    seed: int = 1,
) -> onnx.ModelProto:
    """The complete QDQ ONNX with its manifest.

    height, width: input pixels; scale: width multiplier; weight_max, depthwise_max: largest stored weight of
    dense and depthwise convolutions (127, or 63 for 7 bits).
    """
    net = Network(np.random.default_rng(seed), weight_max, depthwise_max)
    images = np.stack(photos(4, height, width, seed)).transpose(0, 3, 1, 2)
    net.values["image_float"] = (images.astype(np.float32) - 128) / 128
    features = {"mobilenet": mobilenet, "resnet": resnet}[backbone](net, "image_float", scale)
    heads(
        net, {"lateral": lateral_neck, "deconv": deconv_neck}[neck_kind](net, features, neck), classes, neck
    )
    nodes = quantize(net)
    cells = (height // 4, width // 4)
    outputs = {"heat": classes, "size": 2, "offset": 2}
    graph = helper.make_graph(
        nodes,
        "centernet",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, height, width])],
        [helper.make_tensor_value_info(n, TensorProto.INT8, [1, c, *cells]) for n, c in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in (net.consts | net.weights).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    specs = {
        n: TensorSpec(n, (1, c, *cells), "NCHW", "int8", net.quants[f"{n}_float"]) for n, c in outputs.items()
    }
    spec = ModelSpec("test", "0", height, width, tuple(f"class {i}" for i in range(classes)))
    manifest = Manifest(
        spec,
        TensorSpec("image", (1, 3, height, width), "NCHW", "uint8", Quant(1 / 128, 128)),
        precision="int8",
        **specs,
    )
    helper.set_model_props(model, {KEY: manifest.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def write(path: Path, **how: Any) -> Path:
    """`build(**how)` saved to `path`."""
    onnx.save(build(**how), path)
    return path

"""What the npm registry's TensorFlow.js models are converted by computes what TensorFlow defines."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edge_centernet.errors import ConversionError

torch = pytest.importorskip("torch", reason="its operators are the reference")

import torch.nn.functional as F  # noqa: E402
from peers import tfjs_to_onnx  # noqa: E402

RNG = np.random.default_rng(0)


def text(value: str) -> dict[str, Any]:
    """A string attribute as current converters write it."""
    return {"s": base64.b64encode(value.encode()).decode()}


def node(name: str, op: str, *inputs: str, **attr: Any) -> dict[str, Any]:
    """One node of the graph."""
    return {"name": name, "op": op, "input": list(inputs), "attr": attr}


def window(stride: int, padding: str = "SAME") -> dict[str, Any]:
    """Attributes of a convolution."""
    return {"strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}, "padding": text(padding)}


def write(
    folder: Path, nodes: list[dict[str, Any]], weights: dict[str, np.ndarray], half: tuple[str, ...] = ()
) -> Path:
    """model.json and its weights in two shards; those in `half` are stored as float16."""
    entries, data = [], b""
    for name, value in weights.items():
        entry: dict[str, Any] = {"name": name, "shape": list(value.shape), "dtype": value.dtype.name}
        if name in half:
            entry["quantization"] = {"dtype": "float16"}
            value = value.astype(np.float16)
        entries.append(entry)
        data += value.tobytes()
        nodes.append(node(name, "Const"))
    (folder / "a.bin").write_bytes(data[:100])
    (folder / "b.bin").write_bytes(data[100:])
    manifest = [{"paths": ["a.bin", "b.bin"], "weights": entries}]
    path = folder / "model.json"
    path.write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}))
    return path


def image(sides: tuple[int, ...]) -> dict[str, Any]:
    """The input of the graph."""
    return node("image", "Placeholder", shape={"shape": {"dim": [{"size": str(side)} for side in sides]}})


def run(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """By ONNX Runtime."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {session.get_inputs()[0].name: x})]


def kernel_of(weight: np.ndarray) -> torch.Tensor:
    """TensorFlow's (kh, kw, I, O) as PyTorch has it."""
    return torch.from_numpy(weight.transpose(3, 2, 0, 1).copy())


def test_convolutions_norms_and_reshapes_of_an_nhwc_graph(tmp_path: Path) -> None:
    """A stride-2 SAME convolution pads 0 before and 1 after; Reshape reads rows, columns, channels."""
    dense = RNG.normal(0, 1, (3, 3, 3, 8)).astype(np.float32)
    deep = RNG.normal(0, 1, (3, 3, 8, 1)).astype(np.float32)
    scale, offset, mean = (RNG.normal(1, 0.3, 8).astype(np.float32) for _ in range(3))
    variance, bias = RNG.uniform(0.5, 2, 8).astype(np.float32), RNG.normal(0, 1, 8).astype(np.float32)
    nodes = [
        image((1, 10, 12, 3)),
        node("conv", "Conv2D", "image", "dense", **window(2)),
        node("norm", "FusedBatchNorm", "conv", "scale", "offset", "mean", "variance", epsilon={"f": 0.001}),
        node("six", "Relu6", "norm"),
        node("deep", "DepthwiseConv2dNative", "six", "kernel", **window(1)),
        node("biased", "BiasAdd", "deep", "bias"),
        node("sum", "Add", "biased", "six"),
        node("sizes", "Shape", "sum"),
        node("batch", "StridedSlice", "sizes", "zero", "one", "one"),
        node("shape", "Pack", "batch", "minus", "eight"),
        node("flat", "Reshape", "sum", "shape"),
        node("both", "ConcatV2", "flat", "flat", "one0"),
    ]
    weights = {
        "dense": dense, "kernel": deep, "scale": scale, "offset": offset, "mean": mean, "variance": variance,
        "bias": bias,
        "zero": np.array([0], np.int32), "one": np.array([1], np.int32), "one0": np.array(1, np.int32),
        "minus": np.array(-1, np.int32), "eight": np.array(8, np.int32),
    }  # fmt: skip
    model = tfjs_to_onnx.convert(write(tmp_path, nodes, weights), "image", (1, 3, 10, 12), ("both",))
    assert [n.op_type for n in model.graph.node].count("Transpose") <= 2  # around Reshape only

    x = RNG.normal(0, 1, (1, 3, 10, 12)).astype(np.float32)
    y = F.conv2d(
        F.pad(torch.from_numpy(x), (0, 1, 0, 1)),
        torch.from_numpy(dense.transpose(3, 2, 0, 1).copy()),
        stride=2,
    )
    y = F.batch_norm(y, *(torch.from_numpy(v) for v in (mean, variance, scale, offset)), eps=0.001)
    six = F.relu6(y)
    y = F.conv2d(
        six, torch.from_numpy(deep.transpose(2, 3, 0, 1).copy()), torch.from_numpy(bias), padding=1, groups=8
    )
    expected = (y + six).permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    np.testing.assert_allclose(
        run(model, x)[0], np.concatenate([expected, expected], 1), rtol=1e-4, atol=1e-4
    )


def test_an_nchw_graph_loses_its_transposes(tmp_path: Path) -> None:
    """As onnx-tf writes PyTorch's networks: Transposes around convolutions, Pad in front, float16 weights."""
    dense = RNG.normal(0, 1, (3, 3, 3, 4)).astype(np.float16).astype(np.float32)
    nodes = [
        image((1, 3, 8, 8)),
        node("pad", "Pad", "image", "amounts"),
        node("nhwc", "Transpose", "pad", "there"),
        node("conv", "Conv2D", "nhwc", "dense", **window(1, "VALID")),
        node("nchw", "Transpose", "conv", "back"),
        node("leaky", "LeakyRelu", "nchw", alpha={"f": 0.1}),
        node("again", "Transpose", "leaky", "there"),
        node(
            "large",
            "ResizeBilinear",
            "again",
            "size",
            half_pixel_centers={"b": True},
            align_corners={"b": False},
        ),
        node("straight", "Transpose", "large", "back"),
        node("parts", "SplitV", "straight", "widths", "axis"),
        node("score", "Sigmoid", "parts"),
    ]
    weights = {
        "dense": dense, "amounts": np.array([[0, 0], [0, 0], [1, 1], [1, 1]], np.int32),
        "there": np.array([0, 2, 3, 1], np.int32), "back": np.array([0, 3, 1, 2], np.int32),
        "size": np.array([16, 16], np.int32), "widths": np.array([3, 1], np.int32),
        "axis": np.array(1, np.int32),
    }  # fmt: skip
    path = write(tmp_path, nodes, weights, half=("dense",))
    model = tfjs_to_onnx.convert(path, "image", (1, 3, 8, 8), ("score", "parts:1"))
    assert "Transpose" not in [n.op_type for n in model.graph.node]

    x = RNG.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    y = F.leaky_relu(
        F.conv2d(torch.from_numpy(x), torch.from_numpy(dense.transpose(3, 2, 0, 1).copy()), padding=1), 0.1
    )
    y = F.interpolate(y, size=(16, 16), mode="bilinear", align_corners=False)
    score, rest = run(model, x)
    np.testing.assert_allclose(score, torch.sigmoid(y[:, :3]).numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rest, y[:, 3:].numpy(), rtol=1e-4, atol=1e-4)


def test_an_operation_that_is_not_known_is_named(tmp_path: Path) -> None:
    """Nothing is guessed."""
    nodes = [image((1, 8, 8, 3)), node("odd", "Cumsum", "image")]
    with pytest.raises(ConversionError, match="odd: the operation Cumsum is not supported"):
        tfjs_to_onnx.convert(write(tmp_path, nodes, {}), "image", (1, 3, 8, 8), ("odd",))

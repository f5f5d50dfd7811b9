"""A real network whose answers can be worked out by hand: it finds 24x24 squares of pure red, green, blue.

One 28x28 convolution with a tent-shaped kernel and stride 4 a head: the red heatmap peaks where R - G - B is
large over 24 pixels, the size is 6 cells everywhere, the offset half a cell. Its input is 128x96, so that
width and height cannot be mixed up unnoticed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import KEY, Manifest, ModelSpec, Quant, TensorSpec

WIDTH, HEIGHT, SIDE = 128, 96, 24
CLASSES = ("red", "green", "blue sky")
BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue sky": (255, 0, 0)}
_CELLS = (HEIGHT // 4, WIDTH // 4)
_QUANTS = {"heat": Quant(0.125, 0), "size": Quant(0.0625, 0), "offset": Quant(0.0078125, 0)}
# Seven bits: x86 without VNNI adds two uint8 x int8 products in 16 bits, which larger weights overflow
# (OpenVINO too).
_WEIGHT_MAX = 63
_CHANNELS = {"heat": len(CLASSES), "size": 2, "offset": 2}


def scene(*squares: tuple[str, int, int], width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """(height, width, 3) BGR: grey with 24x24 squares of (class, left, top)."""
    image = np.full((height, width, 3), 128, np.uint8)
    for name, left, top in squares:
        image[top : top + SIDE, left : left + SIDE] = BGR[name]
    return image


def manifest(int8: bool) -> Manifest:
    """The manifest of the ONNX file."""
    heads = {
        name: TensorSpec(
            name, (1, c, *_CELLS), "NCHW", "int8" if int8 else "float32", _QUANTS[name] if int8 else None
        )
        for name, c in _CHANNELS.items()
    }
    image = TensorSpec("image", (1, 3, HEIGHT, WIDTH), "NCHW", "uint8", Quant(1 / 128, 128))
    model = ModelSpec("squares", "1", HEIGHT, WIDTH, CLASSES)
    return Manifest(model, image, **heads, precision="int8" if int8 else "fp32", made_by={"tests": "1"})


def write_onnx(path: Path, int8: bool, stamped: Manifest | None = None, swap: bool = False) -> Path:
    """The network in the interchange format (QDQ) or in float32; `stamped` replaces the manifest.

    swap: the tensors called size and offset change places.
    """
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    consts: dict[str, NDArray[Any]] = {}
    nodes = []

    def node(op: str, inputs: list[Any], output: str, **attrs: Any) -> str:
        names = [x if isinstance(x, str) else f"{output}_{i}" for i, x in enumerate(inputs)]
        consts.update({name: x for name, x in zip(names, inputs, strict=True) if not isinstance(x, str)})
        nodes.append(h.make_node(op, names, [output], name=f"node_{output}", **attrs))
        return output

    if int8:
        x = node("DequantizeLinear", ["image", np.float32(1 / 128), np.uint8(128)], "x")
    else:
        x = node("Cast", ["image"], "cast", to=T.FLOAT)
        x = node("Mul", [node("Sub", [x, np.float32(128)], "sub"), np.float32(1 / 128)], "x")
    for role, (weight, bias) in _weights().items():
        name = {"size": "offset", "offset": "size"}.get(role, role) if swap else role
        w: Any = weight
        if int8:
            scale, zero = (
                (np.abs(weight).max((1, 2, 3)) / _WEIGHT_MAX).astype(np.float32),
                np.zeros(len(weight), np.int8),
            )
            q = node("QuantizeLinear", [weight, scale, zero], f"{role}_w", axis=0)
            w = node("DequantizeLinear", [q, scale, zero], f"{role}_wdq", axis=0)
        y = node(
            "Conv",
            [x, w, bias],
            f"{role}_conv" if int8 else name,
            kernel_shape=[28, 28],
            strides=[4, 4],
            pads=[12] * 4,
        )
        if int8:
            node(
                "QuantizeLinear",
                [y, np.float32(_QUANTS[role].scale), np.int8(_QUANTS[role].zero_point)],
                name,
            )
    kind = T.INT8 if int8 else T.FLOAT
    graph = h.make_graph(
        nodes,
        "squares",
        [h.make_tensor_value_info("image", T.UINT8, [1, 3, HEIGHT, WIDTH])],
        [h.make_tensor_value_info(name, kind, [1, c, *_CELLS]) for name, c in _CHANNELS.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in consts.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    h.set_model_props(model, {KEY: (stamped or manifest(int8)).to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_openvino(path: Path, onnx_path: Path, stamped: Manifest) -> Path:
    """`onnx_path` as OpenVINO IR."""
    import openvino as ov

    model = ov.convert_model(str(onnx_path))
    model.set_rt_info(stamped.to_json(), [KEY])
    ov.save_model(model, str(path), compress_to_fp16=False)
    return path


def write_tflite(path: Path, onnx_path: Path, int8: bool) -> Path:
    """`onnx_path` (QDQ) through the project's own TFLite writer."""
    from edge_centernet import qdq
    from edge_centernet.converters import to_tflite

    to_tflite.convert(qdq.load(onnx_path), "int8" if int8 else "fp32")(path, True)
    return path


def restamp_tflite(path: Path, source: Path, stamped: Manifest) -> Path:
    """A copy of a .tflite with another manifest at its end."""
    import io
    import zipfile

    data = source.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = min(info.header_offset for info in archive.infolist())
    text = io.BytesIO(data[:start])
    text.seek(0, 2)
    with zipfile.ZipFile(text, "a") as archive:
        archive.writestr(f"{KEY}.json", stamped.to_json())
    path.write_bytes(text.getvalue())
    return path


def renamed(source: Manifest, **names: str) -> Manifest:
    """The manifest with other tensor names for some roles."""
    return source.with_tensors(
        **{role: replace(getattr(source, role), name=name) for role, name in names.items()}
    )


def python(*args: str) -> list[str]:
    """A command line for a fresh interpreter."""
    return [sys.executable, *args]


def _weights() -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Role -> convolution weight (O, 3, 28, 28) and bias (O,)."""
    ramp = np.minimum(np.arange(28) + 1, 28 - np.arange(28)).astype(np.float32)
    tent = np.outer(ramp, ramp)  # (28, 28), strictly falling from the middle: one peak a square
    tent /= tent.sum()
    colors = np.full((3, 3), -1.0, np.float32)  # (class, RGB)
    np.fill_diagonal(colors, 1.0)
    heat = 4.0 * colors[:, :, None, None] * tent  # response 4 x 3 on a full square of its colour
    # Adds up to nothing over any rectangle. Not smaller: the int32 bias has the scale of input x weight and
    # must fit.
    still = np.zeros((2, 3, 28, 28), np.float32) + 1e-3 * (-1.0) ** np.add.outer(np.arange(28), np.arange(28))
    return {
        "heat": (heat, np.full(3, -8.0, np.float32)),
        "size": (still.astype(np.float32), np.full(2, SIDE / 4, np.float32)),
        "offset": (still.astype(np.float32), np.full(2, 0.5, np.float32)),
    }

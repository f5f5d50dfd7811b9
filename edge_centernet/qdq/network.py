"""The interchange network as a small typed graph that every writer shares.

Only what our networks are made of is understood: Conv (dense or depthwise), Add, Concat, Resize (nearest or
bilinear), MaxPool, DepthToSpace and cropping Slices, with an optional Relu or ReLU6 and one
QuantizeLinear/DequantizeLinear pair behind each. Anything else raises ConversionError naming the node, so
that no writer ever has to guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import Manifest, Quant

Array = NDArray[Any]
Activation = Literal["linear", "relu", "relu6"]
# The quantization of a tensor that only float operations read: it is never stored, the values mean nothing.
UNUSED = Quant(1.0, 0)


@dataclass(frozen=True)
class Tensor:
    """One activation: its name, (C, H, W), and how int8 stores it (UNUSED where it never does)."""

    name: str
    shape: tuple[int, int, int]
    quant: Quant


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution, bias and activation; dense (groups 1) or depthwise (groups = input channels).

    weight: (O, I/groups, kh, kw) float32 as trained. weight_scale: (O,) float32; the zero point is 0.
    bias: (O,) float32. pads: top, left, bottom, right in pixels.
    real: computed in float32 (`float_network.with_floats`); the scale is not used then.
    """

    name: str
    x: Tensor
    y: Tensor
    weight: Array
    weight_scale: Array
    bias: Array
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int
    act: Activation
    real: bool = False

    @property
    def weight_int8(self) -> NDArray[np.int8]:
        """(O, I/groups, kh, kw) as QuantizeLinear stores them: round half to even, in float32."""
        return quantize_weight(self.weight, self.weight_scale)


@dataclass(frozen=True)
class Add:
    """Elementwise addition of two activations of one shape, with activation; real: computed in float32."""

    name: str
    a: Tensor
    b: Tensor
    y: Tensor
    act: Activation
    real: bool = False


@dataclass(frozen=True)
class Upsample:
    """Enlargement by a whole factor, nearest neighbour or bilinear (half-pixel centres).

    y has the scale and zero point of x. Nearest neighbour copies the integers, bilinear rounds new ones.
    """

    name: str
    x: Tensor
    y: Tensor
    factor: int
    linear: bool = False


@dataclass(frozen=True)
class Concat:
    """Channels of several activations of one height and width, concatenated.

    All parts have the scale and zero point of y, so that the integers are copied and nothing is rescaled.
    """

    name: str
    parts: tuple[Tensor, ...]
    y: Tensor

    @property
    def x(self) -> Tensor:
        """The first part, which has the same scale and zero point as all the others."""
        return self.parts[0]


@dataclass(frozen=True)
class MaxPool:
    """Maximum over a window; y has the scale and zero point of x.

    The reader accepts padding behind a ReLU only. There no value is negative, so a padded zero never wins.
    """

    name: str
    x: Tensor
    y: Tensor
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class DepthToSpace:
    """(block^2 C, H, W) -> (C, block H, block W); y has the scale and zero point of x.

    The channels of x are ordered as [row in block, column in block, C], which ONNX calls DCR.
    """

    name: str
    x: Tensor
    y: Tensor
    block: int


@dataclass(frozen=True)
class Crop:
    """The part of x that begins `top` rows down and `left` columns right; y has x's scale and zero point."""

    name: str
    x: Tensor
    y: Tensor
    top: int
    left: int


Op = Conv | Add | Upsample | Concat | MaxPool | DepthToSpace | Crop


@dataclass(frozen=True, eq=False)
class Network:
    """The whole network in execution order. model: the onnx.ModelProto it was read from."""

    model: Any
    manifest: Manifest
    input: Tensor
    ops: tuple[Op, ...]
    heads: dict[str, Tensor]


def quantize_weight(weight: Array, scale: Array) -> NDArray[np.int8]:
    """(O, ...) float32 and (O,) scales -> int8, as ONNX's QuantizeLinear with zero point 0."""
    per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    # rint rounds halves to even and the division is in float32, both as QuantizeLinear is specified. Trained
    # weights are multiples of their scale already, so that here nothing is left to round.
    return np.clip(np.rint(weight / per_channel), -128, 127).astype(np.int8)

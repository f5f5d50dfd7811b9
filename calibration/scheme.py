"""The integer arithmetic that every network of ours is quantized for, whoever measures the ranges. NumPy only.

Scales and zero points are made here: those of activations from measured ranges, those of weights from the
weights, folded so that every rescaling is exact. `calibration/quantize.py` writes them into a network,
`network/fake_quant.py` trains with them.

  weights      per output channel, symmetric int8; depthwise in [-127, 127], all others in [-63, 63]
  activations  per tensor, affine int8 (symmetric: every zero point is 0, for TensorRT, which knows no other);
               the inputs and the output of an addition share one scale
  bias         int32 with scale s_in * s_w
  rescaling    s_in * s_w / s_out of every convolution is a fraction q / p with an odd p
Why: `network/fake_quant.py`, which trains with the same, and docs/decisions/0006.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import Quant

DENSE_MAX = 63
DEPTHWISE_MAX = 127
WEIGHT_FLOOR = 1e-4  # a dead channel's scale stays so large that its bias / (s_in * s_w) fits int32
HEAT_LOW = -8.0  # logits below are all background (p < 0.0004): spend the 256 steps above
HEAT_HIGH = 3.0  # p = 0.95: an average of maxima would clip the surest peaks into plateaus
NARROWEST = 1e-3  # no range is smaller

Floats = NDArray[np.float64]


def exact_rescale(wanted: Floats) -> Floats:
    """The smallest good rescaling factor q / p that is not below `wanted`, p odd: (C,) > 0 -> (C,).

    Good: at most 1 % above it, with p as small as possible: the next half-way point is 1 / (2 p) away. Where no p up to
    255 is good enough, 1 / p with the largest p that will do: at most 2.1 % above, near 0.015, else less than 1 %.
    """
    p = np.arange(1, 256, 2, dtype=np.float64)
    fractions = np.ceil(wanted[:, None] * p - 1e-9) / p  # (C, 128)
    good = fractions <= wanted[:, None] * 1.01
    smallest = np.take_along_axis(fractions, good.argmax(axis=1)[:, None], axis=1)[:, 0]
    inverse = 1 / np.maximum(2 * np.floor((1 / wanted - 1) / 2) + 1, 1)
    return np.where(good.any(axis=1), smallest, inverse)


def weight_scales(weight: NDArray[np.float32], depthwise: bool, s_in: float, s_out: float) -> NDArray[np.float32]:
    """(O, I, kh, kw) -> (O,): what one step of each output channel is worth."""
    limit = DEPTHWISE_MAX if depthwise else DENSE_MAX
    least = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), WEIGHT_FLOOR).astype(np.float64) / limit
    return np.asarray(exact_rescale(least * s_in / s_out) * s_out / s_in, np.float32)


def activation_quants(ranges: list[tuple[float, float]], symmetric: bool = False) -> list[Quant]:
    """One Quant for each (low, high) of tensors that share a scale: the widest decides, zero points are their own."""
    spans = [(min(low, 0.0), max(high, NARROWEST)) for low, high in ranges]
    if symmetric:
        widest = max(max(high, -low) for low, high in spans)
        return [Quant(float(np.float32(widest / 127)), 0)] * len(spans)
    scale = float(np.float32(max(high - low for low, high in spans) / 255))
    return [Quant(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127))) for low, _ in spans]

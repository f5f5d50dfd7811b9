"""The integer arithmetic that every network of ours is quantized for, whoever measures the ranges. NumPy only.

Scales and zero points are made here: those of activations from measured ranges, those of weights from the
weights, folded so that every rescaling is exact. `calibration/quantize.py` writes them into a network,
`network/fake_quant.py` trains with them.

  weights      per output channel, symmetric int8; depthwise in [-127, 127], all others in [-63, 63]
  activations  per tensor, affine int8 (symmetric: every zero point is 0, for TensorRT, which knows no other);
               the inputs and the output of an addition share one scale
  bias         int32 with scale s_in * s_w
  rescaling    s_in * s_w / s_out of every convolution is a fraction q / p with an odd p
`network/fake_quant.py` trains with the same. Why it is so: the comments below and docs/decisions/0006.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import Quant

INT8_MIN, INT8_MAX = -128, 127
# Dense weights get 7 bits: x86 processors without VNNI multiply with `vpmaddubsw`, which adds pairs of
# products in 16 bits. 255 * (63 + 63) = 32,130 fits, 255 * (127 + 127) saturates and ruins the boxes silently
# (docs/decisions/0006).
DENSE_MAX = 63
DEPTHWISE_MAX = 127  # and not -128, so that a weight and its opposite are both there
WEIGHT_FLOOR = 1e-4  # a dead channel's scale stays so large that its bias / (s_in * s_w) fits int32
HEAT_LOW = -8.0  # logits below are all background (p < 0.0004): spend the 256 steps above
HEAT_HIGH = 3.0  # p = 0.95: an average of maxima would clip the surest peaks into plateaus
NARROWEST = 1e-3  # no range is smaller

Floats = NDArray[np.float64]


def exact_rescale(wanted: Floats) -> Floats:
    """The smallest good rescaling factor q / p that is not below `wanted`, p odd: (C,) > 0 -> (C,).

    Good: at most 1 % above it, with p as small as possible: the next half-way point is 1 / (2 p) away. Where
      no p up to
    255 is good enough, 1 / p with the largest p that will do: at most 2.1 % above, near 0.015, else less than
    1 %.
    """
    return np.asarray(rescale_with(np, wanted, np.arange(1, 256, 2, dtype=np.float64)))


def rescale_with(xp: Any, wanted: Any, p: Any) -> Any:
    """`exact_rescale` in the arrays of a library: one formula for calibration and, on the GPU, for training.

    xp: the module, numpy or torch; wanted: (C,) float64 > 0; p: 1, 3 ... 255 in its float64, on the device of
    `wanted`.
    """
    # Why odd: engines round sum * q / p to the nearest integer, each in an arithmetic of its own. With an
    # even p that can lie exactly half-way between two, where the last bit of the arithmetic decides; with an
    # odd p it never does, and the smaller p, the farther from half-way it stays (docs/decisions/0006).
    # 1e-9: a factor that is such a fraction already stays itself, though float64 has it a hair above.
    fractions = xp.ceil(wanted[:, None] * p - 1e-9) / p  # (C, 128)
    good = fractions <= wanted[:, None] * 1.01
    least = xp.amin(xp.where(good, p, 2.0 * p[-1]), axis=1)  # (C,) the smallest good p, 510 where none is
    smallest = xp.ceil(wanted * least - 1e-9) / least
    inverse = 1 / xp.clip(2 * xp.floor((1 / wanted - 1) / 2) + 1, 1, None)
    return xp.where(least <= p[-1], smallest, inverse)


def weight_scales(
    weight: NDArray[np.float32], depthwise: bool, s_in: float, s_out: float
) -> NDArray[np.float32]:
    """(O, I, kh, kw) -> (O,): what one step of each output channel is worth.

    The scale is not the finest that holds the weights but the next one whose rescaling is exact. It is the
    one to give way, since s_in and s_out belong to other layers too.
    """
    limit = DEPTHWISE_MAX if depthwise else DENSE_MAX
    least = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), WEIGHT_FLOOR).astype(np.float64) / limit
    return np.asarray(exact_rescale(least * s_in / s_out) * s_out / s_in, np.float32)


def activation_quants(ranges: list[tuple[float, float]], symmetric: bool = False) -> list[Quant]:
    """One Quant for each (low, high) of tensors that share a scale: the widest decides.

    Zero points are their own. Every range is widened to hold 0, so that 0, the padding of convolutions and
    what ReLU cuts to, is stored exactly. What is added shares a scale because then the sum of stored integers
    is exact, in whatever order an engine rounds: OpenVINO fuses an addition into the convolution in front and
    skips that one's rounding, which with several scales puts many of its outputs one step off.
    """
    spans = [(min(low, 0.0), max(high, NARROWEST)) for low, high in ranges]
    if symmetric:
        widest = max(max(high, -low) for low, high in spans)
        return [Quant(float(np.float32(widest / INT8_MAX)), 0)] * len(spans)
    scale = float(
        np.float32(max(high - low for low, high in spans) / (INT8_MAX - INT8_MIN))
    )  # float32, as files hold it
    zeros = [np.clip(np.rint(INT8_MIN - low / scale), INT8_MIN, INT8_MAX) for low, _ in spans]
    return [Quant(scale, int(zero)) for zero in zeros]


def limits(quant: Quant, lowest: int = INT8_MIN) -> tuple[float, float]:
    """The smallest and the largest real value that can be stored; lowest: -127 for a symmetric range."""
    return (lowest - quant.zero_point) * quant.scale, (INT8_MAX - quant.zero_point) * quant.scale


def stored_weight(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O, I, kh, kw) to the nearest step of its channel, (O,), as real values again."""
    per_channel = scale.reshape(-1, 1, 1, 1)
    return np.asarray(np.clip(np.rint(weight / per_channel), INT8_MIN, INT8_MAX) * per_channel, np.float32)


def settled_bias(bias: Floats, s_in: float, weight_scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O,) in whole steps of s_in * s_w, as int32 holds it: engines round a bias that is not, each in its way."""
    step = np.float32(s_in) * weight_scale.astype(np.float64)
    return (np.rint(bias / step) * step).astype(np.float32)

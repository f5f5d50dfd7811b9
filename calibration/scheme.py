"""The integer arithmetic of all networks here: every scale and every rounding, each with its reason.

Whoever measures ranges or trains takes scales and zero points from here: `calibration/quantize.py` writes
them into a network, `network/fake_quant.py` trains with them, `converters` put them into files. NumPy only.

  weights      per output channel, symmetric int8; depthwise in [-127, 127], all others in [-63, 63]
  activations  per tensor, affine int8; the inputs and the output of an addition share one scale
               (symmetric: every zero point is 0, for TensorRT, which knows no other)
  bias         int32 with scale s_in * s_w
  rescaling    s_in * s_w / s_out of every convolution is a fraction q / p with an odd p

One rule stands behind all of it: engines agree where nothing is left to round, or where all of them must
round the same way (docs/decisions/0006). Real values become integers in four places, a chapter each below: a
convolution's sum when it is rescaled, weights, activations, and biases. The first rounding is done by engines
at run time, each in its own arithmetic, so the scales are chosen to make it harmless. The others are done
here, to the nearest integer and halves to even, as PyTorch and ONNX's QuantizeLinear do. One rounding looks
further than the nearest step: `calibration/rounding.py` chooses the integers of a whole channel together, on
the grid that this module gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import Quant

Floats = NDArray[np.float64]

INT8_MIN, INT8_MAX = -128, 127
# Dense weights get 7 bits: x86 processors without VNNI multiply with `vpmaddubsw`, which adds pairs of
# products in 16 bits. 255 * (63 + 63) = 32,130 fits, 255 * (127 + 127) saturates and ruins the boxes silently
# (docs/decisions/0006).
DENSE_MAX = 63
DEPTHWISE_MAX = 127  # and not -128, so that a weight and its opposite are both there
WEIGHT_FLOOR = 1e-4  # a dead channel's scale stays so large that its bias / (s_in * s_w) fits int32
# A stored bias may reach half of int32, so that the products that are added to it cannot overflow.
BIAS_LIMIT = float(1 << 30)
HEAT_LOW = -8.0  # logits below are all background (p < 0.0004): spend the 256 steps above
# p = 0.95. The top of the range is never lower, even where the calibration images have no surer peak: clipped
# peaks become plateaus, which have no centre.
HEAT_HIGH = 3.0
# Head -> where its range begins at the lowest: sizes are never negative, and no steps are spent below either.
FLOORS = {"heat": HEAT_LOW, "size": 0.0}
NARROWEST = 1e-3  # no range is smaller, for the scale of a tensor that is always 0 must not be 0


# ---- rescaling: the factors that leave engines nothing to decide ----


def exact_rescale(wanted: Floats) -> Floats:
    """The smallest good rescaling factor q / p that is not below `wanted`, p odd: (C,) > 0 -> (C,).

    Good: at most 1 % above `wanted`, with p as small as possible, since the next half-way point is 1 / (2 p)
    away. Where no p up to 255 is good enough, it is 1 / p with the largest p that will do: at most 2.1 %
    above (near 0.015), elsewhere less than 1 %.
    """
    return np.asarray(rescale_with(np, wanted, np.arange(1, 256, 2, dtype=np.float64)))


def rescale_with(xp: Any, wanted: Any, p: Any) -> Any:
    """`exact_rescale` in the arrays of a library: one formula for calibration and, on the GPU, for training.

    xp: the module, numpy or torch. wanted: (C,) float64 > 0. p: 1, 3 ... 255 in float64, on the device of
    `wanted`.
    """
    # Why odd: engines round sum * q / p to the nearest integer, each in an arithmetic of its own. With an
    # even p that can lie exactly half-way between two, where the last bit of the arithmetic decides; with an
    # odd p it never does, and the smaller p, the farther from half-way it stays (docs/decisions/0006).
    # Why rounded up (ceil): a smaller factor would mean a smaller scale of the weights, and the largest of
    # them would no longer fit. Why 1e-9: a factor that is such a fraction already stays itself, even where
    # float64 has it slightly above.
    fractions = xp.ceil(wanted[:, None] * p - 1e-9) / p  # (C, 128)
    good = fractions <= wanted[:, None] * 1.01
    least = xp.amin(xp.where(good, p, 2.0 * p[-1]), axis=1)  # (C,) the smallest good p, 510 where none is
    smallest = xp.ceil(wanted * least - 1e-9) / least
    # Tiny factors need a larger p than 255. Then q is 1, and 1 / wanted is rounded down to an odd p, which
    # rounds the factor up.
    inverse = 1 / xp.clip(2 * xp.floor((1 / wanted - 1) / 2) + 1, 1, None)
    return xp.where(least <= p[-1], smallest, inverse)


# ---- weights: symmetric, one scale for each output channel ----


def weight_scales(
    weight: NDArray[np.float32], depthwise: bool, s_in: float, s_out: float
) -> NDArray[np.float32]:
    """(O, I, kh, kw) -> (O,): what one step of each output channel is worth.

    s_in, s_out: scales of what the convolution reads and of what it puts out. The weights' scale is not the
    finest that holds the weights but the next one whose rescaling is exact. It is the one to give way, since
    s_in and s_out belong to other layers too.
    """
    limit = DEPTHWISE_MAX if depthwise else DENSE_MAX
    least = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), WEIGHT_FLOOR).astype(np.float64) / limit
    # In float64 and rounded to float32 once, at the end: the factor that engines compute from the three
    # float32 scales is then the fraction up to float32's last bit, far from half-way.
    return np.asarray(exact_rescale(least * s_in / s_out) * s_out / s_in, np.float32)


def stored_weight(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O, I, kh, kw) to the nearest step of its channel, (O,), as real values again.

    Networks hold these and not the weights as trained: some of those lie half-way between two steps, and
    engines that quantize weights themselves break such ties differently.
    """
    per_channel = scale.reshape(-1, 1, 1, 1)
    return np.asarray(np.clip(np.rint(weight / per_channel), INT8_MIN, INT8_MAX) * per_channel, np.float32)


# ---- activations: affine, one scale for each tensor ----


def activation_quants(ranges: Sequence[tuple[float, float]], symmetric: bool = False) -> list[Quant]:
    """One Quant for each (low, high) of tensors that share a scale: the widest decides.

    Zero points are their own. Every range is widened to hold 0, so that 0, the padding of convolutions and
    what ReLU cuts to, is stored exactly. What is added shares a scale because then the sum of stored integers
    is exact, in whatever order an engine rounds: OpenVINO fuses an addition into the convolution in front and
    skips that one's rounding, which with several scales puts many of its outputs one step off.
    """
    spans = [(min(low, 0.0), max(high, NARROWEST)) for low, high in ranges]
    # Scales are rounded to float32 before anything is derived from them, because files hold float32: a zero
    # point from the float64 scale could be another one.
    if symmetric:
        widest = max(max(high, -low) for low, high in spans)
        return [Quant(float(np.float32(widest / INT8_MAX)), 0)] * len(spans)
    widest = max(high - low for low, high in spans)
    scale = float(np.float32(widest / (INT8_MAX - INT8_MIN)))
    # The zero point is rounded to a whole number and moves the range by up to half a step. The alternative,
    # a fractional one, would make 0 inexact.
    zeros = [np.clip(np.rint(INT8_MIN - low / scale), INT8_MIN, INT8_MAX) for low, _ in spans]
    return [Quant(scale, int(zero)) for zero in zeros]


def symmetric_quants(quants: Sequence[Quant]) -> list[Quant]:
    """The same tensors, which share a scale, with zero points of 0 and steps as wide as that takes."""
    # The largest magnitude that any of them can store, 128..255 steps of the old scale, is 127 new ones.
    # An odd number of old steps (| 1): rescaling stays a fraction with an odd denominator.
    reach = max((max(INT8_MAX - q.zero_point, q.zero_point - INT8_MIN) for q in quants), default=1) | 1
    return [Quant(float(np.float32(quant.scale * reach / INT8_MAX)), 0) for quant in quants]


def stored_activation(values: Floats, quant: Quant) -> Floats:
    """Real values as they are after being stored: to the nearest step, clipped to the range."""
    # Rounded before the zero point is added, as QuantizeLinear does: with the zero point inside the rounding,
    # halves would go to another even number where it is odd.
    stored = np.clip(np.rint(values / quant.scale) + quant.zero_point, INT8_MIN, INT8_MAX)
    return np.asarray((stored - quant.zero_point) * quant.scale)


def limits(quant: Quant, lowest: int = INT8_MIN) -> tuple[float, float]:
    """The smallest and the largest real value that can be stored; lowest: -127 for a symmetric range."""
    return (lowest - quant.zero_point) * quant.scale, (INT8_MAX - quant.zero_point) * quant.scale


# ---- biases: int32 in steps of s_in * s_w, the scale of the sum that they are added to ----


def settled_bias(bias: Floats, s_in: float, weight_scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O,) in whole steps of s_in * s_w, as real values again.

    Engines round a bias that is not, each in its way; behind a depthwise layer with large weights one such
    step is a noticeable part of an output step.
    """
    # In float64: in float32 a bias of more than 2^23 steps has no fraction left to round.
    step = np.float32(s_in) * weight_scale.astype(np.float64)
    return (np.rint(bias / step) * step).astype(np.float32)


def stored_bias(
    bias: NDArray[np.float32], s_in: float, weight_scale: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(O,) integers as files hold them, and (O,) float32 what one step is worth."""
    # The scale is a product in float32, because that is how engines compute the scale of the sum. A settled
    # bias of up to 2^21 steps is so near a whole number of these that rounding restores its integer.
    step = np.float32(s_in) * weight_scale
    return np.rint(bias.astype(np.float64) / step.astype(np.float64)).astype(np.int32), step


def fitting_scales(
    bias: NDArray[np.float32], s_in: float, weight_scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(O,) weight scales, larger where a dead channel's tiny scale would push its bias beyond BIAS_LIMIT.

    Networks quantized here keep WEIGHT_FLOOR and need none of it; others may not. The weights of such a
    channel shrink to nothing, which they are beside a bias 2^23 times their size.
    """
    smallest = np.abs(bias) / (np.float32(s_in) * BIAS_LIMIT)
    return np.maximum(weight_scale, smallest.astype(np.float32))

"""From the values that a tensor held to the range that int8 spends its 256 steps on. NumPy only.

Wide ranges clip nothing and have coarse steps; narrow ones have fine steps and clip the rare large values.
Each method draws the line elsewhere (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError

BINS = 2048  # of a histogram, from the smallest to the largest value seen
LEVELS = 256  # of int8
GROUP = 8  # images whose extremes count as one: single images are too noisy, all of them one outlier
PERCENTILE = 0.9999  # of the values that a range keeps, at either end
FRACTIONS = np.linspace(0.2, 1.0, 81)  # of the full range, that "mse" tries
Range = tuple[float, float]


@dataclass
class Seen:
    """What one tensor held on the calibration images.

    lows, highs: smallest and largest value on each image. counts: (BINS,) how many values fell into equal
    bins between the smallest and the largest of all; None where no method needs it.
    """

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    counts: NDArray[np.int64] | None = None

    @property
    def low(self) -> float:
        """The smallest value of all."""
        return min(self.lows)

    @property
    def high(self) -> float:
        """The largest value of all."""
        return max(self.highs)

    def extremes(self, values: NDArray[np.float32]) -> None:
        """Add one image's smallest and largest value."""
        self.lows.append(float(values.min()))
        self.highs.append(float(values.max()))

    def count(self, values: NDArray[np.float32]) -> None:
        """Count one image's values in the bins; `extremes` must have had all images before."""
        if self.counts is None:
            self.counts = np.zeros(BINS, np.int64)
        width = max(self.high - self.low, 1e-12) / BINS  # not 0 for a tensor that always holds the same
        index = ((values.ravel() - self.low) / width).astype(np.int32)
        self.counts += np.bincount(np.clip(index, 0, BINS - 1, out=index), minlength=BINS)

    def centres(self) -> NDArray[np.float64]:
        """(BINS,) the middle of every bin."""
        return self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS

    def half(self, which: int) -> Seen:
        """The extremes of every second image, from image 0 or 1 on."""
        return Seen(self.lows[which::2], self.highs[which::2])


def average(seen: Seen) -> Range:
    """The mean of the extremes of groups of GROUP images, to which a moving average in training converges."""
    starts = range(0, len(seen.lows), GROUP)
    lows = [min(seen.lows[i : i + GROUP]) for i in starts]
    highs = [max(seen.highs[i : i + GROUP]) for i in starts]
    return float(np.mean(lows)), float(np.mean(highs))


def minmax(seen: Seen) -> Range:
    """The smallest and the largest value of all."""
    return seen.low, seen.high


def percentile(seen: Seen) -> Range:
    """The values between the two percentiles, PERCENTILE and what is left to 1, at either end."""
    counts = _counts(seen)
    below = np.cumsum(counts) / counts.sum()
    centres = seen.centres()
    low, high = (min(int(np.searchsorted(below, part)), BINS - 1) for part in (1 - PERCENTILE, PERCENTILE))
    return float(centres[low]), float(centres[high])


def mse(seen: Seen) -> Range:
    """The range with the smallest mean squared error of rounding and clipping together."""
    # One end after the other, twice, instead of all pairs of ends: a twentieth of the work.
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    for _ in range(2):
        high = min(
            (float(f) * max(seen.high, 0.0) for f in FRACTIONS), key=lambda h: squared_error(seen, low, h)
        )
        low = min(
            (float(f) * min(seen.low, 0.0) for f in FRACTIONS), key=lambda v: squared_error(seen, v, high)
        )
    return low, high


def squared_error(seen: Seen, low: float, high: float) -> float:
    """Mean squared difference between the values and what int8 stores of them with this range."""
    # Every value counts as the middle of its bin. Levels run from 0 to 255 instead of -128 to 127, which
    # rounds alike.
    counts, values = _counts(seen), seen.centres()
    scale = max((high - low) / (LEVELS - 1), 1e-12)
    zero = np.rint(-low / scale)
    stored = np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1)
    error = (stored - zero) * scale - values
    return float((counts * error * error).sum() / counts.sum())


def entropy(seen: Seen) -> Range:
    """The clipping that changes the distribution least, by its Kullback-Leibler divergence.

    Migacz, "8-bit Inference with TensorRT", GTC 2017. It is the distribution of magnitudes: a range with two
    signs is cut at both ends alike.
    """
    counts, values = _counts(seen), seen.centres()
    top = max(seen.high, -seen.low, 1e-12)
    index = np.minimum((np.abs(values) / top * BINS).astype(int), BINS - 1)
    magnitudes = np.bincount(index, weights=counts, minlength=BINS).astype(np.float64)  # (BINS,)
    levels = LEVELS // 2 if seen.low < 0 else LEVELS  # steps on either side of 0
    ends = range(levels, BINS + 1, 16)  # fewer bins than levels would need no quantization at all
    best = min(ends, key=lambda end: _divergence(magnitudes, end, levels))
    limit = best / BINS * top
    return max(seen.low, -limit), min(seen.high, limit)


def _divergence(counts: NDArray[np.float64], end: int, levels: int) -> float:
    """KL divergence of counts[:end], what lies beyond added to the last bin, from its quantized form."""
    # 1. What was measured, clipped. `q` is made of the counts before clipping: it must not fit the better the
    #    more is clipped into the last bin.
    p = counts[:end].copy()
    p[-1] += counts[end:].sum()
    # 2. What int8 can tell apart: each of `levels` steps spreads its counts evenly over its filled bins.
    step = np.arange(end) * levels // end  # (end,) the level each bin falls into
    filled = counts[:end] > 0
    total = np.bincount(step, weights=counts[:end], minlength=levels)
    bins = np.bincount(step, weights=filled, minlength=levels)
    q = np.where(filled, (total / np.maximum(bins, 1))[step], 0.0)
    p, q = p / max(p.sum(), 1.0), q / max(q.sum(), 1.0)
    both = (p > 0) & (q > 0)
    # 3. Where values were clipped onto an empty bin the divergence is infinite; it counts as 1 nat each.
    lost = p[(p > 0) & (q == 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost)


def _counts(seen: Seen) -> NDArray[np.int64]:
    assert seen.counts is not None, "the method needs a histogram: it is in NEEDS_COUNTS"
    return seen.counts


METHODS: dict[str, Callable[[Seen], Range]] = {
    "average": average,
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
NEEDS_COUNTS = ("percentile", "mse", "entropy")


def choose(method: str, seen: Seen) -> Range:
    """The range that `method` gives, widened to hold 0; raises ConfigError for an unknown method."""
    if method not in METHODS:
        raise ConfigError(f"calibration method: expected {', '.join(METHODS)}, got {method!r}")
    low, high = METHODS[method](seen)
    return min(low, 0.0), max(high, 0.0)

"""Boxes -> what the three heads should say. NumPy only.

CenterNet, arXiv 1904.07850, section 3: each object splats exp(-(dx^2 + dy^2) / (2 sigma^2)) onto its
class's heatmap at its centre cell; the radius is such that a box moved by it keeps a minimum IoU (CornerNet,
arXiv 1808.01244, section 3.2), sigma = diameter / 6. Overlapping splats take the maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The paper says 0.7, but its published code solves two of three quadratic equations without dividing by 2a and
# so splats three times wider: what 0.3 gives when solved correctly. The accuracies it reports are that code's.
MIN_OVERLAP = 0.3
IGNORED_PEAK = 0.999  # below 1: never a positive; (1 - 0.999)^4: no penalty as a negative either


@dataclass(frozen=True)
class Targets:
    """What the heads of one image should say; H and W are the heatmap's.

    heat: (C, H, W) float32, 1 at centres. size: (2, H, W) float32 width, height in cells.
    size_weight: (H, W) float32, sums to 1 over each object (unless another one overlaps it).
    offset: (2, H, W) float32 x, y of the centre inside its cell. centre: (H, W) float32, 1 at centres.
    """

    heat: NDArray[np.float32]
    size: NDArray[np.float32]
    size_weight: NDArray[np.float32]
    offset: NDArray[np.float32]
    centre: NDArray[np.float32]


def gaussian_radius(height: float, width: float, min_overlap: float = MIN_OVERLAP) -> float:
    """Largest shift of both corners (cells) that keeps IoU >= min_overlap with a (height, width) box in cells.

    The minimum over CornerNet's three cases: both corners inside, both outside, one each.
    """
    total, area = height + width, height * width
    shifted = (total - math.sqrt(total * total - 4 * area * (1 - min_overlap) / (1 + min_overlap))) / 2
    inside = (2 * total - math.sqrt(4 * total * total - 16 * (1 - min_overlap) * area)) / 8
    b = 2 * min_overlap * total
    outside = (-b + math.sqrt(b * b + 16 * min_overlap * (1 - min_overlap) * area)) / (8 * min_overlap)
    return min(shifted, inside, outside)


def make_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    ignore: NDArray[np.bool_],
    classes: int,
    height: int,
    width: int,
    stride: int,
    spread_size: bool = True,
) -> Targets:
    """Targets of one image.

    boxes: (N, 4) x1, y1, x2, y2 in network-input pixels; height, width: the heatmap's, in cells.
    ignore: objects that are neither positives nor background around their centre.
    spread_size: supervise size on the whole splat, weighted by it, instead of on the centre cell alone:
        the same L1, but a peak found one cell off still has the right size.
    """
    heat = np.zeros((classes, height, width), np.float32)
    size = np.zeros((2, height, width), np.float32)
    size_weight = np.zeros((height, width), np.float32)
    owner = np.zeros((height, width), np.float32)  # the strongest splat so far, over all classes
    offset = np.zeros((2, height, width), np.float32)
    centre = np.zeros((height, width), np.float32)
    cells = boxes / np.float32(stride)
    area = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])
    for i in np.argsort(-area, kind="stable"):  # small objects last: they win shared cells
        x1, y1, x2, y2 = (float(v) for v in cells[i])
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        ix, iy = min(int(cx), width - 1), min(int(cy), height - 1)
        radius = max(0, int(gaussian_radius(math.ceil(h), math.ceil(w))))
        ys, xs, splat = _splat(ix, iy, radius, height, width)
        window = heat[labels[i], ys, xs]
        if ignore[i]:
            np.maximum(window, splat * np.float32(IGNORED_PEAK), out=window)
            continue
        np.maximum(window, splat, out=window)
        if spread_size:
            mine = splat >= owner[ys, xs]
            owner[ys, xs][mine] = splat[mine]
            size[0, ys, xs][mine] = w
            size[1, ys, xs][mine] = h
            size_weight[ys, xs][mine] = (splat / splat.sum())[mine]
        else:
            size[:, iy, ix] = w, h
            size_weight[iy, ix] = 1
        offset[:, iy, ix] = cx - ix, cy - iy
        centre[iy, ix] = 1
    return Targets(heat, size, size_weight, offset, centre)


def _splat(ix: int, iy: int, radius: int, height: int, width: int) -> tuple[slice, slice, NDArray[np.float32]]:
    """The Gaussian around (ix, iy), cut at the map's border: row slice, column slice, values (peak 1)."""
    sigma = (2 * radius + 1) / 6
    y0, y1 = max(0, iy - radius), min(height, iy + radius + 1)
    x0, x1 = max(0, ix - radius), min(width, ix + radius + 1)
    gy = np.exp(-((np.arange(y0, y1) - iy) ** 2) / (2 * sigma * sigma))
    gx = np.exp(-((np.arange(x0, x1) - ix) ** 2) / (2 * sigma * sigma))
    return slice(y0, y1), slice(x0, x1), np.outer(gy, gx).astype(np.float32)

"""Boxes -> what the three heads should say. NumPy only.

CenterNet, arXiv 1904.07850, section 3: each object splats a Gaussian onto its class's heatmap at its centre cell.
Overlapping splats take the maximum. The Gaussian is as elongated as the box (TTFNet, arXiv 1909.00700, section 4.2):
the paper's round one is as narrow as the shorter side allows, and leaves little to learn from on a person or a bottle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REACH = 0.54  # of the box that the splat covers: TTFNet's alpha
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


def make_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    ignore: NDArray[np.bool_],
    classes: int,
    height: int,
    width: int,
    stride: int,
) -> Targets:
    """Targets of one image.

    boxes: (N, 4) x1, y1, x2, y2 in network-input pixels; height, width: the heatmap's, in cells.
    ignore: objects that are neither positives nor background around their centre.
    Size is supervised on the whole splat, weighted by it, not on the centre cell alone: a peak found one cell off still
    has the right size.
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
        ys, xs, splat = _splat(ix, iy, *splat_reach(w, h), height, width)
        window = heat[labels[i], ys, xs]
        if ignore[i]:
            np.maximum(window, splat * np.float32(IGNORED_PEAK), out=window)
            continue
        np.maximum(window, splat, out=window)
        mine = splat >= owner[ys, xs]
        owner[ys, xs][mine] = splat[mine]
        size[0, ys, xs][mine] = w
        size[1, ys, xs][mine] = h
        size_weight[ys, xs][mine] = (splat / splat.sum())[mine]
        offset[:, iy, ix] = cx - ix, cy - iy
        centre[iy, ix] = 1
    return Targets(heat, size, size_weight, offset, centre)


def splat_reach(width: float, height: float) -> tuple[int, int]:
    """How far the splat of a box of this size reaches to each side of its centre cell: cells along x, along y."""
    return int(width / 2 * REACH), int(height / 2 * REACH)


def _splat(ix: int, iy: int, rx: int, ry: int, height: int, width: int) -> tuple[slice, slice, NDArray[np.float32]]:
    """The Gaussian around (ix, iy), rx and ry cells to each side (three sigma), cut at the map's border.

    Returns row slice, column slice, values (peak 1).
    """
    y0, y1 = max(0, iy - ry), min(height, iy + ry + 1)
    x0, x1 = max(0, ix - rx), min(width, ix + rx + 1)
    sx, sy = (2 * rx + 1) / 6, (2 * ry + 1) / 6
    gy = np.exp(-((np.arange(y0, y1) - iy) ** 2) / (2 * sy * sy))
    gx = np.exp(-((np.arange(x0, x1) - ix) ** 2) / (2 * sx * sx))
    return slice(y0, y1), slice(x0, x1), np.outer(gy, gx).astype(np.float32)

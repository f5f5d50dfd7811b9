"""Boxes -> what the three heads should say. NumPy only.

CenterNet, arXiv 1904.07850, section 3: each object splats a Gaussian onto its class's heatmap at its centre
cell. Overlapping splats take the maximum. The Gaussian is as elongated as the box (TTFNet, arXiv 1909.00700,
section 4.2): the paper's round one is as narrow as the shorter side allows, and leaves little to learn from
on a person or a bottle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REACH = 0.54  # of the box that the splat covers: TTFNet's alpha
IGNORED_PEAK = 0.999  # below 1: never a positive; (1 - 0.999)^4: no penalty as a negative either


class Unlabelled(NamedTuple):
    """Classes that nobody labelled in a part of the input.

    classes: their indices. region: left, top, right, bottom in network-input pixels.
    """

    classes: Sequence[int]
    region: tuple[int, int, int, int]


@dataclass(frozen=True)
class Targets:
    """What the heads of one image should say; C classes, H and W the heatmap's height and width in cells.

    heat: (C, H, W) float32, 0..1: splats, which take the maximum where they overlap. 1 - heat is what a cell
        counts as background.
    score: (C, H, W) float32: at each object's centre how likely it is one, above 0 to 1; 0 elsewhere.
    size: (2, H, W) float32: width, height in cells. offset: (2, H, W) float32: from a cell's corner to the
        centre of its object, x, y in cells; 0..1 at the centre's own cell, beyond it elsewhere on the splat.
    box_weight: (H, W) float32: what size and offset of a cell count; sums to the score over each object
        (unless another one overlaps it).
    """

    heat: NDArray[np.float32]
    score: NDArray[np.float32]
    size: NDArray[np.float32]
    offset: NDArray[np.float32]
    box_weight: NDArray[np.float32]


def make_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    unlabelled: Sequence[Unlabelled],
    classes: int,
    height: int,
    width: int,
    stride: int,
) -> Targets:
    """Targets of one image.

    Args:
        boxes: (N, 4) float32, x1, y1, x2, y2 in network-input pixels.
        labels: (N,) int64, class of each box.
        scores: (N,) float32, how likely each is an object: 1 for what a person labelled, 0 for what is
            neither an object nor background around its centre.
        unlabelled: which classes nobody looked for, and where: away from boxes they are neither present nor
          absent.
        classes: C.
        height: the heatmap's, in cells.
        width: likewise.
        stride: input pixels per cell.

    Size and offset are learnt on the whole splat, weighted by it, not at the centre cell alone: a peak that
    is found one cell off still has the right box, and a large object teaches in many places.
    """
    heat = np.zeros((classes, height, width), np.float32)
    for part in unlabelled:
        left, top, right, bottom = part.region
        rows, columns = slice(top // stride, -(-bottom // stride)), slice(left // stride, -(-right // stride))
        heat[list(part.classes), rows, columns] = IGNORED_PEAK
    score = np.zeros((classes, height, width), np.float32)
    size = np.zeros((2, height, width), np.float32)
    offset = np.zeros((2, height, width), np.float32)
    box_weight = np.zeros((height, width), np.float32)
    owner = np.zeros((height, width), np.float32)  # the strongest splat so far, over all classes
    xx, yy = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
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
        if scores[i] < 1:  # its neighbourhood is no clear background either way, its centre no certain object
            np.maximum(window, splat * np.float32(IGNORED_PEAK), out=window)
        else:
            np.maximum(window, splat, out=window)
        if scores[i] <= 0:
            continue
        score[labels[i], iy, ix] = max(score[labels[i], iy, ix], scores[i])
        mine = splat >= owner[ys, xs]
        owner[ys, xs][mine] = splat[mine]
        size[0, ys, xs][mine] = w
        size[1, ys, xs][mine] = h
        offset[0, ys, xs][mine] = np.broadcast_to(cx - xx[xs], splat.shape)[mine]
        offset[1, ys, xs][mine] = np.broadcast_to(cy - yy[ys], splat.shape)[mine]
        box_weight[ys, xs][mine] = (splat * (scores[i] / splat.sum()))[mine]
    return Targets(heat, score, size, offset, box_weight)


def splat_reach(width: float, height: float) -> tuple[int, int]:
    """How far the splat of a box of this size reaches to each side of its centre cell: cells along x, along y."""
    return int(width / 2 * REACH), int(height / 2 * REACH)


def _splat(
    ix: int, iy: int, rx: int, ry: int, height: int, width: int
) -> tuple[slice, slice, NDArray[np.float32]]:
    """The Gaussian around (ix, iy), rx and ry cells to each side (three sigma), cut at the map's border.

    Returns row slice, column slice, values (peak 1).
    """
    y0, y1 = max(0, iy - ry), min(height, iy + ry + 1)
    x0, x1 = max(0, ix - rx), min(width, ix + rx + 1)
    sx, sy = (2 * rx + 1) / 6, (2 * ry + 1) / 6
    gy = np.exp(-((np.arange(y0, y1) - iy) ** 2) / (2 * sy * sy))
    gx = np.exp(-((np.arange(x0, x1) - ix) ** 2) / (2 * sx * sx))
    return slice(y0, y1), slice(x0, x1), np.outer(gy, gx).astype(np.float32)

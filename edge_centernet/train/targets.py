"""Boxes -> targets of the three heads, with NumPy alone.

CenterNet, arXiv 1904.07850, section 3: each object splats a Gaussian onto its class's heatmap at its centre
cell. Overlapping splats take the maximum. The Gaussian is as elongated as the box (TTFNet, arXiv 1909.00700,
section 4.2): the paper's round one is as narrow as the shorter side allows, and leaves little to learn from
on a person or a bottle.

Size and offset are learned on the whole splat, weighted by it, not at the centre cell alone: a peak that is
found one cell off still has the right box, and a large object teaches in many places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REACH = 0.54  # share of the box that the splat covers, TTFNet's alpha
IGNORED_PEAK = 0.999  # below 1, so never a positive; (1 - 0.999)^4 is no penalty as a negative either


class Unlabelled(NamedTuple):
    """Classes that nobody labelled in a part of the input.

    classes: their indices. region: left, top, right, bottom in network-input pixels.
    """

    classes: Sequence[int]
    region: tuple[int, int, int, int]


@dataclass(frozen=True)
class Targets:
    """What the heads should answer for one image of C classes; the heatmap has H by W cells.

    heat: (C, H, W) float32, 0..1: splats, which take the maximum where they overlap. 1 - heat is how much a
        cell counts as background.
    score: (C, H, W) float32: how likely each object is one, above 0 to 1, at its centre cell; 0 elsewhere.
    size: (2, H, W) float32: width and height in cells.
    offset: (2, H, W) float32: x and y from a cell's corner to the centre of its object, in cells; 0..1 at the
        centre cell, beyond that elsewhere on the splat.
    box_weight: (H, W) float32: how much size and offset of a cell count; its sum over each object is the
        object's score, unless another object overlaps it.
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
        scores: (N,) float32, how likely each box is an object: 1 for what a person labelled; 0 for what is
            neither an object nor, around its centre, background.
        unlabelled: which classes nobody looked for, and where: away from boxes they are neither present nor
            absent.
        classes: their number, C.
        height: of the heatmap, in cells.
        width: likewise.
        stride: input pixels per cell.
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
        # An uncertain object's centre is no certain positive, its surroundings are no certain background.
        peak = np.float32(1 if scores[i] >= 1 else IGNORED_PEAK)
        np.maximum(window, splat * peak, out=window)
        if scores[i] <= 0:
            continue
        score[labels[i], iy, ix] = max(score[labels[i], iy, ix], scores[i])
        # A cell has one size and one offset: those of the object whose splat is strongest there.
        mine = splat >= owner[ys, xs]
        owner[ys, xs][mine] = splat[mine]
        size[0, ys, xs][mine], size[1, ys, xs][mine] = w, h
        offset[0, ys, xs][mine] = np.broadcast_to(cx - xx[xs], splat.shape)[mine]
        offset[1, ys, xs][mine] = np.broadcast_to(cy - yy[ys], splat.shape)[mine]
        box_weight[ys, xs][mine] = (splat * (scores[i] / splat.sum()))[mine]
    return Targets(heat, score, size, offset, box_weight)


def splat_reach(width: float, height: float) -> tuple[int, int]:
    """How far a box's splat reaches to each side of its centre cell, along x and along y; all in cells."""
    return int(width / 2 * REACH), int(height / 2 * REACH)


def _splat(
    ix: int, iy: int, rx: int, ry: int, height: int, width: int
) -> tuple[slice, slice, NDArray[np.float32]]:
    """A Gaussian around cell (ix, iy), rx and ry cells (three sigma) to each side, cut at the map's border.

    Returns its rows, its columns and its values, with a peak of 1.

    Args:
        ix: column of the centre.
        iy: row of the centre.
        rx: columns to each side.
        ry: rows to each side.
        height: of the map, in cells.
        width: likewise.
    """
    y0, y1 = max(0, iy - ry), min(height, iy + ry + 1)
    x0, x1 = max(0, ix - rx), min(width, ix + rx + 1)
    sx, sy = (2 * rx + 1) / 6, (2 * ry + 1) / 6
    gy = np.exp(-((np.arange(y0, y1) - iy) ** 2) / (2 * sy * sy))
    gx = np.exp(-((np.arange(x0, x1) - ix) ** 2) / (2 * sx * sx))
    return slice(y0, y1), slice(x0, x1), np.outer(gy, gx).astype(np.float32)

"""Boxes: how far they overlap, and which of two sets belong together. NumPy only.

Everything is computed in float64, whatever the boxes' type: COCO's metrics are, and where a caller only
compares with a threshold, as the tracker does, the time that float32 would save cannot be measured. Training
has an overlap of its own, of boxes in cells and with a gradient: `network.losses.box_iou`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 17  # pairs of boxes whose overlap is computed at a time: 1 MB of float64, which caches hold


def iou(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) x1, y1, x2, y2 -> (N, M) intersection over union, 0..1."""
    both = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def own_overlaps(
    boxes: NDArray[np.floating[Any]],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]]:
    """Yield blocks of `iou(boxes, boxes)` that together have each overlapping pair once.

    boxes: (N, 4) x1, y1, x2, y2. A block is (R,) and (C,) indices of boxes, and their (R, C) overlaps: 0 for
    a box and itself and for a pair that another block has.
    """
    # The whole matrix of an image with 20,000 boxes would take 14 GB. From left to right, a box can overlap
    # those before it only if they reach it.
    order = np.argsort(boxes[:, 0], kind="stable")
    left, right = boxes[order, 0], boxes[order, 2]
    rows = max(1, _BLOCK // max(1, len(order)))
    for start in range(0, len(order), rows):
        mine = order[start : start + rows]
        end = int(np.searchsorted(left, right[start : start + rows].max()))
        others = order[start : max(end, start + len(mine))]
        yield mine, others, np.triu(iou(boxes[mine], boxes[others]), 1)


def inside(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) x1, y1, x2, y2 -> (N, M) part of each of `a` that lies in each of `b`, 0..1."""
    # COCO's overlap with a crowd region, which is larger than any box of one person in it: their intersection
    # over union would never be high.
    both = _intersection(a, b)
    own = np.broadcast_to(_area(a)[:, None], both.shape)
    return np.divide(both, own, out=np.zeros_like(both), where=own > 0)


def greedy_match(overlap: NDArray[np.float64], least: float) -> NDArray[np.intp]:
    """(N, M) overlaps -> (N,) the column that each row gets, -1 for none; no column is given twice.

    In the order of the rows, which therefore stand best first, each takes the free column that it overlaps
    most, if by `least` or more; of equals the first.
    """
    # Greedy and not the best total assignment (Hungarian algorithm): a detection of a high score must not
    # lose its object to one of a lower score, and COCO's metrics count in this way.
    partner = np.full(len(overlap), -1, np.intp)
    free = np.ones(overlap.shape[1], np.bool_)
    for i in np.flatnonzero((overlap >= least).any(axis=1)):
        row = np.where(free, overlap[i], -1.0)
        best = int(row.argmax())
        if row[best] >= least:
            partner[i] = best
            free[best] = False
    return partner


def _intersection(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2].astype(np.float64), b[None, :, :2])  # (N, M, 2)
    high = np.minimum(a[:, None, 2:].astype(np.float64), b[None, :, 2:])
    sides: NDArray[np.float64] = np.maximum(high - low, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _area(boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])

"""Boxes and how far they overlap. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def iou(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) x1, y1, x2, y2 -> (N, M) intersection over union, 0..1."""
    both = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def inside(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) boxes -> (N, M) part of each of `a` that lies in each of `b`: COCO's overlap with a crowd."""
    both = _intersection(a, b)
    own = np.broadcast_to(_area(a)[:, None], both.shape)
    return np.divide(both, own, out=np.zeros_like(both), where=own > 0)


def _intersection(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2].astype(np.float64), b[None, :, :2])  # (N, M, 2)
    high = np.minimum(a[:, None, 2:].astype(np.float64), b[None, :, 2:])
    sides: NDArray[np.float64] = np.maximum(high - low, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _area(boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])

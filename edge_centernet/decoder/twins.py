"""One object, one box: drop the weaker of two peaks on the same object.

A large object's heatmap has a broad, nearly flat top. Where it is stored in 8 bits, one rounding step decides whether
it has one peak or two a few cells apart, with almost the same box. Such twins are told from neighbours by being
concentric: no overlap of boxes is computed, so objects that merely overlap are all kept (that is what NMS gets wrong).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CENTRE = 0.15  # twins: centres at most this part of the stronger box's width and height apart,
SIZE = 2.0  # and neither side more than this factor larger or smaller


def without_twins(xyxy: NDArray[np.float32], class_id: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(N, 4) boxes, best first, and their classes (N,) -> (N,) whether to keep each: a box with no better twin."""
    sides = xyxy[:, 2:] - xyxy[:, :2]  # (N, 2)
    centres = (xyxy[:, 2:] + xyxy[:, :2]) / 2
    apart = np.abs(centres[:, None] - centres[None])  # (N better, N worse, 2)
    concentric = (apart <= CENTRE * sides[:, None]).all(axis=2)
    alike = ((sides[None] <= SIZE * sides[:, None]) & (sides[:, None] <= SIZE * sides[None])).all(axis=2)
    twins = concentric & alike & (class_id[:, None] == class_id[None])
    keep = np.ones(len(xyxy), np.bool_)
    for i in range(len(xyxy)):
        if keep[i]:
            keep[i + 1 :] &= ~twins[i, i + 1 :]
    return keep

"""How many detections two networks, or two engines, have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import boxes
from edge_centernet.decoder import decode
from edge_centernet.detections import Detections
from edge_centernet.heads import Heads
from edge_centernet.manifest import DEFAULT_THRESHOLD, Manifest

Array = NDArray[Any]
THRESHOLD = DEFAULT_THRESHOLD
# Two detections agree: same class, boxes overlapping by MATCH_IOU or more, scores at most MATCH_SCORE apart.
MATCH_IOU = 0.5
MATCH_SCORE = 0.1


def agreement(
    one: tuple[Heads, Manifest], other: tuple[Heads, Manifest], min_iou: float = MATCH_IOU
) -> tuple[int, int]:
    """(detections of both sides above THRESHOLD, those with a partner on the other side).

    min_iou: how much partners must overlap, 0..1. They are sought down to THRESHOLD - MATCH_SCORE, so that a
      score at
    the threshold does not count as a miss.
    """
    sure = [decode(*side, threshold=THRESHOLD) for side in (one, other)]
    wide = [decode(*side, threshold=THRESHOLD - MATCH_SCORE) for side in (one, other)]
    return len(sure[0]) + len(sure[1]), sum(matches(sure[i], wide[1 - i], min_iou) for i in (0, 1))


def matches(wanted: Detections, offered: Detections, min_iou: float = MATCH_IOU) -> int:
    """How many of `wanted` find a partner of their own in `offered`: greedy, best score first, largest overlap."""
    near = (wanted.class_id[:, None] == offered.class_id) & (
        np.abs(wanted.score[:, None] - offered.score) <= MATCH_SCORE
    )
    overlap = np.where(near, _overlap(wanted.xyxy, offered.xyxy), -1.0)  # (N, M)
    return int((boxes.greedy_match(overlap, min_iou) >= 0).sum())


def _overlap(a: Array, b: Array) -> NDArray[np.float64]:
    """(N, 4), (M, 4) -> (N, M) intersection over union; two empty boxes at one place overlap by 1.

    A size head whose values are rounded to whole steps may store 0, on both sides alike: that is agreement,
    though an empty box has no area to share.
    """
    overlap = boxes.iou(a, b)
    empty = np.flatnonzero((a[:, 0] == a[:, 2]) | (a[:, 1] == a[:, 3]))
    overlap[empty] = np.isclose(b, a[empty, None]).all(axis=2)
    return overlap

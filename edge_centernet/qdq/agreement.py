"""How many detections two networks, or two engines, have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import decode
from edge_centernet.detections import Detections
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest

Array = NDArray[Any]
THRESHOLD = 0.3
# Two detections agree: same class, boxes overlapping by MATCH_IOU or more, scores at most MATCH_SCORE apart.
MATCH_IOU = 0.5
MATCH_SCORE = 0.1


def agreement(
    one: tuple[Heads, Manifest], other: tuple[Heads, Manifest], min_iou: float = MATCH_IOU
) -> tuple[int, int]:
    """(detections of both sides above THRESHOLD, those with a partner on the other side).

    min_iou: how much partners must overlap, 0..1. They are sought down to THRESHOLD - MATCH_SCORE, so that a score at
    the threshold does not count as a miss.
    """
    sure = [decode(*side, threshold=THRESHOLD) for side in (one, other)]
    wide = [decode(*side, threshold=THRESHOLD - MATCH_SCORE) for side in (one, other)]
    return len(sure[0]) + len(sure[1]), sum(matches(sure[i], wide[1 - i], min_iou) for i in (0, 1))


def matches(wanted: Detections, offered: Detections, min_iou: float = MATCH_IOU) -> int:
    """How many of `wanted` find a partner of their own in `offered`: greedy, best score first, largest overlap."""
    free, count = np.ones(len(offered), bool), 0
    for box, score, class_id in zip(wanted.xyxy, wanted.score, wanted.class_id, strict=True):
        near = free & (offered.class_id == class_id) & (np.abs(offered.score - score) <= MATCH_SCORE)
        overlap = np.where(near, iou(box, offered.xyxy), -1.0)
        if len(overlap) and overlap.max() >= min_iou:
            free[overlap.argmax()] = False
            count += 1
    return count


def iou(box: Array, boxes: Array) -> Array:
    """(4,) against (N, 4) -> (N,) intersection over union; two empty boxes at one place overlap by 1."""
    if np.ptp(box[::2]) == 0 or np.ptp(box[1::2]) == 0:
        return np.asarray(np.all(np.isclose(boxes, box), axis=1), np.float64)
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])  # (N, 2)
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(shared / (np.prod(box[2:] - box[:2]) + areas - shared))

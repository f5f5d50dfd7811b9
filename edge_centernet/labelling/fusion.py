"""Weighted boxes fusion (Solovyev, Wang and Gabruseva, arXiv 1910.13302), class by class, in NumPy.

Non-maximum suppression keeps one detector's box and throws the others away. Here boxes that mean the same
object are averaged, the surer ones counting more, and the score falls with every detector that saw nothing
there: agreement is what raises it.

Two things differ from the paper (docs/decisions/0031-weighted-boxes-fusion.md). A detector votes once for an
object, with the best of its boxes, so that nobody outvotes the others by repeating himself. And where a class
is unknown to some of the detectors, the score is an average over the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.detections import Detections

IOU = 0.65  # of two boxes, above which they mean the same object


def fuse(
    found: Sequence[Detections],
    weights: Sequence[float],
    known: NDArray[np.bool_],
    limit: float = IOU,
    classes: tuple[str, ...] = (),
) -> Detections:
    """What M detectors found in one image -> one `Detections`, best score first.

    Args:
        found: M results, in pixels of the same image, class_id below C.
        weights: M positive numbers; only their ratios matter.
        known: (M, C) whether a detector can find a class at all.
        limit: IoU above which a box joins an object, 0..1.
        classes: the C names, for the result.

    A fused box is the average of its boxes, each by weight times score. Its score is the sum of weight times
    score over the detectors that found it, divided by the weights of all detectors that know its class: 0..1.
    """
    share = np.asarray(weights, np.float64)
    xyxy = np.concatenate([one.xyxy for one in found]).astype(np.float64)  # (N, 4)
    label = np.concatenate([one.class_id for one in found])  # (N,)
    voter = np.repeat(np.arange(len(found)), [len(one) for one in found])  # (N,)
    pull = np.concatenate([one.score for one in found]).astype(np.float64) * share[voter]  # (N,)
    total = share @ known  # (C,)
    order = np.argsort(-pull, kind="stable")
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], int]] = []
    for class_id in np.unique(label):
        mine = order[label[order] == class_id]  # (n,) strongest first
        boxes, owner = cluster(xyxy[mine], pull[mine], limit)
        votes = np.zeros((len(boxes), len(found)))
        np.maximum.at(votes, (owner, voter[mine]), pull[mine])
        parts.append((boxes, votes.sum(axis=1) / total[class_id], int(class_id)))
    if not parts:
        return Detections.empty(classes)
    score = np.concatenate([one for _, one, _ in parts])
    class_id = np.concatenate([np.full(len(one), k, np.int32) for _, one, k in parts])
    best = np.argsort(-score, kind="stable")
    fused = np.concatenate([one for one, _, _ in parts])
    return Detections(fused[best].astype(np.float32), score[best].astype(np.float32), class_id[best], classes)


def cluster(
    xyxy: NDArray[np.float64], pull: NDArray[np.float64], limit: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """((K, 4) fused boxes, (N,) which of them each box went into).

    xyxy: (N, 4) boxes of one class. pull: (N,) how much each counts, greatest first. Each box joins the fused
      box that
    it overlaps most, as that stands by then, if by more than `limit`; otherwise it begins one of its own.
    """
    fused = np.zeros_like(xyxy)
    weight = np.zeros(len(xyxy))
    owner = np.zeros(len(xyxy), np.int64)
    count = 0
    for i, box in enumerate(xyxy):
        overlap = iou(box[None], fused[:count])[0]  # (count,)
        best = int(overlap.argmax()) if count else -1
        if best < 0 or overlap[best] <= limit:
            best, count = count, count + 1
        owner[i] = best
        weight[best] += pull[i]
        fused[best] += (box - fused[best]) * (pull[i] / weight[best])  # the running average
    return fused[:count], owner

"""Which objects were found, one by one, and what that means in crowds; AP averages it away.

A network with one peak per object loses objects in two ways that others do not: neighbours of one class whose
peaks merge, and two centres in one heatmap cell. Both are measured as recall, compared with that of all
other objects. This needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import greedy_match, inside, iou, own_overlaps
from edge_centernet.data import Sample
from edge_centernet.detections import Detections
from edge_centernet.manifest import DEFAULT_THRESHOLD, ModelSpec
from edge_centernet.preprocess import Letterbox

IOU = 0.5  # from which on a detection has found an object, as AP50 counts it
OVERLAPS = (0.3, 0.5)  # IoU with another object of the class, above which an object counts as overlapped
THRESHOLDS = (DEFAULT_THRESHOLD, 0.01)  # scores: what programs show, and all that a network can find
MAX_DETECTIONS = 100  # of one class in one image: the most that COCO counts

WRONG, RIGHT, NOT_COUNTED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections of one image against its objects.

    verdict: (N,) int8 for each detection. RIGHT: it found an object. WRONG: it is a false alarm, such as a
        second box on one object. NOT_COUNTED: it lies on an ignored object, is of a class that is not
        evaluated, or is beyond MAX_DETECTIONS.
    found_at: (M,) float32, score of the detection that found each object, -1 for an object not found. An
        object is found at every score threshold up to it: leaving out weaker detections changes no match.
    """

    verdict: NDArray[np.int8]
    found_at: NDArray[np.float32]


def match(found: Detections, labels: NDArray[np.int64], sample: Sample) -> Matches:
    """Match by COCO's rule at IoU 0.5, all sizes, class by class.

    labels: (N,) the data set's label of each detection, -1 for a class that is not evaluated in this image.

    From the best score down, each detection takes the free object that it overlaps most, if by IOU or more.
    One that finds none is not counted if at least IOU of its own area lies on an ignored object, even if
    others lie there too.
    """
    verdict = np.where(labels < 0, NOT_COUNTED, WRONG).astype(np.int8)  # (N,)
    found_at = np.full(len(sample.labels), -1, np.float32)
    order = np.argsort(-found.score, kind="stable")
    for label in np.unique(labels[labels >= 0]):
        mine = order[labels[order] == label]  # (n,) best first
        verdict[mine[MAX_DETECTIONS:]] = NOT_COUNTED
        mine = mine[:MAX_DETECTIONS]
        # Last object first: of two that are overlapped equally, COCO's own loop takes the later one.
        real = np.flatnonzero((sample.labels == label) & sample.counted)[::-1]  # (m,)
        partner = greedy_match(iou(found.xyxy[mine], sample.boxes[real]), IOU)  # (n,)
        hit = partner >= 0
        verdict[mine[hit]] = RIGHT
        found_at[real[partner[hit]]] = found.score[mine[hit]]
        # Ignored objects come second: a detection that could be right is not excused.
        crowds = sample.boxes[(sample.labels == label) & ~sample.counted]
        excused = (inside(found.xyxy[mine], crowds) >= IOU).any(axis=1)  # (n,)
        verdict[mine[excused & (verdict[mine] == WRONG)]] = NOT_COUNTED
    return Matches(verdict, found_at)


def crowd_recall(
    samples: Sequence[Sample], matches: Sequence[Matches], labels: Sequence[int], spec: ModelSpec | None
) -> dict[str, Any]:
    """Compute recall of objects in crowds and of all others.

    labels: the data set's classes that are evaluated. spec: the model's input and stride; None leaves out
    collisions. Only `Sample.counted` objects are measured, but any object can be in their way.

    Returns iou: IOU; recall: of all objects; and for overlap_0.3, overlap_0.5 (objects that another of their
    class overlaps by more than that IoU) and centre_collision (objects whose centre shares its heatmap cell
    with that of another of their class; None without spec): objects, others: how many; recall, recall_others:
    score threshold -> 0..1, or None if there are none.
    """
    overlap, collides, found_at = [], [], []
    for sample, one in zip(samples, matches, strict=True):
        chosen = sample.counted & np.isin(sample.labels, labels)
        overlap.append(largest_overlap(sample)[chosen])
        found_at.append(one.found_at[chosen])
        if spec is not None:
            collides.append(centre_collisions(sample, spec)[chosen])
    largest, score = np.concatenate(overlap), np.concatenate(found_at)
    groups: dict[str, Any] = {f"overlap_{limit:g}": _compare(largest > limit, score) for limit in OVERLAPS}
    groups["centre_collision"] = _compare(np.concatenate(collides), score) if spec is not None else None
    return {"iou": IOU, "recall": _recall(score), **groups}


def largest_overlap(sample: Sample) -> NDArray[np.float64]:
    """Return (M,): each object's largest IoU with another of its class, 0 without any."""
    largest = np.zeros(len(sample.labels), np.float64)
    for label in np.unique(sample.labels):
        own = np.flatnonzero(sample.labels == label)
        for rows, columns, overlaps in own_overlaps(sample.boxes[own]):
            for which, found in ((own[rows], overlaps.max(axis=1)), (own[columns], overlaps.max(axis=0))):
                largest[which] = np.maximum(largest[which], found)
    return largest


def centre_collisions(sample: Sample, spec: ModelSpec) -> NDArray[np.bool_]:
    """Return (M,): whether another object of the class has its centre in the same heatmap cell."""
    # Where training puts the peaks: centres after letterbox; those on the edge in the last cell.
    boxes = Letterbox(sample.width, sample.height, spec.width, spec.height).to_input(sample.boxes)  # (M, 4)
    cells = ((boxes[:, :2] + boxes[:, 2:]) / 2 // spec.stride).astype(np.int64)  # (M, 2)
    keys = np.column_stack([sample.labels, np.minimum(cells, np.array(spec.cells[::-1]) - 1)])  # (M, 3)
    _, which, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    shared: NDArray[np.bool_] = count[which.reshape(-1)] > 1  # NumPy 2.0 alone returns (M, 1)
    return shared


def _compare(group: NDArray[np.bool_], found_at: NDArray[np.float32]) -> dict[str, Any]:
    """Return an entry of `crowd_recall`: the objects in a group, (M,), against all others."""
    return {
        "objects": int(group.sum()),
        "others": int((~group).sum()),
        "recall": _recall(found_at[group]),
        "recall_others": _recall(found_at[~group]),
    }


def _recall(found_at: NDArray[np.float32]) -> dict[str, float | None]:
    """Return score threshold -> share of the objects that are found there."""
    # float32 on both sides: a score of 0.3 is found at 0.3.
    return {
        f"{t:g}": float((found_at >= np.float32(t)).mean()) if len(found_at) else None for t in THRESHOLDS
    }

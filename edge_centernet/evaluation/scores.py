"""What scores mean: how often a detection with a score is right, and from which score on to show detections.

A detection is right if it finds an object at IoU 0.5 by COCO's matching
(`edge_centernet.evaluation.crowds.match`); one on an ignored object is left out. This needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import find_class
from edge_centernet.data import Dataset
from edge_centernet.detections import Detections
from edge_centernet.evaluation.crowds import NOT_COUNTED, RIGHT, Matches
from edge_centernet.manifest import ModelSpec

LOWEST = 0.05  # score from which calibration is judged: most detections are below, nearly all of them wrong
BINS = 15  # as in Guo et al. (arXiv 1706.04599)
PER_BIN = 20  # least number of detections in a bin: with a handful, the error is that of drawing them
STEP = 0.01  # between thresholds that are tried
PAYS = 0.03  # least gain in F1, on photos it was not chosen on, for which a class gets a threshold of its own

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """All detections of a data set that count, and how many objects there were.

    score: (N,) float64, 0..1. right: (N,) bool. class_id: (N,) int64, index into the model's classes.
    image: (N,) int64, position in the data set. split: (2, C) int64, objects of each class of the model in
    images of even and of odd position, without ignored ones.
    """

    score: Floats
    right: NDArray[np.bool_]
    class_id: NDArray[np.int64]
    image: NDArray[np.int64]
    split: NDArray[np.int64]

    @property
    def objects(self) -> NDArray[np.int64]:
        """(C,) number of objects of each class."""
        total: NDArray[np.int64] = self.split.sum(axis=0)
        return total

    def half(self, odd: int) -> Outcomes:
        """Return those in images of even (0) or odd (1) position."""
        mine = self.image % 2 == odd
        split = self.split * (np.arange(2) == odd)[:, None]
        return Outcomes(self.score[mine], self.right[mine], self.class_id[mine], self.image[mine], split)


def outcomes(
    predictions: Sequence[Detections], matches: Sequence[Matches], dataset: Dataset, classes: Sequence[str]
) -> Outcomes:
    """Collect the detections that count; classes: the model's, which class_id indexes.

    predictions, matches: one of each per image of `dataset`, in its order.
    """
    counted = [one.verdict != NOT_COUNTED for one in matches]
    image = np.concatenate([np.full(int(kept.sum()), i) for i, kept in enumerate(counted)])
    known = [find_class(name, classes) for name in dataset.classes]
    to_model = np.array([-1 if k is None else k for k in known], np.int64)
    split = np.zeros((2, len(classes)), np.int64)
    for i, sample in enumerate(dataset.samples):
        labels = to_model[sample.labels[sample.counted]]
        split[i % 2] += np.bincount(labels[labels >= 0], minlength=len(classes))
    return Outcomes(
        np.concatenate([one.score[kept] for one, kept in zip(predictions, counted, strict=True)]).astype(
            np.float64
        ),
        np.concatenate([one.verdict[kept] == RIGHT for one, kept in zip(matches, counted, strict=True)]),
        np.concatenate([one.class_id[kept] for one, kept in zip(predictions, counted, strict=True)]).astype(
            np.int64
        ),
        image.astype(np.int64),
        split,
    )


# ---- Calibration -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Detections of similar scores. score: their mean; precision: the share that is right; both 0..1."""

    score: float
    precision: float
    detections: int


def reliability(score: Floats, right: NDArray[np.bool_], lowest: float = LOWEST) -> list[Bin]:
    """Divide detections from score `lowest` on into bins of equal number, by ascending score.

    There are BINS bins, or fewer where PER_BIN demands it; none without a detection. Equally many in each,
    because with bins of equal width (Guo et al., arXiv 1706.04599) the few sure detections of a rare class
    would lie alone in theirs (Nixon et al., arXiv 1904.01685).
    """
    judged = score >= lowest
    order = np.argsort(score[judged], kind="stable")
    score, hit = score[judged][order], right[judged][order]
    if not len(score):
        return []
    parts = np.array_split(np.arange(len(score)), max(1, min(BINS, len(score) // PER_BIN)))
    return [Bin(float(score[part].mean()), float(hit[part].mean()), len(part)) for part in parts]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Compute the expected calibration error, 0..1; None without a bin.

    It is the mean of |score - precision|, weighted by the number of detections.
    """
    total = sum(one.detections for one in bins)
    return sum(one.detections * abs(one.score - one.precision) for one in bins) / total if total else None


def as_trained(found: Outcomes, spec: ModelSpec) -> Outcomes | None:
    """Return the same detections with their scores before calibration, None if the model has none."""
    if not spec.score_scale:
        return None
    scale, shift = (
        np.asarray(values, np.float64)[found.class_id] for values in (spec.score_scale, spec.score_shift)
    )
    return replace(found, score=sigmoid((logit(found.score) - shift) / scale))


def calibration_record(found: Outcomes, spec: ModelSpec) -> dict[str, Any]:
    """Return how far scores are from the share of right detections, as plain types.

    Its keys are lowest: LOWEST; error: `calibration_error` of all detections; per_class: class name -> the
    same or None, of classes with objects; bins: score, precision and detections of each; before: error and
    bins of the scores before calibration, None if the model has none.
    """
    bins = reliability(found.score, found.right)
    before = as_trained(found, spec)
    record: dict[str, Any] = {"lowest": LOWEST, "error": calibration_error(bins), "per_class": {}}
    for k in np.flatnonzero(found.objects):
        mine = found.class_id == k
        record["per_class"][spec.classes[k]] = calibration_error(
            reliability(found.score[mine], found.right[mine])
        )
    record["bins"] = _plain(bins)
    record["before"] = None
    if before is not None:
        earlier = reliability(before.score, before.right)
        record["before"] = {"error": calibration_error(earlier), "bins": _plain(earlier)}
    return record


def _plain(bins: Sequence[Bin]) -> dict[str, list[float]]:
    """Return bins as lists, a list for each field."""
    return {
        "score": [round(one.score, 4) for one in bins],
        "precision": [round(one.precision, 4) for one in bins],
        "detections": [one.detections for one in bins],
    }


# ---- Thresholds ------------------------------------------------------------------------------


def threshold_record(found: Outcomes, spec: ModelSpec) -> dict[str, Any]:
    """Return precision and recall of what is shown if the user names no threshold, as plain types.

    Its keys are threshold; class_thresholds: class name -> its own if that differs; precision, recall and f1
    of all detections together, 0..1 or None if there is nothing to divide by; per_class: class name -> the
    same three.
    """
    limits = np.broadcast_to(np.asarray(spec.suggested, np.float64), len(spec.classes))
    shown = found.score >= np.asarray(limits, np.float32)[found.class_id]
    right, boxes = (
        np.bincount(found.class_id[which], minlength=len(spec.classes))
        for which in (shown & found.right, shown)
    )
    own = zip(spec.classes, limits.tolist(), strict=True)
    return {
        "threshold": spec.threshold,
        "class_thresholds": {name: limit for name, limit in own if limit != spec.threshold},
        **_rates(int(right.sum()), int(boxes.sum()), int(found.objects.sum())),
        "per_class": {
            spec.classes[k]: _rates(int(right[k]), int(boxes[k]), int(found.objects[k]))
            for k in np.flatnonzero(found.objects)
        },
    }


def _rates(right: int, boxes: int, objects: int) -> dict[str, float | None]:
    """Return precision, recall and f1 of numbers of right detections, all detections and objects."""
    return {
        "precision": right / boxes if boxes else None,
        "recall": right / objects if objects else None,
        "f1": 2 * right / (boxes + objects) if boxes + objects else None,
    }


def best_threshold(found: Outcomes) -> float:
    """Return the threshold with the best F1, a multiple of STEP inside 0..1; of equal ones the middle.

    F1 = 2 right / (detections + objects), all classes together: boxes on the screen are what users count.
    """
    right, boxes = _from_each(found)
    f1 = 2 * right / np.maximum(boxes + found.objects.sum(), 1)
    # Equal up to rounding: between two scores all thresholds show the same detections.
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(_grid()[best[len(best) // 2]])


def best_class_thresholds(found: Outcomes, common: float) -> dict[int, float]:
    """Return class id -> a threshold of its own, for the classes where that raises the F1 of all enough.

    At the best F1, one more box is worth 2 if it is right and costs F1 (Lipton et al., arXiv 1402.1892), so
    each class's best threshold can be found without the others. It is accepted if, chosen on every other
    image, it gains at least PAYS of the class's detections and objects on the rest, either way round.

    common: the threshold of all other classes.
    """
    chosen = {}
    for k in np.flatnonzero(found.objects):
        mine = _of_class(found, int(k))
        own = _worth_most(mine, _f1(found, common))
        # Two-fold cross-validation: what only fits the photos it was chosen on gains nothing here.
        gains = []
        for odd in (0, 1):
            seen, unseen = found.half(odd), found.half(1 - odd)
            limit, f1 = best_threshold(seen), _f1(seen, best_threshold(seen))
            judged, candidate = _of_class(unseen, int(k)), _worth_most(_of_class(seen, int(k)), f1)
            gained = _worth(judged, candidate, f1) - _worth(judged, limit, f1)
            gains.append(gained / max(1, int((judged.score >= limit).sum() + judged.objects.sum())))
        if min(gains) >= PAYS and own != common:
            chosen[int(k)] = own
    return chosen


def _grid() -> Floats:
    """Return (T,) the thresholds that are tried, rounded so that they print as they are meant."""
    return np.round(np.arange(STEP, 1, STEP), 4)


def _from_each(found: Outcomes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of right detections and of all from each threshold of `_grid` on, both (T,)."""
    grid = _grid().astype(np.float32)
    below, wrong = (np.searchsorted(np.sort(s), grid) for s in (found.score, found.score[~found.right]))
    boxes = len(found.score) - below
    return boxes - (int((~found.right).sum()) - wrong), boxes


def _f1(found: Outcomes, threshold: float) -> float:
    shown = found.score >= np.float32(threshold)
    total = int(shown.sum()) + int(found.objects.sum())
    return 2 * int((shown & found.right).sum()) / total if total else 0.0


def _worth(found: Outcomes, threshold: float, f1: float) -> float:
    """Return 2 for each right box less F1 for each box; see `best_class_thresholds`."""
    shown = found.score >= np.float32(threshold)
    return 2 * int((shown & found.right).sum()) - f1 * int(shown.sum())


def _worth_most(found: Outcomes, f1: float) -> float:
    """Return the threshold of `_grid` with the greatest `_worth`; of equal ones the middle."""
    right, boxes = _from_each(found)
    worth = 2 * right - f1 * boxes
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    return float(_grid()[best[len(best) // 2]])


def _of_class(found: Outcomes, k: int) -> Outcomes:
    """Return the detections and objects of one class."""
    mine = found.class_id == k
    split = found.split * (np.arange(found.split.shape[1]) == k)
    return Outcomes(found.score[mine], found.right[mine], found.class_id[mine], found.image[mine], split)


def logit(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), with p kept 1e-7 away from 0 and 1."""
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    logits: Floats = np.log(p / (1 - p))
    return logits


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-logits)))

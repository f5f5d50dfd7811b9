"""What scores are worth: how often a detection with a score is right, and from which score on to show detections.

A detection is right where it finds an object at IoU 0.5 by COCO's matching
(`edge_centernet.evaluation.crowds.match`); what lies on an ignored object is left out. NumPy only.
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

LOWEST = 0.05  # calibration is judged from here on: below are most detections, and nearly all of them wrong
BINS = 15  # as Guo et al. have them
PER_BIN = 20  # detections in a bin at least: with a handful the error is that of drawing them
STEP = 0.01  # between thresholds that are tried
PAYS = 0.03  # gain in F1 on photos that it was not chosen on, from which a class gets a threshold of its own

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """All detections of a data set that count, and how many objects there were.

    score: (N,) float64, 0..1. right: (N,) bool. class_id: (N,) int64, index into the model's classes.
    image: (N,) int64, position in the data set. split: (2, C) int64, objects of each class of the model in
      images of
    even and of odd position, without ignored ones.
    """

    score: Floats
    right: NDArray[np.bool_]
    class_id: NDArray[np.int64]
    image: NDArray[np.int64]
    split: NDArray[np.int64]

    @property
    def objects(self) -> NDArray[np.int64]:
        """(C,) objects of each class."""
        total: NDArray[np.int64] = self.split.sum(axis=0)
        return total

    def half(self, odd: int) -> Outcomes:
        """Those in images of even (0) or odd (1) number."""
        mine = self.image % 2 == odd
        split = self.split * (np.arange(2) == odd)[:, None]
        return Outcomes(self.score[mine], self.right[mine], self.class_id[mine], self.image[mine], split)


def outcomes(
    predictions: Sequence[Detections], matches: Sequence[Matches], dataset: Dataset, classes: Sequence[str]
) -> Outcomes:
    """One of each per image of `dataset`, in its order. classes: the model's, which class_id indexes."""
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


# ---- calibration
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Detections of about one score. score: their mean score; precision: share that is right; both 0..1."""

    score: float
    precision: float
    detections: int


def reliability(score: Floats, right: NDArray[np.bool_], lowest: float = LOWEST) -> list[Bin]:
    """Bins of equally many detections from score `lowest` on, by ascending score: BINS, or as PER_BIN allows.

    Equally many, because with bins of equal width (Guo et al., arXiv 1706.04599) the few sure detections of a
    rare class would lie alone in theirs (Nixon et al., arXiv 1904.01685). None at all without a detection.
    """
    judged = score >= lowest
    order = np.argsort(score[judged], kind="stable")
    score, hit = score[judged][order], right[judged][order]
    if not len(score):
        return []
    parts = np.array_split(np.arange(len(score)), max(1, min(BINS, len(score) // PER_BIN)))
    return [Bin(float(score[part].mean()), float(hit[part].mean()), len(part)) for part in parts]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Expected calibration error, 0..1: the mean of |score - precision|, weighted by detections; None for no bin."""
    total = sum(one.detections for one in bins)
    return sum(one.detections * abs(one.score - one.precision) for one in bins) / total if total else None


def as_trained(found: Outcomes, spec: ModelSpec) -> Outcomes | None:
    """The same detections with the scores that they had before calibration; None where there was none."""
    if not spec.score_scale:
        return None
    scale, shift = (
        np.asarray(values, np.float64)[found.class_id] for values in (spec.score_scale, spec.score_shift)
    )
    return replace(found, score=sigmoid((logit(found.score) - shift) / scale))


def calibration_record(found: Outcomes, spec: ModelSpec) -> dict[str, Any]:
    """How far scores are from what they promise, as JSON has it.

    Returns lowest: LOWEST; error: `calibration_error` of all detections; per_class: class name -> the same or
    None, of classes with objects; bins: score, precision and detections of each; before: error and bins of
    the scores before calibration, None where the model has none.
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
    return {
        "score": [round(one.score, 4) for one in bins],
        "precision": [round(one.precision, 4) for one in bins],
        "detections": [one.detections for one in bins],
    }


# ---- thresholds
# --------------------------------------------------------------------------------------------------


def threshold_record(found: Outcomes, spec: ModelSpec) -> dict[str, Any]:
    """Precision and recall of what is shown where the user names no threshold, as JSON has it.

    Returns threshold; class_thresholds: class name -> its own where that differs; precision, recall and f1 of
    all detections together, 0..1 or None where there is nothing to divide by; per_class: class name -> the
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
    return {
        "precision": right / boxes if boxes else None,
        "recall": right / objects if objects else None,
        "f1": 2 * right / (boxes + objects) if boxes + objects else None,
    }


def best_threshold(found: Outcomes) -> float:
    """The multiple of STEP, above 0 and below 1, from which on detections have the best F1; of equal ones the middle.

    F1 = 2 right / (detections + objects), all classes together: boxes on the screen are what users count.
    """
    right, boxes = _from_each(found)
    f1 = 2 * right / np.maximum(boxes + found.objects.sum(), 1)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(_grid()[best[len(best) // 2]])


def best_class_thresholds(found: Outcomes, common: float) -> dict[int, float]:
    """Class id -> a threshold of its own, for the classes where it raises the F1 of all classes by its share.

    At the best F1, a box more is worth 2 if it is right and costs F1 (Lipton et al., arXiv 1402.1892), so
    each class's best threshold can be told without the others. It is kept where, chosen on every other image,
    it brings at least PAYS of the class's detections and objects on the rest, either way round.
    """
    chosen = {}
    for k in np.flatnonzero(found.objects):
        mine = _of_class(found, int(k))
        own = _worth_most(mine, _f1(found, common))
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
    return np.round(np.arange(STEP, 1, STEP), 4)


def _from_each(found: Outcomes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right detections and all detections from each threshold of `_grid` on, twice (T,)."""
    grid = _grid().astype(np.float32)
    below, wrong = (np.searchsorted(np.sort(s), grid) for s in (found.score, found.score[~found.right]))
    boxes = len(found.score) - below
    return boxes - (int((~found.right).sum()) - wrong), boxes


def _f1(found: Outcomes, threshold: float) -> float:
    shown = found.score >= np.float32(threshold)
    total = int(shown.sum()) + int(found.objects.sum())
    return 2 * int((shown & found.right).sum()) / total if total else 0.0


def _worth(found: Outcomes, threshold: float, f1: float) -> float:
    """2 for each right box less F1 for each box."""
    shown = found.score >= np.float32(threshold)
    return 2 * int((shown & found.right).sum()) - f1 * int(shown.sum())


def _worth_most(found: Outcomes, f1: float) -> float:
    right, boxes = _from_each(found)
    worth = 2 * right - f1 * boxes
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    return float(_grid()[best[len(best) // 2]])


def _of_class(found: Outcomes, k: int) -> Outcomes:
    mine = found.class_id == k
    split = found.split * (np.arange(found.split.shape[1]) == k)
    return Outcomes(found.score[mine], found.right[mine], found.class_id[mine], found.image[mine], split)


def logit(probability: Floats) -> Floats:
    """log(p / (1 - p)), of p within 1e-7 of 0 and 1 at most."""
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    logits: Floats = np.log(p / (1 - p))
    return logits


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-logits)))

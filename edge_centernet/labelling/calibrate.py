"""From a fused score to the probability that the box is right, measured on photos that are labelled.

A box is right if it finds an object of its class at IoU 0.5, one box per object
(`edge_centernet.evaluation.crowds.match`). The probability is a logistic function of the score's logit (Platt
1999), which fused scores of four detectors follow from 0.05 to 0.8. Every class has a slope and a shift of
its own, held near those of all classes together by a Gaussian prior: a class with hundreds of examples
follows its own data, one with three hardly differs from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.data import Dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.evaluation.coco import match_samples
from edge_centernet.evaluation.crowds import NOT_COUNTED, RIGHT

# Fused scores below it are left out of the fit: they are nine in ten of all boxes and far from any decision.
FLOOR = 0.02
OBJECT_FLOOR = 0.5  # probability below which a box is more likely wrong than right: never an object
IGNORE_FLOOR = 0.15  # probability below which a box is not even worth ignoring
PRECISION = 0.8  # of the boxes that become objects
FOLDS = 5  # of cross-validation
# Standard deviations around the common map, of a class's shift (in logits) and of its slope (relative).
SHIFT_SPREAD, SLOPE_SPREAD = 0.7, 0.15
_ENOUGH = 10  # least number of boxes that a precision is measured on
_SMALL = 1e-6
_STEPS = 100  # limit of Newton's method, which usually needs ten

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """logit(probability) = slope * (logit(score) - centre) + shift, for each of C classes; always rising.

    slope, shift: (C,) float64, slope above 0. centre: logit of a score.
    """

    slope: Floats
    shift: Floats
    centre: float

    def __call__(self, found: Detections) -> Detections:
        """Return the same boxes with probabilities for scores, best first."""
        score = self.probability(found.score, found.class_id)
        order = np.argsort(-score, kind="stable")
        return Detections(
            found.xyxy[order], score[order].astype(np.float32), found.class_id[order], found.classes
        )

    def probability(self, score: NDArray[Any], label: NDArray[Any]) -> Floats:
        """(N,) scores and (N,) classes -> (N,) probabilities."""
        return sigmoid(self.slope[label] * (logit(score) - self.centre) + self.shift[label])

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return it as plain types, for `info` of the labels."""
        rows = zip(classes, self.slope, self.shift, strict=True)
        own = {name: {"slope": round(float(a), 4), "shift": round(float(b), 4)} for name, a, b in rows}
        return {"logit_centre": round(self.centre, 4), "per_class": own}


def fit(score: Floats, right: NDArray[np.bool_], label: NDArray[np.int64], count: int) -> ScoreMap:
    """Fit the map to boxes that are known to be right or wrong.

    score: (N,) 0..1; right: (N,); label: (N,) below `count`, the number of classes.
    Raises SourceError if no box is right or none is wrong, or if boxes with higher scores are not right more
    often.
    """
    kept = score >= FLOOR
    x, right, label = logit(score[kept]), right[kept], label[kept]
    if right.all() or not right.any():
        raise SourceError(
            f"calibration: expected right and wrong boxes, got {int(right.sum())} right ones of "
            f"{len(right)}; are these the labels of these photos, and of the same classes?"
        )
    # 1. All classes together. Platt's targets are not quite 0 and 1, with which a small set that the score
    # divides cleanly would have no finite slope.
    positive = int(right.sum())
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (len(right) - positive + 2))
    slope, shift = _logistic(x, target, np.zeros(2), np.zeros(2))
    if slope <= 0:
        raise SourceError(
            "calibration: boxes with higher scores are not right more often on the labelled photos; "
            "give more of them"
        )
    # 2. Each class, with its score measured from where one of two boxes is right: slope and shift are nearly
    # independent there, so that a prior on each of them is all that is needed.
    centre = -shift / slope
    prior, hold = np.array([slope, 0.0]), np.array([(SLOPE_SPREAD * slope) ** -2, SHIFT_SPREAD**-2])
    own = np.tile(prior, (count, 1))
    for k in np.unique(label):
        mine = label == k
        own[k] = _logistic(x[mine] - centre, right[mine].astype(np.float64), prior, hold)
    # A class whose few examples are misleading must still rise: order is what the thresholds rest on.
    return ScoreMap(np.maximum(own[:, 0], 0.1 * slope), own[:, 1], float(centre))


def _logistic(x: Floats, target: Floats, prior: Floats, hold: Floats) -> Floats:
    """Return (2,) slope and shift of the logistic regression of target (0..1) on x.

    hold: 1 / variance around `prior`. The loss is convex: Newton's method, each step halved until it falls.
    """
    columns = np.stack([x, np.ones_like(x)])  # (2, N)

    def loss(at: Floats) -> float:
        z = at @ columns
        return float(np.sum(np.logaddexp(0, z) - target * z) + 0.5 * hold @ (at - prior) ** 2)

    at, now = prior.copy(), loss(prior)
    for _ in range(_STEPS):
        p = sigmoid(at @ columns)
        gradient = columns @ (p - target) + hold * (at - prior)
        curvature = (columns * (p * (1 - p))) @ columns.T + np.diag(hold + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        while (after := loss(at - step)) > now and np.abs(step).max() > _SMALL:
            step /= 2
        at, now = at - step, after
        if np.abs(step).max() < _SMALL:
            break
    return at


class ClassResult(NamedTuple):
    """What calibrated labels are worth, for a class or for all.

    objects: number to be found. precision, recall: of the boxes that become objects, None without any.
    recall_ignored: share of the objects that at least an ignored box marks. AP50, AP: of the fused
    detections, None without objects.
    """

    objects: int
    precision: float | None
    recall: float | None
    recall_ignored: float | None
    AP50: float | None
    AP: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """The map, the thresholds chosen by it (probabilities), and what they give on the labelled photos.

    threshold: below it boxes are left out. ignore_below: from here on they are objects.
    per_class: by name; overall: of all together. images: number of labelled photos.
    """

    scores: ScoreMap
    threshold: float
    ignore_below: float
    per_class: dict[str, ClassResult]
    overall: ClassResult
    images: int


def calibrate(
    found: Sequence[Detections],
    metrics: dict[str, Any],
    data: Dataset,
    classes: Sequence[str],
    precision: float = PRECISION,
    threshold: float | None = None,
    ignore_below: float | None = None,
) -> Calibration:
    """Fit the map, choose the thresholds, and measure them.

    Args:
        found: fused detections of each image of `data`, class_id indexing `classes`.
        metrics: what `edge_centernet.evaluation.coco.evaluate_samples` says of them.
        data: the labelled photos.
        classes: names that `data` has too.
        precision: share of the boxes that become objects that should be right, 0..1.
        threshold: probability below which boxes are left out; None takes IGNORE_FLOOR.
        ignore_below: probability from which on boxes are objects; None takes the lowest that reaches
            `precision`, but no lower than OBJECT_FLOOR.

    Precision and recall are cross-validated: the photos are divided into FOLDS parts, and each is judged with
    a map that was fitted on the others. The map that is returned is fitted on all.

    Raises SourceError if the labelled photos allow no fit, ConfigError if no threshold reaches the precision.
    """
    boxes = _judge(found, data, classes)
    labels = np.concatenate([sample.labels[~sample.ignore] for sample in data.samples])
    counts = np.bincount(labels, minlength=len(data.classes))
    objects = counts[[data.classes.index(name) for name in classes]]  # (C,) to be found of each class
    if ignore_below is None:
        upper = max(OBJECT_FLOOR, _reaching(boxes.probability, boxes.right, precision, int(objects.sum())))
    else:
        upper = ignore_below
    lower = min(upper, IGNORE_FLOOR) if threshold is None else threshold
    if lower > upper:
        raise ConfigError(
            f"threshold: expected at most {upper:.3f}, from which on boxes are objects; got {lower:g}"
        )
    rows = {}
    for k, name in enumerate(classes):
        of = boxes.label == k
        own = metrics["per_class"][name]
        rows[name] = _result(boxes.probability[of], boxes.right[of], int(objects[k]), upper, lower, own)
    overall = _result(boxes.probability, boxes.right, int(objects.sum()), upper, lower, metrics)
    scores = fit(boxes.score, boxes.right, boxes.label, len(classes))
    return Calibration(scores, lower, upper, rows, overall, len(data))


class _Boxes(NamedTuple):
    """All counted boxes of all photos, N of them.

    score: fused. right: whether it found an object. label: of its class. probability: of being right, from a
    map that was fitted without the box's own photo.
    """

    score: Floats
    right: NDArray[np.bool_]
    label: NDArray[np.int64]
    probability: Floats


def _judge(found: Sequence[Detections], data: Dataset, classes: Sequence[str]) -> _Boxes:
    """Match the detections of each photo with its objects, and compute probabilities by cross-validation."""
    parts = []
    for i, (one, matches) in enumerate(zip(found, match_samples(found, data, classes), strict=True)):
        counted = matches.verdict != NOT_COUNTED
        right = matches.verdict[counted] == RIGHT
        label = one.class_id[counted].astype(np.int64)
        parts.append((one.score[counted].astype(np.float64), right, label, np.full(len(right), i, np.int64)))
    score, right, label, photo = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Whole photos are held out, not boxes, for the boxes of a photo resemble each other. A single photo has
    # to be judged by the map that was fitted on it.
    folds = min(FOLDS, int(photo.max(initial=0)) + 1)
    probability = np.zeros(len(score))
    for part in range(folds):
        here = photo % folds == part
        others = ~here if folds > 1 else here
        scores = fit(score[others], right[others], label[others], len(classes))
        probability[here] = scores.probability(score[here], label[here])
    return _Boxes(score, right, label, probability)


def _reaching(probability: Floats, right: NDArray[np.bool_], precision: float, objects: int) -> float:
    """Return the lowest probability from which on `precision` of the boxes are right.

    objects: their number, for the message of ConfigError where none reaches it.
    """
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(right[order])
    first = min(_ENOUGH, len(order)) - 1
    reached = hits[first:] / np.arange(first + 1, len(order) + 1)
    enough = np.flatnonzero(reached >= precision)
    if not len(enough):
        best = int(reached.argmax())
        raise ConfigError(
            f"precision: expected at most {reached[best]:.2f}, which these models reach on the labelled "
            f"photos (with {hits[first + best]} of {objects} objects found), got {precision:g}; "
            "ask for less, or add a model"
        )
    return float(probability[order[first + enough[-1]]])


def _result(
    probability: Floats,
    right: NDArray[np.bool_],
    objects: int,
    upper: float,
    lower: float,
    metrics: dict[str, Any],
) -> ClassResult:
    """Return a ClassResult.

    Args:
        probability: (n,) of the boxes of this class.
        right: (n,) whether each is right.
        objects: number of objects of this class.
        upper: probability from which on a box is an object.
        lower: probability from which on it is at least ignored.
        metrics: AP50 and AP of this class.
    """
    shown, marked = probability >= upper, probability >= lower
    return ClassResult(
        objects,
        float(right[shown].mean()) if shown.any() else None,
        float(right[shown].sum() / objects) if objects else None,
        float(right[marked].sum() / objects) if objects else None,
        metrics["AP50"],
        metrics["AP"],
    )


def logit(p: NDArray[Any]) -> Floats:
    """Return log(p / (1 - p)), finite at 0 and 1."""
    p = np.clip(np.asarray(p, np.float64), _SMALL, 1 - _SMALL)
    return np.asarray(np.log(p / (1 - p)))


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))

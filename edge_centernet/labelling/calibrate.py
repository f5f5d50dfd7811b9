"""From a fused score to the probability that the box is right, measured on photos that are labelled.

A box is right if it finds an object of its class at IoU 0.5, one box an object
(`edge_centernet.evaluation.crowds.match`). The
probability is a logistic function of the score's logit (Platt 1999): what fused scores of four detectors
follow from 0.05 to 0.8. Every class has a slope and a shift of its own, held near those of all classes
together by a Gaussian
prior: a class with hundreds of examples follows its own, one with three hardly leaves the others.
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

FLOOR = (
    0.02  # fused scores below it are left out of the fit: far from any decision, and nine in ten of all boxes
)
OBJECT_FLOOR = 0.5  # probability below which a box is more likely wrong than right: never an object
IGNORE_FLOOR = 0.15  # probability below which a box is not even worth ignoring
PRECISION = 0.8  # of the boxes that become objects
FOLDS = 5
# Standard deviations of a class's shift (in logits) and of its slope (as a part of the common one).
SHIFT_SPREAD, SLOPE_SPREAD = 0.7, 0.15
_ENOUGH = 10  # boxes that a precision is measured on at least
_SMALL = 1e-6
_STEPS = 100  # of Newton's method; ten are usual

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
        """The same boxes with probabilities for scores, best first."""
        x = logit(found.score) - self.centre
        score = sigmoid(self.slope[found.class_id] * x + self.shift[found.class_id])
        order = np.argsort(-score, kind="stable")
        return Detections(
            found.xyxy[order], score[order].astype(np.float32), found.class_id[order], found.classes
        )

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """For the `info` of the labels."""
        rows = zip(classes, self.slope, self.shift, strict=True)
        own = {name: {"slope": round(float(a), 4), "shift": round(float(b), 4)} for name, a, b in rows}
        return {"logit_centre": round(self.centre, 4), "per_class": own}


def fit(score: Floats, right: NDArray[np.bool_], label: NDArray[np.int64], count: int) -> ScoreMap:
    """score: (N,) 0..1; right: (N,); label: (N,) below `count`, the number of classes.

    Raises SourceError where no box is right or none is wrong, or where higher scores are not right more
    often.
    """
    kept = score >= FLOOR
    x, right, label = logit(score[kept]), right[kept], label[kept]
    if right.all() or not right.any():
        raise SourceError(
            f"calibration: expected right and wrong boxes, got {int(right.sum())} right ones of {len(right)}; are "
            "these the labels of these photos, and of the same classes?"
        )
    # Platt's targets: with 0 and 1 a small set that the score divides cleanly would have no finite slope.
    positive = int(right.sum())
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (len(right) - positive + 2))
    slope, shift = _logistic(x, target, np.zeros(2), np.zeros(2))
    if slope <= 0:
        raise SourceError(
            "calibration: boxes with higher scores are not right more often on the labelled photos; give more of them"
        )
    centre = (
        -shift / slope
    )  # where one of two is right: slope and shift of a class are nearly independent there
    prior, hold = np.array([slope, 0.0]), np.array([(SLOPE_SPREAD * slope) ** -2, SHIFT_SPREAD**-2])
    own = np.tile(prior, (count, 1))
    for k in np.unique(label):
        mine = label == k
        own[k] = _logistic(x[mine] - centre, right[mine].astype(np.float64), prior, hold)
    return ScoreMap(np.maximum(own[:, 0], 0.1 * slope), own[:, 1], float(centre))


def _logistic(x: Floats, target: Floats, prior: Floats, hold: Floats) -> Floats:
    """(2,) slope and shift of the logistic regression of target (0..1) on x; hold: 1 / variance around `prior`.

    Newton's method, each step halved until it pays: the loss is convex.
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
    """objects: that are to be found. precision, recall: of the boxes that become objects; None without any.

    recall_ignored: part of the objects that at least an ignored box marks. AP50, AP: of the fusion, None
      without
    objects.
    """

    objects: int
    precision: float | None
    recall: float | None
    recall_ignored: float | None
    AP50: float | None
    AP: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """The map, the thresholds it leads to (probabilities), and what they give on the labelled photos.

    threshold: below it boxes are left out. ignore_below: from here on they are objects. per_class: by name;
      overall:
    of all together. images: how many were looked at.
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
        precision: what part of the boxes that become objects shall be right, 0..1.
        threshold: probability below which boxes are left out; None takes IGNORE_FLOOR.
        ignore_below: probability from which on boxes are objects; None takes the lowest that reaches
            `precision`, but no lower than OBJECT_FLOOR.

    What is told of precision and recall is honest: the photos are divided into FOLDS parts, and each is
    judged with a map that was fitted on the others. The map that is returned is fitted on all.

    Raises SourceError where the labelled photos allow no fit, ConfigError where no threshold reaches the
    precision.
    """
    boxes = _judge(found, data, classes)
    probability = _held_out(boxes, len(classes))
    objects = _objects(data, classes)
    if ignore_below is None:
        upper = max(OBJECT_FLOOR, _reaching(probability, boxes.right, precision, int(objects.sum())))
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
        rows[name] = _result(probability[of], boxes.right[of], int(objects[k]), upper, lower, own)
    overall = _result(probability, boxes.right, int(objects.sum()), upper, lower, metrics)
    scores = fit(boxes.score, boxes.right, boxes.label, len(classes))
    return Calibration(scores, lower, upper, rows, overall, len(data))


class _Boxes(NamedTuple):
    """All counted boxes of all photos, (N,): score, whether right, label, and the number of the photo."""

    score: Floats
    right: NDArray[np.bool_]
    label: NDArray[np.int64]
    photo: NDArray[np.int64]


def _judge(found: Sequence[Detections], data: Dataset, classes: Sequence[str]) -> _Boxes:
    parts = []
    for i, (one, matches) in enumerate(zip(found, match_samples(found, data, classes), strict=True)):
        counted = matches.verdict != NOT_COUNTED
        right = matches.verdict[counted] == RIGHT
        label = one.class_id[counted].astype(np.int64)
        parts.append((one.score[counted].astype(np.float64), right, label, np.full(len(right), i, np.int64)))
    return _Boxes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _held_out(boxes: _Boxes, count: int) -> Floats:
    """(N,) probabilities, of each photo by a map that did not see it; by one that did where there are too few."""
    folds = min(FOLDS, int(boxes.photo.max(initial=0)) + 1)
    probability = np.zeros(len(boxes.score))
    for part in range(folds):
        here = boxes.photo % folds == part
        others = ~here if folds > 1 else here
        scores = fit(boxes.score[others], boxes.right[others], boxes.label[others], count)
        x = logit(boxes.score[here]) - scores.centre
        probability[here] = sigmoid(scores.slope[boxes.label[here]] * x + scores.shift[boxes.label[here]])
    return probability


def _reaching(probability: Floats, right: NDArray[np.bool_], precision: float, objects: int) -> float:
    """The lowest probability from which on `precision` of the boxes are right."""
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(right[order])
    first = min(_ENOUGH, len(order)) - 1
    reached = hits[first:] / np.arange(first + 1, len(order) + 1)
    enough = np.flatnonzero(reached >= precision)
    if not len(enough):
        best = int(reached.argmax())
        raise ConfigError(
            f"precision: expected at most {reached[best]:.2f}, which these models reach on the labelled photos (with "
            f"{hits[first + best]} of {objects} objects found), got {precision:g}; ask for less, or add a model"
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
    """See ClassResult; probability, right: (n,) of the boxes of this class."""
    shown, marked = probability >= upper, probability >= lower
    return ClassResult(
        objects,
        float(right[shown].mean()) if shown.any() else None,
        float(right[shown].sum() / objects) if objects else None,
        float(right[marked].sum() / objects) if objects else None,
        metrics["AP50"],
        metrics["AP"],
    )


def _objects(data: Dataset, classes: Sequence[str]) -> NDArray[np.int64]:
    """(C,) how many objects of each class are to be found."""
    labels = np.concatenate([sample.labels[~sample.ignore] for sample in data.samples])
    counts = np.bincount(labels, minlength=len(data.classes))
    return counts[[data.classes.index(name) for name in classes]]


def logit(p: NDArray[Any]) -> Floats:
    """log(p / (1 - p)), finite at 0 and 1."""
    p = np.clip(np.asarray(p, np.float64), _SMALL, 1 - _SMALL)
    return np.asarray(np.log(p / (1 - p)))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))

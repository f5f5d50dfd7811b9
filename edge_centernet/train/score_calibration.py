"""Scores that say how often a detection is right, by a scale and a shift of each class's logit.

CenterNet's focal loss ranks detections; it does not make 0.3 mean three in ten. Platt scaling (Platt 1999;
Guo et al., arXiv 1706.04599) fits precision = sigmoid(scale * logit + shift) to detections on labelled
images. Both numbers go into the last convolution of the heatmap before quantization, so that nothing is left
to compute on the device.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_centernet.data import Dataset
from edge_centernet.evaluation.scores import (
    Outcomes,
    best_class_thresholds,
    best_threshold,
    calibration_record,
    logit,
    outcomes,
    sigmoid,
    threshold_record,
)
from edge_centernet.manifest import ModelSpec
from edge_centernet.network.centernet import CenterNet
from edge_centernet.train.validate import THRESHOLD, predict

LOWEST = (
    0.05  # only detections with this score, as trained, or more are fitted: the many below would dominate
)
FEWEST = 20  # right detections, of all classes together, without which nothing is fitted
# The prior of a class, as standard deviations from the fit to all classes: of its scale, as a share of
# theirs, and of its logit where that fit gives 0.5. They are about what classes with many objects differ by;
# a rare class stays close to the others.
SCALE_SPREAD, SHIFT_SPREAD = 0.15, 0.3
# The prior of the fit to all classes, around scores as trained: so wide that it matters for a handful of
# detections only.
WIDE = 3.0
SMALLEST = 0.1  # of scales: above 0, so that a higher logit stays a higher score

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreCalibration:
    """scale, shift: (C,) float64, new logit = scale * logit + shift, scale > 0."""

    scale: Floats
    shift: Floats

    def apply(self, found: Outcomes) -> Outcomes:
        """The same detections with the scores they will have."""
        k = found.class_id
        return replace(found, score=sigmoid(self.scale[k] * logit(found.score) + self.shift[k]))

    @torch.no_grad()
    def fold_into(self, model: CenterNet) -> None:
        """Change a float network whose scores are as trained, in place, and record it in its spec."""
        weight, bias = model.heat.conv.weight, model.heat.conv.bias
        assert bias is not None
        scale, shift = (torch.from_numpy(values).to(bias) for values in (self.scale, self.shift))
        weight.mul_(scale[:, None, None, None])
        bias.mul_(scale).add_(shift)
        model.spec = replace(
            model.spec, score_scale=tuple(self.scale.tolist()), score_shift=tuple(self.shift.tolist())
        )


@torch.no_grad()
def unfold(model: CenterNet) -> None:
    """Undo `fold_into` in place, up to rounding: scores are as trained, with the default threshold."""
    spec = model.spec
    if not spec.score_scale:
        return
    bias = model.heat.conv.bias
    assert bias is not None
    scale, shift = (torch.tensor(values).to(bias) for values in (spec.score_scale, spec.score_shift))
    model.heat.conv.weight.div_(scale[:, None, None, None])
    bias.sub_(shift).div_(scale)
    model.spec = replace(
        spec, threshold=ModelSpec.threshold, class_thresholds=(), score_scale=(), score_shift=()
    )


def judge(model: CenterNet, data: Dataset) -> Outcomes:
    """The network's detections on `data`, judged by its labels; a progress bar is shown."""
    from edge_centernet.evaluation.coco import match_samples  # its COCO library is not needed to train

    found = list(predict(model, data, THRESHOLD))
    return outcomes(found, match_samples(found, data, model.spec.classes), data, model.spec.classes)


def fit_score_calibration(found: Outcomes) -> ScoreCalibration | None:
    """Scale and shift of each class, from detections with scores as trained.

    None where fewer than FEWEST of them are right. A class without detections gets the fit to all classes.
    """
    used = found.score >= LOWEST
    if int((used & found.right).sum()) < FEWEST:
        return None
    logits, class_id = logit(found.score[used]), found.class_id[used]
    right = found.right[used].astype(np.float64)
    # 1. All classes together.
    common, at_zero = fit_logistic(logits, right, (1.0, 0.0), (WIDE, WIDE))
    # 2. Each class, held to that fit by the prior. Logits count from where that fit gives 0.5, because there
    # a class's scale and shift hardly depend on each other.
    middle = -at_zero / common
    scale, shift = np.empty(len(found.objects)), np.empty(len(found.objects))
    for k in range(len(scale)):
        mine = class_id == k
        own, offset = fit_logistic(
            logits[mine] - middle, right[mine], (common, 0.0), (SCALE_SPREAD * common, SHIFT_SPREAD)
        )
        scale[k], shift[k] = own, offset - own * middle
    return ScoreCalibration(scale, shift)


def fit_logistic(
    x: Floats, right: Floats, prior: tuple[float, float], spread: tuple[float, float]
) -> tuple[float, float]:
    """The most likely (a, b) of P(right) = sigmoid(a x + b), with a >= SMALLEST and a normal prior.

    x: (N,). right: (N,) 0 or 1. prior: means of a and b; spread: their standard deviations.

    Found by Newton's method, with steps halved until they improve; the problem is strictly convex, so there
    is one answer.
    """
    centre, precision = np.asarray(prior), 1 / np.square(spread)
    features = np.stack([x, np.ones_like(x)], axis=1)  # (N, 2)
    free = np.array([True, True])
    at = centre.astype(np.float64)

    def cost(point: Floats) -> float:
        t = features @ point
        return float(np.sum(np.logaddexp(0, t) - right * t) + 0.5 * (precision * (point - centre) ** 2).sum())

    for _ in range(100):
        p = sigmoid(features @ at)
        slope = features.T @ (p - right) + precision * (at - centre)
        # On its bound, a stays where it is unless its gradient makes it grow.
        free[0] = at[0] > SMALLEST or slope[0] < 0
        curvature = (features * (p * (1 - p))[:, None]).T @ features + np.diag(precision)
        step = np.zeros(2)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
        now, size = cost(at), 1.0
        while size > 1e-6 and cost(_bounded(at - size * step)) > now:
            size /= 2
        moved = _bounded(at - size * step)
        done = float(np.abs(moved - at).max()) < 1e-9
        at = moved
        if done:
            break
    return float(at[0]), float(at[1])


def _bounded(point: Floats) -> Floats:
    return np.array([max(point[0], SMALLEST), point[1]])


@dataclass(frozen=True, eq=False)
class Fitted:
    """Calibration and thresholds for a network. record: how well they fit, see `fit_to`, for JSON."""

    calibration: ScoreCalibration
    threshold: float
    class_thresholds: tuple[float, ...]
    record: dict[str, Any]


def fit_to(model: CenterNet, data: Dataset) -> Fitted | None:
    """Calibration and thresholds of a float network, by its detections on `data` with scores as trained.

    The record holds "before" and "after", each a `calibration_record`, where "after" takes every image's
    scores from a fit to the other half of the images; "at_threshold", a `threshold_record`; "scale" and
    "shift" by class. None where fewer than FEWEST detections are right. The network stays as it is.
    """
    model = copy.deepcopy(model)
    unfold(model)
    found = judge(model, data)
    calibration = fit_score_calibration(found)
    if calibration is None:
        return None
    new = calibration.apply(found)
    threshold = best_threshold(new)
    own = best_class_thresholds(new, threshold)
    each = tuple(own.get(k, threshold) for k in range(len(model.spec.classes))) if own else ()
    names, spec = model.spec.classes, replace(model.spec, threshold=threshold, class_thresholds=each)
    record = {
        "before": calibration_record(found, spec),
        "after": calibration_record(cross_fitted(found, calibration), spec),
        "at_threshold": threshold_record(new, spec),
        "scale": dict(zip(names, calibration.scale.tolist(), strict=True)),
        "shift": dict(zip(names, calibration.shift.tolist(), strict=True)),
    }
    return Fitted(calibration, threshold, each, record)


def set_scores(model: CenterNet, fitted: Fitted | None) -> None:
    """Give a float network these scores, in place, whatever it had before; None leaves it as it is."""
    if fitted is not None:
        unfold(model)
        fitted.calibration.fold_into(model)
        model.spec = replace(model.spec, threshold=fitted.threshold, class_thresholds=fitted.class_thresholds)


def summary(fitted: Fitted | None) -> str:
    """One line for the screen."""
    if fitted is None:
        return f"Scores stay as they are: fewer than {FEWEST} detections on the validation set are right"
    before, after = fitted.record["before"]["error"], fitted.record["after"]["error"]
    return (
        f"Scores calibrated: error {before:.3f} before, {after:.3f} after; "
        f"default threshold {fitted.threshold:g}"
    )


def cross_fitted(found: Outcomes, whole: ScoreCalibration) -> Outcomes:
    """Detections with scores from a fit to the other half of the images, or from `whole` if that has none.

    Judged by labels that were not fitted to, calibration looks no better than it is.
    """
    score = np.empty_like(found.score)
    for odd in (0, 1):
        fitted = fit_score_calibration(found.half(1 - odd)) or whole
        mine = found.image % 2 == odd
        score[mine] = fitted.apply(found.half(odd)).score
    return replace(found, score=score)

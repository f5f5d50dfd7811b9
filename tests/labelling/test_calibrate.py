"""From fused scores to probabilities, and to thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_centernet.data import Dataset, Sample
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.evaluation.coco import evaluate_samples
from edge_centernet.labelling.calibrate import (
    IGNORE_FLOOR,
    OBJECT_FLOOR,
    Calibration,
    calibrate,
    fit,
    logit,
    sigmoid,
)

CLASSES = ("cat", "dog", "bird")
SLOPES, SHIFTS = (3.0, 3.0, 2.4), (2.0, 1.0, 2.5)  # logit(probability) = slope * logit(score) + shift


def world(photos: int, seed: int = 0, shifts: tuple[float, ...] = SHIFTS) -> tuple[list[Detections], Dataset]:
    """Photos with ten boxes each that are right with the probability that SLOPES and SHIFTS say.

    A wrong box lies beside its object, so that every box has one: recall is the part of right ones.
    """
    rng = np.random.default_rng(seed)
    found, samples = [], []
    for number in range(photos):
        corner = np.stack([100.0 * np.arange(10), np.zeros(10)], 1)  # boxes of 40 x 40, 100 pixels apart
        boxes = np.hstack([corner, corner + 40]).astype(np.float32)
        label = rng.integers(0, 3, 10)
        score = rng.uniform(0.05, 0.8, 10)
        right = rng.random(10) < sigmoid(np.take(SLOPES, label) * logit(score) + np.take(shifts, label))
        truth = boxes + np.where(right, 0, 50)[:, None].astype(np.float32)
        order = np.argsort(-score)
        found.append(Detections(boxes[order], score[order], label[order], CLASSES))
        samples.append(Sample(Path(f"{number}.jpg"), 1000, 100, truth, label, np.zeros(10, np.bool_)))
    return found, Dataset(CLASSES, tuple(samples))


def run(found: list[Detections], data: Dataset, **options: float) -> Calibration:
    """With the metrics that belong to it."""
    return calibrate(found, evaluate_samples(found, data), data, CLASSES, **options)


def test_the_map_that_made_the_data_is_found_again() -> None:
    """Within 0.04 at scores of 0.1 to 0.7, for each class."""
    scores = run(*world(600)).scores
    for k in range(3):
        s = np.array([0.1, 0.3, 0.5, 0.7])
        one = scores(Detections(np.zeros((4, 4)), s, np.full(4, k)))
        expected = sigmoid(SLOPES[k] * logit(s) + SHIFTS[k])
        np.testing.assert_allclose(np.sort(one.score), expected, atol=0.04)


def test_scores_of_a_photo_are_sorted_again_and_rise_with_the_fused_score() -> None:
    """Best first by probability; within a class no order changes."""
    scores = run(*world(100)).scores
    s = np.linspace(0.99, 0.01, 60)
    found = scores(Detections(np.arange(240).reshape(60, 4), s, np.arange(60) % 3, CLASSES))
    assert (np.diff(found.score) <= 0).all()
    for k in range(3):
        own = found.xyxy[found.class_id == k, 0]  # grows as the fused score falls
        assert (np.diff(own) > 0).all()


def test_a_rare_class_stays_near_all_and_an_absent_one_is_as_all() -> None:
    """A few wrong birds lower their map by less than a logit; a class without a box has the common map."""
    score, label = np.tile(np.linspace(0.05, 0.8, 100), 10), np.zeros(1000, np.int64)
    right = np.random.default_rng(1).random(1000) < sigmoid(3 * logit(score) + 2)
    label[:3], right[:3], score[:3] = 1, False, 0.3
    scores = fit(score, right, label, 3)
    assert scores.shift[2] == 0.0
    assert -1.0 < scores.shift[1] < 0.0
    assert abs(scores.slope[1] / scores.slope[2] - 1) < 0.3


def test_objects_have_the_precision_that_was_asked_for() -> None:
    """0.9 on the photos they were measured on, and about that on others; recall is what it costs."""
    strict, loose = (run(*world(300), precision=precision) for precision in (0.95, 0.85))
    for result, asked in ((strict, 0.95), (loose, 0.85)):
        assert result.overall.precision is not None
        assert asked <= result.overall.precision < asked + 0.03
        other, data = world(300, seed=5)
        verdicts = [result.scores(one) for one in other]
        shown = [one[one.score >= result.ignore_below] for one in verdicts]
        hits = sum(
            bool((np.abs(sample.boxes - box).max(axis=1) < 1).any())
            for one, sample in zip(shown, data.samples, strict=True)
            for box in one.xyxy
        )
        assert abs(hits / sum(map(len, shown)) - asked) < 0.04
    assert strict.ignore_below > loose.ignore_below
    assert strict.overall.recall < loose.overall.recall


def test_no_object_is_more_likely_wrong_than_right() -> None:
    """However low a precision is asked for; and ignored boxes reach down to where 15 % are right."""
    result = run(*world(100), precision=0.1)
    assert result.ignore_below == OBJECT_FLOOR == 0.5
    assert result.threshold == IGNORE_FLOOR == 0.15


def test_thresholds_that_are_given_are_taken() -> None:
    """As probabilities; the wrong way round they are refused."""
    result = run(*world(50), threshold=0.2, ignore_below=0.7)
    assert (result.threshold, result.ignore_below) == (0.2, 0.7)
    with pytest.raises(
        ConfigError, match=r"expected at most 0\.700, from which on boxes are objects; got 0.8"
    ):
        run(*world(50), threshold=0.8, ignore_below=0.7)


def test_precision_and_recall_of_a_class_are_counted() -> None:
    """Of three cats found one is wrong, a fourth is missed; a box on an ignored object counts for nothing.

    With all boxes taken for objects, what must come out can be counted on the data.
    """
    boxes = np.array([[0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 240, 40], [300, 0, 340, 40]], np.float32)
    ones = Detections(boxes[:3], np.array([0.7, 0.6, 0.5]), np.zeros(3, int), CLASSES)
    truth, cats = boxes[[0, 1, 3]], np.zeros(3, np.int64)
    first = Sample(Path("a.jpg"), 400, 100, truth, cats, np.zeros(3, np.bool_))
    second = Sample(Path("b.jpg"), 400, 100, truth[:1], cats[:1], np.ones(1, np.bool_))
    found, data = world(60)
    cat = [(one.class_id == 0, sample.labels == 0) for one, sample in zip(found, data.samples, strict=True)]
    there = sum(int(mine.sum()) for mine, _ in cat)
    corners = [
        {tuple(box) for box in one.xyxy[mine].tolist()}
        & {tuple(box) for box in sample.boxes[theirs].tolist()}
        for (mine, theirs), one, sample in zip(cat, found, data.samples, strict=True)
    ]
    right = sum(map(len, corners))
    result = run([ones, ones[:1], *found], Dataset(CLASSES, (first, second, *data.samples)), ignore_below=0.0)
    assert result.per_class["cat"][:4] == pytest.approx(
        (there + 3, (right + 2) / (there + 3), (right + 2) / (there + 3), (right + 2) / (there + 3))
    )
    assert result.images == 62


@pytest.mark.parametrize(
    ("right", "message"),
    [
        (np.zeros(20, np.bool_), "got 0 right ones of 20"),
        (np.ones(20, np.bool_), "got 20 right ones of 20"),
        (np.arange(20) < 10, "higher scores are not right more often"),
    ],
)
def test_labels_that_do_not_fit_are_told(right: np.ndarray, message: str) -> None:
    """None right, none wrong, and the low scores right."""
    with pytest.raises(SourceError, match=message):
        fit(np.linspace(0.1, 0.9, 20), right, np.zeros(20, np.int64), 1)


def test_scores_that_divide_cleanly_have_a_finite_map() -> None:
    """Ten right ones above ten wrong ones: steep, but neither infinite nor an error."""
    scores = fit(np.linspace(0.1, 0.9, 20), np.arange(20) >= 10, np.zeros(20, np.int64), 1)
    assert np.isfinite(scores.slope).all()
    assert 1 < scores.slope[0] < 100


def test_a_precision_that_nothing_reaches_is_told_with_the_best() -> None:
    """Where a box is right in six of ten cases at most, 0.95 is out of reach."""
    found, data = world(100, shifts=(-3.7, -3.7, -2.9))
    with pytest.raises(
        ConfigError, match=r"expected at most 0\.[5-8]\d, which these models reach .* of 1000 objects"
    ):
        run(found, data, precision=0.95)

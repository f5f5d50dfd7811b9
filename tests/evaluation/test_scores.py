"""What scores are worth, from detections whose answers are written down here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_centernet.data import Dataset, Sample
from edge_centernet.detections import Detections
from edge_centernet.evaluation.coco import match_samples
from edge_centernet.evaluation.scores import (
    Bin,
    Outcomes,
    as_trained,
    best_class_thresholds,
    best_threshold,
    calibration_error,
    calibration_record,
    outcomes,
    reliability,
    threshold_record,
)
from edge_centernet.manifest import ModelSpec

SPEC = ModelSpec("t", "1", 64, 64, ("car", "dog"))
HERE, THERE, ELSEWHERE = (0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50)


def judged(*rows: tuple[float, bool, int], objects: tuple[int, int] = (4, 4)) -> Outcomes:
    """(score, right, class) of each detection, in images of even and odd position in turns."""
    score, right, class_id = (np.array(column) for column in zip(*rows, strict=True))
    half = np.array(objects) // 2
    score = score.astype(np.float32).astype(np.float64)  # as detections have it
    return Outcomes(score, right, class_id, np.arange(len(rows)), np.stack([half, objects - half]))


def test_detections_are_judged_by_the_objects_of_their_image() -> None:
    """One right, one wrong, one on an ignored object, which is left out; other order of classes."""
    boxes = np.array([HERE, THERE], np.float32)
    sample = Sample(Path("a"), 64, 64, boxes, np.array([0, 1]), np.array([False, True]))
    data = Dataset(("dog", "car", "kite"), (sample, replace(sample, labels=np.array([2, 0]))))
    found = Detections(np.array([HERE, THERE, ELSEWHERE]), np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]))
    predictions = [found, Detections.empty()]
    result = outcomes(predictions, match_samples(predictions, data, SPEC.classes), data, SPEC.classes)
    assert result.score.tolist() == pytest.approx([0.9, 0.7])
    assert result.right.tolist() == [True, False]
    assert (result.class_id.tolist(), result.image.tolist()) == ([1, 1], [0, 0])
    assert (result.objects.tolist(), result.split.tolist()) == ([0, 1], [[0, 1], [0, 0]])


def test_the_calibration_error_is_the_mean_distance_from_the_promise() -> None:
    """20 detections of 0.2, 5 right; 20 of 0.8, 18 right: (0.05 + 0.1) / 2. Below 0.05 they do not count."""
    score = np.array([0.8] * 20 + [0.2] * 20 + [0.04] * 100)
    right = np.array([True] * 18 + [False] * 2 + [True] * 5 + [False] * 15 + [True] * 100)
    bins = reliability(score, right)
    assert bins == [Bin(pytest.approx(0.2), 0.25, 20), Bin(pytest.approx(0.8), 0.9, 20)]
    assert calibration_error(bins) == pytest.approx(0.075)


def test_bins_hold_20_detections_and_are_15_at_most() -> None:
    """39 detections are one bin, 40 two, 10,000 fifteen; none has no error."""
    assert [len(reliability(np.linspace(0.1, 0.9, n), np.ones(n, np.bool_))) for n in (39, 40, 10_000)] == [
        1,
        2,
        15,
    ]
    assert calibration_error(reliability(np.zeros(9), np.ones(9, np.bool_))) is None


def test_scores_before_calibration_come_back_from_the_manifest() -> None:
    """Logit 2 * 0 + ln 3: a score of 0.75 was 0.5; the record has both. Without a calibration it has one."""
    found = judged((0.75, True, 0), (0.75, False, 0))
    spec = replace(SPEC, score_scale=(2.0, 1.0), score_shift=(float(np.log(3)), 0.0))
    before = as_trained(found, spec)
    assert before is not None
    assert before.score.tolist() == pytest.approx([0.5, 0.5])
    record = calibration_record(found, spec)
    assert (record["error"], record["before"]["error"]) == (pytest.approx(0.25), pytest.approx(0.0))
    assert record["per_class"] == {"car": pytest.approx(0.25), "dog": None}
    assert calibration_record(found, SPEC)["before"] is None


def test_precision_and_recall_are_those_of_what_is_shown() -> None:
    """Three boxes from 0.3 on, two right, of 8 objects; with 0.6 for dogs alone the wrong dog is gone."""
    found = judged((0.9, True, 0), (0.5, False, 1), (0.3, True, 0), (0.29, True, 0))
    record = threshold_record(found, SPEC)
    assert (record["threshold"], record["class_thresholds"]) == (0.3, {})
    assert (record["precision"], record["recall"], record["f1"]) == (2 / 3, 2 / 8, 4 / 11)
    own = threshold_record(found, replace(SPEC, class_thresholds=(0.3, 0.6)))
    assert own["class_thresholds"] == {"dog": 0.6}
    assert (own["precision"], own["recall"]) == (1.0, 2 / 8)
    assert own["per_class"]["dog"] == {"precision": None, "recall": 0.0, "f1": 0.0}


def test_the_default_threshold_has_the_best_f1() -> None:
    """Four right above 0.6, four wrong at 0.4: in the middle of 0.41 to 0.6, where F1 is 8 / 12."""
    found = judged(*[(0.6, True, 0)] * 4, *[(0.4, False, 0)] * 4)
    assert best_threshold(found) == pytest.approx(0.51)


def test_a_class_gets_a_threshold_of_its_own_where_that_pays_on_other_images() -> None:
    """Dogs are wrong up to 0.7, cars right from 0.4 on: 0.4 for cars, more for dogs. Equal ones have none."""
    cars = [(0.8, True, 0)] * 20 + [(0.45, True, 0)] * 20 + [(0.3, False, 0)] * 20
    dogs = [(0.9, True, 1)] * 20 + [(0.7, False, 1)] * 16
    found = judged(*cars, *dogs, objects=(40, 20))
    common = best_threshold(found)
    assert 0.3 < common <= 0.45
    own = best_class_thresholds(found, common)
    assert set(own) == {1}
    assert 0.7 < own[1] <= 0.9
    alike = judged(*cars, *[(score, right, 1) for score, right, _ in cars], objects=(40, 40))
    assert best_class_thresholds(alike, best_threshold(alike)) == {}

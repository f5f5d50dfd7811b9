"""Matching object by object, and recall in crowds, against numbers worked out by hand and COCO's engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_coco import Box, found, random_scene, sample

from edge_centernet.data import Dataset, Sample
from edge_centernet.detections import Detections
from edge_centernet.evaluation.coco import evaluate_samples, match_samples
from edge_centernet.evaluation.crowds import (
    MAX_DETECTIONS,
    NOT_COUNTED,
    RIGHT,
    WRONG,
    Matches,
    centre_collisions,
    crowd_recall,
    largest_overlap,
    match,
)
from edge_centernet.manifest import ModelSpec

HERE, THERE = (0, 0, 50, 50), (100, 100, 150, 150)
BESIDE = (20, 0, 70, 50)  # IoU with HERE: 30 * 50 / (2 * 2500 - 1500) = 3 / 7
SPEC = ModelSpec("squares", "1", 64, 64, ("car", "dog"))


def matched(objects: Sample, *rows: tuple[int, float, Box]) -> Matches:
    """`match` where detections have the data set's labels."""
    detections = found(*rows)
    return match(detections, detections.class_id.astype(np.int64), objects)


def test_a_second_box_on_one_object_is_a_false_alarm() -> None:
    """The better one is right, whatever the order they come in; an object nobody found is at -1."""
    objects = sample([(0, HERE), (0, THERE)])
    result = matched(objects, (0, 0.5, HERE), (0, 0.75, (0, 0, 50, 45)), (1, 0.9, THERE))
    assert result.verdict.tolist() == [WRONG, RIGHT, WRONG]
    assert result.found_at.tolist() == [0.75, -1.0]


def test_a_box_takes_the_object_it_overlaps_most() -> None:
    """Both of two overlapping objects are found, the second by the weaker box."""
    objects = sample([(0, HERE), (0, BESIDE)])
    result = matched(objects, (0, 0.5, HERE), (0, 0.75, BESIDE))
    assert result.verdict.tolist() == [RIGHT, RIGHT]
    assert result.found_at.tolist() == [0.5, 0.75]


def test_boxes_on_an_ignored_object_are_not_counted() -> None:
    """Two of its own class on it; one of another class is a false alarm, as is one half beside it."""
    objects = sample([], [(0, HERE)])
    rows = ((0, 0.9, HERE), (0, 0.8, (10, 10, 40, 40)), (1, 0.7, HERE), (0, 0.6, (26, 0, 76, 50)))
    assert matched(objects, *rows).verdict.tolist() == [NOT_COUNTED, NOT_COUNTED, WRONG, WRONG]


def test_a_class_that_is_not_evaluated_is_not_counted() -> None:
    """Nor are detections beyond the 100 best of a class."""
    many = found(*[(0, 0.9 - 0.001 * i, THERE) for i in range(MAX_DETECTIONS + 1)], (1, 0.99, HERE))
    labels = np.where(many.class_id == 1, -1, 0).astype(np.int64)
    verdict = match(many, labels, sample([(0, HERE)])).verdict
    assert verdict.tolist() == [WRONG] * MAX_DETECTIONS + [NOT_COUNTED, NOT_COUNTED]


def test_no_object_and_no_detection() -> None:
    """Empty arrays, not an error."""
    nothing = match(Detections.empty(), np.zeros(0, np.int64), sample([]))
    assert (nothing.verdict.shape, nothing.found_at.shape) == ((0,), (0,))
    assert largest_overlap(sample([])).shape == (0,)
    assert centre_collisions(sample([]), SPEC).shape == (0,)


def test_only_objects_of_one_class_overlap() -> None:
    """Its own box does not count; an ignored object does: it stands in the way all the same."""
    objects = sample([(0, HERE), (1, BESIDE), (1, THERE)], [(0, BESIDE)])
    assert largest_overlap(objects) == pytest.approx(np.array([3 / 7, 0, 0, 3 / 7]))


def test_a_centre_collision_is_one_cell_of_the_heatmap_after_letterbox() -> None:
    """200 pixels become 64, 16 cells of 12.5 image pixels: centres at 20 and 24 share one, not 20 and 26."""

    def at(x: float, y: float = 20) -> Box:
        return (x - 5, y - 5, x + 5, y + 5)

    objects = sample([(0, at(20)), (0, at(24)), (0, at(26)), (1, at(20)), (0, at(20, 26))])
    assert centre_collisions(objects, SPEC).tolist() == [True, True, False, False, False]


def test_a_wide_image_is_centred_before_its_cells_are_counted() -> None:
    """100x50 in 64x64: 16 rows of padding; scale 0.64, so a cell is 6.25 image pixels from the edge on."""
    boxes = np.array([(1, 1, 3, 3), (3, 3, 7, 7), (6, 3, 8, 7)], np.float32)
    objects = Sample(Path("x"), 100, 50, boxes, np.zeros(3, np.int64), np.zeros(3, np.bool_))
    assert centre_collisions(objects, SPEC).tolist() == [True, True, False]


def test_recall_of_overlapped_objects_and_of_the_others() -> None:
    """Two that overlap by 3/7, of which one is found at 0.2; two apart, one found at 0.4; an ignored one."""
    samples = [sample([(0, HERE), (0, BESIDE)]), sample([(0, HERE), (0, THERE)], [(0, (0, 100, 50, 150))])]
    predictions = [found((0, 0.2, HERE)), found((0, 0.4, THERE))]
    data = Dataset(("car",), tuple(samples))
    result = crowd_recall(samples, match_samples(predictions, data), [0], SPEC)
    nobody = {"0.3": None, "0.01": None}
    assert result == {
        "iou": 0.5,
        "recall": {"0.3": 0.25, "0.01": 0.5},
        "overlap_0.3": {
            "objects": 2,
            "others": 2,
            "recall": {"0.3": 0.0, "0.01": 0.5},
            "recall_others": {"0.3": 0.5, "0.01": 0.5},
        },
        "overlap_0.5": {
            "objects": 0,
            "others": 4,
            "recall": nobody,
            "recall_others": {"0.3": 0.25, "0.01": 0.5},
        },
        "centre_collision": {
            "objects": 0,
            "others": 4,
            "recall": nobody,
            "recall_others": {"0.3": 0.25, "0.01": 0.5},
        },
    }
    assert crowd_recall(samples, match_samples(predictions, data), [0], None)["centre_collision"] is None


def test_the_evaluation_counts_classes_that_both_have() -> None:
    """An object of a class that the model lacks is in no figure."""
    data = Dataset(("cow", "car"), (sample([(0, HERE), (1, THERE)]),))
    result = evaluate_samples(
        [found((1, 0.9, THERE))], data, ["dog", "car"], replace(SPEC, classes=("dog", "car"))
    )
    assert result["crowds"]["recall"] == {"0.3": 1.0, "0.01": 1.0}
    assert result["crowds"]["centre_collision"]["others"] == 1


def test_the_curve_is_the_one_ap_comes_from() -> None:
    """Right at 0.9, wrong at 0.8, right at 0.7: precision 1 up to recall 1/2, then 2/3, at these scores."""
    data = Dataset(("car", "dog"), (sample([(0, HERE)]), sample([(0, HERE)])))
    predictions = [found((0, 0.9, HERE), (0, 0.8, THERE)), found((0, 0.7, HERE))]
    result = evaluate_samples(predictions, data)
    curve = result["precision_recall"]["per_class"]["car"]
    assert result["precision_recall"]["recall"][50] == 0.5
    assert curve == {"precision": [1.0] * 51 + [0.6667] * 50, "score": [0.9] * 51 + [0.7] * 50}
    assert np.mean(curve["precision"]) == pytest.approx(result["per_class"]["car"]["AP50"], abs=1e-4)
    assert result["precision_recall"]["per_class"]["dog"] is None


@pytest.mark.parametrize("seed", range(4))
def test_the_matching_is_that_of_the_coco_engine(seed: int) -> None:
    """On random scenes with ignored objects, the curve of our verdicts is the engine's at all 101 points."""
    rng = np.random.default_rng(seed)
    samples, predictions = zip(*(random_scene(rng) for _ in range(30)), strict=True)
    data = Dataset(("a", "b", "c"), samples)
    curves = evaluate_samples(predictions, data)["precision_recall"]["per_class"]
    matches = match_samples(predictions, data)
    for label, name in enumerate(data.classes):
        assert curves[name]["precision"] == pytest.approx(
            _curve(samples, predictions, matches, label), abs=1e-4
        )


def _curve(
    samples: Sequence[Sample], predictions: Sequence[Detections], matches: Sequence[Matches], label: int
) -> list[float]:
    """The best precision at each recall 0, 0.01 .. 1 or beyond, 0 where it is not reached."""
    pairs = list(zip(matches, predictions, strict=True))
    verdict = np.concatenate([m.verdict[p.class_id == label] for m, p in pairs])
    score = np.concatenate([p.score[p.class_id == label] for _, p in pairs])
    found_at = np.concatenate(
        [m.found_at[(s.labels == label) & ~s.ignore] for m, s in zip(matches, samples, strict=True)]
    )
    assert sorted(found_at[found_at >= 0]) == sorted(score[verdict == RIGHT])
    order = np.argsort(-score[verdict != NOT_COUNTED], kind="stable")
    right = np.cumsum(verdict[verdict != NOT_COUNTED][order] == RIGHT)
    recall, precision = right / len(found_at), right / np.arange(1, len(right) + 1)
    return [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]

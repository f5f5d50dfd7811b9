"""COCO metrics against numbers worked out by hand and a slow evaluation written from the definition."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_centernet.data import Dataset, Sample, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.evaluation.coco import detector_classes, evaluate_dataset, evaluate_samples, match_samples
from edge_centernet.evaluation.crowds import NOT_COUNTED, RIGHT
from edge_centernet.extras import command_for

Box = Sequence[float]


def sample(
    objects: Sequence[tuple[int, Box]], ignored: Sequence[tuple[int, Box]] = (), side: int = 200
) -> Sample:
    """An image with (label, box) objects and, after them, ignored ones."""
    everything = [*objects, *ignored]
    return Sample(
        Path("image.png"),
        side,
        side,
        np.array([box for _, box in everything], np.float32).reshape(-1, 4),
        np.array([label for label, _ in everything], np.int64),
        np.array([False] * len(objects) + [True] * len(ignored)),
    )


def found(*rows: tuple[int, float, Box]) -> Detections:
    """Detections of (class_id, score, box)."""
    return Detections(
        np.array([box for *_, box in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([label for label, *_ in rows], np.int32),
    )


HERE, THERE, ELSEWHERE = (0, 0, 50, 50), (100, 100, 150, 150), (0, 100, 50, 150)


def measure(samples: Sequence[Sample], predictions: Sequence[Detections], *classes: str) -> dict[str, Any]:
    """evaluate_samples on these classes."""
    return evaluate_samples(predictions, Dataset(classes, tuple(samples)))


def test_one_right_one_wrong_one_right_is_0_835() -> None:
    """Precision 1 up to recall 0.5 (51 of 101 points), then 2/3 (50 points)."""
    samples = [sample([(0, HERE)]), sample([(0, HERE)])]
    predictions = [found((0, 0.9, HERE), (0, 0.8, THERE)), found((0, 0.7, HERE))]
    result = measure(samples, predictions, "car")
    expected = (51 * 1 + 50 * 2 / 3) / 101
    for key in ("AP", "AP50", "AP75", "AP_medium"):
        assert result[key] == pytest.approx(expected, abs=1e-9)
    assert result["AP_small"] is None
    assert result["AP_large"] is None
    assert result["per_class"] == {"car": {"AP": pytest.approx(expected), "AP50": pytest.approx(expected)}}
    assert result["images"] == 2


def test_a_box_with_iou_0_7_counts_at_half_of_the_thresholds() -> None:
    """0.50, 0.55, 0.60, 0.65 (and 0.70 not: its overlap is just below) of ten."""
    result = measure([sample([(0, (0, 0, 100, 100))])], [found((0, 0.9, (0, 0, 69.9, 100)))], "car")
    assert (result["AP"], result["AP50"], result["AP75"]) == (pytest.approx(0.4), 1.0, 0.0)


def test_the_mean_is_over_classes_that_occur() -> None:
    """A class without an object has no AP and does not pull the mean down."""
    samples = [sample([(0, HERE), (1, THERE)])]
    result = measure(samples, [found((0, 0.9, HERE), (2, 0.9, HERE))], "car", "dog", "cow")
    assert result["AP"] == pytest.approx(0.5)
    assert result["per_class"]["cow"] == {"AP": None, "AP50": None}
    assert result["per_class"]["dog"]["AP"] == 0.0


def test_nothing_found_is_zero() -> None:
    """Not an error, not None."""
    result = measure([sample([(0, HERE)])], [Detections.empty()], "car")
    assert (result["AP"], result["AP50"]) == (0.0, 0.0)


def test_an_ignored_object_is_never_a_miss() -> None:
    """Not finding it changes nothing."""
    samples = [sample([(0, HERE)], [(0, THERE)])]
    assert measure(samples, [found((0, 0.9, HERE))], "car")["AP"] == 1.0


def test_an_ignored_object_is_never_a_false_alarm_however_often_it_is_found() -> None:
    """Three better-scored boxes on it, one on a part of it; the real object still has AP 1."""
    samples = [sample([(0, HERE)], [(0, THERE)])]
    on_it = [
        (0, 0.99, THERE),
        (0, 0.98, THERE),
        (0, 0.97, (101, 101, 150, 152)),
        (0, 0.96, (110, 110, 140, 140)),
    ]
    assert measure(samples, [found(*on_it, (0, 0.5, HERE))], "car")["AP"] == 1.0


def test_an_unlabelled_class_is_neither_right_nor_wrong_in_its_image() -> None:
    """Cars are labelled in the first image alone: a car and a pseudo label in the second change nothing.

    A dog there still counts, and so does a car in the first: AP 1 becomes 1/2 by a better-scored false alarm.
    """
    second = replace(sample([(0, HERE), (1, THERE)]), unlabelled=(0,))
    samples = [sample([(0, HERE)]), second]
    right = [found((0, 0.5, HERE)), found((0, 0.9, ELSEWHERE), (0, 0.8, HERE), (1, 0.9, THERE))]
    result = measure(samples, right, "car", "dog")
    assert [one["AP"] for one in result["per_class"].values()] == [1.0, 1.0]
    assert result["crowds"]["recall"] == {"0.3": 1.0, "0.01": 1.0}
    assert (result["crowds"]["overlap_0.3"]["objects"], result["crowds"]["overlap_0.3"]["others"]) == (0, 2)
    matches = match_samples(right, Dataset(("car", "dog"), tuple(samples)))
    assert matches[1].verdict.tolist() == [NOT_COUNTED, NOT_COUNTED, RIGHT]
    wrong = [found((0, 0.5, HERE), (0, 0.9, ELSEWHERE)), right[1]]
    assert measure(samples, wrong, "car", "dog")["per_class"]["car"]["AP"] == pytest.approx(0.5)


def test_where_nothing_is_labelled_there_is_nothing_to_evaluate() -> None:
    """A detector's boxes alone measure nobody."""
    with pytest.raises(SourceError, match="expected at least one object of car, found none"):
        measure([replace(sample([(0, HERE)]), unlabelled=(0,))], [found((0, 0.9, HERE))], "car")


def test_synonyms_are_evaluated_as_one_class_under_the_name_of_the_data() -> None:
    """The model says couch and Airplane, the data sofa and aeroplane; the model's tree is left out."""
    data = Dataset(("sofa", "aeroplane"), (sample([(0, HERE), (1, THERE)]),))
    model = ("Airplane", "tree", "couch")
    predictions = [found((2, 0.9, HERE), (1, 0.9, ELSEWHERE), (0, 0.8, THERE), (0, 0.9, ELSEWHERE))]
    per_class = evaluate_samples(predictions, data, model)["per_class"]
    assert {name: one["AP"] for name, one in per_class.items()} == {
        "sofa": 1.0,
        "aeroplane": pytest.approx(0.5),
    }
    assert detector_classes(model, data.classes) == ["Airplane", "couch"]
    assert detector_classes(("couch", "airplane"), data.classes) is None


def test_an_ignored_object_excuses_nothing_else() -> None:
    """A box elsewhere, one much larger than it, and one of another class are false alarms."""
    samples = [sample([(0, HERE), (1, HERE)], [(0, THERE)])]
    for label, box in ((0, ELSEWHERE), (0, (60, 60, 200, 200)), (1, THERE)):
        result = measure(samples, [found((label, 0.9, box), (0, 0.5, HERE), (1, 0.5, HERE))], "car", "dog")
        assert result["per_class"][("car", "dog")[label]]["AP"] == pytest.approx(0.5)


def test_a_real_object_is_matched_before_an_ignored_one_over_it() -> None:
    """The box is right although a crowd lies over it entirely."""
    samples = [sample([(0, HERE)], [(0, (0, 0, 200, 200))])]
    assert measure(samples, [found((0, 0.9, (0, 0, 50, 45)))], "car")["AP50"] == 1.0


@pytest.mark.parametrize(
    "flags", [{"ignore": 1}, {"iscrowd": 1}, {"iscrowd": 1, "ignore": 1}, {"iscrowd": 0, "ignore": 1}]
)
def test_every_flag_of_a_coco_file_is_honoured(tmp_path: Path, flags: dict[str, int]) -> None:
    """`ignore` alone too, which COCO's own tools overwrite with iscrowd."""
    path = write_coco(tmp_path, ["car"], [(0, HERE, {}), (0, THERE, flags)])
    for rows in ([(0, 0.5, HERE)], [(0, 0.9, THERE), (0, 0.8, THERE), (0, 0.5, HERE)]):
        assert evaluate_samples([found(*rows)], read_dataset(path))["AP"] == 1.0


def test_sizes_go_by_the_annotated_area(tmp_path: Path) -> None:
    """COCO's small, medium and large are areas of the mask, not of the box."""
    path = write_coco(tmp_path, ["car"], [(0, (0, 0, 100, 100), {"area": 500})])
    result = evaluate_samples([found((0, 0.9, (0, 0, 100, 100)))], read_dataset(path))
    assert (result["AP_small"], result["AP_large"]) == (1.0, None)


def write_coco(
    folder: Path, classes: Sequence[str], objects: Sequence[tuple[int, Box, dict[str, Any]]]
) -> Path:
    """One 200x200 image with (label, box, more keys)."""
    cv2.imwrite(str(folder / "image.png"), np.full((200, 200, 3), 90, np.uint8))
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], **more}
        for i, (label, (x1, y1, x2, y2), more) in enumerate(objects)
    ]
    data = {
        "images": [{"id": 1, "file_name": "image.png", "width": 200, "height": 200}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        "annotations": annotations,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def test_classes_are_matched_by_name() -> None:
    """The model's order is another, it knows more, and the data set knows one it does not."""
    data = Dataset(("bus", "car", "dog"), (sample([(0, ELSEWHERE), (1, HERE), (2, THERE)]),))
    predictions = [found((0, 0.9, THERE), (1, 0.9, ELSEWHERE), (2, 0.9, HERE))]
    result = evaluate_samples(predictions, data, ["dog", "person", "car"])
    assert result["per_class"] == {"car": {"AP": 1.0, "AP50": 1.0}, "dog": {"AP": 1.0, "AP50": 1.0}}
    assert result["AP"] == 1.0


def test_no_class_in_common_says_both_lists() -> None:
    """Instead of zeros."""
    data = Dataset(("car",), (sample([(0, HERE)]),))
    with pytest.raises(ConfigError, match="the model knows dog, cow; the data set has car"):
        evaluate_samples([Detections.empty()], data, ["dog", "cow"])


def test_no_object_to_find_is_an_error() -> None:
    """Instead of a mean over nothing."""
    with pytest.raises(SourceError, match="expected at least one object of car"):
        measure([sample([], [(0, HERE)])], [Detections.empty()], "car")


def test_predictions_must_belong_to_the_samples() -> None:
    """One a sample, in order."""
    with pytest.raises(ValueError, match="one Detections for each of 1 samples, got 2"):
        measure([sample([(0, HERE)])], [Detections.empty()] * 2, "car")


def test_a_missing_package_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is read in vain."""
    path = write_coco(tmp_path, ["car"], [(0, HERE, {})])
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)  # as the import system blocks a module
    seen: list[Any] = []
    with pytest.raises(MissingDependency, match=re.escape(command_for("eval"))):
        evaluate_dataset(
            lambda image: (Detections.empty(), {"all": 0.0 * len(seen.append(image) or "")}),
            read_dataset(path),
            ["car"],
        )
    assert seen == []


def test_evaluate_reads_detects_times_and_measures(tmp_path: Path) -> None:
    """Detections come from the pixels given; times are medians of their sum and of each stage."""
    path = write_coco(tmp_path, ["car"], [(0, HERE, {})])
    shapes, reports = [], []

    def detect(image: NDArray[np.uint8]) -> tuple[Detections, dict[str, float]]:
        shapes.append((image.shape, int(image[0, 0, 0])))
        return found((1, 0.9, HERE)), {"preprocess": 1.0, "inference": 2.5}

    data = read_dataset(path, tmp_path)
    result = evaluate_dataset(detect, data, ["dog", "car"], progress=lambda *report: reports.append(report))
    assert shapes == [((200, 200, 3), 90)]
    assert reports == [("eval", 1, 1)]
    assert result["AP"] == 1.0
    assert (result["ms_median"], result["ms"]) == (3.5, {"preprocess": 1.0, "inference": 2.5})
    assert json.loads(json.dumps(result)) == result


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    """Its boxes would be in the wrong place."""
    path = write_coco(tmp_path, ["car"], [(0, HERE, {})])
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((100, 200, 3), np.uint8))
    with pytest.raises(
        SourceError, match=r"image\.png: expected 200x200 pixels as its annotation says, got 200x100"
    ):
        evaluate_dataset(lambda _: (Detections.empty(), {"all": 1.0}), read_dataset(path), ["car"])


# ---- The definition, slowly -----------------------------------------------------------------


def overlap(box: Box, other: Box, crowd: bool) -> float:
    """Intersection over union, or over the first box alone if the other is a crowd."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    inside = max(width, 0.0) * max(height, 0.0)
    if not inside:
        return 0.0
    area = (box[2] - box[0]) * (box[3] - box[1])
    return inside / (area if crowd else area + (other[2] - other[0]) * (other[3] - other[1]) - inside)


def slow_ap(
    samples: Sequence[Sample], predictions: Sequence[Detections], label: int, threshold: float
) -> float | None:
    """COCO's AP of one class at one IoU threshold, every area, from the text of its definition."""
    hits: list[tuple[float, bool]] = []
    total = 0
    for image, boxes in zip(samples, predictions, strict=True):
        truth = [
            (b.astype(float), bool(i))
            for b, g, i in zip(image.boxes, image.labels, image.ignore, strict=True)
            if g == label
        ]
        total += sum(not ignored for _, ignored in truth)
        taken: set[int] = set()
        mine = [
            (float(s), b.astype(float))
            for b, s, c in zip(boxes.xyxy, boxes.score, boxes.class_id, strict=True)
            if c == label
        ]
        for score, box in sorted(mine, key=lambda row: -row[0]):
            free = [
                (overlap(box, b, False), k)
                for k, (b, ignored) in enumerate(truth)
                if not ignored and k not in taken
            ]
            if free and max(free)[0] >= threshold:
                taken.add(max(free)[1])
                hits.append((score, True))
            elif not any(ignored and overlap(box, b, True) >= threshold for b, ignored in truth):
                hits.append((score, False))
    if not total:
        return None
    hits.sort(key=lambda row: -row[0])
    right = np.cumsum([hit for _, hit in hits])
    recall, precision = right / total, right / np.arange(1, len(hits) + 1)
    points = [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(points))


def random_scene(rng: np.random.Generator) -> tuple[Sample, Detections]:
    """Up to 6 objects of 3 classes, a third ignored; detections near them, some inside out, and at random."""

    def boxes(n: int) -> NDArray[np.float64]:
        corner, size = rng.uniform(0, 120, (n, 2)), rng.uniform(10, 80, (n, 2))
        return np.hstack([corner, corner + size])

    n = int(rng.integers(0, 7))
    truth, labels, ignore = boxes(n), rng.integers(0, 3, n), rng.random(n) < 0.33
    near = np.repeat(truth, 2, axis=0) + rng.normal(0, 5, (2 * n, 4))
    near[rng.random(2 * n) < 0.05, 2] = 0
    other = boxes(int(rng.integers(0, 5)))
    xyxy = np.vstack([near, other])
    ids = np.concatenate([np.repeat(labels, 2), rng.integers(0, 3, len(other))])
    image = Sample(Path("x"), 200, 200, truth.astype(np.float32), labels, ignore)
    return image, Detections(xyxy, rng.permutation(len(xyxy)) / 100 + rng.random(), ids)


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_definition(seed: int) -> None:
    """30 random images, three classes, a third of the objects ignored: every AP to nine digits."""
    rng = np.random.default_rng(seed)
    samples, predictions = zip(*(random_scene(rng) for _ in range(30)), strict=True)
    result = measure(samples, predictions, "a", "b", "c")
    thresholds = np.linspace(0.5, 0.95, 10)
    slow = {(k, t): slow_ap(samples, predictions, k, t) for k, t in itertools.product(range(3), thresholds)}
    for k, name in enumerate("abc"):
        assert result["per_class"][name]["AP50"] == pytest.approx(slow[k, 0.5], abs=1e-9)
        assert result["per_class"][name]["AP"] == pytest.approx(
            np.mean([slow[k, t] for t in thresholds]), abs=1e-9
        )
    assert result["AP"] == pytest.approx(np.mean(list(slow.values())), abs=1e-9)
    assert result["AP75"] == pytest.approx(np.mean([slow[k, thresholds[5]] for k in range(3)]), abs=1e-9)
    assert 0.1 < result["AP"] < 0.9


def test_four_times_the_images_take_four_times_the_time() -> None:
    """Not sixteen times: 50 and 200 images with 100 detections each, 20 classes; at most six times."""
    rng = np.random.default_rng(0)
    samples, predictions = [], []
    for _ in range(200):
        corner, size = rng.uniform(0, 120, (103, 2)), rng.uniform(10, 80, (103, 2))
        boxes, labels = np.hstack([corner, corner + size]).astype(np.float32), rng.integers(0, 20, 103)
        samples.append(Sample(Path("x"), 200, 200, boxes[:3], labels[:3], np.zeros(3, np.bool_)))
        predictions.append(Detections(boxes[3:], rng.random(100), labels[3:]))

    def seconds(count: int) -> float:
        start = time.thread_time()
        measure(samples[:count], predictions[:count], *map(str, range(20)))
        return time.thread_time() - start

    assert seconds(200) < 6.0 * min(seconds(50) for _ in range(3))

"""COCO metrics of a detector on a labelled data set.

The matching is faster-coco-eval's C++, not pycocotools': the same numbers to the last digit, five times as
fast (1.5 s instead of 7 s for 1,000 images with 100 detections each), and NumPy is all it needs.

Objects marked ignore (COCO's iscrowd or ignore, VOC's difficult) go in as COCO crowds: a detection that
covers one is not counted, however many there are, and a crowd nobody found is not a miss. COCO's overlap
with a crowd is intersection over the detection's own area. The `ignore` key itself would not do: both
packages overwrite it with `iscrowd`.

In an image where a class is unlabelled, detections of it are left out, and objects (a detector's) go in as
crowds.

Recall in crowds needs to know which objects were found, which that engine does not tell:
`edge_centernet.evaluation.crowds` matches once more by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import find_class
from edge_centernet.data import Dataset, Sample, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.evaluation.crowds import MAX_DETECTIONS, Matches, crowd_recall, match
from edge_centernet.evaluation.scores import calibration_record, outcomes, threshold_record
from edge_centernet.imageio import read_image
from edge_centernet.manifest import ModelSpec
from edge_centernet.progress import Progress, unseen, with_progress

# Detections below it change AP in the fourth digit. Calibrated scores fall faster than others: 0.01 would be
# too much.
THRESHOLD = 0.001
RECALLS = tuple(i / 100 for i in range(101))  # COCO's points on the precision-recall curve

Detect = Callable[[NDArray[np.uint8]], tuple[Detections, dict[str, float]]]


def evaluate(
    detect: Detect,
    dataset_json: Path,
    images_dir: Path | None,
    classes: Sequence[str],
    progress: Progress = unseen,
) -> dict[str, Any]:
    """`evaluate_dataset` on what `edge_centernet.data.read_dataset(dataset_json, images_dir)` reads."""
    return evaluate_dataset(detect, read_dataset(dataset_json, images_dir), classes, progress)


def evaluate_dataset(
    detect: Detect,
    dataset: Dataset,
    classes: Sequence[str],
    progress: Progress = unseen,
    spec: ModelSpec | None = None,
    title: str = "eval",
) -> dict[str, Any]:
    """Run `detect` over a data set and measure it.

    detect: (H, W, 3) uint8 BGR image -> detections in its pixels, class_id indexing `classes`, and the
        milliseconds of each stage. It should use THRESHOLD and MAX_DETECTIONS.
    classes: the model's, matched with the data set's by name or synonym; only those that both have are
      evaluated.
    progress: told of each image under this `title`.
    spec: the model's, for centre collisions and its own threshold; None leaves out what needs them.

    Returns what `evaluate_samples` returns and ms_median (of one image, all stages), ms (stage -> median).
    Raises SourceError for an image that cannot be read or has not the size its annotation says; ConfigError
    without a common class; MissingDependency without faster-coco-eval.
    """
    _engine()  # fail before the work, not after
    common_classes(classes, dataset.classes)
    predictions: list[Detections] = []
    times: list[dict[str, float]] = []
    for sample in with_progress(dataset.samples, title, progress):
        found, ms = detect(_read(sample))
        predictions.append(found)
        times.append(ms)
    result = evaluate_samples(predictions, dataset, classes, spec)
    result["ms_median"] = float(np.median([sum(ms.values()) for ms in times]))
    result["ms"] = {stage: float(np.median([ms[stage] for ms in times])) for stage in times[0]}
    return result


def _read(sample: Sample) -> NDArray[np.uint8]:
    image = read_image(sample.path)  # (H, W, 3)
    height, width = image.shape[:2]
    if (width, height) != (sample.width, sample.height):
        raise SourceError(
            f"{sample.path}: expected {sample.width}x{sample.height} pixels as its annotation says, "
            f"got {width}x{height}; correct the annotation or the image, its boxes do not fit"
        )
    return image


def evaluate_samples(
    predictions: Sequence[Detections],
    dataset: Dataset,
    classes: Sequence[str] | None = None,
    spec: ModelSpec | None = None,
) -> dict[str, Any]:
    """COCO box metrics of one `Detections` per sample, in the sample's pixels.

    classes: what class_id indexes; default dataset.classes. Only classes that both have are evaluated, under
        the data set's names; in images where one is unlabelled, what is detected of it is neither right nor
        wrong.
    spec: the model's, for centre collisions and its own threshold; None leaves out what needs them.

    Returns AP (IoU 0.50 to 0.95), AP50, AP75, AP_small (area below 32^2 pixels), AP_medium, AP_large
    (above 96^2), each 0..1 or None where the data set has no such object; per_class: name -> {AP, AP50};
    images: their number; crowds: see `edge_centernet.evaluation.crowds.crowd_recall`; precision_recall: at
      IoU 0.5,
    recall (101 points) and per_class: name -> {precision, score (of the detection that reaches it, 0 beyond
    the last)} or None, four digits; calibration, at_threshold:
    `edge_centernet.evaluation.scores.calibration_record` and `threshold_record`, None without `spec`. Raises
    ConfigError without a common class, SourceError without any object.
    """
    if len(predictions) != len(dataset.samples):
        raise ValueError(
            f"expected one Detections for each of {len(dataset.samples)} samples, got {len(predictions)}"
        )
    model_classes = dataset.classes if classes is None else tuple(classes)
    names = common_classes(model_classes, dataset.classes)
    truth = _truth(dataset, names)
    if all(annotation["iscrowd"] for annotation in truth):
        raise SourceError(
            f"data set: expected at least one object of {', '.join(names)}, found none to evaluate on"
        )
    labels = _data_labels(predictions, dataset, model_classes)
    curves = _curves(
        len(dataset.samples), names, truth, _results(predictions, labels, dataset.classes, names)
    )
    precision = curves.precision
    matches = match_samples(predictions, dataset, model_classes)
    judged = None if spec is None else outcomes(predictions, matches, dataset, model_classes)
    return {
        "AP": _mean(precision[:, :, :, 0]),
        "AP50": _mean(precision[0, :, :, 0]),
        "AP75": _mean(precision[5, :, :, 0]),
        "AP_small": _mean(precision[:, :, :, 1]),
        "AP_medium": _mean(precision[:, :, :, 2]),
        "AP_large": _mean(precision[:, :, :, 3]),
        "per_class": {
            name: {"AP": _mean(precision[:, :, k, 0]), "AP50": _mean(precision[0, :, k, 0])}
            for k, name in enumerate(names)
        },
        "images": len(dataset.samples),
        "crowds": crowd_recall(
            dataset.samples,
            matches,
            [dataset.classes.index(name) for name in names],
            spec,
        ),
        "precision_recall": {
            "iou": 0.5,
            "recall": list(RECALLS),
            "per_class": {name: _curve(curves, k) for k, name in enumerate(names)},
        },
        "calibration": None if judged is None or spec is None else calibration_record(judged, spec),
        "at_threshold": None if judged is None or spec is None else threshold_record(judged, spec),
    }


def match_samples(
    predictions: Sequence[Detections], dataset: Dataset, classes: Sequence[str] | None = None
) -> list[Matches]:
    """`edge_centernet.evaluation.crowds.match` of one `Detections` per sample; `classes` as in `evaluate_samples`."""
    labels = _data_labels(predictions, dataset, dataset.classes if classes is None else classes)
    return [match(*one) for one in zip(predictions, labels, dataset.samples, strict=True)]


def _data_labels(
    predictions: Sequence[Detections], dataset: Dataset, model_classes: Sequence[str]
) -> list[NDArray[np.int64]]:
    """For each image (N,) the data set's label of each detection; -1 for a class it lacks or that is unlabelled."""
    to_data = _to_data(model_classes, dataset.classes)
    labels = []
    for found, sample in zip(predictions, dataset.samples, strict=True):
        own = to_data[found.class_id]
        labels.append(np.where(np.isin(own, sample.unlabelled), -1, own))
    return labels


def _to_data(model_classes: Sequence[str], data_classes: Sequence[str]) -> NDArray[np.int64]:
    """(len(model_classes),) index into `data_classes` of each class, -1 for one that the data set does not have."""
    found = [find_class(name, data_classes) for name in model_classes]
    return np.array([-1 if index is None else index for index in found], np.int64)


def detector_classes(model_classes: Sequence[str], data_classes: Sequence[str]) -> list[str] | None:
    """What a detector is to look for on a data set, by the model's names: None for all that it knows.

    The decoder's limit of detections is for all classes of an image: those not evaluated must not use it up.
    Raises ConfigError as `common_classes`.
    """
    common_classes(model_classes, data_classes)
    to_data = _to_data(model_classes, data_classes)
    if (to_data >= 0).all():
        return None
    return [name for name, index in zip(model_classes, to_data, strict=True) if index >= 0]


def common_classes(model_classes: Sequence[str], data_classes: Sequence[str]) -> tuple[str, ...]:
    """The data set's classes that the model knows by any name, in the data set's order; ConfigError without one."""
    known = set(_to_data(model_classes, data_classes).tolist())
    names = tuple(name for i, name in enumerate(data_classes) if i in known)
    if not names:
        raise ConfigError(
            f"the model and the data set have no class name in common: the model knows {', '.join(model_classes)}; "
            f"the data set has {', '.join(data_classes)}"
        )
    return names


def _truth(dataset: Dataset, names: Sequence[str]) -> list[dict[str, Any]]:
    """COCO annotations; ids count from 1, for COCO takes a match with id 0 for none."""
    category = _renumber(dataset.classes, names)
    found: list[dict[str, Any]] = []
    for image, sample in enumerate(dataset.samples, 1):
        assert sample.area is not None  # filled in by Sample itself
        for box, label, counted, area in zip(
            _xywh(sample.boxes),
            sample.labels.tolist(),
            sample.counted.tolist(),
            sample.area.tolist(),
            strict=True,
        ):
            if category[label]:
                own = {"image_id": image, "category_id": int(category[label]), "bbox": box}
                found.append({"id": len(found) + 1, **own, "area": area, "iscrowd": int(not counted)})
    return found


def _results(
    predictions: Sequence[Detections],
    labels: Sequence[NDArray[np.int64]],
    data_classes: Sequence[str],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """COCO results; labels: what `_data_labels` returns."""
    category = _renumber(data_classes, names)
    found: list[dict[str, Any]] = []
    for image, (detections, own_labels) in enumerate(zip(predictions, labels, strict=True), 1):
        for box, label, score in zip(
            _xywh(detections.xyxy), own_labels.tolist(), detections.score.tolist(), strict=True
        ):
            if label >= 0:
                own = {"image_id": image, "category_id": int(category[label]), "bbox": box, "score": score}
                found.append({"id": len(found) + 1, **own, "area": box[2] * box[3], "iscrowd": 0})
    return found


def _renumber(classes: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """(len(classes),): class index -> 1 + index in names, 0 for a class that is not evaluated."""
    return np.array([names.index(name) + 1 if name in names else 0 for name in classes], np.int64)


def _xywh(xyxy: NDArray[np.float32]) -> list[list[float]]:
    boxes = xyxy.astype(np.float64)
    # A size head can go below zero early in training; COCO would leave a box of negative area uncounted.
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    result: list[list[float]] = boxes.tolist()
    return result


class _Curves(NamedTuple):
    """What COCO's engine accumulates, (10 IoU thresholds, 101 recalls, K classes, 4 area ranges): -1 without objects.

    precision: the best at this recall or beyond. score: of the detection that reaches this recall.
    """

    precision: NDArray[np.float64]
    score: NDArray[np.float64]


def _curves(
    images: int, names: Sequence[str], truth: list[dict[str, Any]], results: list[dict[str, Any]]
) -> _Curves:
    engine = _engine()
    head = {
        "info": {},
        "images": [{"id": i + 1} for i in range(images)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
    }
    sides = []
    for objects in (truth, results):
        coco = engine.COCO()
        coco.dataset = {**head, "annotations": objects}
        coco.createIndex()
        sides.append(coco)
    run = engine.COCOeval_faster(*sides, iouType="bbox")
    run.params.maxDets = [MAX_DETECTIONS]
    run.evaluate()
    run.accumulate()
    return _Curves(*(np.asarray(run.eval[key], np.float64)[..., 0] for key in ("precision", "scores")))


def _curve(curves: _Curves, k: int) -> dict[str, list[float]] | None:
    """At IoU 0.5, all sizes."""
    precision, score = curves.precision[0, :, k, 0], curves.score[0, :, k, 0]  # (101,)
    if (precision < 0).all():
        return None
    return {"precision": precision.round(4).tolist(), "score": score.round(4).tolist()}


def _mean(precision: NDArray[np.float64]) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None


def _engine() -> Any:
    try:
        import faster_coco_eval
    except ImportError:
        raise MissingDependency.for_extra("COCO evaluation", "eval") from None
    return faster_coco_eval

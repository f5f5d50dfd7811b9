"""From photos to a COCO JSON that `train`, `eval` and `data check` read, and to a contact sheet of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from edge_centernet.calibration.images import spread
from edge_centernet.classes import find_class
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.data.coco import file_name
from edge_centernet.detections import Detections
from edge_centernet.draw import banner, class_color, dashed_box, draw_boxes, draw_label, fit, grid, tile
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.evaluation.coco import evaluate_dataset
from edge_centernet.files import write_atomic
from edge_centernet.imageio import IMAGE_SUFFIXES, Image, read_image
from edge_centernet.labelling.calibrate import Calibration, calibrate
from edge_centernet.labelling.ensemble import Ensemble
from edge_centernet.progress import Progress, unseen

# Fused scores to use where nothing was measured. On VOC's photos, four detectors give the first to boxes of
# which four in five are right, and the second to boxes of which one in seven is.
IGNORE_BELOW, THRESHOLD = 0.33, 0.13
TILES, COLUMNS = 30, 6  # of the contact sheet
_SIDE, _GAP, _LINE = 320, 4, 2  # pixels: side of a tile, margin in it, thickness of a box
_GREY = (170, 170, 170)  # BGR
_DATA_SETS = (".json", ".yaml", ".yml", ".txt")

Seen = dict[Path, Detections]  # absolute path of a photo -> what the ensemble found there


class Photo(NamedTuple):
    """A photo with labels: absolute path, size in pixels, detections with the scores that are written."""

    path: Path
    width: int
    height: int
    found: Detections


def find_photos(places: Sequence[Path]) -> list[Path]:
    """Return the absolute paths of all photos, each once, in the order of `places`.

    places: image files, folders (everything below them, by sorted path), and data sets as `read_dataset`
    takes them: files, or folders that hold annotations. Raises SourceError for a place that does not exist or
    holds no photo.
    """
    found: list[Path] = []
    for place in places:
        if (
            place.suffix.lower() in _DATA_SETS
            or (place / "Annotations").is_dir()
            or (place / "data.yaml").is_file()
        ):
            found += [sample.path for sample in read_dataset(place).samples]
        elif place.is_dir():
            below = sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not below:
                raise SourceError(
                    f"{place}: expected photos ({', '.join(IMAGE_SUFFIXES)}) below it, found none"
                )
            found += below
        elif place.is_file():
            found.append(place)
        else:
            raise SourceError(
                f"{place}: no such file or folder; expected photos, folders of photos, or a data set"
            )
    return list(dict.fromkeys(Path(os.path.abspath(path)) for path in found))


def in_words(data: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the data set with its classes named as in `classes`; ConfigError for one that it lacks."""
    places = [find_class(name, classes) for name in data.classes]
    names = tuple(name if i is None else classes[i] for name, i in zip(data.classes, places, strict=True))
    if absent := [name for name in classes if name not in names]:
        raise ConfigError(
            f"classes: the labelled set has no {', '.join(absent)}, so that nothing can be measured of it; "
            f"the set has {', '.join(data.classes)}"
        )
    return Dataset(names, data.samples)


def measure(
    ensemble: Ensemble,
    data: Dataset,
    precision: float,
    threshold: float | None = None,
    ignore_below: float | None = None,
    progress: Progress = unseen,
) -> tuple[Calibration, Seen]:
    """Run the ensemble on labelled photos and calibrate it; return what it found too, with fused scores.

    Args:
        ensemble: its classes must be among those of `data`.
        data: the labelled photos.
        precision: see `calibrate`.
        threshold: see `calibrate`.
        ignore_below: see `calibrate`.
        progress: reported to after each photo.

    Raises what `calibrate` and `evaluate_dataset` raise.
    """
    found: list[Detections] = []

    def detect(image: Image) -> tuple[Detections, dict[str, float]]:
        found.append(ensemble.detect(image))
        progress("Calibrating", len(found), len(data))
        return found[-1], {}

    metrics = evaluate_dataset(detect, data, ensemble.classes)
    calibration = calibrate(found, metrics, data, ensemble.classes, precision, threshold, ignore_below)
    paths = (Path(os.path.abspath(sample.path)) for sample in data.samples)
    return calibration, dict(zip(paths, found, strict=True))


def label(
    photos: Sequence[Path],
    ensemble: Ensemble,
    calibration: Calibration | None = None,
    seen: Seen | None = None,
    progress: Progress = unseen,
) -> tuple[list[Photo], list[str]]:
    """Return what the ensemble finds on the photos, and for photos that cannot be read, why.

    Args:
        photos: absolute paths.
        ensemble: run on each that is not in `seen`.
        calibration: turns fused scores into probabilities; None leaves them.
        seen: results of photos that it was run on before, such as those of `measure`.
        progress: reported to after each photo.

    Raises SourceError if no photo can be read.
    """
    labelled: list[Photo] = []
    skipped: list[str] = []
    for number, path in enumerate(photos, 1):
        try:
            image = read_image(path)
        except SourceError as error:
            skipped.append(str(error))
        else:
            before = seen.get(path) if seen is not None else None
            found = ensemble.detect(image) if before is None else before
            height, width = image.shape[:2]
            labelled.append(
                Photo(path, width, height, found if calibration is None else calibration.scores(found))
            )
        progress("Labelling", number, len(photos))
    if not labelled:
        raise SourceError(f"none of the {len(photos)} photos can be read; the first: {skipped[0]}")
    return labelled, skipped


def to_coco(
    photos: Sequence[Photo], classes: Sequence[str], out: Path, threshold: float, ignore_below: float
) -> dict[str, Any]:
    """Return images, annotations and categories of a COCO instances JSON that is to be written to `out`.

    Args:
        photos: with scores that are compared with the thresholds.
        classes: what class_id indexes; category ids count from 1.
        out: the file; names of photos are relative to its folder.
        threshold: boxes with a score below it are left out.
        ignore_below: boxes below it carry `ignore: 1`: neither to be learnt nor a mistake when found.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, 1):
        name = file_name(photo.path, out)
        images.append({"id": number, "file_name": name, "width": photo.width, "height": photo.height})
        for xyxy, score, class_id in zip(
            photo.found.xyxy.astype(float),
            photo.found.score.tolist(),
            photo.found.class_id.tolist(),
            strict=True,
        ):
            # Hundredths of a pixel keep the file small and are far finer than any label.
            x1, y1, x2, y2 = xyxy.round(2).tolist()
            width, height = round(x2 - x1, 2), round(y2 - y1, 2)
            if score < threshold or width <= 0 or height <= 0:
                continue
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": class_id + 1,
                "bbox": [x1, y1, width, height], "area": round(width * height, 2), "score": round(score, 4),
                "iscrowd": 0, "ignore": int(score < ignore_below),
            })  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def some(items: Sequence[Path], limit: int | None) -> list[Path]:
    """Return at most `limit` photos, spread over all of them; None for all."""
    return list(items) if limit is None else spread(items, limit)


def some_of(data: Dataset, limit: int | None) -> Dataset:
    """Return the data set with at most `limit` images, spread over all of them; None for all."""
    return data if limit is None else Dataset(data.classes, tuple(spread(data.samples, limit)))


def write_sheet(
    photos: Sequence[Photo], classes: Sequence[str], out: Path, threshold: float, ignore_below: float
) -> None:
    """Draw TILES of the photos, spread over all of them, as one JPEG: to look labels over before training.

    Args:
        photos: as they go into the labels.
        classes: what class_id indexes.
        out: the file to write.
        threshold: boxes below it are not drawn.
        ignore_below: from here on boxes are drawn in the colour of their class, below it grey and dashed.
    """
    tiles: list[Image] = []  # (_SIDE + 40, _SIDE, 3) each: the photo, how many boxes it has, its name
    for photo in spread(photos, TILES):
        picture, scale = fit(read_image(photo.path), _SIDE - 2 * _GAP)
        shown = photo.found[photo.found.score >= threshold]
        scaled = Detections(shown.xyxy * np.float32(scale), shown.score, shown.class_id)
        ignored, objects = scaled[scaled.score < ignore_below], scaled[scaled.score >= ignore_below]
        for box, score, class_id in zip(ignored.xyxy, ignored.score, ignored.class_id, strict=True):
            dashed_box(picture, box.tolist(), _GREY, _LINE)
            corner = round(float(box[0])), round(float(box[1]))
            draw_label(picture, f"{classes[class_id]} {score:.2f}", corner, _GREY)
        # Objects come last, on top. Their lines are thicker than `draw_boxes` makes them at this size.
        for box, class_id in zip(objects.xyxy, objects.class_id, strict=True):
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.rectangle(picture, (x1, y1), (x2, y2), class_color(int(class_id)), _LINE)
        names = [f"{classes[c]} {s:.2f}" for c, s in zip(objects.class_id, objects.score, strict=True)]
        draw_boxes(picture, objects, names)
        tiles.append(
            tile(picture, _SIDE, (f"{len(objects)} objects, {len(ignored)} ignored", photo.path.name))
        )
    title = (
        f"{len(tiles)} of {len(photos)} photos; solid: object, score from {ignore_below:.2f}; "
        f"broken: ignored, from {threshold:.2f}"
    )
    ok, jpeg = cv2.imencode(
        ".jpg",
        np.vstack([banner(title, COLUMNS * _SIDE), grid(tiles, COLUMNS)]),
        [cv2.IMWRITE_JPEG_QUALITY, 88],
    )
    assert ok, "OpenCV always writes JPEG"
    write_atomic(out, jpeg.tobytes())

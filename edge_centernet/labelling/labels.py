"""From photos to a COCO JSON that `train`, `eval` and `data check` read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_centernet.calibration.images import spread
from edge_centernet.classes import find_class
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.evaluation.coco import evaluate_dataset
from edge_centernet.files import write_atomic
from edge_centernet.imageio import IMAGE_SUFFIXES, Image, read_image
from edge_centernet.labelling.calibrate import Calibration, calibrate
from edge_centernet.labelling.ensemble import Ensemble
from edge_centernet.progress import Progress, unseen

# Fused scores, where nothing was measured: what four detectors on VOC's photos give a box that is right in
# four of five cases, and one that is right in one of seven.
IGNORE_BELOW, THRESHOLD = 0.33, 0.13
_DATA_SETS = (".json", ".yaml", ".yml", ".txt")

Seen = dict[Path, Detections]  # absolute path of a photo -> what the ensemble found there


class Photo(NamedTuple):
    """A labelled photo: absolute path, size in pixels, detections with the score that is written."""

    path: Path
    width: int
    height: int
    found: Detections


def find_photos(places: Sequence[Path]) -> list[Path]:
    """Absolute paths of all photos, each once, in the order of `places`.

    places: image files, folders (everything below them, by sorted path), and data sets as `read_dataset`
      takes them:
    files, or folders that hold annotations. Raises SourceError for a place that is not there, or holds no
    photo.
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
    """The data set with its classes called as in `classes`. Raises ConfigError for one that it does not have."""
    places = [find_class(name, classes) for name in data.classes]
    names = tuple(name if i is None else classes[i] for name, i in zip(data.classes, places, strict=True))
    if absent := [name for name in classes if name not in names]:
        raise ConfigError(
            f"classes: the labelled set has no {', '.join(absent)}, so that nothing can be measured of it; the set has "
            f"{', '.join(data.classes)}"
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
    """Run the ensemble on labelled photos and calibrate it; what it saw is returned too, with fused scores.

    Args:
        ensemble: its classes must be among those of `data`.
        data: the labelled photos.
        precision: see `calibrate`.
        threshold: see `calibrate`.
        ignore_below: see `calibrate`.
        progress: told after each photo.

    Raises what `calibrate` and `evaluate_dataset` raise.
    """
    found: list[Detections] = []

    def detect(image: Image) -> tuple[Detections, dict[str, float]]:
        found.append(ensemble.detect(image))
        progress("calibrate", len(found), len(data))
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
    """Everything that the ensemble sees on the photos, and why some could not be read.

    Args:
        photos: absolute paths.
        ensemble: looks at each that is not in `seen`.
        calibration: turns fused scores into probabilities; None leaves them.
        seen: results of photos that were looked at before.
        progress: told after each photo.

    Raises SourceError where no photo can be read.
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
        progress("label", number, len(photos))
    if not labelled:
        raise SourceError(f"none of the {len(photos)} photos can be read; the first: {skipped[0]}")
    return labelled, skipped


def to_coco(
    photos: Sequence[Photo], classes: Sequence[str], out: Path, threshold: float, ignore_below: float
) -> dict[str, Any]:
    """images, annotations and categories of a COCO instances JSON that will lie at `out`.

    Args:
        photos: with scores that are compared with the thresholds.
        classes: what class_id indexes; category ids count from 1.
        out: file names are relative to its folder.
        threshold: boxes below it are left out.
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


def file_name(photo: Path, out: Path) -> str:
    """The path of a photo as seen from the folder of `out`, with forward slashes, as `read_dataset(out)` finds it.

    The reader looks into folders named `images`, or like the file, and lets names repeat the folder they are
    in; where that could lead it astray, the name begins with a dot.
    """
    here = Path(os.path.abspath(out)).parent
    name = Path(os.path.relpath(photo, here)).as_posix()
    special = {
        "images",
        here.name,
        out.stem,
        out.stem.removeprefix("instances_").removeprefix("annotations_"),
    }
    return f"./{name}" if name.split("/", 1)[0] in special else name


def write_labels(out: Path, content: dict[str, Any]) -> None:
    """One image or annotation a line: as easy to compare as to read. The file is whole or not there."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, indent=1)}")
    write_atomic(out, "{\n" + ",\n".join(parts) + "\n}\n")


def some(items: Sequence[Path], limit: int | None) -> list[Path]:
    """At most `limit` photos, spread over all of them; None for all."""
    return list(items) if limit is None else spread(items, limit)


def some_of(data: Dataset, limit: int | None) -> Dataset:
    """The same of a data set."""
    return data if limit is None else Dataset(data.classes, tuple(spread(data.samples, limit)))

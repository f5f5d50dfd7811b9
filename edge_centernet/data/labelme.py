"""labelme's JSON: one NAME.json with "shapes" beside each image (https://github.com/wkentaro/labelme)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_centernet.data.base import (
    READING,
    Annotations,
    Objects,
    Problem,
    brief,
    choose_classes,
    class_name,
    flag,
    log,
    note,
    on_disk,
    read_text,
    warn_absent,
    without,
)
from edge_centernet.data.layout import labelme_files
from edge_centernet.errors import SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES, image_size
from edge_centernet.progress import Progress, unseen, with_progress

_AREAS = ("polygon", "rectangle", "circle", "mask", "rotation")  # rotation: X-AnyLabeling's turned rectangle
_NO_AREAS = ("point", "points", "line", "linestrip")

_Found = tuple[str, tuple[float, float, float, float], str, bool]  # name, box, place, difficult


def read_labelme(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
    progress: Progress = unseen,
) -> Annotations:
    """Read a folder of labelme's files, or one of them; see `edge_centernet.data.read_annotations`.

    Args:
        path: the folder, or one file.
        images: by default each image is where imagePath says, or beside its file.
        classes: those to read, in this order; by default all names found, sorted.
        split: not used, for a folder is one split.
        problems: see `read_annotations`.
        progress: see `read_annotations`.

    Shapes become the boxes around them; those of one label and group_id are one object. Points and lines have
    no box and are passed over, with one warning. Raises SourceError naming file and shape, as shapes[2].
    """
    files = [path] if path.is_file() else labelme_files(path)
    entries: list[tuple[Path, int, int]] = []
    found: list[list[_Found]] = []
    used: dict[Path, Path] = {}
    passed_over = 0
    for file in with_progress(files, READING, progress):
        with note(problems):
            data = _load(file)
            if data is None:
                continue
            shapes, others = _shapes(file, data, problems)
            with note(problems, "image"):
                image = _image(file, data, images)
                if image in used:
                    raise SourceError(f"{file}: imagePath: {image} already belongs to {used[image].name}")
                used[image] = file
                entries.append((image, *image_size(image)))
                found.append(shapes)
                passed_over += others
    if passed_over:
        log.warning("%s: %d points and lines have no box: passed over", path, passed_over)
    declared = sorted({name for shapes in found for name, *_ in shapes})
    if not declared:
        why = f"; {problems[0].text}" if problems else ""
        raise SourceError(f"{path}: expected at least one shape in {len(files)} files, found none{why}")
    chosen = choose_classes(path, declared, classes)
    warn_absent(path, chosen)
    objects = Objects()
    for i, shapes in enumerate(found):
        for name, box, place, difficult in shapes:
            if name in chosen.label_of:
                objects.add(i, chosen.label_of[name], box, place, difficult)
    return Annotations(str(path), chosen.classes, tuple(entries), objects, without(chosen, len(entries)))


def _load(file: Path) -> dict[str, Any] | None:
    """Return the file's object, None for a JSON file beside labelme's that is something else."""
    try:
        data = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{file}: line {error.lineno}, column {error.colno}: expected labelme's JSON, "
            f"got a syntax error ({error.msg})"
        ) from None
    except (RecursionError, ValueError):
        raise SourceError(f"{file}: expected labelme's JSON, got values that nobody draws") from None
    if not isinstance(data, dict) or "shapes" not in data:
        return None
    if not isinstance(data["shapes"], list):
        raise SourceError(f"{file}: 'shapes': expected a list, got {brief(data['shapes'])}")
    return data


def _shapes(file: Path, data: dict[str, Any], problems: list[Problem] | None) -> tuple[list[_Found], int]:
    """Return the objects of a file, and how many of its shapes are points and lines."""
    found: dict[Any, _Found] = {}
    others = 0
    for i, shape in enumerate(data["shapes"]):
        with note(problems):
            where = f"{file}: shapes[{i}]"
            if not isinstance(shape, dict):
                raise SourceError(f"{where}: expected an object, got {brief(shape)}")
            kind = shape.get("shape_type") or "polygon"  # as old files mean it
            if kind in _NO_AREAS:
                others += 1
                continue
            if kind not in _AREAS:
                raise SourceError(f"{where}.shape_type: expected {', '.join(_AREAS)}; got {brief(kind)}")
            name = class_name(f"{where}.label", shape.get("label"))
            box = _box(where, kind, shape.get("points"))
            difficult = flag(f"{where}.difficult", shape.get("difficult"))
            group = shape.get("group_id")
            # labelme draws one object in several shapes by giving them one group.
            key = i if group is None else (name, str(group))
            if key in found:
                _, old, place, before = found[key]
                box = *map(min, old[:2], box[:2]), *map(max, old[2:], box[2:])  # type: ignore[assignment]
                found[key] = name, box, place, before or difficult
            else:
                found[key] = name, box, f"shapes[{i}]", difficult
    return list(found.values()), others


def _box(where: str, kind: str, points: Any) -> tuple[float, float, float, float]:
    """Return x1, y1, x2, y2 in pixels of what surrounds a shape."""
    pairs = points if isinstance(points, list) else []
    numbers = [
        (float(p[0]), float(p[1]))
        for p in pairs
        if isinstance(p, list) and len(p) == 2 and all(type(v) in (int, float) and abs(v) < 1e9 for v in p)
    ]
    least = 3 if kind in ("polygon", "rotation") else 2
    if len(numbers) != len(pairs) or len(numbers) < least:
        raise SourceError(
            f"{where}.points: expected at least {least} points x, y in pixels, got {brief(points)}"
        )
    if kind == "circle":  # its centre, and a point on it
        (x, y), (other_x, other_y) = numbers[:2]
        radius = math.hypot(other_x - x, other_y - y)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*numbers, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _image(file: Path, data: dict[str, Any], images: Path | None) -> Path:
    """Return the image that a file is about."""
    said = str(data.get("imagePath") or "").replace("\\", "/")
    name = said.rpartition("/")[2]
    here, above = file.parent, file.parent.parent
    beside = [here, *(folder / name for name in ("images", "img", "imgs") for folder in (here, above))]
    folders = beside if images is None else [images]
    names = [*([said] if images is None and said else []), *([name] if name else [])]
    names += [file.stem + suffix for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES[:3]))]
    for folder in folders:
        for candidate in names:
            if "\0" not in candidate and os.path.isfile(image := on_disk(folder, candidate)):
                return Path(os.path.normpath(image))
    raise SourceError(
        f"{file}: imagePath: {brief(said)} does not exist, nor an image beside it; name the images folder"
    )

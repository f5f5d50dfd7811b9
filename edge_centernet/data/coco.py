"""COCO instances JSON, as described at https://cocodataset.org/#format-data (bounding boxes only)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from edge_centernet.classes import did_you_mean, find_class
from edge_centernet.data.base import (
    Annotations,
    Chosen,
    Objects,
    Problem,
    choose_classes,
    list_names,
    note,
    require_files,
    warn_absent,
    without,
)
from edge_centernet.errors import SourceError

_PROBE = 16  # how many images decide which folder holds them
_LABELLED_ONLY = "labelled_only"  # of an image, or of "info" for all: names of the classes that were labelled


class _Image(NamedTuple):
    """An entry of "images". labelled: names of the categories that were labelled in it, None for all of them."""

    name: str
    width: int
    height: int
    labelled: frozenset[str] | None


def read_coco(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
) -> Annotations:
    """Read `instances_*.json`; see `edge_centernet.data.read_annotations`.

    Args:
        path: the file.
        images: default is the first of these that holds the files: a folder named like the split
            (instances_train.json -> train/) beside the file, beside its folder or in an images/ folder
            there, images/ itself, or the file's own folder.
        classes: those to read, in this order.
        split: not used, for a file is one split.
        problems: with a list, missing image files are left to its owner to find.

    Besides COCO's own fields it reads `score` of an annotation (0..1, how likely it is an object; 1 without)
    and `labelled_only` of `info` or of an image: names of the categories that were labelled, where it is not
    all of them. Raises SourceError naming the line (broken JSON) or the entry, as annotations[3].bbox.
    """
    data = _load(path)
    names = _categories(path, data["categories"])
    chosen = choose_classes(path, list(names.values()), classes)
    warn_absent(path, chosen)
    declared = list(names.values())
    labelled = None
    with note(problems):
        labelled = _labelled(f"{path}: info", data["info"], declared)
    entries, index_of = _images(path, data["images"], declared, labelled, problems)
    root = images if images is not None else _find_root(path, entries)
    files = [_resolve(root, entry.name) for entry in entries]
    if problems is None:
        require_files(path, files, lambda i: f"images[{i}].file_name {entries[i].name!r}")

    objects = Objects()
    for i, annotation in enumerate(data["annotations"]):
        with note(problems):
            place = f"annotations[{i}]"
            where = f"{path}: {place}"
            if not isinstance(annotation, dict):
                raise SourceError(f"{where}: expected an object, got {annotation!r}")
            image = _lookup(where, annotation, "image_id", index_of, "images")
            label = chosen.label_of.get(_lookup(where, annotation, "category_id", names, "categories"))
            box, score = _box(where, annotation.get("bbox")), _score(where, annotation.get("score"))
            if label is not None:
                ignore = bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))
                objects.add(image, label, box, place, ignore, _area(where, annotation.get("area")), score)
    sized = tuple((file, entry.width, entry.height) for file, entry in zip(files, entries, strict=True))
    return Annotations(str(path), chosen.classes, sized, objects, _unlabelled(chosen, declared, entries))


def _unlabelled(
    chosen: Chosen, declared: Sequence[str], entries: Sequence[_Image]
) -> tuple[tuple[int, ...], ...]:
    """For each image the chosen classes that nobody labelled in it."""
    if all(entry.labelled is None for entry in entries):
        return without(chosen, len(entries))
    found = []
    for entry in entries:
        labelled = frozenset(declared) if entry.labelled is None else entry.labelled
        unlabelled = {label for name, label in chosen.label_of.items() if name not in labelled}
        found.append(tuple(sorted(unlabelled | chosen.absent)))
    return tuple(found)


def _labelled(where: str, owner: Any, declared: Sequence[str]) -> frozenset[str] | None:
    """The `labelled_only` of an image or of "info" as names of categories, None where it has none."""
    value = owner.get(_LABELLED_ONLY) if isinstance(owner, dict) else None
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SourceError(f"{where}.{_LABELLED_ONLY}: expected a list of class names, got {value!r}")
    found = []
    for name in value:
        index = find_class(name, declared)
        if index is None:
            raise SourceError(
                f"{where}.{_LABELLED_ONLY}: expected classes of 'categories' ({list_names(declared)}), got {name!r}"
                f"{did_you_mean(name, declared)}"
            )
        found.append(declared[index])
    return frozenset(found)


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{path}: line {error.lineno}, column {error.colno}: expected COCO JSON, got a syntax error ({error.msg})"
        ) from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: byte {error.start}: expected UTF-8 text, got something else") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(data, dict):
        raise SourceError(
            f"{path}: expected a JSON object with images, annotations, categories, got a {_kind(data)}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            got = _kind(data[key]) if key in data else "no such key"
            raise SourceError(f"{path}: {key!r}: expected a list, got {got}; is this a COCO instances file?")
    if not data["images"]:
        raise SourceError(f"{path}: 'images': expected at least one image, got an empty list")
    return {"info": None, **data}


def _categories(path: Path, categories: list[Any]) -> dict[int, str]:
    """Category id -> name, sorted by id."""
    names: dict[int, str] = {}
    for i, category in enumerate(categories):
        where = f"{path}: categories[{i}]"
        if (
            not isinstance(category, dict)
            or not _is_id(category.get("id"))
            or not _is_name(category.get("name"))
        ):
            raise SourceError(
                f"{where}: expected an object with an integer 'id' and a 'name', got {category!r}"
            )
        if category["id"] in names:
            raise SourceError(f"{where}.id: {category['id']} is used twice; category ids must differ")
        if category["name"] in names.values():
            raise SourceError(f"{where}.name: {category['name']!r} is used twice; category names must differ")
        names[category["id"]] = category["name"]
    if not names:
        raise SourceError(f"{path}: 'categories': expected at least one category, got an empty list")
    return dict(sorted(names.items()))


def _images(
    path: Path,
    images: list[Any],
    declared: Sequence[str],
    labelled: frozenset[str] | None,
    problems: list[Problem] | None,
) -> tuple[list[_Image], dict[Any, int]]:
    """Each image, and image id -> index. labelled: what was labelled in images that do not say it themselves."""
    entries: list[_Image] = []
    index_of: dict[Any, int] = {}
    id_use: dict[Any, int] = {}  # where in the file
    name_use: dict[str, int] = {}
    for i, image in enumerate(images):
        with note(problems):
            where = f"{path}: images[{i}]"
            if not isinstance(image, dict):
                raise SourceError(f"{where}: expected an object, got {image!r}")
            name, key = image.get("file_name"), image.get("id")
            if not _is_name(name):
                raise SourceError(f"{where}.file_name: expected a file name, got {name!r}")
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise SourceError(f"{where}.id: expected an integer, got {key!r}")
            if key in id_use:
                raise SourceError(f"{where}.id: {key!r} is already the id of images[{id_use[key]}]")
            if name in name_use:
                raise SourceError(
                    f"{where}.file_name: {name!r} is already the file of images[{name_use[name]}]"
                )
            for side in ("width", "height"):
                value = image.get(side)
                if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value < 1e6:
                    raise SourceError(f"{where}.{side}: expected the image's {side} in pixels, got {value!r}")
            own = _labelled(where, image, declared)
            id_use[key] = name_use[name] = i
            index_of[key] = len(entries)
            entries.append(
                _Image(name, int(image["width"]), int(image["height"]), labelled if own is None else own)
            )
    if problems and not entries:  # nothing to go on with
        raise SourceError(problems[0].text)
    return entries, index_of


def _find_root(path: Path, entries: list[_Image]) -> Path:
    """The folder that holds most of the first few images."""
    split = path.stem.removeprefix("instances_").removeprefix("annotations_")
    here, above = path.parent, path.parent.parent
    folders = [here / split, here / "images" / split, here / "images", here]
    folders += [above / split, above / "images" / split, above / "images"]
    probe = [entry.name for entry in entries[:_PROBE]]
    found = [sum(_resolve(folder, name).is_file() for name in probe) for folder in folders]
    if not max(found):
        raise SourceError(
            f"{path}: images[0].file_name {probe[0]!r}: not found in "
            f"{', '.join(str(folder) for folder in folders if folder.is_dir())}; name the images folder"
        )
    return folders[found.index(max(found))]


def _resolve(root: Path, name: str) -> Path:
    """The file, whether or not file_name repeats the images folder's own name (train/ + train/a.jpg)."""
    first, _, rest = name.partition("/")
    return root / rest if rest and first == root.name else root / name


def _lookup(where: str, annotation: dict[str, Any], key: str, table: dict[Any, Any], owner: str) -> Any:
    value = annotation.get(key)
    if isinstance(value, int | str) and value in table:
        return table[value]
    raise SourceError(f"{where}.{key}: expected the id of one of the {owner}, got {value!r}")


def _box(where: str, bbox: Any) -> tuple[float, float, float, float]:
    """COCO's x, y, width, height to corners."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(type(value) in (int, float) for value in bbox):
        x, y, w, h = bbox
        if math.isfinite(x + y + w + h):
            return x, y, x + w, y + h
    raise SourceError(f"{where}.bbox: expected 4 numbers, x, y, width, height in pixels; got {bbox!r}")


def _area(where: str, area: Any) -> float | None:
    if area is None:
        return None
    if isinstance(area, int | float) and math.isfinite(area):
        return float(area)
    raise SourceError(f"{where}.area: expected a number of pixels, got {area!r}")


def _score(where: str, score: Any) -> float:
    if score is None:
        return 1.0
    if isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1:  # NaN is not
        return float(score)
    raise SourceError(f"{where}.score: expected a number 0 to 1, got {score!r}")


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", type(None): "null", bool: "boolean"}
    return kinds.get(type(value), "number")

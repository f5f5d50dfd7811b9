"""COCO instances JSON, as described at https://cocodataset.org/#format-data (bounding boxes only)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from edge_centernet.classes import did_you_mean, find_class
from edge_centernet.data.base import (
    READING,
    Annotations,
    Objects,
    Problem,
    brief,
    choose_classes,
    class_name,
    flag,
    list_names,
    log,
    note,
    on_disk,
    require_files,
    warn_absent,
)
from edge_centernet.data.layout import visible, way_out
from edge_centernet.errors import SourceError
from edge_centernet.files import write_atomic
from edge_centernet.progress import Progress, unseen, with_progress

_PROBE = 16  # number of images that decide which folder holds them
# A key of ours, in an image or, for all images, in "info": names of the classes that were labelled.
_LABELLED_ONLY = "labelled_only"


_Resolve = Callable[[Path, str], Path]


class _Image(NamedTuple):
    """An entry of "images".

    width, height: in pixels. labelled: names of the categories that were labelled in it, None for all.
    """

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
    progress: Progress = unseen,
) -> Annotations:
    """Read `instances_*.json`; see `edge_centernet.data.read_annotations`.

    Args:
        path: the file.
        images: by default the folder that holds the files, out of: a folder named like the split
            (instances_train.json -> train/) beside the file, beside its folder or in an images/ folder
            there; images/ itself; the file's own folder, and those in it. Where none holds them, files of
            the same names without their folders are taken: Label Studio writes paths of its server.
        classes: those to read, in this order.
        split: not used, for a file is one split.
        problems: with a list, missing image files are left to the caller to find.
        progress: see `read_annotations`.

    Besides COCO's own fields it reads `score` of an annotation (0..1, how likely it is an object; 1 if there
    is none) and `labelled_only` of `info` or of an image: names of the categories that were labelled, if not
    all of them were. Raises SourceError naming the line (broken JSON) or the entry, as annotations[3].bbox.
    """
    data, names = _load(path)
    chosen = choose_classes(path, list(names.values()), classes)
    warn_absent(path, chosen)
    declared = list(names.values())
    labelled = None
    with note(problems):
        labelled = _labelled(f"{path}: info", data.get("info"), declared)
    entries, index_of = _images(path, data["images"], declared, labelled, problems)
    root, resolve = _find_root(path, entries, images)
    files = [resolve(root, entry.name) for entry in entries]
    if resolve is _by_name and len(set(files)) < len(files):
        twice = next(file for i, file in enumerate(files) if file in files[:i])
        raise SourceError(
            f"{path}: two of its images are called {twice.name}, in folders that are not there; restore the "
            "folders that file_name names"
        )
    if problems is None:
        require_files(path, files, lambda i: f"images[{i}].file_name {entries[i].name!r}")

    objects = Objects()
    for i, annotation in enumerate(with_progress(data["annotations"], READING, progress)):
        with note(problems):
            place = f"annotations[{i}]"
            where = f"{path}: {place}"
            if not isinstance(annotation, dict):
                raise SourceError(f"{where}: expected an object, got {brief(annotation)}")
            image = _lookup(where, annotation, "image_id", index_of, "images")
            label = chosen.label_of.get(_lookup(where, annotation, "category_id", names, "categories"))
            _add_object(objects, where, annotation, image, label, place)

    sized = tuple((file, entry.width, entry.height) for file, entry in zip(files, entries, strict=True))
    unlabelled = []
    for entry in entries:
        missing = set(chosen.absent)
        if entry.labelled is not None:  # by name, for it may name categories that are not read
            missing |= {label for name, label in chosen.label_of.items() if name not in entry.labelled}
        unlabelled.append(tuple(sorted(missing)))
    return Annotations(
        str(path), chosen.classes, sized, objects, tuple(unlabelled) if any(unlabelled) else ()
    )


def _add_object(
    objects: Objects, where: str, annotation: dict[str, Any], image: int, label: int | None, place: str
) -> None:
    """Check an annotation's own values, and append it unless its class is not read (label None)."""
    # COCO's box is x, y, width, height; ours are corners.
    bbox, score, area = annotation.get("bbox"), annotation.get("score"), annotation.get("area")
    values = [_number(value) for value in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [math.nan]
    if not math.isfinite(sum(values)):
        raise SourceError(
            f"{where}.bbox: expected 4 numbers, x, y, width, height in pixels; got {brief(bbox)}"
        )
    x, y, width, height = values
    sure = 1.0 if score is None else _number(score)
    if not 0 <= sure <= 1:  # or NaN
        raise SourceError(f"{where}.score: expected a number 0 to 1, got {brief(score)}")
    # Both keys are in use: `ignore` is what COCO's own tools call it, `iscrowd` what its files have.
    ignored = [flag(f"{where}.{key}", annotation.get(key)) for key in ("iscrowd", "ignore")]
    if label is None:
        return
    if area is not None and not math.isfinite(_number(area)):
        raise SourceError(f"{where}.area: expected a number of pixels, got {brief(area)}")
    objects.add(
        image,
        label,
        (x, y, x + width, y + height),
        place,
        ignore=any(ignored),
        area=None if area is None else _number(area),
        score=sure,
    )


def _number(value: Any) -> float:
    """Return a number of the file; NaN for what is none, or too large to compute with."""
    # type() because isinstance takes True for a number; a whole number may have thousands of digits.
    number = float(value) if type(value) is float or (type(value) is int and abs(value) < 1e300) else math.nan
    return number if abs(number) < 1e300 else math.nan


def _labelled(where: str, owner: Any, declared: Sequence[str]) -> frozenset[str] | None:
    """Return `labelled_only` of an image or of "info" as names of categories, None if it has none."""
    value = owner.get(_LABELLED_ONLY) if isinstance(owner, dict) else None
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SourceError(f"{where}.{_LABELLED_ONLY}: expected a list of class names, got {brief(value)}")
    found = []
    for name in value:
        index = find_class(name, declared)
        if index is None:
            raise SourceError(
                f"{where}.{_LABELLED_ONLY}: expected classes of 'categories' ({list_names(declared)}), "
                f"got {name!r}{did_you_mean(name, declared)}"
            )
        found.append(declared[index])
    return frozenset(found)


def _load(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the JSON, with at least "images" and "annotations", and category id -> name, sorted by id."""
    try:
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{path}: line {error.lineno}, column {error.colno}: expected COCO JSON, "
            f"got a syntax error ({error.msg})"
        ) from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: byte {error.start}: expected UTF-8 text, got something else") from None
    except RecursionError:
        raise SourceError(f"{path}: expected COCO JSON, got lists that are nested too deeply") from None
    except ValueError:  # Python's limit
        raise SourceError(f"{path}: expected COCO JSON, got a number with thousands of digits") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(data, dict):
        way = f"; {way_out(path)}" if isinstance(data, list) else ""
        raise SourceError(
            f"{path}: expected a JSON object with images, annotations, categories, got a {_kind(data)}{way}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            got = _kind(data[key]) if key in data else "no such key"
            raise SourceError(f"{path}: {key!r}: expected a list, got {got}; is this a COCO instances file?")
    if not data["images"]:
        raise SourceError(f"{path}: 'images': expected at least one image, got an empty list")

    names: dict[int, str] = {}
    group = _is_group(data["categories"], data["annotations"])
    for i, category in enumerate(data["categories"]):
        where = f"{path}: categories[{i}]"
        number = category.get("id") if isinstance(category, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not _is_name(category.get("name")):
            raise SourceError(
                f"{where}: expected an object with an integer 'id' and a 'name', got {brief(category)}"
            )
        name = class_name(f"{where}.name", category["name"])
        if i == 0 and group:
            log.warning(
                "%s: %r is the group of all other categories, and no object has it: left out", path, name
            )
            continue
        if number in names:
            raise SourceError(f"{where}.id: {number} is used twice; category ids must differ")
        if name in names.values():
            raise SourceError(f"{where}.name: {name!r} is used twice; category names must differ")
        names[number] = name
    if not names:
        raise SourceError(f"{path}: 'categories': expected at least one category, got an empty list")
    return data, dict(sorted(names.items()))


def _is_group(categories: list[Any], annotations: list[Any]) -> bool:
    """Return whether the first category is the root that Roboflow's export puts above the classes."""
    if len(categories) < 2 or not all(isinstance(one, dict) for one in categories):
        return False
    first, *others = categories
    return (
        first.get("supercategory") in (None, "", "none")
        and all(one.get("supercategory") == first.get("name") for one in others)
        and not any(
            isinstance(one, dict) and one.get("category_id") == first.get("id") for one in annotations
        )
    )


def _images(
    path: Path,
    images: list[Any],
    declared: Sequence[str],
    labelled: frozenset[str] | None,
    problems: list[Problem] | None,
) -> tuple[list[_Image], dict[Any, int]]:
    """Return the images, and image id -> index.

    Args:
        path: the file, for messages.
        images: the entries as they stand there.
        declared: names of the categories.
        labelled: what was labelled in images that do not say it themselves, None for all categories.
        problems: see `note`; images that cannot be read have no index.
    """
    entries: list[_Image] = []
    index_of: dict[Any, int] = {}
    id_use: dict[Any, int] = {}  # the entry of the file that has this id, for messages
    name_use: dict[str, int] = {}
    for i, image in enumerate(images):
        with note(problems):
            where = f"{path}: images[{i}]"
            if not isinstance(image, dict):
                raise SourceError(f"{where}: expected an object, got {brief(image)}")
            name, key = image.get("file_name"), image.get("id")
            if not _is_name(name):
                raise SourceError(f"{where}.file_name: expected a file name, got {brief(name)}")
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise SourceError(f"{where}.id: expected an integer, got {brief(key)}")
            if key in id_use:
                raise SourceError(f"{where}.id: {brief(key)} is already the id of images[{id_use[key]}]")
            if name in name_use:
                raise SourceError(
                    f"{where}.file_name: {name!r} is already the file of images[{name_use[name]}]"
                )
            for side in ("width", "height"):
                value = image.get(side)
                if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value < 1e6:
                    raise SourceError(
                        f"{where}.{side}: expected the image's {side} in pixels, got {brief(value)}"
                    )
            own = _labelled(where, image, declared)
            id_use[key] = name_use[name] = i
            index_of[key] = len(entries)
            entries.append(
                _Image(name, int(image["width"]), int(image["height"]), labelled if own is None else own)
            )
    if problems and not entries:  # nothing is left to go on with
        raise SourceError(problems[0].text)
    return entries, index_of


def _find_root(path: Path, entries: list[_Image], images: Path | None) -> tuple[Path, _Resolve]:
    """Return the folder that holds most of the first few images, and how their names lead to files there.

    images: the only folder to look in, if any.
    """
    split = path.stem.removeprefix("instances_").removeprefix("annotations_")
    here, above = path.parent, path.parent.parent
    folders = [here / split, here / "images" / split, here / "images", here]
    folders += [above / split, above / "images" / split, above / "images"]
    folders += [folder for folder in visible(here) if folder.is_dir()][:_PROBE]
    folders = folders if images is None else [images]
    probe = [entry.name for entry in entries[:_PROBE]]
    # Not by the first image alone: its file may be missing, or a namesake may lie in another folder.
    for resolve in (_resolve, _by_name):
        found = [sum(os.path.isfile(resolve(folder, name)) for name in probe) for folder in folders]
        if max(found):
            return folders[found.index(max(found))], resolve
    if images is not None:
        return images, _resolve  # which of them are missing is said by name
    raise SourceError(
        f"{path}: images[0].file_name {probe[0]!r}: not found in "
        f"{', '.join(str(folder) for folder in dict.fromkeys(folders) if folder.is_dir())}; export again "
        "with images, or name the images folder"
    )


def _resolve(root: Path, name: str) -> Path:
    """Return the file; its name may repeat that of the images folder (train/ + train/a.jpg)."""
    first, _, rest = name.partition("/")
    return on_disk(root, rest if rest and first == root.name else name)


def _by_name(root: Path, name: str) -> Path:
    """Return the file of this name in the folder, whatever folders are written before it."""
    return on_disk(root, name.replace("\\", "/").rpartition("/")[2])


def _lookup(where: str, annotation: dict[str, Any], key: str, table: dict[Any, Any], owner: str) -> Any:
    """Return what the id under `key` refers to in `table`; owner: the list of the file that has these ids."""
    value = annotation.get(key)
    if isinstance(value, int | str) and value in table:  # a list could not be looked up
        return table[value]
    raise SourceError(f"{where}.{key}: expected the id of one of the {owner}, got {brief(value)}")


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _kind(value: Any) -> str:
    """Return JSON's word for the type of a value."""
    kinds = {dict: "object", list: "list", str: "string", type(None): "null", bool: "boolean"}
    return kinds.get(type(value), "number")


# ---- writing


def file_name(photo: Path, out: Path) -> str:
    """Return the path of a photo relative to the folder of `out`, so that `read_dataset(out)` finds it."""
    # The reader looks into folders named `images` or like the file, and lets names repeat the folder they are
    # in. Where it could find another file of that name, a dot in front keeps it to this one.
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
    """Write the JSON with one image or annotation per line, for `diff`; the file is whole or not there."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, indent=1)}")
    # A byte of a file name that is not UTF-8 becomes \udce9 or the like, JSON's escape for the same byte.
    write_atomic(out, ("{\n" + ",\n".join(parts) + "\n}\n").encode("utf-8", "backslashreplace"))

"""YOLO txt: images/**/NAME.jpg and labels/**/NAME.txt with lines `class cx cy width height`, 0..1.

Also with both in one folder, as LabelImg writes it, and as darknet's obj.data names them.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
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
    log,
    note,
    on_disk,
    read_text,
    warn_absent,
    without,
)
from edge_centernet.data.layout import YOLO_LISTS, part_of, yolo_config
from edge_centernet.errors import MissingDependency, SourceError
from edge_centernet.extras import pip_command
from edge_centernet.imageio import IMAGE_SUFFIXES, image_size
from edge_centernet.progress import Progress, unseen, with_progress

# A data.yaml has a few lines; a larger one is something else, and would be parsed for minutes.
_YAML_LIMIT = 1 << 18  # characters
# How far outside 0 to 1 a fraction may be: tools round, and draw a little over the edge. Pixels, which some
# files have instead of fractions, are far above.
_SLACK = 0.02


def read_yolo(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
    progress: Progress = unseen,
) -> Annotations:
    """Read a data.yaml, an obj.data or a folder; see `edge_centernet.data.read_annotations`.

    Args:
        path: the file, or a folder with images/ and labels/ or with both kinds of files in it.
        images: a folder of images. Their labels are at the same path with the last `images` replaced by
            `labels`, or in the same folder. By default what the file names for `split` ("train" without
            one), or images/ (images/SPLIT/ with a split).
        classes: those to read; in a folder without classes.txt or data.yaml, the names of class 0, 1, ...
        split: see `images`.
        problems: with a list, label files without an image are added to it too.
        progress: see `read_annotations`.

    An image without a label file has no objects; polygons become their bounding boxes. Keypoints, which only
    kpt_shape of data.yaml tells from polygons, are passed over.
    Raises SourceError naming file and line; MissingDependency for a .yaml without PyYAML.
    """
    root = path if path.is_dir() else path.parent
    config, declared = _declared(path, root, classes)
    chosen = choose_classes(path, declared, classes)
    warn_absent(path, chosen)
    label_of = {i: chosen.label_of[name] for i, name in enumerate(declared) if name in chosen.label_of}
    files = _images(path, root, config, images, split, problems)
    keypoints = _keypoints(path, config)

    entries: list[tuple[Path, int, int]] = []
    objects = Objects()
    labelled: dict[Path, Path] = {}
    some = False
    poses: list[bool] = []  # for each polygon whether it might as well be a box and keypoints
    for file in with_progress(files, READING, progress):
        with note(problems, "image"):
            label_file = _label_file(file, images, root)
            if label_file in labelled:
                raise SourceError(
                    f"{file}: its labels {label_file} already belong to {labelled[label_file].name}"
                )
            labelled[label_file] = file
            some = some or label_file.is_file()
            width, height = image_size(file)
            entries.append((file, width, height))
            if not label_file.is_file():
                continue
            with note(problems):
                for number, index, (x1, y1, x2, y2), pose in _labels(
                    label_file, len(declared), keypoints, problems
                ):
                    poses += [] if pose is None else [pose]
                    if index in label_of:
                        box = x1 * width, y1 * height, x2 * width, y2 * height
                        objects.add(len(entries) - 1, label_of[index], box, f"line {number}")
    if not some:
        raise SourceError(
            f"{path}: expected label files such as {_label_file(files[0], images, root)}, found none"
        )
    if poses and all(poses):
        log.warning(
            "%s: read as polygons, but all %d of them might be a box and keypoints in it: if they are, "
            "say so by kpt_shape in data.yaml",
            path,
            len(poses),
        )
    if problems is not None:
        problems += _orphans(labelled)
    return Annotations(str(path), chosen.classes, tuple(entries), objects, without(chosen, len(entries)))


def _orphans(labelled: Mapping[Path, Path]) -> list[Problem]:
    """Find label files without an image in the folders of `labelled` (label file -> image)."""
    # Where labels lie beside their images, any other .txt may lie there too.
    folders = {
        label.parent: image.parent for label, image in labelled.items() if label.parent != image.parent
    }
    found = []
    for labels, images in folders.items():
        stems = {p.stem for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        for file in sorted(labels.glob("*.txt")):
            if file.stem not in stems and not any(Path(name).name == file.name for name in YOLO_LISTS):
                found.append(
                    Problem("orphan", f"{file}: expected its image in {images}, found none of that name")
                )
    return found


def _images(
    path: Path,
    root: Path,
    config: Mapping[str, Any],
    images: Path | None,
    split: str | None,
    problems: list[Problem] | None,
) -> list[Path]:
    """Return the image files of a split; root: the folder of the set; config: its data.yaml, may be empty."""
    # 1. A folder that the caller names, or images/; without either and without data.yaml the folder itself.
    if images is not None:
        return _files_in(images)
    if path.is_dir() and ((root / "images").is_dir() or not config):
        folder = root / "images" if (root / "images").is_dir() else root
        return _files_in(folder / split if split else folder)
    # 2. Else what the file names: folders, or .txt files with one image a line, one or several of them.
    key = split or "train"
    places = config.get(key)
    places = places if isinstance(places, list) else [places]
    if not all(places) or not all(isinstance(place, str) for place in places):
        raise SourceError(
            f"{path}: {key!r}: expected a folder or list of images, got {brief(config.get(key))}"
        )
    base = config.get("path") or "."
    if not isinstance(base, str):
        raise SourceError(f"{path}: 'path': expected a folder, got {brief(base)}")
    found: list[Path] = []
    for place in places:
        candidates = [_existing(root / base, place), _existing(root, place)]
        target = next((p for p in candidates if os.path.isdir(p) or _is_list(p)), None)
        if target is None:
            raise SourceError(
                f"{path}: {key!r}: {brief(place)} is neither a folder nor a .txt list; "
                f"looked at {root / base / place}"
            )
        if target.is_dir():
            found += _files_in(target)
            continue
        for number, line in enumerate(read_text(target).splitlines(), 1):
            if not line.strip():
                continue
            with note(problems, "image"):
                file = _existing(target.parent, line.strip())
                if not os.path.isfile(file):
                    raise SourceError(
                        f"{target}: line {number}: image {file} does not exist; "
                        "export again with images, or name their folder"
                    )
                found.append(file)
    if not found:
        why = f"; {problems[0].text}" if problems else ""
        raise SourceError(f"{path}: {key!r}: expected at least one image, found none{why}")
    return found


def _is_list(path: Path) -> bool:
    return path.suffix == ".txt" and os.path.isfile(path)


def _existing(folder: Path, name: str) -> Path:
    """Return the file or folder that a data set's file calls `name`, at the first place that has it."""
    # Exporters write ../train/images relative to the yaml's own folder or to one level below it; darknet
    # names everything from the folder above data/, which CVAT's exports do not have. Windows writes \\.
    name = name.replace("\\", "/") if "\\" in name and not os.path.exists(folder / name) else name
    shorter = [name.removeprefix(prefix) for prefix in ("../", "data/") if name.startswith(prefix)]
    places = [(folder, name), *((folder, short) for short in shorter), (folder.parent, name)]
    candidates = [on_disk(*place) for place in places]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def _files_in(folder: Path) -> list[Path]:
    """Return all images in a folder and below, sorted; SourceError if there is none."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a folder of images, found no such folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise SourceError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES[:3])}, ...), found none")
    return found


def _label_file(image: Path, images: Path | None, root: Path) -> Path:
    """Return .../labels/a/b.txt for .../images/a/b.jpg, or b.txt beside the image where that is missing.

    images: the folder that the caller named, if any: labels of photos that lie elsewhere are in labels/ or in
    darknet's folders of `root`.
    """
    beside = on_disk(image.parent, f"{image.stem}.txt")
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    label = Path(*parts).with_suffix(".txt")
    label = on_disk(label.parent, label.name)
    if images is not None and not label.is_file() and not beside.is_file():
        below = image.relative_to(images).with_suffix(".txt")
        places = [root / "labels", *sorted(root.glob("obj_*_data")), root]
        return next((place / below for place in places if (place / below).is_file()), label)
    return beside if beside.is_file() and not label.is_file() else label


def _labels(
    file: Path, count: int, keypoints: int, problems: list[Problem] | None
) -> list[tuple[int, int, tuple[float, float, float, float], bool | None]]:
    """Return (line number, class index, x1 y1 x2 y2 as fractions of the image, pose) of each line.

    count: number of classes. keypoints: numbers of a line that belong to keypoints, behind its box. pose:
    whether a polygon might be a box and keypoints in it; None for a box.
    """
    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{file}: line {number}"
        with note(problems):
            # 1. A box has 5 numbers; a polygon is a class and at least three pairs.
            if keypoints and len(words) == 5 + keypoints:
                words = words[:5]
            elif len(words) != 5 and (keypoints or len(words) < 7 or len(words) % 2 == 0):
                more = f", and {keypoints} of keypoints (kpt_shape)" if keypoints else ""
                raise SourceError(
                    f"{where}: expected 5 numbers, class cx cy width height{more}; "
                    f"got {len(words)}: {brief(line.strip())}"
                )
            # 2. NaN stands for what is no number: it fails every comparison below.
            try:
                index = float(words[0])  # some tools write 3.0
            except ValueError:
                index = math.nan
            if not (index == index // 1 and 0 <= index < count):
                raise SourceError(f"{where}: expected a class index 0 to {count - 1}, got {brief(words[0])}")
            try:
                values = [float(word) for word in words[1:]]
            except ValueError:
                values = [math.nan]
            if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
                got = brief(" ".join(words[1:]))
                raise SourceError(f"{where}: expected numbers 0 to 1 (fractions of the image), got {got}")
            # 3. Corners of the box, or of what surrounds the polygon.
            cx, cy, w, h = values[:4]
            xs, ys = values[0::2], values[1::2]
            corners, pose = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), None
            if len(values) > 4:
                # A keypoint that nobody can see is 0 0.
                points = [point for point in zip(xs[2:], ys[2:], strict=True) if point != (0, 0)]
                pose = all(abs(x - cx) <= w / 2 and abs(y - cy) <= h / 2 for x, y in points)
                corners = min(xs), min(ys), max(xs), max(ys)
            found.append((number, int(index), corners, pose))
    return found


def _declared(path: Path, root: Path, classes: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Return the contents of data.yaml or obj.data, empty without one, and the names of class 0, 1, ..."""
    # 1. A file that is named, or found where no plain list of names makes it (and PyYAML) unnecessary.
    #    Whether a line of labels is a polygon or keypoints, though, only data.yaml can say.
    folders = (root, root.parent) if path.is_dir() else (root,)  # train/ and valid/ share the list above them
    lists = (folder / name for folder in folders for name in YOLO_LISTS)
    listed = next((file for file in lists if file.is_file()), None)
    file = path if path.is_file() else yolo_config(root)
    if file is not None and file.suffix == ".data":
        return _read_darknet(file)
    plain = listed is not None and not path.is_file()
    if file is not None and not (plain and (root / "images").is_dir() and "kpt_shape" not in read_text(file)):
        return _read_yaml(file)
    # 2. Else the list, or the classes that are asked for.
    if listed is not None:
        return {}, _read_names(listed)
    if classes:
        return {}, list(classes)
    raise SourceError(
        f"{root}: expected the class names, one a line, in {root / YOLO_LISTS[0]}; write that file"
    )


def named_parts(file: Path) -> list[str]:
    """Return the keys of a data.yaml or obj.data that name images which are there, and "train" in any case.

    Exporters write keys for parts that a set does not have; such a val or test is left out with a warning.
    Raises what `read_yolo` raises for the file.
    """
    config = _read_darknet(file)[0] if file.suffix.lower() == ".data" else _read_yaml(file)[0]
    base = config.get("path")
    base = base if base and isinstance(base, str) else "."  # `read_yolo` refuses what is no text
    found = []
    for key, places in config.items():
        if not isinstance(key, str) or not places or key not in ("train", "val", "valid", "test"):
            continue
        names = places if isinstance(places, list) else [places]
        there = all(
            isinstance(name, str)
            and any(os.path.exists(_existing(folder, name)) for folder in (file.parent / base, file.parent))
            for name in names
        )
        if part_of(key) == "train" or there:
            found.append(key)
        else:
            log.warning("%s: %r: %s is not there: left out", file, key, brief(places))
    return found


def _read_names(file: Path) -> list[str]:
    # A blank line in the middle is refused: whoever leaves it out gives all later classes another number.
    return _names(file, read_text(file).rstrip().splitlines())


def _read_darknet(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the entries of an obj.data, lines `key = value`, with `val` for its `valid`, and the names."""
    pairs = (line.partition("=") for line in read_text(file).splitlines() if "=" in line)
    config: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
    config["val"] = config.get("valid")
    listed = _existing(file.parent, config.get("names") or "obj.names")
    if not os.path.isfile(listed):
        raise SourceError(f"{file}: 'names': expected the file of the class names, found no {listed}")
    return config, _read_names(listed)


def _read_yaml(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the contents of a data.yaml, whose values are all text as it stands there, and the names."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise MissingDependency(
            f"{file}: reading YAML needs PyYAML: {pip_command('pyyaml')}; "
            f"or give the folder itself, with the class names one a line in {YOLO_LISTS[0]}"
        ) from None
    text = read_text(file)
    if len(text) > _YAML_LIMIT:
        raise SourceError(f"{file}: expected a data.yaml of a few lines, got {len(text)} characters")
    try:
        # The base loader makes text, lists and mappings only: no booleans or dates of names as `on` or 12:30.
        data = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise SourceError(f"{file}: {line}expected YAML, got a syntax error") from None
    except RecursionError:
        raise SourceError(f"{file}: expected YAML, got lists that are nested too deeply") from None
    if not isinstance(data, dict) or "names" not in data:
        raise SourceError(f"{file}: expected a mapping with 'names' and 'train', got no 'names'")
    return data, _names(file, data["names"])


def _names(file: Path, names: Any) -> list[str]:
    """Return the class names of a list, or of a mapping of index to name; file: for messages."""
    if isinstance(names, dict):
        written = ((key, name) for key, name in names.items() if key.isascii() and key.isdecimal())
        indices = {int(key): name for key, name in written if len(key) < 10}
        if sorted(indices) != list(range(len(names))):
            raise SourceError(
                f"{file}: 'names': expected indices 0 to {len(names) - 1}, got {brief([*names])}"
            )
        names = [indices[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise SourceError(f"{file}: expected a list of class names, got {brief(names)}")
    texts = [class_name(f"{file}: class {i}", name) for i, name in enumerate(names)]
    if len(set(texts)) != len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise SourceError(f"{file}: class {twice!r} is named twice; names must differ")
    return texts


def _keypoints(path: Path, config: Mapping[str, Any]) -> int:
    """Return how many numbers of a label's line are keypoints: the product of kpt_shape, 0 without it."""
    shape = config.get("kpt_shape")
    if shape is None:
        return 0
    sides = shape if isinstance(shape, list) and all(isinstance(side, str) for side in shape) else []
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and len(side) < 5 for side in sides):
        raise SourceError(
            f"{path}: 'kpt_shape': expected two numbers, keypoints and their values, got {brief(shape)}"
        )
    return int(sides[0]) * int(sides[1])

"""YOLO txt: images/**/NAME.jpg and labels/**/NAME.txt with lines `class cx cy width height`, 0..1."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_centernet.data.base import Annotations, Objects, Problem, choose_classes, note, warn_absent, without
from edge_centernet.errors import MissingDependency, SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES, image_size

# Where the names of the classes stand: darknet has obj.names, LabelImg writes classes.txt beside its labels,
# others above them.
_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
# How far outside 0 to 1 a fraction may be: tools round, and draw a little over the edge. Pixels, which some
# files have instead of fractions, are far above.
_SLACK = 0.02


def read_yolo(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
) -> Annotations:
    """Read a data.yaml or a folder with images/ and labels/; see `edge_centernet.data.read_annotations`.

    Args:
        path: the .yaml or the folder.
        images: a folder of images. Their labels are at the same path with the last `images` replaced by
            `labels`, or in the same folder. By default what the yaml names for `split` ("train" without
            one), or images/ (images/SPLIT/ with a split).
        classes: those to read; in a folder without classes.txt or data.yaml, the names of class 0, 1, ...
        split: see `images`.
        problems: with a list, label files without an image are added to it too.

    An image without a label file has no objects; polygons become their bounding boxes.
    Raises SourceError naming file and line; MissingDependency for a .yaml without PyYAML.
    """
    root = path if path.is_dir() else path.parent
    config, declared = _declared(path, root, classes)
    chosen = choose_classes(path, declared, classes)
    warn_absent(path, chosen)
    label_of = {i: chosen.label_of[name] for i, name in enumerate(declared) if name in chosen.label_of}
    files = _images(path, root, config, images, split, problems)

    entries: list[tuple[Path, int, int]] = []
    objects = Objects()
    labelled: dict[Path, Path] = {}
    some = False
    for file in files:
        with note(problems, "image"):
            label_file = _label_file(file)
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
                for number, index, (x1, y1, x2, y2) in _labels(label_file, len(declared), problems):
                    if index in label_of:
                        box = x1 * width, y1 * height, x2 * width, y2 * height
                        objects.add(len(entries) - 1, label_of[index], box, f"line {number}")
    if not some:
        raise SourceError(f"{path}: expected label files such as {_label_file(files[0])}, found none")
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
            if file.stem not in stems and not any(Path(name).name == file.name for name in _LISTS):
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
    # 1. A folder that the caller names, or images/.
    if images is not None:
        return _files_in(images)
    if path.is_dir() and (root / "images").is_dir():
        return _files_in(root / "images" / split if split else root / "images")
    # 2. Else what data.yaml names: folders, or .txt files with one image a line, one or several of them.
    key = split or "train"
    places = config.get(key)
    if not places:
        raise SourceError(f"{path}: {key!r}: expected a folder or list of images, got {places!r}")
    base = root / str(config.get("path") or ".")
    found: list[Path] = []
    for place in map(str, places if isinstance(places, list) else [places]):
        # Exporters write ../train/images relative to the yaml's own folder or to one level below it.
        candidates = [base / place, root / place, root / place.removeprefix("../")]
        target = next((p for p in candidates if p.is_dir() or (p.is_file() and p.suffix == ".txt")), None)
        if target is None:
            raise SourceError(
                f"{path}: {key!r}: {place!r} is neither a folder nor a .txt list; looked at {candidates[0]}"
            )
        if target.is_dir():
            found += _files_in(target)
            continue
        for number, line in enumerate(target.read_text("utf-8").splitlines(), 1):
            if not line.strip():
                continue
            with note(problems, "image"):
                file = target.parent / line.strip()
                if not file.is_file():
                    raise SourceError(f"{target}: line {number}: image {file} does not exist")
                found.append(file)
    return found


def _files_in(folder: Path) -> list[Path]:
    """Return all images in a folder and below, sorted; SourceError if there is none."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a folder of images, found no such folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise SourceError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES[:3])}, ...), found none")
    return found


def _label_file(image: Path) -> Path:
    """Return .../labels/a/b.txt for .../images/a/b.jpg; without a folder named images, beside the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _labels(
    file: Path, count: int, problems: list[Problem] | None
) -> list[tuple[int, int, tuple[float, float, float, float]]]:
    """Return (line number, class index below `count`, x1 y1 x2 y2 as fractions of the image) of each line."""
    found = []
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise SourceError(f"{file}: expected text in UTF-8, got something else") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{file}: line {number}"
        with note(problems):
            # 1. A box has 5 numbers; a polygon is a class and at least three pairs.
            if len(words) != 5 and not (len(words) >= 7 and len(words) % 2):
                raise SourceError(
                    f"{where}: expected 5 numbers, class cx cy width height; "
                    f"got {len(words)}: {line.strip()!r}"
                )
            # 2. NaN stands for what is no number: it fails every comparison below.
            try:
                index = float(words[0])  # some tools write 3.0
            except ValueError:
                index = math.nan
            if not (index == index // 1 and 0 <= index < count):
                raise SourceError(f"{where}: expected a class index 0 to {count - 1}, got {words[0]!r}")
            try:
                values = [float(word) for word in words[1:]]
            except ValueError:
                values = [math.nan]
            if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
                got = " ".join(words[1:])
                raise SourceError(f"{where}: expected numbers 0 to 1 (fractions of the image), got {got!r}")
            # 3. Corners of the box, or of what surrounds the polygon.
            if len(values) == 4:
                cx, cy, w, h = values
                corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
            else:
                xs, ys = values[0::2], values[1::2]
                corners = min(xs), min(ys), max(xs), max(ys)
            found.append((number, int(index), corners))
    return found


def _declared(path: Path, root: Path, classes: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Return the contents of data.yaml, empty without one, and the names of class 0, 1, ..."""
    # 1. A plain list of names beside images/ makes data.yaml, and with it PyYAML, unnecessary.
    listed = next((root / name for name in _LISTS if (root / name).is_file()), None)
    file = path if path.is_file() else root / "data.yaml"
    if not path.is_file() and (not file.is_file() or (listed and (root / "images").is_dir())):
        if listed is not None:
            lines = (line.strip() for line in listed.read_text("utf-8").splitlines())
            return {}, _names(listed, [line for line in lines if line])
        if classes:
            return {}, list(classes)
        raise SourceError(
            f"{root}: expected the class names, one a line, in {root / _LISTS[0]}; write that file"
        )
    # 2. Else data.yaml must have the names.
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise MissingDependency(
            f"{file}: reading YAML needs PyYAML: pip install 'edge-centernet[eval]' (or pyyaml alone); "
            f"or give the folder itself, with the class names one a line in {_LISTS[0]}"
        ) from None
    try:
        data = yaml.safe_load(file.read_bytes())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise SourceError(f"{file}: {line}expected YAML, got a syntax error") from None
    if not isinstance(data, dict) or "names" not in data:
        raise SourceError(f"{file}: expected a mapping with 'names' and 'train', got no 'names'")
    return data, _names(path, data["names"])


def _names(file: Path, names: Any) -> list[str]:
    """Return the class names of a list, or of a mapping of index to name; file: for messages."""
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise SourceError(
                f"{file}: 'names': expected indices 0 to {len(names) - 1}, got {sorted(names, key=str)}"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise SourceError(f"{file}: expected a list of class names, got {names!r}")
    texts = [str(name) for name in names]
    if len(set(texts)) != len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise SourceError(f"{file}: class {twice!r} is named twice; names must differ")
    return texts

"""What is in a data set and what is wrong with it, before hours of training find out.

    report = check_dataset(Path("instances_train.json"), Path("instances_val.json"))
    report = check_dataset([DataSource(Path("street.json")), DataSource(Path("shop.json"))])
    report.errors, report.findings[0].text, report.sets["train"]["classes"]

It uses the readers that training uses, but reports what they would refuse or drop instead of stopping there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou, own_overlaps
from edge_centernet.classes import find_class
from edge_centernet.data import DataSource, read_sources
from edge_centernet.data.base import MIN_SIDE, Annotations, Problem, clip_boxes
from edge_centernet.data.duplicates import Alike, find_alike, thumbnail
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.files import sha256
from edge_centernet.imageio import read_image
from edge_centernet.manifest import InputSize
from edge_centernet.preprocess import Letterbox
from edge_centernet.progress import Progress, unseen, with_progress
from edge_centernet.system.logs import quiet_libraries

STRIDES = (4, 8)  # input pixels per heatmap cell, of our models
# Square root of the area in pixels, below which an object is small or medium: COCO's limits
# (https://cocodataset.org/#detection-eval).
SMALL, MEDIUM = 32, 96
PERCENTILES = (5, 25, 50, 75, 95)
OVERHANG = 1.0  # pixels outside the image that are put down to rounding: VOC counts from 1, some tools from 0
SAME_OBJECT = 0.9  # IoU: two annotators differ more, and two objects rarely cover each other that exactly

Severity = Literal["error", "warning"]


class Kind(NamedTuple):
    """One kind of finding: an error spoils training or validation, a warning is something to know."""

    severity: Severity
    title: str


# In the order of the report: errors first.
KINDS = {
    "annotation": Kind("error", "annotations that cannot be read; training refuses them"),
    "image": Kind("error", "images that are missing or cannot be read"),
    "size": Kind("error", "images of another size than their annotation says: boxes are in the wrong place"),
    "degenerate": Kind("error", "boxes without width or height"),
    "outside": Kind("error", "boxes wholly outside their image"),
    "leak": Kind("error", "images of val that are in train too (same file)"),
    "class_missing": Kind("error", "classes of val that train has no object of"),
    "near_leak": Kind("warning", "images of val that look like one of train"),
    "duplicate": Kind("warning", "images that are in the set twice (same file)"),
    "near_duplicate": Kind("warning", "images that look like another one of the set"),
    "orphan": Kind("warning", "label files without an image"),
    "over_edge": Kind("warning", f"boxes more than {OVERHANG:g} pixel over the edge; training clips them"),
    "duplicate_box": Kind("warning", f"objects that have two boxes (IoU above {SAME_OBJECT})"),
    "tiny": Kind("warning", "objects smaller than a heatmap cell: often a slip of the mouse"),
    "collision": Kind(
        "warning", "cells with the centres of several objects of one class: the network can find one"
    ),
    "empty_image": Kind("warning", "images without boxes: right if nothing is on them"),
    "empty_class": Kind("warning", "classes of train without an object"),
}

USUAL_SIZE = InputSize(320, 320)  # the default model's


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    kind: a key of KINDS. part: "train" or "val". image: the file that it is about, or None. text: one line.
    """

    kind: str
    part: str
    image: Path | None
    text: str

    @property
    def severity(self) -> Severity:
        """Whether it spoils the training ("error") or not ("warning")."""
        return KINDS[self.kind].severity

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of the report."""
        image = None if self.image is None else str(self.image)
        return {
            "kind": self.kind,
            "severity": self.severity,
            "set": self.part,
            "image": image,
            "text": self.text,
        }


@dataclass(frozen=True)
class Report:
    """What was found.

    size: of the network's input; stride: side of a heatmap cell; both in pixels.
    sets: "train" and, if there is one, "val" -> figures as `_figures` describes them.
    findings: in the order of KINDS.
    """

    size: InputSize
    stride: int
    sets: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """Number of findings that spoil training."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Number of findings that do not."""
        return len(self.findings) - self.errors

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain types, for a JSON file."""
        return {
            "input_size": list(self.size),
            "stride": self.stride,
            "errors": self.errors,
            "warnings": self.warnings,
            "sets": self.sets,
            "findings": [finding.to_json() for finding in self.findings],
        }


@dataclass
class _Part:
    """One set while it is checked; M annotated objects.

    size: of the network's input; stride: side of a heatmap cell; both in pixels.
    boxes: (M, 4) float32, clipped to the image; input: (M, 4) float32, the same after letterbox; in pixels.
    image, label: (M,) int64, index of each object's image and class.
    kept: (M,) bool, what training sees; counted: (M,) bool, kept and not ignored (crowd, difficult).
    files: index of image -> sha256, of those that can be read; thumbnails: (8, 9) uint8 of each of these.
    """

    name: str
    found: Annotations
    size: InputSize
    stride: int
    boxes: NDArray[np.float32]
    input: NDArray[np.float32]
    kept: NDArray[np.bool_]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    counted: NDArray[np.bool_]
    files: dict[int, str] = field(default_factory=dict)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, found: Annotations, size: InputSize, stride: int) -> _Part:
        """Make the arrays of a set; its images are not read yet."""
        boxes, kept = clip_boxes(found)
        image = np.asarray(found.objects.image, np.int64)
        label = np.asarray(found.objects.label, np.int64)
        counted = kept & ~np.asarray(found.objects.ignore, np.bool_)
        scaled = np.zeros_like(boxes)
        for i, own in _by_image(image, np.arange(len(image))):
            _, width, height = found.images[i]
            scaled[own] = Letterbox(width, height, *size).to_input(boxes[own])
        return cls(name, found, size, stride, boxes, scaled, kept, image, label, counted)

    def read_images(self, progress: Progress) -> Iterator[Finding]:
        """Read every image, which must have the annotated size, and keep its hash and thumbnail."""
        for i in with_progress(range(len(self.found.images)), f"read {self.name}", progress):
            path, width, height = self.found.images[i]
            try:
                with quiet_libraries():
                    image = read_image(path)
                self.files[i] = sha256(path)
            except SourceError as error:
                yield Finding("image", self.name, path, str(error))
                continue
            self.thumbnails.append(thumbnail(image))
            if image.shape[:2] != (height, width):
                got = f"{image.shape[1]}x{image.shape[0]}"
                yield self.finding(
                    "size", i, f"is {got} pixels (turned as EXIF says), annotated as {width}x{height}"
                )

    def path(self, image: int) -> Path:
        """Return the file of an image."""
        return self.found.images[image][0]

    def object(self, i: int) -> str:
        """Describe an object by its place and class: `line 3 (dog)`."""
        return f"{self.found.objects.place[i]} ({self.found.classes[self.label[i]]})"

    def finding(self, kind: str, image: int, text: str) -> Finding:
        """Make a finding about one image."""
        path = self.path(image)
        return Finding(kind, self.name, path, f"{path}: {text}")

    def labelled(self) -> set[str]:
        """Return the names of the classes that have an object to learn from."""
        return {self.found.classes[i] for i in np.unique(self.label[self.counted])}


def check_dataset(
    data: Path | Sequence[DataSource],
    val: Path | Sequence[DataSource] | None = None,
    images: Path | None = None,
    val_images: Path | None = None,
    size: InputSize = USUAL_SIZE,
    stride: int = 8,
    progress: Progress = unseen,
) -> Report:
    """Check a training set and, if there is one, its validation set.

    Args:
        data: the training set as `edge_centernet.data.read_dataset` takes it, or several to be merged.
        val: the validation set, likewise.
        images: folder of the images of `data`, where that is a path.
        val_images: folder of the images of `val`, where that is a path.
        size: of the network's input, in pixels.
        stride: input pixels per heatmap cell, 4 or 8.
        progress: shows bars while annotations and images are read, and images compared.

    Raises SourceError if a set cannot be read at all, ConfigError for a size or stride that no model has or
    for a validation set that is the training set.
    """
    size = InputSize.of(size)
    if stride not in STRIDES:
        raise ConfigError(f"stride: expected 4 or 8 pixels, got {stride}")
    train = (DataSource(data, images),) if isinstance(data, Path) else tuple(data)
    other = (DataSource(val, val_images),) if isinstance(val, Path) else tuple(val or ())
    for source in other:
        if any(source.same_as(mine) for mine in train):
            raise ConfigError(
                f"val: {source.path} is the training set itself; "
                "name another set, or the images folder of its part"
            )
    findings: list[Finding] = []
    parts = []
    for name, sources in (("train", train), ("val", other)):
        if not sources:
            continue
        problems: list[Problem] = []
        part = _Part.of(name, read_sources(sources, problems=problems, progress=progress), size, stride)
        parts.append(part)
        findings += [Finding(problem.kind, name, None, problem.text) for problem in problems]
        findings += part.read_images(progress)  # before the duplicates, which compare what it has read
        findings += _check_objects(part)
        findings += _duplicates(part, progress)
    if len(parts) == 2:
        findings += _compare_to_train(parts[0], parts[1], progress)
    findings.sort(key=lambda finding: list(KINDS).index(finding.kind))  # stable: in the order of the files
    return Report(size, stride, {part.name: _figures(part) for part in parts}, tuple(findings))


def _by_image(image: NDArray[np.int64], chosen: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Return (image, its objects) for each image that has any of the objects `chosen`, in image order."""
    chosen = chosen[np.argsort(image[chosen], kind="stable")]
    names, starts = np.unique(image[chosen], return_index=True)
    return zip(names.tolist(), np.split(chosen, starts[1:]), strict=True) if len(chosen) else iter(())


def _check_objects(part: _Part) -> Iterator[Finding]:
    """Find what is wrong or doubtful about the objects of a set, and its images and classes without any."""
    # 1. Boxes that are empty, outside their image or over its edge: as annotated, before clipping.
    for i, (x1, y1, x2, y2) in enumerate(part.found.objects.box):
        image = int(part.image[i])
        _, width, height = part.found.images[image]
        over = max(-x1, -y1, x2 - width, y2 - height)
        at = f"{part.object(i)}: left {x1:g}, top {y1:g}, right {x2:g}, bottom {y2:g}"
        if min(x2 - x1, y2 - y1) <= MIN_SIDE:
            yield part.finding("degenerate", image, f"{at} is {x2 - x1:g} wide and {y2 - y1:g} high")
        elif not part.kept[i]:
            yield part.finding("outside", image, f"{at} has nothing inside the image of {width}x{height}")
        elif over > OVERHANG:
            yield part.finding(
                "over_edge", image, f"{at} is {over:.3g} pixels over the edge of {width}x{height}"
            )
    chosen = np.flatnonzero(part.counted)  # what training learns from, for all that follows
    # 2. Boxes of one image that are the box of an earlier object, whatever their classes: one finding each,
    #    for a hundred equal boxes are not 4,950 mistakes.
    for image, own in _by_image(part.image, chosen):
        first = np.arange(len(own))  # (n,) for each object the first that has its box
        for rows, columns, overlap in own_overlaps(part.boxes[own]):
            same = overlap > SAME_OBJECT
            if same.any():
                above = np.where(same, rows[:, None], len(own)).min(axis=0)  # the first twin of each column
                before = np.where(same, columns, len(own)).min(axis=1)  # and of each row
                first[columns] = np.minimum(first[columns], above)
                first[rows] = np.minimum(first[rows], before)
        for b in np.flatnonzero(first < np.arange(len(own))):
            one, other = own[first[b]], own[b]
            ratio = iou(part.boxes[[one]], part.boxes[[other]])[0, 0]
            pair = f"{part.object(one)} and {part.object(other)}"
            yield part.finding("duplicate_box", image, f"{pair}: IoU {ratio:.2f}")
    # 3. Objects smaller than a heatmap cell, which the network can hardly see.
    side = _side(part, chosen)
    for i, pixels in zip(chosen[side < part.stride], side[side < part.stride], strict=True):
        x, y = part.boxes[i, 2:] - part.boxes[i, :2]
        seen = f"{pixels:.1f} pixels (square root of the area) in the network's input"
        yield part.finding("tiny", int(part.image[i]), f"{part.object(i)}: {x:g} wide, {y:g} high is {seen}")
    # 4. Cells with the centres of several objects of one class: the heatmap has room for one peak.
    keys = np.concatenate([_cells(part, chosen), part.label[chosen, None]], axis=1)
    shared: dict[tuple[int, ...], list[int]] = {}
    for i, key in zip(chosen.tolist(), keys.tolist(), strict=True):
        shared.setdefault(tuple(key), []).append(i)
    for (image, row, column, _), objects in shared.items():
        if len(objects) > 1:
            names = ", ".join(part.object(i) for i in objects[:8])
            names += f" and {len(objects) - 8} more" if len(objects) > 8 else ""
            yield part.finding("collision", image, f"{names} in the cell of row {row}, column {column}")
    # 5. Images without a box (an ignored one is a box) and, in train, classes without an object.
    full = set(part.image[part.kept].tolist())
    for i in range(len(part.found.images)):
        if i not in full:
            yield part.finding("empty_image", i, "has no box")
    if part.name == "train":
        for name in sorted(set(part.found.classes) - part.labelled()):
            yield Finding("empty_class", part.name, None, f"{name}: has no object to learn from")


def _cells(part: _Part, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (K, 3): image, row and column of the cell of each object's centre, as training places it."""
    cells = part.input[chosen] / np.float32(part.stride)
    centre = ((cells[:, :2] + cells[:, 2:]) / 2).astype(np.int64)
    x, y = np.minimum(centre, np.array(part.size) // part.stride - 1).T
    return np.stack([part.image[chosen], y, x], axis=1)


def _side(part: _Part, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (K,) sqrt(width * height) of the objects `chosen`, in input pixels."""
    sides = (part.input[chosen, 2:] - part.input[chosen, :2]).astype(np.float64)
    area: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return np.sqrt(area)


def _duplicates(part: _Part, progress: Progress) -> Iterator[Finding]:
    """Find images that are in one set twice: the same file, or nearly the same picture."""
    first: dict[str, int] = {}
    for i, digest in part.files.items():
        if digest in first:
            yield part.finding("duplicate", i, f"is the same file as {part.path(first[digest])}")
        else:
            first[digest] = i
    unique = list(first.values())  # copies of a file are reported once, not as similar pictures again
    thumbnails = _thumbnails(part, unique)
    for alike in find_alike(thumbnails, None, progress, f"compare {part.name}"):
        yield part.finding(
            "near_duplicate", unique[alike.image], _looks_like(part.path(unique[alike.other]), alike)
        )


def _compare_to_train(train: _Part, val: _Part, progress: Progress) -> Iterator[Finding]:
    """Find images of val that are in train too, and classes of val that train has no object of."""
    # Reversed, so that of several copies in train the first is the one that is named.
    first = {digest: i for i, digest in reversed(train.files.items())}
    fresh = []
    for i, digest in val.files.items():
        if digest in first:
            yield val.finding("leak", i, f"is the same file as {train.path(first[digest])}")
        else:
            fresh.append(i)
    known = list(train.files)
    images, others = _thumbnails(val, fresh), _thumbnails(train, known)
    for alike in find_alike(images, others, progress, "compare val to train"):
        yield val.finding("near_leak", fresh[alike.image], _looks_like(train.path(known[alike.other]), alike))
    learnt = sorted(train.labelled())
    for name in sorted(val.labelled()):
        if find_class(name, learnt) is None:
            yield Finding("class_missing", val.name, None, f"{name}: has objects in val, none in train")


def _thumbnails(part: _Part, images: list[int]) -> NDArray[np.uint8]:
    """Return the thumbnails of these images, (len(images), 8, 9); all of them could be read."""
    row = {image: i for i, image in enumerate(part.files)}
    return np.asarray(part.thumbnails, np.uint8).reshape(-1, 8, 9)[[row[i] for i in images]]


def _looks_like(other: Path, alike: Alike) -> str:
    return (
        f"looks like {other} ({alike.distance} of 64 hash bits differ, correlation {alike.correlation:.3f})"
    )


def _figures(part: _Part) -> dict[str, Any]:
    """Describe a set; its objects are what training learns from: inside their image and not ignored.

    images, readable, empty_images, objects, ignored: numbers.
    classes: name -> objects, images, share (of the objects), ignored, unlabelled (images that the class is
        not labelled in).
    box_px: of sqrt(width * height) in input pixels, min, p5 ... p95, max (None without objects); how many are
        small, medium, large by COCO's limits; under_1_cell, under_2_cells.
    collisions: same_class, any_class -> objects that share their centre's cell with another, their rate among
        all objects, and lost: all but one of each cell, which the network cannot tell apart.
    """
    chosen = np.flatnonzero(part.counted)
    classes = {}
    for k, name in enumerate(part.found.classes):
        of_class = part.label == k
        own = part.counted & of_class
        classes[name] = {
            "objects": int(own.sum()),
            "images": len(np.unique(part.image[own])),
            "share": int(own.sum()) / max(1, len(chosen)),
            "ignored": int((part.kept & ~part.counted & of_class).sum()),
            "unlabelled": sum(k in absent for absent in part.found.unlabelled),
        }
    side = _side(part, chosen)
    names = ("min", *(f"p{p}" for p in PERCENTILES), "max")
    values = np.percentile(side, (0, *PERCENTILES, 100)).tolist() if len(side) else [None] * len(names)
    cells = _cells(part, chosen)
    typed = np.concatenate([cells, part.label[chosen, None]], axis=1)
    return {
        "data": part.found.source,
        "images": len(part.found.images),
        "readable": len(part.files),
        "empty_images": len(part.found.images) - len(np.unique(part.image[part.kept])),
        "objects": len(chosen),
        "ignored": int((part.kept & ~part.counted).sum()),
        "classes": classes,
        "box_px": {
            **dict(zip(names, values, strict=True)),
            "small": int((side < SMALL).sum()),
            "medium": int(((side >= SMALL) & (side < MEDIUM)).sum()),
            "large": int((side >= MEDIUM).sum()),
            "under_1_cell": int((side < part.stride).sum()),
            "under_2_cells": int((side < 2 * part.stride).sum()),
        },
        "collisions": {"same_class": _shared(typed), "any_class": _shared(cells)},
    }


def _shared(cells: NDArray[np.int64]) -> dict[str, Any]:
    """Return an entry of `collisions` of `_figures`; cells: (K, n), equal rows are in one cell."""
    _, count = np.unique(cells, axis=0, return_counts=True)
    objects = int(count[count > 1].sum())
    return {"objects": objects, "rate": objects / max(1, len(cells)), "lost": len(cells) - len(count)}

"""What every reader returns, and the checks all of them share."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import SourceError

log = logging.getLogger("edge_centernet.data")

MIN_SIDE = 1e-3  # pixels; what is thinner after clipping is an annotation slip, not an object


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects.

    path: the image file. width, height: its size in pixels (after EXIF rotation), at least 1.
    boxes: (N, 4) float32, left, top, right, bottom in pixels, inside the image, none empty.
    labels: (N,) int64, index into Dataset.classes.
    ignore: (N,) bool, True for COCO crowds and VOC's difficult objects: neither a miss nor a false alarm.
    area: (N,) float32, pixels; what COCO sorts small, medium and large by. The annotated area
        (of the mask) where the file has one, otherwise that of the box.
    """

    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    area: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Fill in `area` and reject arrays that do not belong together."""
        n = len(self.labels)
        if self.boxes.shape != (n, 4) or self.ignore.shape != (n,):
            raise ValueError(f"expected boxes ({n}, 4), ignore ({n},); got {self.boxes.shape}, {self.ignore.shape}")
        if self.area is None:
            sides = self.boxes[:, 2:] - self.boxes[:, :2]
            object.__setattr__(self, "area", sides[:, 0] * sides[:, 1])
        elif self.area.shape != (n,):
            raise ValueError(f"expected area ({n},), got {self.area.shape}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in the order of the file, and the class names their labels index."""

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)


class Problem(NamedTuple):
    """A part of a data set that cannot be read, and why.

    kind: whether the annotation or the image file is at fault; "orphan" for labels without an image, which no reader
        looks for unless asked for problems. text: one line that names the place.
    """

    kind: Literal["annotation", "image", "orphan"]
    text: str


@contextmanager
def note(problems: list[Problem] | None, kind: Literal["annotation", "image"] = "annotation") -> Iterator[None]:
    """Let a SourceError of the block pass; or, where there is a list, add it there and go on after the block.

    Training reads strictly (None). `edge-centernet data check` wants to see every problem, not the first alone.
    """
    try:
        yield
    except SourceError as error:
        if problems is None:
            raise
        problems.append(Problem(kind, str(error)))


@dataclass
class Objects:
    """All objects of a data set as flat parallel lists, while a reader collects them.

    image: index into the reader's list of images; box: x1, y1, x2, y2 in pixels, not yet clipped;
    place: where in its file the object stands, as "line 3"; area: pixels or None where the file does not say.
    """

    image: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    box: list[tuple[float, float, float, float]] = field(default_factory=list)
    place: list[str] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    area: list[float | None] = field(default_factory=list)

    def add(
        self,
        image: int,
        label: int,
        box: tuple[float, float, float, float],
        place: str,
        ignore: bool = False,
        area: float | None = None,
    ) -> None:
        """Append one object."""
        self.image.append(image)
        self.label.append(label)
        self.box.append(box)
        self.place.append(place)
        self.ignore.append(ignore)
        self.area.append(area)


@dataclass(frozen=True)
class Annotations:
    """What a data set's files say, as every reader returns it: nothing is clipped or dropped yet.

    source: the file or folder that was read. images: (path, width, height) of each image.
    """

    source: Path
    classes: tuple[str, ...]
    images: tuple[tuple[Path, int, int], ...]
    objects: Objects


def clip_boxes(found: Annotations) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """((M, 4) all boxes clipped to their images, (M,) whether anything is left of them)."""
    index = np.asarray(found.objects.image, np.int64)  # (M,)
    size = np.asarray([(w, h) for _, w, h in found.images], np.float64).reshape(-1, 2)[index]  # (M, 2)
    raw = np.asarray(found.objects.box, np.float64).reshape(-1, 4)
    boxes = np.clip(raw, 0, np.hstack([size, size])).astype(np.float32)  # (M, 4)
    keep: NDArray[np.bool_] = np.all(boxes[:, 2:] - boxes[:, :2] > MIN_SIDE, axis=1)
    return boxes, keep


def assemble(found: Annotations) -> Dataset:
    """Clip, drop what is empty (with one counted warning) and group the objects by image.

    The order of images, and of objects inside an image, is kept.
    """
    source, images, objects = found.source, found.images, found.objects
    index = np.asarray(objects.image, np.int64)  # (M,)
    boxes, keep = clip_boxes(found)
    sides = boxes[:, 2:] - boxes[:, :2]
    if dropped := int((~keep).sum()):
        log.warning(
            "%s: dropped %d of %d boxes that are empty or lie outside their image", source, dropped, len(objects.box)
        )
    box_area = sides[:, 0] * sides[:, 1]
    annotated = np.asarray([np.nan if a is None else a for a in objects.area], np.float32)
    area = np.where(annotated > 0, annotated, box_area)

    order = np.flatnonzero(keep)
    order = order[np.argsort(index[order], kind="stable")]
    starts = np.searchsorted(index[order], np.arange(len(images) + 1))
    labels = np.asarray(objects.label, np.int64)[order]
    ignore = np.asarray(objects.ignore, np.bool_)[order]
    boxes, area = boxes[order], area[order]
    samples = []
    for i, (path, width, height) in enumerate(images):
        own = slice(int(starts[i]), int(starts[i + 1]))
        samples.append(Sample(path, width, height, boxes[own], labels[own], ignore[own], area[own]))
    return Dataset(found.classes, tuple(samples))


def choose_classes(source: Path, declared: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """`wanted` if given, else `declared`; at least one of `wanted` must be declared, the others are warned about."""
    if wanted is None:
        return tuple(declared)
    if not wanted:
        raise SourceError(f"{source}: expected at least one class name to read, got an empty list")
    if repeated := [name for name, n in Counter(wanted).items() if n > 1]:
        raise SourceError(f"{source}: class {repeated[0]!r} is asked for more than once; name each class once")
    absent = [name for name in wanted if name not in set(declared)]
    if len(absent) == len(wanted):
        raise SourceError(
            f"{source}: holds none of the classes asked for ({_names(wanted)}); it has {_names(declared)}"
        )
    if absent:
        log.warning("%s: has no class named %s", source, _names(absent))
    return tuple(wanted)


def require_files(source: Path, paths: Sequence[Path], where: Callable[[int], str]) -> None:
    """Raise SourceError for image files that are not there, naming the first.

    Lists each folder once instead of asking for every file: 100,000 images take well under a second.
    `where(i)` says which entry of the source named image i.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for i, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(i)
    if missing:
        first = missing[0]
        raise SourceError(
            f"{source}: {where(first)}: image {paths[first]} does not exist "
            f"({len(missing)} of {len(paths)} images are missing); check the images folder"
        )


def _names(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")

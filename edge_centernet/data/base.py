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

from edge_centernet.classes import find_class
from edge_centernet.errors import SourceError

log = logging.getLogger("edge_centernet.data")

MIN_SIDE = 1e-3  # pixels; what is thinner after clipping is an annotation slip, not an object

_ALL_SURE = np.ones(0, np.float32)  # stands for as many ones as there are boxes


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects.

    path: the image file. width, height: its size in pixels (after EXIF rotation), at least 1.
    boxes: (N, 4) float32, left, top, right, bottom in pixels, inside the image, none empty.
    labels: (N,) int64, index into Dataset.classes.
    ignore: (N,) bool, True for COCO crowds and VOC's difficult objects: neither a miss nor a false alarm.
    area: (N,) float32, pixels; what COCO sorts small, medium and large by. The annotated area
        (of the mask) where the file has one, otherwise that of the box.
    scores: (N,) float32, 0..1, how likely each box is an object: 1 for what a person labelled, less for what
        a detector saw.
    unlabelled: indices into Dataset.classes, ascending, of the classes that nobody labelled in this image.
        That there is no box of such a class says nothing; boxes that are there all the same are a detector's.
    """

    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    area: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] = field(default_factory=lambda: _ALL_SURE)
    unlabelled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Fill in `area` and `scores`, and reject arrays that do not belong together."""
        n = len(self.labels)
        if self.boxes.shape != (n, 4) or self.ignore.shape != (n,):
            raise ValueError(
                f"expected boxes ({n}, 4), ignore ({n},); got {self.boxes.shape}, {self.ignore.shape}"
            )
        if self.area is None:
            sides = self.boxes[:, 2:] - self.boxes[:, :2]
            object.__setattr__(self, "area", sides[:, 0] * sides[:, 1])
        elif self.area.shape != (n,):
            raise ValueError(f"expected area ({n},), got {self.area.shape}")
        if self.scores is _ALL_SURE:
            object.__setattr__(self, "scores", np.ones(n, np.float32))
        elif self.scores.shape != (n,):
            raise ValueError(f"expected scores ({n},), got {self.scores.shape}")

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(N,) bool, the objects to judge a detector by: not ignored, and of a class that is labelled here."""
        counted: NDArray[np.bool_] = ~(self.ignore | np.isin(self.labels, self.unlabelled))
        return counted


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

    kind: whether the annotation or the image file is at fault; "orphan" for labels without an image, which no
        reader looks for unless asked for problems. text: one line that names the place.
    """

    kind: Literal["annotation", "image", "orphan"]
    text: str


@contextmanager
def note(
    problems: list[Problem] | None, kind: Literal["annotation", "image"] = "annotation"
) -> Iterator[None]:
    """Let a SourceError of the block pass; or, where there is a list, add it there and go on after the block.

    Training reads strictly (None). `edge-centernet data check` wants to see every problem, not the first
    alone.
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
    place: where in its file the object stands, as "line 3"; area: pixels or None where the file does not say;
    score: how likely it is an object, 0..1.
    """

    image: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    box: list[tuple[float, float, float, float]] = field(default_factory=list)
    place: list[str] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    area: list[float | None] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    def add(
        self,
        image: int,
        label: int,
        box: tuple[float, float, float, float],
        place: str,
        ignore: bool = False,
        area: float | None = None,
        score: float = 1.0,
    ) -> None:
        """Append one object; the fields as they are described above.

        Args:
            image: index into the reader's list of images.
            label: index into the classes.
            box: x1, y1, x2, y2 in pixels.
            place: where in its file it stands.
            ignore: neither a miss nor a false alarm.
            area: pixels, or None.
            score: 0..1.
        """
        self.image.append(image)
        self.label.append(label)
        self.box.append(box)
        self.place.append(place)
        self.ignore.append(ignore)
        self.area.append(area)
        self.score.append(score)


@dataclass(frozen=True)
class Annotations:
    """What a data set's files say, as every reader returns it: nothing is clipped or dropped yet.

    source: the file or folder that was read, or several. images: (path, width, height) of each image.
    unlabelled: for each image the indices of the classes that nobody labelled in it, ascending; empty if
        there are none in any image.
    """

    source: str
    classes: tuple[str, ...]
    images: tuple[tuple[Path, int, int], ...]
    objects: Objects
    unlabelled: tuple[tuple[int, ...], ...] = ()


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
            "%s: dropped %d of %d boxes that are empty or lie outside their image",
            source,
            dropped,
            len(objects.box),
        )
    box_area = sides[:, 0] * sides[:, 1]
    annotated = np.asarray([np.nan if a is None else a for a in objects.area], np.float32)
    area = np.where(annotated > 0, annotated, box_area)

    order = np.flatnonzero(keep)
    order = order[np.argsort(index[order], kind="stable")]
    starts = np.searchsorted(index[order], np.arange(len(images) + 1))
    labels = np.asarray(objects.label, np.int64)[order]
    ignore = np.asarray(objects.ignore, np.bool_)[order]
    scores = np.asarray(objects.score, np.float32)[order]
    boxes, area = boxes[order], area[order]
    unlabelled = found.unlabelled or ((),) * len(images)
    samples = []
    for i, (path, width, height) in enumerate(images):
        own = slice(int(starts[i]), int(starts[i + 1]))
        arrays = (boxes[own], labels[own], ignore[own], area[own], scores[own])
        samples.append(Sample(path, width, height, *arrays, unlabelled[i]))
    return Dataset(found.classes, tuple(samples))


class Chosen(NamedTuple):
    """The classes to read. label_of: name in the data set -> index into `classes`, of those to read.

    absent: indices into `classes` of those that the data set has not.
    """

    classes: tuple[str, ...]
    label_of: dict[str, int]
    absent: frozenset[int]


def choose_classes(source: object, declared: Sequence[str], wanted: Sequence[str] | None) -> Chosen:
    """`wanted` if given, else `declared`; a synonym names a class too (`edge_centernet.classes.find_class`).

    Raises SourceError where the data set has none of them, with its name `source`; `absent` ones are the
    caller's.
    """
    if wanted is None:
        return Chosen(tuple(declared), {name: i for i, name in enumerate(declared)}, frozenset())
    if not wanted:
        raise SourceError(f"{source}: expected at least one class name to read, got an empty list")
    if repeated := [name for name, n in Counter(wanted).items() if n > 1]:
        raise SourceError(
            f"{source}: class {repeated[0]!r} is asked for more than once; name each class once"
        )
    indices = {name: find_class(name, wanted) for name in declared}
    label_of = {name: i for name, i in indices.items() if i is not None}
    if not label_of:
        raise SourceError(
            f"{source}: holds none of the classes asked for ({list_names(wanted)}); it has {list_names(declared)}"
        )
    return Chosen(tuple(wanted), label_of, frozenset(range(len(wanted))) - frozenset(label_of.values()))


def without(chosen: Chosen, images: int) -> tuple[tuple[int, ...], ...]:
    """Annotations.unlabelled of a data set whose images are labelled for every class that it has."""
    return (tuple(sorted(chosen.absent)),) * images if chosen.absent else ()


def warn_absent(source: object, chosen: Chosen) -> None:
    """Say in the log which of the classes asked for a data set has not: it may be a slip of the pen."""
    if chosen.absent:
        log.warning(
            "%s: has no class named %s",
            source,
            list_names([chosen.classes[i] for i in sorted(chosen.absent)]),
        )


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


def list_names(names: Sequence[str], limit: int = 8) -> str:
    """For a message: 'person', 'car' and 3 more."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")

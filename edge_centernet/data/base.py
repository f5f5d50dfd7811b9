"""What every reader returns, and the steps that all readers share: classes, clipping, missing files."""

from __future__ import annotations

import logging
import os
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import CLASS_NAME, find_class, is_class_name
from edge_centernet.errors import SourceError
from edge_centernet.imageio import Image, image_size, read_image
from edge_centernet.progress import Progress, unseen, with_progress

log = logging.getLogger("edge_centernet.data")

READING = "read labels"  # a reader's title for its progress

# In pixels. A box that is thinner after clipping is a slip of the annotator, not an object. Not 0, because
# float32 coordinates beyond 4,096 pixels are only good to half of this: an empty box may have a tiny side.
MIN_SIDE = 1e-3

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80
_BRIEF.maxlevel = 2
_LONGEST = 160  # characters of a value in a message
# A default for Sample.scores that stands for as many ones as there are boxes, recognised by its identity.
_ALL_SURE = np.ones(0, np.float32)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects.

    path: the image file. width, height: its size in pixels (after EXIF rotation), at least 1.
    boxes: (N, 4) float32, left, top, right, bottom in pixels, inside the image, none empty.
    labels: (N,) int64, index into Dataset.classes.
    ignore: (N,) bool, True for COCO crowds and VOC's difficult objects: neither a miss nor a false alarm.
    area: (N,) float32, square pixels, by which COCO tells small, medium and large objects apart. The
        annotated area (of the mask) if the file has one, otherwise that of the box.
    scores: (N,) float32, 0..1, how likely each box is an object: 1 for what a person labelled, less for what
        a detector found.
    unlabelled: indices into Dataset.classes, ascending, of the classes that nobody labelled in this image.
        A missing box of such a class means nothing; boxes of it that exist come from a detector.
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
        """(N,) bool, the objects a detector is judged by: not ignored, and of a class labelled here."""
        counted: NDArray[np.bool_] = ~(self.ignore | np.isin(self.labels, self.unlabelled))
        return counted

    def read(self) -> Image:
        """Read the image, (H, W, 3) uint8 BGR.

        Raises SourceError where it cannot be read or does not have the annotated size: its boxes would be in
        the wrong place.
        """
        image = read_image(self.path)
        height, width = image.shape[:2]
        if (width, height) != (self.width, self.height):
            raise SourceError(
                f"{self.path}: expected {self.width}x{self.height} pixels as its annotation says, "
                f"got {width}x{height}; correct the annotation or the image, its boxes do not fit"
            )
        return image


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in the order of the file, and the class names their labels index."""

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def check_images(self, title: str, progress: Progress = unseen) -> None:
        """Raise SourceError for the first image that is missing or does not have the annotated size.

        Most files are read by their header alone. title: of the progress bar.
        """
        for sample in with_progress(self.samples, title, progress):
            if image_size(sample.path) != (sample.width, sample.height):
                sample.read()  # raises, and is the last word: a header may be wrong about the pixels


class Problem(NamedTuple):
    """A part of a data set that cannot be read, and why.

    kind: whether the annotation or the image file is at fault. "orphan" means labels without an image, which
        readers only look for when they collect problems. text: one line that names the place.
    """

    kind: Literal["annotation", "image", "orphan"]
    text: str


@contextmanager
def note(
    problems: list[Problem] | None, kind: Literal["annotation", "image"] = "annotation"
) -> Iterator[None]:
    """Add a SourceError of the block to the list and go on after the block; without a list, let it pass.

    Training reads strictly (None). `edge-centernet data check` wants every problem, not only the first.
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
    place: where in its file the object stands, such as "line 3"; area: square pixels, or None if the file
    does not say; score: how likely it is an object, 0..1.
    """

    # Lists of numbers, not a list of objects: a million of them become arrays in one step each (`assemble`).
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
        """Append one object.

        Args:
            image: index into the reader's list of images.
            label: index into the classes.
            box: x1, y1, x2, y2 in pixels, not yet clipped.
            place: where in its file it stands, such as "line 3".
            ignore: whether it is neither a miss nor a false alarm.
            area: square pixels, or None for that of the box.
            score: how likely it is an object, 0..1.
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
    """What the files of a data set say, as every reader returns it: nothing is clipped or dropped yet.

    source: the file or folder that was read, or several, for messages.
    images: (path, width, height) of each image.
    unlabelled: for each image, the indices of the classes that nobody labelled in it, ascending; empty if no
        image has any.
    """

    source: str
    classes: tuple[str, ...]
    images: tuple[tuple[Path, int, int], ...]
    objects: Objects
    unlabelled: tuple[tuple[int, ...], ...] = ()


def clip_boxes(found: Annotations) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return ((M, 4) all boxes clipped to their images, (M,) whether anything is left of each)."""
    index = np.asarray(found.objects.image, np.int64)  # (M,)
    size = np.asarray([(w, h) for _, w, h in found.images], np.float64).reshape(-1, 2)[index]  # (M, 2)
    raw = np.asarray(found.objects.box, np.float64).reshape(-1, 4)
    boxes = np.clip(raw, 0, np.hstack([size, size])).astype(np.float32)  # (M, 4)
    keep: NDArray[np.bool_] = np.all(boxes[:, 2:] - boxes[:, :2] > MIN_SIDE, axis=1)
    return boxes, keep


def assemble(found: Annotations) -> Dataset:
    """Clip all boxes, drop the empty ones (with one warning that gives their number) and group them by image.

    The order of images, and of objects inside an image, is kept.
    """
    source, images, objects = found.source, found.images, found.objects
    # 1. Clip. One warning for the whole set: a slip that a tool makes once, it makes ten thousand times.
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
    # 2. The area of the mask where the file has it, else that of the box. NaN fails the comparison too.
    box_area = sides[:, 0] * sides[:, 1]
    annotated = np.asarray([np.nan if a is None else a for a in objects.area], np.float32)
    area = np.where(annotated > 0, annotated, box_area)

    # 3. Sort by image once (stable) and cut the arrays: no pass over all objects for each image.
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
    """The classes to read.

    label_of: name in the data set -> index into `classes`, for the classes that are read.
    absent: indices into `classes` of those that the data set does not have.
    """

    classes: tuple[str, ...]
    label_of: dict[str, int]
    absent: frozenset[int]


def choose_classes(source: object, declared: Sequence[str], wanted: Sequence[str] | None) -> Chosen:
    """Choose `wanted` if given, else `declared`; synonyms count (`edge_centernet.classes.find_class`).

    Raises SourceError, beginning with `source`, if the data set has none of them. That only some are absent
    is left to the caller to report.
    """
    if wanted is None:
        return Chosen(tuple(declared), {name: i for i, name in enumerate(declared)}, frozenset())
    if not wanted:
        raise SourceError(f"{source}: expected at least one class name to read, got an empty list")
    for name in wanted:
        if not is_class_name(name):
            raise SourceError(f"{source}: classes asked for: expected {CLASS_NAME}, got {brief(name)}")
    if repeated := [name for name, n in Counter(wanted).items() if n > 1]:
        raise SourceError(
            f"{source}: class {repeated[0]!r} is asked for more than once; name each class once"
        )
    indices = {name: find_class(name, wanted) for name in declared}
    label_of = {name: i for name, i in indices.items() if i is not None}
    if not label_of:
        raise SourceError(
            f"{source}: holds none of the classes asked for ({list_names(wanted)}); "
            f"it has {list_names(declared)}"
        )
    return Chosen(tuple(wanted), label_of, frozenset(range(len(wanted))) - frozenset(label_of.values()))


def without(chosen: Chosen, images: int) -> tuple[tuple[int, ...], ...]:
    """Return Annotations.unlabelled for a data set whose images are labelled for every class it has."""
    return (tuple(sorted(chosen.absent)),) * images if chosen.absent else ()


def warn_absent(source: object, chosen: Chosen) -> None:
    """Log which of the requested classes a data set does not have: one of them may be misspelt."""
    if chosen.absent:
        log.warning(
            "%s: has no class named %s",
            source,
            list_names([chosen.classes[i] for i in sorted(chosen.absent)]),
        )


def class_name(where: str, value: object) -> str:
    """Return a class name in its usual form: without blanks around it, accented letters as one character.

    Raises SourceError, beginning with `where`, for what is no name (`edge_centernet.classes.CLASS_NAME`).
    """
    name = unicodedata.normalize("NFC", value.strip()) if isinstance(value, str) else value
    if isinstance(name, str) and is_class_name(name):
        return name
    raise SourceError(f"{where}: expected {CLASS_NAME}, got {brief(value)}")


def flag(where: str, value: object) -> bool:
    """Return yes or no as tools write it: 0, 1, true, false, also as text; None is no.

    Raises SourceError, beginning with `where`, for anything else: what is ignored must not depend on a guess.
    """
    text = str(value).strip().lower() if isinstance(value, str | int | float) else value
    if text in (None, "", "0", "0.0", "false"):
        return False
    if text in ("1", "1.0", "true"):
        return True
    raise SourceError(f"{where}: expected 0 or 1, got {brief(value)}")


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 as Windows marks it, without its byte order mark."""
    try:
        content = file.read_bytes()
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{file}: expected text in UTF-8, got something else; save it as UTF-8") from None
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror})") from None


def on_disk(folder: Path, name: str) -> Path:
    """Return the file of this name, also where the disk spells its accented letters in the other form.

    A file that exists in neither form is returned as it is named.
    """
    # macOS takes both forms for one name, others do not: a set that was packed there has files in NFD.
    forms = [name] if name.isascii() else [name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))]
    return folder / next((form for form in forms if os.path.exists(folder / form)), name)


def require_files(source: Path, paths: Sequence[Path], where: Callable[[int], str]) -> None:
    """Raise SourceError for image files that do not exist, naming the first.

    where: returns which entry of the source named image i.
    """
    # Each folder is listed once instead of asking for every file: 100,000 images take well under a second.
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


def brief(value: object) -> str:
    """Format a value for a message, which a file of millions of them must not make long."""
    text = _BRIEF.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def list_names(names: Sequence[str], limit: int = 8) -> str:
    """Format names for a message: 'person', 'car' and 3 more."""
    shown = ", ".join(brief(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")

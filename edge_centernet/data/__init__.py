"""Labelled images behind one interface: COCO JSON, PASCAL VOC XML, YOLO txt and labelme JSON.

    dataset = read_dataset(Path("instances_train.json"))
    dataset.classes, dataset.samples[0].boxes

    shop = DataSource(Path("shop.json"), labelled_only=("person",))
    dataset = read_datasets([DataSource(Path("street.json")), shop])
    dataset.classes, dataset.samples[0].unlabelled

Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from edge_centernet.data.archive import is_zip, unpack
from edge_centernet.data.base import Annotations, Dataset, Problem, Sample, assemble, log
from edge_centernet.data.layout import (
    WHOLE,
    Place,
    find_parts,
    is_labelme,
    is_voc,
    is_yolo,
    part_of,
    way_out,
)
from edge_centernet.data.merge import merge
from edge_centernet.errors import SourceError
from edge_centernet.progress import Progress, if_slow, unseen

__all__ = [
    "FORMATS",
    "DataSource",
    "Dataset",
    "Format",
    "Parts",
    "Sample",
    "find_parts",
    "merge",
    "read_annotations",
    "read_dataset",
    "read_datasets",
    "read_sources",
    "to_measure_on",
    "unpack_all",
    "use_parts",
]


class Format(NamedTuple):
    """A format of labelled images.

    expected: what a path of this format looks like, in the words of an error message.
    accepts: whether an existing path has this format.
    reader: "module:function", imported when it is needed; the function is called like `read_annotations`.
    """

    expected: str
    accepts: Callable[[Path], bool]
    reader: str


# The first that accepts a path reads it: a folder with both Annotations/ and labels/ is read as VOC.
# Another format is a reader and an entry here (docs/extending.md).
FORMATS = [
    Format(
        "a COCO .json",
        lambda path: _suffix(path) == ".json" and not is_labelme(path),
        "edge_centernet.data.coco:read_coco",
    ),
    Format(
        "a PASCAL VOC folder (Annotations/, JPEGImages/) or its ImageSets/Main/*.txt",
        is_voc,
        "edge_centernet.data.voc:read_voc",
    ),
    Format(
        "a YOLO data.yaml, obj.data or folder (images/ and labels/, or both kinds of files and classes.txt)",
        is_yolo,
        "edge_centernet.data.yolo:read_yolo",
    ),
    Format("a folder of labelme's JSON files", is_labelme, "edge_centernet.data.labelme:read_labelme"),
]


def _suffix(path: Path) -> str:
    """The lower-case suffix of a file; empty for a folder, whatever its name."""
    return path.suffix.lower() if path.is_file() else ""


def _expected() -> str:
    *others, last = (one.expected for one in FORMATS)
    return f"expected {', '.join(others)}, or {last}"


def read_dataset(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    progress: Progress = unseen,
) -> Dataset:
    """Read a data set; its format is recognised by what `path` is.

    Args:
        path: a COCO .json; a VOC folder or ImageSets/Main/NAME.txt; a YOLO .yaml or folder; a labelme folder;
            a folder or .zip with any of them, as labelling tools export it.
        images: the folder of the images, if it is not where the format expects it beside the annotations.
        classes: read only these, in this order, by their names or synonyms (`edge_centernet.classes`).
            Objects of other classes are left out, and a class that the data set does not have is unlabelled
            in its images. The default is COCO's categories by id, the names found in VOC, sorted, or YOLO's
            list as it stands.
        split: "train", "val" or "test", or what the data set itself calls a part of it. By default train
            where there are several, with a warning that names the others (logger "edge_centernet.data").
        progress: shows a bar where reading takes more than a moment.

    Boxes are clipped to their image; those left empty are dropped with one warning that gives their number
    (logger "edge_centernet.data"). COCO's iscrowd or ignore and VOC's difficult become Sample.ignore.
    Raises SourceError naming file and line, key or element; MissingDependency for YAML without PyYAML.
    """
    return assemble(read_annotations(path, images, classes, split, progress=progress))


def read_annotations(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
    progress: Progress = unseen,
) -> Annotations:
    """Read what `read_dataset` reads, but leave the boxes as they are: neither clipped nor dropped.

    Args:
        path: see `read_dataset`.
        images: see `read_dataset`.
        classes: see `read_dataset`.
        split: see `read_dataset`.
        problems: an entry or image that cannot be read is left out and added to this list; only what makes
            the whole data set unreadable is still raised. With None, the first problem is raised, and a
            missing image is one.
        progress: see `read_dataset`.

    Raises what `read_dataset` raises.
    """
    path = Path(path)
    images = None if images is None else Path(images)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; {_expected()}")
    if images is not None and not images.is_dir():
        raise SourceError(f"{images}: expected the folder of the images, found no such folder")
    place = _choose(path, images, split)
    for one in FORMATS:
        if one.accepts(place.path):
            module, _, function = one.reader.partition(":")
            read: Callable[..., Annotations] = getattr(import_module(module), function)
            return read(place.path, images, classes, place.split, problems, progress=if_slow(progress))
    raise SourceError(f"{path}: {way_out(place.path) or _expected()}")


def _choose(path: Path, images: Path | None, split: str | None) -> Place:
    """Return what a reader is to read of a data set: the part `split`, or train of several."""
    parts = find_parts(path)
    if WHOLE in parts:
        return parts[WHOLE] if split is None else parts[WHOLE]._replace(split=split)
    own = {place.path for place in parts.values()}
    if images is not None and split is None and len(own) == 1:
        return Place(own.pop())  # the folder of the images says which part is wanted
    part = "train" if split is None else part_of(split)
    if part not in parts:
        raise SourceError(f"{path}: expected a part {part or split!r}; it has {', '.join(parts)}")
    if split is None:
        log.warning(
            "%s: read its part train; its parts %s are others' data",
            path,
            " and ".join(p for p in parts if p != part),
        )
    return parts[part]


@dataclass(frozen=True)
class DataSource:
    """A data set to read.

    path, images, split: as `read_dataset` takes them.
    labelled_only: the classes that were labelled in it, if not all of its classes were; takes precedence over
        what its files say.
    """

    path: Path
    images: Path | None = None
    labelled_only: tuple[str, ...] | None = None
    split: str | None = None

    def __str__(self) -> str:
        """The path, and the part of it: "set.zip (val)"."""
        return f"{self.path} ({self.split})" if self.split else str(self.path)

    def same_as(self, other: DataSource) -> bool:
        """Whether the two are the same images, however their paths are written."""

        def key(source: DataSource) -> tuple[Path, Path | None, str | None]:
            return source.path.resolve(), source.images and source.images.resolve(), source.split

        return key(self) == key(other)


class Parts(NamedTuple):
    """Data sets for training, for validation, and for a test of the result; see `use_parts`."""

    train: tuple[DataSource, ...]
    val: tuple[DataSource, ...]
    test: tuple[DataSource, ...]


def use_parts(train: Sequence[DataSource], val: Sequence[DataSource]) -> Parts:
    """Take the parts of which data sets consist for what they are.

    Of each training set that has them, train is learned and test is a test set. Its val is the validation set
    if `val` is empty. Of each of `val` that has parts, its val is taken, else its test. A source that says
    its split keeps it.

    A set whose images folder is given is taken as it is. Raises SourceError for a path that does not exist, a
    training set with parts of which none is train, and a validation set that is one of the training sets.
    """
    learned, tests, own = [], [], []
    for source in train:
        parts = {} if source.images or source.split else _parts(source)
        learned.append(replace(source, split="train") if parts else source)
        if parts and "train" not in parts:
            raise SourceError(
                f"{source.path}: expected a part train to learn from; it has {', '.join(parts)}"
            )
        own += [replace(source, split="val")] if "val" in parts else []
        tests += [replace(source, split="test")] if "test" in parts else []
    chosen = []
    for source in val:
        parts = {} if source.images or source.split else _parts(source)
        part = next((name for name in ("val", "test", "train") if name in parts), None)
        chosen.append(replace(source, split=part) if part else source)
    for source in chosen:
        if any(source.same_as(mine) for mine in learned):
            raise SourceError(
                f"{source.path} is the training set itself, which says nothing about new images; "
                f"make two parts of it: edge-centernet data split {source.path} --out FOLDER"
            )
    return Parts(tuple(learned), tuple(chosen or own), tuple(tests))


def to_measure_on(source: DataSource) -> DataSource:
    """The part of a data set that accuracy is measured on: val, else test, else train; raises SourceError."""
    return use_parts([], [source]).val[0]


def unpack_all(sources: Sequence[DataSource], progress: Progress) -> None:
    """Unpack those of the data sets that are zip files, once and for all; raises what `unpack` raises."""
    for source in sources:
        if is_zip(source.path):
            unpack(source.path, progress)


def _parts(source: DataSource) -> dict[str, Place]:
    if not source.path.exists():
        raise SourceError(f"{source.path}: no such file or folder; {_expected()}")
    return {part: place for part, place in find_parts(source.path).items() if part != WHOLE}


def read_datasets(
    sources: Sequence[DataSource], classes: Sequence[str] | None = None, progress: Progress = unseen
) -> Dataset:
    """Read one data set, or several as one; `merge` describes what happens to their classes.

    Raises what `read_dataset` and `merge` raise.
    """
    return assemble(read_sources(sources, classes, progress=progress))


def read_sources(
    sources: Sequence[DataSource],
    classes: Sequence[str] | None = None,
    problems: list[Problem] | None = None,
    progress: Progress = unseen,
) -> Annotations:
    """Read what `read_datasets` reads, without clipping; problems, progress: see `read_annotations`."""
    # Where `merge` chooses afterwards, each set is read with all of its classes: a class that one set lacks
    # may be in another, and `labelled_only` may name classes that are not among `classes`.
    whole = len(sources) > 1 or any(source.labelled_only is not None for source in sources)
    wanted = None if whole else classes
    found = [read_annotations(one.path, one.images, wanted, one.split, problems, progress) for one in sources]
    return merge(found, classes, [source.labelled_only for source in sources])

"""Labelled images behind one interface: COCO JSON, PASCAL VOC XML and YOLO txt.

    dataset = read_dataset(Path("instances_train.json"))
    dataset.classes, dataset.samples[0].boxes

    shop = DataSource(Path("shop.json"), labelled_only=("person",))
    dataset = read_datasets([DataSource(Path("street.json")), shop])
    dataset.classes, dataset.samples[0].unlabelled

Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from edge_centernet.data.base import Annotations, Dataset, Problem, Sample, assemble
from edge_centernet.data.merge import merge
from edge_centernet.errors import SourceError

__all__ = [
    "FORMATS",
    "DataSource",
    "Dataset",
    "Format",
    "Sample",
    "merge",
    "read_annotations",
    "read_dataset",
    "read_datasets",
    "read_sources",
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


_YOLO_FILES = ("data.yaml", "obj.data", "data/obj.data", "classes.txt", "obj.names", "_darknet.labels")
# The first that accepts a path reads it: a folder with both Annotations/ and labels/ is read as VOC.
# Another format is a reader and an entry here (docs/extending.md).
FORMATS = [
    Format("a COCO .json", lambda path: _suffix(path) == ".json", "edge_centernet.data.coco:read_coco"),
    Format(
        "a PASCAL VOC folder (Annotations/, JPEGImages/) or its ImageSets/Main/*.txt",
        lambda path: _suffix(path) == ".txt" or (path / "Annotations").is_dir(),
        "edge_centernet.data.voc:read_voc",
    ),
    Format(
        "a YOLO data.yaml, obj.data or folder (images/ and labels/, or both kinds of files and classes.txt)",
        lambda path: (
            _suffix(path) in (".yaml", ".yml", ".data")
            or (path / "labels").is_dir()
            or any((path / name).is_file() for name in _YOLO_FILES)
        ),
        "edge_centernet.data.yolo:read_yolo",
    ),
]


def _suffix(path: Path) -> str:
    """The lower-case suffix of a file; empty for a folder, whatever its name."""
    return path.suffix.lower() if path.is_file() else ""


def _expected() -> str:
    *others, last = (one.expected for one in FORMATS)
    return f"expected {', '.join(others)}, or {last}"


def read_dataset(
    path: Path, images: Path | None = None, classes: Sequence[str] | None = None, split: str | None = None
) -> Dataset:
    """Read a data set; its format is recognised by what `path` is.

    path: a COCO .json; a VOC folder or ImageSets/Main/NAME.txt; a YOLO .yaml or folder.
    images: the folder of the images, if it is not where the format expects it beside the annotations.
    classes: read only these, in this order, by their names or synonyms (`edge_centernet.classes`). Objects of
        other classes are left out, and a class that the data set does not have is unlabelled in its images.
        The default is COCO's categories by id, the names found in VOC, sorted, or YOLO's list as it stands.
    split: "train", "val", ... of a VOC or YOLO folder or of a .yaml that holds several. By default, a .yaml's
        train and every image of a folder. A COCO file is one split: name another file instead.

    Boxes are clipped to their image; those left empty are dropped with one warning that gives their number
    (logger "edge_centernet.data"). COCO's iscrowd or ignore and VOC's difficult become Sample.ignore.
    Raises SourceError naming file and line, key or element; MissingDependency for YAML without PyYAML.
    """
    return assemble(read_annotations(path, images, classes, split))


def read_annotations(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
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

    Raises what `read_dataset` raises.
    """
    path = Path(path)
    images = None if images is None else Path(images)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; {_expected()}")
    if images is not None and not images.is_dir():
        raise SourceError(f"{images}: expected the folder of the images, found no such folder")
    for one in FORMATS:
        if one.accepts(path):
            module, _, function = one.reader.partition(":")
            read: Callable[..., Annotations] = getattr(import_module(module), function)
            return read(path, images, classes, split, problems)
    raise SourceError(f"{path}: {_expected()}")


@dataclass(frozen=True)
class DataSource:
    """A data set to read.

    path, images: as `read_dataset` takes them.
    labelled_only: the classes that were labelled in it, if not all of its classes were; takes precedence over
        what its files say.
    """

    path: Path
    images: Path | None = None
    labelled_only: tuple[str, ...] | None = None


def read_datasets(sources: Sequence[DataSource], classes: Sequence[str] | None = None) -> Dataset:
    """Read one data set, or several as one; `merge` describes what happens to their classes.

    Raises what `read_dataset` and `merge` raise.
    """
    return assemble(read_sources(sources, classes))


def read_sources(
    sources: Sequence[DataSource], classes: Sequence[str] | None = None, problems: list[Problem] | None = None
) -> Annotations:
    """Read what `read_datasets` reads, without clipping; problems: see `read_annotations`."""
    # Where `merge` chooses afterwards, each set is read with all of its classes: a class that one set lacks
    # may be in another, and `labelled_only` may name classes that are not among `classes`.
    whole = len(sources) > 1 or any(source.labelled_only is not None for source in sources)
    wanted = None if whole else classes
    found = [read_annotations(source.path, source.images, wanted, problems=problems) for source in sources]
    return merge(found, classes, [source.labelled_only for source in sources])

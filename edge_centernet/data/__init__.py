"""Labelled images behind one interface: COCO JSON, PASCAL VOC XML and YOLO txt, without torch.

dataset = read_dataset(Path("instances_train.json"))
dataset.classes, dataset.samples[0].boxes

dataset = read_datasets([DataSource(Path("street.json")), DataSource(Path("shop.json"),
labelled_only=("person",))]) dataset.classes, dataset.samples[0].unlabelled
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
    """A way to write down labelled images.

    expected: what a path of it is, in the words of an error message. accepts: whether an existing path is
      one.
    reader: "module:function", imported when it is needed; the function is called like `read_annotations`.
    """

    expected: str
    accepts: Callable[[Path], bool]
    reader: str


# Asked in this order. Another format is a reader and an entry here (docs/extending.md).
FORMATS = [
    Format("a COCO .json", lambda path: _suffix(path) == ".json", "edge_centernet.data.coco:read_coco"),
    Format(
        "a PASCAL VOC folder (Annotations/, JPEGImages/) or its ImageSets/Main/*.txt",
        lambda path: _suffix(path) == ".txt" or (path / "Annotations").is_dir(),
        "edge_centernet.data.voc:read_voc",
    ),
    Format(
        "a YOLO data.yaml or folder (images/, labels/)",
        lambda path: (
            _suffix(path) in (".yaml", ".yml") or (path / "labels").is_dir() or (path / "data.yaml").is_file()
        ),
        "edge_centernet.data.yolo:read_yolo",
    ),
]


def _suffix(path: Path) -> str:
    """That of a file; empty for a folder, whatever its name."""
    return path.suffix.lower() if path.is_file() else ""


def _expected() -> str:
    *others, last = (one.expected for one in FORMATS)
    return f"expected {', '.join(others)}, or {last}"


def read_dataset(
    path: Path, images: Path | None = None, classes: Sequence[str] | None = None, split: str | None = None
) -> Dataset:
    """Read a data set, its format told by what `path` is.

    path: COCO .json; VOC folder or ImageSets/Main/NAME.txt; YOLO .yaml or folder.
    images: the folder of the images, where it is not beside the annotations as the format has it.
    classes: read only these, in this order, by their names or synonyms (`edge_centernet.classes`); objects of
        other classes are left out, and a class that the data set has not is unlabelled in its images. By
        default COCO's categories sorted by id, VOC's names found, sorted, and YOLO's list as it stands.
    split: for a VOC or YOLO folder or a .yaml holding several, "train", "val", ...; by default a .yaml's
        train and a folder's every image. A COCO file is one split: name another file.

    Boxes are clipped to their image; those left empty are dropped with one counted warning (logger
    "edge_centernet.data"). COCO's iscrowd or ignore and VOC's difficult become Sample.ignore.
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
    """What `read_dataset` reads, before boxes are clipped and dropped.

    problems: an entry or image that cannot be read is left out and added to this list; only what makes the
        whole data set unreadable is still raised. None: the first one is raised, and so is the first missing
        image.
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
    labelled_only: the classes that were labelled in it, where it is not all that it has; wins over what its
        files say.
    """

    path: Path
    images: Path | None = None
    labelled_only: tuple[str, ...] | None = None


def read_datasets(sources: Sequence[DataSource], classes: Sequence[str] | None = None) -> Dataset:
    """Read one data set, or several as one; `merge` says what happens to their classes.

    Raises what `read_dataset` and `merge` raise.
    """
    return assemble(read_sources(sources, classes))


def read_sources(
    sources: Sequence[DataSource], classes: Sequence[str] | None = None, problems: list[Problem] | None = None
) -> Annotations:
    """What `read_datasets` reads, before boxes are clipped and dropped; problems: see `read_annotations`."""
    # What one of several lacks of `classes` another may have, and what was labelled need not be among them.
    whole = len(sources) > 1 or any(source.labelled_only is not None for source in sources)
    wanted = None if whole else classes
    found = [read_annotations(source.path, source.images, wanted, problems=problems) for source in sources]
    return merge(found, classes, [source.labelled_only for source in sources])

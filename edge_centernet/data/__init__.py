"""Labelled images behind one interface: COCO JSON, PASCAL VOC XML and YOLO txt, without torch.

dataset = read_dataset(Path("instances_train.json"))
dataset.classes, dataset.samples[0].boxes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_centernet.data.base import Annotations, Dataset, Problem, Sample, assemble
from edge_centernet.errors import SourceError

__all__ = ["Dataset", "Sample", "read_annotations", "read_dataset"]

_EXPECTED = (
    "expected a COCO .json, a PASCAL VOC folder (Annotations/, JPEGImages/) or its ImageSets/Main/*.txt, "
    "or a YOLO data.yaml or folder (images/, labels/)"
)


def read_dataset(
    path: Path, images: Path | None = None, classes: Sequence[str] | None = None, split: str | None = None
) -> Dataset:
    """Read a data set, its format told by what `path` is.

    path: COCO .json; VOC folder or ImageSets/Main/NAME.txt; YOLO .yaml or folder.
    images: the folder of the images, where it is not beside the annotations as the format has it.
    classes: read only these, in this order; objects of other classes are left out. By default COCO's
        categories sorted by id, VOC's names found, sorted, and YOLO's list as it stands.
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

    problems: an entry or image that cannot be read is left out and added to this list; only what makes the whole
        data set unreadable is still raised. None: the first one is raised, and so is the first missing image.
    """
    path = Path(path)
    images = None if images is None else Path(images)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; {_EXPECTED}")
    if images is not None and not images.is_dir():
        raise SourceError(f"{images}: expected the folder of the images, found no such folder")
    suffix = path.suffix.lower() if path.is_file() else ""
    if suffix == ".json":
        from edge_centernet.data.coco import read_coco

        return read_coco(path, images, classes, problems)
    if suffix == ".txt" or (path / "Annotations").is_dir():
        from edge_centernet.data.voc import read_voc

        return read_voc(path, images, classes, split, problems)
    if suffix in (".yaml", ".yml") or (path / "labels").is_dir() or (path / "data.yaml").is_file():
        from edge_centernet.data.yolo import read_yolo

        return read_yolo(path, images, classes, split, problems)
    raise SourceError(f"{path}: {_EXPECTED}")

"""Where a data set's parts lie: the exports of labelling tools as they come, folders or zip files.

    find_parts(Path("export.zip"))   # {"train": Place(...), "val": Place(...), "test": Place(...)}

A reader takes one file or folder. What an export adds to that is settled here: a folder above, a folder or
file for each of train, val and test, and which of several JSON files holds the labels.
"""

from __future__ import annotations

import importlib
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from edge_centernet.data.archive import is_zip, unpack
from edge_centernet.errors import SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES

# part -> what folders, files and keys call it, the usual word first
PARTS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
WHOLE = ""  # the name of the one part of a set that has no parts
# Where the names of YOLO's classes stand: darknet has obj.names, LabelImg writes classes.txt beside its
# labels, Roboflow _darknet.labels, others above them.
YOLO_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt")
_YOLO_CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "obj.data", "data/obj.data")
_XML_FOLDERS = ("Annotations", "annotations")
_COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_LABELME_KEYS = (b'"shapes"', b'"imagePath"')
_PROBE = 8  # files of a folder that are looked into
# What is not read, by its suffix, and the way out.
_WAYS_OUT = {
    ".csv": "labels in CSV are not read; export as COCO or PASCAL VOC",
    ".ndjson": "NDJSON is not read; export as COCO or YOLO",
    ".jsonl": "JSON Lines are not read; export as COCO or YOLO",
    ".tfrecord": "TFRecord files are not read; export as COCO or YOLO",
    **dict.fromkeys(
        (".rar", ".7z", ".tar", ".gz", ".tgz", ".xz"), "unpack it first; only .zip is opened here"
    ),
}


class Place(NamedTuple):
    """A part of a data set as a reader takes it: a file or folder, and the split of it, None for all."""

    path: Path
    split: str | None = None


def find_parts(path: Path) -> dict[str, Place]:
    """Return part -> where it is: "train", "val" and "test" as there are, or WHOLE for a set without parts.

    path: a file or folder that exists. A zip file is unpacked into the cache; a folder in which there is
        nothing but one folder stands for that.

    Raises SourceError for a zip file that cannot be unpacked, a data.yaml that cannot be read, and a folder
    with several COCO files of which none is a part by its name.
    """
    path = unpack(path) if is_zip(path) else path
    if path.is_file():
        return (_configured(path) if path.suffix.lower() in (".yaml", ".yml", ".data") else {}) or {
            WHOLE: Place(path)
        }
    for _ in range(4):  # zips of folders in folders
        for find in (_in_config, _in_coco_files, _in_image_sets, _in_folders):
            if found := find(path):
                return found
        inner = [p for p in visible(path) if p.is_dir()]
        if is_voc(path) or is_yolo(path) or is_labelme(path) or len(inner) != 1:
            break
        path = inner[0]
    return {WHOLE: Place(path)}


def part_of(name: str) -> str | None:
    """Return the part that a folder, file or key of this name holds: "val" for valid or instances_val2017."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    for part, names in PARTS.items():
        if any(word.rstrip("0123456789") in names for word in words):
            return part
    return None


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without hidden files and what macOS adds to zip files."""
    return sorted(p for p in folder.iterdir() if p.name[0] != "." and p.name != "__MACOSX")


# ---- the formats by their looks


def coco_files(folder: Path) -> list[Path]:
    """Return the COCO files of a folder or of annotations/ in it: of many kinds for a part, the instances."""
    places = (folder, *(folder / name for name in _XML_FOLDERS))
    found = [p for place in places for p in _with_suffix(place, ".json") if _mentions(p, _COCO_KEYS)]
    found = list({p.resolve(): p for p in found}.values())  # the same folder twice, where case is no matter
    instances = [p for p in found if p.name.startswith("instances")]
    return instances or found


def xml_folder(folder: Path) -> Path | None:
    """Return where the VOC files of a data set are: Annotations/, annotations/, or the folder itself."""
    for name in _XML_FOLDERS:
        if any(True for p in (folder / name).rglob("*.xml")):
            return folder / name
    if any(_is_voc_file(p) for p in _with_suffix(folder, ".xml")[:_PROBE]):
        return folder
    # Without a single file, too: what is missing is then said by the reader.
    return folder / "Annotations" if (folder / "Annotations").is_dir() else None


def is_voc(path: Path) -> bool:
    """Whether a folder holds PASCAL VOC, or a file is one of its image sets."""
    return path.suffix.lower() == ".txt" if path.is_file() else xml_folder(path) is not None


def yolo_config(folder: Path) -> Path | None:
    """Return the data.yaml or obj.data of a folder."""
    return next((folder / name for name in _YOLO_CONFIGS if (folder / name).is_file()), None)


def is_yolo(path: Path) -> bool:
    """Whether a folder or file holds YOLO's labels or names them."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml", ".data")
    listed = any((path / name).is_file() for name in YOLO_LISTS)
    labels = path / "labels"  # or those of labelme
    return (labels.is_dir() and not any(labels.glob("*.json"))) or listed or yolo_config(path) is not None


def labelme_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder and below it, sorted, if the first ones are labelme's."""
    files = sorted(p for p in folder.rglob("*.json") if not p.name.startswith("."))
    return files if any(_mentions(p, _LABELME_KEYS) for p in files[:_PROBE]) else []


def is_labelme(path: Path) -> bool:
    """Whether a folder holds labelme's files, or a file is one."""
    if path.is_file():
        return path.suffix.lower() == ".json" and _mentions(path, _LABELME_KEYS)
    return bool(labelme_files(path))


def way_out(path: Path) -> str:
    """Return why nothing of this path is read and what to do, "" if it looks like nothing that is known."""
    files = [path] if path.is_file() else visible(path)
    for file in files:
        if why := _WAYS_OUT.get(file.suffix.lower()):
            return f"{file.name}: {why}" if file != path else why
        if file.suffix.lower() == ".xml" and file.is_file() and not _is_voc_file(file):
            return (
                f"{file.name} is not PASCAL VOC; from CVAT, export the task again as COCO 1.0 "
                "or Ultralytics YOLO"
            )
        if file.suffix.lower() == ".json" and _mentions(file, (b'"_via_',)):
            return f"{file.name}: projects of VIA are not read; export the annotations as COCO"
        if file.suffix.lower() == ".json" and _begins_with_list(file):
            return f"{file.name} is a list, as Label Studio's own JSON is; export as COCO or YOLO"
    if path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in files):
        return "images without labels; label them by hand, or by edge-centernet label"
    return ""


# ---- parts, by what names them


def _configured(file: Path) -> dict[str, Place]:
    """Return the parts that a data.yaml or obj.data names."""
    yolo = importlib.import_module("edge_centernet.data.yolo")  # here: it imports this module
    keys: list[str] = yolo.named_parts(file)
    found = {part: Place(file, key) for key in keys if (part := part_of(key))}
    return found if len(found) > 1 else {WHOLE: Place(file, next(iter(keys), None))}


def _in_config(folder: Path) -> dict[str, Place]:
    """Return the parts of a YOLO folder: by its file, or by the folders in images/ where a plain list is."""
    config, images = yolo_config(folder), folder / "images"
    if any((folder / name).is_file() for name in YOLO_LISTS) and images.is_dir():
        config = None  # a plain list of names needs no PyYAML
    found = _configured(config) if config is not None else {}
    if len(found) > 1:
        return found
    if not images.is_dir() or not is_yolo(folder):
        return {}
    return _several((p.name, Place(folder, p.name)) for p in visible(images) if p.is_dir())


def _in_coco_files(folder: Path) -> dict[str, Place]:
    files = coco_files(folder)
    if len(files) < 2:
        return {WHOLE: Place(files[0])} if files else {}
    found = _several((file.stem, Place(file)) for file in files)
    if len(found) < len(files):
        names = ", ".join(file.name for file in files[:4])
        raise SourceError(
            f"{folder}: expected one COCO file, or one for each of train, val and test; found {names}; "
            "name the file"
        )
    return found


def _in_image_sets(folder: Path) -> dict[str, Place]:
    """Return the parts that VOC's ImageSets/Main lists: train.txt, val.txt, test.txt; not those by class."""
    known = {name for names in PARTS.values() for name in names}
    lists = [p for p in _with_suffix(folder / "ImageSets" / "Main", ".txt") if p.stem.lower() in known]
    return _several((p.stem, Place(folder, p.stem)) for p in lists) if xml_folder(folder) else {}


def _in_folders(folder: Path) -> dict[str, Place]:
    """Return the parts that are folders of their own: Roboflow's train/, valid/ and test/."""
    found = []
    for one in visible(folder):
        if one.is_dir() and one.name.lower() in {name for names in PARTS.values() for name in names}:
            inside = find_parts(one)
            place = inside.get(WHOLE)
            if place is not None and (
                is_voc(place.path) or place.path.is_file() or is_yolo(place.path) or is_labelme(place.path)
            ):
                found.append((one.name, place))
    return _several(found)


def _several(named: Iterable[tuple[str, Place]]) -> dict[str, Place]:
    """Return the parts by their names, none where there is only one; trainval counts without a train."""
    found: dict[str, Place] = {}
    names = list(named)
    order = [word for words in PARTS.values() for word in words]
    names.sort(key=lambda one: order.index(one[0].lower()) if one[0].lower() in order else 0)
    for name, place in names:
        part = part_of(name)
        if part is not None:
            found.setdefault(part, place)
    return {part: found[part] for part in PARTS if part in found} if len(found) > 1 else {}


# ---- a look into files


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in visible(folder) if p.suffix.lower() == suffix and p.is_file()]


def _mentions(file: Path, words: tuple[bytes, ...]) -> bool:
    """Whether a file holds all of these, wherever: half a gigabyte takes a fraction of a second."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(word) >= 0 for word in words)
    except (OSError, ValueError):  # ValueError: empty
        return False


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(4096)
    except OSError:
        return b""


def _is_voc_file(file: Path) -> bool:
    return b"<annotation" in _head(file) and b"<annotations" not in _head(file)


def _begins_with_list(file: Path) -> bool:
    return _head(file).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")

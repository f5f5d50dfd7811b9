"""PASCAL VOC XML: Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/SPLIT.txt.

Also in annotations/ and images/, as sets on Kaggle have it, and with both kinds of files in one folder, as
LabelImg and Roboflow write it.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_centernet.data.base import (
    READING,
    Annotations,
    Objects,
    Problem,
    brief,
    choose_classes,
    class_name,
    flag,
    note,
    on_disk,
    read_text,
    warn_absent,
    without,
)
from edge_centernet.data.layout import xml_folder
from edge_centernet.errors import SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES, image_size
from edge_centernet.progress import Progress, unseen, with_progress

_ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
# Encodings whose name tools write over text of a larger one: the larger one reads both.
_LARGER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
# Of Python's own and in no XML; some take very long on long text.
_NO_CHARSET = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape",
                         "raw-unicode-escape", "undefined"})  # fmt: skip
_SIDE_LIMIT = 1e6  # pixels; no image is that large
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "image", "imgs")


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    problems: list[Problem] | None = None,
    progress: Progress = unseen,
) -> Annotations:
    """Read a VOC folder or one of its image sets; see `edge_centernet.data.read_annotations`.

    Args:
        path: the folder or one of its ImageSets/Main/NAME.txt.
        images: by default JPEGImages/ or images/, or the folder of the XML files. A <size> that is missing or
            zero is read from the image.
        classes: those to read, in this order.
        split: of a folder, NAME of its image set; by default every annotation is read.
        problems: see `read_annotations`.
        progress: see `read_annotations`.

    Raises SourceError naming file and line (broken XML, image sets) or element, as object[2]/bndbox/xmin.
    """
    path, annotations, names = _annotations(path, split, problems)
    folder = images if images is not None else _image_folder(annotations)
    if not folder.is_dir():
        raise SourceError(
            f"{folder}: expected the folder of the images, found no such folder; name the images folder"
        )
    split_names = (os.path.splitext(name) for name in _images_below(folder))
    files = [(stem, stem + suffix) for stem, suffix in split_names]
    present = {_key(stem): name for stem, name in files} | {_key(name): name for _, name in files}

    entries: list[tuple[Path, int, int]] = []
    found: list[dict[str, _Object]] = []
    used: dict[Path, Path] = {}
    for name in with_progress(names, READING, progress):
        xml = on_disk(annotations, f"{name}.xml")
        with note(problems):
            tree, size = _parse(xml)
            with note(problems, "image"):
                file = folder / _image_name(xml, name, tree, present, folder)
                if file in used:  # reading it twice would train on half of its objects as background
                    raise SourceError(
                        f"{xml}: filename: image {file.name!r} already belongs to {used[file].name}"
                    )
                used[file] = xml
                entries.append((file, *(size or image_size(file))))
                found.append(_objects(xml, tree, problems))

    declared = sorted({item.name for items in found for item in items.values()})  # VOC has no list
    if not declared:
        why = f"; {problems[0].text}" if problems else ""
        raise SourceError(
            f"{path}: expected at least one object in {len(names)} annotations, found none{why}"
        )
    chosen = choose_classes(path, declared, classes)
    warn_absent(path, chosen)
    objects = Objects()
    for i, items in enumerate(found):
        for place, item in items.items():
            if item.name in chosen.label_of:
                objects.add(i, chosen.label_of[item.name], item.box, place, item.difficult)
    return Annotations(str(path), chosen.classes, tuple(entries), objects, without(chosen, len(entries)))


def _annotations(
    path: Path, split: str | None, problems: list[Problem] | None
) -> tuple[Path, Path, list[str]]:
    """Return the folder or image set that is read, the folder of the XML files, and the names to read."""
    if path.is_dir() and split is not None:
        path = path / "ImageSets" / "Main" / f"{split}.txt"
        if not path.is_file():
            raise SourceError(f"{path}: expected the image set of split {split!r}, found no such file")
    # 1. Annotations/ is in the folder itself, or above ImageSets/Main/NAME.txt.
    places = (path, *path.absolute().parents[:3])
    found = (xml_folder(folder) for folder in places if folder.is_dir())
    folder = next((xmls for xmls in found if xmls is not None), None)
    if folder is None:
        raise SourceError(
            f"{path}: expected a VOC image set (ImageSets/Main/NAME.txt) with Annotations/ beside ImageSets/"
        )
    # 2. Without an image set, every annotation counts.
    seen: dict[str, int] = {}
    if not path.is_file():
        # CVAT keeps the folders of a task.
        files = folder.glob("*.xml") if _is_flat(folder) else folder.rglob("*.xml")
        seen = dict.fromkeys(sorted(str(p.relative_to(folder).with_suffix("")) for p in files), 0)
    else:
        # 3. Lines are `NAME` or, in the sets of one class, `NAME -1|0|1`: absent, difficult or present.
        for number, line in enumerate(read_text(path).splitlines(), 1):
            name = line.strip()
            if not name:
                continue
            with note(problems):
                # A name may hold blanks, and end in a number: "photo 1" is that photo's if there is one.
                if len(name.split()) > 1 and not os.path.isfile(on_disk(folder, f"{name}.xml")):
                    whole, name, last = name, *name.rsplit(None, 1)
                    known = len(name.split()) == 1 or os.path.isfile(on_disk(folder, f"{name}.xml"))
                    if last not in ("-1", "0", "1") or not known:
                        raise SourceError(
                            f"{path}: line {number}: expected an image name, got {brief(whole)}, "
                            "which has no annotation"
                        )
                if name in seen:
                    raise SourceError(f"{path}: line {number}: {name!r} is already in line {seen[name]}")
                seen[name] = number
    if not seen:
        raise SourceError(f"{path}: expected at least one image, found none")
    return path, folder, list(seen)


def _image_folder(annotations: Path) -> Path:
    """Return the images folder that belongs to a folder of XML files, which may be that itself."""
    root = annotations if _is_flat(annotations) else annotations.parent
    places = [root / name for name in _IMAGE_FOLDERS]
    flat = [folder for folder in (root, annotations) if any(_is_image(p.name) for p in folder.iterdir())]
    return next((place for place in places if place.is_dir()), (flat or places)[0])


def _is_flat(annotations: Path) -> bool:
    """Whether a folder of XML files is the whole data set."""
    return annotations.name.lower() != "annotations"


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _images_below(folder: Path) -> list[str]:
    """Return the images in a folder and below it as paths from there, sorted."""
    found = []
    for root, _, names in os.walk(folder):
        below = os.path.relpath(root, folder)
        images = [name for name in names if _is_image(name)]
        found += images if below == "." else [f"{below}/{name}" for name in images]
    return sorted(found)


def _parse(xml: Path) -> tuple[ElementTree.Element, tuple[int, int] | None]:
    """Return the root element, and (width, height) in pixels unless the file lacks it."""
    try:
        root = ElementTree.fromstring(_decoded(xml, xml.read_bytes()))
    except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
        raise SourceError(f"{xml}: no such annotation, though the image set names it") from None
    except OSError as error:
        raise SourceError(f"{xml}: cannot be read ({error.strerror})") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        raise SourceError(
            f"{xml}: line {line}, column {column}: expected VOC XML, got a syntax error"
        ) from None
    if root.tag != "annotation":
        raise SourceError(f"{xml}: expected the root element <annotation>, got <{root.tag}>")
    size = root.find("size")
    if size is None:
        return root, None
    sides = width, height = [_number(f"{xml}: size", size, side) for side in ("width", "height")]
    if max(sides) >= _SIDE_LIMIT:
        raise SourceError(f"{xml}: size: expected the image's size in pixels, got {width:g}x{height:g}")
    return root, (int(width), int(height)) if min(sides) >= 1 else None  # some tools write zeros


def _decoded(xml: Path, content: bytes) -> bytes | str:
    """Return the file's content as text where the XML parser does not know its encoding itself."""
    declared = _ENCODING.match(content)
    name = declared[1].decode() if declared else "utf-8"
    if name.lower() in ("utf-8", "utf-16", "us-ascii", "iso-8859-1"):
        return content
    try:
        known = codecs.lookup(name).name
        if known in _NO_CHARSET:
            raise LookupError
        return content.decode(_LARGER.get(known, known))
    except LookupError:
        raise SourceError(f"{xml}: unknown encoding {name!r} in its first line; save it as UTF-8") from None
    except ValueError:
        raise SourceError(
            f"{xml}: expected text in {name}, as its first line says, got something else; save it as UTF-8"
        ) from None


def _key(name: str) -> str:
    """Return a file name as it is looked up: macOS writes accented letters in another form than others."""
    return unicodedata.normalize("NFC", name)


def _image_name(
    xml: Path, own: str, tree: ElementTree.Element, present: Mapping[str, str], folder: Path
) -> str:
    """Return the image's file name; own: the annotation's; present: name or stem -> name of each image."""
    # <filename> often lacks its suffix or was never updated: then the annotation's own name counts.
    said = (tree.findtext("filename") or "").strip()
    name = present.get(_key(said)) or present.get(_key(own)) or present.get(_key(xml.stem))
    if name is None:
        raise SourceError(f"{xml}: filename: neither {brief(said)} nor {xml.stem!r} is an image in {folder}")
    return name


def _objects(xml: Path, tree: ElementTree.Element, problems: list[Problem] | None) -> dict[str, _Object]:
    """Return place in the file, as object[2] -> object."""
    found = {}
    for i, item in enumerate(tree.findall("object")):
        where = f"{xml}: object[{i}]"
        with note(problems):
            name = class_name(f"{where}/name", item.findtext("name"))
            boxes = item.findall("bndbox")  # children: those of body parts lie deeper
            if not boxes:
                raise SourceError(f"{where} ({name}): expected an element <bndbox>, got none")
            difficult = flag(f"{where}/difficult", item.findtext("difficult"))
            for j, box in enumerate(boxes):  # some tools write all boxes of a class into one object
                place = f"object[{i}]" if len(boxes) == 1 else f"object[{i}]/bndbox[{j}]"
                at = f"{where}/bndbox" if len(boxes) == 1 else f"{xml}: {place}"
                x1, y1, x2, y2 = (_number(at, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
                # VOC counts pixels from 1 and includes the last: xmin 1, xmax 384 is 0 to 384 here.
                found[place] = _Object(name, (x1 - 1, y1 - 1, x2, y2), difficult)
    return found


def _number(where: str, parent: ElementTree.Element, key: str) -> float:
    """Return the finite number in a child element, in pixels."""
    text = parent.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        got = "no such element" if text is None else brief(text)
        raise SourceError(f"{where}/{key}: expected a number of pixels, got {got}")
    return value

"""PASCAL VOC in: folders, image sets, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.data import DataSource, read_annotations, read_dataset, read_datasets
from edge_centernet.data.base import Problem
from edge_centernet.errors import SourceError

BCCD = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bccd"

OBJECT = """
  <object><name>{name}</name><difficult>{difficult}</difficult>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
    <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def obj(
    name: str, x1: object = 1, y1: object = 1, x2: object = 40, y2: object = 30, difficult: int = 0
) -> str:
    """One <object>, with a body part whose box is not the object's."""
    return OBJECT.format(name=name, x1=x1, y1=y1, x2=x2, y2=y2, difficult=difficult)


def write(root: Path, files: dict[str, str], size: str = SIZE, filename: str = "{}.png") -> Path:
    """A VOC folder with 40x30 images; `files` maps a name to its objects."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in files.items():
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), np.zeros((30, 40, 3), np.uint8))
        text = f"<annotation><filename>{filename.format(name)}</filename>{size}{objects}\n</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in list(files)[:1]))
    return root


def test_a_folder_gives_every_image_with_its_names_sorted(tmp_path: Path) -> None:
    """Boxes count from 1 and include their last pixel; difficult becomes ignore; parts are no objects."""
    root = write(tmp_path, {"b": obj("dog", 3, 5, 10, 20) + obj("cat", difficult=1), "a": obj("dog")})
    data = read_dataset(root)
    assert data.classes == ("cat", "dog")
    assert [sample.path.name for sample in data.samples] == ["a.png", "b.png"]
    b = data.samples[1]
    assert b.boxes.tolist() == [[2, 4, 10, 20], [0, 0, 40, 30]]
    assert b.labels.tolist() == [1, 0]
    assert b.ignore.tolist() == [False, True]


def test_an_image_set_gives_its_images_only(tmp_path: Path) -> None:
    """By its file, by `split`, and with the -1/0/1 column that the sets of one class have."""
    root = write(tmp_path, {"b": obj("dog"), "a": obj("cat")})
    listed = root / "ImageSets" / "Main" / "train.txt"
    for data in (read_dataset(listed), read_dataset(root, split="train")):
        assert [sample.path.stem for sample in data.samples] == ["b"]
    listed.write_text("a -1\nb  1\n")
    assert [sample.path.stem for sample in read_dataset(listed).samples] == ["a", "b"]


def test_given_classes_select_and_order(tmp_path: Path) -> None:
    """Only the names asked for, in the order asked for."""
    root = write(tmp_path, {"a": obj("dog") + obj("cat") + obj("cow")})
    data = read_dataset(root, classes=["dog", "cat"])
    assert data.classes == ("dog", "cat")
    assert data.samples[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_missing_or_zero_is_the_images(tmp_path: Path, size: str) -> None:
    """Some tools write no size."""
    sample = read_dataset(write(tmp_path, {"a": obj("dog")}, size)).samples[0]
    assert (sample.width, sample.height) == (40, 30)


@pytest.mark.parametrize("filename", ["{}", "", "renamed later.jpg"])
def test_a_filename_that_is_not_there_falls_back_to_the_annotations_own(
    tmp_path: Path, filename: str
) -> None:
    """Without suffix, empty, or never updated."""
    sample = read_dataset(write(tmp_path, {"a": obj("dog")}, filename=filename)).samples[0]
    assert sample.path.name == "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", "line 3, column"),
        ("", "line 1, column 0: expected VOC XML"),
        ("<html/>", "expected the root element <annotation>, got <html>"),
        (f"<annotation>{SIZE}<object/></annotation>", "object[0]/name: expected a class name"),
        (
            f"<annotation>{SIZE}<object><name>x</name></object></annotation>",
            "object[0] (x): expected an element <bndb",
        ),
        (
            f"<annotation>{SIZE}{obj('x')}{obj('y', x2='wide')}</annotation>",
            "object[1]/bndbox/xmax: expected a number",
        ),
        (
            f"<annotation>{SIZE}{obj('x', y1='nan')}</annotation>",
            "object[0]/bndbox/ymin: expected a number of pixels",
        ),
        (
            "<annotation><size><width>3</width></size></annotation>",
            "size/height: expected a number of pixels, got no",
        ),
    ],
)
def test_what_is_wrong_in_an_annotation_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Line and column of broken XML, otherwise the element."""
    root = write(tmp_path, {"a": obj("dog")})
    xml = root / "Annotations" / "a.xml"
    xml.write_text(text)
    with pytest.raises(SourceError) as error:
        read_dataset(root)
    assert str(error.value).startswith(str(xml))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_wrong_in_an_image_set_is_named_with_its_line(tmp_path: Path) -> None:
    """A repeated name, something that is no name, a name without annotation, an image that is gone."""
    root = write(tmp_path, {"a": obj("dog"), "b": obj("dog")})
    listed = root / "ImageSets" / "Main" / "train.txt"
    for text, message in (
        ("a\nb\na\n", "line 3: 'a' is already in line 1"),
        ("a\nb c\n", "line 2: expected an image name, got 'b c'"),
        ("a\nz\n", "z.xml: no such annotation"),
        ("\n", "expected at least one image"),
    ):
        listed.write_text(text)
        with pytest.raises(SourceError, match=message):
            read_dataset(listed)
    (root / "JPEGImages" / "b.png").unlink()
    with pytest.raises(SourceError, match=r"neither 'b\.png' nor 'b' is an image in"):
        read_dataset(root)


def test_two_annotations_of_one_image_are_refused(tmp_path: Path) -> None:
    """Reading it twice would train on half of its objects as background."""
    with pytest.raises(SourceError, match=r"image 'a\.png' already belongs to a\.xml"):
        read_dataset(write(tmp_path, {"a": obj("dog"), "b": obj("dog")}, filename="a.png"))


def test_a_txt_without_annotations_near_it_is_refused(tmp_path: Path) -> None:
    """It might be anything."""
    (tmp_path / "x.txt").write_text("a\n")
    with pytest.raises(SourceError, match="expected a VOC image set"):
        read_dataset(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("declared", "written"),
    [
        ("gb2312", "gb2312"), ("GBK", "gbk"), ("gb2312", "gbk"), ("big5", "big5"), ("Shift_JIS", "cp932"),
        ("euc-kr", "euc-kr"), ("windows-1252", "cp1252"), ("utf-7", "utf-7"), ("UTF-8", "utf-8-sig"),
        ("utf-16", "utf-16"),
    ],
)  # fmt: skip
def test_an_annotation_is_read_in_the_encoding_it_declares(
    tmp_path: Path, declared: str, written: str
) -> None:
    """The XML parser itself knows four; Python knows the rest."""
    name = {"cp1252": "Zürich", "big5": "貓", "euc-kr": "고양이"}.get(written, "猫")
    if (declared, written) == ("gb2312", "gbk"):
        name = "鎔"  # which gb2312 itself lacks, though tools write it under that name
    root = write(tmp_path, {"a": obj("dog")})
    xml = root / "Annotations" / "a.xml"
    text = f'<?xml version="1.0" encoding="{declared}"?>{xml.read_text().replace("dog", name)}'
    xml.write_bytes(text.encode(written))
    assert read_dataset(root).classes == (name,)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("nonsense", "unknown encoding 'nonsense' in its first line; save it as UTF-8"),
        ("rot13", "unknown encoding 'rot13'"),
        ("idna", "unknown encoding 'idna'"),
        ("unicode_escape", "unknown encoding 'unicode_escape'"),
        ("euc-kr", "expected text in euc-kr, as its first line says, got something else"),
    ],
)
def test_an_encoding_that_is_none_is_named_with_its_file(tmp_path: Path, declared: str, message: str) -> None:
    """By data check too, which goes on with the other files."""
    root = write(tmp_path, {"a": obj("dog"), "b": obj("dog")})
    xml = root / "Annotations" / "a.xml"
    xml.write_bytes(f'<?xml version="1.0" encoding="{declared}"?><annotation>'.encode() + b"\xff\xff")
    with pytest.raises(SourceError) as error:
        read_dataset(root)
    assert str(error.value).startswith(f"{xml}: {message}")
    problems: list[Problem] = []
    assert len(read_annotations(root, problems=problems).images) == 1
    assert [problem.kind for problem in problems] == ["annotation"]


def test_an_object_with_two_boxes_is_two_objects(tmp_path: Path) -> None:
    """Some tools write all boxes of a class into one <object>."""
    second = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
    root = write(tmp_path, {"a": obj("dog", 11, 11, 30, 30).replace("</object>", second)})
    sample = read_dataset(root).samples[0]
    assert sample.boxes.tolist() == [[10, 10, 30, 30], [2, 4, 10, 20]]
    assert read_annotations(root).objects.place == ["object[0]/bndbox[0]", "object[0]/bndbox[1]"]
    broken = write(tmp_path, {"a": obj("dog").replace("</object>", second.replace("10", "x"))})
    with pytest.raises(SourceError, match=r"object\[0\]/bndbox\[1\]/xmax: expected a number"):
        read_dataset(broken)


@pytest.mark.parametrize(
    ("text", "difficult"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("", False)]
)
def test_difficult_may_be_a_word(tmp_path: Path, text: str, difficult: bool) -> None:
    """Anything but yes and no is refused."""
    one = obj("dog").replace("<difficult>0<", f"<difficult>{text}<")
    assert read_dataset(write(tmp_path, {"a": one})).samples[0].ignore.tolist() == [difficult]
    with pytest.raises(SourceError, match=r"object\[0\]/difficult: expected 0 or 1, got 'Unspecified'"):
        read_dataset(write(tmp_path, {"a": one.replace(f"<difficult>{text}<", "<difficult>Unspecified<")}))


def test_names_in_an_image_set_may_hold_blanks(tmp_path: Path) -> None:
    """The line "photo 1" is that photo's where there is one, else photo's with the flag of a class."""
    root = write(tmp_path, {"photo": obj("dog"), "photo 1": obj("dog"), "my cat": obj("dog")})
    listed = root / "ImageSets" / "Main" / "train.txt"
    listed.write_bytes("\ufeffphoto 1\nphoto -1\nmy cat  0\n".encode())
    assert [sample.path.stem for sample in read_dataset(listed).samples] == ["photo 1", "photo", "my cat"]


def test_a_size_that_no_image_has_is_refused(tmp_path: Path) -> None:
    """1e300 would overflow what is computed with it."""
    root = write(tmp_path, {"a": obj("dog")}, SIZE.replace("40", "1e300"))
    with pytest.raises(SourceError, match=r"size: expected the image's size in pixels, got 1e\+300x30"):
        read_dataset(root)


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs ../shared/data/bccd")
def test_bccd_is_read_whole() -> None:
    """364 images of three kinds of blood cells, 205 of them for training."""
    parts = [DataSource(BCCD, split=part) for part in ("train", "val", "test")]
    data = read_datasets(parts)
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert len(data) == 364
    assert len(read_dataset(BCCD / "ImageSets" / "Main" / "train.txt")) == 205

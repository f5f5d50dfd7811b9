"""PASCAL VOC in: folders, image sets, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.data import read_dataset
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


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs ../shared/data/bccd")
def test_bccd_is_read_whole() -> None:
    """364 images of three kinds of blood cells, 205 of them for training."""
    data = read_dataset(BCCD)
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert len(data) == 364
    assert len(read_dataset(BCCD / "ImageSets" / "Main" / "train.txt")) == 205

"""Which photos are labelled, what is written, and that our own reader finds it again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import edge_centernet
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.data.coco import file_name, write_labels
from edge_centernet.detections import Detections
from edge_centernet.draw import class_color
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.files import write_atomic
from edge_centernet.labelling.labels import (
    Photo,
    find_photos,
    in_words,
    to_coco,
    write_sheet,
)

PHOTO = Path(edge_centernet.__file__).parent / "assets" / "cat.jpg"
CLASSES = ("cat", "dog")


def place(*paths: Path) -> None:
    """A photo at each path."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTO, path)


def photo(path: Path, *rows: tuple[float, float, float, float, float, int]) -> Photo:
    """With boxes; the photo is 451 x 300 pixels."""
    height, width = cv2.imread(str(PHOTO)).shape[:2]
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Photo(
        path, width, height, Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32), CLASSES)
    )


def test_photos_are_those_below_folders_and_of_data_sets_each_once(tmp_path: Path) -> None:
    """A folder with a subfolder, a file in it again, a COCO JSON; in that order."""
    first, second, third = (
        tmp_path / "a" / "1.jpg",
        tmp_path / "a" / "b" / "2.JPG",
        tmp_path / "images" / "3.jpg",
    )
    place(first, second, third)
    (tmp_path / "a" / "notes.md").write_text("none")
    images = [{"id": 1, "file_name": "3.jpg", "width": 8, "height": 8}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    assert find_photos([tmp_path / "a", first, tmp_path / "set.json"]) == [first, second, third]


def test_places_without_photos_are_one_line(tmp_path: Path) -> None:
    """An empty folder, and what is not there."""
    with pytest.raises(SourceError, match=r"expected photos .* below it, found none"):
        find_photos([tmp_path])
    with pytest.raises(SourceError, match="absent: no such file or folder"):
        find_photos([tmp_path / "absent"])


def test_a_labelled_set_takes_the_words_that_were_asked_for() -> None:
    """The set says sofa, the user couch; a class that the set does not have cannot be measured."""
    data = Dataset(("sofa", "dog"), ())
    assert in_words(data, ["Couch"]).classes == ("Couch", "dog")
    with pytest.raises(ConfigError, match=r"the labelled set has no bird, .* the set has sofa, dog"):
        in_words(data, ["couch", "bird"])


def test_scores_decide_what_is_an_object_ignored_or_left_out(tmp_path: Path) -> None:
    """0.5 itself is an object, 0.2 itself is ignored, 0.1 is left out, and so is a box without an area."""
    rows = [
        (0, 0, 10, 20, 0.5, 1),
        (5, 5, 9, 9, 0.49, 0),
        (1, 1, 2, 2, 0.2, 0),
        (1, 1, 2, 2, 0.1, 0),
        (7, 7, 7, 9, 0.9, 0),
    ]
    content = to_coco([photo(tmp_path / "a.jpg", *rows)], CLASSES, tmp_path / "labels.json", 0.2, 0.5)
    assert content["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 20], "area": 200,
        "score": 0.5, "iscrowd": 0, "ignore": 0,
    }  # fmt: skip
    assert [(one["score"], one["ignore"]) for one in content["annotations"]] == [
        (0.5, 0),
        (0.49, 1),
        (0.2, 1),
    ]


@pytest.mark.parametrize(
    ("where", "out"),
    [
        ("photos/a.jpg", "labels.json"),
        ("a.jpg", "labels.json"),
        ("images/a.jpg", "labels.json"),
        ("labels/a.jpg", "labels.json"),
        ("train/a.jpg", "instances_train.json"),
        ("photos/photos/a.jpg", "photos/labels.json"),
        ("photos/a.jpg", "out/labels.json"),
        ("images/a.jpg", "out/labels.json"),
    ],
)
def test_the_reader_finds_photos_wherever_they_lie(where: str, out: str, tmp_path: Path) -> None:
    """Names are relative to the file and lead `read_dataset` to photos beside, below and above it.

    A photo of another folder is among them, as in a folder of folders, and a namesake where the reader might
    go astray.
    """
    photos = [tmp_path / where, tmp_path / "other" / "b.jpg"]
    place(*photos, tmp_path / "train" / "a.jpg", tmp_path / "images" / "other" / "c.jpg")
    file = tmp_path / out
    file.parent.mkdir(exist_ok=True)
    rows = (10.0, 10.0, 50.0, 60.0, 0.9, 1)
    write_labels(file, {"info": {}, **to_coco([photo(one, rows) for one in photos], CLASSES, file, 0.2, 0.5)})
    data = read_dataset(file)
    assert [sample.path.resolve() for sample in data.samples] == [one.resolve() for one in photos]
    assert data.samples[0].boxes.tolist() == [[10, 10, 50, 60]]
    assert data.classes == CLASSES


def test_a_name_that_is_not_utf_8_is_found_again(tmp_path: Path) -> None:
    """Written as JSON's escape for its byte, which the reader of data sets turns into that byte."""
    odd = tmp_path / os.fsdecode(b"b\xe9.jpg")
    place(odd)
    file = tmp_path / "l.json"
    write_labels(file, to_coco([photo(odd, (1, 2, 30, 40, 0.9, 0))], CLASSES, file, 0.2, 0.5))
    assert [sample.path for sample in read_dataset(file).samples] == [odd]


def test_names_have_forward_slashes_and_no_dot_where_none_is_needed(tmp_path: Path) -> None:
    """As other readers of COCO JSON expect."""
    assert file_name(tmp_path / "photos" / "a.jpg", tmp_path / "labels.json") == "photos/a.jpg"
    assert file_name(tmp_path / "photos" / "a.jpg", tmp_path / "out" / "labels.json") == "../photos/a.jpg"
    assert file_name(tmp_path / "images" / "a.jpg", tmp_path / "labels.json") == "./images/a.jpg"


def test_ignored_boxes_are_read_as_ignored(tmp_path: Path) -> None:
    """What training leaves alone."""
    place(tmp_path / "a.jpg")
    content = to_coco([photo(tmp_path / "a.jpg", (0, 0, 9, 9, 0.9, 0), (0, 0, 5, 9, 0.3, 1))], CLASSES,
                      tmp_path / "l.json", 0.2, 0.5)  # fmt: skip
    write_labels(tmp_path / "l.json", {"info": {"description": "ä"}, **content})
    sample = read_dataset(tmp_path / "l.json").samples[0]
    assert sample.ignore.tolist() == [False, True]


def test_ctrl_c_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interruption comes when all bytes are written, but not yet safe."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "labels.json"
    out.write_text("old")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(out, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("labels.json", "old")]


def test_the_sheet_shows_objects_solid_and_ignored_boxes_broken(tmp_path: Path) -> None:
    """Nearly all of an object's left side has its class's colour; half of an ignored one's is grey."""
    place(tmp_path / "a.jpg")
    one = photo(
        tmp_path / "a.jpg", (20, 60, 200, 280, 0.9, 1), (240, 60, 430, 280, 0.3, 0), (0, 0, 9, 9, 0.1, 0)
    )
    write_sheet([one], CLASSES, tmp_path / "sheet.jpg", 0.2, 0.5)
    sheet = cv2.imread(str(tmp_path / "sheet.jpg")).astype(int)
    scale = 312 / one.width
    top, left = 36 + (320 - round(one.height * scale)) // 2, 4
    rows = slice(top + round(100 * scale), top + round(260 * scale))

    def share(x: float, near: Callable[[np.ndarray], np.ndarray]) -> float:
        column = left + round(x * scale)
        strip = sheet[rows, column - 1 : column + 2]  # the line is two pixels wide
        return float(near(strip).any(axis=1).mean())

    colour = np.array(class_color(1))
    assert share(20, lambda strip: np.abs(strip - colour).max(axis=2) < 60) > 0.95
    grey = share(240, lambda strip: np.abs(strip - 170).max(axis=2) < 25)
    assert 0.3 < grey < 0.85

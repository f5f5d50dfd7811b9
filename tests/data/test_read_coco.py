"""COCO JSON in: what comes out, and what is said about a file that is wrong."""

from __future__ import annotations

import copy
import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_centernet.data import Dataset, read_dataset
from edge_centernet.errors import SourceError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
VOC = SHARED / "voc2007"

GOOD: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.png", "width": 40, "height": 30},
        {"id": 3, "file_name": "a.png", "width": 20, "height": 10},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 5.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [5, 6, 7, 8], "iscrowd": 1},
        {"id": 3, "image_id": 3, "category_id": 2, "bbox": [0, 0, 2, 2], "ignore": 1},
    ],
}


def write(folder: Path, data: Any, images: str = "train") -> Path:
    """instances_train.json beside a folder with the two images."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / images / "a.png"), np.zeros((10, 20, 3), np.uint8))
    cv2.imwrite(str(folder / images / "b.png"), np.zeros((30, 40, 3), np.uint8))
    path = folder / "instances_train.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """GOOD with one thing changed."""
    data = copy.deepcopy(GOOD)
    change(data)
    return data


def test_images_keep_their_order_and_categories_are_sorted_by_id(tmp_path: Path) -> None:
    """Images come as listed, classes by category id, boxes as corners."""
    data = read_dataset(write(tmp_path, GOOD))
    assert data.classes == ("car", "dog")
    assert [sample.path.name for sample in data.samples] == ["b.png", "a.png"]
    b, a = data.samples
    assert (b.width, b.height, a.width, a.height) == (40, 30, 20, 10)
    assert b.boxes.tolist() == [[5, 6, 12, 14]]
    assert a.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 2, 2]]
    assert a.labels.tolist() == [1, 0]
    assert (a.boxes.dtype, a.labels.dtype, a.ignore.dtype) == (np.float32, np.int64, np.bool_)


def test_iscrowd_and_ignore_both_become_ignore(tmp_path: Path) -> None:
    """Either flag marks an object that is neither a miss nor a false alarm."""
    b, a = read_dataset(write(tmp_path, GOOD)).samples
    assert b.ignore.tolist() == [True]
    assert a.ignore.tolist() == [False, True]


def test_the_annotated_area_is_kept_and_a_missing_one_is_the_boxs(tmp_path: Path) -> None:
    """COCO sorts small, medium and large by the mask's area where there is one."""
    _, a = read_dataset(write(tmp_path, GOOD)).samples
    assert a.area is not None
    assert a.area.tolist() == [5.5, 4.0]


def test_given_classes_select_and_order(tmp_path: Path) -> None:
    """Only the classes asked for, in the order asked for."""
    path = write(tmp_path, GOOD)
    assert read_dataset(path, classes=["dog", "car"]).samples[1].labels.tolist() == [0, 1]
    only = read_dataset(path, classes=["dog"])
    assert only.classes == ("dog",)
    assert [len(sample.labels) for sample in only.samples] == [0, 1]


def test_a_class_the_data_lacks_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt class must not go unnoticed, and a split without one class must still be readable."""
    data = read_dataset(write(tmp_path, GOOD), classes=["dog", "cta"])
    assert data.classes == ("dog", "cta")
    assert "has no class named 'cta'" in caplog.text


def test_boxes_are_clipped_and_empty_ones_dropped_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three of six boxes have nothing inside the image; one warning says so."""
    boxes = [[-5, -5, 10, 10], [15, 5, 100, 100], [20, 0, 5, 5], [3, 3, 0, 5], [9, 9, -4, -4], [0, 0, 20, 10]]
    annotations = [{"image_id": 3, "category_id": 2, "bbox": box} for box in boxes]
    data = read_dataset(write(tmp_path, changed(lambda d: d.update(annotations=annotations))))
    assert data.samples[1].boxes.tolist() == [[0, 0, 5, 5], [15, 5, 20, 10], [0, 0, 20, 10]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'instances_train.json'}: dropped 3 of 6 boxes that are empty or lie outside their image"
    ]


def test_scores_say_how_sure_a_label_is(tmp_path: Path) -> None:
    """1 where the file says nothing, or null."""

    def score(data: dict[str, Any]) -> None:
        data["annotations"][0]["score"] = 0.25
        data["annotations"][2]["score"] = None

    b, a = read_dataset(write(tmp_path, changed(score))).samples
    assert (b.scores.tolist(), a.scores.tolist()) == ([1.0], [0.25, 1.0])
    assert (a.scores.dtype, a.unlabelled) == (np.float32, ())


def test_what_was_labelled_is_said_for_the_file_or_an_image(tmp_path: Path) -> None:
    """The file for dogs alone, one image for both; what is unlabelled follows the order of the classes."""

    def label(data: dict[str, Any]) -> None:
        data["info"] = {"labelled_only": ["Dog"]}
        data["images"][1]["labelled_only"] = ["car", "dog"]

    path = write(tmp_path, changed(label))
    assert [sample.unlabelled for sample in read_dataset(path).samples] == [(0,), ()]
    assert [sample.unlabelled for sample in read_dataset(path, classes=["dog", "car"]).samples] == [(1,), ()]
    assert [sample.unlabelled for sample in read_dataset(path, classes=["dog", "cow"]).samples] == [
        (1,),
        (1,),
    ]


def test_boxes_of_unlabelled_classes_stay_but_judge_nobody(tmp_path: Path) -> None:
    """The car of an image labelled for dogs is there, and is not counted; nor is an ignored object."""
    _, a = read_dataset(
        write(tmp_path, changed(lambda d: d["images"][1].update(labelled_only=["dog"])))
    ).samples
    assert (a.labels.tolist(), a.ignore.tolist(), a.unlabelled) == ([1, 0], [False, True], (0,))
    assert a.counted.tolist() == [True, False]
    b, _ = read_dataset(write(tmp_path, changed(lambda d: d["images"][0].update(labelled_only=[])))).samples
    assert (len(b.labels), b.unlabelled, b.counted.tolist()) == (1, (0, 1), [False])


def test_classes_are_chosen_by_synonyms_and_named_as_asked_for(tmp_path: Path) -> None:
    """Two of the file's classes that mean one are read as one."""

    def rename(data: dict[str, Any]) -> None:
        data["categories"] = [{"id": 9, "name": "Dining-Table"}, {"id": 2, "name": "diningtable"}]

    data = read_dataset(write(tmp_path, changed(rename)), classes=["dining table"])
    assert data.classes == ("dining table",)
    assert [sample.labels.tolist() for sample in data.samples] == [[0], [0, 0]]


@pytest.mark.parametrize("images", ["train", "images", "images/train", "."])
def test_images_are_found_where_people_put_them(tmp_path: Path, images: str) -> None:
    """Beside the file: a folder named like the split, images/, images/ by split, or the same folder."""
    data = read_dataset(write(tmp_path, GOOD, images))
    assert all(sample.path.is_file() for sample in data.samples)


def test_images_are_found_in_cocos_own_layout(tmp_path: Path) -> None:
    """annotations/instances_train.json and train/ side by side."""
    path = write(tmp_path, GOOD)
    (tmp_path / "annotations").mkdir()
    moved = path.rename(tmp_path / "annotations" / path.name)
    assert read_dataset(moved).samples[0].path.is_file()


def test_a_file_name_may_repeat_the_folder(tmp_path: Path) -> None:
    """`train/a.png` is found with images=train as well as without."""

    def prefix(data: dict[str, Any]) -> None:
        for image in data["images"]:
            image["file_name"] = "train/" + image["file_name"]

    path = write(tmp_path, changed(prefix))
    for data in (read_dataset(path), read_dataset(path, tmp_path / "train")):
        assert data.samples[0].path == tmp_path / "train" / "b.png"


BAD: list[tuple[str, Any, str]] = [
    ("syntax", '{"images": [\n  {"id": 1,}\n]}', "line 2, column"),
    ("empty", "", "line 1, column 1: expected COCO JSON"),
    ("a list", "[]", "expected a JSON object with images, annotations, categories, got a list"),
    ("no key", changed(lambda d: d.pop("annotations")), "'annotations': expected a list, got no such key"),
    ("no image", changed(lambda d: d["images"].clear()), "'images': expected at least one image"),
    (
        "no category",
        changed(lambda d: d["categories"].clear()),
        "'categories': expected at least one category",
    ),
    (
        "bad box",
        changed(lambda d: d["annotations"][1].update(bbox=[1, 2, 3])),
        "annotations[1].bbox: expected 4 num",
    ),
    (
        "text box",
        changed(lambda d: d["annotations"][1].update(bbox="1234")),
        "annotations[1].bbox: expected 4 num",
    ),
    (
        "nan box",
        changed(lambda d: d["annotations"][0].update(bbox=[1, 2, float("nan"), 4])),
        "annotations[0].bbox",
    ),
    ("no box", changed(lambda d: d["annotations"][0].pop("bbox")), "annotations[0].bbox: expected 4 numbers"),
    (
        "bad area",
        changed(lambda d: d["annotations"][0].update(area="x")),
        "annotations[0].area: expected a number",
    ),
    (
        "image id",
        changed(lambda d: d["annotations"][2].update(image_id=99)),
        "annotations[2].image_id: expected the id",
    ),
    ("class id", changed(lambda d: d["annotations"][2].update(category_id=[])), "annotations[2].category_id"),
    (
        "same id",
        changed(lambda d: d["images"][1].update(id=7)),
        "images[1].id: 7 is already the id of images[0]",
    ),
    (
        "same file",
        changed(lambda d: d["images"][1].update(file_name="b.png")),
        "already the file of images[0]",
    ),
    (
        "no file name",
        changed(lambda d: d["images"][0].pop("file_name")),
        "images[0].file_name: expected a file name",
    ),
    (
        "no width",
        changed(lambda d: d["images"][1].pop("width")),
        "images[1].width: expected the image's width",
    ),
    ("zero height", changed(lambda d: d["images"][1].update(height=0)), "images[1].height: expected"),
    (
        "score",
        changed(lambda d: d["annotations"][1].update(score=1.01)),
        "annotations[1].score: expected a number 0 to 1",
    ),
    (
        "yes",
        changed(lambda d: d["annotations"][1].update(score=True)),
        "annotations[1].score: expected a number 0 to 1",
    ),
    (
        "labelled for",
        changed(lambda d: d.update(info={"labelled_only": ["dgo"]})),
        "info.labelled_only: expected classes of 'categories' ('car', 'dog'), got 'dgo'; did you mean 'dog'?",
    ),
    (
        "labelled text",
        changed(lambda d: d["images"][1].update(labelled_only="dog")),
        "images[1].labelled_only: expected a list of class names, got 'dog'",
    ),
    (
        "not a dict",
        changed(lambda d: d["annotations"].append(3)),
        "annotations[3]: expected an object, got 3",
    ),
    (
        "same class",
        changed(lambda d: d["categories"][1].update(name="dog")),
        "categories[1].name: 'dog' is used twice",
    ),
    (
        "same class id",
        changed(lambda d: d["categories"][1].update(id=9)),
        "categories[1].id: 9 is used twice",
    ),
    ("nameless", changed(lambda d: d["categories"][0].pop("name")), "categories[0]: expected an object with"),
    (
        "missing image",
        changed(lambda d: d["images"][1].update(file_name="c.png")),
        "(1 of 2 images are missing); check the images folder",
    ),
    (
        "no image there",
        changed(lambda d: [i.update(file_name=f"x{i['id']}") for i in d["images"]]),
        "not found in",
    ),
]


@pytest.mark.parametrize(("data", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_wrong_is_said_in_one_line_naming_the_place(tmp_path: Path, data: Any, message: str) -> None:
    """File and line, or key and index, and what was expected."""
    path = write(tmp_path, data)
    with pytest.raises(SourceError) as error:
        read_dataset(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_none_of_the_classes_asked_for_is_an_error(tmp_path: Path) -> None:
    """Nothing to read: the message lists what there is."""
    with pytest.raises(SourceError, match="none of the classes asked for \\('cat'\\); it has 'car', 'dog'"):
        read_dataset(write(tmp_path, GOOD), classes=["cat"])


def test_what_is_no_data_set_is_refused_with_what_would_be(tmp_path: Path) -> None:
    """A missing path or images folder, an empty folder and a strange file: each says what was expected."""
    path = write(tmp_path, GOOD)
    other = tmp_path / "x.bin"
    other.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    for bad in (tmp_path / "none.json", other, empty):
        with pytest.raises(SourceError, match=r"expected a COCO \.json, a PASCAL VOC folder"):
            read_dataset(bad)
    with pytest.raises(SourceError, match="expected the folder of the images"):
        read_dataset(path, tmp_path / "nowhere")


def count(data: Dataset) -> tuple[int, int, int]:
    """Images, objects, ignored objects."""
    return (
        len(data),
        sum(len(sample.labels) for sample in data.samples),
        sum(int(sample.ignore.sum()) for sample in data.samples),
    )


@pytest.mark.skipif(not VOC.is_dir(), reason="needs ../shared/data/voc2007")
def test_voc2007_is_read_whole_in_under_a_second() -> None:
    """3,506 images, 8,833 objects and 2,201 difficult ones, as its notes say; a second of processor time."""
    start = time.process_time()
    data = read_dataset(VOC / "instances_train.json")
    seconds = time.process_time() - start
    assert count(data) == (3506, 8833 + 2201, 2201)
    assert count(read_dataset(VOC / "instances_val.json")) == (1002, 2581 + 581, 581)
    assert len(data.classes) == 20
    assert seconds < 1.0


@pytest.mark.parametrize(
    ("written", "ignored"),
    [
        ("0", False),
        ("1", True),
        (False, False),
        (True, True),
        (0.0, False),
        (" true", True),
        ("False", False),
    ],
)
def test_a_crowd_is_what_the_flag_says_as_text_too(tmp_path: Path, written: object, ignored: bool) -> None:
    """A string "0" is not true."""
    data = changed(lambda d: d["annotations"][0].update(iscrowd=written))
    assert read_dataset(write(tmp_path, data)).samples[1].ignore.tolist() == [ignored, True]


@pytest.mark.parametrize("written", ["maybe", 2, -1, [0], {}])
def test_a_flag_that_says_neither_is_refused(tmp_path: Path, written: object) -> None:
    """What is ignored must not depend on a guess."""
    data = changed(lambda d: d["annotations"][0].update(iscrowd=written))
    with pytest.raises(SourceError, match=r"annotations\[0\]\.iscrowd: expected 0 or 1, got"):
        read_dataset(write(tmp_path, data))


@pytest.mark.parametrize("name", ["dog", "pets"])
def test_the_root_of_roboflows_categories_is_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It is the group of all others and no object has it, whatever it is called; a line says so."""
    root = {"id": 0, "name": name, "supercategory": "none"}
    others = [
        {"id": 9, "name": "dog", "supercategory": name},
        {"id": 2, "name": "car", "supercategory": name},
    ]
    path = write(tmp_path, changed(lambda d: d.update(categories=[root, *others])))

    assert read_dataset(path).classes == ("car", "dog")
    assert f"{name!r} is the group of all other categories, and no object has it: left out" in caplog.text
    # With an object it is a class like any other.
    own = {"id": 4, "image_id": 7, "category_id": 0, "bbox": [1, 1, 5, 5]}
    root["name"] = name = "animal"
    data = changed(lambda d: d.update(categories=[root, *others], annotations=[*d["annotations"], own]))
    assert read_dataset(write(tmp_path, data)).classes == ("animal", "car", "dog")


def test_an_accent_may_be_one_character_or_two(tmp_path: Path) -> None:
    """Files that macOS packed have names in NFD, JSON has NFC as a rule; both look alike."""
    composed, apart = (unicodedata.normalize(form, "Größe né.png") for form in ("NFC", "NFD"))
    for said, real in ((composed, apart), (apart, composed)):
        path = write(tmp_path / ("a" if said == composed else "b"), changed(_renamed(said)))
        (path.parent / "train" / "a.png").rename(path.parent / "train" / real)
        assert read_dataset(path).samples[1].path.name == real


def _renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["images"][1].update(file_name=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "got lists that are nested too deeply"),
        (json.dumps(GOOD).replace("5.5", "1" * 5000), "got a number with thousands of digits"),
        (
            json.dumps(GOOD).replace("5.5", "1" * 400),
            "annotations[0].area: expected a number of pixels, got 1111",
        ),
        (
            json.dumps(GOOD).replace("[1, 2, 3, 4]", f"[1, 2, {'9' * 400}, 4]"),
            "annotations[0].bbox: expected 4",
        ),
        (json.dumps(GOOD).replace("[1, 2, 3, 4]", "[1e308, 2, 1e308, 4]"), "annotations[0].bbox: expected 4"),
        (json.dumps(GOOD).replace("[1, 2, 3, 4]", json.dumps(["x" * 9999] * 9999)), "annotations[0].bbox"),
    ],
)
def test_a_hostile_file_is_one_short_line(tmp_path: Path, text: str, message: str) -> None:
    """Numbers that no float holds, lists in lists, values of a hundred million letters."""
    with pytest.raises(SourceError) as error:
        read_dataset(write(tmp_path, text))
    assert message in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "name", ["\x1b[2Jdog", "do\ng", "\ufeffdog", "dog\u200b", "\ud800", "d" * 65, "d" * 1_000_000]
)
def test_a_class_name_is_1_to_64_printable_characters(tmp_path: Path, name: str) -> None:
    """It goes to terminals, tables and topics; the message shows what cannot be seen."""
    data = changed(lambda d: d["categories"][0].update(name=name))
    with pytest.raises(
        SourceError, match=r"categories\[0\]\.name: expected a class name of 1 to 64"
    ) as error:
        read_dataset(write(tmp_path, data))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_blanks_around_a_class_name_are_no_part_of_it(tmp_path: Path) -> None:
    """As they are in no table; `eval` would know no such class."""
    assert read_dataset(
        write(tmp_path, changed(lambda d: d["categories"][0].update(name=" dog ")))
    ).classes == (
        "car",
        "dog",
    )


def test_an_image_is_read_in_the_annotated_size_or_not_at_all(tmp_path: Path) -> None:
    """Turned or resized after annotating: its boxes would be in the wrong place."""
    data = read_dataset(write(tmp_path, changed(lambda d: d["images"][1].update(width=10, height=20))))
    assert data.samples[0].read().shape == (30, 40, 3)
    for read in (data.samples[1].read, lambda: data.check_images("check")):
        with pytest.raises(
            SourceError, match=r"a\.png: expected 10x20 pixels as its annotation says, got 20x10"
        ):
            read()

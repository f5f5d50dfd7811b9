"""What `check_dataset` says about sets that are right, broken in one place each, and real."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edge_centernet
from edge_centernet.data import DataSource, read_dataset, read_datasets
from edge_centernet.data.check import KINDS, Report, check_dataset
from edge_centernet.data.duplicates import find_alike, thumbnail
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.evaluation.crowds import centre_collisions
from edge_centernet.manifest import InputSize, ModelSpec

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
CARDS, BCCD = SHARED / "playing_cards", SHARED / "bccd"
ASSETS = Path(edge_centernet.__file__).parent / "assets"
PHOTOS = ("cat", "astronaut", "sample")
# Letterbox doubles it to 320x320, with 80 rows of padding above: input = 2 * image + (0, 80).
WIDTH, HEIGHT = 160, 80


def photo(name: str, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A real photo, resized."""
    image = cv2.imread(str(ASSETS / f"{name}.jpg"))
    assert image is not None
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def save(path: Path, image: NDArray[np.uint8], quality: int = 95) -> Path:
    """As JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


def coco(folder: Path, boxes: list[tuple[int, str, list[float]]], photos: tuple[str, ...] = PHOTOS) -> Path:
    """instances.json and images/; boxes: (image, class, x y width height)."""
    names = ("car", "dog")
    for name in photos:
        save(folder / "images" / f"{name}.jpg", photo(name))
    data = {
        "images": [
            {"id": i, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(photos)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": names.index(name) + 1, "bbox": box}
            for i, (image, name, box) in enumerate(boxes)
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


GOOD: list[tuple[int, str, list[float]]] = [
    (0, "car", [10, 10, 10, 10]),
    (0, "dog", [40, 10, 40, 40]),
    (1, "car", [0, 0, 160, 80]),
    (2, "dog", [100, 20, 20, 5]),
]


def kinds(report: Report) -> dict[str, int]:
    """How many findings of each kind."""
    return dict(Counter(finding.kind for finding in report.findings))


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The same file after `change`."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def test_a_good_set_has_no_finding_and_is_described(tmp_path: Path) -> None:
    """Counts, balance, and sizes as the network sees them: twice those of these images."""
    report = check_dataset(coco(tmp_path, GOOD))
    assert report.findings == ()
    assert (report.errors, report.warnings) == (0, 0)
    figures = report.sets["train"]
    assert [figures[key] for key in ("images", "readable", "empty_images", "objects", "ignored")] == [
        3,
        3,
        0,
        4,
        0,
    ]
    assert figures["classes"] == {
        "car": {"objects": 2, "images": 2, "share": 0.5, "ignored": 0, "unlabelled": 0},
        "dog": {"objects": 2, "images": 2, "share": 0.5, "ignored": 0, "unlabelled": 0},
    }
    size = figures["box_px"]
    # sides 20x20, 80x80, 320x160, 40x10: square roots of the areas 20, 80, 226.3, 20
    assert [round(size[key], 1) for key in ("min", "p25", "p50", "max")] == [20.0, 20.0, 50.0, 226.3]
    assert [size[key] for key in ("small", "medium", "large", "under_1_cell", "under_2_cells")] == [
        2,
        1,
        1,
        0,
        0,
    ]
    assert figures["collisions"]["any_class"] == {"objects": 0, "rate": 0.0, "lost": 0}


def test_the_input_size_decides_what_is_small(tmp_path: Path) -> None:
    """At 64 pixels the box of 9x9 is 3.6 pixels large, under a cell of 4; that of 10x10 is 4.0, under two."""
    boxes = [*GOOD[:2], (1, "car", [0, 0, 9, 9]), (2, "car", [9, 9, 60, 60])]
    report = check_dataset(coco(tmp_path, boxes), size=InputSize(64, 64), stride=4)
    size = report.sets["train"]["box_px"]
    assert [round(size[key], 1) for key in ("min", "p50", "max")] == [3.6, 10.0, 24.0]
    assert (size["under_1_cell"], size["under_2_cells"], size["small"]) == (1, 2, 4)
    assert kinds(report) == {"tiny": 1}
    assert "annotations[2] (car): 9 wide, 9 high is 3.6 pixels" in report.findings[0].text


def test_a_wide_input_is_filled_as_detection_fills_it(tmp_path: Path) -> None:
    """Photos of 160x80 come into 320x96 at 1.2 times their size, and cells end at its own edges."""
    report = check_dataset(
        coco(tmp_path, [*GOOD[:2], (1, "car", [150, 70, 10, 10])]), size=InputSize(320, 96), stride=8
    )
    assert round(report.sets["train"]["box_px"]["min"], 3) == 12.0
    assert report.to_json()["input_size"] == [320, 96]
    assert report.sets["train"]["collisions"]["any_class"]["objects"] == 0


@pytest.mark.parametrize(
    ("box", "kind", "text"),
    [
        ([10, 10, 0, 10], "degenerate", "left 10, top 10, right 10, bottom 20 is 0 wide and 10 high"),
        ([30, 30, 10, -4], "degenerate", "is 10 wide and -4 high"),
        ([170, 10, 10, 10], "outside", "has nothing inside the image of 160x80"),
        ([-5.5, 10, 20, 10], "over_edge", "is 5.5 pixels over the edge of 160x80"),
        ([10, 60, 20, 20.9], None, ""),
        ([10, 10, float("nan"), 10], "annotation", "annotations[4].bbox: expected 4 numbers"),
        ([10, 10, 5], "annotation", "annotations[4].bbox: expected 4 numbers"),
        ([40.5, 10, 40, 40], "duplicate_box", "annotations[1] (dog) and annotations[4] (car): IoU 0.98"),
        ([20, 20, 1, 1], "tiny", "annotations[4] (car): 1 wide, 1 high is 2.0 pixels"),
    ],
)
def test_a_bad_box_is_named(tmp_path: Path, box: list[float], kind: str | None, text: str) -> None:
    """One finding that says which annotation, and all else is still counted; a rounding error is none."""
    report = check_dataset(coco(tmp_path, [*GOOD, (0, "car", box)]))
    found = [
        finding for finding in report.findings if finding.kind != "collision"
    ]  # a second box shares its centre
    assert [finding.kind for finding in found] == ([kind] if kind else [])
    assert all(text in finding.text for finding in found)
    assert report.sets["train"]["objects"] >= 4
    if kind not in ("annotation", None):
        assert found[0].image == tmp_path / "images" / "cat.jpg"


def test_a_hundred_equal_boxes_are_no_thousands_of_findings(tmp_path: Path) -> None:
    """One finding for each that repeats an earlier one, and one short line for the cell that they share."""
    report = check_dataset(coco(tmp_path, [(0, "dog", [10, 10, 40, 40])] * 100))
    texts = [finding.text for finding in report.findings if finding.kind == "duplicate_box"]
    assert [text.split(": ", 1)[1] for text in (texts[0], texts[-1])] == [
        "annotations[0] (dog) and annotations[1] (dog): IoU 1.00",
        "annotations[0] (dog) and annotations[99] (dog): IoU 1.00",
    ]
    assert len(texts) == 99
    (shared,) = [finding.text for finding in report.findings if finding.kind == "collision"]
    assert "annotations[7] (dog) and 92 more in the cell of row" in shared


def test_every_problem_of_a_file_is_named_not_the_first_alone(tmp_path: Path) -> None:
    """Three bad annotations, a bad image entry with two objects, and what is good is still checked."""

    def damage(data: dict[str, Any]) -> None:
        data["annotations"] += [
            {"image_id": 0, "category_id": 9, "bbox": [1, 2, 3, 4]},
            {"image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]},
            5,
        ]
        data["images"].append({"id": 3, "file_name": "x.jpg", "width": 0, "height": 5})
        data["images"].append({"id": 0, "file_name": "y.jpg", "width": 9, "height": 5})

    path = edited(coco(tmp_path, GOOD), damage)
    report = check_dataset(path)
    assert [finding.text.removeprefix(f"{path}: ").split(":")[0] for finding in report.findings] == [
        "images[3].width",
        "images[4].id",
        "annotations[4].category_id",
        "annotations[5].image_id",
        "annotations[6]",
    ]
    assert kinds(report) == {"annotation": 5}
    assert (report.errors, report.sets["train"]["images"], report.sets["train"]["objects"]) == (5, 3, 4)
    with pytest.raises(SourceError, match=r"images\[3\]\.width"):
        read_dataset(path)


def test_images_that_are_missing_cut_or_of_another_size_are_named(tmp_path: Path) -> None:
    """Each by its file."""
    path = coco(tmp_path, GOOD)
    images = tmp_path / "images"
    (images / "cat.jpg").unlink()
    (images / "astronaut.jpg").write_bytes((images / "astronaut.jpg").read_bytes()[:2000])
    save(images / "sample.jpg", photo("sample", 80, 160))
    report = check_dataset(path)
    assert [(finding.kind, finding.image) for finding in report.findings] == [
        ("image", images / "cat.jpg"),
        ("image", images / "astronaut.jpg"),
        ("size", images / "sample.jpg"),
    ]
    assert "no such file" in report.findings[0].text
    assert "cut off" in report.findings[1].text
    assert "is 80x160 pixels (turned as EXIF says), annotated as 160x80" in report.findings[2].text
    assert (report.sets["train"]["images"], report.sets["train"]["readable"]) == (3, 1)


def test_ignored_objects_are_counted_apart(tmp_path: Path) -> None:
    """Crowds are nothing to learn: no size, no collision, no second box, but their image is not empty."""
    path = edited(coco(tmp_path, [*GOOD, GOOD[0]]), lambda data: data["annotations"][4].update(iscrowd=1))
    edited(path, lambda data: data["annotations"][3].update(ignore=1))
    report = check_dataset(path)
    assert report.findings == ()
    figures = report.sets["train"]
    assert (figures["objects"], figures["ignored"], figures["empty_images"]) == (3, 2, 0)
    assert figures["classes"]["dog"] == {
        "objects": 1,
        "images": 1,
        "share": 1 / 3,
        "ignored": 1,
        "unlabelled": 0,
    }


def test_images_without_boxes_and_classes_without_objects_are_warnings(tmp_path: Path) -> None:
    """They may be meant."""
    report = check_dataset(coco(tmp_path, [GOOD[0], GOOD[2]]))
    assert kinds(report) == {"empty_image": 1, "empty_class": 1}
    assert [finding.text.split("/")[-1] for finding in report.findings] == [
        "sample.jpg: has no box",
        "dog: has no object to learn from",
    ]
    assert report.errors == 0


def test_centres_in_one_cell_are_counted_by_class_and_in_all(tmp_path: Path) -> None:
    """Cells of 4 input pixels are 2 pixels of these images.

    The centres are at (20, 20), (21, 21), (21.9, 21) and (22, 21).
    """
    boxes = [
        (0, "car", [10.0, 10, 20, 20]),
        (0, "car", [18.0, 18, 6, 6]),
        (0, "dog", [11.9, 16, 20, 10]),
        (0, "car", [17.0, 16, 10, 10]),  # the next cell
        (1, "car", [10.0, 10, 20, 20]),  # another image
        (2, "dog", [10.0, 10, 20, 20]),
    ]
    report = check_dataset(coco(tmp_path, boxes), stride=4)
    collisions = report.sets["train"]["collisions"]
    assert collisions["same_class"] == {"objects": 2, "rate": 2 / 6, "lost": 1}
    assert collisions["any_class"] == {"objects": 3, "rate": 0.5, "lost": 2}
    assert [finding.text.split(": ", 1)[1] for finding in report.findings] == [
        "annotations[0] (car), annotations[1] (car) in the cell of row 30, column 10"
    ]
    wide = check_dataset(coco(tmp_path, boxes), stride=8).sets["train"]
    assert wide["collisions"]["same_class"] == {"objects": 3, "rate": 0.5, "lost": 2}, (
        "cells are twice as wide"
    )
    assert wide["collisions"]["any_class"] == {"objects": 4, "rate": 4 / 6, "lost": 3}
    with pytest.raises(ConfigError, match="stride: expected 4 or 8 pixels, got 16"):
        check_dataset(coco(tmp_path, boxes), stride=16)


class TestDuplicates:
    """Images that are the same."""

    def test_a_file_in_train_and_val_is_an_error_whatever_its_name(self, tmp_path: Path) -> None:
        """By its bytes."""
        train = coco(tmp_path / "train", GOOD[:2], ("cat", "astronaut"))
        val = coco(tmp_path / "val", [(0, "car", [1, 1, 30, 30])], ("sample",))
        assert kinds(check_dataset(train, val)) == {"empty_image": 1}
        (tmp_path / "val/images/sample.jpg").write_bytes((tmp_path / "train/images/cat.jpg").read_bytes())
        report = check_dataset(train, val)
        assert kinds(report) == {"leak": 1, "empty_image": 1}
        assert report.errors == 1
        cat, sample = tmp_path / "train/images/cat.jpg", tmp_path / "val/images/sample.jpg"
        assert report.findings[0].text == f"{sample}: is the same file as {cat}"

    def test_a_smaller_and_recompressed_copy_is_found(self, tmp_path: Path) -> None:
        """In val as a near leak, in one set as a near duplicate; it names the original."""
        train = coco(tmp_path / "train", GOOD)
        copy = cv2.resize(photo("cat"), (96, 48), interpolation=cv2.INTER_AREA).astype(np.uint8)
        save(tmp_path / "val/images/other.jpg", copy, quality=40)
        val = coco(tmp_path / "val", [(0, "car", [1, 1, 30, 30])], ("sample",))
        edited(val, lambda data: data["images"][0].update(file_name="other.jpg", width=96, height=48))
        report = check_dataset(train, val)
        assert kinds(report) == {"near_leak": 1}
        assert f"looks like {tmp_path / 'train/images/cat.jpg'} (" in report.findings[0].text

        def add(data: dict[str, Any]) -> None:
            data["images"].append({"id": 9, "file_name": "copy.jpg", "width": WIDTH, "height": HEIGHT})
            data["images"].append({"id": 10, "file_name": "same.jpg", "width": WIDTH, "height": HEIGHT})
            data["annotations"] += [
                {"image_id": i, "category_id": 1, "bbox": [9, 9, 20, 20]} for i in (9, 10)
            ]

        save(tmp_path / "train/images/copy.jpg", photo("cat"), quality=40)
        (tmp_path / "train/images/same.jpg").write_bytes((tmp_path / "train/images/cat.jpg").read_bytes())
        report = check_dataset(edited(train, add))
        assert [(finding.kind, finding.image and finding.image.name) for finding in report.findings] == [
            ("duplicate", "same.jpg"),
            ("near_duplicate", "copy.jpg"),
        ]

    def test_different_and_even_pictures_are_not_alike(self) -> None:
        """Photos of different things, an even sky with a speck here and there, white and black."""
        rng = np.random.default_rng(5)
        pictures = [thumbnail(photo(name)) for name in PHOTOS]
        for _ in range(20):
            sky = np.full((HEIGHT, WIDTH, 3), 180, np.uint8)
            y, x = rng.integers(HEIGHT - 20), rng.integers(WIDTH - 20)
            sky[y : y + 20, x : x + 20] = 90
            pictures.append(thumbnail(sky))
        pictures += [np.full((8, 9), value, np.uint8) for value in (0, 255)]
        assert list(find_alike(np.stack(pictures))) == []

    def test_the_most_alike_is_named_across_blocks(self) -> None:
        """600 random images, three blocks; number 599 is number 3 with one grey level more in one pixel."""
        images = np.random.default_rng(1).integers(0, 250, (600, 8, 9)).astype(np.uint8)
        images[599] = images[3]
        images[599, 4, 4] += 1
        (found,) = find_alike(images)
        assert (found.image, found.other) == (599, 3)
        assert found.distance <= 2
        assert found.correlation > 0.999
        assert [(one.image, one.other) for one in find_alike(images[599:], images[:599])] == [(0, 3)]


def test_a_class_that_only_val_has_is_an_error(tmp_path: Path) -> None:
    """Every object of it would be a miss."""
    train = coco(tmp_path / "train", [GOOD[0]], ("cat",))
    val = coco(tmp_path / "val", [(0, "dog", [1, 1, 30, 30])], ("sample",))
    report = check_dataset(train, val)
    assert kinds(report) == {"class_missing": 1, "empty_class": 1}
    assert report.findings[0].text == "dog: has objects in val, none in train"
    assert list(report.sets) == ["train", "val"]


def test_val_may_use_another_word_for_a_class_of_train(tmp_path: Path) -> None:
    """A couch is a sofa."""
    train = coco(tmp_path / "train", [GOOD[0]], ("cat",))
    val = coco(tmp_path / "val", [(0, "car", [1, 1, 30, 30])], ("sample",))
    for path, name in ((train, "sofa"), (val, "Couch")):
        edited(path, lambda data, name=name: data["categories"][0].update(name=name))  # type: ignore[misc]
    assert kinds(check_dataset(train, val)) == {"empty_class": 1}


BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
OBJECT = f"<object><name>{{}}</name>{BOX}</object>"


def voc(root: Path, files: dict[str, str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A VOC folder of these photos; `files`: photo -> what stands in its annotation."""
    for name, objects in files.items():
        save(root / "JPEGImages" / f"{name}.jpg", photo(name))
        annotation = root / "Annotations" / f"{name}.xml"
        annotation.parent.mkdir(exist_ok=True)
        text = (
            f"<filename>{name}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        )
        annotation.write_text(f"<annotation>{text}{objects}</annotation>")
    return root


def test_voc_goes_on_after_every_kind_of_problem(tmp_path: Path) -> None:
    """Broken XML, no number, no image; a whole-image box is neither over the edge nor tiny."""
    files = {"cat": OBJECT.format("car", 1, 1, WIDTH, HEIGHT), "astronaut": "<object>", "sample": ""}
    files["sample"] = OBJECT.format("car", "nan", 1, 9, 9) + OBJECT.format("dog", 8, 8, 20, 20)
    root = voc(tmp_path, files)
    (root / "Annotations" / "gone.xml").write_text("<annotation><filename>gone.jpg</filename></annotation>")
    report = check_dataset(root)
    assert [
        (finding.kind, finding.text.split("Annotations/")[1].split(":")[0]) for finding in report.findings
    ] == [
        ("annotation", "astronaut.xml"),
        ("annotation", "sample.xml"),
        ("image", "gone.xml"),
    ]
    assert "object[0]/bndbox/xmin: expected a number of pixels, got 'nan'" in report.findings[1].text
    assert (report.sets["train"]["images"], report.sets["train"]["objects"]) == (2, 2)


def test_voc_boxes_that_are_swapped_or_annotated_on_a_larger_photo(tmp_path: Path) -> None:
    """Corners in the wrong order; 320x160 where the photo has 160x80."""
    root = voc(
        tmp_path,
        {"cat": OBJECT.format("car", 60, 10, 20, 50) + OBJECT.format("dog", 9, 9, 50, 50)},
        (320, 160),
    )
    report = check_dataset(root)
    assert kinds(report) == {"size": 1, "degenerate": 1, "empty_class": 1}
    assert "object[0] (car): left 59, top 9, right 20, bottom 50" in report.findings[1].text


def yolo(root: Path, labels: dict[str, str | None]) -> Path:
    """A YOLO folder of these photos; None for a photo without a label file."""
    for name, text in labels.items():
        save(root / "images" / f"{name}.jpg", photo(name))
        if text is not None:
            (root / "labels").mkdir(exist_ok=True)
            (root / "labels" / f"{name}.txt").write_text(text)
    (root / "classes.txt").write_text("car\ndog\n")
    return root


def test_a_yolo_folder_is_described(tmp_path: Path) -> None:
    """Fractions become pixels; a photo without labels is an empty image."""
    root = yolo(tmp_path, {"cat": "0 0.5 0.5 0.25 0.5\n1 0.2 0.2 0.1 0.2\n", "sample": None})
    report = check_dataset(root)
    assert kinds(report) == {"empty_image": 1}
    figures = report.sets["train"]
    assert [one["objects"] for one in figures["classes"].values()] == [1, 1]
    assert round(figures["box_px"]["max"], 1) == 80.0  # 40x40 pixels, twice as large in the input


def test_yolo_goes_on_after_every_kind_of_problem(tmp_path: Path) -> None:
    """Lines that are wrong, a cut image, and labels whose image is gone; each with file and line."""
    good = "0 0.5 0.5 0.25 0.5\n"
    labels = {"cat": f"{good}7 0.5 0.5 0.1 0.1\n0 0.5 nan 0.1 0.1\n1 0.2 0.2 0 0.1\n", "astronaut": good}
    root = yolo(tmp_path, {**labels, "sample": f"0 30 20 10 10\n1 0.5 0.5 0.3 0.3\n{good}"})
    (root / "images" / "astronaut.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "labels" / "gone.txt").write_text(good)
    (root / "labels" / "classes.txt").write_text("car\ndog\n")
    report = check_dataset(root)
    names = [finding.text.removeprefix(f"{root}/").split(": expected")[0] for finding in report.findings]
    assert names[:3] == ["labels/cat.txt: line 2", "labels/cat.txt: line 3", "labels/sample.txt: line 1"]
    assert names[3].startswith("images/astronaut.jpg: ")
    assert names[4].startswith("images/cat.jpg: line 4 (dog): left 32")
    assert names[5] == "labels/gone.txt"
    expected = [*["annotation"] * 3, "image", "degenerate", "orphan"]
    assert [finding.kind for finding in report.findings] == expected
    assert (report.sets["train"]["images"], report.sets["train"]["objects"]) == (2, 3)
    with pytest.raises(SourceError):
        read_dataset(root)


def test_a_yolo_list_names_every_missing_image(tmp_path: Path) -> None:
    """Both lines of train.txt, and the third is checked."""
    pytest.importorskip("yaml", reason="needs PyYAML")
    root = yolo(tmp_path, {"cat": "0 0.5 0.5 0.25 0.5\n1 0.2 0.2 0.1 0.2\n"})
    (root / "train.txt").write_text("images/a.jpg\nimages/cat.jpg\nimages/b.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nnames: [car, dog]\n")
    report = check_dataset(root / "data.yaml")
    assert [finding.text.split(": ")[1] for finding in report.findings] == ["line 1", "line 3"]
    assert kinds(report) == {"image": 2}


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    """A set that cannot be read at all, a set compared with itself, a size that no model has."""
    path = coco(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="is the training set itself"):
        check_dataset(path, path)
    with pytest.raises(ConfigError, match=r"each a multiple of 32 .* got '100x96'"):
        check_dataset(path, size=InputSize(100, 96))
    with pytest.raises(SourceError, match=r"images\[0\]\.width"):
        check_dataset(edited(path, lambda data: [image.pop("width") for image in data["images"]]))
    path.write_text("{")
    with pytest.raises(SourceError, match="line 1, column 2"):
        check_dataset(path)


def test_the_report_is_json_and_sorted_errors_first(tmp_path: Path) -> None:
    """No NaN, no path objects, and what must be mended comes first."""
    boxes = [*GOOD, (0, "car", [1, 1, 0, 9]), (0, "car", [-5, 1, 20, 9]), (0, "dog", [-90, 1, 20, 9])]
    report = check_dataset(coco(tmp_path, boxes))
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [finding["kind"] for finding in record["findings"]] == ["degenerate", "outside", "over_edge"]
    assert (record["errors"], record["warnings"], record["stride"], record["input_size"]) == (
        2,
        1,
        8,
        [320, 320],
    )
    assert record["findings"][0]["image"] == str(tmp_path / "images" / "cat.jpg")
    severities = [kind.severity for kind in KINDS.values()]
    assert severities == sorted(severities)


@pytest.mark.skipif(not CARDS.is_dir(), reason="needs ../shared/data/playing_cards")
def test_playing_cards_have_no_errors() -> None:
    """296 and 67 photos, 527 and 143 cards as its notes say; six photos taken twice, none of them in both."""
    report = check_dataset(CARDS / "instances_train.json", CARDS / "instances_val.json")
    assert kinds(report) == {"near_duplicate": 6}
    assert [(figures["images"], figures["objects"]) for figures in report.sets.values()] == [
        (296, 527),
        (67, 143),
    ]
    assert "cam_image54.jpg" in " ".join(finding.text for finding in report.findings)


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs ../shared/data/bccd")
def test_bccd_holds_two_specks_and_seven_cells_annotated_twice() -> None:
    """VOC XML; its collisions are those that `edge_centernet.evaluation.crowds` counts for model cards."""
    parts = [DataSource(BCCD, split=part) for part in ("train", "val", "test")]
    report = check_dataset(parts, stride=4)
    assert kinds(report) == {"near_duplicate": 1, "duplicate_box": 7, "tiny": 2, "collision": 5}
    tiny = {
        finding.text.split("/")[-1].split(":")[0] for finding in report.findings if finding.kind == "tiny"
    }
    assert tiny == {"BloodImage_00338.jpg", "BloodImage_00343.jpg"}
    data = read_datasets(parts)
    spec = ModelSpec(name="m", version="1", height=320, width=320, classes=data.classes)
    expected = sum(int(centre_collisions(sample, spec).sum()) for sample in data.samples)
    assert report.sets["train"]["collisions"]["same_class"]["objects"] == expected == 10

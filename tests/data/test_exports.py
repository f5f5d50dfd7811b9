"""What labelling tools export, in their own layouts, as a folder and as a zip file."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_centernet.data import DataSource, find_parts, read_dataset, read_datasets, to_measure_on, use_parts
from edge_centernet.data.archive import cached_folder, unpack
from edge_centernet.errors import SourceError

# Every image has 40x20 pixels and one dog in this box.
BOX = [10, 4, 30, 16]
YOLO_LINE = "1 0.5 0.5 0.5 0.6\n"  # class 1 of cat, dog


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def image(path: Path) -> None:
    """An image of 40x20 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 40, 3), 90, np.uint8))


def text(path: Path, content: str) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coco(path: Path, names: list[str], root_class: bool = False) -> None:
    """A COCO file with one dog in each of these images."""
    categories: list[dict[str, Any]] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    if root_class:
        categories = [{"id": 0, "name": "pets", "supercategory": "none"}] + [
            {**one, "supercategory": "pets"} for one in categories
        ]
    x1, y1, x2, y2 = BOX
    box = [x1, y1, x2 - x1, y2 - y1]
    data = {
        "info": {"description": "export"},
        "images": [{"id": i, "file_name": name, "width": 40, "height": 20} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, "category_id": 2, "bbox": box} for i in range(len(names))],
        "categories": categories,
    }
    text(path, json.dumps(data))


def voc(path: Path, name: str) -> None:
    """A VOC file about the image of this name."""
    box = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (11, 5, 30, 16), strict=True)
    )
    size = "<size><width>40</width><height>20</height><depth>3</depth></size>"
    text(
        path,
        f"<annotation><folder></folder><filename>{name}</filename>{size}"
        f"<object><name>dog</name><difficult>0</difficult><bndbox>{box}</bndbox></object></annotation>",
    )


def labelme(path: Path, image_path: str, **shape: Any) -> None:
    """A labelme file with one dog."""
    one = {"label": "dog", "points": [BOX[:2], BOX[2:]], "group_id": None, "shape_type": "rectangle", **shape}
    data = {"version": "5.5.0", "flags": {}, "shapes": [one], "imagePath": image_path, "imageData": None}
    text(path, json.dumps({**data, "imageHeight": 20, "imageWidth": 40}))


# ---- the exports: each writes a set into a folder


def roboflow_yolo(root: Path) -> None:
    """YOLOv8: a folder for each part; data.yaml names a test that is not there."""
    for part in ("train", "valid"):
        image(root / part / "images" / f"{part}_jpg.rf.0f3a.jpg")
        text(root / part / "labels" / f"{part}_jpg.rf.0f3a.txt", YOLO_LINE)
    text(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        "nc: 2\nnames: ['cat', 'dog']\n",
    )
    text(root / "README.roboflow.txt", "pets\n")


def roboflow_coco(root: Path) -> None:
    """COCO: JSON and images in one folder for each part, with a root class that is empty."""
    for part in ("train", "valid", "test"):
        image(root / part / f"{part}_jpg.rf.0f3a.jpg")
        coco(root / part / "_annotations.coco.json", [f"{part}_jpg.rf.0f3a.jpg"], root_class=True)
    text(root / "README.dataset.txt", "pets\n")


def roboflow_voc(root: Path) -> None:
    """Pascal VOC: XML and images in one folder for each part."""
    for part in ("train", "valid"):
        image(root / part / f"{part}_jpg.rf.0f3a.jpg")
        voc(root / part / f"{part}_jpg.rf.0f3a.xml", f"{part}_jpg.rf.0f3a.jpg")


def cvat_coco(root: Path) -> None:
    """COCO 1.0 of a task: one file for the subset default."""
    image(root / "images" / "default" / "shop" / "a.jpg")
    coco(root / "annotations" / "instances_default.json", ["shop/a.jpg"])


def cvat_voc(root: Path) -> None:
    """PASCAL VOC 1.1 of a task, which keeps its folders."""
    image(root / "JPEGImages" / "shop" / "a.jpg")
    voc(root / "Annotations" / "shop" / "a.xml", "shop/a.jpg")
    text(root / "ImageSets" / "Main" / "default.txt", "shop/a\n")
    text(root / "ImageSets" / "Main" / "dog_default.txt", "shop/a  1\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\ncat:1,2,3::\ndog:4,5,6::\n")


def cvat_ultralytics(root: Path) -> None:
    """Ultralytics YOLO Detection 1.0 of a task."""
    image(root / "images" / "train" / "a.jpg")
    text(root / "labels" / "train" / "a.txt", YOLO_LINE)
    text(root / "train.txt", "images/train/a.jpg\n")
    text(root / "data.yaml", "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")


def cvat_yolo_11(root: Path) -> None:
    """YOLO 1.1 of a project with two subsets."""
    for part in ("train", "valid"):
        image(root / f"obj_{part}_data" / f"{part}.jpg")
        text(root / f"obj_{part}_data" / f"{part}.txt", YOLO_LINE)
        text(root / f"{part}.txt", f"data/obj_{part}_data/{part}.jpg\n")
    text(root / "obj.names", "cat\ndog\n")
    text(
        root / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\n"
        "names = data/obj.names\nbackup = backup/\n",
    )


def label_studio_coco(root: Path) -> None:
    """COCO with images, 1.16: file_name is a path of the server."""
    image(root / "images" / "cb0618f6-a.jpg")
    coco(root / "result.json", ["../../label-studio/data/media/upload/4/cb0618f6-a.jpg"])


def label_studio_coco_upload(root: Path) -> None:
    """COCO of older versions."""
    image(root / "images" / "cb0618f6-a.jpg")
    coco(root / "result.json", ["/data/upload/4/cb0618f6-a.jpg"])


def label_studio_coco_windows(root: Path) -> None:
    """COCO on Windows."""
    image(root / "images" / "cb0618f6-a.jpg")
    coco(root / "result.json", ["images\\cb0618f6-a.jpg"])


def label_studio_yolo(root: Path) -> None:
    """YOLO with images; notes.json has categories, but is no COCO."""
    image(root / "images" / "cb0618f6-a.jpg")
    text(root / "labels" / "cb0618f6-a.txt", YOLO_LINE)
    text(root / "classes.txt", "cat\ndog\n")
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    text(root / "notes.json", json.dumps({"categories": categories, "info": {"version": "1.0"}}))


def labelimg_voc(root: Path) -> None:
    """PascalVOC, the XML beside its image."""
    image(root / "a.jpg")
    voc(root / "a.xml", "a.jpg")


def labelimg_yolo(root: Path) -> None:
    """YOLO, the labels beside their image."""
    image(root / "a.jpg")
    text(root / "a.txt", YOLO_LINE)
    text(root / "classes.txt", "cat\ndog\n")


def kaggle(root: Path) -> None:
    """Folders as many sets on Kaggle have them, in a folder of the set's name."""
    image(root / "face-mask" / "images" / "a.png")
    voc(root / "face-mask" / "annotations" / "a.xml", "a.png")


def labelme_folder(root: Path) -> None:
    """The JSON beside its image."""
    image(root / "a.jpg")
    labelme(root / "a.json", "a.jpg")


def labelme_two_folders(root: Path) -> None:
    """JSON and images apart, labelled on Windows."""
    image(root / "images" / "a.jpg")
    labelme(root / "labels" / "a.json", "..\\images\\a.jpg", shape_type="circle", points=[[20, 10], [20, 16]])


def one_coco_file(root: Path) -> None:
    """A COCO file of any name, and a folder of photos of any name."""
    image(root / "photos" / "a.jpg")
    coco(root / "pets.json", ["a.jpg"])


def coco_parts(root: Path) -> None:
    """As COCO itself is packed; captions are no boxes."""
    for part in ("train2017", "val2017"):
        image(root / part / "000001.jpg")
        coco(root / "annotations" / f"instances_{part}.json", ["000001.jpg"])
        text(
            root / "annotations" / f"captions_{part}.json",
            '{"images": [], "annotations": [{"caption": "x"}]}',
        )


def yolo_folders(root: Path) -> None:
    """Folders in images/ and labels/, with a plain list of names: no YAML is needed."""
    for part in ("train", "val", "test"):
        image(root / "images" / part / f"{part}.jpg")
        text(root / "labels" / part / f"{part}.txt", YOLO_LINE)
    text(root / "classes.txt", "cat\ndog\n")


Export = Callable[[Path], None]
WITH_PARTS: dict[Export, set[str]] = {
    roboflow_yolo: {"train", "val"},
    roboflow_coco: {"train", "val", "test"},
    roboflow_voc: {"train", "val"},
    cvat_yolo_11: {"train", "val"},
    coco_parts: {"train", "val"},
    yolo_folders: {"train", "val", "test"},
}
WHOLE_SETS: tuple[Export, ...] = (
    cvat_coco, cvat_voc, cvat_ultralytics, label_studio_coco, label_studio_coco_upload,
    label_studio_coco_windows, label_studio_yolo, labelimg_voc, labelimg_yolo, kaggle, labelme_folder,
    labelme_two_folders, one_coco_file,
)  # fmt: skip
NEEDS_YAML = (roboflow_yolo, cvat_ultralytics)


def packed(root: Path, target: Path, inside: str = "") -> Path:
    """A zip file of a folder. inside: a folder in which everything lies in it."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, inside + str(file.relative_to(root)))
        archive.writestr(f"__MACOSX/{inside}._data.yaml", b"\0\5\x16\7")
    return target


@pytest.mark.parametrize("kind", ["folder", "zip", "zip of a folder"])
@pytest.mark.parametrize("export", [*WITH_PARTS, *WHOLE_SETS], ids=lambda export: export.__name__)
def test_an_export_is_read_as_it_comes(
    export: Export, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each part has its own image with the dog where it was drawn; nothing is merged without a word."""
    if export in NEEDS_YAML:
        pytest.importorskip("yaml", reason="needs PyYAML")
    path = tmp_path / "my export"
    export(path)
    if kind != "folder":
        path = packed(path, tmp_path / "export.zip", "pets/" if kind == "zip of a folder" else "")
    parts = WITH_PARTS.get(export, set())

    for part in parts or {None}:
        data = read_dataset(path, split=part)
        assert len(data) == 1
        sample = data.samples[0]
        assert [data.classes[i] for i in sample.labels] == ["dog"]
        box = [14, 4, 26, 16] if export is labelme_two_folders else BOX  # that one drew a circle
        np.testing.assert_allclose(sample.boxes, [box], atol=1e-4)
        assert sample.read().shape == (20, 40, 3)
        if part is not None and export is not coco_parts:
            assert part in sample.path.name.replace("valid", "val")
    found = use_parts([DataSource(path)], [])
    assert len(found.val) == ("val" in parts)
    assert len(found.test) == ("test" in parts)
    if parts:
        caplog.clear()
        assert len(read_dataset(path)) == 1
        assert "read its part train" in caplog.text


@pytest.mark.parametrize("export", [label_studio_yolo, labelimg_voc, labelme_folder, one_coco_file])
def test_reading_shows_how_far_it_is_where_it_takes_long(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image: one step, in every format, and none where it is quick."""
    export(tmp_path)
    shown: list[tuple[str, int, int]] = []
    read_datasets([DataSource(tmp_path)], progress=lambda *step: shown.append(step))
    assert shown == []
    monkeypatch.setattr("edge_centernet.progress._MOMENT", 0)
    read_datasets([DataSource(tmp_path)], progress=lambda *step: shown.append(step))
    assert shown == [("read labels", 1, 1)]


def test_the_root_class_of_roboflow_is_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It groups the others and has no object."""
    roboflow_coco(tmp_path)
    assert read_dataset(tmp_path, split="val").classes == ("cat", "dog")
    assert "'pets' is the group of all other categories, and no object has it: left out" in caplog.text


def test_a_part_that_data_yaml_names_and_nobody_exported_is_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Roboflow writes `test:` for sets without one."""
    pytest.importorskip("yaml", reason="needs PyYAML")
    roboflow_yolo(tmp_path)
    assert list(find_parts(tmp_path / "data.yaml")) == ["train", "val"]
    assert "'test': '../test/images' is not there: left out" in caplog.text


def test_shapes_of_one_group_are_one_object_and_points_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The group_id of labelme; a keypoint has no box."""
    image(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", "a.jpg")
    data = json.loads((tmp_path / "a.json").read_text())
    left = {"label": "cat", "points": [[1, 1], [5, 1], [5, 9]], "group_id": 3, "shape_type": "polygon"}
    right = {**left, "points": [[20, 2], [30, 2], [30, 12]]}
    point = {"label": "nose", "points": [[3, 3]], "shape_type": "point"}
    data["shapes"] = [left, point, right]
    text(tmp_path / "a.json", json.dumps(data))
    found = read_dataset(tmp_path)
    assert (found.classes, found.samples[0].boxes.tolist()) == (("cat",), [[1, 1, 30, 12]])
    assert "1 points and lines have no box: passed over" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "annotations.xml",
            "<annotations><version>1.1</version></annotations>",
            "export the task again as COCO",
        ),
        ("export.json", '[{"id": 1, "annotations": [{"result": []}]}]', "export as COCO or YOLO"),
        ("labels.csv", "filename,width,height,class\n", "labels in CSV are not read; export as COCO"),
        ("train.tfrecord", "x", "TFRecord files are not read; export as COCO or YOLO"),
        ("data.rar", "Rar!", "unpack it first"),
        ("via.json", '{"_via_settings": {}, "_via_img_metadata": {}}', "export the annotations as COCO"),
    ],
)
def test_what_is_not_read_is_refused_with_the_way_out(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    """One line, for the folder as for the file."""
    image(tmp_path / "set" / "a.jpg")
    text(tmp_path / "set" / name, content)
    with pytest.raises(SourceError, match=message):
        read_dataset(tmp_path / "set")
    if name.endswith((".csv", ".rar", ".tfrecord")):
        with pytest.raises(SourceError, match=message):
            read_dataset(tmp_path / "set" / name)


def test_photos_without_labels_are_refused(tmp_path: Path) -> None:
    """With what makes labels."""
    image(tmp_path / "a.jpg")
    with pytest.raises(SourceError, match=r"images without labels; .*edge-centernet label"):
        read_dataset(tmp_path)


def test_labels_without_photos_are_refused_and_take_a_folder(tmp_path: Path) -> None:
    """CVAT exports without "Save images"; the photos are where they were."""
    cvat_yolo_11(tmp_path / "set")
    (tmp_path / "photos").mkdir()
    (tmp_path / "set/obj_train_data/train.jpg").rename(tmp_path / "photos/train.jpg")
    with pytest.raises(
        SourceError, match=r"train\.jpg does not exist; export again with images, or name their"
    ):
        read_dataset(tmp_path / "set")
    assert read_dataset(tmp_path / "set", tmp_path / "photos").samples[0].labels.tolist() == [1]


def test_two_photos_of_one_name_on_a_server_are_not_mixed_up(tmp_path: Path) -> None:
    """Only their lost folders tell them apart."""
    image(tmp_path / "images" / "a.jpg")
    coco(tmp_path / "result.json", ["/data/upload/1/a.jpg", "/data/upload/2/a.jpg"])
    with pytest.raises(SourceError, match=r"two of its images are called a\.jpg"):
        read_dataset(tmp_path)


def test_several_files_of_no_part_are_asked_about(tmp_path: Path) -> None:
    """Which one is meant, nobody can know."""
    for name in ("first", "second"):
        coco(tmp_path / f"{name}.json", ["a.jpg"])
    with pytest.raises(
        SourceError, match=r"expected one COCO file, .* found first\.json, second\.json; name"
    ):
        read_dataset(tmp_path)


# ---- parts for training


def test_validation_by_the_training_set_is_refused(tmp_path: Path) -> None:
    """Also by another way of writing its path; its own val part is taken where it has one."""
    one_coco_file(tmp_path / "one")
    one = DataSource(tmp_path / "one" / "pets.json")
    again = DataSource(tmp_path / "one" / ".." / "one" / "pets.json")
    with pytest.raises(SourceError, match=r"is the training set itself.*edge-centernet data split"):
        use_parts([one], [again])
    coco_parts(tmp_path / "parts")
    both = DataSource(tmp_path / "parts")
    found = use_parts([both], [both])
    assert [(s.split, v.split) for s, v in zip(found.train, found.val, strict=True)] == [("train", "val")]


def test_accuracy_is_measured_on_what_was_not_trained_on(tmp_path: Path) -> None:
    """On val unless another part is asked for; a set without parts is taken whole."""
    coco_parts(tmp_path / "parts")
    one_coco_file(tmp_path / "one")
    assert to_measure_on(DataSource(tmp_path / "parts")).split == "val"
    assert to_measure_on(DataSource(tmp_path / "parts", split="train")).split == "train"
    assert to_measure_on(DataSource(tmp_path / "one")).split is None


# ---- zip files


def test_a_zip_file_is_unpacked_once(tmp_path: Path) -> None:
    """The second time the folder is there; a newer file has another one. Programs stay packed."""
    labelimg_yolo(tmp_path / "set")
    text(tmp_path / "set" / "convert.py", "print()\n")
    path = packed(tmp_path / "set", tmp_path / "set.zip")
    seen: list[int] = []
    folder = unpack(path, lambda _, done, total: seen.append(total))
    assert sorted(p.name for p in folder.iterdir()) == ["a.jpg", "a.txt", "classes.txt"]
    assert unpack(path, lambda *_: pytest.fail("unpacked again")) == folder
    assert seen == [3, 3, 3]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    path.write_bytes(path.read_bytes() + b" ")
    assert cached_folder(path) != folder


@pytest.mark.parametrize(
    "name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:\\out.txt", "..\\out.txt"]
)
def test_a_path_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    """Nothing is written, neither there nor in the cache."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("classes.txt", "dog\n")
        archive.writestr(zipfile.ZipInfo(name), "x")
    with pytest.raises(SourceError, match="leads out of the folder"):
        read_dataset(tmp_path / "bad.zip")
    assert not list(tmp_path.rglob("out.txt"))
    assert not list((tmp_path / "cache").rglob("classes.txt"))


def test_a_link_is_refused(tmp_path: Path) -> None:
    """It would lead to any file of this machine."""
    info = zipfile.ZipInfo("photo.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SourceError, match="leads out of the folder"):
        read_dataset(tmp_path / "bad.zip")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A hundred megabytes of zeros in a hundred kilobytes."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(100 << 20))
    with pytest.raises(SourceError, match=r"would become 104\.9 MB, which no data set does"):
        read_dataset(tmp_path / "bomb.zip")
    assert not list((tmp_path / "cache").rglob("*.txt"))


@pytest.mark.parametrize("damage", ["cut", "no zip", "twice", "nothing"])
def test_a_damaged_zip_file_leaves_nothing_behind(damage: str, tmp_path: Path) -> None:
    """One line; the cache has no half of a set."""
    labelimg_yolo(tmp_path / "set")
    path = packed(tmp_path / "set", tmp_path / "set.zip")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no zip":
        path.write_bytes(b"<html>sign in</html>")
    elif damage == "twice":
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("classes.txt", "x\n")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.md", "x\n")
    with pytest.raises(SourceError, match=r"cannot be unpacked|is in it twice|expected images and labels"):
        read_dataset(path)
    assert not list((tmp_path / "cache").rglob("*.txt"))

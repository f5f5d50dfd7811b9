"""YOLO txt in: folders, data.yaml, and files that are wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.data import read_annotations, read_dataset
from edge_centernet.errors import MissingDependency, SourceError


def write(root: Path, files: dict[str, str | None], names: str | None = "car\ndog\n") -> Path:
    """images/ and labels/ with 40x20 images; None for an image without a label file."""
    for name, text in files.items():
        image, label = root / "images" / f"{name}.png", root / "labels" / f"{name}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.zeros((20, 40, 3), np.uint8))
        if text is not None:
            label.write_text(text)
    if names is not None:
        (root / "classes.txt").write_text(names)
    return root


def test_fractions_become_corners_in_pixels(tmp_path: Path) -> None:
    """Centre and size of the box; a polygon becomes its bounding box; no label file means no object."""
    root = write(tmp_path, {"a": "1 0.5 0.5 0.5 0.2\n\n0 0.1 0.1 0.3 0.2 0.2 0.4\n", "b": None, "c": ""})
    data = read_dataset(root)
    assert data.classes == ("car", "dog")
    a, b, c = data.samples
    np.testing.assert_allclose(a.boxes, [[10, 8, 30, 12], [4, 2, 12, 8]], rtol=1e-6)
    assert a.labels.tolist() == [1, 0]
    assert not a.ignore.any()
    assert (a.width, a.height) == (40, 20)
    assert b.boxes.shape == c.boxes.shape == (0, 4)


def test_boxes_over_the_edge_are_clipped(tmp_path: Path) -> None:
    """Rounding in the labelling tool puts corners a little outside."""
    data = read_dataset(write(tmp_path, {"a": "0 0 0.5 0.5 1.01\n"}))
    assert data.samples[0].boxes.tolist() == [[0, 0, 10, 20]]


def test_given_classes_select_order_or_stand_in_for_the_list(tmp_path: Path) -> None:
    """With classes.txt they choose from it; without, they are it."""
    root = write(tmp_path, {"a": "1 0.5 0.5 0.5 0.2\n0 0.5 0.5 0.5 0.2\n"})
    only = read_dataset(root, classes=["dog"])
    assert (only.classes, only.samples[0].labels.tolist()) == (("dog",), [0])
    (root / "classes.txt").unlink()
    assert read_dataset(root, classes=["x", "y"]).samples[0].labels.tolist() == [1, 0]
    with pytest.raises(SourceError, match="expected the class names, one a line, in"):
        read_dataset(root)


def test_a_split_or_an_images_folder_takes_part_of_it(tmp_path: Path) -> None:
    """images/train and images/val; without either, train."""
    line = "0 0.5 0.5 0.5 0.2\n"
    root = write(tmp_path, {"train/a": line, "train/b": line, "val/c": line})
    assert len(read_dataset(root)) == 2
    for data in (read_dataset(root, split="val"), read_dataset(root, root / "images" / "val")):
        assert [sample.path.stem for sample in data.samples] == ["c"]
        assert data.samples[0].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "line 2: expected 5 numbers, class cx cy width height; got 4"),
        ("0 0.5 0.5 0.5 0.5 0.9", "line 2: expected 5 numbers"),
        ("2 0.5 0.5 0.5 0.5", "line 2: expected a class index 0 to 1, got '2'"),
        ("-1 0.5 0.5 0.5 0.5", "line 2: expected a class index"),
        ("dog 0.5 0.5 0.5 0.5", "line 2: expected a class index 0 to 1, got 'dog'"),
        ("nan 0.5 0.5 0.5 0.5", "line 2: expected a class index"),
        ("inf 0.5 0.5 0.5 0.5", "line 2: expected a class index"),
        ("0 20 10 15 8", "line 2: expected numbers 0 to 1 (fractions of the image), got '20 10 15 8'"),
        ("0 0.5 nan 0.5 0.5", "line 2: expected numbers 0 to 1"),
        ("0 0.5 x 0.5 0.5", "line 2: expected numbers 0 to 1"),
    ],
)
def test_what_is_wrong_in_a_label_file_is_named_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    """File, line, what was expected, what came."""
    root = write(tmp_path, {"a": f"0 0.5 0.5 0.5 0.5\n{line}\n"})
    with pytest.raises(SourceError) as error:
        read_dataset(root)
    assert str(error.value).startswith(str(root / "labels" / "a.txt"))
    assert message in str(error.value)


def test_folders_that_are_wrong_are_refused(tmp_path: Path) -> None:
    """No images, no label at all, two images of one label file, a class named twice."""
    line = "0 0.5 0.5 0.5 0.2\n"
    (tmp_path / "none" / "images").mkdir(parents=True)
    (tmp_path / "none" / "labels").mkdir()
    (tmp_path / "none" / "classes.txt").write_text("car\n")
    with pytest.raises(SourceError, match="expected images"):
        read_dataset(tmp_path / "none")
    with pytest.raises(SourceError, match=r"expected label files such as .*labels/a\.txt, found none"):
        read_dataset(write(tmp_path / "unlabelled", {"a": None}))
    two = write(tmp_path / "two", {"a": line})
    (two / "images" / "a.bmp").write_bytes((two / "images" / "a.png").read_bytes())
    with pytest.raises(SourceError, match=r"already belong to a\.bmp"):
        read_dataset(two)
    with pytest.raises(SourceError, match="class 'car' is named twice"):
        read_dataset(write(tmp_path / "twice", {"a": line}, "car\ndog\ncar\n"))


def test_a_yaml_without_pyyaml_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pip command, and the way that needs no package."""
    monkeypatch.setitem(sys.modules, "yaml", None)  # what the import system itself does for a blocked module
    path = tmp_path / "data.yaml"
    path.write_text("names: [car]\ntrain: images\n")
    with pytest.raises(
        MissingDependency,
        match=r"pip install pyyaml; or give the folder itself.*classes\.txt",
    ):
        read_dataset(path)


def test_a_folder_with_a_plain_list_needs_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """classes.txt wins over data.yaml."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"})
    (root / "data.yaml").write_text("names: [other]\n")
    assert read_dataset(root).classes == ("car", "dog")


class TestYaml:
    """data.yaml as the usual exporters write it."""

    @pytest.fixture(autouse=True)
    def _needs_yaml(self) -> None:
        pytest.importorskip("yaml", reason="needs PyYAML")

    @pytest.mark.parametrize("names", ["[car, dog]", "{0: car, 1: dog}", "{1: dog, 0: car}"])
    def test_train_is_the_default_and_split_names_another(self, tmp_path: Path, names: str) -> None:
        """Names as list or mapping; paths relative to the file."""
        line = "1 0.5 0.5 0.5 0.2\n"
        root = write(tmp_path, {"train/a": line, "val/b": line}, None)
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnc: 2\nnames: {names}\n")
        assert [s.path.stem for s in read_dataset(root / "data.yaml").samples] == ["a"]
        whole = read_dataset(root)
        assert (whole.classes, [s.path.stem for s in whole.samples]) == (("car", "dog"), ["a"])
        val = read_dataset(root / "data.yaml", split="val")
        assert (val.classes, val.samples[0].path.stem, val.samples[0].labels.tolist()) == (
            ("car", "dog"),
            "b",
            [1],
        )

    def test_the_paths_exporters_write_are_found(self, tmp_path: Path) -> None:
        """Relative to `path`, one level off, and lists of files."""
        root = write(tmp_path / "set", {"a": "0 0.5 0.5 0.5 0.2\n"}, None)
        (root / "train.txt").write_text("./images/a.png\n")
        for where in (
            f"path: {root}\ntrain: images",
            "train: ../images",
            "train: [images]",
            "train: train.txt",
        ):
            (root / "data.yaml").write_text(f"{where}\nnames: [car]\n")
            sample = read_dataset(root / "data.yaml").samples[0]
            assert (sample.path.name, len(sample.labels)) == ("a.png", 1)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("names: [car\ntrain: images\n", "line 2: expected YAML"),
            ("- car\n", "expected a mapping with 'names' and 'train'"),
            ("names: {0: car, 2: dog}\ntrain: images\n", "'names': expected indices 0 to 1"),
            ("names: []\ntrain: images\n", "expected a list of class names"),
            ("names: [car]\n", "'train': expected a folder or list of images, got None"),
            ("names: [car]\ntrain: nowhere\n", "'train': 'nowhere' is neither a folder nor a .txt list"),
        ],
    )
    def test_what_is_wrong_in_a_yaml_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        """Line of broken YAML, otherwise the key."""
        root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"}, None)
        (root / "data.yaml").write_text(text)
        with pytest.raises(SourceError) as error:
            read_dataset(root / "data.yaml")
        assert message in str(error.value)

    def test_a_list_naming_a_missing_image_says_the_line(self, tmp_path: Path) -> None:
        """Second line of train.txt."""
        root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"}, None)
        (root / "train.txt").write_text("images/a.png\nimages/gone.png\n")
        (root / "data.yaml").write_text("names: [car]\ntrain: train.txt\n")
        with pytest.raises(SourceError, match=r"train\.txt: line 2: image .*gone\.png does not exist"):
            read_dataset(root / "data.yaml")

    @pytest.mark.parametrize(
        ("names", "classes"),
        [
            ("[on, off]", ("on", "off")),
            ("[007, 1.10, 12:30, 2024-01-01, ~]", ("007", "1.10", "12:30", "2024-01-01", "~")),
            ("{0: yes, 1: 0x1F}", ("yes", "0x1F")),
            ("&all [car, dog]", ("car", "dog")),
        ],
    )
    def test_a_name_is_the_text_that_stands_there(
        self, tmp_path: Path, names: str, classes: tuple[str, ...]
    ) -> None:
        """YAML would make booleans, numbers and dates of it."""
        root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"}, None)
        (root / "data.yaml").write_text(f"names: {names}\ntrain: images\n", "utf-8-sig")
        assert read_dataset(root / "data.yaml").classes == classes

    @pytest.mark.parametrize("shape", ["[2, 2]", "\n- 2\n- 2"])
    @pytest.mark.parametrize("names", [None, "car\ndog\n"])
    def test_keypoints_are_no_polygon(self, tmp_path: Path, shape: str, names: str | None) -> None:
        """With kpt_shape the first four numbers are the box, also where classes.txt has the names."""
        root = write(tmp_path, {"a": "1 0.5 0.5 0.2 0.4 0.4 0.4 0.7 0.6\n1 0.5 0.5 0.2 0.4\n"}, names)
        (root / "data.yaml").write_text(f"names: [car, dog]\ntrain: images\nkpt_shape: {shape}\n")
        boxes = read_dataset(root).samples[0].boxes
        np.testing.assert_allclose(boxes, [[16, 6, 24, 14]] * 2, rtol=1e-6)
        (root / "labels" / "a.txt").write_text("1 0.5 0.5 0.2 0.4 0.4 0.4 0.7\n")
        with pytest.raises(SourceError, match=r"and 4 of keypoints \(kpt_shape\); got 8"):
            read_dataset(root)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "names: *a8\ntrain: images",
                "class 0: expected a class name of 1 to 64 printable characters, got [",
            ),
            ("names: [car]\ntrain: *a8", "'train': expected a folder or list of images, got ["),
            ("names: [car]\npath: *a8\ntrain: images", "'path': expected a folder, got ["),
            ("names: [car]\ntrain: images\nkpt_shape: *a8", "'kpt_shape': expected two numbers"),
            ("names: [" + "[" * 2000, "nested too deeply"),
            ("names: {" + "9" * 900 + ": car}\ntrain: images", "expected indices 0 to 0"),
            ("names: [car" + ", car" * 99_999 + "]", "expected a data.yaml of a few lines, got"),
        ],
    )
    def test_a_hostile_file_is_one_short_line(self, tmp_path: Path, text: str, message: str) -> None:
        """Aliases of aliases stand for a billion words."""
        bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
        bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
        root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"}, None)
        (root / "data.yaml").write_text(f"{bomb if '*' in text else ''}{text}\n")
        with pytest.raises(SourceError) as error:
            read_dataset(root / "data.yaml")
        assert message in str(error.value)
        assert len(str(error.value)) < 600

    @pytest.mark.parametrize("listed", ["\n\n", "images/broken.png\n"])
    def test_a_list_without_a_readable_image_is_named(self, tmp_path: Path, listed: str) -> None:
        """By data check, which goes on where training stops."""
        root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"}, None)
        (root / "train.txt").write_text(listed)
        (root / "data.yaml").write_text("names: [car]\ntrain: train.txt\n")
        with pytest.raises(SourceError, match="'train': expected at least one image, found none"):
            read_annotations(root / "data.yaml", problems=[])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    """Notepad writes one before the list of names and before labels."""
    root = write(tmp_path, {"a": None})
    (root / "classes.txt").write_text("car\ndog\n", encoding)
    (root / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.2\n", encoding)
    data = read_dataset(root)
    assert (data.classes, data.samples[0].labels.tolist()) == (("car", "dog"), [1])


@pytest.mark.parametrize("name", ["classes.txt", "labels/a.txt"])
def test_text_that_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    """Windows-1252: which of its letters are meant cannot be known."""
    root = write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"})
    (root / name).write_bytes("Café\n".encode("cp1252"))
    with pytest.raises(
        SourceError, match=f"{name}: expected text in UTF-8, got something else; save it as UTF-8"
    ):
        read_dataset(root)


@pytest.mark.parametrize(
    ("names", "number"), [("car\n\ndog\n", 1), ("car\n" + "d" * 65, 1), ("\x1b[2Jcar\ndog\n", 0)]
)
def test_a_line_that_is_no_class_name_is_refused(tmp_path: Path, names: str, number: int) -> None:
    """A blank line that is left out would give all later classes another number."""
    with pytest.raises(SourceError, match=rf"classes\.txt: class {number}: expected a class name of 1 to 64"):
        read_dataset(write(tmp_path, {"a": "0 0.5 0.5 0.5 0.2\n"}, names))


def test_polygons_that_might_be_keypoints_are_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without data.yaml nobody can know; points that all lie in the box of the first four numbers tell."""
    pose = "1 0.5 0.5 0.2 0.4 0.45 0.4 0.55 0.6 0 0\n"
    read_dataset(write(tmp_path, {"a": pose, "b": "0 0.5 0.5 0.5 0.2\n"}))
    assert "all 1 of them might be a box and keypoints in it: if they are, say so by kpt_shape" in caplog.text
    caplog.clear()
    read_dataset(write(tmp_path, {"a": pose, "b": "0 0.1 0.1 0.3 0.2 0.2 0.4\n"}))
    assert caplog.text == ""


def test_labels_may_lie_beside_their_images(tmp_path: Path) -> None:
    """LabelImg's default: images, labels and classes.txt in one folder, here below one named images."""
    root = write(tmp_path, {"set/a": "1 0.5 0.5 0.5 0.2\n"}, None) / "images" / "set"
    (tmp_path / "labels" / "set" / "a.txt").rename(root / "a.txt")
    (root / "classes.txt").write_text("car\ndog\n")
    data = read_dataset(root)
    assert (data.classes, data.samples[0].labels.tolist()) == (("car", "dog"), [1])


@pytest.mark.parametrize("cvat", [False, True])
def test_darknets_own_files_are_read(tmp_path: Path, cvat: bool) -> None:
    """Everything is named from the folder above data/, which CVAT's exports do not have."""
    data = tmp_path if cvat else tmp_path / "data"
    write(tmp_path, {"a": "1 0.5 0.5 0.5 0.2\n"}, None)
    (data / "obj").mkdir(parents=True)
    (tmp_path / "images" / "a.png").rename(data / "obj" / "a.png")
    (tmp_path / "labels" / "a.txt").rename(data / "obj" / "a.txt")
    for empty in ("images", "labels"):
        (tmp_path / empty).rmdir()
    (data / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\nbackup = x/\n"
    )
    (data / "obj.names").write_text("car\ndog\n")
    (data / "train.txt").write_text("data/obj/a.png\n")
    for path in (data / "obj.data", data, tmp_path):
        found = read_dataset(path)
        assert (found.classes, found.samples[0].labels.tolist()) == (("car", "dog"), [1])
    with pytest.raises(SourceError, match=r"'val': 'data/test\.txt' is neither a folder nor a \.txt list"):
        read_dataset(data / "obj.data", split="val")

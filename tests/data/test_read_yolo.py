"""YOLO txt in: folders, data.yaml, and files that are wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.data import read_dataset
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
    """images/train and images/val; without either, all of it."""
    line = "0 0.5 0.5 0.5 0.2\n"
    root = write(tmp_path, {"train/a": line, "train/b": line, "val/c": line})
    assert len(read_dataset(root)) == 3
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
        match=r"pip install 'edge-centernet\[eval\]'.* or give the folder itself.*classes\.txt",
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
        assert (whole.classes, [s.path.stem for s in whole.samples]) == (("car", "dog"), ["a", "b"])
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

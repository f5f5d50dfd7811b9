"""The pipeline as a whole, and the pictures it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares

from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.draw import class_color, draw
from edge_centernet.errors import ConfigError
from edge_centernet.runtimes import open_runtime

SCENE = squares.scene(("red", 10, 18), ("green", 58, 38), ("blue sky", 90, 6))


def detector(path: Path, **options: object) -> Detector:
    """On the squares network."""
    return Detector(open_runtime(path, threads=1), **{"threshold": 0.5, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(256, 192), (128, 96), (384, 288), (512, 192), (256, 400)])
def test_boxes_are_in_pixels_of_the_original(onnx_model: Path, width: int, height: int) -> None:
    """A square as large as the network expects after letterboxing is found at its place in the original."""
    scale = min(squares.WIDTH / width, squares.HEIGHT / height)
    side = round(squares.SIDE / scale)
    left, top = width // 2 - side // 2, height // 2 - side // 2
    image = np.full((height, width, 3), 128, np.uint8)
    image[top : top + side, left : left + side] = squares.BGR["green"]
    found = detector(onnx_model).detect(image)
    assert found.class_id.tolist() == [1]
    np.testing.assert_allclose(found.xyxy[0], [left, top, left + side, top + side], atol=2.5 / scale)


def test_boxes_are_clipped_to_the_image(onnx_model: Path) -> None:
    """A square cut by the border gives a box that ends there."""
    image = squares.scene(("red", 0, 38))[:, 4:]
    found = detector(onnx_model, threshold=0.05).detect(image)
    assert len(found)
    assert (found.xyxy[:, [0, 1]] >= 0).all()
    assert (found.xyxy[:, 2] <= image.shape[1]).all()
    assert (found.xyxy[:, 3] <= image.shape[0]).all()
    assert found.xyxy[:, 0].min() == 0


def test_nothing_there_gives_nothing(onnx_model: Path) -> None:
    """A grey picture: empty arrays of the right shapes."""
    found = detector(onnx_model).detect(squares.scene())
    assert (found.xyxy.shape, found.score.shape, found.class_id.shape) == ((0, 4), (0,), (0,))


def test_classes_are_chosen_before_the_limit(onnx_model: Path) -> None:
    """With one box allowed, a class that is not the best of all is still found."""
    for name, class_id in zip(squares.CLASSES, range(3), strict=True):
        found = detector(onnx_model, max_detections=1, only=[name]).detect(SCENE)
        assert found.class_id.tolist() == [class_id]


def test_several_classes_keep_their_ids(onnx_model: Path) -> None:
    """Whatever the order in which they were named."""
    everything = detector(onnx_model).detect(SCENE)
    found = detector(onnx_model, only=["blue sky", "red"]).detect(SCENE)
    expected = everything[everything.class_id != 1]
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.class_id, expected.class_id)


def test_the_threshold_defaults_to_the_models(onnx_model: Path) -> None:
    """0.3 in this manifest."""
    assert Detector(open_runtime(onnx_model)).threshold == 0.3


def test_a_threshold_of_each_class_is_the_models_or_the_callers(tmp_path: Path) -> None:
    """Nothing reaches 1: with that for red alone the two others are found, for any choice of classes."""
    stamped = squares.manifest(int8=True)
    model = replace(stamped.model, class_thresholds=(1.0, 0.4, 0.4))
    path = squares.write_onnx(tmp_path / "own.onnx", int8=True, stamped=replace(stamped, model=model))
    with Detector(path, threads=1) as own:
        assert own.threshold == (1.0, 0.4, 0.4)
        assert sorted(own.detect(SCENE).names) == ["blue sky", "green"]
    assert sorted(detector(path, threshold=None, only=["blue sky", "red"]).detect(SCENE).names) == [
        "blue sky"
    ]
    assert sorted(detector(path, threshold=0.4).detect(SCENE).names) == ["blue sky", "green", "red"]
    assert sorted(detector(path, threshold=[0.4, 1.0, 1.0]).detect(SCENE).names) == ["red"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": [0.5, 0.5]}, "expected one, or one for each of 3 classes, got 2"),
        ({"threshold": [0.5, 0.5, 1.5]}, "expected 0..1, got"),
        ({"threshold": 1.5}, "expected 0..1, got 1.5"),
        ({"max_detections": 0}, "at least 1, got 0"),
        ({"only": ["red", "dog"]}, "unknown class 'dog': this model knows red, green, blue sky"),
        ({"only": ["gren"]}, "unknown class 'gren': .*; did you mean 'green'"),
        ({"only": []}, "unknown class none"),
    ],
)
def test_bad_options_are_refused(onnx_model: Path, options: dict[str, object], says: str) -> None:
    """Before any picture is read."""
    with pytest.raises(ConfigError, match=says):
        detector(onnx_model, **options)


def found_at(*xyxy: tuple[float, float, float, float]) -> Detections:
    """Detections of class 0, 1, 2, ... with a score of 0.9."""
    return Detections(np.array(xyxy), np.full(len(xyxy), 0.9), np.arange(len(xyxy)))


@pytest.mark.parametrize("size", [(120, 180), (480, 640), (3000, 4000)])
def test_draw_marks_the_box_and_leaves_the_original(size: tuple[int, int]) -> None:
    """The outline has the class colour, the inside is untouched, the input array too."""
    image = np.full((*size, 3), 128, np.uint8)
    height, width = size
    box = (width * 0.3, height * 0.4, width * 0.7, height * 0.9)
    drawn = draw(image, found_at(box), squares.CLASSES)
    assert drawn.shape == image.shape
    assert (image == 128).all()
    assert drawn[round(height * 0.7), round(width * 0.3)].tolist() == list(class_color(0))
    assert drawn[round(height * 0.85), round(width * 0.5)].tolist() == [128] * 3


@pytest.mark.parametrize("box", [(0, 0, 60, 40), (55, 35, 60, 40), (0, 35, 5, 40), (50, 0, 60, 3)])
def test_labels_stay_inside_the_image(box: tuple[float, float, float, float]) -> None:
    """A label whose box touches a border is moved, not lost: its colour covers more than the outline does."""
    image = np.full((200, 300, 3), 128, np.uint8)
    box = (box[0] * 5, box[1] * 5, box[2] * 5, box[3] * 5)
    drawn = draw(image, found_at(box), squares.CLASSES)
    assert (drawn == class_color(0)).all(axis=2).sum() > 600


@pytest.mark.parametrize("width", [160, 640, 6000])
def test_labels_cover_neither_each_other_nor_faces(width: int) -> None:
    """Of persons in a row at the upper border, two of them nearly the same: each label can be read whole."""
    unit = width / 160
    image = np.full((round(120 * unit), width, 3), 128, np.uint8)
    rows = [(0, 0, 30, 80), (3, 1, 33, 82), (60, 0, 90, 90), (120, 30, 150, 100)]
    boxes = Detections(np.array(rows) * unit, np.full(4, 0.9), np.array([0, 1, 2, 3]))
    alone = [draw(image, boxes[[i]], list("abcd")) for i in range(4)]
    drawn = draw(image, boxes, list("abcd"))
    for i, (x1, y1, x2, y2) in enumerate((np.array(rows) * unit).astype(int).tolist()):
        color = class_color(i)
        label = (drawn == color).all(axis=2).sum()
        outline = 2 * (x2 - x1 + y2 - y1) * max(1, round(max(image.shape) / 400))
        assert label > 0.9 * ((alone[i] == color).all(axis=2).sum() - outline), i
        face = drawn[y1 + round(3 * unit) : y1 + (y2 - y1) // 4, x1 + round(8 * unit) : x2 - round(4 * unit)]
        assert not (face == color).all(axis=2).any(), i


def test_colours_of_neighbouring_classes_differ() -> None:
    """Far apart for twenty classes, pair by pair of neighbours."""
    colors = np.array([class_color(i) for i in range(20)], float)
    assert np.linalg.norm(np.diff(colors, axis=0), axis=1).min() > 80
    assert len({tuple(c) for c in colors}) == 20


def test_text_is_readable() -> None:
    """A label's text and background differ by 3:1 in luminance (WCAG for large text), for every class."""

    def luminance(bgr: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(bgr) / 255]
        return float(0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2])

    image = np.full((400, 600, 3), 128, np.uint8)
    for class_id in range(40):
        box = Detections(np.array([[50, 100, 500, 350]]), np.array([0.9]), np.array([class_id]))
        label = draw(image, box, [f"class {i}" for i in range(40)])[80:98, 52:110].reshape(-1, 3)
        ink = min((tuple(int(v) for v in c) for c in label), key=lambda c: min(sum(c), 765 - sum(c)))
        low, high = sorted((luminance(ink), luminance(class_color(class_id))))
        assert (high + 0.05) / (low + 0.05) >= 3, class_id


def test_drawing_survives_a_video_frame(tmp_path: Path) -> None:
    """A read-only, non-contiguous frame can be drawn on (a copy of)."""
    frame = np.full((60, 80, 3), 128, np.uint8)[:, ::-1]
    frame.setflags(write=False)
    assert cv2.imwrite(str(tmp_path / "a.png"), draw(frame, found_at((5, 5, 40, 40)), squares.CLASSES))

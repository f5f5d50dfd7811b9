"""From detections to tracks, counts and files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.sources.frame import Frame
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.scene import Scene, SceneOptions

CLASSES = ("cat", "dog", "person")


def frame(number: int, seed: int = 0) -> Frame:
    """Noise of 120x160 pixels, ten frames a second."""
    image = np.random.default_rng(seed).integers(0, 255, (120, 160, 3), np.uint8)
    return Frame("clip", number, image, number / 10)


def seen(x: float, *scored: tuple[int, float]) -> Detections:
    """Boxes of 20x40 pixels at `x`, 60 pixels apart, of (class_id, score)."""
    boxes = [[x + 60 * i, 40, x + 60 * i + 20, 80] for i in range(len(scored))]
    return Detections(np.array(boxes), np.array([s for _, s in scored]), np.array([c for c, _ in scored]))


def test_without_tracking_what_is_sure_and_wanted_is_shown() -> None:
    """Of a sure person, a doubtful person and a sure dog, --classes person leaves the first."""
    scene = Scene(SceneOptions(), 0.4, CLASSES, ["person"])
    found, tracks, tally = scene.update(frame(0), seen(0, (2, 0.9), (2, 0.3), (1, 0.8)))
    assert (found.class_id.tolist(), found.score.tolist()) == ([2], [pytest.approx(0.9)])
    assert (tracks, tally) == (None, None)


def test_what_is_sure_can_differ_by_class() -> None:
    """A dog of 0.3 is shown from 0.25 on, a person of 0.3 is not from 0.4 on; with tracks both are looked for lower."""
    scene = Scene(SceneOptions(), (0.4, 0.25, 0.4), CLASSES)
    found, _, _ = scene.update(frame(0), seen(0, (1, 0.3), (2, 0.3)))
    assert found.class_id.tolist() == [1]
    assert scene.detector_threshold == (0.4, 0.25, 0.4)
    tracking = Scene(SceneOptions(track=True), (0.4, 0.25, 0.4), CLASSES)
    assert tracking.detector_threshold == pytest.approx((0.3, 0.1875, 0.3))


def test_a_class_that_is_only_blurred_is_looked_for_too() -> None:
    """--classes dog --blur person: the network looks for both, and for doubtful ones."""
    scene = Scene(SceneOptions(blur=("person",)), 0.4, CLASSES, ["dog"])
    assert scene.detector_classes == ["dog", "person"]
    assert scene.detector_threshold < 0.4
    assert Scene(SceneOptions(), 0.4, CLASSES, ["dog"]).detector_threshold == 0.4
    assert Scene(SceneOptions(blur=("person",)), 0.4, CLASSES).detector_classes is None


def test_counts_and_map_are_written_and_taken_up_again(tmp_path: Path) -> None:
    """One who walks across a line is in the file; the next run begins there; the map has the picture's size."""
    line = Line("mid", (80, 0), (80, 120))
    options = SceneOptions(lines=(line,), counts=tmp_path / "counts.json", presence=tmp_path / "map.png")
    scene = Scene(options, 0.4, CLASSES)
    for i in range(30):
        scene.update(frame(i), seen(20 + 4 * i, (2, 0.9)))
    scene.close()
    kept = json.loads((tmp_path / "counts.json").read_text())["lines"]["mid"]
    assert (kept["in"], kept["out"]) == (0, 1)
    assert cv2.imread(str(tmp_path / "map.png")).shape == (120, 160, 3)
    again = Scene(options, 0.4, CLASSES)
    _, _, tally = again.update(frame(0), seen(20, (2, 0.9)))
    again.close()
    assert tally is not None
    assert tally.lines[0].outward == 1


def test_people_in_the_map_are_blurred(tmp_path: Path) -> None:
    """Where the person stood, the noise of the picture is gone; without --blur it is there."""
    spread = []
    for blurred in ((), ("person",)):
        scene = Scene(SceneOptions(presence=tmp_path / "map.png", blur=blurred), 0.4, CLASSES)
        scene.update(frame(0), seen(100, (2, 0.9)))
        scene.close()
        spread.append(cv2.imread(str(tmp_path / "map.png"))[45:75, 103:117].std())
    assert spread[0] > 60
    assert spread[1] < 30


def test_classes_go_by_synonyms_and_a_blurred_one_is_looked_for_too() -> None:
    """Wanted and blurred under COCO's words, written in another way: found under the model's own."""
    scene = Scene(SceneOptions(blur=("Potted_Plant",)), 0.4, ("pottedplant", "cat", "sofa"), ["couch"])
    found, _, _ = scene.update(frame(0), seen(100, (0, 0.9), (2, 0.9)))
    scene.close()
    assert scene.detector_classes == ["pottedplant", "sofa"]
    assert found.class_id.tolist() == [2]


def test_counts_without_a_line_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    """Each is one line that says what to do."""
    with pytest.raises(ConfigError, match="--count-line or --zone"):
        Scene(SceneOptions(counts=tmp_path / "counts.json"), 0.4, CLASSES)
    with pytest.raises(ConfigError, match="unknown class 'cow'"):
        Scene(SceneOptions(blur=("cow",)), 0.4, CLASSES, ["dog"])
    (tmp_path / "counts.json").write_text("[]")
    with pytest.raises(ConfigError, match="move the file away"):
        Scene(SceneOptions(lines=(Line("a", (0, 0), (9, 9)),), counts=tmp_path / "counts.json"), 0.4, CLASSES)

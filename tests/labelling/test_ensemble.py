"""Members with different class lists, on a photo and its mirror image; the fusion of their boxes.

Every expected value was worked out by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.imageio import Image
from edge_centernet.labelling.ensemble import (
    Ensemble,
    Member,
    all_classes,
    cluster,
    common_classes,
    fuse,
    mirror,
)

VOC = ("aeroplane", "person", "tvmonitor")
COCO = ("person", "airplane", "potted plant", "tv")
Box = tuple[float, float, float, float, float, int]  # left, top, right, bottom, score, class


def bright(classes: tuple[str, ...], name: str, score: float, weight: float = 1.0) -> Member:
    """A detector of white rectangles, which it calls `name`: a real one, so that mirroring is tested."""

    def detect(image: Image) -> Detections:
        rows, columns = np.nonzero(image[..., 0] == 255)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(np.array([box]), np.array([score]), np.array([classes.index(name)]), classes)

    return Member(name, "file", "0", classes, detect, weight)


def photo() -> Image:
    """(20, 40, 3), white from (5, 3) to (15, 13)."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[3:13, 5:15] = 255
    return image


def test_both_views_agree_and_one_box_comes_out_where_the_object_is() -> None:
    """The mirror image's box is turned back; the score is that of each view."""
    found = Ensemble([bright(VOC, "person", 0.8)], ["person"]).detect(photo())
    np.testing.assert_allclose(found.xyxy, [[5, 3, 15, 13]])
    np.testing.assert_allclose(found.score, [0.8], rtol=1e-6)
    assert found.names == ["person"]


def test_words_of_voc_and_coco_meet_and_weights_count() -> None:
    """One says aeroplane (0.9, weight 2), the other airplane (0.3): (1.8 + 0.3) / 3, as requested."""
    members = [bright(VOC, "aeroplane", 0.9, 2.0), bright(COCO, "airplane", 0.3)]
    found = Ensemble(members, ["person", "Airplane"]).detect(photo())
    np.testing.assert_allclose(found.score, [0.7], rtol=1e-6)
    assert found.names == ["Airplane"]


def test_a_class_that_only_one_knows_has_its_score() -> None:
    """VOC's words here lack the potted plant: its score is 0.6, not 0.3."""
    found = Ensemble(
        [bright(VOC, "person", 0.8), bright(COCO, "potted plant", 0.6)], ["potted plant"]
    ).detect(photo())
    np.testing.assert_allclose(found.score, [0.6], rtol=1e-6)


def test_all_classes_are_the_first_members_and_what_others_add() -> None:
    """In the first one's words."""
    members = [bright(VOC, "person", 0.8), bright(COCO, "tv", 0.6)]
    assert all_classes(members) == ("aeroplane", "person", "tvmonitor", "potted plant")
    assert common_classes(members, ["cat", "tv", "aeroplane"]) == ("tv", "aeroplane")


def test_classes_that_cannot_be_found_are_named() -> None:
    """A word that nobody knows, one named twice, none in common."""
    members = [bright(VOC, "person", 0.8)]
    with pytest.raises(
        ConfigError, match="none of the models knows unicorn; they know aeroplane, person, tvmonitor"
    ):
        Ensemble(members, ["person", "unicorn"])
    with pytest.raises(ConfigError, match="'tv' is named twice"):
        Ensemble(members, ["tvmonitor", "tv"])
    with pytest.raises(ConfigError, match="expected names, got none"):
        Ensemble(members, [])
    with pytest.raises(ConfigError, match="no class in common"):
        common_classes(members, ["cat"])


def test_mirror_twice_is_the_same() -> None:
    """Width 40: 5..15 becomes 25..35."""
    box = Detections(np.array([[5, 3, 15, 13]]), np.array([0.5]), np.array([0]))
    assert mirror(box, 40).xyxy.tolist() == [[25, 3, 35, 13]]
    assert mirror(mirror(box, 40), 40).xyxy.tolist() == box.xyxy.tolist()


# ---- Weighted boxes fusion ------------------------------------------------------------------


def detections(*rows: Box) -> Detections:
    """From rows."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


def known(members: int, classes: int = 2) -> NDArray[np.bool_]:
    """Everybody knows everything."""
    return np.ones((members, classes), np.bool_)


def test_two_boxes_of_one_object_are_averaged_by_score() -> None:
    """IoU 100 / 120; bottom (0.8 x 10 + 0.4 x 12) / 1.2; score (0.8 + 0.4) / 2."""
    found = fuse([detections((0, 0, 10, 10, 0.8, 0)), detections((0, 0, 10, 12, 0.4, 0))], [1, 1], known(2))
    np.testing.assert_allclose(found.xyxy, [[0, 0, 10, 12.8 / 1.2]], rtol=1e-6)
    np.testing.assert_allclose(found.score, [0.6], rtol=1e-6)


def test_weights_pull_box_and_score() -> None:
    """3 : 1; pulls 2.4 and 0.4: bottom (24 + 4.8) / 2.8; score (2.4 + 0.4) / 4. Only the ratio matters."""
    found = [detections((0, 0, 10, 10, 0.8, 0)), detections((0, 0, 10, 12, 0.4, 0))]
    for weights in ([3, 1], [0.75, 0.25]):
        fused = fuse(found, weights, known(2))
        np.testing.assert_allclose(fused.xyxy, [[0, 0, 10, 28.8 / 2.8]], rtol=1e-6)
        np.testing.assert_allclose(fused.score, [0.7], rtol=1e-6)


def test_what_only_one_of_three_saw_keeps_its_box_and_a_third_of_its_score() -> None:
    """0.9 / 3; the box stays as it is."""
    found = fuse([detections((1, 2, 3, 4, 0.9, 1)), detections(), detections()], [1, 1, 1], known(3))
    np.testing.assert_allclose(found.xyxy, [[1, 2, 3, 4]])
    np.testing.assert_allclose(found.score, [0.3], rtol=1e-6)


def test_a_class_that_one_does_not_know_is_left_to_the_others() -> None:
    """Two of three know class 1: (0.9 + 0) / 2, not / 3; class 0 is known to all: 0.9 / 3."""
    knows = np.array([[True, True], [True, True], [True, False]])
    boxes = detections((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.9, 1))
    found = fuse([boxes, detections(), detections()], [1, 1, 1], knows)
    assert found.class_id.tolist() == [1, 0]
    np.testing.assert_allclose(found.score, [0.45, 0.3], rtol=1e-6)


def test_boxes_of_two_classes_stay_two() -> None:
    """The same place, another class: two objects, best first."""
    found = fuse([detections((0, 0, 10, 10, 0.5, 0)), detections((0, 0, 10, 10, 0.7, 1))], [1, 1], known(2))
    assert found.class_id.tolist() == [1, 0]
    np.testing.assert_allclose(found.score, [0.35, 0.25], rtol=1e-6)


def test_the_limit_itself_is_not_enough() -> None:
    """IoU exactly 0.5: two boxes at 0.5, one at 0.49."""
    pair = [detections((0, 0, 10, 10, 0.8, 0)), detections((0, 0, 10, 20, 0.8, 0))]
    assert len(fuse(pair, [1, 1], known(2), limit=0.5)) == 2
    assert len(fuse(pair, [1, 1], known(2), limit=0.49)) == 1


def test_nobody_votes_twice_for_one_object() -> None:
    """A second box moves the average, not the score: 0.8 / 2; the paper's mean would be lower, a sum 0.7."""
    twice = detections((0, 0, 10, 10, 0.8, 0), (0, 0, 10, 11, 0.6, 0))
    found = fuse([twice, detections()], [1, 1], known(2))
    np.testing.assert_allclose(found.score, [0.4], rtol=1e-6)
    np.testing.assert_allclose(found.xyxy, [[0, 0, 10, (8 + 6.6) / 1.4]], rtol=1e-6)


def test_a_box_joins_the_object_as_it_stands_by_then() -> None:
    """Bottoms 10, 14 and 19: the last overlaps the first by 10 / 19, the average of both (12) by 12 / 19."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 14], [0, 0, 10, 19]], np.float64)
    fused, owner = cluster(boxes, np.ones(3), 0.6)
    assert owner.tolist() == [0, 0, 0]
    np.testing.assert_allclose(fused, [[0, 0, 10, 43 / 3]])
    assert cluster(boxes[[0, 2]], np.ones(2), 0.6)[1].tolist() == [0, 1]


def test_a_box_joins_what_it_overlaps_most() -> None:
    """IoU 10 / 12 with the second, 10 / 14 with the first that would do too."""
    boxes = np.array([[0, 0, 10, 14], [0, 4, 10, 12], [0, 4, 10, 14]], np.float64)
    assert cluster(boxes, np.array([3.0, 2.0, 1.0]), 0.65)[1].tolist() == [0, 1, 1]


def test_nothing_found_is_nothing_fused() -> None:
    """No box from anybody."""
    assert len(fuse([detections(), detections()], [1, 1], known(2))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_scores_never_leave_0_to_1_and_boxes_never_the_hull(seed: int) -> None:
    """Random boxes of five members."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(5):
        corner, size = rng.uniform(0, 60, (40, 2)), rng.uniform(5, 40, (40, 2))
        rows = np.hstack([corner, corner + size, rng.uniform(0, 1, (40, 1)), rng.integers(0, 2, (40, 1))])
        found.append(detections(*map(tuple, rows)))
    fused = fuse(found, rng.uniform(0.5, 2, 5).tolist(), known(5))
    assert 0 < len(fused) <= 200
    assert 0 < fused.score.min() <= fused.score.max() <= 1
    assert (np.diff(fused.score) <= 0).all()
    every = np.concatenate([one.xyxy for one in found])
    assert (fused.xyxy.min(axis=0) >= every.min(axis=0) - 1e-3).all()
    assert (fused.xyxy.max(axis=0) <= every.max(axis=0) + 1e-3).all()

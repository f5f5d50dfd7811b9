"""Members with other class lists, looking at a photo and at its mirror image."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.imageio import Image
from edge_centernet.labelling.ensemble import Ensemble, Member, all_classes, common_classes, mirror

VOC = ("aeroplane", "person", "tvmonitor")
COCO = ("person", "airplane", "potted plant", "tv")


def bright(classes: tuple[str, ...], name: str, score: float, weight: float = 1.0) -> Member:
    """A detector of white rectangles, which it calls `name`: a real one, so that a mirrored image is really seen."""

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
    """One says aeroplane (0.9, weight 2), the other airplane (0.3): (1.8 + 0.3) / 3, by the name that was asked for."""
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

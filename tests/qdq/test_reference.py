"""What an artifact is compared on, and when two detections agree."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.detections import Detections
from edge_centernet.qdq import reference


def test_default_pictures_are_enough() -> None:
    """The packaged photos give at least 16 inputs."""
    pictures = reference.sample_pictures()
    assert len(pictures) >= 16
    assert all(p.ndim == 3 and p.dtype == np.uint8 for p in pictures)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (detections((10, 10, 50, 50, 0.58, 1)), 1),
        (detections((10, 10, 50, 50, 0.58, 2)), 0),  # another class
        (detections((10, 10, 50, 31, 0.60, 1)), 1),  # IoU 0.525
        (detections((10, 10, 50, 29, 0.60, 1)), 0),  # IoU 0.475
        (detections((10, 10, 50, 50, 0.49, 1)), 0),  # score 0.11 away
        (detections(), 0),
    ],
)
def test_a_partner_is_same_class_box_and_score(offered: Detections, expected: int) -> None:
    """Same class, IoU >= 0.5 (the same object as AP50 counts it), score within 0.1."""
    assert reference.matches(detections((10, 10, 50, 50, 0.6, 1)), offered) == expected


def test_a_partner_is_used_once() -> None:
    """Two equal detections against one: only one finds its partner."""
    twice = detections((10, 10, 50, 50, 0.6, 1), (10, 10, 50, 50, 0.6, 1))
    assert reference.matches(twice, detections((10, 10, 50, 50, 0.6, 1))) == 1


def test_empty_boxes_at_one_place_agree() -> None:
    """A size that was rounded to 0 on both sides has no area to share, and is the same box all the same."""
    empty = detections((20, 20, 20, 40, 0.6, 1))

    assert reference.matches(empty, empty) == 1
    assert reference.matches(empty, detections((25, 20, 25, 40, 0.6, 1))) == 0


@pytest.mark.parametrize(("found", "said"), [(0, True), (4, False)])
def test_a_network_that_finds_nothing_in_the_images_is_no_failure(found: int, said: bool) -> None:
    """Photos of ours may show none of its classes: the table says so, and never 0 of 0."""
    heads = dict.fromkeys(reference.HEADS, reference.HeadError(0.01, 1.0))
    text = reference.table({"tflite": reference.Report(18, heads, found, found, ())})
    assert ("No detections in these 18 images, which may show none of the network's classes" in text) == said
    assert ("100.0% (4 of 4)" in text) != said
    assert "0 of 0" not in text

"""Boxes become heatmaps, sizes and offsets that the decoder turns back into the boxes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.decoder import decode
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest, ModelSpec, TensorSpec
from edge_centernet.train.targets import Targets, Unlabelled, make_targets

BOXES = np.array([[10, 20, 50, 100], [200, 40, 290, 70], [100.5, 200.25, 140, 300]], np.float32)
LABELS = np.array([0, 1, 2])


def _targets(scores: tuple[float, ...] = (1, 1, 1), unlabelled: tuple[Unlabelled, ...] = ()) -> Targets:
    return make_targets(BOXES, LABELS, np.array(scores, np.float32), unlabelled, 3, 80, 80, 4)


def test_decoding_perfect_heads_returns_the_boxes() -> None:
    """Targets fed to the decoder give the boxes they were made from, to a thousandth of a pixel."""
    t = _targets()
    spec = ModelSpec("t", "1", 320, 320, ("a", "b", "c"), heat_unit="probability")
    manifest = Manifest(
        spec,
        TensorSpec("image", (1, 3, 320, 320), "NCHW", "float32"),
        TensorSpec("heat", (1, 3, 80, 80), "NCHW", "float32"),
        TensorSpec("size", (1, 2, 80, 80), "NCHW", "float32"),
        TensorSpec("offset", (1, 2, 80, 80), "NCHW", "float32"),
        "fp32",
    )
    found = decode(Heads(t.heat, t.size, t.offset), manifest, threshold=0.99)
    order = np.argsort(found.class_id)

    assert found.class_id[order].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.xyxy[order], BOXES, atol=1e-3)


def test_the_heatmap_is_one_exactly_at_the_centre_cells() -> None:
    """Three objects: three ones, at the cell that holds each centre."""
    heat = _targets().heat

    assert np.argwhere(heat == 1).tolist() == [[0, 15, 7], [1, 13, 61], [2, 62, 30]]


def test_an_ignored_object_is_neither_positive_nor_background() -> None:
    """Its splat peaks just below 1 and nothing is learnt of its box."""
    t = _targets(scores=(0, 1, 1))

    assert np.argwhere(t.score).tolist() == [[1, 13, 61], [2, 62, 30]]
    assert t.heat[0].max() == pytest.approx(0.999)
    assert t.box_weight[15, 7] == 0


def test_an_uncertain_object_has_its_score_at_the_centre_and_counts_as_much() -> None:
    """A score of 0.25: that is what its centre is to say, and its box weighs a quarter."""
    t = _targets(scores=(0.25, 1, 1))

    assert t.score[0, 15, 7] == 0.25
    assert t.heat[0, 15, 7] == pytest.approx(0.999)
    assert t.box_weight.sum() == pytest.approx(2.25, abs=1e-5)


def test_box_weights_of_an_object_sum_to_one() -> None:
    """However large its splat, an object counts once."""
    assert _targets().box_weight.sum() == pytest.approx(3, abs=1e-5)


def test_every_cell_of_a_splat_points_at_the_whole_box() -> None:
    """Cell plus offset is the centre, and with the size the box, wherever an object's splat is."""
    t = _targets()
    rows, columns = np.nonzero(t.box_weight)
    centre = (np.stack([columns, rows], 1) + t.offset[:, rows, columns].T) * 4  # pixels
    half = t.size[:, rows, columns].T * 2
    boxes = np.concatenate([centre - half, centre + half], 1)
    nearest = np.abs(boxes[:, None] - BOXES).max(2).argmin(1)

    assert len(rows) > 150
    np.testing.assert_allclose(boxes, BOXES[nearest], atol=1e-3)


def test_where_a_class_was_not_labelled_its_background_does_not_count() -> None:
    """Class 2 was not labelled in the left half: no cell there is its background, objects there still are."""
    t = _targets(unlabelled=(Unlabelled((2,), (0, 0, 160, 320)),))
    left, right = t.heat[2, :, :40], t.heat[2, :, 40:]

    assert left.min() == pytest.approx(0.999)
    assert (left == 1).sum() == 1
    assert right.max() == 0
    assert t.heat[0].min() == 0


def test_a_splat_is_as_elongated_as_its_box() -> None:
    """A 40 x 160 px box: 0.54 of it is covered, 5 cells across and 21 along, three sigma each way."""
    box = np.array([[100, 80, 140, 240]], np.float32)  # centre cell (30, 40)
    heat = make_targets(box, np.array([0]), np.ones(1, np.float32), (), 1, 80, 80, 4).heat[0]
    rows, columns = np.nonzero(heat)

    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (28, 32, 30, 50)
    assert heat[40, 32] == pytest.approx(np.exp(-(2**2) / (2 * (5 / 6) ** 2)))
    assert heat[50, 30] == pytest.approx(np.exp(-(10**2) / (2 * (21 / 6) ** 2)))

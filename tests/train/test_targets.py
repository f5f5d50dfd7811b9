"""Boxes become heatmaps, sizes and offsets that the decoder turns back into the boxes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.decoder import decode
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest, ModelSpec, TensorSpec
from edge_centernet.train.targets import gaussian_radius, make_targets

BOXES = np.array([[10, 20, 50, 100], [200, 40, 290, 70], [100.5, 200.25, 140, 300]], np.float32)
LABELS = np.array([0, 1, 2])


def _targets(ignore: tuple[bool, ...] = (False, False, False), spread: bool = True):  # type: ignore[no-untyped-def]
    return make_targets(BOXES, LABELS, np.array(ignore), 3, 80, 80, 4, spread)


@pytest.mark.parametrize("spread", [True, False])
def test_decoding_perfect_heads_returns_the_boxes(spread: bool) -> None:
    """Targets fed to the decoder give the boxes they were made from, to a thousandth of a pixel."""
    t = _targets(spread=spread)
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
    """Its splat peaks just below 1 and it has no size or offset target."""
    t = _targets(ignore=(True, False, False))

    assert t.centre.sum() == 2
    assert t.heat[0].max() == pytest.approx(0.999)
    assert t.size_weight[15, 7] == 0


def test_size_weights_of_an_object_sum_to_one() -> None:
    """However large its splat, an object counts once."""
    assert _targets().size_weight.sum() == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (50, 50), (3, 40)])
def test_the_radius_keeps_the_promised_overlap(height: int, width: int) -> None:
    """Moving both corners diagonally by the radius leaves exactly, or more than, the minimum IoU."""
    r = gaussian_radius(height, width, 0.7)
    shifted = (width - r) * (height - r)
    smaller = (width - 2 * r) * (height - 2 * r)
    larger = (width + 2 * r) * (height + 2 * r)
    area = width * height
    overlaps = [shifted / (2 * area - shifted), smaller / area, area / larger]

    assert min(overlaps) == pytest.approx(0.7, abs=1e-6)

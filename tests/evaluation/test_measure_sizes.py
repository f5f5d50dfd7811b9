"""scripts/measure_sizes.py: which persons are found at which size, and what the table says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import load_script

from edge_centernet.data import Dataset, Sample
from edge_centernet.detections import Detections
from edge_centernet.manifest import InputSize, ModelSpec

pytest.importorskip("faster_coco_eval", reason="needs the eval extra")


@pytest.fixture(scope="module")
def script() -> Any:
    """The script, which imports others of its folder."""
    folder = str(Path(__file__).parents[2] / "scripts")
    if folder not in sys.path:
        sys.path.append(folder)
    return load_script("measure_sizes")


def test_persons_are_counted_by_their_height_in_the_input(script: Any) -> None:
    """640x360 in 320x192 halves them; a car and an ignored person do not count, a weak find has its score."""
    boxes = np.array([[0, 0, 20, 40], [100, 0, 140, 80], [200, 0, 220, 40], [300, 0, 340, 100]], np.float32)
    sample = Sample(Path("a.jpg"), 640, 360, boxes, np.array([1, 1, 0, 1]), np.array([False, False, False, True]))
    data = Dataset(("car", "person"), (sample,))
    spec = ModelSpec("m", "1", 192, 320, ("person", "car"), stride=8)
    found = [Detections(boxes[:3], np.array([0.4, 0.2, 0.9], np.float32), np.array([0, 0, 1]))]
    pixels, scores = script.heights(found, data, spec)

    assert pixels.tolist() == [20.0, 40.0]
    np.testing.assert_allclose(scores, [0.4, 0.2])
    bins = {one["from"]: (one["persons"], one["recall"]) for one in script.by_height(pixels, scores, 0.3)}
    assert bins == {16.0: (1, 1.0), 32.0: (1, 0.0)}


@pytest.mark.parametrize(
    ("size", "expected"), [("320", (181.2, 256.0)), ("512x384", (113.2, 160.0)), ("640x352", (92.7, 130.9))]
)
def test_the_smallest_person_is_told_in_pixels_of_the_frame(script: Any, size: str, expected: Any) -> None:
    """Of three bins that are half found, the first has too few persons; the frame's tighter side decides the scale."""
    bins = [
        {"from": 22.6, "to": 32.0, "persons": 19, "recall": 1.0},
        {"from": 32.0, "to": 45.3, "persons": 500, "recall": 0.49},
        {"from": 45.3, "to": 64.0, "persons": 20, "recall": 0.5},
        {"from": 64.0, "to": 90.5, "persons": 20, "recall": 0.9},
    ]
    least = script.smallest(bins, InputSize.of(size))

    assert (least["from"], least["to"]) == expected
    assert script.smallest(bins[:2], InputSize.of(size)) is None


def test_the_table_has_a_row_for_each_model_and_size(script: Any) -> None:
    """Bars where a set has no persons."""
    row = {
        "model": "nano",
        "size": [512, 384],
        "AP50": 0.7312,
        "AP": 0.4,
        "openvino": {"ms": 5.68},
        "tflite": {"ms": 7},
    }
    seen = {**row, "person": {"AP50": 0.5}, "smallest_person": {"from": 113.2, "to": 160.0}}
    record = {"rows": [row, seen], "frame": [1280, 720], "images": 5, "data": "val", "machine": {"cpu": "a processor"}}
    lines = script.table(record).splitlines()

    assert lines[2] == "| nano | 512x384 | 0.731 | 0.400 | - | 5.7 | 7.0 | - |"
    assert lines[3] == "| nano | 512x384 | 0.731 | 0.400 | 0.500 | 5.7 | 7.0 | 113 to 160 pixels |"
    assert len(lines) == 6

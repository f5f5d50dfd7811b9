"""FastestDet (github.com/dog-qiuqiu/FastestDet), as utils/tool.py and example/ncnn/FastestDet.cpp read it.

BGR / 255, stretched to 352. One map at stride 16, one box a cell.
"""

from __future__ import annotations

import numpy as np

from edge_centernet.peers.common import (
    COCO,
    Floats,
    Found,
    Frame,
    Image,
    centre_to_corners,
    planes,
    sigmoid,
    stretch,
    without_batch,
)

CLASSES = COCO
IOU = 0.45  # utils/tool.py, handle_preds
URL = "https://github.com/dog-qiuqiu/FastestDet (example/onnx-runtime/FastestDet.onnx, example/ncnn)"
LICENCE = "none stated in the repository"


def prepare(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """See the module docstring."""
    pixels, frame = stretch(image, height, width)
    return planes(pixels, std=(255, 255, 255)), frame


def decode(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: one (1, 85, H/16, W/16): objectness 0..1, x, y, width, height raw, 80 class probabilities."""
    (cells,) = map(without_batch, outputs)
    rows, columns = cells.shape[1:]
    classes = cells[5:].argmax(0)  # (h, w)
    likely = np.take_along_axis(cells[5:], classes[None], 0)[0]
    scores = cells[0] ** 0.6 * likely**0.4
    y, x = np.nonzero(scores > threshold)
    raw = cells[1:5, y, x].T  # (K, 4)
    grid = np.array([columns, rows], np.float32)
    input_size = np.array([width, height], np.float32)
    centre = (np.tanh(raw[:, :2]) + np.stack([x, y], 1).astype(np.float32)) / grid * input_size
    size = sigmoid(raw[:, 2:]) * input_size
    return Found(
        centre_to_corners(centre.astype(np.float32), size), scores[y, x].astype(np.float32), classes[y, x]
    )

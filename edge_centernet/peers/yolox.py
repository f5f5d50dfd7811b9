"""YOLOX, for its nano and tiny networks (github.com/Megvii-BaseDetection/YOLOX, Apache-2.0).

As demo/ONNXRuntime/onnx_inference.py reads it: raw BGR 0..255 in the upper left corner, the rest 114. Boxes
are exponentials around the cells of strides 8, 16 and 32.
"""

from __future__ import annotations

import numpy as np

from edge_centernet.peers.common import (
    COCO,
    Floats,
    Found,
    Frame,
    Image,
    best,
    centre_to_corners,
    letterbox,
    planes,
)

CLASSES = COCO
IOU = 0.65  # yolox/exp/yolox_base.py, nmsthre
URL, LICENCE = (
    "https://github.com/Megvii-BaseDetection/YOLOX/releases (0.1.1rc0: yolox_nano.onnx)",
    "Apache-2.0",
)
STRIDES = (8, 16, 32)


def prepare(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """See the module docstring."""
    pixels, frame = letterbox(image, height, width, pad=114, centred=False)
    return planes(pixels), frame


def decode(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: one (1, cells, 85): x, y, log width, log height in strides, objectness and 80 classes 0..1."""
    (rows,) = (output.reshape(-1, output.shape[-1]) for output in outputs)
    kept, classes, score = best(rows[:, 4:5] * rows[:, 5:], threshold)
    x, y, stride = _cells(height, width)[:, kept]
    raw = rows[kept]
    centre = (raw[:, :2] + np.stack([x, y], 1)) * stride[:, None]
    size = np.exp(raw[:, 2:4]) * stride[:, None]
    return Found(centre_to_corners(centre, size).astype(np.float32), score, classes)


def _cells(height: int, width: int) -> Floats:
    """(3, cells): column, row and stride, row by row, the finest stride first."""
    parts = []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride].astype(np.float32)
        parts.append(np.stack([x, y, np.full_like(x, stride)]).reshape(3, -1))
    return np.concatenate(parts, axis=1)

"""YOLO-FastestV2 (github.com/dog-qiuqiu/Yolo-FastestV2), as sample/ncnn/src/yolo-fastestv2.cpp reads it.

BGR / 255, stretched to 352. Two maps with three anchors a cell; the three share their class probabilities.
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
    pairs,
    planes,
    stretch,
    without_batch,
)

CLASSES = COCO
IOU = 0.4  # utils/utils.py, evaluation
URL = (
    "https://github.com/dog-qiuqiu/Yolo-FastestV2 (modelzoo, exported by pytorch2onnx.py; sample/ncnn/model)"
)
LICENCE = "none stated in the repository"
# data/coco.data: width and height in pixels of the input, three for stride 16, three for stride 32
ANCHORS = np.array(
    [[12.64, 19.39], [37.88, 51.48], [55.71, 138.31], [126.91, 78.23], [131.57, 214.55], [279.92, 258.87]],
    np.float32,
).reshape(2, 3, 2)


def prepare(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """See the module docstring."""
    pixels, frame = stretch(image, height, width)
    return planes(pixels, std=(255, 255, 255)), frame


def decode(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: (1, H/16, W/16, 95) and (1, H/32, W/32, 95): 3 x 4 sides, 3 objectnesses, 80 classes; all 0..1."""
    parts = []
    maps = sorted(map(without_batch, outputs), key=len, reverse=True)
    for cells, anchors in zip(maps, ANCHORS, strict=True):
        sides, objectness, classes = np.split(cells, [12, 15], axis=2)
        scores = objectness[..., None] * classes[:, :, None]  # (h, w, 3, 80)
        index, class_id, score = pairs(scores.reshape(-1, len(CLASSES)), threshold)
        y, x, anchor = np.unravel_index(index, scores.shape[:3])
        raw = sides.reshape(-1, 4)[index]
        stride = np.array([width / cells.shape[1], height / cells.shape[0]], np.float32)
        centre = (raw[:, :2] * 2 - 0.5 + np.stack([x, y], 1)) * stride
        size = (raw[:, 2:] * 2) ** 2 * anchors[anchor]
        parts.append(Found(centre_to_corners(centre, size).astype(np.float32), score, class_id))
    xyxy, scores, ids = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Found(xyxy, scores, ids)

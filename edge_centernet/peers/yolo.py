"""Detectors of the YOLO kind: YOLOX, YOLO-FastestV2 and FastestDet.

Each section follows the decoder that the project itself publishes. All three are written in NumPy here, and
classes are the 80 of COCO.
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
    grid,
    letterbox,
    pairs,
    planes,
    sigmoid,
    stretch,
    without_batch,
)

# ---- YOLOX, for its nano and tiny networks (github.com/Megvii-BaseDetection/YOLOX, Apache-2.0) ----
# Read as demo/ONNXRuntime/onnx_inference.py does: raw BGR 0..255 in the upper left corner, the rest 114.
# Boxes are exponentials around the cells of three strides.

YOLOX_STRIDES = (8, 16, 32)


def prepare_yolox(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """Letterbox into the upper left corner."""
    pixels, frame = letterbox(image, height, width, pad=114, centred=False)
    return planes(pixels), frame


def decode_yolox(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read one (1, cells, 85): x, y, log width, log height in strides, objectness and 80 classes 0..1."""
    (rows,) = (output.reshape(-1, output.shape[-1]) for output in outputs)
    kept, classes, score = best(rows[:, 4:5] * rows[:, 5:], threshold)
    x, y, stride = grid(height, width, YOLOX_STRIDES)[:, kept]
    raw = rows[kept]
    centre = (raw[:, :2] + np.stack([x, y], 1)) * stride[:, None]
    size = np.exp(raw[:, 2:4]) * stride[:, None]
    return Found(centre_to_corners(centre, size).astype(np.float32), score, classes)


# ---- YOLO-FastestV2 (github.com/dog-qiuqiu/Yolo-FastestV2) ----------------------------------------
# Read as sample/ncnn/src/yolo-fastestv2.cpp does. Two maps with three anchors per cell; the three share their
# class probabilities.

# data/coco.data: width and height in pixels of the input, three for stride 16, three for stride 32.
FASTESTV2_ANCHORS = np.array(
    [[12.64, 19.39], [37.88, 51.48], [55.71, 138.31], [126.91, 78.23], [131.57, 214.55], [279.92, 258.87]],
    np.float32,
).reshape(2, 3, 2)


def prepare_fraction(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """Stretch; BGR / 255, for YOLO-FastestV2 and FastestDet."""
    pixels, frame = stretch(image, height, width)
    return planes(pixels, std=(255, 255, 255)), frame


def decode_fastestv2(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read (1, H/16, W/16, 95) and (1, H/32, W/32, 95): 3 x 4 sides, 3 objectnesses, 80 classes; all 0..1."""
    parts = []
    maps = sorted(map(without_batch, outputs), key=len, reverse=True)
    for cells, anchors in zip(maps, FASTESTV2_ANCHORS, strict=True):
        sides, objectness, classes = np.split(cells, [12, 15], axis=2)
        scores = objectness[..., None] * classes[:, :, None]  # (h, w, 3, 80)
        index, class_id, score = pairs(scores.reshape(-1, len(COCO)), threshold)
        y, x, anchor = np.unravel_index(index, scores.shape[:3])
        raw = sides.reshape(-1, 4)[index]
        stride = np.array([width / cells.shape[1], height / cells.shape[0]], np.float32)
        # The sigmoid of 0..1 is stretched to -0.5..1.5 cells, and to 0..4 times the anchor, as in YOLOv5.
        centre = (raw[:, :2] * 2 - 0.5 + np.stack([x, y], 1)) * stride
        size = (raw[:, 2:] * 2) ** 2 * anchors[anchor]
        parts.append(Found(centre_to_corners(centre, size).astype(np.float32), score, class_id))
    xyxy, scores, ids = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Found(xyxy, scores, ids)


# ---- FastestDet (github.com/dog-qiuqiu/FastestDet) -------------------------------------------------
# Read as utils/tool.py and example/ncnn/FastestDet.cpp do. One map at stride 16, one box per cell.


def decode_fastestdet(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read one (1, 85, H/16, W/16): objectness 0..1, raw x, y, width, height, 80 class probabilities."""
    (cells,) = map(without_batch, outputs)
    rows, columns = cells.shape[1:]
    classes = cells[5:].argmax(0)  # (h, w)
    likely = np.take_along_axis(cells[5:], classes[None], 0)[0]
    scores = cells[0] ** 0.6 * likely**0.4  # the exponents are the project's own
    y, x = np.nonzero(scores > threshold)
    raw = cells[1:5, y, x].T  # (K, 4)
    cell_count = np.array([columns, rows], np.float32)
    input_size = np.array([width, height], np.float32)
    centre = (np.tanh(raw[:, :2]) + np.stack([x, y], 1).astype(np.float32)) / cell_count * input_size
    size = sigmoid(raw[:, 2:]) * input_size
    return Found(
        centre_to_corners(centre.astype(np.float32), size), scores[y, x].astype(np.float32), classes[y, x]
    )

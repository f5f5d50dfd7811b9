"""SSD on MobileNet from TensorFlow's object detection API (github.com/tensorflow/models, Apache-2.0), in two forms.

A .tflite with its boxes decoded and suppressed inside (TFLite_Detection_PostProcess), as object_detection's
export_tflite_ssd_graph.py writes it; EfficientDet-Lite has the same outputs. And an .onnx of the raw network
with its 1917 anchors at 300x300, decoded here (box_coders/faster_rcnn_box_coder.py,
multiple_grid_anchor_generator.py). RGB, stretched; float networks want (pixel - 127.5) / 127.5.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_centernet.peers.common import (
    COCO,
    COCO_IDS,
    Floats,
    Found,
    Frame,
    Image,
    centre_to_corners,
    pairs,
    planes,
    sigmoid,
    stretch,
    to_rgb,
)

CLASSES = COCO
IOU = 0.6  # ssd_mobilenet_*.config, batch_non_max_suppression
URL = "https://www.kaggle.com/models/tensorflow/ssd-mobilenet-v1 (TFLite with metadata, coco_ssd_mobilenet_v1 quant)"
LICENCE = "Apache-2.0"
MAPS = (19, 10, 5, 3, 2, 1)  # cells along a side, strides 16 to 300
# COCO's id -> its place among the 80 names, -1 for an id that COCO does not use
_PLACE = np.full(92, -1, np.int64)
_PLACE[list(COCO_IDS)] = np.arange(len(COCO_IDS))


def prepare_tflite(
    image: Image, height: int, width: int, dtype: str = "uint8"
) -> tuple[NDArray[np.generic], Frame]:
    """(1, H, W, 3) RGB as the file wants it."""
    pixels, frame = stretch(image, height, width)
    rgb = to_rgb(pixels)[None]
    if dtype == "uint8":
        return rgb, frame
    if dtype == "int8":
        return (rgb ^ 0x80).view(np.int8), frame  # pixel - 128
    return (rgb.astype(np.float32) - 127.5) * np.float32(1 / 127.5), frame


def decode_tflite(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: boxes (1, K, 4) top, left, bottom, right 0..1; COCO id - 1 and score, (1, K); count (1,); any order."""
    boxes = next(o for o in outputs if o.ndim == 3)[0]
    lists = [o[0] for o in outputs if o.ndim == 2]
    count = int(next(o for o in outputs if o.size == 1 and o.ndim == 1)[0])
    # Releases order them differently. Scores are sorted fractions, classes are whole numbers.
    classes, scores = sorted(lists, key=lambda values: bool(np.any(values != np.rint(values))))
    if (
        np.array_equal(scores, np.rint(scores)) and scores.max(initial=0) > 1
    ):  # nothing but whole numbers in both
        classes, scores = scores, classes
    place = _PLACE[classes[:count].astype(np.int64) + 1]
    kept = np.flatnonzero((scores[:count] > threshold) & (place >= 0))
    top, left, bottom, right = boxes[kept].T
    xyxy = np.stack([left * width, top * height, right * width, bottom * height], 1).astype(np.float32)
    return Found(xyxy, scores[kept].astype(np.float32), place[kept])


def prepare_raw(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """(1, 3, H, W)."""
    pixels, frame = stretch(image, height, width)
    return planes(to_rgb(pixels), (127.5,) * 3, (127.5,) * 3), frame


def decode_raw(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: (1, 1917, 4) encoded boxes and (1, 1917, 91) logits whose first is the background."""
    codes = next(o for o in outputs if o.shape[-1] == 4).reshape(-1, 4)
    logits = next(o for o in outputs if o.shape[-1] != 4)
    logits = logits.reshape(-1, logits.shape[-1])
    rows, ids, raw = pairs(logits[:, 1:], float(np.log(threshold / (1 - threshold))))
    place = _PLACE[ids + 1]
    rows, place, raw = rows[place >= 0], place[place >= 0], raw[place >= 0]
    y, x, h, w = anchors()[rows].T
    ty, tx, th, tw = codes[rows].T / np.array([[10], [10], [5], [5]], np.float32)
    centre = np.stack([(tx * w + x) * width, (ty * h + y) * height], 1)
    size = np.stack([np.exp(tw) * w * width, np.exp(th) * h * height], 1)
    return Found(centre_to_corners(centre, size).astype(np.float32), sigmoid(raw), place)


@lru_cache(maxsize=1)
def anchors() -> Floats:
    """(1917, 4) centre y, centre x, height, width as fractions of the input: six maps, scales 0.2 to 0.95."""
    scales = [0.2 + 0.15 * i for i in range(6)] + [1.0]
    rows = []
    for i, side in enumerate(MAPS):
        shapes = [(scales[i], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
        shapes.append(((scales[i] * scales[i + 1]) ** 0.5, 1.0))
        if i == 0:  # reduce_boxes_in_lowest_layer
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        for y in range(side):
            for x in range(side):
                rows += [((y + 0.5) / side, (x + 0.5) / side, s / r**0.5, s * r**0.5) for s, r in shapes]
    return np.array(rows, np.float32)

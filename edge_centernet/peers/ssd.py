"""SSD on MobileNet from TensorFlow's object detection API (github.com/tensorflow/models, Apache-2.0).

It comes in two forms. A .tflite decodes and suppresses its boxes itself (TFLite_Detection_PostProcess), as
object_detection's export_tflite_ssd_graph.py writes it; EfficientDet-Lite has the same outputs. An .onnx of
the raw network, with 1917 anchors at 300x300, is decoded here (box_coders/faster_rcnn_box_coder.py,
multiple_grid_anchor_generator.py). Input: RGB, stretched; float networks want (pixel - 127.5) / 127.5.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_centernet.peers.common import (
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

MAPS = (19, 10, 5, 3, 2, 1)  # cells along a side, strides 16 to 300
# COCO's id -> its place among the 80 names, -1 for an id that COCO does not use.
_PLACE = np.full(92, -1, np.int64)
_PLACE[list(COCO_IDS)] = np.arange(len(COCO_IDS))


def prepare_tflite(
    image: Image, height: int, width: int, dtype: str = "uint8"
) -> tuple[NDArray[np.generic], Frame]:
    """Return (1, H, W, 3) RGB of the type of the file's input."""
    pixels, frame = stretch(image, height, width)
    rgb = to_rgb(pixels)[None]
    if dtype == "uint8":
        return rgb, frame
    if dtype == "int8":
        return (rgb ^ 0x80).view(np.int8), frame  # pixel - 128: flipping the top bit of a byte does that
    return (rgb.astype(np.float32) - 127.5) * np.float32(1 / 127.5), frame


def decode_tflite(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read outputs of which the network has made its final boxes, in any order.

    They are boxes (1, K, 4) top, left, bottom, right, 0..1; COCO id - 1 and score, (1, K) each; count (1,).
    """
    boxes = next(o for o in outputs if o.ndim == 3)[0]
    lists = [o[0] for o in outputs if o.ndim == 2]
    count = int(next(o for o in outputs if o.size == 1 and o.ndim == 1)[0])
    # Releases order them differently, but classes are whole numbers and scores hardly ever are. Where both
    # are (scores of 0 and 1 only), what exceeds 1 is a class.
    classes, scores = sorted(lists, key=lambda values: bool(np.any(values != np.rint(values))))
    if np.array_equal(scores, np.rint(scores)) and scores.max(initial=0) > 1:
        classes, scores = scores, classes
    place = _PLACE[classes[:count].astype(np.int64) + 1]
    kept = np.flatnonzero((scores[:count] > threshold) & (place >= 0))
    top, left, bottom, right = boxes[kept].T
    xyxy = np.stack([left * width, top * height, right * width, bottom * height], 1).astype(np.float32)
    return Found(xyxy, scores[kept].astype(np.float32), place[kept])


def prepare_raw(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """Return (1, 3, H, W) RGB, -1..1."""
    pixels, frame = stretch(image, height, width)
    return planes(to_rgb(pixels), (127.5,) * 3, (127.5,) * 3), frame


def decode_raw(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read (1, 1917, 4) encoded boxes and (1, 1917, 91) logits, the first of which is the background."""
    codes = next(o for o in outputs if o.shape[-1] == 4).reshape(-1, 4)
    logits = next(o for o in outputs if o.shape[-1] != 4)
    logits = logits.reshape(-1, logits.shape[-1])
    # The threshold's logit is compared with logits: no sigmoid of 170,000 scores for the few that pass.
    rows, ids, raw = pairs(logits[:, 1:], float(np.log(threshold / (1 - threshold))))
    place = _PLACE[ids + 1]
    rows, place, raw = rows[place >= 0], place[place >= 0], raw[place >= 0]
    y, x, h, w = anchors()[rows].T
    factors = np.array([[10], [10], [5], [5]], np.float32)  # of the box coder, as configured
    ty, tx, th, tw = codes[rows].T / factors
    centre = np.stack([(tx * w + x) * width, (ty * h + y) * height], 1)
    size = np.stack([np.exp(tw) * w * width, np.exp(th) * h * height], 1)
    return Found(centre_to_corners(centre, size).astype(np.float32), sigmoid(raw), place)


@lru_cache(maxsize=1)
def anchors() -> Floats:
    """Return (1917, 4) centre y, centre x, height, width as fractions of the input.

    They belong to six maps, with scales 0.2 to 0.95.
    """
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

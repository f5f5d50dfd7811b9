"""NanoDet and NanoDet-Plus (github.com/RangiLyu/nanodet, Apache-2.0), as demo_ncnn/python/demo_ncnn.py reads them.

BGR, mean and standard deviation of ImageNet, aspect ratio kept in a black frame (Plus: stretched). Each side
of a box is a distribution over 0 .. reg_max strides from the centre of the cell; Plus counts from its corner.
"""

from __future__ import annotations

import numpy as np

from edge_centernet.peers.common import COCO, Floats, Found, Frame, Image, letterbox, pairs, planes, stretch

CLASSES = COCO
IOU = 0.6  # nanodet/model/head/nanodet_plus_head.py, get_bboxes
URL, LICENCE = (
    "https://github.com/RangiLyu/nanodet (ONNX of the releases, or tools/export_onnx.py)",
    "Apache-2.0",
)
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def prepare(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """See the module docstring."""
    pixels, frame = letterbox(image, height, width, pad=0, centred=True)
    return planes(pixels, MEAN, STD), frame


def prepare_plus(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """keep_ratio: False in every configuration of Plus."""
    pixels, frame = stretch(image, height, width)
    return planes(pixels, MEAN, STD), frame


def decode(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: for each stride (1, cells, 80) probabilities and (1, cells, 4 * (reg_max + 1)) logits, in any order."""
    flat = [output.reshape(-1, output.shape[-1]) for output in outputs]
    scores, sides = (
        sorted((o for o in flat if (o.shape[1] == len(CLASSES)) == wanted), key=len, reverse=True)
        for wanted in (True, False)
    )
    strides = [round((height * width / len(score)) ** 0.5) for score in scores]
    return _boxes(np.concatenate(scores), np.concatenate(sides), height, width, strides, 0.5, threshold)


def decode_plus(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """outputs: one (1, cells of strides 8 to 64, 80 + 4 * (reg_max + 1))."""
    (all_,) = (output.reshape(-1, output.shape[-1]) for output in outputs)
    scores, sides = all_[:, : len(CLASSES)], all_[:, len(CLASSES) :]
    return _boxes(scores, sides, height, width, [8, 16, 32, 64], 0.0, threshold)


def _boxes(
    scores: Floats,
    sides: Floats,
    height: int,
    width: int,
    strides: list[int],
    offset: float,
    threshold: float,
) -> Found:
    """offset: of what boxes are measured from, in strides from a cell's corner."""
    rows, classes, score = pairs(scores, threshold)
    bins = sides[rows].reshape(len(rows), 4, -1)  # (K, 4, reg_max + 1)
    odds = np.exp(bins - bins.max(2, keepdims=True))
    distance = odds @ np.arange(bins.shape[2], dtype=np.float32) / odds.sum(2)  # (K, 4) in strides
    x, y, stride = _cells(height, width, strides, offset)[:, rows]
    left, top, right, bottom = distance.T * stride
    return Found(np.stack([x - left, y - top, x + right, y + bottom], 1).astype(np.float32), score, classes)


def _cells(height: int, width: int, strides: list[int], offset: float) -> Floats:
    """(3, cells): x and y in pixels, and the stride, row by row, the finest stride first."""
    parts = []
    for stride in strides:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)].astype(np.float32)
        parts.append(
            np.stack([(x + offset) * stride, (y + offset) * stride, np.full_like(x, stride)]).reshape(3, -1)
        )
    return np.concatenate(parts, axis=1)

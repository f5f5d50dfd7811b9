"""NanoDet and NanoDet-Plus (github.com/RangiLyu/nanodet, Apache-2.0).

They are read as the project's demo_ncnn/python/demo_ncnn.py does.
Input: BGR, mean and standard deviation of ImageNet, aspect ratio kept in a black frame (Plus: stretched).
Output: each side of a box is a distribution over 0 .. reg_max strides from the centre of the cell; Plus
measures from the cell's corner.
"""

from __future__ import annotations

import numpy as np

from edge_centernet.peers.common import (
    COCO,
    Floats,
    Found,
    Frame,
    Image,
    grid,
    letterbox,
    pairs,
    planes,
    stretch,
)

MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of ImageNet, in the order of the channels


def prepare(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """Letterbox in a black frame."""
    pixels, frame = letterbox(image, height, width, pad=0, centred=True)
    return planes(pixels, MEAN, STD), frame


def prepare_plus(image: Image, height: int, width: int) -> tuple[Floats, Frame]:
    """Stretch: keep_ratio is False in every configuration of Plus."""
    pixels, frame = stretch(image, height, width)
    return planes(pixels, MEAN, STD), frame


def decode(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read NanoDet's outputs, for each stride and in any order.

    They are (1, cells, 80) probabilities and (1, cells, 4 * (reg_max + 1)) logits.
    """
    flat = [output.reshape(-1, output.shape[-1]) for output in outputs]
    scores, sides = (
        sorted((o for o in flat if (o.shape[1] == len(COCO)) == wanted), key=len, reverse=True)
        for wanted in (True, False)
    )
    # The number of cells gives the stride: files differ in which strides they have.
    strides = [round((height * width / len(score)) ** 0.5) for score in scores]
    return _boxes(np.concatenate(scores), np.concatenate(sides), height, width, strides, 0.5, threshold)


def decode_plus(outputs: list[Floats], height: int, width: int, threshold: float) -> Found:
    """Read the output of Plus: one (1, cells of strides 8 to 64, 80 + 4 * (reg_max + 1))."""
    (all_,) = (output.reshape(-1, output.shape[-1]) for output in outputs)
    scores, sides = all_[:, : len(COCO)], all_[:, len(COCO) :]
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
    """Return the boxes above `threshold`.

    Args:
        scores: (cells, 80) probabilities.
        sides: (cells, 4 * (reg_max + 1)) logits.
        height: of the input, in pixels.
        width: of the input, in pixels.
        strides: in the order of the cells.
        offset: of the point that boxes are measured from, in strides from the cell's corner.
        threshold: 0..1.
    """
    rows, classes, score = pairs(scores, threshold)
    bins = sides[rows].reshape(len(rows), 4, -1)  # (K, 4, reg_max + 1)
    # A side is the expected value of its softmax (distribution focal loss, Li et al., arXiv 2006.04388).
    odds = np.exp(bins - bins.max(2, keepdims=True))
    distance = odds @ np.arange(bins.shape[2], dtype=np.float32) / odds.sum(2)  # (K, 4) in strides
    x, y, stride = grid(height, width, strides)[:, rows]
    x, y = (x + offset) * stride, (y + offset) * stride
    left, top, right, bottom = distance.T * stride
    return Found(np.stack([x - left, y - top, x + right, y + bottom], 1).astype(np.float32), score, classes)

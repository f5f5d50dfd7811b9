"""What the adapters of all peers share: from an image to a network's input, from raw boxes to detections.

It is written to be fast, so that no peer looks slow because of us: OpenCV resizes and suppresses, and NumPy
touches each pixel once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import COCO as COCO
from edge_centernet.detections import Detections

Image = NDArray[np.uint8]  # (H, W, 3) BGR
Floats = NDArray[np.float32]
MOST = 100  # boxes of an image that are kept: the most that COCO counts
# The best boxes, which are all that non-maximum suppression sees: as in NanoDet (nms_pre) and torchvision.
CANDIDATES = 1000

# COCO numbers its 80 categories 1 to 90 and leaves out ten; networks with 90 outputs count in these ids.
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(i for i in range(1, 91) if i not in COCO_UNUSED_IDS)


@dataclass(frozen=True)
class Frame:
    """Where the image lies in the network's input: input = image * scale + shift, for x and y.

    size: (width, height) of the image, in pixels.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]
    size: tuple[int, int]

    def to_image(self, xyxy: Floats) -> Floats:
        """(N, 4) boxes in input pixels -> in image pixels, clipped to the image."""
        boxes = (xyxy - np.array(self.shift * 2, np.float32)) / np.array(self.scale * 2, np.float32)
        return np.clip(boxes, 0, np.array(self.size * 2, np.float32)).astype(np.float32)


class Found(NamedTuple):
    """Candidates before suppression.

    xyxy: (N, 4) left, top, right, bottom in input pixels. score: (N,) 0..1. class_id: (N,).
    """

    xyxy: Floats
    score: Floats
    class_id: NDArray[np.int64]


def stretch(image: Image, height: int, width: int) -> tuple[Image, Frame]:
    """Resize to (height, width) of the input, whatever the aspect ratio."""
    rows, columns = image.shape[:2]
    pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return pixels, Frame((width / columns, height / rows), (0.0, 0.0), (columns, rows))


def letterbox(image: Image, height: int, width: int, pad: int, centred: bool) -> tuple[Image, Frame]:
    """Resize with the aspect ratio kept.

    Args:
        image: (H, W, 3) BGR.
        height: of the input, in pixels.
        width: of the input, in pixels.
        pad: value of the pixels beside the image.
        centred: whether they are on both sides, or at the right and the bottom.
    """
    rows, columns = image.shape[:2]
    scale = min(height / rows, width / columns)
    new_width, new_height = int(columns * scale), int(rows * scale)
    left, top = ((width - new_width) // 2, (height - new_height) // 2) if centred else (0, 0)
    pixels = np.full((height, width, 3), pad, np.uint8)
    inside = pixels[top : top + new_height, left : left + new_width]
    inside[...] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return pixels, Frame((new_width / columns, new_height / rows), (float(left), float(top)), (columns, rows))


def to_rgb(pixels: Image) -> Image:
    """(H, W, 3) BGR -> RGB."""
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def planes(pixels: Image, mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)) -> Floats:
    """(H, W, 3) -> (1, 3, H, W) float32, (pixel - mean) / std; channels keep their order."""
    x = np.empty((1, 3, *pixels.shape[:2]), np.float32)
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        plane = x[0, channel]
        np.multiply(pixels[..., channel], np.float32(1 / s), out=plane, dtype=np.float32)
        if m:
            plane -= np.float32(m / s)
    return x


def pairs(scores: Floats, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """(N, C) scores -> row, class and score of all above the threshold: a box may have several classes."""
    rows, classes = np.nonzero(scores > threshold)
    return rows, classes, scores[rows, classes]


def best(scores: Floats, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """(N, C) scores -> row, class and score of the best class of each row, if above the threshold."""
    classes = scores.argmax(1)
    score = scores[np.arange(len(scores)), classes]
    rows = np.flatnonzero(score > threshold)
    return rows, classes[rows], score[rows]


def without_batch(output: Floats) -> Floats:
    """(1, A, B, C) or, from ncnn, (A, B, C) -> (A, B, C)."""
    return output.reshape(output.shape[-3:])


def grid(height: int, width: int, strides: Sequence[int]) -> Floats:
    """Return (3, cells): column, row and stride of each cell, row by row, in the order of `strides`.

    height, width: of the input, in pixels. A last cell that the input fills only partly counts.
    """
    parts = []
    for stride in strides:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)].astype(np.float32)
        parts.append(np.stack([x, y, np.full_like(x, stride)]).reshape(3, -1))
    return np.concatenate(parts, axis=1)


def centre_to_corners(centre: Floats, size: Floats) -> Floats:
    """(N, 2) centres, (N, 2) widths and heights -> (N, 4) left, top, right, bottom."""
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)


def suppress(found: Found, frame: Frame, iou: float | None) -> Detections:
    """Suppress non-maxima class by class (iou None: done already); the best MOST, in image pixels."""
    if not len(found.score):
        return Detections.empty()
    order = np.argsort(-found.score, kind="stable")
    if iou is not None:
        best = order[:CANDIDATES]
        xyxy, score, class_id = found.xyxy[best], found.score[best], found.class_id[best].astype(np.int32)
        boxes = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)  # left, top, width, height
        kept = cv2.dnn.NMSBoxesBatched(boxes, score, class_id, 0.0, iou)  # type: ignore[arg-type]  # arrays will do
        order = best[np.sort(np.asarray(kept, np.int64).reshape(-1))]  # best stands in the order of scores
    order = order[:MOST]
    return Detections(
        frame.to_image(found.xyxy[order]), found.score[order], found.class_id[order].astype(np.int32)
    )

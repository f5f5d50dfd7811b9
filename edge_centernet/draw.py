"""Boxes with class and score on a copy of the image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections

Color = tuple[int, int, int]  # BGR, 0..255
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(image_bgr: NDArray[np.uint8], found: Detections, classes: Sequence[str]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR -> a new image of the same size with every box and its label, best score on top.

    Lines and letters grow with the image, so that they are as readable at 4000 pixels as at 300.
    """
    canvas = np.ascontiguousarray(image_bgr).copy()
    draw_boxes(canvas, found, [f"{classes[c]} {s:.2f}" for c, s in zip(found.class_id, found.score, strict=True)])
    return canvas


def draw_boxes(canvas: NDArray[np.uint8], found: Detections, texts: Sequence[str]) -> None:
    """Every box with its text, onto the image itself: (H, W, 3) uint8 BGR, contiguous."""
    order = range(len(found) - 1, -1, -1)
    corners = [[round(float(v)) for v in xyxy] for xyxy in found.xyxy]
    for i in order:
        x1, y1, x2, y2 = corners[i]
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_color(int(found.class_id[i])), line_width(canvas))
    for i in order:  # after all boxes, so that no line runs through a label
        draw_label(canvas, texts[i], (corners[i][0], corners[i][1]), class_color(int(found.class_id[i])))


def line_width(canvas: NDArray[np.uint8]) -> int:
    """Pixels, growing with the image."""
    side: int = max(canvas.shape[:2])
    return max(1, round(side / 400))


def class_color(class_id: int) -> Color:
    """A bright BGR colour for each class; neighbours differ most (steps of the golden ratio around the hue circle)."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1.0, 0.85, 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_label(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], color: Color) -> None:
    """Filled label above the corner (x, y), or just below it where there is no room; never beyond the image."""
    scale = max(0.45, max(canvas.shape[:2]) / 1400)
    thick = max(1, round(1.5 * scale))
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thick)
    pad = max(2, round(height / 4))
    box_height = height + below + 2 * pad
    x = max(0, min(corner[0], canvas.shape[1] - width - 2 * pad))
    y = corner[1] - box_height if corner[1] >= box_height else max(0, corner[1])
    cv2.rectangle(canvas, (x, y), (x + width + 2 * pad, y + box_height), color, cv2.FILLED)
    blue, green, red = color
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 120 else (255, 255, 255)
    cv2.putText(canvas, text, (x + pad, y + pad + height), _FONT, scale, ink, thick, cv2.LINE_AA)

"""Boxes with class and score on an image, and areas made unrecognisable."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections

Color = tuple[int, int, int]  # BGR, 0..255
_FONT = cv2.FONT_HERSHEY_SIMPLEX
Image = NDArray[np.uint8]  # (H, W, 3) BGR
# A face or a number plate can be neither recognised in so few colours nor restored from them.
_CELLS = 8  # squares along the longer side of a blurred box, at most
_CELL_PIXELS = 8  # the smallest side of a square: a small box gets fewer of them
_HEAD = 0.35  # of a box's height from its upper edge: a label there would cover a face
_SMALLEST = 0.4  # scale of the font: below it letters of small images run together
_MARGIN = 0.1  # of the box's size, on each side: a box rarely covers all of its object


def draw(image_bgr: NDArray[np.uint8], found: Detections, classes: Sequence[str]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR -> a new image of the same size with every box and its label, best score on top.

    Lines and letters grow with the image, so that they are as readable at 4000 pixels as at 300.
    """
    canvas = np.ascontiguousarray(image_bgr).copy()
    draw_boxes(
        canvas, found, [f"{classes[c]} {s:.2f}" for c, s in zip(found.class_id, found.score, strict=True)]
    )
    return canvas


def draw_boxes(
    canvas: NDArray[np.uint8],
    found: Detections,
    texts: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> None:
    """Every box with its text, onto the image itself: (H, W, 3) uint8 BGR, contiguous.

    A label stands where it covers neither another label nor the upper part of a box, where faces are, if
    there is such a place; the best scores choose first.
    numbers: of each box, for its colour; the classes unless given.
    """
    colors = [class_color(int(number)) for number in (found.class_id if numbers is None else numbers)]
    corners = np.rint(found.xyxy).astype(np.int64)
    for i in range(len(found) - 1, -1, -1):
        x1, y1, x2, y2 = corners[i].tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colors[i], line_width(canvas))
    # After all boxes, so that no line runs through a label.
    places = _label_places(canvas, corners, texts)
    for i in range(len(found) - 1, -1, -1):
        _write_label(canvas, texts[i], places[i], colors[i])


def _label_places(
    canvas: NDArray[np.uint8], boxes: NDArray[np.int64], texts: Sequence[str]
) -> list[tuple[int, int]]:
    """The upper left corner (x, y) of each label, inside the image. boxes: (N, 4) in pixels."""
    heads = boxes.copy()
    heads[:, 3] = boxes[:, 1] + np.rint(_HEAD * (boxes[:, 3] - boxes[:, 1]))
    taken = np.zeros((len(boxes), 4), np.int64)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        width, height = _label_size(canvas, texts[i])
        right, above, inside = x2 - width, y1 - height, y2 - height
        # Above the box, below it, at its lower edge, beside it, and at last at its upper edge.
        places = np.array([
            *[(x1, above), (right, above), (x1, y2), (right, y2), (x1, inside), (right, inside)],
            *[(x1 - width, y1), (x2, y1), (x1 - width, inside), (x2, inside), (x1, y1), (right, y1)],
        ])  # fmt: skip
        room = np.array([canvas.shape[1] - width, canvas.shape[0] - height])
        places = np.clip(places, 0, np.maximum(room, 0))
        labels = np.concatenate([places, places + np.array([width, height])], axis=1)
        cost = 4.0 * _shared(labels, taken[:i]) + _shared(labels, heads)
        x, y = places[int(np.argmin(cost))].tolist()  # the first of those that cost the same
        taken[i] = x, y, x + width, y + height
    return [(x, y) for x, y, _, _ in taken.tolist()]


def _shared(boxes: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, 4), (M, 4) -> (N,) pixels that each box has in common with the others, added up."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])  # (N, M, 2)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    total: NDArray[np.int64] = np.maximum(high - low, 0).prod(axis=2).sum(axis=1)
    return total


def line_width(canvas: NDArray[np.uint8]) -> int:
    """Pixels, growing with the image."""
    side: int = max(canvas.shape[:2])
    return max(1, round(side / 400))


def class_color(number: int) -> Color:
    """A bright BGR colour for each class, or for each track by its id."""
    # Steps of the golden ratio around the circle of hues: neighbours differ most, for any number of classes.
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.85, 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_label(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], color: Color) -> None:
    """A filled label above the corner (x, y), or just below it where there is no room; inside the image."""
    width, height = _label_size(canvas, text)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = corner[1] - height if corner[1] >= height else max(0, corner[1])
    _write_label(canvas, text, (x, y), color)


def _lettering(canvas: NDArray[np.uint8]) -> tuple[float, int]:
    """(scale of the font, thickness of its lines): readable in images of 160 pixels and of 6,000."""
    scale = max(_SMALLEST, max(canvas.shape[:2]) / 1400)
    return scale, max(1, round(1.5 * scale))


def _label_size(canvas: NDArray[np.uint8], text: str) -> tuple[int, int]:
    """(width, height) of a label in pixels."""
    (width, height), below = cv2.getTextSize(text, _FONT, *_lettering(canvas))
    pad = max(2, round(height / 4))
    return width + 2 * pad, height + below + 2 * pad


def _write_label(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], color: Color) -> None:
    """A filled label whose upper left corner is (x, y)."""
    (x, y), (scale, thick) = corner, _lettering(canvas)
    width, height = _label_size(canvas, text)
    letters = cv2.getTextSize(text, _FONT, scale, thick)[0][1]
    pad = max(2, round(letters / 4))
    cv2.rectangle(canvas, (x, y), (x + width, y + height), color, cv2.FILLED)
    # Black or white by the luma of the label's colour (ITU-R BT.601).
    blue, green, red = color
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 120 else (255, 255, 255)
    cv2.putText(canvas, text, (x + pad, y + pad + letters), _FONT, scale, ink, thick, cv2.LINE_AA)


def dashed_box(canvas: NDArray[np.uint8], xyxy: Sequence[float], color: Color, width: int) -> None:
    """A box of dashed lines onto the image itself: (H, W, 3) uint8 BGR, contiguous. xyxy, width: pixels."""
    x1, y1, x2, y2 = (round(float(v)) for v in xyxy)
    dash = 5 * width
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2):
            cv2.line(canvas, (x, y), (min(x + dash, x2), y), color, width)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2):
            cv2.line(canvas, (x, y), (x, min(y + dash, y2)), color, width)


# ---- contact sheets ------------------------------------------------------------------------------

_GROUND = 40  # grey level behind the pictures


def fit(image_bgr: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """(H, W, 3) uint8 BGR -> the image with its longer side of `side` pixels, and the factor of its size."""
    rows, columns = image_bgr.shape[:2]
    scale = side / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    picture = np.empty((size[1], size[0], 3), np.uint8)
    cv2.resize(image_bgr, size, picture, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return picture, scale


def tile(picture: NDArray[np.uint8], side: int, captions: Sequence[str]) -> NDArray[np.uint8]:
    """An image in the middle of a square of `side` pixels, with N lines of text: (side + 20 N, side, 3)."""
    canvas = np.full((side + 20 * len(captions), side, 3), _GROUND, np.uint8)
    height, width = picture.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = picture
    for line, text in enumerate(captions):
        caption(canvas, text, (6, side + 15 + 18 * line))
    return canvas


def grid(tiles: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Tiles of one size, `columns` a row; the last row is filled up with grey."""
    blank = np.full_like(tiles[0], _GROUND)
    full = [*tiles, *[blank] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(full[i : i + columns]) for i in range(0, len(full), columns)])


def banner(text: str, width: int) -> NDArray[np.uint8]:
    """A black line of text: (36, width, 3)."""
    band = np.full((36, width, 3), 0, np.uint8)
    caption(band, text, (8, 25), 0.7)
    return band


def caption(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], scale: float = 0.45) -> None:
    """White text with a shadow, its lower left corner at (x, y), onto the image itself."""
    printable = text.encode("ascii", "replace").decode()  # OpenCV's font has nothing else
    shadow = (corner[0] + 1, corner[1] + 1)
    cv2.putText(canvas, printable, shadow, _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, printable, corner, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def blur(image: Image, boxes: NDArray[np.float32]) -> Image:
    """Make the content of the boxes unrecognisable, for good, in the image itself; returns it.

    boxes: (N, 4), left, top, right, bottom in pixels; each grows by a tenth of its size on every side. What
    remains are the mean colours of at most 8x8 squares, none smaller than 8x8 pixels, blended smoothly.
    """
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in np.asarray(boxes, np.float64).tolist():
        wide, high = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        left, top = max(0, int(x1 - wide)), max(0, int(y1 - high))
        right, bottom = min(width, int(np.ceil(x2 + wide))), min(height, int(np.ceil(y2 + high)))
        if left < right and top < bottom:
            part = image[top:bottom, left:right]
            # Columns and rows of squares that the area is reduced to; the enlargement only looks nicer.
            side = max(_CELL_PIXELS, max(right - left, bottom - top) / _CELLS)
            few = max(1, int((right - left) / side)), max(1, int((bottom - top) / side))
            cells = cv2.resize(part, few, interpolation=cv2.INTER_AREA)
            image[top:bottom, left:right] = cv2.resize(
                cells, part.shape[1::-1], interpolation=cv2.INTER_LINEAR
            )
    return image

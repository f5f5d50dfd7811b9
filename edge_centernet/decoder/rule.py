"""The decode rule in NumPy: the specification that edgecn_decode.c must equal, bit for bit.

It has two copies: `edgecn_decode.c` beside it, for speed and for firmware, and the graph that
`converters/frigate.py` writes. Whoever changes the rule changes all three, and makes the golden cases of
`tests/c/make_goldens.py` anew.

Peak: a cell >= threshold, > its 4 earlier and >= its 4 later neighbours in raster order, so that a flat
top gives one box. NaN is never a peak and, like a cell outside the map, beats nobody.
Order: higher stored value, then lower class, then lower cell.
Box, every step in float32: x1 = ((x + offset_x) - width * 0.5) * cell_px, x2 with a plus, y alike.
A NaN or infinite size or offset counts as 0, and then a negative size as 0: no coordinate is ever NaN.

What may follow: twins are dropped (`drop_duplicate_peaks`), boxes are mapped to the image (`to_image`),
logits become probabilities (`to_probability`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder.head import BOX, Head

EARLIER = ((-1, -1), (-1, 0), (-1, 1), (0, -1))  # (dy, dx), raster order
LATER = ((0, 1), (1, -1), (1, 0), (1, 1))
DUPLICATE_CENTRE, DUPLICATE_SIZE = np.float32(0.15), np.float32(2.0)


def decode_boxes(
    heat: Head,
    size: Head,
    offset: Head,
    *,
    cell_px: float,
    threshold: float,
    capacity: int,
    class_thresholds: NDArray[np.float32] | None = None,
) -> NDArray[np.void]:
    """The `capacity` best peaks as BOX records (N,), best first.

    heat (C, H, W); size (2, H, W) width, height and offset (2, H, W) x, y, in cells.
    cell_px: input pixels per cell, > 0. threshold: in the heatmap's own unit, not NaN; class_thresholds (C,):
      one for
    each class instead of it. All as float32.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        thresholds = np.full(len(heat.data), threshold) if class_thresholds is None else class_thresholds
        class_id, y, x = np.nonzero(find_peaks(heat, thresholds.astype(np.float32)))
        stored = heat.data[class_id, y, x].astype(np.float32)  # 16-bit integers are exact in float32
        order = np.lexsort((x, y, class_id, -stored))[:capacity]
        class_id, y, x = class_id[order], y[order], x[order]

        boxes = np.empty(len(order), BOX)
        boxes["score"] = heat.real(heat.data[class_id, y, x])
        boxes["class_id"] = class_id
        boxes["cell"] = y * heat.data.shape[2] + x
        for axis, cell in (("x", x), ("y", y)):
            channel = "xy".index(axis)
            extent = np.maximum(_finite(size.real(size.data[channel, y, x])), np.float32(0))
            half = extent * np.float32(0.5)
            centre = cell.astype(np.float32) + _finite(offset.real(offset.data[channel, y, x]))
            boxes[axis + "1"] = (centre - half) * np.float32(cell_px)
            boxes[axis + "2"] = (centre + half) * np.float32(cell_px)
    return boxes


def find_peaks(heat: Head, thresholds: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(C, H, W) true where a peak is; thresholds (C,). Stored values are compared, so nothing rounds."""
    data = heat.data
    peak: NDArray[np.bool_] = heat.real(data) >= thresholds[:, None, None]  # false for NaN
    for neighbours, beats in ((EARLIER, np.greater_equal), (LATER, np.greater)):
        for dy, dx in neighbours:
            here, there = _overlap(dy, dx)
            peak[here] &= ~beats(data[there], data[here])  # false for NaN: it beats nobody
    return peak


def drop_duplicate_peaks(boxes: NDArray[np.void], any_class: bool = False) -> NDArray[np.void]:
    """BOX records (N,), best first, without every box that has a better twin.

    Twins: centres at most DUPLICATE_CENTRE of the better box's width and height apart, and neither side more
      than
    DUPLICATE_SIZE times the other's. any_class: also of another class.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        apart = {}
        for axis in "xy":
            low, high = boxes[f"{axis}1"], boxes[f"{axis}2"]
            side, centre = high - low, (high + low) * np.float32(0.5)
            near = (
                np.abs(centre[:, None] - centre) <= (DUPLICATE_CENTRE * side)[:, None]
            )  # (N better, N worse)
            apart[axis] = (
                near & (side <= DUPLICATE_SIZE * side[:, None]) & (side[:, None] <= DUPLICATE_SIZE * side)
            )
    twins = apart["x"] & apart["y"]
    if not any_class:
        twins &= boxes["class_id"][:, None] == boxes["class_id"]
    keep = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if keep[i]:
            keep[i + 1 :] &= ~twins[i, i + 1 :]
    return boxes[keep]


def to_image(boxes: NDArray[np.void], frame: tuple[int, int, int, int, int, int]) -> NDArray[np.void]:
    """Boxes in network-input pixels -> pixels of the image, clipped to it.

    frame: src_width, src_height, new_width, new_height, left, top, as in `Letterbox`.
    """
    src_width, src_height, new_width, new_height, left, top = frame
    mapped = boxes.copy()
    for axis, src, new, before in (("x", src_width, new_width, left), ("y", src_height, new_height, top)):
        for name in (f"{axis}1", f"{axis}2"):
            mapped[name] = map_back(boxes[name], before, src, new)
    return mapped


def map_back(values: NDArray[np.float32], before: int, src: int, new: int) -> NDArray[np.float32]:
    """Coordinates along one axis, each step in float32: (value - before) * src / new within 0..src."""
    with np.errstate(over="ignore"):
        image = (values - np.float32(before)) * np.float32(src) / np.float32(new)
    return np.where(image > 0, np.minimum(image, np.float32(src)), np.float32(0))


def to_probability(boxes: NDArray[np.void]) -> NDArray[np.void]:
    """Scores that are logits -> probabilities."""
    found = boxes.copy()
    found["score"] = logistic(boxes["score"])
    return found


def logistic(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)) within 1e-6, every step in float32: the same bits as ecn_logistic. 0 for NaN."""
    z = np.minimum(np.abs(logits), np.float32(86))
    z = np.where(np.isnan(z), np.float32(0), z)
    n = (z * np.float32(1.44269504) + np.float32(0.5)).astype(np.int32)
    r = (n.astype(np.float32) * np.float32(0.693359375) - z) + n.astype(np.float32) * np.float32(
        -2.12194440e-4
    )
    p = np.full_like(r, np.float32(1 / 720))
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        p = p * r + np.float32(coefficient)
    e = np.where(np.abs(logits) < 86, np.ldexp(p, -n), np.float32(0))
    top = np.where(logits < 0, e, np.float32(1))
    return np.where(np.isnan(logits), np.float32(0), top / (np.float32(1) + e))


def _overlap(dy: int, dx: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the cells that have a neighbour at (dy, dx), and of those neighbours."""
    here = {-1: slice(1, None), 0: slice(None), 1: slice(None, -1)}
    return (slice(None), here[dy], here[dx]), (slice(None), here[-dy], here[-dx])


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(values), values, np.float32(0))

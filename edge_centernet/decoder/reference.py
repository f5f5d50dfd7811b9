"""The decode rule in NumPy: the specification that edgecn_decode.c must equal, bit for bit.

Peak: a cell >= threshold, > its 4 earlier and >= its 4 later neighbours in raster order, so that a flat
top gives one box. NaN is never a peak and, like a cell outside the map, beats nobody.
Order: higher stored value, then lower class, then lower cell.
Box, every step in float32: x1 = ((x + offset_x) - width * 0.5) * cell_px, x2 with a plus, y alike.
A NaN or infinite size or offset counts as 0, and then a negative size as 0: no coordinate is ever NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder.head import BOX, Head

EARLIER = ((-1, -1), (-1, 0), (-1, 1), (0, -1))  # (dy, dx), raster order
LATER = ((0, 1), (1, -1), (1, 0), (1, 1))


def decode_boxes(
    heat: Head, size: Head, offset: Head, *, cell_px: float, threshold: float, capacity: int
) -> NDArray[np.void]:
    """The `capacity` best peaks as BOX records (N,), best first.

    heat (C, H, W); size (2, H, W) width, height and offset (2, H, W) x, y, in cells.
    cell_px: input pixels per cell, > 0. threshold: in the heatmap's own unit, not NaN. Both as float32.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        class_id, y, x = np.nonzero(find_peaks(heat, np.float32(threshold)))
        stored = heat.data[class_id, y, x].astype(np.float32)  # 8-bit integers are exact in float32
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


def find_peaks(heat: Head, threshold: np.float32) -> NDArray[np.bool_]:
    """(C, H, W) true where a peak is. Stored values are compared, so nothing rounds."""
    data = heat.data
    peak = _reaches(heat, threshold)
    for neighbours, beats in ((EARLIER, np.greater_equal), (LATER, np.greater)):
        for dy, dx in neighbours:
            here, there = _overlap(dy, dx)
            peak[here] &= ~beats(data[there], data[here])  # false for NaN: it beats nobody
    return peak


def _reaches(heat: Head, threshold: np.float32) -> NDArray[np.bool_]:
    if heat.quant is None:
        return heat.data >= threshold  # false for NaN
    limits = np.iinfo(heat.data.dtype)
    integers = np.arange(limits.min, limits.max + 1)  # every value that can be stored
    enough = integers[heat.real(integers) >= threshold]
    if not len(enough):
        return np.zeros(heat.data.shape, np.bool_)
    lowest: NDArray[Any] = enough[:1].astype(heat.data.dtype)
    return heat.data >= lowest


def _overlap(dy: int, dx: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the cells that have a neighbour at (dy, dx), and of those neighbours."""
    here = {-1: slice(1, None), 0: slice(None), 1: slice(None, -1)}
    return (slice(None), here[dy], here[dx]), (slice(None), here[-dy], here[-dx])


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(values), values, np.float32(0))

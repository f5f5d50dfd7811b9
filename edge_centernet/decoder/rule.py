"""The decode rule in NumPy: the specification that edgecn_decode.c must equal, bit for bit.

It has two copies: `edgecn_decode.c` beside it, for speed and for firmware, and the graph that
`converters/decoder_graph.py` adds. Whoever changes the rule changes all three, and regenerates the expected
results with `tests/c/make_goldens.py`.

The rule is that of CenterNet (Zhou et al., "Objects as Points", 2019): a box for each local maximum of a
class's heatmap. Here it is made exact:

1. Peak: a cell >= threshold, > its 4 earlier and >= its 4 later neighbours in raster order, so that a flat
   top gives one box. NaN is never a peak and, like a cell outside the map, is greater than nothing.
2. Order: higher stored value, then lower class, then lower cell.
3. Box, every step in float32: x1 = ((x + offset_x) - width * 0.5) * cell_px, x2 with a plus, y alike. A NaN
   or infinite size or offset counts as 0, and then a negative size as 0: no coordinate is ever NaN.

What may follow: duplicate peaks are dropped (`drop_duplicate_peaks`), boxes are mapped to the image
(`to_image`), logits become probabilities (`to_probability`), and with tiles the boxes of two maps become one
list (`join_levels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ArtifactError
from edge_centernet.manifest import DIM_MAX, Quant

# ecn_box of edgecn_decode.h: network-input pixels, not clipped; score in the heatmap's own unit.
BOX = np.dtype(
    [
        ("x1", np.float32),
        ("y1", np.float32),
        ("x2", np.float32),
        ("y2", np.float32),
        ("score", np.float32),
        ("class_id", np.int32),
        ("cell", np.int32),  # y * width + x
    ]
)
EARLIER = ((-1, -1), (-1, 0), (-1, 1), (0, -1))  # (dy, dx), raster order
LATER = ((0, 1), (1, -1), (1, 0), (1, 1))
# How alike two boxes are that stand for one object (docs/decisions/0001-decoder.md).
DUPLICATE_CENTRE, DUPLICATE_SIZE = np.float32(0.15), np.float32(2.0)


class Tile(NamedTuple):
    """Where a tile lies on the canvas, and which of its cells count: ecn_tile of edgecn_decode.h.

    In cells of the canvas: left, top of the tile; x1, y1 and, exclusive, x2, y2 of what counts.
    """

    left: int
    top: int
    x1: int
    y1: int
    x2: int
    y2: int


class Levels(NamedTuple):
    """What tells the two levels of `join_levels` apart, in pixels of the image.

    width, height: of the largest object that a tile sees whole; infinite where there is one tile only.
    reach_x, reach_y: how far apart the peaks of one object may be.
    """

    width: float
    height: float
    reach_x: float
    reach_y: float


@dataclass(frozen=True, eq=False)
class Head:
    """One output map (channels, height, width), any strides, as stored.

    data: int8, uint8 or int16 with `quant`, or float32 without. Each side 1..1024.
    Raises ArtifactError for anything else, naming `role`.
    """

    role: str
    data: NDArray[Any]
    quant: Quant | None = None

    def __post_init__(self) -> None:
        """Reject what the C decoder would reject."""
        shape, dtype, quant = self.data.shape, self.data.dtype, self.quant
        if len(shape) != 3 or not all(1 <= side <= DIM_MAX for side in shape):
            raise ArtifactError(f"{self.role} head: expected 3 dimensions of 1 to {DIM_MAX}, got {shape}")
        if dtype not in (np.int8, np.uint8, np.int16, np.float32):
            raise ArtifactError(f"{self.role} head: expected int8, uint8, int16 or float32, got {dtype}")
        if (dtype == np.float32) != (quant is None):
            raise ArtifactError(
                f"{self.role} head: expected a scale for integers only, got {quant} and {dtype}"
            )
        if quant is None:
            return
        limits = np.iinfo(dtype)
        # 2^-149 is the smallest float32 above 0: a smaller scale would become 0, and every value with it.
        if not 2.0**-149 <= quant.scale <= float(np.finfo(np.float32).max):
            raise ArtifactError(
                f"{self.role} head: expected a scale that float32 can hold, got {quant.scale}"
            )
        if not limits.min <= quant.zero_point <= limits.max:
            raise ArtifactError(f"{self.role} head: zero point {quant.zero_point} does not fit {dtype}")

    def real(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored values to real ones, float32, rounded once: scale * (stored - zero_point)."""
        if self.quant is None:
            return stored
        # The difference has at most 17 bits and is exact in float32: only the product is rounded.
        difference = (stored.astype(np.int32) - self.quant.zero_point).astype(np.float32)
        return difference * np.float32(self.quant.scale)


def as_pair(quant: Quant | None) -> tuple[float, int]:
    """(scale, zero point), as the C extension takes it; floats have none."""
    return (1.0, 0) if quant is None else (quant.scale, quant.zero_point)


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

    Args:
        heat: (C, H, W), in any unit that grows with the probability.
        size: (2, H, W) width and height in cells.
        offset: (2, H, W) x and y of the centre inside its cell, in cells.
        cell_px: input pixels per cell, > 0.
        threshold: in the heatmap's unit, not NaN; used as float32.
        capacity: at most so many boxes.
        class_thresholds: (C,) float32, one for each class instead of `threshold`.
    """
    # NaN and infinity have a defined meaning here, so NumPy need not warn of them.
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
    # Along one axis: the cells that have a neighbour in this direction, the border has none beyond it. The
    # neighbours themselves are the same slice of the opposite direction.
    inner = {-1: slice(1, None), 0: slice(None), 1: slice(None, -1)}
    for neighbours, beats in ((EARLIER, np.greater_equal), (LATER, np.greater)):
        for dy, dx in neighbours:
            here = (slice(None), inner[dy], inner[dx])
            there = (slice(None), inner[-dy], inner[-dx])
            peak[here] &= ~beats(data[there], data[here])  # false for NaN, which is greater than nothing
    return peak


def drop_duplicate_peaks(boxes: NDArray[np.void], any_class: bool = False) -> NDArray[np.void]:
    """BOX records (N,), best first, without those that are duplicates of a better one.

    Duplicates: boxes of one class whose centres are at most DUPLICATE_CENTRE of the better box's width and
    height apart, and neither of whose sides is more than DUPLICATE_SIZE times the other's. any_class: boxes
    of different classes can be duplicates too.
    """
    # The heatmap of a large object is nearly flat on top: in 8 bits one rounding step decides whether it has
    # one peak or two, some cells apart. Suppression by overlap (NMS) would lose true neighbours, too.
    with np.errstate(over="ignore", invalid="ignore"):
        like = {}
        for axis in "xy":
            low, high = boxes[f"{axis}1"], boxes[f"{axis}2"]
            side, centre = high - low, (high + low) * np.float32(0.5)
            # (N better, N worse)
            near = np.abs(centre[:, None] - centre) <= (DUPLICATE_CENTRE * side)[:, None]
            like[axis] = (
                near & (side <= DUPLICATE_SIZE * side[:, None]) & (side[:, None] <= DUPLICATE_SIZE * side)
            )
    duplicate = like["x"] & like["y"]
    if not any_class:
        duplicate &= boxes["class_id"][:, None] == boxes["class_id"]
    return boxes[_keep_first(duplicate)]


def drop_cut(
    boxes: NDArray[np.void], tile: Tile, tile_cells: tuple[int, int], cells: tuple[int, int], cell_px: float
) -> NDArray[np.void]:
    """BOX records (N,) of a canvas without those of a tile that it saw cut off.

    Those come closer than a cell to an edge of the tile that is no edge of the canvas.

    Args:
        boxes: in pixels of the canvas.
        tile: where it lies.
        tile_cells: its height and width in cells.
        cells: those of the canvas.
        cell_px: pixels per cell.
    """
    # An object that two tiles see parts of has no peak in the cells of either that count, but the slope of
    # one may end at the seam, and look like a peak beside the other tile's cells.
    y, x = boxes["cell"] // cells[1], boxes["cell"] % cells[1]
    cut = np.zeros(len(boxes), np.bool_)
    for axis, begin, length, side in (
        ("x", tile.left, tile_cells[1], cells[1]),
        ("y", tile.top, tile_cells[0], cells[0]),
    ):
        if begin > 0:
            cut |= boxes[f"{axis}1"] < np.float32(begin + 1) * np.float32(cell_px)
        if begin + length < side:
            cut |= boxes[f"{axis}2"] > np.float32(begin + length - 1) * np.float32(cell_px)
    mine = (x >= tile.x1) & (x < tile.x2) & (y >= tile.y1) & (y < tile.y2)
    return boxes[~(cut & mine)]


def join_levels(fine: NDArray[np.void], coarse: NDArray[np.void], levels: Levels) -> NDArray[np.void]:
    """One list of BOX records, best first, of two maps of one image: of its tiles, and of all of it at once.

    fine, coarse: (N,) and (M,), each best first, both in pixels of the image, scores as probabilities. What
    is coarse has -1 - cell for its cell in the result.

    1. Say, every step in float32: with u the larger of width / levels.width and height / levels.height, a
       coarse box counts u - 0.5, a fine one 1 - u. Those that count not above 0 are dropped.
    2. Peak: in the order of score times say (of equals fine before coarse, and each as it came), a box is
       kept unless one of the other level and of its class was kept whose centre lies within the reach of its
       own, which is a coarse cell's 3x3 neighbourhood.
    3. What is kept is ordered by score, equals as they are.
    """
    # Between half and all of the limit both may speak: an object near it is lost only where the two levels
    # disagree on its size by a factor of two. The second rule keeps it from being found twice, and prefers
    # the level that sees objects of this size better.
    marked = coarse.copy()
    marked["cell"] = -1 - coarse["cell"]
    both = np.concatenate([fine, marked])
    with np.errstate(over="ignore", invalid="ignore"):
        wide = (both["x2"] - both["x1"]) / np.float32(levels.width)
        high = (both["y2"] - both["y1"]) / np.float32(levels.height)
        size = np.where(wide > high, wide, high)
        say = np.where(both["cell"] < 0, size - np.float32(0.5), np.float32(1) - size)
        both, say = both[say > 0], say[say > 0]
        both = both[np.argsort(-(both["score"] * say), kind="stable")]
        near = both["class_id"][:, None] == both["class_id"]
        for axis, reach in (("x", levels.reach_x), ("y", levels.reach_y)):
            centre = (both[f"{axis}2"] + both[f"{axis}1"]) * np.float32(0.5)
            near &= np.abs(centre[:, None] - centre) <= np.float32(reach)
    near &= (both["cell"] < 0)[:, None] != (both["cell"] < 0)
    kept: NDArray[np.void] = both[_keep_first(near)]
    return kept[np.argsort(-kept["score"], kind="stable")]


def _keep_first(alike: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N, N) which boxes stand for one object, best first -> (N,) those that stay."""
    # In order of score: a box that was dropped drops no other, or a chain of neighbours would vanish.
    keep = np.ones(len(alike), np.bool_)
    for i in range(len(alike)):
        if keep[i]:
            keep[i + 1 :] &= ~alike[i, i + 1 :]
    return keep


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
    """Coordinates along one axis, each step in float32: (value - before) * src / new within 0..src.

    In pixels: before, the padding in front of the image; src, its size; new, its size in the network's input.
    """
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
    # Not np.exp: firmware may have no libm, and the last bit differs from one library to the next.
    # 1. e^-z = 2^-n * e^r with n = round(z / ln 2), so that |r| <= ln 2 / 2. From 87 on e^-z would not be a
    #    normal float32 any more, on which processors differ too.
    z = np.minimum(np.abs(logits), np.float32(86))
    z = np.where(np.isnan(z), np.float32(0), z)
    n = (z * np.float32(1.44269504) + np.float32(0.5)).astype(np.int32)
    # ln 2 in two parts (Cody and Waite): the product with the first, of few bits, is exact.
    whole = n.astype(np.float32)
    r = (whole * np.float32(0.693359375) - z) + whole * np.float32(-2.12194440e-4)
    # 2. e^r by its Taylor series, by Horner's rule.
    p = np.full_like(r, np.float32(1 / 720))
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        p = p * r + np.float32(coefficient)
    # 3. For x >= 0: 1 / (1 + e^-x); for x < 0: e^x / (1 + e^x), which does not lose digits.
    e = np.where(np.abs(logits) < 86, np.ldexp(p, -n), np.float32(0))
    top = np.where(logits < 0, e, np.float32(1))
    return np.where(np.isnan(logits), np.float32(0), top / (np.float32(1) + e))


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(values), values, np.float32(0))

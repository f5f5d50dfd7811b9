"""Tiles: small objects are found by the same network in overlapping parts of an enlarged image.

    image -> canvas -> tiles -> heads of each -> one map of the canvas (fine) --+
      |                                                                         +-> one decode of both levels
      +--> network's input as without tiles -> heads (coarse) ------------------+

The canvas is the image, enlarged until a grid of tiles of the network's input size covers it. Heads and not
boxes are put together: each cell of the canvas comes from one tile, so that an object on a seam has one peak,
and boxes need not be compared (docs/decisions/0040-tiles-joined-by-peaks.md).

An object is seen whole by the tile in which its centre lies, if it is no larger than the overlap: seams lie
in the middle of the overlap, half of it on either side. Larger ones come from the coarse level. A part of one
that a tile sees at its edge either has its centre beyond the seam, where another tile counts, or is larger
than the overlap, too: the same limit keeps whole objects and drops cut ones.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder.rule import Levels, Tile
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.heads import Heads
from edge_centernet.manifest import SIDE_MAX, SIDE_STEP, InputSize, Manifest, ModelSpec, TensorSpec
from edge_centernet.preprocess import Image, Letterbox, prepare

MOST = 8  # tiles along a side
# Cells at a tile's edge that count neither as seen nor as overlap: beyond the edge the network sees padding,
# which changes heat and size there. Of 89 peaks of people on PETS (centernet-mbv2-320), those whose box ended
# a cell or more from the edge differed by 0.3 logits on average from what a tile found that had them farther
# inside, those at the edge by 0.9, and those across it by 1.4 and more.
EDGE = 1
WANTED = 0.1  # of the shorter side of the network's input, from which on objects are found well
# Of a coarse cell's 3x3 neighbourhood, from its centre to its border.
_REACH = 1.5
_SIZES = 16  # of images that are remembered, as photos may be of any


class Grid(NamedTuple):
    """Columns and rows of tiles, each 1 to 8."""

    columns: int
    rows: int

    def __str__(self) -> str:
        """As it is typed: 3x2."""
        return f"{self.columns}x{self.rows}"

    @classmethod
    def of(cls, text: str) -> Grid:
        """From "3x2"; ConfigError for anything else."""
        match = re.fullmatch(r"(\d)[x*](\d)", text.strip().lower())
        sides = [int(part) for part in match.groups()] if match else []
        if not sides or not all(1 <= side <= MOST for side in sides) or sides == [1, 1]:
            raise ConfigError(
                f"tiles: expected COLUMNSxROWS such as 2x2, each 1 to {MOST}, or auto, got {text!r}"
            )
        return cls(*sides)


@dataclass(frozen=True, eq=False)
class Tiling:
    """How one size of image is divided: the canvas, its tiles, and what either level may say.

    grid: which was asked for. canvas: of a network whose input were all of the canvas. decoded: the same of
    the classes that are looked for. frame, coarse: where the image lies on the canvas and in the network's
    input.
    """

    grid: Grid
    canvas: Manifest
    decoded: Manifest
    tiles: tuple[Tile, ...]
    frame: Letterbox
    coarse: Letterbox
    levels: Levels


class TiledHeads(NamedTuple):
    """Heads of both levels: of the whole image at once, and of the canvas, put together from its tiles."""

    coarse: Heads
    fine: Heads


class TiledInput(NamedTuple):
    """The network's input for the whole image, and the canvas that its inputs for the tiles are parts of."""

    coarse: NDArray[Any]
    canvas: NDArray[Any]
    how: Tiling


class Chooser:
    """Chooses the grid by the sizes of what was found and by the time that a pass of the network takes.

    It is the one with the fewest tiles in which the smaller quarter of the objects reaches a tenth of the
    network's input, and which fits into `budget_ms`; if none does, the one that enlarges most of those that
    fit. It begins with 2x2, looks at the last 300 objects, and chooses again every 25 images.

    model: the network. budget_ms: of all passes for one image; None: any.
    """

    def __init__(self, model: ModelSpec, budget_ms: float | None) -> None:
        """Nothing is known yet."""
        self._model, self._budget_ms = model, budget_ms
        self._sizes: deque[float] = deque(maxlen=300)  # pixels of the image
        self._pass_ms = math.inf  # the shortest: while another one ran, others shared the processor
        self._images = 0
        self.grid: Grid | None = Grid(2, 2)  # None: no tiles

    def learn(self, found: Detections, width: int, height: int) -> None:
        """Take what was found in an image of this size."""
        sides = np.maximum(found.xyxy[:, 2:] - found.xyxy[:, :2], 0)
        self._sizes.extend(np.sqrt(sides.prod(axis=1)).tolist())
        self._images += 1
        if self._images % 25 == 0:
            self.grid = self._choose(width, height)

    def passed(self, ms: float) -> None:
        """Take the time of one pass."""
        self._pass_ms = min(ms, self._pass_ms)

    def _choose(self, width: int, height: int) -> Grid | None:
        tile = self._model.input_size
        grids = [None, *(Grid(*pair) for pair in ((2, 1), (1, 2), (2, 2), (3, 2), (2, 3), (3, 3)))]
        scales, fits = [], []
        for i, grid in enumerate(grids):
            canvas = tile if grid is None else _fit(tile, self._model.stride, grid, width, height)
            scales.append(Letterbox(width, height, *canvas).scale)
            passes = 1 if grid is None else 1 + grid.columns * grid.rows
            if grid is None or self._budget_ms is None or passes * self._pass_ms <= self._budget_ms:
                fits.append(i)
        small = float(np.quantile(self._sizes, 0.25)) if self._sizes else 0.0
        enough = [i for i in fits if scales[i] * small >= WANTED * min(tile)]
        # max takes the first of equals, which has the fewest tiles: an image may gain nothing by another row.
        return grids[enough[0] if enough else max(fits, key=lambda i: scales[i])]


class Tiler:
    """Divides images of one network, of any sizes, into one grid of tiles.

    manifest: of the network. decoded: the same of the classes that are looked for.
    """

    def __init__(self, manifest: Manifest, decoded: Manifest, grid: Grid) -> None:
        """ConfigError for a grid whose canvas would have more pixels than can be."""
        self.grid = grid
        self._manifest, self._decoded = manifest, decoded
        self._known: dict[tuple[int, int], Tiling] = {}
        self._tile = manifest.model.input_size
        most = max(n * side for n, side in zip(grid, self._tile, strict=True))
        if most > SIDE_MAX:
            raise ConfigError(f"tiles: expected at most {SIDE_MAX} pixels side by side, got {most}")

    def prepare(self, image_bgr: Image) -> tuple[TiledInput, Tiling]:
        """(H, W, 3) uint8 BGR -> the inputs of both levels, and how they are divided.

        Raises SourceError as `preprocess.prepare` does.
        """
        x, _ = prepare(image_bgr, self._manifest)  # first, as it checks the image
        how = self.tiling(image_bgr.shape[1], image_bgr.shape[0])
        return TiledInput(x, prepare(image_bgr, how.canvas)[0], how), how

    def tiling(self, width: int, height: int) -> Tiling:
        """The tiles of an image of width x height pixels."""
        known = self._known.get((width, height))
        if known is None:
            if len(self._known) >= _SIZES:
                self._known.clear()
            known = self._known[width, height] = self._divide(width, height)
        return known

    def run(self, x: TiledInput, run: Callable[[NDArray[Any]], Heads]) -> TiledHeads:
        """The heads of both levels, by the network's `run`, whose results may be overwritten by the next."""
        coarse = Heads(*(np.array(head) for head in run(x.coarse)))
        fine = Heads(*(_room(getattr(x.how.decoded, role)) for role in Heads._fields))
        for tile in x.how.tiles:
            place(run(self._cut(x.canvas, tile)), tile, fine)
        return TiledHeads(coarse, fine)

    def _cut(self, canvas: NDArray[Any], tile: Tile) -> NDArray[Any]:
        """The network's input for a tile, contiguous."""
        stride = self._manifest.model.stride
        left, top = tile.left * stride, tile.top * stride
        rows, columns = slice(top, top + self._tile.height), slice(left, left + self._tile.width)
        nhwc = self._manifest.input.layout == "NHWC"
        return np.ascontiguousarray(canvas[:, rows, columns] if nhwc else canvas[:, :, rows, columns])

    def _divide(self, width: int, height: int) -> Tiling:
        stride = self._manifest.model.stride
        # 1. The largest canvas of this grid, and the image on it. Where one side of the image is shorter than
        #    that of the canvas, tiles overlap more.
        most = _fit(self._tile, stride, self.grid, width, height)
        full = Letterbox(width, height, *most)
        sides = InputSize(
            *(
                max(one, min(limit, math.ceil(used / SIDE_STEP) * SIDE_STEP))
                for one, limit, used in zip(self._tile, most, (full.new_width, full.new_height), strict=True)
            )
        )
        frame = Letterbox(width, height, *sides)
        coarse = Letterbox(width, height, *self._tile)
        # 2. Where tiles begin, and which cells count.
        columns, rows = (
            _divide(side, one, n, stride) for side, one, n in zip(sides, self._tile, self.grid, strict=True)
        )
        tiles = tuple(Tile(left, top, x1, y1, x2, y2) for top, y1, y2 in rows for left, x1, x2 in columns)
        # 3. What either level may say, in pixels of the image, in which their boxes are compared.
        cell_x, cell_y = stride * width / frame.new_width, stride * height / frame.new_height
        levels = Levels(
            width=_whole(columns, self._tile.width // stride) * cell_x,
            height=_whole(rows, self._tile.height // stride) * cell_y,
            reach_x=_REACH * stride * width / coarse.new_width,
            reach_y=_REACH * stride * height / coarse.new_height,
        )
        canvas, decoded = (_canvas(one, sides) for one in (self._manifest, self._decoded))
        return Tiling(self.grid, canvas, decoded, tiles, frame, coarse, levels)


def place(heads: Heads, tile: Tile, onto: Heads) -> None:
    """Copy the cells of a tile that count to where they lie on the canvas, as ecn_stitch of the C decoder."""
    for part, whole in zip(heads, onto, strict=True):
        whole[:, tile.y1 : tile.y2, tile.x1 : tile.x2] = part[
            :, tile.y1 - tile.top : tile.y2 - tile.top, tile.x1 - tile.left : tile.x2 - tile.left
        ]


def _fit(tile: InputSize, stride: int, grid: Grid, width: int, height: int) -> tuple[int, int]:
    """Width and height of the canvas that this grid can cover, in pixels, for an image of width x height.

    Tiles overlap as little as they may: whatever none of them sees whole must be large enough for the coarse
    level, WANTED of its input. Overlaps are multiples of SIDE_STEP, and so is the distance of any two tiles:
    the network halves the image five times, at the same pixels where the distance is a multiple of 2^5.
    """
    coarse = Letterbox(width, height, *tile).scale
    overlap = SIDE_STEP
    while True:
        most = [n * side - (n - 1) * overlap for n, side in zip(grid, tile, strict=True)]
        zoom = Letterbox(width, height, *most).scale / coarse
        if overlap - 2 * EDGE * stride >= WANTED * min(tile) * zoom or overlap >= min(tile) // 2:
            return most[0], most[1]
        overlap += SIDE_STEP


def _divide(side: int, tile: int, count: int, stride: int) -> list[tuple[int, int, int]]:
    """Along one axis, `side` pixels long: (a tile's first cell, the first that counts, end of those)."""
    steps = (side - tile) // SIDE_STEP
    begins = sorted({round(steps * i / max(1, count - 1)) * SIDE_STEP for i in range(count)})
    seams = [(a + tile + b) // 2 // stride for a, b in pairwise(begins)]
    firsts = [begin // stride for begin in begins]
    return list(zip(firsts, [0, *seams], [*seams, side // stride], strict=True))


def _whole(parts: list[tuple[int, int, int]], tile: int) -> float:
    """Cells of the longest object that a tile sees whole, wherever its centre is; infinite for one tile."""
    begins = [begin for begin, _, _ in parts]
    overlaps = [a + tile - b for a, b in pairwise(begins)]
    return min(overlaps) - 2 * EDGE if overlaps else math.inf


def _canvas(manifest: Manifest, size: InputSize) -> Manifest:
    """What the file of a network for this input size would say."""
    model = manifest.model.resized(size)
    sides = {"input": (size.height, size.width), **dict.fromkeys(Heads._fields, model.cells)}
    specs: dict[str, Any] = {role: _resized(getattr(manifest, role), *sides[role]) for role in sides}
    return replace(manifest, model=model, **specs, content_sha256="", golden=None)


def _resized(spec: TensorSpec, height: int, width: int) -> TensorSpec:
    channels = spec.chw[0]
    shape = (1, channels, height, width) if spec.layout == "NCHW" else (1, height, width, channels)
    return replace(spec, shape=shape)


def _room(spec: TensorSpec) -> NDArray[Any]:
    room = np.empty(spec.shape[1:], spec.dtype)
    return room if spec.layout == "NCHW" else room.transpose(2, 0, 1)

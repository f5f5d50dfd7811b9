"""Random views of a training image: one warp for geometry, one 3x4 matrix for colour. NumPy and OpenCV only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import GREY

# RGB to luma and two chroma axes (YIQ). Grey has no chroma, so hue and saturation leave it alone.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class Augment:
    """Scale, translation, flip and colour, drawn anew for every call.

    scale: range of the factor on top of the letterbox, drawn uniformly; (1, 1) for none.
    flip: probability of a mirror image, 0..1; 0 for none.
    translate: place the picture anywhere it fits, or cut anywhere if it is larger; False centres it.
    brightness: largest shift, in grey levels of 255; contrast, saturation: largest relative change, below 1;
        hue: largest rotation, in degrees. 0 for none.
    min_visible: a box whose centre stays inside is an object while at least this part of its area does, 0..1.
    min_ignore: one that is not, but of which at least this part shows, is neither object nor background.
    min_side: an object with a side below this many output pixels is neither.
    """

    scale: tuple[float, float] = (0.5, 1.6)
    flip: float = 0.5
    translate: bool = True
    brightness: float = 32.0
    contrast: float = 0.3
    saturation: float = 0.4
    hue: float = 12.0
    min_visible: float = 0.25
    min_ignore: float = 0.1
    min_side: float = 2.0

    def __call__(
        self,
        image_bgr: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        rng: np.random.Generator,
        height: int,
        width: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """One random view of `image_bgr` (H, W, 3) and its boxes (N, 4), x1 y1 x2 y2 in its pixels.

        scores: (N,) how likely each box is an object; 0: neither object nor background.

        Returns the RGB image (height, width, 3) and what is left of the objects: boxes (M, 4) in output
        pixels, clipped, labels (M,), scores (M,). Equal states of `rng` give equal results.
        """
        sx, tx, sy, ty = self._geometry(image_bgr.shape[0], image_bgr.shape[1], rng, height, width)
        # Coordinates count from pixel corners, OpenCV's from pixel centres: half a pixel apart.
        matrix = np.array([[sx, 0, tx + 0.5 * sx - 0.5], [0, sy, ty + 0.5 * sy - 0.5]])
        color = self._color(rng)  # (3, 4)
        pad = _unchanged_grey(color)
        warped = cv2.warpAffine(
            image_bgr,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=pad,
        )
        rgb: Any = cv2.transform(warped, color)
        moved = boxes.astype(np.float32) * np.array([sx, sy, sx, sy], np.float32) + np.array(
            [tx, ty, tx, ty], np.float32
        )
        if sx < 0:
            moved = moved[:, [2, 1, 0, 3]]
        return rgb, *self._visible(moved, labels, scores, height, width)

    def _geometry(
        self, src_height: int, src_width: int, rng: np.random.Generator, height: int, width: int
    ) -> tuple[float, float, float, float]:
        """(sx, tx, sy, ty): x_out = sx * x + tx, y_out = sy * y + ty; sx < 0 mirrors."""
        scale = rng.uniform(*self.scale) * min(width / src_width, height / src_height)
        free_x, free_y = (
            width - scale * src_width,
            height - scale * src_height,
        )  # negative: larger than the output
        x, y = rng.uniform(size=2) if self.translate else (0.5, 0.5)
        if rng.uniform() < self.flip:
            return -scale, free_x * x + scale * src_width, scale, free_y * y
        return scale, free_x * x, scale, free_y * y

    def _color(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """(3, 4): rgb_out = M[:, :3] @ bgr_in + M[:, 3].

        A matrix instead of lookup tables over HSV: five times cheaper, and BGR to RGB comes for free.
        """
        shift, contrast, saturation, turn = rng.uniform(-1, 1, size=4)
        gain, vivid = 1 + self.contrast * contrast, 1 + self.saturation * saturation
        angle = math.radians(self.hue * turn)
        cos, sin = vivid * math.cos(angle), vivid * math.sin(angle)
        chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        rgb = gain * (_RGB @ chroma @ _YIQ)
        offset = GREY * (1 - gain) + self.brightness * shift  # contrast turns about the padding's grey
        return np.column_stack([rgb[:, ::-1], np.full(3, offset)]).astype(np.float32)

    def _visible(
        self,
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        height: int,
        width: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Clip, drop what is out of sight, and give a score of 0 to what is too little to learn from."""
        limit = np.array([width, height, width, height], np.float32)
        clipped = np.clip(boxes, 0, limit)  # (N, 4)
        sides, full = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
        visible = sides.prod(axis=1) / np.maximum(full.prod(axis=1), 1e-6)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre > 0) & (centre < limit[:2])).all(axis=1)
        good = inside & (visible >= self.min_visible) & (sides >= self.min_side).all(axis=1)
        keep = good | ((visible >= self.min_ignore) & (sides > 0).all(axis=1))
        return clipped[keep], labels[keep], np.where(good, scores, np.float32(0))[keep]


def _unchanged_grey(color: NDArray[np.float32]) -> tuple[float, float, float]:
    """The border value that `color` turns into GREY, so that padding looks as it does on a device."""
    gain, offset = float(color[0, :3].sum()), float(color[0, 3])
    value = min(max((GREY - offset) / gain, 0.0), 255.0)
    return value, value, value

"""Where people spend their time: a heatmap over the image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.tracking.geometry import Size, foot_points
from edge_centernet.tracking.state import Tracks

# Cells along the longer side of the image. A foot point is known to a tenth of a person's size at best, so
# finer cells would show noise; and 64 x 64 numbers cost nothing to copy while detection goes on.
_CELLS = 64
# Seconds counted between two frames at most: a camera that was away for an hour saw nobody stand for an hour.
_LONGEST_S = 1.0


class PresenceMap:
    """Seconds that foot points spent in each cell of a grid over the image.

    Time and not sightings: the same walk weighs the same at 5 and at 30 frames per second. Two people who
    stand for a minute are two minutes.
    """

    def __init__(self) -> None:
        """The grid takes its shape from the first frame."""
        self.seconds: NDArray[np.float64] = np.zeros((0, 0))  # (rows, columns)
        self._last: float | None = None

    def update(self, tracks: Tracks, seconds: float, size: Size) -> None:
        """Add the time since the last frame to the cell of everyone seen.

        seconds: the frame's own time. size: (width, height) of the image, pixels.
        """
        self.add(foot_points(tracks.found), seconds, size)

    def add(self, feet: NDArray[np.floating], seconds: float, size: Size) -> None:
        """The same for (N, 2) points of an image or plan of (width, height)."""
        width, height = size
        if not self.seconds.size:
            cell = max(width, height) / _CELLS
            self.seconds = np.zeros((max(1, round(height / cell)), max(1, round(width / cell))))
        dt = 0.0 if self._last is None else min(max(seconds - self._last, 0.0), _LONGEST_S)
        self._last = seconds
        rows, columns = self.seconds.shape
        # Clipped: the feet of those whom the image's edge cuts off lie on the edge or just beyond it.
        x = np.clip((feet[:, 0] * (columns / width)).astype(np.intp), 0, columns - 1)
        y = np.clip((feet[:, 1] * (rows / height)).astype(np.intp), 0, rows - 1)
        np.add.at(self.seconds, (y, x), dt)  # not `+=`, which counts two people in one cell once

    def picture(self, background: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR -> a copy with the heatmap and a legend; where nobody was it stays as it is."""
        canvas = np.ascontiguousarray(background).copy()
        height, width = canvas.shape[:2]
        most = float(self.seconds.max(initial=0.0))
        if most > 0.0:
            share = np.sqrt(self.seconds / most).astype(np.float32)  # a root, or a bench outshines every path
            # Cubic interpolation overshoots beside a peak.
            share = np.clip(cv2.resize(share, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
            # Turbo, unlike the jet it improves on, has no false edges in the middle of the scale.
            colors = cv2.applyColorMap((255.0 * share).astype(np.uint8), cv2.COLORMAP_TURBO)
            alpha = (
                0.7 * np.minimum(4.0 * share, 1.0)[..., None]
            )  # fades out towards 0, so no cell has an edge
            canvas = (canvas * (1.0 - alpha) + colors * alpha).astype(np.uint8)
        # The legend in the lower left corner: the colours from 0 to the most seconds.
        scale = max(0.4, max(width, height) / 1600)
        long, high, pad = max(40, width // 5), max(8, height // 40), max(4, height // 80)
        top = height - high - pad
        row = (255.0 * np.linspace(0.0, 1.0, long, dtype=np.float32)).astype(np.uint8)
        bar = cv2.applyColorMap(np.broadcast_to(row, (high, long)).copy(), cv2.COLORMAP_TURBO)
        room = canvas[top : top + high, pad : pad + long]
        room[:] = bar[: room.shape[0], : room.shape[1]]  # an image smaller than the legend shows a part of it
        for thick, ink in ((3, (0, 0, 0)), (1, (255, 255, 255))):  # white with a dark rim, for any image
            where, font = (pad, top - pad), cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(canvas, f"0 to {most:.1f} s", where, font, scale, ink, thick, cv2.LINE_AA)
        return canvas

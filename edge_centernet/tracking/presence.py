"""Where people spend their time: a map over the picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.tracking.geometry import Size, foot_points
from edge_centernet.tracking.state import Tracks


class PresenceMap:
    """Seconds that foot points spent in each cell of a grid over the picture: 64 cells along its longer side."""

    _CELLS = 64
    _LONGEST_S = (
        1.0  # counted between two frames; a camera that was away for an hour saw nobody stand for an hour
    )

    def __init__(self) -> None:
        """The grid takes its shape from the first frame."""
        self.seconds: NDArray[np.float64] = np.zeros((0, 0))  # (rows, columns)
        self._last: float | None = None

    def update(self, tracks: Tracks, seconds: float, size: Size) -> None:
        """Add the time since the last frame to the cell of everyone seen. size: (width, height) in pixels."""
        width, height = size
        if not self.seconds.size:
            cell = max(width, height) / self._CELLS
            self.seconds = np.zeros((max(1, round(height / cell)), max(1, round(width / cell))))
        dt = 0.0 if self._last is None else min(max(seconds - self._last, 0.0), self._LONGEST_S)
        self._last = seconds
        rows, columns = self.seconds.shape
        feet = foot_points(tracks)
        x = np.clip((feet[:, 0] * (columns / width)).astype(np.intp), 0, columns - 1)
        y = np.clip((feet[:, 1] * (rows / height)).astype(np.intp), 0, rows - 1)
        np.add.at(self.seconds, (y, x), dt)

    def picture(self, background: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR -> the same with the map over it and a legend; where nobody was it stays as it is."""
        canvas = np.ascontiguousarray(background).copy()
        height, width = canvas.shape[:2]
        most = float(self.seconds.max(initial=0.0))
        if most > 0.0:
            share = np.sqrt(self.seconds / most).astype(np.float32)  # a root, or a bench outshines every path
            share = np.clip(cv2.resize(share, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
            colors = cv2.applyColorMap((255.0 * share).astype(np.uint8), cv2.COLORMAP_TURBO)
            alpha = 0.7 * np.minimum(4.0 * share, 1.0)[..., None]
            canvas = (canvas * (1.0 - alpha) + colors * alpha).astype(np.uint8)
        _legend(canvas, most)
        return canvas


def _legend(canvas: NDArray[np.uint8], most: float) -> None:
    """The colours from 0 to the most seconds, in the lower left corner."""
    height, width = canvas.shape[:2]
    scale = max(0.4, max(width, height) / 1600)
    long, high, pad = max(40, width // 5), max(8, height // 40), max(4, height // 80)
    top = height - high - pad
    share = np.linspace(0.0, 1.0, long, dtype=np.float32)
    bar = cv2.applyColorMap(
        np.broadcast_to((255.0 * share).astype(np.uint8), (high, long)).copy(), cv2.COLORMAP_TURBO
    )
    room = canvas[top : top + high, pad : pad + long]
    room[:] = bar[: room.shape[0], : room.shape[1]]
    for thick, ink in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        cv2.putText(
            canvas,
            f"0 to {most:.1f} s",
            (pad, top - pad),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            ink,
            thick,
            cv2.LINE_AA,
        )

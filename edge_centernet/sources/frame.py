"""What every source gives: frames, and how it is doing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One picture. source: path or URL; number: 0 for a still picture, counting from 0 in a video or camera.

    seconds: since the source's first frame, by its own clock: number / fps in a file, time of arrival in a
      live source.
    captured: time.monotonic() when the frame came into memory; how old a result is counts from there.
    """

    source: str
    number: int
    image: NDArray[np.uint8]  # (H, W, 3) BGR
    seconds: float = 0.0
    captured: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class CaptureState:
    """How a source is doing.

    state: "starting", "live", "frozen" (no new frame for too long), "lost", "stuck" (only a new process
    can help), "ended".
    detail: one line for people, "" while all is well. reopened: times it was opened again. frames: read so
      far;
    dropped: of those, never handed on because a newer one was there. last_frame: time.monotonic() of the
      newest.
    """

    state: str = "starting"
    detail: str = ""
    reopened: int = 0
    frames: int = 0
    dropped: int = 0
    last_frame: float | None = None

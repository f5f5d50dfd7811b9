"""What every source returns: frames, and the state it is in; the modules are the sources."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    source: path or URL, without a password.
    number: 0 for an image file, counting from 0 in a video or camera.
    seconds: since the source's first frame, by its own clock: the container's times in a file, time of
      arrival in a live source; 0 for images that are no sequence.
    captured: time.monotonic() when the frame came into memory; the age of a result counts from there.
    part: another number begins where a video starts again: nothing in it goes on from the frame before.
    """

    source: str
    number: int
    image: NDArray[np.uint8]  # (H, W, 3) BGR, of square pixels
    seconds: float = 0.0
    captured: float = field(default_factory=time.monotonic)
    part: int = 0


@dataclass(frozen=True)
class CaptureState:
    """The state of a source.

    state: "starting", "live", "frozen" (no new frame for too long), "lost", "stuck" (only a new process
      can help), "ended".
    detail: one line for people, "" while all is well.
    reopened: times it was opened again.
    frames: read so far. dropped: of those, never handed on because a newer one was there.
    last_frame: time.monotonic() of the newest; None before the first.
    """

    state: str = "starting"
    detail: str = ""
    reopened: int = 0
    frames: int = 0
    dropped: int = 0
    last_frame: float | None = None

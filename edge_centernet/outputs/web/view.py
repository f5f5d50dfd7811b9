"""What the live page shows of one camera: its newest result, images of it, and its state.

Images are drawn and encoded once for all viewers, only while somebody watches, and no faster than they want.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import cv2

from edge_centernet.camera_config import slug
from edge_centernet.outputs import Silent
from edge_centernet.outputs.annotate import Overlay
from edge_centernet.service import health as service_health
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Snapshot

_LOOK_S = 0.01  # how often the newest result is looked for while somebody waits for it
_WAIT_S = 1.0  # for a new image, before a viewer looks whether it is still connected
_FRESH_S = 1.0  # an older image is drawn again for a new viewer, if there is a newer result
_QUALITY = 75  # of the JPEG files, 0..100
_SMALL_FPS, _SMALL_WIDTH = 3.0, 480  # of the images of several cameras on one page


class View(Silent):
    """What the page shows of one camera: its newest result, pictures of it, and how it does.

    name: for people. path: where it is below the server's address: "" of a single camera, else "NAME/".
    pictures: of the newest result. small: the same for a page of several cameras.
    latest: the newest result, None before the first. It and the methods are for the server's own thread, but
    for `update`.
    """

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        overlay: Overlay,
        several: bool = False,
        health: Callable[[], tuple[bool, dict[str, Any]]] | None = None,
        capture: Callable[[], CaptureState] | None = None,
        stream_fps: float = 10.0,
        max_width: int = 960,
    ) -> None:
        """Nothing to show yet.

        Args:
            name: of the camera.
            classes: names by class_id.
            overlay: draws the images; nothing else may use it.
            several: whether it has a path of its own, beside other cameras.
            health: returns whether all is well, and details for /state.json; `service.health` unless given.
            capture: returns the current state of the source; by default its state at the last result, which
                does not show a camera that was lost since.
            stream_fps: images per second, at most; above 0.
            max_width: of the images, pixels.
        """
        self.name, self.path = name, f"{slug(name)}/" if several else ""
        self.latest: Snapshot | None = None
        self.pictures = Pictures(self, overlay, stream_fps, max_width)
        # An overlay remembers where things were: this one needs its own.
        self.small = Pictures(self, deepcopy(overlay), min(_SMALL_FPS, stream_fps), _SMALL_WIDTH)
        self._classes, self._health, self._capture = classes, health, capture

    def update(self, snapshot: Snapshot) -> None:
        """Show this from now on. Returns at once.

        Nobody is woken from here: that would be a system call, after which this thread could wait for
        Python's lock. Whoever waits for an image looks here a hundred times per second.
        """
        self.latest = snapshot

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and details."""
        return service_health(self._captured(), self.latest) if self._health is None else self._health()

    def state(self) -> dict[str, Any]:
        """What the page shows. picture_age_s counts from the frame's capture, age_ms to its result."""
        capture = self._captured()
        names = ("state", "detail", "reopened", "frames", "dropped")
        state: dict[str, Any] = {
            "name": self.name,
            "capture": {name: getattr(capture, name) for name in names},
        }
        if (snapshot := self.latest) is None:
            return state
        frame = snapshot.frame
        state |= {
            "source": frame.source,
            "frame": frame.number,
            "width": frame.image.shape[1],
            "height": frame.image.shape[0],
            "fps": round(snapshot.fps, 1),
            "age_ms": round(snapshot.age_ms, 1),
            "picture_age_s": round(time.monotonic() - frame.captured, 3),
            "ms": {step: round(value, 1) for step, value in snapshot.ms.items()},
            "detections": dict(Counter(self._classes[class_id] for class_id in snapshot.found.class_id)),
        }
        return state if snapshot.tally is None else state | snapshot.tally.as_dict()

    def full_state(self) -> dict[str, Any]:
        """The same with every box and what health reports."""
        well, details = self.healthy()
        state = {**self.state(), "healthy": well, "health": details}
        if (snapshot := self.latest) is not None:
            shown = snapshot.found  # with tracks theirs, in their order
            state["objects"] = objects = [
                {
                    "class": self._classes[c],
                    "score": round(float(s), 4),
                    "box": [round(float(v), 2) for v in box],
                }
                for box, s, c in zip(shown.xyxy, shown.score, shown.class_id, strict=True)
            ]
            if snapshot.tracks is not None:
                ids = zip(snapshot.tracks.id, objects, strict=True)
                state["objects"] = [{"id": int(id_), **thing} for id_, thing in ids]
        return state

    def close(self) -> None:
        """Draw no more."""
        self.pictures.close()
        self.small.close()

    def _captured(self) -> CaptureState:
        if self._capture is not None:
            return self._capture()
        return CaptureState() if self.latest is None else self.latest.capture


@dataclass(frozen=True, eq=False)
class Drawn:
    """A finished image. number: 1 and up. data: JPEG. made: time.monotonic()."""

    number: int
    snapshot: Snapshot
    data: bytes
    made: float


class Pictures:
    """Images of the newest result, made when a viewer waits for one, once for all who wait.

    A viewer that is slow asks less often and so misses images; nothing is saved up for it.
    """

    def __init__(self, view: View, overlay: Overlay, fps: float, max_width: int) -> None:
        """fps: images per second, at most. max_width: of them, pixels. overlay: for their use alone."""
        self._view, self._overlay = view, overlay
        self._period, self._max_width = 1.0 / fps, max_width
        self._due = 0.0  # earliest time for the next, time.monotonic()
        self._drawn: Drawn | None = None
        self._making: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, "picture")

    async def newer(self, number: int) -> Drawn | None:
        """The first image after this one, or None when there was none for about a second."""
        end = time.monotonic() + _WAIT_S
        while True:
            drawn = self._drawn
            if drawn is not None and drawn.number > number:
                # Not one that was made when somebody last watched, an hour ago.
                fresh = drawn.snapshot is self._view.latest or time.monotonic() - drawn.made < _FRESH_S
                if fresh:
                    return drawn
            if time.monotonic() >= end:
                return None
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._make())
            # Shielded, because it is shared: one viewer that leaves must not stop it for the others.
            await asyncio.shield(self._making)

    def close(self) -> None:
        """Start no more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _make(self) -> None:
        # 1. Wait for the next image's turn, and for a result that is newer than the last image's.
        await asyncio.sleep(self._due - time.monotonic())
        last, end = self._drawn, time.monotonic() + _WAIT_S
        while (snapshot := self._view.latest) is None or (last is not None and snapshot is last.snapshot):
            if time.monotonic() >= end:
                return
            await asyncio.sleep(_LOOK_S)
        # 2. The next turn: up to half a period of lateness is made up for, no more.
        now = time.monotonic()
        self._due = max(self._due, now - self._period / 2) + self._period

        # 3. Draw and encode on another thread, so that this one can serve meanwhile.
        def encode(snapshot: Snapshot) -> bytes:
            picture = self._overlay.draw(snapshot, self._max_width)
            return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()

        data = await asyncio.get_running_loop().run_in_executor(self._worker, encode, snapshot)
        self._drawn = Drawn(1 if last is None else last.number + 1, snapshot, data, now)

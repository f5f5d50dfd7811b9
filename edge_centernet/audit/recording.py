"""What an audit plays: a video from any moment on, or the kept paths of a store over a still picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detector import Detector
from edge_centernet.draw import Image, class_color
from edge_centernet.errors import SourceError
from edge_centernet.history.audit import Crossing, Stretch
from edge_centernet.history.store import open_store, unpack_points
from edge_centernet.imageio import read_image
from edge_centernet.pipeline import Pipeline
from edge_centernet.progress import Progress
from edge_centernet.runtimes.base import Runtime
from edge_centernet.sources import Frame
from edge_centernet.sources.files import Video
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.scene import Scene, SceneOptions

_READ_ON_S = 3.0  # so far ahead a video is read on to; farther away it is sought
_BACK_S = (1.0, 10.0)  # before the moment that is sought: formats miss it by up to some frames, or a keyframe
_ROUNDING_S = 1e-6  # by which the time of a frame may differ after a search
_PLAIN = (540, 960)  # height and width of a background where no picture is given
_GROUND = 48  # its grey level, 0..255
_STEP_S = 0.08  # from one picture of paths to the next
_TRAIL_S = 2.0  # of a path that is shown behind its head
_HIDDEN_S = 1.0  # between two points: longer, and nobody knows where the track was meanwhile
_LONGEST_MS = 3_600_000  # of a path; the index of paths is by their ends


class Picture(NamedTuple):
    """One picture of a recording. seconds: its time; following: that of the next one, None at the end."""

    image: Image
    seconds: float
    following: float | None


class Recording(Protocol):
    """What can be watched."""

    def at(self, seconds: float) -> Picture:
        """The picture that is to be seen at this time."""

    def close(self) -> None:
        """Release it."""


class VideoRecording(Video):
    """A video file: its frames in turn, as every `Video`, or else from any moment on with `at`; not both."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises SourceError when it is no video."""
        self._path = str(path)
        super().__init__(self._path, live=False)
        self.expected = round(self._promised)  # frames, as its header says
        self._shown: Frame | None = self._first
        self._following: Frame | None = None
        self._ahead = False  # whether `_following` is known

    def at(self, seconds: float) -> Picture:
        """The last frame at or before this time; the first one for a time before it."""
        seconds += _ROUNDING_S
        shown = self._shown
        if shown is None or not shown.seconds <= seconds <= shown.seconds + _READ_ON_S:
            shown = self._seek(seconds)
        if not self._ahead:
            self._following, self._ahead = self._read(shown.number + 1, shown.seconds), True
        while (following := self._following) is not None and following.seconds <= seconds:
            shown, self._following = following, self._read(following.number + 1, following.seconds)
        self._shown = shown
        return Picture(shown.image, shown.seconds, None if following is None else following.seconds)

    def _seek(self, seconds: float) -> Frame:
        self._ahead = False
        for back in _BACK_S:
            target = seconds - back
            if target > 0 and self._capture.set(cv2.CAP_PROP_POS_MSEC, 1000.0 * (target - self._shift)):
                number = max(1, round(target * self.fps))
                frame = self._read(number, -math.inf)
                if frame is not None and 0 <= frame.seconds <= seconds:
                    return frame
        # It cannot be sought, or the moment is near the beginning: all of it anew.
        self.close()
        super().__init__(self._path, live=False, warn=lambda line: None)
        if self._first is None:
            raise SourceError(f"{self.name}: it can be read no more; was it replaced?")
        return self._first


def count_crossings(
    video: VideoRecording,
    runtime: Runtime,
    lines: Sequence[Line],
    threshold: float | None,
    classes: Sequence[str] | None,
    max_detections: int,
    progress: Progress,
) -> tuple[list[Crossing], str, float]:
    """What `detect` counts in a video: crossings, "people" or "objects", and the length in seconds.

    Args:
        video: read to its end; to be opened again for watching.
        runtime: the model.
        lines: to count at.
        threshold: score from which a detection is sure, 0..1; None for the model's.
        classes: to be counted; None for all.
        max_detections: boxes in a frame.
        progress: told of frames.

    Raises ConfigError for an unknown class.
    """
    model = runtime.manifest.model
    scene = Scene(
        SceneOptions(lines=tuple(lines)),
        model.suggested if threshold is None else threshold,
        model.classes,
        classes,
    )
    detector = Detector(
        runtime,
        threshold=scene.detector_threshold,
        max_detections=max_detections,
        only=scene.detector_classes,
    )
    crossings, names, last, number = [], set(), 0.0, 0
    with Pipeline(video, detector) as pipeline:
        for result in pipeline:
            assert result is not None  # that is for live sources
            tally = scene.update(result.frame, result.found)[2]
            last, number = result.frame.seconds, result.frame.number + 1
            for event in () if tally is None else tally.events:
                crossings.append(Crossing(round(event.seconds, 3), event.where, event.direction))
                names.add(event.class_name)
            if number <= video.expected:
                progress("Counting", number, video.expected)
    return crossings, "objects" if names - {"person"} else "people", last + 1 / video.fps


class PathsRecording:
    """Kept paths as dots that move over a picture, with the way of their last two seconds behind them."""

    def __init__(self, store: Path, began: int, stretches: Sequence[Stretch], still: Path | None) -> None:
        """Read the paths of these stretches.

        Args:
            store: from `detect --store`.
            began: the time that is second 0, milliseconds since 1970.
            stretches: to be watched.
            still: a picture of that camera for the background; grey if not given.

        Raises StoreError and SourceError for files that cannot be read.
        """
        height, width = _PLAIN
        self._ground = np.full((height, width, 3), _GROUND, np.uint8) if still is None else read_image(still)
        self._walks: list[tuple[float, int, NDArray[np.float32]]] = []  # begin in seconds, track, points
        known: set[int] = set()
        with closing(open_store(store)) as base:
            for stretch in stretches:
                first, last = (began + round(1000 * at) for at in (stretch.first, stretch.last))
                rows = base.execute(
                    "SELECT id, began, track, points FROM path WHERE ended BETWEEN ? AND ? AND began <= ?",
                    (first, last + _LONGEST_MS, last),
                )
                for number, start, track, packed in rows:
                    if number not in known:
                        known.add(number)
                        self._walks.append(((start - began) / 1000, track, unpack_points(packed)))

    def at(self, seconds: float) -> Picture:
        """Whoever is there at this time."""
        canvas = self._ground.copy()
        height, width = canvas.shape[:2]
        for begin, track, points in self._walks:
            now = seconds - begin
            if not 0 <= now <= points[-1, 0]:
                continue
            after = int(np.searchsorted(points[:, 0], now, side="right"))
            behind = points[:after][points[:after, 0] >= now - _TRAIL_S]
            ahead = points[min(after, len(points) - 1)]
            before = points[after - 1]
            if ahead[0] - before[0] > _HIDDEN_S:
                continue
            share = (now - before[0]) / max(ahead[0] - before[0], 1e-6)
            head = before + (ahead - before) * np.float32(min(share, 1.0))
            trail = np.concatenate([behind[:, 1:3], head[None, 1:3]]) * (width, height)
            color = class_color(track)
            way = np.rint(trail).astype(np.int32)
            cv2.polylines(canvas, [way], False, color, 2, cv2.LINE_AA)
            radius = max(5, round(0.12 * float(head[3]) * width))
            cv2.circle(canvas, tuple(way[-1].tolist()), radius, color, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, tuple(way[-1].tolist()), radius, (255, 255, 255), 1, cv2.LINE_AA)
        return Picture(canvas, seconds, seconds + _STEP_S)

    def close(self) -> None:
        """Nothing is open."""

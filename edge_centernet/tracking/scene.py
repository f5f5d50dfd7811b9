"""From detections to who is where: tracks, counts and the map of presence, as far as somebody asked for them."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.detector import class_ids
from edge_centernet.draw import blur
from edge_centernet.errors import ConfigError
from edge_centernet.files import write_atomic
from edge_centernet.sources.frame import Frame
from edge_centernet.system.single_slot import Worker
from edge_centernet.tracking.counter import Counter
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.presence import PresenceMap
from edge_centernet.tracking.state import Tally, Tracks
from edge_centernet.tracking.tracker import Tracker, TrackerOptions
from edge_centernet.tracking.zone_counter import Zone

_SAVE_EVERY_S = 10.0  # what a power cut may cost: counts of the last seconds


@dataclass(frozen=True)
class SceneOptions:
    """What to follow and count.

    presence: picture to write, with the classes in `blur` made unrecognisable on it. counts: file that keeps
      the totals
    over restarts.
    """

    track: bool = False
    lines: tuple[Line, ...] = ()
    zones: tuple[Zone, ...] = ()
    presence: Path | None = None
    counts: Path | None = None
    blur: tuple[str, ...] = ()

    @property
    def tracks(self) -> bool:
        """Whether anything here needs tracks."""
        return bool(self.track or self.lines or self.zones or self.presence)


class Scene:
    """Follows and counts what one source shows. Give it every result, in order; close it to write its files."""

    def __init__(
        self,
        options: SceneOptions,
        threshold: float | Sequence[float],
        classes: Sequence[str],
        wanted: Sequence[str] | None = None,
    ) -> None:
        """threshold: score from which a detection is sure, 0..1, for all or for each of `classes`.

        wanted: classes to follow and show; all unless given.
        Raises ConfigError for an unknown class, or a counts file that is none.
        """
        self._options, self._threshold = options, threshold
        self._wanted = None if wanted is None else class_ids(wanted, classes)
        self._blurred = class_ids(options.blur, classes) if options.blur else np.zeros(0, np.int32)
        # A class that is only blurred must be looked for all the same.
        self.detector_classes = (
            None if self._wanted is None else [classes[i] for i in sorted({*self._wanted, *self._blurred})]
        )
        self._tracker = Tracker(threshold) if options.tracks else None
        self._counter = (
            Counter(options.lines, options.zones, classes) if options.lines or options.zones else None
        )
        self._presence = PresenceMap() if options.presence else None
        self._background: tuple[Frame, NDArray[np.float32]] | None = None  # and the boxes to blur in it
        self._saved_at = time.monotonic()
        if options.counts is not None and self._counter is None:
            raise ConfigError(
                "--counts keeps the totals of lines and zones: expected --count-line or --zone with it"
            )
        self._restore()
        # On a thread: flushing to an SD card takes a good part of a second.
        self._saver = Worker("save", self._write, newest=True) if options.counts or options.presence else None

    @property
    def detector_threshold(self) -> float | Sequence[float]:
        """What the detector must be run with: tracking and blurring also use detections that are not sure."""
        doubtful = TrackerOptions() if self._tracker is None else self._tracker.options
        return doubtful.low_for(self._threshold) if self._tracker or len(self._blurred) else self._threshold

    def update(self, frame: Frame, seen: Detections) -> tuple[Detections, Tracks | None, Tally | None]:
        """(what to show of all that was seen, the tracks, the counts). With tracks, only what they found is shown."""
        found = seen if self._wanted is None else seen[np.isin(seen.class_id, self._wanted)]
        if self._tracker is None:
            return found[found.reaching(self._threshold)], None, None
        tracks = self._tracker.update(found, frame.seconds)
        height, width = frame.image.shape[:2]
        tally = self._counter.update(tracks, frame.seconds, (width, height)) if self._counter else None
        if self._presence is not None:
            self._presence.update(tracks, frame.seconds, (width, height))
            self._background = frame, seen.xyxy[np.isin(seen.class_id, self._blurred)]
        if self._saver is not None and time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._saver.add(self._files())
            self._saved_at = time.monotonic()
        return tracks.found, tracks, tally

    def close(self) -> None:
        """Write the files a last time."""
        if self._saver is not None:
            self._saver.add(self._files())
            self._saver.close()

    def _files(self) -> _Files:
        counts = None if self._counter is None else self._counter.state()
        return _Files(
            counts, None if self._presence is None else copy.deepcopy(self._presence), self._background
        )

    def _write(self, files: _Files) -> None:
        if self._options.counts is not None and files.counts is not None:
            write_atomic(self._options.counts, json.dumps(files.counts, ensure_ascii=False, indent=1) + "\n")
        if self._options.presence is not None and files.presence is not None and files.background is not None:
            frame, boxes = files.background
            picture = files.presence.picture(blur(frame.image.copy(), boxes))
            ok, data = cv2.imencode(".png", picture)
            if ok:
                write_atomic(self._options.presence, data.tobytes())

    def _restore(self) -> None:
        path = self._options.counts
        if path is None or self._counter is None or not path.exists():
            return
        try:
            self._counter.restore(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ConfigError) as error:
            raise ConfigError(
                f"{path}: expected counts that this program wrote: {error}; move the file away"
            ) from None


@dataclass(frozen=True, eq=False)
class _Files:
    """What is written, as it was at one moment."""

    counts: dict[str, Any] | None
    presence: PresenceMap | None
    background: tuple[Frame, NDArray[np.float32]] | None

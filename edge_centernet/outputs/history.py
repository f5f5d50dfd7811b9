"""Keeps what was counted in a store, from which `edge-centernet report` makes its tables and charts."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_centernet.files import Unwritten
from edge_centernet.history.store import (
    MINUTE_MS,
    Retention,
    Store,
    StoredEvent,
    StoredMinute,
    StoredPath,
    StoreError,
    flush,
)
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.tracking.geometry import foot_points
from edge_centernet.tracking.state import Event, Snapshot

_ALIVE_EVERY_S = 10.0  # how often "still here" is written: what a gap after a power cut may begin too early
_FLUSH_EVERY_S = 10.0  # what a power cut may cost
_POINT_EVERY_S = 0.2  # of a path: somebody who walks goes a third of a metre in it
_SHORTEST_PATH_S = 0.5  # shorter tracks are flickers
_LONGEST_STEP_S = 1.0  # between two frames: a camera that was away for an hour saw nobody stand for an hour
_JUMP_MS = 2_000  # a clock that is set right by more than this leaves a gap
# Events that are held in memory while the disk is full: some days of a busy entrance, a few megabytes.
_WAITING = 20_000

_log = logging.getLogger(__name__)


class Clock:
    """Wall-clock times of moments on the monotonic clock, and the jumps of the former.

    All outputs of a run share one, on one thread, so that an event has the same time in each.
    """

    def __init__(self, now: Callable[[], float] = time.time, recorded: float | None = None) -> None:
        """now: seconds since 1970. recorded: the same of a file's first frame; now unless given."""
        self._now, self._recorded = now, recorded
        self._offset = self._read()
        self._began = time.monotonic()

    def _read(self) -> int:
        return round((self._now() - time.monotonic()) * 1000)

    def at(self, monotonic: float) -> int:
        """Milliseconds since 1970 at a moment of `time.monotonic`."""
        return round(monotonic * 1000) + self._offset

    def of(self, frame: Frame, live: bool) -> int:
        """Milliseconds since 1970 at which a frame was captured."""
        return self.at(frame.captured) if live else self.start() + round(1000 * frame.seconds)

    def start(self) -> int:
        """Milliseconds since 1970 at which a file was recorded, or this clock was made."""
        return self.at(self._began) if self._recorded is None else round(1000 * self._recorded)

    def jump(self) -> tuple[int, int] | None:
        """The time before and after it, if the clock was set since the last call; else None."""
        offset, before = self._read(), self._offset
        if abs(offset - before) < _JUMP_MS:
            return None  # the slow corrections of NTP are left alone, or every event would move
        self._offset = offset
        now = time.monotonic()
        return round(now * 1000) + before, self.at(now)


@dataclass
class _Minute:
    """A zone in the current minute: seconds times persons, seconds watched, most at once; those who wait."""

    inside_s: float = 0.0
    watched_s: float = 0.0
    most: int = 0
    queue_s: float = 0.0
    queue_most: int | None = None  # of a zone that is no queue


@dataclass
class _Waiting:
    """What is to be committed next."""

    events: list[StoredEvent] = field(default_factory=list)
    paths: list[StoredPath] = field(default_factory=list)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    minutes: dict[tuple[int, str], _Minute] = field(default_factory=dict)


class HistoryOutput:
    """Writes each event before other outputs report it, and the rest every ten seconds.

    To be the first of the outputs. A disk that is full or read-only does not end detection: what could not be
    written is tried again, and is lost only if the process ends first.
    """

    def __init__(
        self,
        path: Path,
        camera: str,
        classes: Sequence[str],
        keep: Retention,
        live: bool,
        unwritten: Unwritten | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open or make the store.

        Args:
            path: of the store.
            camera: its name, as reports show it.
            classes: names by class_id.
            keep: for how long.
            live: whether frames come in real time; those of a file are timed by the file, from the clock's
              start on.
            unwritten: told when the store cannot be written.
            clock: where wall-clock times come from.

        Raises StoreError for a file that is not a store or cannot be written.
        """
        self._clock = clock or Clock()
        self._live = live
        self._classes = tuple(classes)
        self._store = Store(path, camera, self._clock.start())
        self._waiting = _Waiting()
        self._walks: dict[int, tuple[int, str, list[tuple[float, ...]]]] = {}  # track: began, class, points
        self._last: int | None = None  # time of the newest frame
        self._silent = False
        self._next_alive = 0.0
        self._failed, self._unwritten = False, unwritten or Unwritten()
        self._flusher = _Flusher(path, keep, self._clock)

    def update(self, snapshot: Snapshot) -> None:
        """Take one result, and commit it if something happened in it."""
        frame = snapshot.frame
        if (jump := self._clock.jump()) is not None:
            before, after = jump
            if after > before:  # set back instead: some time happens twice, and nothing is missing
                self._waiting.gaps.append((before, after, "clock"))
            self._last = None
        now = self._clock.of(frame, self._live)
        if self._silent and self._last is not None:
            self._waiting.gaps.append((self._last, now, "camera"))
        step = 0.0 if self._last is None or self._silent else min((now - self._last) / 1000, _LONGEST_STEP_S)
        self._last, self._silent = now, False
        self._follow(snapshot, now)
        events: tuple[Event, ...] = ()
        if snapshot.tally is not None:
            events = snapshot.tally.events
            for zone in snapshot.tally.zones:
                minute = self._waiting.minutes.setdefault((now - now % MINUTE_MS, zone.name), _Minute())
                minute.inside_s += zone.inside * max(step, 0.0)
                minute.watched_s += max(step, 0.0)
                minute.most = max(minute.most, zone.inside)
                if zone.queue is not None:
                    minute.queue_s += zone.queue.length * max(step, 0.0)
                    minute.queue_most = max(minute.queue_most or 0, zone.queue.length)
        for event in events:
            dwell = event.dwell_s if event.kind == "left" or event.state == "ended" else None
            direction = event.direction or event.state
            self._waiting.events.append(
                StoredEvent(
                    now, event.kind, event.where, direction, event.class_name, event.track_id, dwell,
                    event.rule, event.value,
                )
            )  # fmt: skip
        if (events and not self._failed) or time.monotonic() >= self._next_alive:
            self._commit(now)

    def waiting(self, capture: CaptureState) -> None:
        """Note that the source is silent: from its last frame on nobody knows who passes."""
        self._silent = True
        if time.monotonic() >= self._next_alive:
            self._commit(self._clock.at(time.monotonic()))

    def close(self) -> None:
        """Write what is left: paths that did not end, and the gap until the end if the source was silent."""
        ended = self._clock.at(time.monotonic()) if self._live else self._clock.start()
        now = ended if self._live or self._last is None else self._last
        if self._silent and self._last is not None:
            self._waiting.gaps.append((self._last, now, "camera"))
        for id_ in list(self._walks):
            self._end(id_)
        self._commit(now)
        if self._failed and self._waiting.events:
            self._unwritten.lost(f"{self._store.path}: {len(self._waiting.events)} events were lost")
        self._flusher.close()
        self._store.close()

    def _follow(self, snapshot: Snapshot, now: int) -> None:
        tracks = snapshot.tracks
        if tracks is None:
            return
        height, width = snapshot.frame.image.shape[:2]
        feet, boxes = foot_points(tracks.found), tracks.found.xyxy
        spans = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) / width
        for id_, class_id, (x, y), span in zip(
            tracks.id.tolist(), tracks.found.class_id, feet, spans, strict=True
        ):
            began, _, points = self._walks.setdefault(id_, (now, self._classes[class_id], []))
            seconds = (now - began) / 1000
            # A millisecond less, or every rounded time would put some points off to the next frame.
            if not points or seconds - points[-1][0] >= _POINT_EVERY_S - 0.001:
                points.append((seconds, x / width, y / height, span))
        for id_ in tracks.ended:
            self._end(id_)

    def _end(self, id_: int) -> None:
        walk = self._walks.pop(id_, None)
        if walk is None or walk[2][-1][0] < _SHORTEST_PATH_S:
            return
        began, name, points = walk
        array = np.array(points, np.float32)
        self._waiting.paths.append(StoredPath(began, began + round(points[-1][0] * 1000), name, id_, array))

    def _commit(self, now: int) -> None:
        self._next_alive = time.monotonic() + _ALIVE_EVERY_S
        waiting = self._waiting
        occupancy = [
            StoredMinute(
                minute, zone, of.inside_s / of.watched_s, of.watched_s, of.most,
                None if of.queue_most is None else of.queue_s / of.watched_s, of.queue_most,
            )
            for (minute, zone), of in waiting.minutes.items()
            if of.watched_s
        ]  # fmt: skip
        try:
            self._store.add(now, waiting.events, waiting.paths, waiting.gaps, occupancy)
        except StoreError as error:
            self._failed = True
            self._unwritten.failed(self._store.path, OSError(errno.EIO, error.reason))
            del waiting.events[:-_WAITING], waiting.paths[:-1000], waiting.gaps[:-1000]
            return
        self._failed = False
        self._unwritten.written(self._store.path)
        # The current minute is not over: it is replaced by the next commit.
        current = now - now % MINUTE_MS
        minutes = {key: of for key, of in waiting.minutes.items() if key[0] >= current}
        self._waiting = _Waiting(minutes=minutes)


class _Flusher:
    """Flushes on a thread of its own: an SD card may take a good part of a second."""

    def __init__(self, path: Path, keep: Retention, clock: Clock) -> None:
        self._path, self._keep, self._clock = path, keep, clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(_FLUSH_EVERY_S):
            try:
                flush(self._path, self._clock.at(time.monotonic()), self._keep)
            except StoreError as error:
                _log.debug("%s", error)  # the next commit meets the same fault and tells of it

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

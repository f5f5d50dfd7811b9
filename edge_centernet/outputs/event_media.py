"""A blurred picture of each event, and a short video around it, in a folder that stays within its bounds.

    DIR/2026-11-30/1796040000123-crossed-7.jpg    time (milliseconds since 1970, UTC), kind and track
    DIR/2026-11-30/1796040000123-crossed-7.mp4    the clip, named after the first event in it

The detection loop hands over frames and goes on; drawing, encoding and writing are done on threads of their
own. Of a live source they are left out where those cannot keep up.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2

from edge_centernet.draw import Image
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten
from edge_centernet.history.store import DAY_MS
from edge_centernet.outputs.annotate import Overlay, Remembered
from edge_centernet.outputs.clips import CLIP_FPS, Clips, find_encoder
from edge_centernet.outputs.history import Clock
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Snapshot

_SNAPSHOT_WIDTH = 1280  # pixels, at most: a message of a webhook stays well below a megabyte
_CLIP_WIDTH = 640
_QUALITY = 85  # of the JPEG files, 0..100
_PENDING_BYTES = 48 << 20  # of frames that wait to be drawn: 17 in 720p
_PRUNE_EVERY_S = 60.0
# Nothing else in the folder is ever counted or deleted.
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_OURS = re.compile(r"\d+-[\w-]+-\d+\.(jpg|mp4|webm|avi)")

_log = logging.getLogger(__name__)


def event_file(time_ms: int, kind: str, track_id: int, suffix: str = ".jpg") -> str:
    """Path of an event's picture below the folder of events.

    time_ms: of the event as the store has it, milliseconds since 1970 in UTC.
    """
    day = datetime.fromtimestamp(time_ms / 1000, timezone.utc).date()
    return f"{day.isoformat()}/{time_ms}-{kind}-{track_id}{suffix}"


class MediaFolder:
    """The files of events, at most so many bytes and days of them: the oldest go first. For several threads.

    It counts and deletes only what has a name of `event_file`.
    """

    def __init__(self, path: Path, days: float, max_bytes: int, unwritten: Unwritten | None = None) -> None:
        """Look at what is there, which takes as long as listing it.

        Raises ConfigError for a bound that keeps nothing.
        """
        if days <= 0 or max_bytes < 1 << 20:
            raise ConfigError(
                f"files of events: expected some days and at least 1 MB to be kept, got {days:g} days and "
                f"{max_bytes >> 20} MB"
            )
        self.path = path
        self._keep_ms, self._max_bytes = round(days * DAY_MS), max_bytes
        self._unwritten = Unwritten() if unwritten is None else unwritten
        self._lock = threading.Lock()  # guards the following
        self._sizes: dict[str, int] = {}
        self._oldest: list[tuple[int, str]] = []  # a heap
        self._bytes = 0
        self._missing = 0
        for day in path.iterdir() if path.is_dir() else ():
            for file in day.iterdir() if _DAY.fullmatch(day.name) and day.is_dir() else ():
                if _OURS.fullmatch(file.name):
                    self._count(f"{day.name}/{file.name}", file.stat().st_size)
                elif _OURS.fullmatch(file.name.removeprefix(".")):  # begun by a process that was killed
                    file.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """All files together."""
        with self._lock:
            return self._bytes

    def write(self, name: str, make: Callable[[Path], None], now_ms: int) -> bool:
        """Write a file and delete the oldest where there are too many; whether it could be written.

        name: see `event_file`. make: writes the path that it gets; what is there when it returns is renamed.
            It raises OSError where it cannot.
        now_ms: milliseconds since 1970.
        """
        target = self.path / name
        part = target.with_name(f".{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            make(part)
            size = part.stat().st_size
            # Renamed when whole, but not flushed: on an SD card that takes a good part of a second.
            os.replace(part, target)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            with self._lock:
                self._missing += 1
            self._unwritten.failed(self.path, error)
            return False
        self._unwritten.written(self.path)
        with self._lock:
            self._count(name, size)
        self.prune(now_ms)
        return True

    def prune(self, now_ms: int) -> None:
        """Delete what is too old or too much. now_ms: milliseconds since 1970."""
        with self._lock:
            while self._oldest and (
                self._bytes > self._max_bytes or self._oldest[0][0] < now_ms - self._keep_ms
            ):
                _, name = heapq.heappop(self._oldest)
                self._bytes -= self._sizes.pop(name, 0)
                file = self.path / name
                with suppress(OSError):  # somebody else deleted it, or the disk is read-only
                    file.unlink(missing_ok=True)
                    if not self._oldest or Path(self._oldest[0][1]).parent != Path(name).parent:
                        file.parent.rmdir()  # refuses where anything is left

    def close(self) -> None:
        """Tell what was lost."""
        if self._missing:
            self._unwritten.lost(f"{self.path}: {self._missing} files of events could not be written")

    def _count(self, name: str, size: int) -> None:
        if name not in self._sizes:
            heapq.heappush(self._oldest, (int(Path(name).name.partition("-")[0]), name))
        self._bytes += size - self._sizes.get(name, 0)
        self._sizes[name] = size


@dataclass(frozen=True, eq=False)
class _Job:
    """A frame to draw. names: of its events' pictures, without suffix. now_ms: of the frame, since 1970."""

    remembered: Remembered
    names: tuple[str, ...]
    now_ms: int


class EventMedia:
    """Writes the pictures, and hands frames to the clips where those are asked for."""

    def __init__(
        self,
        folder: MediaFolder,
        overlay: Overlay,
        clock: Clock,
        *,
        live: bool,
        clip_s: float | None = None,
    ) -> None:
        """Start the thread.

        Args:
            folder: where the files go.
            overlay: draws; nothing else may use it.
            clock: times of events, as all outputs have them.
            live: the source does not wait, so that frames are left out where drawing takes too long.
            clip_s: seconds of video before and after an event; none unless given.
        """
        self._folder, self._overlay, self._clock, self._live = folder, overlay, clock, live
        self._clips = None if clip_s is None else Clips(folder, clip_s, find_encoder(), live)
        self._next_clip_frame = float("-inf")
        self._changed = threading.Condition()  # guards the following
        self._jobs: deque[_Job | None] = deque()  # None: the source has fallen silent
        self._pending = 0  # bytes of the frames in them, and of the one that is being drawn
        self._left_out = 0
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def update(self, snapshot: Snapshot) -> None:
        """Take one result. Of a live source it returns at once, else when there is room for the frame."""
        self._clock.jump()  # where a store has asked before, it has followed the jump already
        remembered = self._overlay.remember(snapshot)
        events = () if snapshot.tally is None else snapshot.tally.events
        frame = snapshot.frame
        if frame.seconds < self._next_clip_frame - 2 / CLIP_FPS:  # the video began anew
            self._next_clip_frame = frame.seconds
        for_clip = self._clips is not None and frame.seconds >= self._next_clip_frame
        if not events and not for_clip:
            return
        if for_clip:
            # By what is due, not by the last one, or a camera of 15 frames a second would give 7.5.
            self._next_clip_frame = max(self._next_clip_frame, frame.seconds - 1 / CLIP_FPS) + 1 / CLIP_FPS
        now_ms = self._clock.of(frame, self._live)
        names = tuple(event_file(now_ms, event.kind, event.track_id, "") for event in events)
        with self._changed:
            if not self._live:
                self._changed.wait_for(lambda: self._pending < _PENDING_BYTES or self._error)
            if self._error is not None:
                raise self._error
            room = _PENDING_BYTES if events else _PENDING_BYTES // 2  # of which frames for clips take half
            # Where nothing waits, even a frame larger than that is taken.
            if self._live and self._pending and self._pending + frame.image.nbytes > room:
                self._leave_out(len(events))
                return
            self._pending += frame.image.nbytes
            self._jobs.append(_Job(remembered, names, now_ms))
            self._changed.notify_all()

    def waiting(self, capture: CaptureState) -> None:
        """End a clip: nothing more comes for it."""
        with self._changed:
            self._jobs.append(None)
            self._changed.notify_all()

    def close(self) -> None:
        """Write what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._clips is not None:
            self._clips.close()
        if self._left_out:
            _log.warning(
                "%s: %d pictures of events are missing: drawing took too long",
                self._folder.path,
                self._left_out,
            )
        self._folder.close()

    def _leave_out(self, pictures: int) -> None:
        if pictures and not self._left_out:
            _log.warning(
                "%s: drawing takes too long for so many events; some pictures are left out", self._folder.path
            )
        self._left_out += pictures

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # nobody would catch it here: `update` raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _work(self) -> None:
        pruned = float("-inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed, _PRUNE_EVERY_S)
                if not self._jobs and self._closed:
                    return
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                self._draw(job)
                with self._changed:
                    self._pending -= job.remembered.snapshot.frame.image.nbytes
                    self._changed.notify_all()
            elif self._clips is not None:
                self._clips.finish()
            if time.monotonic() - pruned >= _PRUNE_EVERY_S:
                pruned = time.monotonic()
                self._folder.prune(self._clock.at(pruned))

    def _draw(self, job: _Job) -> None:
        if job.names:
            data = _jpeg(self._overlay.paint(job.remembered, _SNAPSHOT_WIDTH))
            for name in job.names:
                self._folder.write(f"{name}.jpg", lambda part: _save(part, data), job.now_ms)
        if self._clips is not None:
            small = _jpeg(self._overlay.paint(job.remembered, _CLIP_WIDTH))
            self._clips.add(small, job.remembered.snapshot.frame.seconds, job.names, job.now_ms)


def _jpeg(image: Image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _save(path: Path, data: bytes) -> None:
    path.write_bytes(data)

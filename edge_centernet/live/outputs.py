"""Who is told of each result, and of a source that is silent."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from edge_centernet.live.handover import Worker
from edge_centernet.live.overlay import Overlay
from edge_centernet.live.service import Watchdog, status_line
from edge_centernet.live.state import CaptureState, Snapshot
from edge_centernet.output import Annotated, Records, open_part

_LOG_EVERY_S = 60.0
_TERMINAL_EVERY_S = 0.5

_log = logging.getLogger(__name__)


class Output(Protocol):
    """What the detection loop calls, on its own thread: it must return at once."""

    def update(self, snapshot: Snapshot) -> None:
        """A new result."""

    def waiting(self, capture: CaptureState) -> None:
        """No result for half a second: how the source is doing."""

    def close(self) -> None:
        """Nothing more will come."""


class Silent:
    """An output that has nothing to say while a source is silent."""

    def waiting(self, capture: CaptureState) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class RecordsOutput(Silent):
    """Records to `write` and, if a file is given, there too; it gets its name when the run ends, however it ends."""

    def __init__(self, records: Records, write: Callable[[str], None], target: Path | None) -> None:
        """target: file to keep the records in."""
        self._records, self._write, self._target = records, write, target
        self._file: TextIO | None = None
        self._part = Path()
        if target is not None:
            self._file, self._part = open_part(target)

    def update(self, snapshot: Snapshot) -> None:
        """Write one frame's records."""
        self._put(self._records.add(snapshot))

    def finish(self) -> None:
        """Write what stands at the end."""
        for text in self._records.end():
            self._put(text)

    def close(self) -> None:
        """Give the file its name."""
        if self._file is not None and self._target is not None:
            self._file.close()
            os.replace(self._part, self._target)
            self._file = None

    def _put(self, text: str) -> None:
        if not text:
            return
        if self._file is not None:  # first, so that an interruption leaves the file with all that was shown
            self._file.write(text)
        self._write(text)


class AnnotatedOutput(Silent):
    """Annotated pictures or a video, drawn and encoded on a thread of their own.

    A file loses no picture. Of a live source one is left out where encoding takes longer than detection.
    """

    def __init__(self, annotated: Annotated, overlay: Overlay, live: bool) -> None:
        """overlay: draws; nothing else may use it."""
        self._annotated, self._overlay = annotated, overlay
        self._worker = Worker("annotate", self._draw, newest=live)

    def update(self, snapshot: Snapshot) -> None:
        """Hand it to the thread. Raises what went wrong with an earlier one."""
        self._worker.add(snapshot)

    def close(self) -> None:
        """Finish the video."""
        try:
            self._worker.close()
        finally:
            self._annotated.close()

    def _draw(self, snapshot: Snapshot) -> None:
        self._annotated.add(snapshot.frame, self._overlay.draw(snapshot))


class Hooks:
    """An output made of functions."""

    def __init__(
        self,
        update: Callable[[Snapshot], None],
        waiting: Callable[[CaptureState], None] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """waiting, close: None where there is nothing to do."""
        self.update = update
        self.waiting = waiting or _ignore
        self.close = close or _nothing


def _ignore(capture: CaptureState) -> None:
    pass


def _nothing() -> None:
    pass


class WatchdogOutput:
    """Tells systemd that detection is alive."""

    def __init__(self, watchdog: Watchdog) -> None:
        """READY=1 goes out with the first result, or when it is clear that the source is waited for."""
        self._watchdog = watchdog
        self._ready = False

    def update(self, snapshot: Snapshot) -> None:
        """A frame went through."""
        self._begin()
        self._watchdog.frame(snapshot)

    def waiting(self, capture: CaptureState) -> None:
        """The source is being opened again."""
        self._begin()
        self._watchdog.waiting(capture)

    def close(self) -> None:
        """Stopping is on purpose."""
        self._watchdog.stopping()

    def _begin(self) -> None:
        if not self._ready:
            self._ready = True
            self._watchdog.ready()


class StatusOutput:
    """One line about how it goes: twice a second on a terminal, once a minute in a log."""

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes
        # Records on the same terminal would run through the line.
        self._terminal = sys.stderr.isatty() and not sys.stdout.isatty()
        self._next = 0.0 if self._terminal else time.monotonic() + _LOG_EVERY_S
        self._shown = False

    def update(self, snapshot: Snapshot) -> None:
        """Say it when it is time."""
        if time.monotonic() >= self._next:
            self._say(f"{status_line(snapshot, self._classes)}; {snapshot.age_ms:.0f} ms old")

    def waiting(self, capture: CaptureState) -> None:
        """The same while nothing comes; what happened to the source was said when it happened."""
        if self._terminal and time.monotonic() >= self._next:
            self._say(f"camera {capture.state}")

    def close(self) -> None:
        """Leave the line."""
        if self._shown:
            sys.stderr.write("\n")

    def _say(self, text: str) -> None:
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._shown = True
            self._next = time.monotonic() + _TERMINAL_EVERY_S
        else:
            _log.info("%s", text)
            self._next = time.monotonic() + _LOG_EVERY_S

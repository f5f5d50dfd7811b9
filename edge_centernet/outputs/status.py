"""Status for systemd's watchdog, the log and the terminal; only live sources have these outputs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

from edge_centernet.service import Watchdog, status_line
from edge_centernet.sources import CaptureState
from edge_centernet.system.logs import one_line
from edge_centernet.tracking.state import Snapshot

_LOG_EVERY_S = 60.0
_TERMINAL_EVERY_S = 0.5

_log = logging.getLogger(__name__)


class WatchdogOutput:
    """Reports to systemd that detection is alive. `service.Watchdog` decides what counts as alive."""

    def __init__(self, watchdog: Watchdog) -> None:
        """READY=1 is sent with the first result, or when it is clear that the source is waited for.

        Not earlier, so that a model that fails on its first frame fails the start of the service.
        """
        self._watchdog = watchdog
        self._ready = False

    def update(self, snapshot: Snapshot) -> None:
        """Report a frame that went through."""
        self._begin()
        self._watchdog.frame(snapshot)

    def waiting(self, capture: CaptureState) -> None:
        """Report that the source is being opened again."""
        self._begin()
        self._watchdog.waiting(capture)

    def close(self) -> None:
        """Report that stopping is on purpose."""
        self._watchdog.stopping()

    def _begin(self) -> None:
        if not self._ready:
            self._ready = True
            self._watchdog.ready()


class StatusOutput:
    """One line about rate, detections and counts: twice a second on a terminal, once a minute in a log."""

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes
        # Records on the same terminal would run through the line.
        self._terminal = sys.stderr.isatty() and not sys.stdout.isatty()
        self._next = 0.0 if self._terminal else time.monotonic() + _LOG_EVERY_S
        self._shown = False

    def update(self, snapshot: Snapshot) -> None:
        """Write the line when it is due."""
        if time.monotonic() >= self._next:
            self._write(f"{status_line(snapshot, self._classes)}; {snapshot.age_ms:.0f} ms old")

    def waiting(self, capture: CaptureState) -> None:
        """The same while no frame comes. Not in a log, which has a line for each change of the source."""
        if self._terminal and time.monotonic() >= self._next:
            self._write(f"camera {capture.state}")

    def close(self) -> None:
        """End the line on the terminal."""
        if self._shown:
            sys.stderr.write("\n")

    def _write(self, text: str) -> None:
        if self._terminal:
            # Back to the start of the line and erase it (ECMA-48): one line that changes, not many.
            sys.stderr.write(f"\r\x1b[K{one_line(text)}")
            sys.stderr.flush()
            self._shown = True
            self._next = time.monotonic() + _TERMINAL_EVERY_S
        else:
            _log.info("%s", text)
            self._next = time.monotonic() + _LOG_EVERY_S

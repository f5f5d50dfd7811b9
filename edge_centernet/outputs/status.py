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

    def __init__(self, watchdog: Watchdog, camera: str = "") -> None:
        """READY=1 is sent with the first result, or when it is clear that the source is waited for.

        Not earlier, so that a model that fails on its first frame fails the start of the service.
        camera: name of one of several, which share a watchdog.
        """
        self._watchdog, self._camera = watchdog, camera

    def update(self, snapshot: Snapshot) -> None:
        """Report a frame that went through."""
        self._watchdog.ready()
        self._watchdog.frame(snapshot, self._camera)

    def waiting(self, capture: CaptureState) -> None:
        """Report that the source is being opened again."""
        self._watchdog.ready()
        self._watchdog.waiting(capture, self._camera)

    def close(self) -> None:
        """Report that stopping is on purpose."""
        self._watchdog.stopping()


class StatusLine:
    """The line of a terminal that tells how each camera does; it changes in place."""

    def __init__(self) -> None:
        """Nothing shown yet."""
        # Records on the same terminal would run through the line.
        self.on = sys.stderr.isatty() and not sys.stdout.isatty()
        self._texts: dict[str, str] = {}
        self._next = 0.0
        self._shown = False

    def show(self, camera: str, text: str) -> None:
        """Show what one camera does; twice a second at most."""
        self._texts[camera] = text
        if self.on and time.monotonic() >= self._next:
            # Back to the start of the line and erase it (ECMA-48): one line that changes, not many.
            sys.stderr.write(f"\r\x1b[K{one_line(' | '.join(self._texts.values()))}")
            sys.stderr.flush()
            self._shown = True
            self._next = time.monotonic() + _TERMINAL_EVERY_S

    def end(self) -> None:
        """End the line."""
        if self._shown:
            sys.stderr.write("\n")
            self._shown = False


class StatusOutput:
    """One line about rate, detections and counts: twice a second on a terminal, once a minute in a log."""

    def __init__(self, classes: Sequence[str], line: StatusLine, camera: str = "") -> None:
        """classes: names by class_id. line: shared by all cameras. camera: name of one of several."""
        self._classes, self._line, self._camera = classes, line, camera
        self._next = time.monotonic() + _LOG_EVERY_S

    def update(self, snapshot: Snapshot) -> None:
        """Write the line when it is due."""
        if self._line.on:
            self._line.show(self._camera, self._text(snapshot))
        elif time.monotonic() >= self._next:
            _log.info("%s", self._text(snapshot))
            self._next = time.monotonic() + _LOG_EVERY_S

    def waiting(self, capture: CaptureState) -> None:
        """The same while no frame comes. Not in a log, which has a line for each change of the source."""
        self._line.show(self._camera, self._named(f"camera {capture.state}"))

    def close(self) -> None:
        """End the line on the terminal."""
        self._line.end()

    def _text(self, snapshot: Snapshot) -> str:
        return self._named(f"{status_line(snapshot, self._classes)}; {snapshot.age_ms:.0f} ms old")

    def _named(self, text: str) -> str:
        return f"{self._camera}: {text}" if self._camera else text

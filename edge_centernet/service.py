"""Running as a service: systemd's readiness and watchdog, the answer to "are you well?", and log lines."""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_centernet.errors import ConfigError
from edge_centernet.sources.frame import CaptureState
from edge_centernet.tracking.state import Snapshot, Tally

_STATUS_EVERY_S = 5.0
_STATUS_ITEMS = 3  # classes and lines named in a status line: `systemctl status` shows one row
_RETRYING = ("starting", "lost", "frozen")  # of CaptureState: the camera is being opened, again and again
_JOURNAL_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Watchdog:
    """Tells systemd that the service is ready, how it does, and that it is alive. Silent where systemd does not ask.

    systemd restarts the service when it heard nothing for WatchdogSec. It is fed by work done, never by a timer:

    - `frame`, by each new frame that came through the network;
    - `waiting`, while the camera is being opened again. A restart would not plug it in, and would lose the counts.

    It is not fed when the pipeline hangs (the camera is live, yet no result comes) or when the same frame comes again:
    then a fresh process does help. All methods must be called by the thread that detects.
    """

    def __init__(self, classes: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """classes: names by class_id, for status lines. environment: os.environ unless given."""
        environment = os.environ if environment is None else environment
        self._classes = tuple(classes)
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.interval_s = _watchdog_seconds(environment) / 4  # between two signs of life; 0 where none are asked for
        self._fed = self._told = float("-inf")
        self._captured = float("-inf")

    def ready(self) -> None:
        """The model is loaded and the outputs are there. Do not wait for the camera: it may be switched on later."""
        self._send("READY=1")
        self._fed = time.monotonic()  # systemd's clock starts with READY

    def frame(self, snapshot: Snapshot) -> None:
        """A result is out. Counts as a sign of life if its frame is newer than the last one's."""
        if snapshot.frame.captured <= self._captured:
            return
        self._captured = snapshot.frame.captured
        self._feed()
        if self._status_due():
            self._status(status_line(snapshot, self._classes))

    def waiting(self, capture: CaptureState) -> None:
        """No frame came for about a second. Counts as a sign of life while the camera is being opened."""
        if capture.state in _RETRYING:
            self._feed()
        if self._status_due():
            self._status(f"camera {capture.state}" + (f": {capture.detail}" if capture.detail else ""))

    def stopping(self) -> None:
        """Shutting down on purpose."""
        self._send("STOPPING=1")

    def _feed(self) -> None:
        now = time.monotonic()
        if self.interval_s and now - self._fed >= self.interval_s:
            self._fed = now
            self._send("WATCHDOG=1")

    def _status_due(self) -> bool:
        return bool(self._address) and time.monotonic() - self._told >= _STATUS_EVERY_S

    def _status(self, text: str) -> None:
        self._told = time.monotonic()
        self._send(f"STATUS={_one_line(text)}")

    def _send(self, message: str) -> None:
        """One datagram; a supervisor that went away must not stop detection."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(message.encode(), address)
            except OSError as error:
                logging.getLogger(__name__).debug("cannot notify %s: %s", self._address, error)


def status_line(snapshot: Snapshot, classes: Sequence[str]) -> str:
    """What runs, in one line: "29.8 fps; person 3, dog 1; door in 12 out 9"."""
    counts = np.bincount(snapshot.found.class_id, minlength=len(classes))
    most = [i for i in np.argsort(-counts, kind="stable")[:_STATUS_ITEMS] if counts[i]]
    tally = snapshot.tally or Tally()
    parts = [
        f"{snapshot.fps:.1f} fps",
        ", ".join(f"{classes[i]} {counts[i]}" for i in most) or "nothing in view",
        ", ".join(f"{line.name} in {line.inward} out {line.outward}" for line in tally.lines[:_STATUS_ITEMS]),
        ", ".join(f"{zone.name} {zone.inside} inside" for zone in tally.zones[:_STATUS_ITEMS]),
    ]
    return "; ".join(part for part in parts if part)


def health(
    capture: CaptureState, snapshot: Snapshot | None, *, max_age_s: float = 10.0, now: float | None = None
) -> tuple[bool, dict[str, Any]]:
    """Whether detection works right now, and what to show for it.

    capture: how the source is doing; snapshot: the newest result, None before the first.
    max_age_s: results older than this mean that the pipeline hangs. now: time.monotonic() unless given.
    Returns (ok, record): ok needs a live camera and a fresh result; the record's "status" is "ok" or the reason.
    """
    now = time.monotonic() if now is None else now
    result_age = None if snapshot is None else now - snapshot.frame.captured - snapshot.age_ms / 1000.0
    if capture.state != "live":
        status = f"camera {capture.state}"
    elif result_age is None:
        status = "no result yet"
    elif result_age > max_age_s:
        status = "stalled"
    else:
        status = "ok"
    ok = status == "ok"
    record = {
        "status": status,
        "camera": capture.state,
        "detail": capture.detail,
        "fps": round(snapshot.fps, 1) if ok and snapshot is not None else 0.0,
        "age_ms": None if snapshot is None else round(snapshot.age_ms, 1),
        "last_frame_s": None if capture.last_frame is None else round(now - capture.last_frame, 1),
        "last_result_s": None if result_age is None else round(result_age, 1),
        "frames": capture.frames,
        "dropped": capture.dropped,
        "reopened": capture.reopened,
    }
    return ok, record


def configure_logging(level: str = "INFO", log_file: Path | None = None) -> None:
    """Send the package's log lines to standard error and, if given, to a file; one line a message.

    level: "DEBUG", "INFO", "WARNING" or "ERROR"; other libraries are heard from WARNING on.
    log_file: may be renamed or removed by logrotate at any time, the next line opens it anew.
    Under systemd's journal a line begins with its priority and has no time: the journal knows it.
    Calling it again replaces what the last call set up. Raises ConfigError where the file cannot be written.
    """
    handlers: list[logging.Handler] = [_stderr_handler()]
    if log_file is not None:
        try:
            handlers.append(logging.handlers.WatchedFileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            handlers[0].close()
            raise ConfigError(f"log file {log_file}: cannot write it: {error.strerror}") from None
        handlers[1].setFormatter(_LineFormatter())
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "of_edge_centernet", False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.of_edge_centernet = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_centernet").setLevel(level)


class _LineFormatter(logging.Formatter):
    """A message, with its traceback if it has one, on a single line."""

    def __init__(self, journal: bool = False) -> None:
        super().__init__(
            "%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
        )
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = _one_line(super().format(record))
        return f"<{_JOURNAL_PRIORITY.get(record.levelno, 6)}>{line}" if self._journal else line


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to a copy of descriptor 2: `quiet_libraries` points the original elsewhere while a camera is read."""

    def __init__(self) -> None:
        super().__init__(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))

    def close(self) -> None:
        super().close()
        self.stream.close()


def _stderr_handler() -> logging.Handler:
    try:
        handler: logging.Handler = _StderrHandler()
    except OSError:  # standard error is closed
        return logging.NullHandler()
    handler.setFormatter(_LineFormatter(_is_journal()))
    return handler


def _is_journal() -> bool:
    """Whether descriptor 2 is the stream that systemd connected to the journal."""
    stat = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """WatchdogSec as systemd hands it on; 0 where it is off or meant for another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() else 0.0


def _one_line(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())

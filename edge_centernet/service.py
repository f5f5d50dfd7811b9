"""Running as a service: systemd's readiness and watchdog, and the health that web page and MQTT report."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_centernet.sources import CaptureState
from edge_centernet.system.logs import one_line
from edge_centernet.tracking.state import Snapshot, Tally

_STATUS_EVERY_S = 5.0
_STATUS_ITEMS = 3  # classes and lines named in a status line: `systemctl status` shows one row
_RETRYING = ("starting", "lost", "frozen")  # of CaptureState: the camera is being opened, again and again


class Watchdog:
    """Notifies systemd that the service is ready, how it does, and that it is alive.

    Without systemd nothing happens. systemd restarts the service when it has received nothing for
    WatchdogSec. The watchdog is fed by work done, never by a timer, which would go on in a process that
    hangs:

    - `frame`, by each new frame that came through the network;
    - `waiting`, while the camera is being opened again. A restart would not plug it in, and would lose the
      counts.

    It is not fed when the pipeline hangs (the camera is live, yet no result comes) or when the same frame
    comes again: then a new process does help. Of several cameras one that works, or all being opened again,
    is enough: one that hangs is no reason to restart the others. All methods must be called by the thread
    that detects; `camera` is the name of one of several, which stands in the status.
    """

    def __init__(self, classes: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """classes: names by class_id, for status lines. environment: os.environ unless given."""
        environment = os.environ if environment is None else environment
        self._classes = tuple(classes)
        self._address = environment.get("NOTIFY_SOCKET", "")
        # Seconds between two signs of life, a quarter of WatchdogSec; 0 where the watchdog is off, or meant
        # for another process, as a child inherits the variables.
        own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.interval_s = int(microseconds) / 1e6 / 4 if own and microseconds.isdecimal() else 0.0
        self._fed = self._told = float("-inf")
        self._is_ready = False
        self._captured: dict[str, float] = {}  # by camera: when its newest frame was captured
        self._live: dict[str, bool] = {}
        self._known: dict[str, str | Snapshot] = {}  # by camera: what the status says of it

    def ready(self) -> None:
        """The model is loaded and the outputs are open. Only the first call counts."""
        if self._is_ready:
            return
        self._is_ready = True
        # Without waiting for the camera, which may be switched on later: systemd would give up the start.
        self._send("READY=1")
        self._fed = time.monotonic()  # systemd's clock starts with READY

    def frame(self, snapshot: Snapshot, camera: str = "") -> None:
        """A result is there. It counts as a sign of life if its frame is newer than the camera's last one."""
        if snapshot.frame.captured <= self._captured.get(camera, float("-inf")):
            return
        self._captured[camera] = snapshot.frame.captured
        self._live[camera] = True
        self._feed()
        self._status(camera, snapshot)

    def waiting(self, capture: CaptureState, camera: str = "") -> None:
        """No frame came for about a second. It counts as a sign of life while the camera is being opened."""
        self._live[camera] = capture.state == "live"
        # A camera that is live gives frames, whose results are the sign of life then.
        if capture.state in _RETRYING and not any(self._live.values()):
            self._feed()
        self._status(camera, f"camera {capture.state}" + (f": {capture.detail}" if capture.detail else ""))

    def stopping(self) -> None:
        """The service shuts down on purpose."""
        self._send("STOPPING=1")

    def _feed(self) -> None:
        now = time.monotonic()
        if self.interval_s and now - self._fed >= self.interval_s:
            self._fed = now
            self._send("WATCHDOG=1")

    def _status(self, camera: str, known: str | Snapshot) -> None:
        if not self._address:
            return
        self._known[camera] = known
        if time.monotonic() - self._told >= _STATUS_EVERY_S:
            self._told = time.monotonic()
            parts = []
            for name, of in self._known.items():
                text = of if isinstance(of, str) else status_line(of, self._classes)
                parts.append(f"{name}: {text}" if name else text)
            self._send(f"STATUS={one_line(' | '.join(parts))}")

    def _send(self, message: str) -> None:
        """Send one datagram (sd_notify(3)); an error is a line in the debug log."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a supervisor that does not read, or went away, must not stop detection
            try:
                sock.sendto(message.encode(), address)
            except OSError as error:
                logging.getLogger(__name__).debug("cannot notify %s: %s", self._address, error)


def status_line(snapshot: Snapshot, classes: Sequence[str]) -> str:
    """The newest result in one line: "29.8 fps; person 3, dog 1; door in 12 out 9 (person 10/9, dog 2/0)"."""
    counts = np.bincount(snapshot.found.class_id, minlength=len(classes))
    most = [i for i in np.argsort(-counts, kind="stable")[:_STATUS_ITEMS] if counts[i]]
    tally = snapshot.tally or Tally()
    parts = [
        f"{snapshot.fps:.1f} fps",
        ", ".join(f"{classes[i]} {counts[i]}" for i in most) or "nothing in view",
        ", ".join(
            f"{line.name} in {line.inward} out {line.outward}"
            + _by_class([f"{name} {n_in}/{n_out}" for name, (n_in, n_out) in line.by_class.items()])
            for line in tally.lines[:_STATUS_ITEMS]
        ),
        ", ".join(
            f"{zone.name} {zone.inside} inside"
            + _by_class([f"{name} {inside}" for name, (inside, _) in zone.by_class.items()])
            + (f", {zone.queue.length} waiting" if zone.queue else "")
            for zone in tally.zones[:_STATUS_ITEMS]
        ),
        ", ".join(f"{room.name} {room.inside} inside" for room in tally.rooms[:_STATUS_ITEMS]),
        ", ".join(f"alert {rule.name}" for rule in tally.rules if rule.active),
        snapshot.unwritten,
    ]
    return "; ".join(part for part in parts if part)


def _by_class(counts: list[str]) -> str:
    return f" ({', '.join(counts[:_STATUS_ITEMS])})" if len(counts) > 1 else ""


def health(
    capture: CaptureState,
    snapshot: Snapshot | None,
    *,
    max_age_s: float = 10.0,
    now: float | None = None,
    mqtt: str | None = None,
    webhooks: Sequence[Mapping[str, Any]] = (),
) -> tuple[bool, dict[str, Any]]:
    """Whether detection works right now, and the record to show for it.

    Args:
        capture: how the source is doing.
        snapshot: the newest result, None before the first.
        max_age_s: results older than this mean that the pipeline hangs.
        now: time.monotonic() unless given.
        mqtt: why nothing reaches the broker, "" if all does; None where there is none. Detection works all
            the same, so it is told, and changes nothing else.
        webhooks: how each receiver of events does, told likewise.

    Returns (ok, record): ok needs a live camera and a fresh result; the record's "status" is "ok" or the
    reason. A file that cannot be written is in the record, as "unwritten", and no reason for a restart.
    """
    now = time.monotonic() if now is None else now
    # Since the result came: its frame was captured `age_ms` earlier.
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
        "unwritten": "" if snapshot is None else snapshot.unwritten,
        "last_frame_s": None if capture.last_frame is None else round(now - capture.last_frame, 1),
        "last_result_s": None if result_age is None else round(result_age, 1),
        "frames": capture.frames,
        "dropped": capture.dropped,
        "reopened": capture.reopened,
    }
    if mqtt is not None:
        record["mqtt"] = mqtt or "ok"
    if webhooks:
        record["webhooks"] = list(webhooks)
    return ok, record

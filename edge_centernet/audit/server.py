"""The page that plays a recording and takes what somebody sees; boxes and counts are not on it.

    GET /               the page                       POST /crossing   one that was seen
    GET /audit.json     how far the audit is           POST /undo       takes one back
    GET /picture.jpg    the picture of a moment        POST /finish     ends it; then the page has the result

Each crossing is on the disk before it is answered. Whoever asks must present a token, on this computer too:
other pages in the same browser, and other users, could write otherwise.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import signal
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tornado.web import Application

from edge_centernet.audit.recording import Recording
from edge_centernet.detections import Detections
from edge_centernet.history.audit import Audit, Crossing
from edge_centernet.history.store import StoreError, keep_audit, local_zone
from edge_centernet.history.summary import find_zone
from edge_centernet.outputs.annotate import Overlay
from edge_centernet.outputs.web.access import Guard, bind, reachable
from edge_centernet.outputs.web.server import Guarded, _NotFound, _Server
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.state import Snapshot

_HOST = "127.0.0.1"
_WIDTH = 1280  # of the pictures, pixels at most
_QUALITY = 85  # of the JPEG files, 0..100
_PLAYED_S = 2.0  # between two pictures that are played: more was skipped
_KEEP_EVERY_S = 5.0  # of the recording: what a crash makes somebody watch again
_GOODBYE_S = 1.0  # after the end, in which the page still gets its result
_MAX_SEEN = 100_000  # crossings in one audit
_COOKIE_DAYS = 30
_FILES = {  # of the page, and what a browser takes them for
    "audit.html": "text/html; charset=utf-8",
    "audit.css": "text/css; charset=utf-8",
    "audit.js": "text/javascript; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class AuditServer:
    """Serves one audit until it is finished, or until SIGINT or SIGTERM."""

    def __init__(
        self, audit: Audit, store: Path, recording: Recording, lines: Sequence[Line], port: int = 0
    ) -> None:
        """Nothing listens before `run`.

        Args:
            audit: kept in the store already; changed as somebody watches.
            store: where it is kept.
            recording: what is watched.
            lines: drawn with their arrows.
            port: on 127.0.0.1; 0 takes one that is free.
        """
        self.audit, self.port = audit, port
        self.guard = Guard(secrets.token_urlsafe(24), _HOST)
        self._store, self._recording = store, recording
        self._overlay = Overlay((), lines)
        self._stop = asyncio.Event()
        # One thread each: decoders and the order of writes allow no more.
        self._decoder = ThreadPoolExecutor(1, "picture")
        self._keeper = ThreadPoolExecutor(1, "keep")
        self._kept_at = 0.0  # seconds watched when it was last kept
        self._keeping: set[asyncio.Task[str]] = set()

    @property
    def url(self) -> str:
        """Where the page is, with the token. Complete when `run` has called `started`."""
        token = urllib.parse.quote(self.guard.token, safe="")
        return f"http://{reachable(_HOST, self.port)}/?token={token}"

    def run(self, started: Callable[[str], None]) -> None:
        """Serve on this thread. started: called once with `url`.

        Raises ConfigError when the port cannot be listened on, StoreError when the last of it cannot be kept.
        """
        sockets = bind(_HOST, self.port)
        self.port = sockets[0].getsockname()[1]
        try:
            asyncio.run(self._serve(sockets, started))
        finally:
            self._decoder.shutdown()
            self._keeper.shutdown()
        keep_audit(self._store, *self._row())

    async def _serve(self, sockets: list[Any], started: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        application = Application(
            [
                ("/", _Page),
                (f"/({'|'.join(_FILES)})", _File),
                ("/audit.json", _State),
                ("/picture.jpg", _Picture),
                ("/crossing", _Seen),
                ("/undo", _Undo),
                ("/finish", _Finish),
            ],
            default_handler_class=_NotFound,
            server=self,
            policy=_POLICY,
            log_function=lambda handler: None,  # a request's address may hold the token
        )
        server = _Server(application, max_header_size=16384, max_body_size=1024, body_timeout=10)
        application.settings["connections"] = server
        server.add_sockets(sockets)
        started(self.url)
        await self._stop.wait()
        if self.audit.finished:
            await asyncio.sleep(_GOODBYE_S)
        server.stop()
        server.close_streams()
        for task in list(self._keeping):
            await task

    # ---- what the handlers ask for ---------------------------------------------------------------

    async def picture(self, number: int, at: float, playing: bool) -> tuple[bytes, float, float | None]:
        """JPEG, its time and that of the next one. playing: it continues what was shown before."""
        stretch = self.audit.stretches[number]
        at = min(max(at, stretch.first), stretch.last)
        data, seconds, following = await asyncio.get_running_loop().run_in_executor(
            self._decoder, self._draw, at
        )
        if playing and stretch.reached < at <= stretch.reached + _PLAYED_S:
            stretch.reached = at
            watched = sum(one.reached - one.first for one in self.audit.stretches)
            if watched - self._kept_at >= _KEEP_EVERY_S:
                self._kept_at = watched
                task = asyncio.create_task(self.keep())
                self._keeping.add(task)
                task.add_done_callback(self._keeping.discard)
        # Behind the end nothing is played.
        return data, seconds, following if following is not None and following < stretch.last else None

    def _draw(self, at: float) -> tuple[bytes, float, float | None]:
        image, seconds, following = self._recording.at(at)
        nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
        snapshot = Snapshot(Frame("", 0, image, seconds), nothing, {}, 0.0, 0.0, CaptureState(), timed=False)
        drawn = self._overlay.draw(snapshot, _WIDTH)
        data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
        return data, seconds, following

    async def keep(self) -> str:
        """Write it to the disk; what went wrong, "" if nothing."""
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._keeper, keep_audit, self._store, *self._row()
            )
        except StoreError as error:
            return str(error)
        return ""

    def _row(self) -> tuple[int | None, int, int, str]:
        # Made on this thread: a thread that writes would see it change.
        return self.audit.number, self.audit.began, round(time.time() * 1000), self.audit.record()

    def state(self) -> dict[str, Any]:
        """What the page shows; the result only when it is finished, for it would lead whoever watches."""
        audit = self.audit
        state: dict[str, Any] = {
            "source": audit.setup["source"],
            "kind": audit.setup["kind"],
            "lines": audit.lines,
            "stretches": [
                {"first": one.first, "last": one.last, "reached": one.reached} for one in audit.stretches
            ],
            "seen": [
                {"id": key, "stretch": number, "at": at, "line": line, "direction": direction}
                for key, (number, (at, line, direction)) in audit.seen.items()
            ],
            "finished": audit.finished,
        }
        if audit.finished:
            zone = find_zone(local_zone())
            state["result"] = {
                "heading": audit.heading(zone),
                "sentences": audit.sentences(),
                "scores": [score.figures() for score in audit.scores()],
            }
        return state

    def stop(self) -> None:
        """Let `run` return; what is being answered still goes out."""
        self._stop.set()


class _Answer(Guarded):
    """Base of the answers of this page."""

    @property
    def owner(self) -> AuditServer:
        owner: AuditServer = self.settings["server"]
        return owner

    def answer(self, record: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(record))


class _File(Guarded):
    def get(self, name: str) -> None:
        self.set_header("Content-Type", _FILES[name])
        self.finish((Path(__file__).parent / name).read_bytes())


class _Page(_File):
    def get(self, name: str = "audit.html") -> None:
        if self.get_query_argument("token", None) is not None:
            # From the address bar into a cookie, as the live page does it.
            cookie = self.server.guard.cookie
            self.set_cookie(
                self.cookie_name, cookie, expires_days=_COOKIE_DAYS, httponly=True, samesite="Strict"
            )
            self.set_header("Content-Type", _FILES["audit.html"])
            self.set_header("Refresh", "0; url=./")
            self.finish('<!doctype html><title>Audit</title><a href="./">Go on</a>')
            return
        super().get(name)


class _State(_Answer):
    def get(self) -> None:
        self.answer(self.owner.state())


class _Picture(_Answer):
    async def get(self) -> None:
        try:
            number, at = int(self.get_query_argument("stretch")), float(self.get_query_argument("at"))
        except ValueError:
            self.refuse(400)
            return
        if not (0 <= number < len(self.owner.audit.stretches) and math.isfinite(at)):
            self.refuse(400)
            return
        playing = self.get_query_argument("playing", "") == "1"
        data, seconds, following = await self.owner.picture(number, at, playing)
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("X-Seconds", repr(seconds))
        self.set_header("X-Next", "" if following is None else repr(following))
        self.finish(data)


class _Write(_Answer):
    """Base of what changes the audit: JSON by POST, which no page from elsewhere can send unasked."""

    SUPPORTED_METHODS = ("POST",)

    async def post(self) -> None:
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind != "application/json":
            self.refuse(415)
            return
        if self.owner.audit.finished:
            self.refuse(409)
            return
        try:
            self.change(json.loads(self.request.body))
        except (ValueError, KeyError, TypeError, IndexError):
            self.refuse(400)
            return
        self.answer({**self.owner.state(), "trouble": await self.owner.keep()})

    def change(self, wanted: Any) -> None:
        """Raises ValueError, KeyError, TypeError or IndexError for what is no such request."""
        raise NotImplementedError


class _Seen(_Write):
    def change(self, wanted: Any) -> None:
        audit = self.owner.audit
        key, number, at = str(wanted["id"]), int(wanted["stretch"]), float(wanted["at"])
        stretch = audit.stretches[number]
        known = wanted["line"] in audit.lines and wanted["direction"] in ("in", "out")
        inside = number >= 0 and stretch.first - 1 <= at <= stretch.last + 1
        if not (known and inside and 0 < len(key) <= 64 and len(audit.seen) < _MAX_SEEN):
            raise ValueError
        # A request that is sent again, after an answer was lost, is the same crossing.
        audit.seen[key] = number, Crossing(round(at, 3), wanted["line"], wanted["direction"])


class _Undo(_Write):
    def change(self, wanted: Any) -> None:
        self.owner.audit.seen.pop(str(wanted["id"]), None)


class _Finish(_Write):
    def change(self, wanted: Any) -> None:
        self.owner.audit.finished = True

    def on_finish(self) -> None:
        if self.owner.audit.finished:
            self.owner.stop()

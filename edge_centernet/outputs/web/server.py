"""The live page: one thread that serves images and state to a few viewers and hardly slows detection down.

    GET /               the page, and its files        GET /snapshot.jpg   one image
    GET /stream.mjpg    images without an end          GET /state.json     all that is known now
    GET /events         WebSocket: see `_Events`       GET /metrics        for Prometheus
    GET /healthz        200 or 503, without a token    POST /token         the token, for a cookie

A `View` is what there is of one camera. Where there are several, each has these addresses below /NAME/, and
the page at / shows all of them; /events, /state.json, /metrics and /healthz are there of all together.
`editor` and `archive` beside this module add what a camera's page changes and what it tells of the past.

The detection loop hands over each result by exchanging one reference. All else happens here: images are
drawn and encoded once for all viewers, only while somebody watches, and no faster than `stream_fps`.

Tornado, because it has WebSockets and streaming answers without a server process of its own beside it.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import hashlib
import html
import json
import logging
import re
import socket
import struct
import threading
import time
import urllib.parse
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

import edge_centernet
from edge_centernet.outputs.web.access import (
    GUESSES_S,
    Guard,
    Verdict,
    bind,
    choose_token,
    network_of,
    parse_address,
    reachable,
)
from edge_centernet.outputs.web.view import Pictures, View
from edge_centernet.system.machine import board_status

MAX_VIEWERS = 32  # pages and streams together: what a board's network carries
_MAX_CONNECTIONS = 128  # browsers open up to six each; beyond this somebody holds them on purpose
_MAX_STRANGERS = 32  # connections from one network that have not shown the token yet
_HEADERS_S = 5.0  # for a request's headers, and between two requests of one connection
_COOKIE_DAYS = 30
_STATE_S = 0.2  # seconds between two states that a page gets
_SEND_S = 30.0  # a viewer that takes nothing for so long is gone
_FOLDER = Path(__file__).parent
# Files of the page, by name: what a browser takes each for, and whether anybody may see it.
_FILES = {
    "live.css": ("text/css; charset=utf-8", True),
    "live.js": ("text/javascript; charset=utf-8", False),
    "grid.js": ("text/javascript; charset=utf-8", False),
    "feed.js": ("text/javascript; charset=utf-8", False),
    "parts.js": ("text/javascript; charset=utf-8", False),
    "draw.js": ("text/javascript; charset=utf-8", False),
    "past.js": ("text/javascript; charset=utf-8", False),
}
_HTML = "text/html; charset=utf-8"
# What is wrong with a request whose sender may look; who may not is told the status alone.
_WRONG = {
    404: "there is nothing at this address",
    405: "expected another method for this address, GET or POST",
    411: "expected the header Content-Length: the number of bytes that are sent",
    413: "expected fewer bytes",
    415: "expected the header Content-Type: application/json, and JSON",
}

_log = logging.getLogger(__name__)


class WebServer:
    """Serves one or several views on a thread of its own."""

    def __init__(
        self,
        address: str,
        views: Sequence[View],
        *,
        token: str | None = None,
        metrics: Callable[[], bytes] | None = None,
    ) -> None:
        """Check the options; nothing listens before `start`.

        Args:
            address: see `parse_address`.
            views: what to show; a single one without a path, several with one each.
            token: what a viewer must present; None takes the environment variable EDGE_CENTERNET_TOKEN.
                Without either a loopback address needs none, and any other address gets a random one, which
                is in `url`.
            metrics: returns the text for Prometheus; there is no /metrics without it.

        Raises ConfigError for an address or token that cannot be used.
        """
        self.host, self.port = parse_address(address)
        self.guard = Guard(choose_token(token, self.host), self.host)
        self.views = tuple(views)
        self.viewers = 0
        self.metrics = metrics
        self._shared_states: dict[tuple[View, ...], tuple[float, str]] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    def start(self) -> None:
        """Listen and serve. Raises ConfigError when the address cannot be listened on."""
        pages = _content("live.html"), _content("grid.html")
        sockets = bind(self.host, self.port)
        self.port = sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(sockets, *pages), name="web", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    @property
    def url(self) -> str:
        """Where the page is, with the token if it needs one: for its owner only. Complete after `start`."""
        return self._address(self.guard.token)

    @property
    def owner_url(self) -> str:
        """The same with the token that changing needs, also where looking needs none."""
        return self._address(self.guard.secret)

    def _address(self, token: str) -> str:
        query = f"?token={urllib.parse.quote(token, safe='')}" if token else ""
        return f"http://{reachable(self.host, self.port)}/{query}"

    def close(self) -> None:
        """Close every connection and stop; takes at most a few seconds."""
        if self._thread is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5)
            self._thread = None

    # ---- what the handlers ask for, on the server's own thread -----------------------------------

    def healthy(self, views: tuple[View, ...]) -> tuple[bool, dict[str, Any]]:
        """Whether one of them works, and details of one, or how many of several do not.

        A single camera that is lost is no reason to restart what works with the others.
        """
        found = [view.healthy() for view in views]
        if len(found) == 1:
            return found[0]
        unwritten = "; ".join(text for _, details in found if (text := details.get("unwritten", "")))
        return any(well for well, _ in found), {
            "unwritten": unwritten,
            "failing": [view.name for view, (well, _) in zip(views, found, strict=True) if not well],
        }

    def page_state(self, views: tuple[View, ...]) -> str:
        """JSON for the page. In front of it "clock", seconds now, to which a page relates times of capture.

        The rest is made once for all pages that ask within a fifth of a second; the clock must be exact.
        """
        made, text = self._shared_states.get(views, (0.0, ""))
        if not text or time.monotonic() - made >= 0.9 * _STATE_S:
            text = json.dumps(self._common() | self._joined(views, View.state))
            self._shared_states[views] = (time.monotonic(), text)
        return f'{{"clock": {time.monotonic():.3f}, {text[1:]}'

    def full_state(self, views: tuple[View, ...]) -> str:
        """JSON with every box and what health reports."""
        return json.dumps(self._common() | self._joined(views, View.full_state))

    def _common(self) -> dict[str, Any]:
        return {"version": edge_centernet.__version__, "viewers": self.viewers, "board": board_status()}

    def _joined(self, views: tuple[View, ...], state: Callable[[View], dict[str, Any]]) -> dict[str, Any]:
        if len(views) == 1:
            return state(views[0])
        return {"cameras": [{"path": view.path, **state(view)} for view in views]}

    def _run(self, sockets: list[socket.socket], page: bytes, grid: bytes) -> None:
        try:
            asyncio.run(self._serve(sockets, page, grid))
        finally:
            for view in self.views:
                view.close()

    def _routes(self, page: bytes, grid: bytes) -> list[Any]:
        """(address, handler, what the handler is given)."""

        def of(prefix: str, views: tuple[View, ...], page: bytes) -> list[Any]:
            pictures = [view.small for view in views] if len(views) > 1 else [views[0].plain_pictures]
            return [
                (prefix, _Page, {"page": page}),
                (f"{prefix}({'|'.join(_FILES)})", _File),
                (f"{prefix}token", _Token, {"page": page}),
                (f"{prefix}state.json", _State, {"views": views}),
                (f"{prefix}events", _Events, {"views": views, "pictures": pictures}),
                (f"{prefix}healthz", _Healthz, {"views": views}),
            ]

        routes = of("/", self.views, page if len(self.views) == 1 else grid)
        for view in self.views:
            if view.path:
                routes += of(f"/{view.path}", (view,), page)
                routes.append((f"/{view.path.rstrip('/')}", _Slash))
            routes += [
                (f"/{view.path}stream.mjpg", _Stream, {"view": view}),
                (f"/{view.path}snapshot.jpg", _Picture, {"view": view}),
                *((f"/{view.path}{path}", *rest) for path, *rest in view.handlers),
            ]
        return routes if self.metrics is None else [*routes, ("/metrics", _Metrics)]

    async def _serve(self, sockets: list[socket.socket], page: bytes, grid: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        application = Application(
            self._routes(page, grid),
            default_handler_class=_NotFound,
            server=self,
            policy=_content_policy(page + grid),
            log_function=lambda handler: None,  # a request's address may hold the token
            websocket_ping_interval=15,  # finds viewers that went out of range
            websocket_ping_timeout=15,
            websocket_max_message_size=1024,
        )
        # Few requests have a body, and `editor` gives those of an owner more; none has long headers. Tight
        # limits leave nothing to fill the memory with.
        server = _Server(
            application,
            max_header_size=16384,
            max_body_size=1024,
            body_timeout=10,
            idle_connection_timeout=_HEADERS_S,
        )
        application.settings["connections"] = server
        server.add_sockets(sockets)
        self._ready.set()
        await self._stop.wait()
        server.stop()
        server.close_streams()


def _content_policy(pages: bytes) -> str:
    """Content-Security-Policy: nothing from anywhere else, and no script or style but those of the pages."""
    bodies = re.findall(rb"<style>(.*?)</style>", pages, re.DOTALL)
    own = " ".join(f"'sha256-{b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies)
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self' {own}; "
        "img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


class _Trust(enum.IntEnum):
    """What is known of a connection's other end; who is trusted less is closed first."""

    STRANGER = 0  # has shown no token yet
    GUEST = 1  # may look
    VIEWER = 2  # watches; MAX_VIEWERS of them leave room for others


@dataclass
class _Connection:
    """Who is at the other end. network: see `network_of`."""

    network: str
    trust: _Trust = _Trust.STRANGER


class _Server(HTTPServer):
    """An HTTP server that holds a limited number of connections, and closes all of them at its end.

    A new one is never refused: it takes the place of the oldest among those that are trusted least, so that
    whoever opens connections and says nothing displaces others of that kind, and monitoring is answered.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self._open: dict[IOStream, _Connection] = {}  # the oldest first
        super().initialize(*args, **kwargs)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._open = {known: one for known, one in self._open.items() if not known.closed()}
        network = network_of(str(address[0]))
        strangers = [
            known
            for known, one in self._open.items()
            if one.network == network and one.trust is _Trust.STRANGER
        ]
        if len(strangers) >= _MAX_STRANGERS:
            self._drop(strangers[0])
        elif len(self._open) >= _MAX_CONNECTIONS:
            self._drop(min(self._open, key=lambda known: self._open[known].trust))
        self._open[stream] = _Connection(network)
        super().handle_stream(stream, address)

    def trust(self, stream: IOStream, trust: _Trust) -> None:
        """Remember that the other end has shown that it may look, or that it watches now."""
        if (known := self._open.get(stream)) is not None:
            known.trust = max(known.trust, trust)

    def close_streams(self) -> None:
        for stream in self._open:
            stream.close()

    def _drop(self, stream: IOStream) -> None:
        del self._open[stream]
        stream.close()


class Guarded(RequestHandler):
    """Base of all answers: checks host name and token, and sets the headers that protect the viewer."""

    SUPPORTED_METHODS: tuple[str, ...] = ("GET",)

    @property
    def server(self) -> WebServer:
        """Whose answers these are."""
        server: WebServer = self.settings["server"]
        return server

    @property
    def cookie_name(self) -> str:
        """Of the cookie that a viewer gets for the token."""
        return f"edge_centernet_{self.server.port}"  # cookies are not kept apart by port

    def set_default_headers(self) -> None:
        """Forbid all that no answer needs."""
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", self.settings["policy"])
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")

    def prepare(self) -> None:
        """Refuse who may not look."""
        guard = self.server.guard
        if not guard.knows_host(self.request.host_name):
            self.refuse(403)
            return
        verdict = guard.judge(
            self.network,
            self.get_query_argument("token", ""),
            self.request.headers.get("Authorization", ""),
            self.get_cookie(self.cookie_name) or "",
        )
        if verdict is Verdict.ADMITTED:
            self.trust(_Trust.GUEST)
        elif verdict is Verdict.LIMITED:
            self.set_header("Retry-After", str(GUESSES_S))
            self.refuse(429)
        else:
            self.set_header("WWW-Authenticate", "Bearer")
            self.refuse(401)

    @property
    def network(self) -> str:
        """Where the request is from, see `network_of`."""
        return network_of(self.request.remote_ip or "")

    def give_cookie(self) -> None:
        """Let the browser in from now on."""
        self.set_cookie(
            self.cookie_name,
            self.server.guard.cookie,
            expires_days=_COOKIE_DAYS,
            httponly=True,
            samesite="Strict",
        )

    @property
    def stream(self) -> IOStream:
        """The request's connection, until it is detached from it."""
        stream: IOStream = self.request.connection.stream  # type: ignore[union-attr]
        return stream

    def trust(self, trust: _Trust) -> None:
        """Say of this request's connection how far its other end is to be trusted from now on."""
        connections: _Server = self.settings["connections"]
        connections.trust(self.stream, trust)

    def refuse(self, status: int) -> None:
        """Answer with the status, and in a few words what was expected."""
        self.set_status(status)
        self.write_error(status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with one line, whatever went wrong."""
        self.finish(
            f"{status_code}: {_WRONG[status_code]}\n" if status_code in _WRONG else f"{status_code}\n"
        )

    def log_exception(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Faults of ours only, and never the query, which may hold the token."""
        if not isinstance(error, (HTTPError, StreamClosedError)):
            _log.error("%s failed", self.request.path, exc_info=error)


@functools.cache
def _content(name: str) -> bytes:
    """Of a file of the page."""
    return (_FOLDER / name).read_bytes()


class _Page(Guarded):
    """The page; for a viewer who has not shown the token, one with a field for it."""

    def initialize(self, page: bytes) -> None:
        self._page = page

    def get(self) -> None:
        self.set_header("Content-Type", _HTML)
        token = self.get_query_argument("token", None)
        if token is None:
            self.finish(self._page)
            return
        # The token goes from the address bar into a cookie. Not by a redirect: after a link on another site
        # the browser would follow it without the cookie, which is for requests from this site only.
        if self.server.guard.identify(self.network, query=token) is Verdict.ADMITTED:
            self.give_cookie()
        self.set_header("Refresh", "0; url=./")
        self.finish('<!doctype html><title>Live</title><a href="./">Go on</a>')

    def refuse(self, status: int) -> None:
        """With a page for a browser; programs and pages of other sites get the status alone."""
        # A browser says so of what stands in its address bar; others ask for anything, or for nothing.
        if status in (401, 429) and "text/html" in self.request.headers.get("Accept", ""):
            self.set_status(status)
            self.set_header("Content-Type", _HTML)
            self.finish(self._door(status))
        else:
            super().refuse(status)

    def _door(self, status: int) -> str:
        said = ""
        if status == 429:
            said = f"Too many wrong tokens from here. Please wait {GUESSES_S} seconds."
        elif self.shows_token:
            said = "That is not the token."
        return _content("token.html").decode().replace("<!-- said -->", html.escape(said))

    @property
    def shows_token(self) -> bool:
        """Whether the request holds one, right or wrong."""
        return bool(self.get_query_argument("token", ""))


class _Slash(Guarded):
    """A camera's page without its slash, as people type it: the browser is sent to the page."""

    def prepare(self) -> None:
        """Anybody may be sent on: the page looks at the token."""

    def get(self) -> None:
        # Relative, because a proxy may have put a folder in front. The query may hold the token.
        name, query = self.request.path.rpartition("/")[2], self.request.query
        self.redirect(f"{name}/{'?' if query else ''}{query}")


class _Token(_Page):
    """What the page's field for the token sends: a form, which is refused like the page itself."""

    SUPPORTED_METHODS = ("POST",)

    def prepare(self) -> None:
        guard = self.server.guard
        if not guard.knows_host(self.request.host_name):
            self.refuse(403)
            return
        verdict = guard.identify(self.network, query=self.get_body_argument("token", ""))
        if verdict is not Verdict.ADMITTED:
            self.refuse(429 if verdict is Verdict.LIMITED else 401)

    def post(self) -> None:
        self.give_cookie()
        self.redirect("./", status=303)

    @property
    def shows_token(self) -> bool:
        """It is what is sent here."""
        return True


class _File(Guarded):
    """A file of the page. Its style holds nothing private, and dresses the field for the token, too."""

    def prepare(self) -> None:
        if not _FILES[self.request.path.rpartition("/")[2]][1]:
            super().prepare()

    def get(self, name: str) -> None:
        self.set_header("Content-Type", _FILES[name][0])
        self.finish(_content(name))


class _Picture(Guarded):
    def initialize(self, view: View) -> None:
        self._view = view

    async def get(self) -> None:
        drawn = await self._view.pictures.newer(0)
        if drawn is None:
            self.refuse(503)
            return
        self.set_header("Content-Type", "image/jpeg")
        self.finish(drawn.data)


class _State(Guarded):
    def initialize(self, views: tuple[View, ...]) -> None:
        self._views = views

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(self.server.full_state(self._views))


class _Metrics(Guarded):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        if self.server.metrics is not None:
            self.finish(self.server.metrics())


class _Healthz(Guarded):
    def initialize(self, views: tuple[View, ...]) -> None:
        self._views = views

    def prepare(self) -> None:
        """Anybody may ask, by any name: monitoring has no token, and the answer holds nothing private."""

    def get(self) -> None:
        well, details = self.server.healthy(self._views)
        self.set_status(200 if well else 503)
        # Without the names of files and cameras, which are private.
        failing = details.get("failing", ())
        told = [
            "ok" if well else "not ok",
            *([f"{len(failing)} of {len(self._views)} cameras do not work"] if failing else []),
            *(["files cannot be written"] if details.get("unwritten") else []),
        ]
        self.finish("; ".join(told) + "\n")


class _NotFound(Guarded):
    def get(self) -> None:
        self.refuse(404)


class _Stream(Guarded):
    """Motion JPEG: an answer of images that has no end; every browser, VLC and Home Assistant show it."""

    def initialize(self, view: View) -> None:
        self._view = view

    async def get(self) -> None:
        if self.server.viewers >= MAX_VIEWERS:
            self.refuse(503)
            return
        self.trust(_Trust.VIEWER)
        self.set_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.set_header("Connection", "close")
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._headers.get_all())
        stream = self.detach()  # from here on without chunked encoding, which some players do not understand
        stream.set_close_callback(lambda: None)  # makes Tornado notice when the viewer leaves
        self.server.viewers += 1
        try:
            await _patiently(stream.write(f"HTTP/1.1 200 OK\r\n{headers}\r\n--frame\r\n".encode()))
            await self._pictures(stream)
        except StreamClosedError:
            pass
        finally:
            self.server.viewers -= 1
            stream.close()

    async def _pictures(self, stream: IOStream) -> None:
        number = 0
        while not stream.closed():
            drawn = await self._view.pictures.newer(number)
            if drawn is not None:
                number = drawn.number
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(drawn.data)}\r\n\r\n"
                # The next boundary at once: browsers show an image only when they see it.
                await _patiently(stream.write(head.encode() + drawn.data + b"\r\n--frame\r\n"))


class _Events(Guarded, WebSocketHandler):
    """A WebSocket: the state as a text message, and an image as a binary one for each "more" from the page.

    States come five times per second. A page asks for an image when it has shown the last one, so that
    neither the network nor the browser queues old ones; a page in the background asks for none. At most two
    can be asked for at a time. Before the JPEG stand eight bytes: a big-endian double, the second of capture
    on the clock that is in every state.

    A page of several cameras asks for each of them, as in "more 2" for the third, and before the JPEG stand
    four more bytes, that number.
    """

    def initialize(self, views: tuple[View, ...], pictures: Sequence[Pictures]) -> None:
        self._views, self._pictures = views, pictures

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.server.viewers >= MAX_VIEWERS:
            self.refuse(503)
            return
        self.trust(_Trust.VIEWER)
        self._stream = self.stream
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        self.server.viewers += 1
        self._asked: list[asyncio.Queue[None]] = [asyncio.Queue(2) for _ in self._pictures]
        works = [self._states(), *(self._send_pictures(i) for i in range(len(self._pictures)))]
        self._tasks = [asyncio.create_task(self._run(work)) for work in works]

    def on_message(self, message: str | bytes) -> None:
        if match := re.fullmatch(r"more(?: ([0-9]{1,4}))?", message if isinstance(message, str) else ""):
            with suppress(asyncio.QueueFull, IndexError):
                self._asked[int(match[1] or 0)].put_nowait(None)

    def on_close(self) -> None:
        self.server.viewers -= 1
        # Forgotten, too: a cancelled task keeps its stack, which holds this handler and an image: they would
        # stay until the next full garbage collection.
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (WebSocketClosedError, StreamClosedError):
            pass
        except Exception:
            _log.exception("%s failed", self.request.path)
        finally:
            self._stream.close()  # without a goodbye, for which a viewer that is gone would be waited for

    async def _states(self) -> None:
        while True:
            await _patiently(self.write_message(self.server.page_state(self._views)))
            await asyncio.sleep(_STATE_S)

    async def _send_pictures(self, which: int) -> None:
        number = 0
        while True:
            await self._asked[which].get()
            while (drawn := await self._pictures[which].newer(number)) is None:
                pass
            number = drawn.number
            head = struct.pack(">d", drawn.snapshot.frame.captured)
            if len(self._pictures) > 1:
                head += struct.pack(">I", which)
            await _patiently(self.write_message(head + drawn.data, binary=True))


async def _patiently(sending: Awaitable[None]) -> None:
    """Wait until it has gone out; raises StreamClosedError when the viewer takes nothing for half a minute.

    TCP alone would hold the connection of a phone that went out of range for a quarter of an hour.
    """
    task = asyncio.ensure_future(sending)
    # Looked at whatever becomes of the one who waits here: what is still being sent when a viewer is given up
    # fails when its connection is closed, and asyncio logs a traceback of failures that nobody looked at.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        done, _ = await asyncio.wait({task}, timeout=_SEND_S)
        if not done:
            raise StreamClosedError
        await task
    finally:
        del task  # what it raises holds this stack

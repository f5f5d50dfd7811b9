"""The live page's server, as its viewers meet it: real sockets, real HTTP, real images."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_support import CLASSES, PHOTO, TRACKS, OneCamera, feed, snapshot
from numpy.typing import NDArray
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

import edge_centernet
from edge_centernet.errors import ConfigError
from edge_centernet.outputs.annotate import Overlay
from edge_centernet.outputs.web import access
from edge_centernet.outputs.web import server as server_module
from edge_centernet.outputs.web.access import Guard, Verdict, choose_token, network_of, parse_address
from edge_centernet.outputs.web.server import WebServer
from edge_centernet.outputs.web.view import View
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import LineCount, QueueCount, RuleState, Snapshot, Tally, ZoneCount

TOKEN = "open, sesame!"  # nothing that a cookie or an address could hold as it is
PATHS = ("/", "/stream.mjpg", "/snapshot.jpg", "/state.json", "/events", "/metrics", "/nothing")
Start = Callable[..., OneCamera]


class Counting(Overlay):
    """The real overlay, which also remembers which frames it drew."""

    def __init__(self) -> None:
        """Remembers nothing yet."""
        super().__init__(CLASSES)
        self.drawn: list[int] = []

    def draw(self, snapshot: Snapshot, max_width: int | None = None) -> NDArray[np.uint8]:
        self.drawn.append(snapshot.frame.number)
        return super().draw(snapshot, max_width)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A running server on a free loopback port."""
    monkeypatch.delenv("EDGE_CENTERNET_TOKEN", raising=False)
    with ExitStack() as stack:

        def begin(**options: Any) -> OneCamera:
            server = OneCamera("127.0.0.1:0", **options)
            stack.callback(server.close)
            server.start()
            return server

        yield begin


class Answer:
    """What came back, whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        """Reads to the end."""
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def get(server: WebServer, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
    """One request of a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Stream:
    """A viewer of /stream.mjpg that reads one picture after the other."""

    def __init__(self, server: OneCamera, query: str = "") -> None:
        """Asks, and reads the headers."""
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self._connection.request("GET", f"/stream.mjpg{query}")
        self.response = self._connection.getresponse()
        assert self.response.status == 200

    def __enter__(self) -> Stream:
        """Reads the first boundary."""
        assert self.response.readline() == b"--frame\r\n"
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves."""
        self.response.close()
        self._connection.close()

    def rest(self) -> int:
        """How many bytes come until the server ends the connection."""
        try:
            return len(self.response.read())
        except ConnectionError:
            return 0

    def next(self) -> bytes:
        """The next JPEG; b"" at the end."""
        length = 0
        while (line := self.response.readline()) not in (b"\r\n", b""):
            if line.startswith(b"Content-Length: "):
                length = int(line.split()[1])
        data = self.response.read(length)
        assert self.response.read(len(b"\r\n--frame\r\n")) in (b"\r\n--frame\r\n", b"")
        return data


def decode(data: bytes) -> NDArray[np.uint8]:
    """The picture in a JPEG."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def disc(picture: NDArray[np.uint8]) -> float:
    """Where the green disc of `snapshot` is, 0..1 of the width."""
    blue, green, red = (picture[..., i].astype(int) for i in range(3))
    return float(np.median(np.nonzero((red < 90) & (green > 200) & (blue < 90))[1])) / picture.shape[1]


def soon(wanted: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value, or whatever the last one is."""
    end = time.monotonic() + seconds
    while not (value := wanted()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


# ---- the address and the token ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("camera.local:0", ("camera.local", 0)),
    ],
)
def test_an_address_is_read(text: str, expected: tuple[str, int]) -> None:
    """Without a host it is this computer alone."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "camera", "camera:", "1.2.3.4:70000", "::1:80", "http://camera:80", "a:-1"]
)
def test_a_wrong_address_is_named(text: str) -> None:
    """It is repeated, beside what was expected."""
    with pytest.raises(ConfigError, match=re.escape(repr(text)) + "$") as error:
        parse_address(text)
    assert "expected HOST:PORT" in str(error.value)


def test_only_other_addresses_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback has none, others a random one of 32 characters; a token that is given counts everywhere."""
    monkeypatch.delenv("EDGE_CENTERNET_TOKEN", raising=False)
    assert [choose_token(None, host) for host in ("127.0.0.1", "::1", "localhost")] == ["", "", ""]
    first, second = choose_token(None, "0.0.0.0"), choose_token(None, "camera.local")
    assert (len(first), len(second), first != second) == (32, 32, True)
    monkeypatch.setenv("EDGE_CENTERNET_TOKEN", "from the environment")
    assert choose_token(None, "127.0.0.1") == "from the environment"
    assert choose_token("from the option", "0.0.0.0") == "from the option"
    with pytest.raises(ConfigError, match="expected at least 8 characters, got 7"):
        choose_token("letmein", "0.0.0.0")


def test_a_port_in_use_is_one_line(start: Start) -> None:
    """The caller hears of it, not a log."""
    port = start().port
    second = OneCamera(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match=rf"^cannot serve on 127.0.0.1:{port}: the port is in use; .*$"):
        second.start()
    second.close()


def test_an_address_of_another_computer_is_one_line() -> None:
    """192.0.2.1 is reserved: nobody has it."""
    server = OneCamera("192.0.2.1:0")
    with pytest.raises(
        ConfigError, match=r"^cannot serve on 192.0.2.1:0: this computer does not have that address"
    ):
        server.start()


def test_a_server_on_every_address_is_reachable_by_its_url() -> None:
    """The URL holds the token, and an address that can be opened, which 0.0.0.0 on a phone cannot."""
    server = OneCamera("0.0.0.0:0")
    server.start()
    try:
        match = re.fullmatch(r"http://(?P<host>[^/:]+):(?P<port>\d+)/\?token=[\w-]{32}", server.url)
        assert match is not None
        assert match["host"] != "0.0.0.0"
        assert int(match["port"]) == server.port
    finally:
        server.close()


# ---- who may see it -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Cookie": f"edge_centernet=x; token={TOKEN}"},
    ],
)
def test_without_the_token_nothing_is_told(start: Start, path: str, headers: dict[str, str]) -> None:
    """Every path answers alike, existing or not."""
    server = start(token=TOKEN, metrics=lambda: b"secret 1\n")
    server.update(snapshot())
    answer = get(server, path, headers)
    assert (answer.status, answer.body) == (401, b"401\n")


def test_a_program_shows_the_token_in_a_header_or_the_address(start: Start) -> None:
    """Both get the answer itself."""
    server = start(token=TOKEN)
    assert get(server, "/state.json", {"Authorization": f"Bearer {TOKEN}"}).status == 200
    query = server.url.partition("?")[2]
    assert get(server, f"/state.json?{query}").status == 200
    assert get(server, f"/state.json?{query}x").status == 401


def test_the_page_changes_the_token_for_a_cookie(start: Start) -> None:
    """No script can read the cookie, no other site can use it, and it does not hold the token."""
    server = start(token=TOKEN)
    answer = get(server, "/?" + server.url.partition("?")[2])
    assert (answer.status, answer.headers["Refresh"]) == (200, "0; url=./")
    cookie = answer.headers["Set-Cookie"]
    assert re.search("; HttpOnly;.*; SameSite=Strict$", cookie)
    assert "sesame" not in cookie
    page = get(server, "/", {"Cookie": cookie.partition(";")[0]})
    assert (page.status, b"live.js" in page.body) == (200, True)
    assert get(server, "/", {"Cookie": cookie.partition(";")[0] + "0"}).status == 401


def test_another_name_for_this_computer_is_refused(start: Start) -> None:
    """Without a token only (DNS rebinding): a page from elsewhere knows no token."""
    server = start()
    assert get(server, "/state.json", {"Host": "evil.example"}).status == 403
    assert get(server, "/state.json", {"Host": f"localhost:{server.port}"}).status == 200
    assert get(server, "/state.json", {"Host": "[::1]"}).status == 200
    assert get(server, "/healthz", {"Host": "evil.example"}).status == 503
    proxied = start(token=TOKEN)
    assert (
        get(proxied, "/state.json", {"Host": "camera.example", "Authorization": f"Bearer {TOKEN}"}).status
        == 200
    )


def test_a_page_of_another_site_gets_no_websocket(start: Start) -> None:
    """Browsers say where a page is from."""
    server = start()
    request = HTTPRequest(f"ws://127.0.0.1:{server.port}/events", headers={"Origin": "http://evil.example"})

    async def connect() -> None:
        await websocket_connect(request)

    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(connect())


def test_every_answer_forbids_what_it_does_not_need(start: Start) -> None:
    """No frames, no guessing of types, no storing, nothing from elsewhere, no script within a page."""
    server = start()
    for path in ("/", "/state.json", "/nothing"):
        headers = get(server, path).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] is None
    page = get(server, "/")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert re.findall(rb"<style|<script(?! type=.module. src=)|\son\w+=|\sstyle=", page.body) == []


@pytest.mark.parametrize(
    ("several", "scripts"),
    [(False, {"live.js", "draw.js", "past.js"}), (True, {"grid.js"})],
    ids=["camera", "cameras"],
)
def test_the_page_needs_nothing_from_elsewhere(
    request: pytest.FixtureRequest, start: Start, several: bool, scripts: set[str]
) -> None:
    """No address of another server in its files, but for the name of SVG; all addresses are relative."""
    server = request.getfixturevalue("shop") if several else start()
    names, seen = ["", "token.html"], set()
    texts = {"token.html": (Path(server_module.__file__).parent / "token.html").read_text()}
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in texts:
            answer = get(server, f"/{name}")
            assert answer.status == 200, name
            texts[name] = answer.body.decode()
        names += re.findall(
            r"(?:href|src|from) ?=?\"(?:\./)?([\w-]+\.(?:css|js))\"", texts[name].replace("from ", "from=")
        )
    assert seen == {"", "token.html", "live.css", "feed.js", "parts.js", *scripts}
    found = {match for text in texts.values() for match in re.findall(r"(?:https?:)?//[a-z][^\s'\"]*", text)}
    assert found == {"http://www.w3.org/2000/svg"}
    assert [text for text in texts.values() if re.search(r"(?:href|src|action)=\"/", text)] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/", 405, "expected another method for this address, GET or POST"),
        ("PUT", "/x", 405, "expected another method for this address, GET or POST"),
        ("GET", "/../x", 404, "there is nothing at this address"),
    ],
)
def test_other_requests_are_refused(start: Start, method: str, path: str, status: int, said: str) -> None:
    """One line that says what is wrong."""
    answer = get(start(), path, method=method)
    assert (answer.status, answer.body) == (status, f"{status}: {said}\n".encode())


def test_no_log_holds_the_token(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of good requests nor of bad ones, nor when we fail ourselves."""

    def fail() -> bytes:
        raise RuntimeError("no metrics today")

    server = start(token=TOKEN, metrics=fail)
    query = server.url.partition("?")[2]
    statuses = [
        get(server, f"{path}?{query}{rest}").status for path in PATHS[2:4] for rest in ("", "&x=%FF", "x")
    ]
    assert statuses == [503, 503, 401, 200, 200, 401]
    assert get(server, f"/state.json?{query}&token=%FF").status == 400
    assert "token" not in caplog.text
    assert get(server, f"/metrics?{query}").status == 500
    assert "no metrics today" in caplog.text
    assert "sesame" not in caplog.text


def test_ten_wrong_tokens_from_one_address_are_all_for_a_minute(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The eleventh is not looked at, nor is the right one; after the minute it is let in."""
    server = start(token=TOKEN)
    ways: list[Callable[[str], dict[str, str]]] = [
        lambda text: {"Authorization": f"Bearer {text}"},
        lambda text: {"Cookie": f"edge_centernet_{server.port}={text}"},
    ]
    assert [get(server, "/state.json", ways[i % 2](f"guess{i}")).status for i in range(10)] == [401] * 10
    late = get(server, "/state.json", ways[0](TOKEN))
    assert (late.status, late.body, late.headers["Retry-After"]) == (429, b"429\n", "60")
    assert get(server, "/events?token=guess").status == 429
    assert get(server, "/state.json").status == 401  # shows none
    assert get(server, "/healthz").status == 503
    later = time.monotonic() + 61
    monkeypatch.setattr(access.time, "monotonic", lambda: later)
    assert get(server, "/state.json", ways[0](TOKEN)).status == 200


def test_the_same_wrong_token_again_is_no_guess() -> None:
    """A page that was open when the token changed asks all day; its owner must get in with the new one."""
    guard = Guard(TOKEN, "0.0.0.0")
    assert {guard.judge("192.0.2.7", "", "", "old cookie") for _ in range(100)} == {Verdict.UNKNOWN}
    assert guard.judge("192.0.2.7", TOKEN, "", "old cookie") is Verdict.ADMITTED


def test_guesses_from_elsewhere_do_not_count() -> None:
    """One address that guesses locks out nobody but itself, and the memory of them is bounded."""
    guard = Guard(TOKEN, "0.0.0.0")
    for i in range(20):
        guess = guard.judge("192.0.2.7", f"guess {i}", "", "")
    assert guess is Verdict.LIMITED
    assert guard.judge("192.0.2.8", TOKEN, "", "") is Verdict.ADMITTED
    for i in range(3000):
        guard.judge(f"address {i}", "guess", "", "")
    assert len(guard._wrong) == 1024


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_sender_cannot_choose_its_network(address: str, expected: str) -> None:
    """Everybody with IPv6 has 2**64 addresses: they count as one."""
    assert network_of(address) == expected


def test_connections_without_a_token_lock_nobody_out(start: Start) -> None:
    """Of 300 that say nothing 32 stay; health is told, the token lets in, and a viewer goes on watching."""
    server = start(token=TOKEN)
    with ExitStack() as stack, feed(server.update):
        viewer = stack.enter_context(Stream(server, f"?{server.url.partition('?')[2]}"))
        viewer.next()
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(300)
        ]
        assert get(server, "/healthz").status == 200
        assert get(server, "/state.json", {"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert all(viewer.next() for _ in range(3))
        assert sum(not ended(one) for one in silent) <= 32


def test_a_full_server_closes_those_it_knows_least(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests who hold every connection make room for the next request; a viewer keeps its place."""
    monkeypatch.setattr(server_module, "_MAX_CONNECTIONS", 8)
    server = start()
    with ExitStack() as stack, feed(server.update):
        viewer = stack.enter_context(Stream(server))
        viewer.next()
        guests = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(7)]
        for guest in guests:
            guest.sendall(b"GET /state.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert guest.recv(15) == b"HTTP/1.1 200 OK"
            while guest.recv(65536)[-1:] != b"}":
                pass
        assert get(server, "/healthz").status == 200
        assert [ended(guest) for guest in guests] == [True, False, False, False, False, False, False]
        assert viewer.next()


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_headers_that_trickle_in_end_the_connection(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not make the time for the headers start again; it is five seconds."""
    assert server_module._HEADERS_S == 5.0
    monkeypatch.setattr(server_module, "_HEADERS_S", 0.3)
    server = start()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")

        def trickled() -> bool:
            try:
                slow.sendall(b"a")
            except OSError:
                return True
            return ended(slow)

        assert soon(trickled)


# ---- pictures -----------------------------------------------------------------------------------


def test_a_snapshot_is_the_newest_picture(start: Start) -> None:
    """960 pixels wide, with the boxes on it; 503 before there is any."""
    server = start()
    assert get(server, "/snapshot.jpg").status == 503
    server.update(snapshot(1))
    server.update(snapshot(11))
    answer = get(server, "/snapshot.jpg")
    picture = decode(answer.body)
    assert (answer.headers["Content-Type"], picture.shape) == ("image/jpeg", (437, 960, 3))
    assert disc(picture) == pytest.approx((20 + 7 * 11) / PHOTO.shape[1], abs=0.005)
    plain = cv2.resize(snapshot(11).frame.image, (960, 437), interpolation=cv2.INTER_AREA)
    changed = np.abs(picture.astype(int) - plain).max(axis=2) > 100
    assert changed[60:400, 338:345].any(axis=1).mean() > 0.9  # the left side of the first box


def test_a_stream_moves(start: Start) -> None:
    """Each picture is newer than the last, and it is at most about ten a second."""
    server = start()
    with feed(server.update), Stream(server) as stream:
        stream.next()
        begin = time.monotonic()
        seen = [disc(decode(stream.next())) for _ in range(20)]
        rate = 20 / (time.monotonic() - begin)
    assert len(set(seen)) == 20
    assert 2 < rate < 11
    assert stream.response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
    assert stream.response.headers["Transfer-Encoding"] is None
    assert stream.response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_video_player_shows_the_stream(start: Start) -> None:
    """FFmpeg, by way of OpenCV: pictures of the right size that move."""
    server = start()
    with feed(server.update):
        player = cv2.VideoCapture(f"{server.url}stream.mjpg", cv2.CAP_FFMPEG)
        pictures = [player.read()[1] for _ in range(5)]
        player.release()
    assert {picture.shape for picture in pictures} == {(437, 960, 3)}
    assert len({disc(picture) for picture in pictures}) == 5


def test_nothing_is_drawn_while_nobody_watches(start: Start) -> None:
    """And the first viewer after that sees what is now, not what was when somebody last watched."""
    overlay = Counting()
    server = start(overlay=overlay)
    with feed(server.update):
        assert get(server, "/snapshot.jpg").status == 200
        time.sleep(1.5)
        assert len(overlay.drawn) == 1
        get(server, "/snapshot.jpg")
    assert overlay.drawn[1] - overlay.drawn[0] > 30


def test_one_picture_serves_all_viewers(start: Start) -> None:
    """Five viewers at once get the same bytes, drawn once."""
    overlay = Counting()
    server = start(overlay=overlay)
    with ExitStack() as stack, feed(server.update), ThreadPoolExecutor(5) as pool:
        streams = [stack.enter_context(Stream(server)) for _ in range(5)]
        seen = list(pool.map(lambda stream: {stream.next() for _ in range(15)}, streams))
    assert len(set.union(*seen)) <= len(overlay.drawn) == len(set(overlay.drawn))
    assert len(set.intersection(*seen)) >= 10


def test_too_many_viewers_are_turned_away(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """503; and the place of one who leaves is free again."""
    monkeypatch.setattr(server_module, "MAX_VIEWERS", 2)
    server = start()
    with feed(server.update):
        with Stream(server), Stream(server):
            assert get(server, "/stream.mjpg").status == 503
            upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            assert get(server, "/events", {**upgrade, "Sec-WebSocket-Key": "x"}).status == 503
        assert soon(lambda: server.viewers == 0)
        with Stream(server) as stream:
            assert stream.next()


def test_a_viewer_that_leaves_is_noticed_while_no_picture_comes(start: Start) -> None:
    """A lost camera must not fill the places with viewers that are gone."""
    server = start()
    server.update(snapshot())
    with Stream(server) as stream:
        stream.next()
        assert server.viewers == 1
    assert soon(lambda: server.viewers == 0)


def open_and_never_read(server: OneCamera, upgrade: str = "", asks: bytes = b"") -> socket.socket:
    """A viewer whose network has stalled, of the stream or, by upgrading, of the page's WebSocket."""
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect(("127.0.0.1", server.port))
    path = "/events" if upgrade else "/stream.mjpg"
    stalled.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n".encode() + asks)
    return stalled


UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
MORE = b"\x81\x84\0\0\0\0more"  # a text message, masked by zeros


def test_a_viewer_that_never_reads_costs_no_memory_and_nobody_else(start: Start) -> None:
    """Pictures go past it; the memory held grows by a few of them, not by all; the others get theirs."""
    overlay = Counting()
    server = start(overlay=overlay, stream_fps=200)

    def held() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    with ExitStack() as stack, feed(server.update), Stream(server) as reader:
        size = len(reader.next())
        for _ in range(20):
            stack.enter_context(open_and_never_read(server))
        assert soon(lambda: server.viewers == 21)
        for _ in range(30):
            reader.next()
        before, drawn = held(), len(overlay.drawn)
        for _ in range(100):
            reader.next()
        grown, made = held() - before, 20 * size * (len(overlay.drawn) - drawn)
    assert made > 50e6
    assert grown < 0.1 * made


@pytest.mark.parametrize("upgrade", ["", UPGRADE], ids=["stream", "websocket"])
def test_a_viewer_that_takes_nothing_for_long_loses_its_place(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, upgrade: str
) -> None:
    """A phone that went out of range says no goodbye; no log line, and no traceback, tells of it."""
    monkeypatch.setattr(server_module, "_SEND_S", 0.3)
    server = start(stream_fps=200, max_width=1126)
    with feed(server.update), open_and_never_read(server, upgrade, MORE * 1000 if upgrade else b""):
        assert soon(lambda: server.viewers == 1)
        assert soon(lambda: server.viewers == 0, 60)
    server.close()
    gc.collect()
    assert caplog.text == ""


# ---- state --------------------------------------------------------------------------------------


def full(number: int = 7) -> Snapshot:
    """A result with all that a result can have."""
    zone = ZoneCount("sofa", 1, 2, 12.34, 4.56, {"dog": (1, 2)}, QueueCount(1, 5.0, 5.0))
    rule = RuleState("full", "capacity", "sofa", True, 1)
    tally = Tally((LineCount("door", 3, 1, {"dog": (3, 1)}),), (zone,), rules=(rule,))
    return replace(snapshot(number), tracks=TRACKS, tally=tally)


def test_the_state_tells_all(start: Start) -> None:
    """By value; boxes in pixels of the frame."""
    server = start()
    server.update(full())
    state = json.loads(get(server, "/state.json").body)
    assert 0 < state.pop("picture_age_s") < 10
    assert state.pop("name") == "door"
    assert set(state.pop("board")) >= {"load", "cores", "memory_free_mb"}
    health = state.pop("health")
    assert (health["status"], health["camera"], health["detail"], health["age_ms"]) == (
        "ok",
        "live",
        "",
        41.5,
    )
    assert state == {
        "version": edge_centernet.__version__,
        "places": 0,
        "viewers": 0,
        "healthy": True,
        "capture": {"state": "live", "detail": "", "reopened": 0, "frames": 7, "dropped": 0},
        "source": "camera 0",
        "frame": 7,
        "width": 1126,
        "height": 512,
        "fps": 29.7,
        "age_ms": 41.5,
        "ms": {"preprocess": 2.1, "inference": 31.4, "decode": 0.4},
        "detections": {"person": 1, "cat": 1},
        "lines": [{"name": "door", "in": 3, "out": 1, "classes": {"dog": {"in": 3, "out": 1}}}],
        "zones": [
            {
                "name": "sofa",
                "inside": 1,
                "entered": 2,
                "longest_s": 12.3,
                "mean_dwell_s": 4.6,
                "classes": {"dog": {"inside": 1, "entered": 2}},
                "queue": {
                    "length": 1,
                    "mean_s": 5.0,
                    "longest_s": 5.0,
                    "left": 0,
                    "left_mean_s": None,
                    "left_p90_s": None,
                },
            }
        ],
        "rules": [{"name": "full", "kind": "capacity", "where": "sofa", "active": True, "value": 1}],
        "objects": [
            {"id": 3, "class": "person", "score": 0.9, "box": [400.0, 60.0, 640.0, 480.0]},
            {"id": 17, "class": "cat", "score": 0.8, "box": [700.0, 250.0, 1000.0, 470.0]},
        ],
    }


def test_the_state_before_the_first_result_is_short(start: Start) -> None:
    """How the source does is known by then."""
    server = start(capture=lambda: CaptureState("lost", "camera 0: unplugged"))
    state = json.loads(get(server, "/state.json").body)
    assert (state["capture"]["detail"], state["healthy"]) == ("camera 0: unplugged", False)
    assert "frame" not in state


def test_health_is_told_to_anybody_but_not_why(start: Start) -> None:
    """All is well with a fresh result of a live source only."""
    server = start(token=TOKEN)
    answer = get(server, "/healthz")
    assert (answer.status, answer.body) == (503, b"not ok\n")
    server.update(snapshot())
    answer = get(server, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")
    server.update(
        replace(snapshot(), unwritten="/home/me/counts.json: cannot write: No space left on device")
    )
    answer = get(server, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok; files cannot be written\n")
    server.update(replace(snapshot(), capture=CaptureState("lost", "unplugged")))
    assert get(server, "/healthz").status == 503
    old = snapshot()
    server.update(replace(old, frame=replace(old.frame, captured=time.monotonic() - 11)))
    assert get(server, "/healthz").status == 503


def test_health_and_metrics_come_from_who_knows_them(start: Start) -> None:
    """The server passes them on; without metrics there is no such page."""
    server = start(health=lambda: (False, {"mqtt": "offline"}), metrics=lambda: b"results_total 7\n")
    server.update(snapshot())
    assert get(server, "/healthz").status == 503
    assert json.loads(get(server, "/state.json").body)["health"] == {"mqtt": "offline"}
    answer = get(server, "/metrics")
    assert (answer.body, answer.headers["Content-Type"][:25]) == (
        b"results_total 7\n",
        "text/plain; version=0.0.4",
    )
    assert get(start(), "/metrics").status == 404


async def leave(socket: WebSocketClientConnection) -> None:
    """Closes, and waits for the other side: a loop that ends before that leaves the connection open."""
    socket.close()
    while await socket.read_message() is not None:
        pass


async def messages(server: OneCamera, asks: int, seconds: float) -> list[str | bytes]:
    """All that the WebSocket sends, if a picture is asked for so many times at once."""
    socket: WebSocketClientConnection = await websocket_connect(f"ws://127.0.0.1:{server.port}/events")
    for _ in range(asks):
        await socket.write_message("more")
    got: list[str | bytes] = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(socket.read_message(), left)
        except asyncio.TimeoutError:
            break
        assert message is not None
        got.append(message)
    await leave(socket)
    return got


def test_events_tell_the_state_at_most_five_times_a_second(start: Start) -> None:
    """And send no picture to one who asks for none."""
    server = start()
    server.update(full())
    got = [json.loads(message) for message in asyncio.run(messages(server, 0, 2.0))]
    assert 5 <= len(got) <= 11
    lines = [line.as_dict() for line in full().tally.lines]  # type: ignore[union-attr]
    assert [state["lines"] for state in got] == [lines] * len(got)
    assert got[0]["viewers"] == 1
    assert soon(lambda: server.viewers == 0)


def test_events_send_a_picture_for_each_request(start: Start) -> None:
    """Two at most may be asked for in advance; each has its time of capture, by the clock of the state."""
    server = start()
    with feed(server.update):
        got = asyncio.run(messages(server, 50, 1.5))
    pictures = [message for message in got if isinstance(message, bytes)]
    clock = [json.loads(message)["clock"] for message in got if isinstance(message, str)]
    assert 2 <= len(pictures) <= 3  # the third: asked for while the first was under way
    assert decode(pictures[0][8:]).shape == (437, 960, 3)
    (captured,) = struct.unpack(">d", pictures[0][:8])
    assert clock[0] - 1 < captured < clock[-1]


# ---- several cameras ----------------------------------------------------------------------------


@pytest.fixture
def shop() -> Iterator[WebServer]:
    """Two cameras; the second has a name of two words."""
    views = [
        View(name, classes=CLASSES, overlay=Overlay(CLASSES), several=True) for name in ("door", "Back yard")
    ]
    server = WebServer("127.0.0.1:0", views)
    server.start()
    yield server
    server.close()


def test_each_camera_has_a_page_of_its_own(shop: WebServer) -> None:
    """Below its name; / shows all, and what is of one camera only is not there."""
    door, yard = shop.views
    door.update(snapshot(1))
    yard.update(full(11))
    assert b"Waiting for the first picture" in get(shop, "/back-yard/").body
    assert b'id="cameras"' in get(shop, "/").body
    pictures = [decode(get(shop, f"/{path}snapshot.jpg").body) for path in ("door/", "back-yard/")]
    assert [disc(picture) for picture in pictures] == pytest.approx([27 / 1126, 97 / 1126], abs=0.005)
    (line,) = json.loads(get(shop, "/back-yard/state.json").body)["lines"]
    assert (line["name"], line["in"], line["out"]) == ("door", 3, 1)
    state = json.loads(get(shop, "/state.json").body)
    assert [(one["name"], one["path"], one["frame"]) for one in state["cameras"]] == [
        ("door", "door/", 1),
        ("Back yard", "back-yard/", 11),
    ]
    for path in ("/snapshot.jpg", "/yard/", "/door/metrics"):
        assert get(shop, path).status == 404


def test_a_page_without_its_slash_leads_to_the_page(shop: WebServer) -> None:
    """By a relative address, with the token that was given; what is no camera stays unknown."""
    answer = get(shop, "/back-yard?token=a%20b")
    assert (answer.status, answer.headers["Location"]) == (302, "back-yard/?token=a%20b")
    assert get(shop, "/door").headers["Location"] == "door/"
    assert get(shop, "/yard").status == 404


def test_health_of_several_is_that_of_any(shop: WebServer) -> None:
    """One that is lost is counted, and no reason to restart the other; below its name it is asked for."""
    assert (get(shop, "/healthz").status, get(shop, "/healthz").body) == (
        503,
        b"not ok; 2 of 2 cameras do not work\n",
    )
    shop.views[0].update(snapshot())
    shop.views[1].update(replace(snapshot(), capture=CaptureState("lost", "unplugged")))
    answer = get(shop, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok; 1 of 2 cameras do not work\n")
    assert [get(shop, f"/{path}/healthz").status for path in ("door", "back-yard")] == [200, 503]


def test_one_websocket_has_small_pictures_of_all(shop: WebServer) -> None:
    """480 pixels wide, each with the number of its camera; drawn for who asks, and for nobody else."""
    for i, view in enumerate(shop.views):
        view.update(snapshot(10 * i))

    async def ask() -> list[str | bytes | None]:
        events = await websocket_connect(f"ws://127.0.0.1:{shop.port}/events")
        for message in ("more 1", "more 7", "more x", "more 0"):
            await events.write_message(message)
        got: list[str | bytes | None] = []
        while sum(isinstance(one, bytes) for one in got) < 2:
            got.append(await events.read_message())
        await leave(events)
        return got

    got = asyncio.run(ask())
    pictures = {int.from_bytes(one[8:12], "big"): decode(one[12:]) for one in got if isinstance(one, bytes)}
    assert {number: picture.shape for number, picture in pictures.items()} == {
        0: (218, 480, 3),
        1: (218, 480, 3),
    }
    assert disc(pictures[1]) - disc(pictures[0]) == pytest.approx(70 / 1126, abs=0.01)
    states = [json.loads(one) for one in got if isinstance(one, str)]
    assert [one["name"] for one in states[0]["cameras"]] == ["door", "Back yard"]


# ---- speed and the end --------------------------------------------------------------------------


@pytest.mark.slow
def test_five_viewers_do_not_slow_the_loop_that_feeds_them(start: Start) -> None:
    """A loop of 30 per second keeps its rate; handing over takes under a tenth of a frame in 99 of 100."""
    server = start()
    took: list[float] = []

    def timed(result: Snapshot) -> None:
        begin = time.perf_counter()
        server.update(result)
        took.append(1000 * (time.perf_counter() - begin))

    def rate(viewers: int) -> float:
        done = threading.Event()

        def watch() -> None:
            with Stream(server) as stream:
                while not done.is_set():
                    stream.next()

        threads = [threading.Thread(target=watch) for _ in range(viewers)]
        with feed(timed):
            for thread in threads:
                thread.start()
            assert soon(lambda: server.viewers == viewers)
            begin, before = time.monotonic(), len(took)
            time.sleep(5)
            reached = (len(took) - before) / (time.monotonic() - begin)
            done.set()
            for thread in threads:
                thread.join()
        assert soon(lambda: server.viewers == 0)
        return reached

    alone, watched = rate(0), rate(5)
    print(
        f"alone {alone:.2f}/s, with five viewers {watched:.2f}/s, update p99 {np.percentile(took, 99):.4f} ms"
    )
    assert watched > 0.8 * alone
    assert np.percentile(took, 99) < 0.1 * 1000 / 30


def test_closing_ends_every_connection_soon(start: Start) -> None:
    """Also of viewers that wait or never read; a second close does nothing."""
    server = start(stream_fps=100)
    with feed(server.update), Stream(server) as stream, open_and_never_read(server):
        stream.next()
        assert soon(lambda: server.viewers == 2)
        threads = {thread.name for thread in threading.enumerate()}
        server.close()
        assert "web" in threads
        assert "web" not in {thread.name for thread in threading.enumerate()}
        assert stream.rest() < 10_000_000
    server.close()
    with pytest.raises(ConnectionRefusedError):
        get(server, "/healthz")


def test_its_port_can_be_used_again_at_once(start: Start) -> None:
    """A service that restarts finds its address free."""
    first = start()
    with feed(first.update), Stream(first) as stream:
        stream.next()
        first.close()
    second = OneCamera(f"127.0.0.1:{first.port}")
    second.start()
    assert second.port == first.port
    second.close()


def test_no_file_is_left_open(start: Start) -> None:
    """A service opens and closes it for years."""

    def once() -> int:
        server = start()
        with feed(server.update), Stream(server) as stream:
            stream.next()
            server.close()
        return len(os.listdir("/proc/self/fd"))

    once()
    assert soon(lambda: once() <= (before := once()) and before) > 0

"""Network cameras for tests: real RTSP and MJPEG servers, processes that can be killed and started again.

RTSP needs GStreamer from apt: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base
gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly. The pictures carry their number, so that a test can tell
how old what it got is.
"""

from __future__ import annotations

import functools
import http.server
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

FPS = 30
WALK_S = 8.0
_CELL = 40  # pixels
_HERE = Path(__file__).parent
_SYSTEM_PYTHON = "/usr/bin/python3"
_RTSP_NEEDS = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
names = "x264enc rtph264pay appsrc videoconvert videoscale jpegdec imagefreeze"
raise SystemExit(" ".join(name for name in names.split() if not Gst.ElementFactory.find(name)) or 0)
"""


def number_now() -> int:
    """The number of the newest picture that the servers have sent: thirtieths of a second."""
    return int(time.monotonic() * FPS) & 0xFFFF


def numbered(number: int) -> NDArray[np.uint8]:
    """(160, 320, 3) picture: 8x4 squares, white for 1; 16 bits of the number, then the same bits inverted."""
    bits = [(number >> i) & 1 for i in range(16)]
    cells = np.array(bits + [1 - bit for bit in bits], np.uint8).reshape(4, 8)
    grey = np.where(cells == 1, np.uint8(235), np.uint8(16)).repeat(_CELL, 0).repeat(_CELL, 1)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def read_number(image: NDArray[np.uint8]) -> int:
    """The number in a picture; AssertionError if it is not one of ours, or torn."""
    height, width = image.shape[0] / 4, image.shape[1] / 8
    cells = [
        image[int((y + 0.5) * height), int((x + 0.5) * width)].mean() > 128
        for y in range(4)
        for x in range(8)
    ]
    bits, inverted = cells[:16], cells[16:]
    assert all(a != b for a, b in zip(bits, inverted, strict=True)), "torn or foreign picture"
    return sum(int(bit) << i for i, bit in enumerate(bits))


def age(image: NDArray[np.uint8]) -> int:
    """How many pictures the server has sent since this one."""
    late = (number_now() - read_number(image)) & 0xFFFF
    return late if late < 0x8000 else late - 0x10000


def walk(seconds: float) -> NDArray[np.uint8]:
    """(360, 640, 3) picture: a person who goes to the right for 3 s, stays for 2 s and goes back for 3 s."""
    person, canvas = _person(), np.full((360, 640, 3), 128, np.uint8)
    height, width = person.shape[:2]
    left = round((canvas.shape[1] - width) * min(1.0, max(0.0, 4 / 3 - abs(seconds % WALK_S - 4.0) / 3)))
    canvas[-height:, left : left + width] = person
    return canvas


def crossings(begin: float, end: float) -> tuple[int, int]:
    """How often the person in `walk` passed the middle to the right and to the left in these seconds."""
    right, left = (math.floor((end - at) / WALK_S) - math.floor((begin - at) / WALK_S) for at in (1.5, 6.5))
    return right, left


@functools.cache
def _person() -> NDArray[np.uint8]:
    import edge_centernet

    photo = cv2.imread(str(Path(edge_centernet.__file__).parent / "assets" / "astronaut.jpg"))
    return cv2.resize(photo, (240, 240), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _jpeg(image: NDArray[Any]) -> bytes:
    return bytes(cv2.imencode(".jpg", image)[1])


@functools.lru_cache(maxsize=2000)
def _walk_jpeg(ms: int) -> bytes:
    """Cached, because the walk repeats itself: a camera must not take the processor from what it tests."""
    return _jpeg(walk(ms / 1000.0))


class Server:
    """A server process at `url`."""

    def __init__(self, command: list[str], port: int, url: str) -> None:
        """Nothing runs before `start`."""
        self.url = url
        self._command, self._port = command, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            assert self._process.poll() is None, f"the server ended at once: {self._command}"
            time.sleep(0.05)
        raise AssertionError(f"no server after 20 s: {self._command}")

    def kill(self) -> None:
        """SIGKILL, as by a power cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it keep its connections and send nothing more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def rtsp_server(picture: Path | None = None) -> Iterator[Server]:
    """H.264 over RTSP, started. picture: a JPEG file to show. Skips the test without GStreamer."""
    if missing := _rtsp_missing():
        pytest.skip(f"no RTSP server: {missing}; tests/helpers/servers.py lists the apt packages")
    port = free_port()
    command = [_SYSTEM_PYTHON, str(_HERE / "rtsp_server.py"), str(port), *([str(picture)] if picture else [])]
    with _running(Server(command, port, f"rtsp://127.0.0.1:{port}/cam")) as server:
        yield server


@contextmanager
def mjpeg_server(picture: Path | None = None, path: str = "/cam.mjpg") -> Iterator[Server]:
    """JPEG pictures in an endless multipart HTTP answer, started.

    path: "/cam.mjpg" numbers; "/sizes" changes their size; "/walk" shows `walk` by time.monotonic().
    "?fps=100" for more pictures a second than 30.
    """
    port = free_port()
    command = [sys.executable, __file__, str(port), *([str(picture)] if picture else [])]
    with _running(Server(command, port, f"http://127.0.0.1:{port}{path}")) as server:
        yield server


def free_port() -> int:
    """A TCP port of this computer that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


@functools.cache
def _rtsp_missing() -> str:
    if not Path(_SYSTEM_PYTHON).exists():
        return f"no {_SYSTEM_PYTHON}"
    done = subprocess.run([_SYSTEM_PYTHON, "-c", _RTSP_NEEDS], capture_output=True, text=True)
    return (
        "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["GStreamer is incomplete"])[-1]
    )


class _Camera(http.server.BaseHTTPRequestHandler):
    """Sends pictures for as long as the client listens."""

    picture: Path | None = None
    disable_nagle_algorithm = True  # else the system holds small pictures back, and sends several at a time

    def do_GET(self) -> None:
        """One client."""
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        still = None if self.picture is None else cv2.imread(str(self.picture))
        path, _, fps = self.path.partition("?fps=")
        rate = float(fps or FPS)
        while True:
            number = int(time.monotonic() * rate) + 1
            time.sleep(max(0.0, number / rate - time.monotonic()))
            if path == "/walk":
                data = _walk_jpeg(round(1000.0 * (number / rate % WALK_S)))
            else:
                image = numbered(number_now()) if still is None else still
                scale = 2 if path == "/sizes" and number // FPS % 2 else 1
                data = _jpeg(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until killed."""
    _Camera.picture = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Camera).serve_forever()


if __name__ == "__main__":
    main()

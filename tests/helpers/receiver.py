"""A real HTTPS server for webhooks, which fails as it is told, with a certificate authority of its own."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest


def make_ca(folder: Path) -> Path:
    """A new authority in `folder`, and a certificate that it has signed for localhost; the former's file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")
    ca, server = folder / "ca", folder / "server"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    dates = ["-days", "2"]
    usage = ["-addext", "keyUsage=critical,keyCertSign"]
    subprocess.run(
        [*new, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", "/CN=ours", *dates, *usage],
        check=True,
        capture_output=True,
    )
    signed = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-addext", "subjectAltName=DNS:localhost"]
    leaf = ["-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(
        [
            *new,
            "-keyout",
            f"{server}.key",
            "-out",
            f"{server}.pem",
            "-subj",
            "/CN=localhost",
            *dates,
            *signed,
            *leaf,
        ],
        check=True,
        capture_output=True,
    )
    return Path(f"{ca}.pem")


class Receiver:
    """Listens on localhost, over TLS where it has a certificate; `got` is every whole request.

    plan: what to do with the next requests: a status, with headers or without, or "hang", or "close" in the
      middle of the answer; 204 when it is used up.
    """

    def __init__(self, folder: Path | None = None, port: int = 0) -> None:
        """folder: where `make_ca` has left the certificate."""
        self.got: list[tuple[int, dict[str, str], bytes]] = []  # status answered, headers, body
        self.plan: deque[int | str | tuple[int, dict[str, str]]] = deque()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            def log_message(self, *args: Any) -> None:
                """Nothing."""

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """Handshakes that the other end breaks off are expected."""

        self._server = Quiet(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        if folder is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "server.pem", folder / "server.key")
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"http{'s' if folder else ''}://localhost:{self.port}/hook?a=b"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def taken(self) -> list[dict[str, Any]]:
        """The messages that were answered with 2xx."""
        return [json.loads(body) for status, _, body in self.got if 200 <= status < 300]

    def close(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        if len(body) < length:  # the sender was killed between the headers and the body
            return
        step = self.plan.popleft() if self.plan else 204
        if step == "hang":
            time.sleep(2)
            step = "close"
        status, headers = step if isinstance(step, tuple) else (step, {})
        self.got.append((status if isinstance(status, int) else 0, dict(request.headers.items()), body))
        if not isinstance(status, int):
            request.wfile.write(b"HTTP/1.1 20")
            with suppress(OSError):
                request.connection.shutdown(socket.SHUT_RDWR)
            return
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()


def wait_until(said: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until it is true."""
    until = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.01)

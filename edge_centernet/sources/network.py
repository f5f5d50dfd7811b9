"""Streams and images from the network: no server can fill the memory or hold the program for ever.

HTTP is spoken here, and so is Motion JPEG, whose boundaries many cameras get wrong: pictures are cut out by
what a JPEG file itself says. All other streams are FFmpeg's, which bounds neither memory nor, in some
formats, time. It runs in a child process (`main`) with a limit on its memory, which can be killed at any
moment. Both are what `Video` knows: `grab`, `retrieve`, `get` and `release` of cv2.VideoCapture, and besides
`interrupt`, which another thread may call to end a read.
"""

from __future__ import annotations

import base64
import functools
import http.client
import io
import json
import mmap
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import SourceError
from edge_centernet.imageio import decode_image
from edge_centernet.sources.files import LIVE_SCHEMES, TIMEOUT_S, ffmpeg_settings, public_name
from edge_centernet.system.child import command_of, crash_in_words

_OPEN_S = 25.0  # for FFmpeg to open a stream: its own limit, and the start of its process
_CHILD_BYTES = 448 << 20  # what FFmpeg may allocate: 3840x2160 pixels need 300 MB, the service has 768
_MOST_DOWNLOAD = 1 << 28  # bytes; an image file beyond 256 MB would fail the pixel limit anyway
# An image that is downloaded may take 8 s, and longer if so many bytes a second come; 5 minutes at most.
_DOWNLOAD_S, _DOWNLOAD_RATE, _DOWNLOAD_MOST_S = 8.0, 10_000, 300.0
_MOST_PICTURE = 32 << 20  # bytes of a picture in a stream
_MOST_BETWEEN = 1 << 20  # bytes between two pictures
_BROKEN_S = 3.0  # with damaged pictures only: shorter than the time after which a camera counts as frozen
_CHUNK = 1 << 16

_SCHEMES = ("http", "https", *LIVE_SCHEMES, "tcp", "ftp", "mms", "mmsh", "mmst", "rtmpt", "rist")
_LISTENING = ("udp", "rtp", "srt", "tcp", "rist")  # may name no host: whoever sends
# What else than data FFmpeg may say, and how we say it.
_FFMPEG_SAYS = (
    (r"resolve hostname", "no address for this host name; is it spelt right?"),
    (r"Connection refused", "a refused connection; is the camera switched on, and the port right?"),
    (r"timed out", f"no answer for {TIMEOUT_S} s"),
    (r"No route to host|unreachable", "no way to this host; is it switched on, and in this network?"),
    (r"AV1", "AV1 video, which this OpenCV cannot decode; set the camera to H.264 or H.265"),
    (r"Protocol not found", "a protocol that this FFmpeg does not know"),
)
_STATUS = {
    403: "403: this address is forbidden; may the user see the stream?",
    404: "404: nothing is at this address; look for the path of the stream in the camera's manual",
    503: "503: it is busy; has it as many viewers as it can serve?",
}


def check_url(url: str) -> None:
    """Raise SourceError, in one line, for what cannot be the URL of a stream or image."""
    public = public_name(url)
    escape = "write %23 for #, %2F for / and %40 for @ in a password"
    if re.search(r"[\s\0-\x1f\x7f]", url):
        raise SourceError(f"{public}: expected a URL without spaces and line ends; write %20 for a space")
    if "#" in url:
        # What stands behind it would never be sent: most often it is a part of the password, and the host.
        raise SourceError(f"{public}: expected a URL without #; {escape}")
    scheme = url.partition(":")[0].lower()
    if scheme not in _SCHEMES:
        raise SourceError(f"{public}: expected rtsp://, http:// or another stream's address, got {scheme}://")
    try:
        parts = urllib.parse.urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host.encode("idna")
    except ValueError:  # its text may quote the password; UnicodeError is one
        raise SourceError(
            f"{public}: expected scheme://host:port/path, got a host or port that cannot be; {escape}"
        ) from None
    if port == 0 or not (host or scheme in _LISTENING):
        raise SourceError(f"{public}: expected a host, got {'port 0' if host else 'none'}; {escape}")


def open_stream(url: str, live: bool) -> MjpegCapture | FfmpegCapture:
    """A stream or video, opened. live: whether it should have no end.

    Raises SourceError with the reason when it cannot be opened.
    """
    check_url(url)
    if url.lower().startswith(("http://", "https://")) and (capture := _open_mjpeg(url, live)):
        return capture
    return FfmpegCapture(url, live)


def download(url: str) -> bytes:
    """The content of an http(s) URL. Raises SourceError, also for one that comes too slowly."""
    check_url(url)
    public = public_name(url)
    began = time.monotonic()
    with _Answer(url, _DOWNLOAD_S, verify=True, failed=f"{public}: cannot download: got ") as answer:
        data = bytearray()
        while chunk := answer.read():
            data += chunk
            if len(data) > _MOST_DOWNLOAD:
                raise SourceError(f"{public}: expected at most {_MOST_DOWNLOAD} bytes, got more")
            answer.until = began + min(_DOWNLOAD_S + len(data) / _DOWNLOAD_RATE, _DOWNLOAD_MOST_S)
    return bytes(data)


# ---- HTTP --------------------------------------------------------------------------------------------------


class _Answer:
    """The answer to a GET request. until: time.monotonic() by which a read must have ended; may be changed.

    Sockets have a limit for each read only, which a server that sends one byte at a time never reaches.
    """

    def __init__(self, url: str, seconds: float, verify: bool, failed: str) -> None:
        """Raises SourceError, also for any status but 200. failed: what it begins with, ending in "got ".

        seconds: for the headers, and for the content until `until` is changed. verify: the certificate.
        """
        self.until = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._failed, self._seconds = failed, seconds
        # 1. The user's name and password go into a header, and out of the address.
        parts = urllib.parse.urlsplit(url)
        self._given = parts.username is not None
        host = parts.netloc.rpartition("@")[2]
        self._proxy = ""
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            self._proxy = (
                f"; ${parts.scheme}_proxy sent this to a proxy: for a camera in your own network set "
                f"no_proxy={parts.hostname}"
            )
        bare = urllib.parse.quote(parts._replace(netloc=host).geturl(), safe="%/:?=&~+!$,;'@()*[]|\\^`{}\"<>")
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, f"{parts.scheme}://{host}/", user, password)
        # 2. An opener of HTTP alone: the default one follows a redirection to ftp://.
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Http(self._make_response, verify),
            _Login(passwords),
        ):
            opener.add_handler(handler)
        opener.addheaders = [("User-Agent", "edge-centernet")]
        try:
            self._response = opener.open(bare, timeout=seconds)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._error(error) from None
        if self._response is None:  # no handler knows the scheme: redirected to another
            raise SourceError(f"{failed}a redirection to something that is no http://")
        self.kind: str = self._response.headers.get_content_type()
        self._left: int | None = self._response.length  # bytes; None where the server does not say

    def __enter__(self) -> _Answer:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def read(self) -> bytes:
        """Some bytes; empty at the end. Raises SourceError for a broken connection, and after `until`."""
        if self._left == 0:  # not read on: some servers then keep the connection
            return b""
        try:
            data: bytes = self._response.read1(min(_CHUNK, self._left or _CHUNK))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._error(error) from None
        if self._left is not None:
            self._left -= len(data)
            if not data:
                raise SourceError(f"{self._failed}{self._left} bytes less than the server announced")
        return data

    def interrupt(self) -> None:
        """End a read that is under way, from another thread."""
        with suppress(OSError):
            if self._socket is not None:
                # Past TLS, whose own shutdown must not run while another thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self.interrupt()
        self._response.close()

    def _make_response(self, sock: socket.socket, *args: Any, **options: Any) -> http.client.HTTPResponse:
        self._socket = sock
        return http.client.HTTPResponse(_Timed(sock, self), *args, **options)  # type: ignore[arg-type]

    def _error(self, error: Exception) -> SourceError:
        return SourceError(f"{self._failed}{self._reason(error)}{self._proxy}")

    def _reason(self, error: Exception) -> str:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            return status_in_words(error.code, self._given)
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
            error = error.reason
        if isinstance(error, TimeoutError):
            return f"no answer for {self._seconds:.0f} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"a certificate that is not trusted ({error.verify_message})"
        if isinstance(error, socket.gaierror):
            return "no address for this host name; is it spelt right?"
        if isinstance(error, ConnectionRefusedError):
            return "a refused connection; is it switched on, and the port right?"
        if isinstance(error, http.client.RemoteDisconnected):
            return "no answer: it closed the connection"
        if isinstance(error, (http.client.HTTPException, ValueError)):
            return f"an answer that is not right HTTP ({type(error).__name__})"
        return str(getattr(error, "strerror", None) or error)


class _Timed(io.RawIOBase):
    """A connection as http.client reads it, with a limit on the time of all reads together."""

    def __init__(self, sock: socket.socket, answer: _Answer) -> None:
        self._socket, self._answer = sock, answer
        # Keeps the socket open, which urllib closes as soon as it has the headers.
        self._file = sock.makefile("rb", buffering=0)

    def makefile(self, mode: str) -> BinaryIO:
        """What http.client asks a socket for."""
        return io.BufferedReader(self, _CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._answer.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Http(urllib.request.AbstractHTTPHandler):
    """Opens http:// and https:// with responses of ours."""

    def __init__(self, respond: Callable[..., http.client.HTTPResponse], verify: bool) -> None:
        super().__init__()
        self._respond, self._verify = respond, verify

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connect, http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        context = ssl.create_default_context()
        if not self._verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return self.do_open(
            functools.partial(self._connect, http.client.HTTPSConnection, context=context), request
        )

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _connect(self, kind: Any, host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connection.response_class = self._respond
        return connection


class _Login(urllib.request.BaseHandler):
    """Shows name and password once, by Digest where the server can, else Basic.

    urllib's own handlers show a wrong password six times, after which many cameras lock the user out.
    """

    def __init__(self, passwords: urllib.request.HTTPPasswordMgr) -> None:
        self._passwords = passwords
        self._digest = urllib.request.HTTPDigestAuthHandler(passwords)

    def http_error_401(
        self, request: urllib.request.Request, file: Any, code: int, message: str, headers: Any
    ) -> Any:
        if request.has_header("Authorization"):
            return None
        shown = ""
        for challenge in headers.get_all("WWW-Authenticate", []):
            scheme, _, rest = challenge.partition(" ")
            user, password = self._passwords.find_user_password(None, request.full_url)  # type: ignore[arg-type]
            if scheme.lower() == "digest" and user:
                fields = filter(None, urllib.request.parse_http_list(rest))
                with suppress(ValueError):  # an algorithm that Python does not know, or a damaged challenge
                    if answer := self._digest.get_authorization(
                        request, urllib.request.parse_keqv_list(list(fields))
                    ):
                        shown = f"Digest {answer}"
            elif scheme.lower() == "basic" and user and not shown:
                shown = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        if not shown:
            return None
        file.close()
        request.add_unredirected_header("Authorization", shown)
        return self.parent.open(request, timeout=request.timeout)


def status_in_words(code: int, given: bool) -> str:
    """What a status of HTTP or RTSP means to who wants a stream. given: whether a password was sent."""
    if 300 <= code < 400:  # all others are followed
        return f"{code}: it redirects to something that is no http://, or without an end"
    if code == 401:
        if given:
            return "401: it does not accept this user name and password"
        return "401: it wants a user name and password; write //USER:PASSWORD@ in front of the host"
    try:
        return _STATUS.get(code) or f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


# ---- Motion JPEG -------------------------------------------------------------------------------------------


class JpegCutter:
    """Cuts JPEG files out of a stream of bytes, whatever stands between them.

    Neither boundaries nor lengths are looked at, as cameras send them at the wrong place, with one line end
    for two, or not at all. A file ends at its EOI marker; one that the next file's SOI cuts off is left out.
    """

    # A marker in coded data; there FF 00 is a byte FF, and D0 to D7 are restarts (ITU-T T.81, B.1.1)
    _MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

    def __init__(self) -> None:
        """Nothing read yet."""
        self._data = bytearray()
        self._at = 0  # of the next marker, or how far coded data was searched; 0 before a file begins
        self._segment = 0  # where the last segment began, whose length may be wrong
        self._coded = False
        self._between = 0  # bytes since the last file

    def feed(self, data: bytes) -> None:
        """Take over what came."""
        self._data += data

    def take(self) -> bytes | None:
        """The next file; None until more comes.

        Raises ValueError for a file that has too many bytes, and for too many without a file.
        """
        while True:
            if self._at == 0 and not self._begin():
                return None
            done = self._search_marker() if self._coded else self._next_segment()
            if done is None:
                if len(self._data) > _MOST_PICTURE:
                    raise ValueError(f"a picture of more than {_MOST_PICTURE >> 20} MB")
                return None
            if done:
                picture = bytes(self._data[: self._at])
                self._drop(self._at)
                self._between = 0
                return picture

    def _begin(self) -> bool:
        start = self._data.find(b"\xff\xd8\xff")
        left_out = start if start >= 0 else max(0, len(self._data) - 2)
        self._drop(left_out)
        self._between += left_out
        if self._between > _MOST_BETWEEN:
            raise ValueError(f"{_MOST_BETWEEN >> 20} MB without one")
        self._at = self._segment = 2 if start >= 0 else 0
        return start >= 0

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self._at, self._coded = 0, False

    def _next_segment(self) -> bool | None:
        """Pass a marker segment: True at the end of the file, None if more must come."""
        head = self._data[self._at : self._at + 4]
        if len(head) >= 2 and head[0] == 0xFF and head[1] == 0xD9:
            self._at += 2
            return True
        if len(head) < 4:
            return None
        if head[0] != 0xFF or head[1] == 0:  # no marker where one must be: damaged, or cut off in a segment
            self._drop(self._segment)
        elif head[1] == 0xFF:  # a fill byte
            self._at += 1
        elif head[1] == 0xD8:  # the last file has no end
            self._drop(self._at)
        elif head[1] == 0x01 or 0xD0 <= head[1] <= 0xD7:  # stand alone
            self._at += 2
        else:
            self._segment = self._at + 2
            self._at = self._segment + max(2, head[2] << 8 | head[3])
            self._coded = head[1] == 0xDA
        return False

    def _search_marker(self) -> bool | None:
        """The same for coded data, which ends at the next marker."""
        found = self._MARKER.search(self._data, self._at)
        if found is None:
            self._at = max(self._at, len(self._data) - 1)  # the last byte may be a marker's first
            return None
        self._at, self._coded = found.start(), False
        return False


class MjpegCapture:
    """Motion JPEG over HTTP."""

    def __init__(self, answer: _Answer, public: str, start: bytes = b"") -> None:
        """start: what was read of it already."""
        self._answer, self._public = answer, public
        self._cutter = JpegCutter()
        self._cutter.feed(start)
        self._picture = b""

    def grab(self) -> bool:
        """Wait for the next picture; False at the end. Raises SourceError with the reason if none comes."""
        self._answer.until = time.monotonic() + TIMEOUT_S
        try:
            while (picture := self._cutter.take()) is None:
                chunk = self._answer.read()
                if not chunk:
                    return False
                self._cutter.feed(chunk)
        except ValueError as error:
            raise SourceError(f"{self._public}: expected JPEG pictures, got {error}") from None
        self._picture = picture
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """The picture. One that is damaged is passed over; raises SourceError if they all are."""
        since = time.monotonic()
        while True:
            try:
                return True, decode_image(self._picture, self._public)
            except SourceError:
                if time.monotonic() - since >= _BROKEN_S:
                    raise
            if not self.grab():
                return False, None

    def get(self, prop: int) -> float:
        """Always 0: nothing is known of the stream before its first picture."""
        return 0.0

    def interrupt(self) -> None:
        """End a read that is under way, from another thread."""
        self._answer.interrupt()

    def release(self) -> None:
        """Close the connection."""
        self._answer.close()

    __del__ = release  # as cv2.VideoCapture does


def _open_mjpeg(url: str, live: bool) -> MjpegCapture | None:
    """The stream, if it is Motion JPEG; None for what FFmpeg may know."""
    public = public_name(url)
    failed = f"{public}: expected a stream that answers, got "
    # Cameras sign their certificates themselves; FFmpeg does not verify them either.
    answer = _Answer(url, TIMEOUT_S, verify=False, failed=failed)
    try:
        if answer.kind.startswith("multipart/"):
            return MjpegCapture(answer, public)
        start = answer.read()
        if answer.kind == "text/html" or start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise SourceError(
                f"{failed}a web page; give the address of the stream itself, as in the camera's manual"
            )
        if answer.kind.startswith("image/") and live:
            raise SourceError(
                f"{failed}a single image; give the address of the camera's stream, or read the image once "
                "with --source"
            )
        if start.startswith((b"\xff\xd8", b"--", b"\n--", b"\r\n--")):
            return MjpegCapture(answer, public, start)
        if not start:
            raise SourceError(f"{failed}an empty answer")
    except SourceError:
        answer.close()
        raise
    answer.close()
    return None


# ---- FFmpeg in a process of its own ------------------------------------------------------------------------

# What `Video` asks for
_PROPERTIES = (
    cv2.CAP_PROP_FPS,
    cv2.CAP_PROP_FRAME_WIDTH,
    cv2.CAP_PROP_FRAME_HEIGHT,
    cv2.CAP_PROP_FRAME_COUNT,
    cv2.CAP_PROP_FOURCC,
    cv2.CAP_PROP_SAR_NUM,
    cv2.CAP_PROP_SAR_DEN,
    cv2.CAP_PROP_ORIENTATION_META,
)


class FfmpegCapture:
    """A stream that FFmpeg reads in a child process; its frames come through shared memory.

    One line of JSON answers each request: after the URL the properties, after "n" whether there is a frame,
    and then, when it is converted, its shape. The child ends when this end of its standard input closes.
    """

    def __init__(self, url: str, live: bool) -> None:
        """Raises SourceError with the reason when it cannot be opened. See `open_stream`."""
        self._public = public_name(url)
        self._position = 0.0
        self._map: mmap.mmap | None = None
        self._memory = -1
        self._answers = b""  # read and not used yet
        # 1. The child, with memory for a frame, which it makes as large as it must be. The URL is not in its
        #    command line, which every user can see. What FFmpeg says goes into a pipe that nobody reads until
        #    it has failed; when that is full, more is lost.
        memory = os.memfd_create("frame") if sys.platform == "linux" else _unnamed_file()
        self._said, said = os.pipe()
        for end in (self._said, said):
            os.set_blocking(end, False)
        variables = {name: value for name, value in os.environ.items() if name != "OPENCV_FFMPEG_LOGLEVEL"}
        try:
            self._process = subprocess.Popen(
                command_of("edge_centernet.sources.network", str(memory)),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                pass_fds=(memory,),
                env={**variables, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for us, and we end the child
            )
        except OSError as error:
            for end in (memory, self._said):
                os.close(end)
            raise SourceError(
                f"{self._public}: cannot start a process to read it: {error.strerror}"
            ) from None
        finally:
            os.close(said)
        self._memory = memory
        # 2. Open the stream.
        request = json.dumps({"url": url, "live": live}).encode() + b"\n"
        try:
            self._properties = self._ask(request, _OPEN_S)
            if self._properties is None or not self._properties:
                raise SourceError(f"{self._public}: expected a stream that answers, got {self._reason(url)}")
        except SourceError:
            self.release()
            raise

    def grab(self) -> bool:
        """Wait for the next frame; False at the end, or if none comes in time."""
        answer = self._ask(b"n\n", TIMEOUT_S + 5.0)  # FFmpeg's own limit is the shorter
        if answer is None:
            self.interrupt()
            status = self._process.wait()
            if crash := crash_in_words(status if status != -signal.SIGKILL else 0):
                raise SourceError(f"{self._public}: FFmpeg {crash} on this stream")
        return bool(answer)

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """The frame that was grabbed."""
        answer = self._ask(b"", TIMEOUT_S)
        if not answer:
            return False, None
        shape, self._position = answer
        size = int(np.prod(shape))
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._memory, size)
        return True, np.frombuffer(self._map, np.uint8, size).reshape(shape).copy()

    def get(self, prop: int) -> float:
        """A property of the stream; 0 for one that is not known."""
        if prop == cv2.CAP_PROP_POS_MSEC:
            return self._position
        return float((self._properties or {}).get(str(prop), 0.0))

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def interrupt(self) -> None:
        """End a read that is under way, from another thread: kill the child."""
        self._process.kill()

    def release(self) -> None:
        """End the child and free the memory. May be called twice."""
        if self._memory < 0:
            return
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not sent cannot be
                if file is not None:
                    file.close()
        os.close(self._memory)
        os.close(self._said)
        self._memory, self._map = -1, None

    __del__ = release  # as cv2.VideoCapture does: who reads a video to its end need not close it

    def _ask(self, request: bytes, seconds: float) -> Any:
        """The answer to a request; None if the child has ended or gives none in time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        until = time.monotonic() + seconds
        try:
            stdin.write(request)
            while b"\n" not in self._answers:
                if not select.select([stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                    return None
                if not (more := stdout.read(_CHUNK)):
                    return None
                self._answers += more
        except (OSError, ValueError):  # the child was killed, the files are closed
            return None
        line, _, self._answers = self._answers.partition(b"\n")
        return json.loads(line)

    def _reason(self, url: str) -> str:
        """Why the stream cannot be opened, in our words: FFmpeg's may hold the URL."""
        said = b""
        with suppress(OSError):
            said = os.read(self._said, _CHUNK)
        text = said.decode("utf-8", "replace")
        if status := re.search(r"failed: ([45]\d\d)\b", text):
            return status_in_words(int(status[1]), urllib.parse.urlsplit(url).username is not None)
        for pattern, words in _FFMPEG_SAYS:
            if re.search(pattern, text):
                return words
        if self._process.poll() is None:
            return "something that cannot be opened" if self._properties is not None else "no answer in time"
        if crash := crash_in_words(self._process.returncode):
            return f"something on which FFmpeg {crash}"
        return "something that cannot be opened"


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def main() -> None:
    """The child process: read a stream by FFmpeg, as `FfmpegCapture` asks for it."""
    # 1. It ends with its parent, which tells it so: a service that stops signals all its processes.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    memory, out = int(sys.argv[1]), os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    _limit_memory(_CHILD_BYTES)

    def answer(value: object) -> None:
        os.write(out, json.dumps(value).encode() + b"\n")

    # 2. Open.
    request = json.loads(sys.stdin.buffer.readline())
    capture = cv2.VideoCapture(request["url"], cv2.CAP_FFMPEG, ffmpeg_settings(request["live"]))
    answer({prop: capture.get(prop) for prop in _PROPERTIES} if capture.isOpened() else {})
    # 3. Read.
    shared: mmap.mmap | None = None
    while sys.stdin.buffer.readline():
        grabbed = capture.grab()
        answer(grabbed)
        if not grabbed:
            continue
        ok, image = capture.retrieve()
        if not ok or image is None:
            answer(None)
            continue
        if shared is None or len(shared) < image.nbytes:
            os.ftruncate(memory, image.nbytes)
            shared = mmap.mmap(memory, image.nbytes)
        np.frombuffer(shared, np.uint8, image.nbytes).reshape(image.shape)[...] = image
        answer([image.shape, capture.get(cv2.CAP_PROP_POS_MSEC)])


def _limit_memory(more: int) -> None:
    """Let this process allocate so many bytes more than it has; shared memory does not count."""
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # no /proc
        with open("/proc/self/status", "rb") as file:
            has = int(re.search(rb"VmData:\s*(\d+) kB", file.read())[1]) << 10  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_DATA, (has + more, has + more))


if __name__ == "__main__":
    main()

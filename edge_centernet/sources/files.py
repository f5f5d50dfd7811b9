"""Images, videos and cameras as one iterator of frames."""

from __future__ import annotations

import glob
import importlib
import math
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES, MAX_PIXELS, decode_image, is_image, read_image
from edge_centernet.sources import Frame
from edge_centernet.system.logs import quiet_libraries, silence_opencv

if TYPE_CHECKING:
    from edge_centernet.sources.cameras import CameraOptions

TIMEOUT_S = 15  # for a server or a network camera to answer, and from one frame to the next
_DEFAULT_FPS = 25.0  # where a file or camera reports none; some report 0, NaN or the 90,000 ticks of MPEG
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt")

# What `public_name` lets through: hosts, words that cameras use in the paths of their streams, and numbers of
# channels.
_HOST = r"(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9_.-]+)(:[0-9]{1,5})?"
_STREAM_FIELD = r"(ch|channel|cam|camera|stream|subtype|profile)=[0-9]{1,3}"
_WORDS = frozenset((
    "action", "api", "asp", "av", "avi", "axis", "bin", "cam", "camera", "cgi", "ch", "channel",
    "channels", "cif", "default", "fcgi", "h", "hd", "hevc", "high", "hls", "http", "image", "images",
    "img", "index", "jpeg", "jpg", "live", "low", "main", "mainstream", "media", "mediainput", "medium",
    "mjpeg", "mjpg", "mkv", "mov", "mp", "mpeg", "mpg", "onvif", "php", "png", "preview", "profile", "sd",
    "sdp", "secondary", "snap", "snapshot", "still", "stream", "streaming", "streams", "sub", "substream",
    "track", "ts", "unicast", "video", "videoinput", "videomain", "videostream", "videosub", "webm",
    "webp",
))  # fmt: skip


class Stills:
    """Image files, one frame each. A bad file among several is skipped, counted and reported to `warn`.

    Iterating raises SourceError for a single bad file, or at the end when all of many were bad.
    """

    fps = None
    live = False

    def __init__(self, names: list[str], warn: Callable[[str], None]) -> None:
        """names: paths, or one http(s) URL."""
        self.names = names
        self.skipped = 0
        self._warn = warn

    def __iter__(self) -> Iterator[Frame]:
        """Read one file after the other, in the order of `names`."""
        for name in self.names:
            try:
                with quiet_libraries():
                    if is_url(name):
                        image = decode_image(_network().download(name), public_name(name))
                    else:
                        image = read_image(name)
            except SourceError as error:
                # One damaged file must not end a run over thousands; a single one is all there is to report.
                if len(self.names) == 1:
                    raise
                self.skipped += 1
                self._warn(f"skipped {error}")
                continue
            yield Frame(public_name(name), 0, image)
        if self.skipped == len(self.names):
            raise SourceError(f"none of the {self.skipped} files could be read as an image")

    @property
    def public_names(self) -> list[str]:
        """The names as the frames carry them: without a password."""
        return [public_name(name) for name in self.names]

    def close(self) -> None:
        """Nothing is open."""


class Video:
    """A video file, a stream or a camera, opened and checked: its first frame has been read.

    fps: frames per second, always positive.
    live: whether frames come in real time and without an end.
    """

    skipped = 0  # images are skipped, see `Stills`; a frame of a video never is

    def __init__(self, name: str, live: bool, capture: Any = None, hint: str = "") -> None:
        """Raises SourceError when nothing can be read.

        name: path or URL.
        live: whether frames come in real time and without an end.
        capture: opened already, like cv2.VideoCapture; else the name is opened.
        hint: what to try when it gives no image, "; ..." to end a message with.
        """
        self.name = public_name(name)
        self.live = live
        self._hint = hint
        if capture is None:
            capture = _network().open_stream(name, live) if is_url(name) else _open_ffmpeg(name, live)
        self._capture = capture
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float = rate if math.isfinite(rate) and 0 < rate <= 1000 else _DEFAULT_FPS
        try:
            # Before a frame is decoded: a damaged header must not claim all of the memory.
            width = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)
            height = self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            if width * height > MAX_PIXELS:
                size = f"{width:.0f}x{height:.0f}"
                raise SourceError(f"{self.name}: expected frames of at most {MAX_PIXELS} pixels, got {size}")
            # The first frame now, so that a source that cannot be read fails at its opening.
            self._first = self._read(0)
            if self._first is None:
                code = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
                cause = "is it damaged, or used by another program?"
                if code.to_bytes(4, "little").lower().startswith((b"av01", b"av1")):
                    cause = "its video is AV1, which this OpenCV cannot decode; use H.264 or H.265"
                raise SourceError(f"{self.name}: it opens, but gives no image; {cause}{hint}")
        except SourceError:
            self.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the file, or until a camera stops (SourceError)."""
        number, frame, self._first = 0, self._first, None
        begin = frame.captured if frame is not None else 0.0
        while frame is not None:
            seconds = frame.captured - begin if self.live else number / self.fps
            yield replace(frame, seconds=seconds)
            number += 1
            frame = self._read(number)
        if self.live:
            raise SourceError(f"{self.name}: stopped after {number} frames; is it unplugged or switched off?")

    def interrupt(self) -> None:
        """End a read that is under way, from another thread. Only a stream from the network can do that."""
        if (interrupt := getattr(self._capture, "interrupt", None)) is not None:
            interrupt()

    def close(self) -> None:
        """Release the camera or file."""
        self._capture.release()

    def _read(self, number: int) -> Frame | None:
        try:
            if not self._capture.grab():
                return None
            captured = time.monotonic()  # before the conversion to BGR: the image is that old already
            ok, image = self._capture.retrieve()
        except cv2.error:
            return None
        if not ok or image is None:
            return None
        return Frame(self.name, number, to_bgr(image, self.name, self._hint), captured=captured)


Source = Stills | Video


def open_source(text: str, warn: Callable[[str], None] | None = None) -> Source:
    """The frames of an image file, a folder of images, a glob pattern, a video file or a URL.

    A folder is not searched below its first level; use "folder/**/*.jpg" for that.
    warn: called with one line for each file that is skipped; stderr unless given.
    Raises SourceError when there is nothing to read.
    """
    if not text.strip():
        raise SourceError("source: expected an image, folder, pattern, video or URL, got an empty name")
    warn = warn or (lambda line: print(f"Warning: {line}", file=sys.stderr))
    # 1. URLs.
    if text.startswith("file://"):
        # Here, because it loads TLS and mail parsers, and not every start of detect should pay for them.
        from urllib.request import url2pathname

        text = url2pathname(urllib.parse.urlsplit(text).path)
    if is_url(text):
        _network().check_url(text)
        # Whether a URL is an image must be known before it is opened: FFmpeg would open it as a video of one
        # frame. The suffix decides, as asking the server would start the download twice.
        parts = urllib.parse.urlsplit(text)
        if parts.scheme.lower() in ("http", "https") and parts.path.lower().endswith(IMAGE_SUFFIXES):
            return Stills([text], warn)
        return Video(text, live=is_live(text))
    _refuse_mistyped(text)
    # 2. Folders and patterns. A file whose name looks like a pattern, such as "a[1].jpg", is taken as itself.
    path = Path(text)
    if path.is_dir():
        names = sorted(
            str(p) for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()
        )
        if not names:
            raise SourceError(
                f"{path}: expected images ({', '.join(IMAGE_SUFFIXES)}) in this folder, found none"
            )
        return Stills(names, warn)
    if not path.exists() and glob.has_magic(text):
        names = sorted(name for name in glob.glob(text, recursive=True) if not Path(name).is_dir())
        if not names:
            raise SourceError(f"{text}: no file matches this pattern")
        return open_source(names[0], warn) if len(names) == 1 else Stills(names, warn)
    # 3. One file: an image by its suffix or its first bytes, else a video. One that is missing or cannot be
    #    opened counts as an image, because reading it as one reports why.
    video = False
    if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        with suppress(OSError), path.open("rb") as file:
            video = not is_image(file.read(16))
    return Video(text, live=False) if video else Stills([text], warn)


def open_camera(
    text: str, options: CameraOptions | None = None, warn: Callable[[str], None] | None = None
) -> Video:
    """A camera by number ("0"), path ("/dev/video0"), URL (rtsp://, http://), "csi" or GStreamer pipeline.

    "csi" or "csi:1" is the camera on the ribbon cable of a Raspberry Pi or Jetson; "gst:" and a pipeline need
    an OpenCV with GStreamer.
    options: for cameras at this computer, which None leaves as they are.
    warn: called with one line if the camera gives something else than was requested; stderr unless given.
    Raises SourceError when the camera is not there or gives no image, ConfigError for options that it
    cannot take.
    """
    # Here: who reads files only need not load what cameras need.
    from edge_centernet.sources import cameras

    options = options or cameras.CameraOptions()
    warn = warn or (lambda line: print(f"Warning: {line}", file=sys.stderr))
    silence_opencv()
    if match := re.fullmatch(r"csi(?::(\d+))?", text):
        _refuse(text, options, ["fourcc"])
        return Video(text, live=True, capture=cameras.open_csi(int(match[1] or 0), text, options))
    if text.startswith("gst:"):
        _refuse("a GStreamer pipeline", options, options.given)
        return Video(text, live=True, capture=cameras.open_gstreamer(text[4:], public_name(text)))
    if text.isdecimal() or text.startswith("/dev/"):
        if text.startswith("/dev/") and not Path(text).exists():
            raise SourceError(f"{text}: no such camera{cameras.list_cameras()}")
        name = f"camera {text}" if text.isdecimal() else text
        capture = cameras.open_v4l2(int(text) if text.isdecimal() else text, name, options, warn)
        return Video(name, live=True, capture=capture, hint=cameras.csi_hint())
    if not is_url(text):
        _refuse_mistyped(text)
        if not Path(text).exists():
            raise SourceError(f"{public_name(text)}: no such camera{cameras.list_cameras()}")
    _refuse(public_name(text), options, options.given)
    return Video(text, live=True)


def is_live(source: str) -> bool:
    """Whether a --source is a stream that never ends: by its scheme, such as rtsp://."""
    return is_url(source) and source.partition(":")[0].lower() in LIVE_SCHEMES


def public_name(name: str) -> str:
    """What may be printed, logged and published of a source: no user name, password, token or stream key.

    Of a URL: scheme, host, port, and of its path and query the words that cameras use for their streams. Of
    a GStreamer pipeline: the elements, and where they read from. All else becomes "…": a list of what to hide
    would never be complete, as cameras take passwords under any name and in any place. Numbers of cameras and
    paths of files are returned as they are.
    """
    if name.startswith("gst:") or " ! " in name:
        return _public_pipeline(name)
    return _public_url(name) if "://" in name or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:.*@", name) else name


def _public_url(url: str) -> str:
    scheme, _, rest = url.partition(":")
    place, has_query, query = rest.lstrip("/").partition("?")
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    if not re.fullmatch(r"[a-z0-9+.-]+", scheme, re.IGNORECASE):
        return "…"
    # An "@" behind the first "/" or "?" may end a password that should have been escaped: then what looks
    # like the host is a part of it.
    if "@" in path + query or not re.fullmatch(_HOST, host):
        return f"{scheme}://…"
    parts = [part if _is_harmless(part) else "…" for part in path.partition("#")[0].split("/")]
    fields = [field if re.fullmatch(_STREAM_FIELD, field, re.I) else "…" for field in query.split("&")]
    return f"{scheme}://{host}{slash}{'/'.join(parts)}{has_query}{'&'.join(fields) if query else ''}"


def _is_harmless(part: str) -> bool:
    """Whether a part of a path holds only words that name streams and short numbers: "Channels", "h264"."""
    words, numbers = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part), re.findall(r"[0-9]+", part)
    return (
        re.fullmatch(r"[a-zA-Z0-9_.-]*", part) is not None
        and _WORDS.issuperset(word.lower() for word in words)
        and all(len(number) <= 3 for number in numbers)
        and len(numbers) <= 2
    )


def _public_pipeline(text: str) -> str:
    shown = []
    # Not at a "!" in quotes: it may be in a password.
    for element in re.findall(r"""(?:"[^"]*"|'[^']*'|[^!"'])+""", text.removeprefix("gst:")):
        words = element.split()
        name = words[0].partition(",")[0] if words else ""
        shown.append(name if re.fullmatch(r"[a-z][a-z0-9_/-]*", name) and "=" not in name else "…")
        if place := re.search(r"""\b(location|uri|device)\s*=\s*["']?([^\s"']+)""", element):
            shown[-1] += f" {place[1]}={public_name(place[2])}"
    return ("gst:" if text.startswith("gst:") else "") + " ! ".join(shown)


def to_bgr(image: NDArray[Any], name: str, hint: str = "") -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8 -> (H, W, 3) uint8 BGR. Raises SourceError for any other shape or type.

    V4L2 hands over undecoded buffers, of shape (1, N) or (H, W, 2), when OpenCV does not know the camera's
    format.
    """
    if image.dtype == np.uint8 and image.ndim == 2 and image.shape[0] > 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise SourceError(
            f"{name}: expected images of (H, W, 3) bytes, got {image.shape} of {image.dtype}: OpenCV does "
            f"not know this pixel format; request another from the camera, MJPG or YUYV{hint}"
        )
    return image


def ffmpeg_settings(live: bool) -> list[int]:
    """How FFmpeg is to read a stream or file, as cv2.VideoCapture takes it."""
    # Without these an unreachable server holds the program for minutes.
    limit = 1000 * TIMEOUT_S
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    threads = getattr(cv2, "CAP_PROP_N_THREADS", None)  # Debian 12's OpenCV 4.6 has none
    if live and threads is not None and "OPENCV_FFMPEG_THREADS" not in os.environ:
        settings += [threads, 1]  # each further thread of the H.264 decoder holds back one more frame
    return settings


def _open_ffmpeg(path: str, live: bool) -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when FFmpeg is first used
    silence_opencv()
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, ffmpeg_settings(live))
    if not capture.isOpened():
        raise SourceError(f"{path}: expected an image or a video, got something that cannot be opened")
    return capture


def _network() -> Any:
    # When it is needed: it loads TLS and mail parsers, and not every start of detect should pay for them.
    return importlib.import_module("edge_centernet.sources.network")


def _refuse(what: str, options: CameraOptions, names: list[str]) -> None:
    """Options that would have no effect are an error, not a silence."""
    if wrong := [name for name in names if name in options.given]:
        raise ConfigError(
            f"{what}: expected no camera {', '.join(wrong)}: set it in the camera or the stream itself"
        )


def _refuse_mistyped(text: str) -> None:
    """Raise SourceError for a URL with one slash: that a file is missing would be said with its password."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/?[^/].*@", text) and not Path(text).exists():
        raise SourceError(
            f"{public_name(text)}: expected a URL such as rtsp://host/path, got no // behind its :"
        )


def is_url(text: str) -> bool:
    """Whether it begins as a URL does: with scheme://."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None

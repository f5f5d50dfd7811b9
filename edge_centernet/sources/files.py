"""Images, videos and cameras as one iterator of frames."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError, SourceError, printable
from edge_centernet.imageio import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    decode_image,
    read_image,
)
from edge_centernet.sources import Frame
from edge_centernet.sources.listing import files_matching, format_of, images_of
from edge_centernet.system.logs import quiet_libraries, silence_opencv

if TYPE_CHECKING:
    from edge_centernet.sources.cameras import CameraOptions

TIMEOUT_S = 15  # for a server or a network camera to answer, and from one frame to the next
# Grabs in a row that may fail before a file is taken to have ended. FFmpeg's reader fails for each damaged
# packet, and after some thousands of sound; at the end of a file a failure takes microseconds.
_MOST_FAILURES = 1000
_MAX_ASPECT = 4.0  # of a pixel; beyond it the header is nonsense
_HEAD_BYTES = 1 << 16  # of a file, in which its list of streams is looked for
_MAX_INDEX = 1 << 26  # bytes of an MP4's index; a day of video takes some tens of megabytes
_JUMP_S = 1.0  # a time that is so much earlier than the last one begins another recording
_DEFAULT_FPS = 25.0  # where a file or camera reports none; some report 0, NaN or the 90,000 ticks of MPEG
# What may be in a video file, by FFmpeg's names. It takes nearly everything for a video: it draws texts as a
# terminal would, and shows the preview of a camera's raw image.
_CONTAINERS = (
    "3g2,3gp,amv,asf,av1,avi,dv,flv,gif,h261,h263,h264,hevc,hls,ivf,m4v,matroska,mjpeg,mov,mp4,"
    "mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,obu,ogg,rm,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
_MOVING = (".gif", ".mjpeg", ".mjpg")  # alone a video, although its first bytes are those of an image
_CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
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
    fps: images per second; None unless they are a sequence (`as_sequence`).
    """

    live = False

    def __init__(self, names: list[str], warn: Callable[[str], None]) -> None:
        """names: paths, or one http(s) URL."""
        self.names = names
        self.fps: float | None = None
        self.skipped = 0
        self._warn = warn

    def as_sequence(self, fps: float) -> None:
        """Take the images as consecutive, so many per second, in the order of the numbers in their names."""
        self.fps = fps
        # 2.png before 10.png. By texts and numbers in turn, so that two names compare like with like.
        self.names = sorted(
            self.names,
            key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"([0-9]+)", name))],
        )

    def __iter__(self) -> Iterator[Frame]:
        """Read one file after the other, in the order of `names`."""
        for number, name in enumerate(self.names):
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
            yield Frame(public_name(name), 0, image, number / self.fps if self.fps else 0.0)
        if self.skipped == len(self.names):
            raise SourceError(f"none of the {self.skipped} files could be read as an image")

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def public_names(self) -> list[str]:
        """The names as the frames carry them, see `public_name`; in the order of `names`."""
        return [public_name(name) for name in self.names]

    def close(self) -> None:
        """Nothing is open."""


class Video:
    """A video file, a stream or a camera, opened and checked: its first frame has been read.

    fps: frames per second, always positive.
    live: whether frames come in real time and without an end.
    """

    skipped = 0  # images are skipped, see `Stills`; a frame of a video never is

    def __init__(
        self,
        name: str,
        live: bool,
        capture: Any = None,
        hint: str = "",
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Open it and read the first frame.

        Args:
            name: path or URL.
            live: whether frames come in real time and without an end.
            capture: opened already, like cv2.VideoCapture; else the name is opened.
            hint: what to try when it gives no image, "; ..." to end a message with.
            warn: gets one line if a file ends before it should, or holds more than is read.

        Raises SourceError when nothing can be read.
        """
        self.name = public_name(name)
        self.live = live
        self._hint, self._warn = hint, warn or _to_stderr
        if capture is None:
            capture = _network().open_stream(name, live) if is_url(name) else _open_ffmpeg(name, live)
        self._capture = capture
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float = rate if math.isfinite(rate) and 0 < rate <= 1000 else _DEFAULT_FPS
        self._promised = 0.0 if live else self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._shift, self._step, self._behind = 0.0, 1.0 / self.fps, math.inf  # seconds, see `_seconds`
        self._failed = 0  # grabs between frames that could be read
        self._regular = 0  # frames that came as long after the one before as the rate says
        self._container = _Container() if live or is_url(name) else _look_into(name)
        # Wider or higher pixels than the square ones of a screen are drawn out, never squeezed.
        aspect = self._capture.get(cv2.CAP_PROP_SAR_NUM) / (self._capture.get(cv2.CAP_PROP_SAR_DEN) or 1.0)
        if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:  # most often 0, for unknown
            aspect = 1.0
        if self._capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90:  # OpenCV has turned the image
            aspect = 1.0 / aspect
        self._stretch = max(aspect, 1.0), max(1.0 / aspect, 1.0)
        try:
            # Before a frame is decoded: a damaged header must not claim all of the memory.
            width = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)
            height = self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            if width * height * math.prod(self._stretch) > MAX_PIXELS:
                size = f"{width:.0f}x{height:.0f}"
                raise SourceError(f"{self.name}: expected frames of at most {MAX_PIXELS} pixels, got {size}")
            # The first frame now, so that a source that cannot be read fails at its opening.
            self._first = self._read(0)
            if self._first is None:
                raise SourceError(f"{self.name}: it opens, but gives no image; {self._no_image()}{hint}")
            if self._container.streams > 1:
                self._warn(
                    f"{self.name}: it holds {self._container.streams} videos, and only the first is read; "
                    "`ffmpeg -i IN -map 0:v:1 -c copy OUT` takes the second out"
                )
        except SourceError:
            self.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the file, or until a camera stops (SourceError)."""
        number, frame, self._first = 0, self._first, None
        begin = frame.captured if frame is not None else 0.0
        last = 0.0
        while frame is not None:
            yield replace(frame, seconds=frame.captured - begin) if self.live else frame
            number, last = number + 1, frame.seconds
            frame = self._read(number, last)
        if self.live:
            raise SourceError(f"{self.name}: stopped after {number} frames; is it unplugged or switched off?")
        if self._is_incomplete(number, last):
            promised = f", but the file promises {self._promised:.0f}" if self._promised > number else ""
            self._warn(
                f"{self.name}: read {number} frames{promised}: it is damaged or cut off; copy it again from "
                "where it came"
            )

    @property
    def count(self) -> int:
        """How many frames the file says it has; 0 if that is unknown."""
        return max(0, round(self._promised)) if math.isfinite(self._promised) else 0

    def interrupt(self) -> None:
        """End a read that is under way, from another thread. Only a stream from the network can do that."""
        if (interrupt := getattr(self._capture, "interrupt", None)) is not None:
            interrupt()

    def close(self) -> None:
        """Release the camera or file."""
        self._capture.release()

    def _is_incomplete(self, number: int, last: float) -> bool:
        """Whether the file had more than `number` frames when it was whole. last: seconds of the last one."""
        container = self._container
        if number >= self._promised or container.counted or container.cut or self._failed:
            return bool(container.cut) or number < self._promised
        # Where the header does not count the frames, OpenCV takes the length times the rate. That is too many
        # in a file of variable rate, or whose sound is longer.
        length = self._promised / self.fps
        short = container.cut is None and length - last > max(1.0, 0.1 * length) + self._step
        holes = last * self.fps + 1.0 - number
        return short or (self._regular > 0.8 * number and holes > max(1.5, 0.01 * number))

    def _read(self, number: int, last: float = 0.0) -> Frame | None:
        """The next frame that can be read; None at the end. last: seconds of the one before."""
        until = time.monotonic() + TIMEOUT_S
        failures = 0
        while True:
            with suppress(cv2.error):
                if self._capture.grab():
                    captured = time.monotonic()  # before the conversion to BGR: the image is that old already
                    ok, image = self._capture.retrieve()
                    if ok and image is not None:
                        break
            failures += 1
            ended = number >= self._promised > 0 or failures >= _MOST_FAILURES or time.monotonic() > until
            if self.live or ended:
                return None
        self._failed += failures
        image = to_bgr(image, self.name, self._hint)
        if self._stretch != (1.0, 1.0):
            size = [round(side * by) for side, by in zip(image.shape[1::-1], self._stretch, strict=True)]
            image = cv2.resize(image, size).astype(np.uint8, copy=False)
        return Frame(self.name, number, image, 0.0 if self.live else self._seconds(number, last), captured)

    def _seconds(self, number: int, last: float) -> float:
        """The container's time of the frame that was just read, 0 for the first, then always above `last`."""
        now = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
        if number == 0:
            # OpenCV takes the time of decoding for one of 0, which is below 0 where frames are reordered.
            self._shift = -now if now > 0.0 else 0.0
            return 0.0
        now += self._shift
        if now > last:
            self._regular += abs((now - last) * self.fps - 1.0) < 0.2
            self._step, self._behind = min(now - last, 1.0 / self.fps), math.inf
            return now
        # The file has no times, or two alike, or a damaged one; or it begins anew, as where recordings were
        # joined: then times go on from there.
        seconds = last + self._step
        if now > self._behind and last - now > _JUMP_S:
            self._shift += seconds - now
            now = math.inf
        self._behind = now
        return seconds

    def _no_image(self) -> str:
        """Why an opened source gives none, as far as its codec tells."""
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        codec = code.to_bytes(4, "little").decode("latin-1").strip()
        if codec.lower() in ("av01", "av1"):
            return (
                "its codec is AV1, which OpenCV's packages cannot decode; convert it to H.264, "
                "`ffmpeg -i IN -c:v libx264 OUT.mp4`, or set the camera to H.264"
            )
        return "is it damaged, or used by another program?"


@dataclass(frozen=True)
class _Container:
    """What a video file's header says.

    counted: it says how many frames there are, and not only how long they take. cut: the file is shorter than
    it says; None if it does not say. streams: how many videos it holds, 0 for an MP4 without its index.
    """

    counted: bool = False
    cut: bool | None = None
    streams: int = 1


def _look_into(path: str) -> _Container:
    """For what OpenCV does not tell of MP4, AVI and Matroska."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                index, cut = _mp4_index(file)
                videos = re.findall(rb"hdlr.{8}vide", index, re.DOTALL)
                # With fragments ("mvex") the count is not in the header.
                return _Container(b"mvex" not in index, cut, len(videos))
            size = file.seek(0, os.SEEK_END)
    except OSError:
        return _Container()
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        videos = re.findall(rb"strh.{4}vids", head.partition(b"movi")[0], re.DOTALL)
        length = int.from_bytes(head[4:8], "little")
        # Its count holds repeated frames as well, which are empty.
        return _Container(cut=8 + length > size if length else None, streams=len(videos))
    if head[:4] == b"\x1a\x45\xdf\xa3":  # Matroska and WebM: EBML
        _, begin, length = _ebml_element(head, b"\x18\x53\x80\x67")
        tracks, _, _ = _ebml_element(head, b"\x16\x54\xae\x6b")
        # The length is unknown of what is still being recorded, or was streamed.
        shorter = begin + length > size if length else None
        return _Container(cut=shorter, streams=tracks.count(b"\x83\x81\x01"))
    return _Container()


def _mp4_index(file: BinaryIO) -> tuple[bytes, bool]:
    """(content of the box "moov", which is at the beginning or the end; whether the last box is cut off)."""
    end, at, index = file.seek(0, os.SEEK_END), file.seek(0), b""
    while len(header := file.read(16)) >= 8:
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8:  # 0: up to the end of the file
            break
        if header[4:8] == b"moov":
            file.seek(at + 8)
            index = file.read(min(size, _MAX_INDEX))
        at = file.seek(at + size)
    return index, at > end


def _ebml_element(data: bytes, identity: bytes) -> tuple[bytes, int, int]:
    """(content as far as it is in `data`, where it begins, its length or 0 if unknown) of the first one."""
    at = data.find(identity) + len(identity)
    first = data[at] if len(identity) <= at < len(data) else 0
    width = 9 - first.bit_length()  # the first 1 bit tells how many bytes the number has
    length = int.from_bytes(data[at : at + width], "big") - (1 << 7 * width)
    if first == 0 or length == (1 << 7 * width) - 1:
        length = 0
    return data[at + width : at + width + length], at + width, length


def _to_stderr(line: str) -> None:
    print(printable(f"Warning: {line}"), file=sys.stderr)


Source = Stills | Video


def open_source(text: str, warn: Callable[[str], None] | None = None, recursive: bool = False) -> Source:
    """The frames of an image file, a folder of images, a glob pattern, a video file or a URL.

    warn: called with one line for each file that is skipped; stderr unless given.
    recursive: search a folder at all depths.
    Raises SourceError when there is nothing to read.
    """
    if not text.strip():
        raise SourceError("source: expected an image, folder, pattern, video or URL, got an empty name")
    warn = warn or _to_stderr
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
        return Video(text, live=is_live(text), warn=warn)
    _refuse_mistyped(text)
    # 2. Folders and patterns. A file whose name looks like a pattern, such as "a[1].jpg", is taken as itself.
    path = Path(text)
    if path.is_dir():
        return Stills(images_of([text], recursive, warn), warn)
    if (names := files_matching(text)) != [text]:
        return (
            open_source(names[0], warn) if len(names) == 1 else Stills(images_of([text], False, warn), warn)
        )
    # 3. One file: an image by its suffix or its first bytes, else a video. One that cannot be opened counts
    #    as an image, because reading it as one reports why.
    if not path.exists():
        raise SourceError(f"{text}: no such file; expected an image, a video or a folder of images")
    suffix = path.suffix.lower()
    if suffix in _MOVING or (path.is_file() and suffix not in IMAGE_SUFFIXES and not format_of(path)):
        return Video(text, live=False, warn=warn)
    return Stills([text], warn)


def open_stills(
    texts: Sequence[str], warn: Callable[[str], None] | None = None, recursive: bool = False
) -> Stills:
    """The images of several files, folders and patterns, as one list.

    warn, recursive: see `open_source`.
    Raises SourceError when there is nothing to read, and for a URL among them.
    """
    warn = warn or _to_stderr
    for text in texts:
        if not text.strip() or is_url(text):
            got = f"the URL {public_name(text)}" if text.strip() else "an empty name"
            raise SourceError(f"sources: expected files and folders where there are several, got {got}")
        _refuse_mistyped(text)
        if files_matching(text) == [text] and not Path(text).exists():
            raise SourceError(f"{text}: no such file; expected an image or a folder of images")
    return Stills(images_of(texts, recursive, warn), warn)


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
    warn = warn or _to_stderr
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


def is_camera(text: str) -> bool:
    """Whether a source, given without more words, is a camera: a number, a device, csi, gst: or rtsp://.

    A file of that name is that file.
    """
    if text.startswith("/dev/") or is_live(text):
        return True
    return re.fullmatch(r"\d+|csi(:\d+)?|gst:.*", text, re.DOTALL) is not None and not Path(text).exists()


def is_live(source: str) -> bool:
    """Whether a --source is a stream that never ends: by its scheme, such as rtsp://."""
    return is_url(source) and source.partition(":")[0].lower() in LIVE_SCHEMES


def public_name(name: str) -> str:
    """What may be printed, logged and published of a source: no user name, password, token or stream key.

    Of a URL: scheme, host, port, and of its path and query the words that cameras use for their streams. Of
    a GStreamer pipeline: the elements, and where they read from. All else becomes "…": a list of what to hide
    would never be complete, as cameras take passwords under any name and in any place. Numbers of cameras and
    paths of files are returned as they are, but for bytes that are not UTF-8, which no record could hold:
    a backslash and their number stand for them.
    """
    if name.startswith("gst:") or " ! " in name:
        return _public_pipeline(name)
    if "://" in name or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:.*@", name):
        return _public_url(name)
    return name.encode("utf-8", "backslashreplace").decode()


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
    with _video_containers_only():
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, ffmpeg_settings(live))
    if not capture.isOpened():
        got = "something that cannot be opened"
        if _look_into(path).streams == 0:
            got = "a recording that was cut off: its index, which comes last, is missing"
        raise SourceError(f"{path}: expected an image or a video, got {got}")
    return capture


@contextmanager
def _video_containers_only() -> Iterator[None]:
    """Let FFmpeg open nothing else than a file of _CONTAINERS."""
    given = os.environ.get(_CAPTURE_OPTIONS)
    os.environ[_CAPTURE_OPTIONS] = "|".join(filter(None, [f"format_whitelist;{_CONTAINERS}", given]))
    try:
        yield
    finally:
        del os.environ[_CAPTURE_OPTIONS]
        if given is not None:
            os.environ[_CAPTURE_OPTIONS] = given


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

"""Short videos around events: frames of the last seconds in memory, and an encoder beside detection.

A ring keeps the newest frames as JPEG files. An event takes what is in it, and what follows for as long;
further events meanwhile make the clip longer. It is encoded by the program ffmpeg where that is installed, in
a process of its own with low priority, for browsers (H.264, else VP9). Otherwise OpenCV writes Motion
JPEG, larger and for players only.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge_centernet.errors import ConfigError
from edge_centernet.system.child import run_child
from edge_centernet.system.logs import quiet_libraries
from edge_centernet.system.single_slot import Worker

if TYPE_CHECKING:
    from edge_centernet.outputs.event_media import MediaFolder

CLIP_FPS = 10  # frames a second, at most
LONGEST_S = 30.0  # before or after an event
_CLIP_S = 90.0  # a clip that events keep making longer ends here, and the next event begins another
_RING_BYTES = 24 << 20  # and as many in a clip: some 600 frames of 640 pixels
_ENCODE_S = 180.0  # an encoder that takes longer hangs
_LAST_S = 5.0  # for the last clip, when the service is stopped
_INTERRUPTED = 255  # ffmpeg's exit status after a signal that asks it to end
# What ffmpeg may have been built with, the most widely played first, with settings for a slow processor.
_CODECS = (
    ("libx264", ".mp4", ("-preset", "veryfast", "-crf", "26", "-movflags", "+faststart")),
    ("libopenh264", ".mp4", ("-b:v", "800k", "-movflags", "+faststart")),
    ("libvpx-vp9", ".webm", ("-deadline", "realtime", "-cpu-used", "8", "-crf", "36", "-b:v", "0")),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder:
    """How clips are made.

    encode: writes JPEG files, CLIP_FPS a second, to a path, and gives up after that event is set; raises
      OSError.
    """

    suffix: str
    encode: Callable[[Sequence[bytes], Path, threading.Event], None]


def find_encoder(program: str = "ffmpeg") -> Encoder:
    """The best that this machine has, told in one line of the log."""
    if (ffmpeg := shutil.which(program)) is not None:
        known = run_child([ffmpeg, "-hide_banner", "-encoders"], 20.0).output.split()
        for codec, suffix, options in _CODECS:
            if codec in known:
                _log.info("clips are encoded by %s with %s", ffmpeg, codec)
                command = [ffmpeg, "-v", "error", "-nostdin", "-y", "-f", "image2pipe", "-c:v", "mjpeg"]
                command += [
                    "-framerate",
                    str(CLIP_FPS),
                    "-i",
                    "pipe:0",
                    "-an",
                    "-threads",
                    "1",
                    "-c:v",
                    codec,
                ]
                # Both want an even number of pixels, and players want 4:2:0.
                command += [*options, "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p"]
                if (nice := shutil.which("nice")) is not None:
                    command = [nice, "-n", "10", *command]
                return Encoder(suffix, functools.partial(_by_ffmpeg, command))
    _log.warning(
        "clips are written as Motion JPEG, which browsers do not play: no %s with H.264 or VP9 is installed",
        program,
    )
    return Encoder(".avi", _by_opencv)


def _by_ffmpeg(command: list[str], frames: Sequence[bytes], path: Path, stop: threading.Event) -> None:
    status, why = _run_ffmpeg([*command, f"file:{path}"], frames, stop)
    if status == _INTERRUPTED and not stop.is_set():
        # systemd ends all processes of a service at the same time. This one has some seconds left: once more.
        status, why = _run_ffmpeg([*command, f"file:{path}"], frames, stop)
    if status:
        raise OSError(errno.EIO, f"ffmpeg: {why}")


def _run_ffmpeg(command: list[str], frames: Sequence[bytes], stop: threading.Event) -> tuple[int, str]:
    """Its exit status, and why that is not 0."""
    until = time.monotonic() + _ENCODE_S
    # By files in memory: `communicate` does not go on with what it has to feed after a timeout.
    with (
        os.fdopen(os.memfd_create("frames"), "wb+") as given,
        os.fdopen(os.memfd_create("errors"), "wb+") as said,
    ):
        given.writelines(frames)
        given.seek(0)
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        ) as process:
            while process.poll() is None:
                if stop.wait(0.1) or time.monotonic() >= until:
                    process.kill()
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    if process.returncode == -signal.SIGKILL:
        return process.returncode, "it takes too long"
    return process.returncode, lines[-1] if lines else f"exit status {process.returncode}"


def _by_opencv(frames: Sequence[bytes], path: Path, stop: threading.Event) -> None:
    writer = None
    for data in frames:
        if stop.is_set():
            break
        image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        if writer is None:
            size = image.shape[1], image.shape[0]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), CLIP_FPS, size)
            if not writer.isOpened():
                raise OSError(errno.EIO, "OpenCV cannot write Motion JPEG there")
        writer.write(image if image.shape[1::-1] == size else cv2.resize(image, size))
    if writer is not None:
        writer.release()
    if stop.is_set():
        raise OSError(errno.EINTR, "the clip was not ready at the end")
    # The writer reports no error: on a full disk it stops in the middle.
    with quiet_libraries():
        written = cv2.VideoCapture(str(path))
        complete = written.isOpened() and written.get(cv2.CAP_PROP_FRAME_COUNT) >= len(frames)
        written.release()
    if not complete:
        raise OSError(errno.EIO, "the clip could not be completed")


@dataclass
class _Clip:
    """One that is being collected. frames: (seconds, JPEG). ends: seconds of the source."""

    name: str
    now_ms: int
    ends: float
    frames: list[tuple[float, bytes]] = field(default_factory=list)
    bytes: int = 0


class Clips:
    """Collects frames on the caller's thread, and encodes on another."""

    def __init__(self, folder: MediaFolder, seconds: float, encoder: Encoder, live: bool) -> None:
        """Nothing collected yet.

        Args:
            folder: where the clips go.
            seconds: of video before and after an event, above 0 and at most LONGEST_S.
            encoder: writes them.
            live: a clip is left out where one is being encoded and another one waits; otherwise `add` waits.

        Raises ConfigError for other seconds.
        """
        if not 0 < seconds <= LONGEST_S:
            raise ConfigError(
                f"clips: expected at most {LONGEST_S:g} seconds before and after, got {seconds:g}"
            )
        self._folder, self._seconds, self._encoder, self._live = folder, seconds, encoder, live
        self._ring: deque[tuple[float, bytes]] = deque()
        self._ring_bytes = 0
        self._clip: _Clip | None = None
        self._handed_on = self._encoded = 0
        self._left_out = 0
        self._stop = threading.Event()
        self._worker = Worker("clips", self._encode, newest=False)

    def add(self, jpeg: bytes, seconds: float, names: Sequence[str], now_ms: int) -> None:
        """Take the next frame.

        Args:
            jpeg: the frame.
            seconds: the source's time; if it goes back, the source began anew.
            names: of the events in this frame, without suffix.
            now_ms: milliseconds since 1970.
        """
        if self._ring and seconds < self._ring[-1][0]:
            self.finish()
        if self._clip is not None and (
            seconds > self._clip.ends
            or self._clip.bytes >= _RING_BYTES
            or seconds - self._clip.frames[0][0] >= _CLIP_S
        ):
            self._hand_on()
        self._ring.append((seconds, jpeg))
        self._ring_bytes += len(jpeg)
        while seconds - self._ring[0][0] > self._seconds or self._ring_bytes > _RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft()[1])
        if self._clip is not None:
            self._clip.frames.append((seconds, jpeg))
            self._clip.bytes += len(jpeg)
        elif names:
            self._clip = _Clip(names[0], now_ms, seconds, list(self._ring), self._ring_bytes)
        if names and self._clip is not None:
            self._clip.ends = seconds + self._seconds

    def finish(self) -> None:
        """Nothing follows on the frames so far."""
        if self._clip is not None:
            self._hand_on()
        self._ring.clear()
        self._ring_bytes = 0

    def close(self) -> None:
        """Encode what there is, of a live source in a few seconds: a service must end soon."""
        self.finish()
        timer = threading.Timer(_LAST_S, self._stop.set)
        if self._live:
            timer.start()
        self._worker.close()
        timer.cancel()
        if self._left_out:
            _log.warning(
                "%s: %d clips are missing: encoding took too long", self._folder.path, self._left_out
            )

    def _hand_on(self) -> None:
        clip, self._clip = self._clip, None
        if clip is None:
            return
        if self._live and self._handed_on - self._encoded >= 2:
            if not self._left_out:
                _log.warning(
                    "%s: encoding takes too long for so many events; some clips are left out",
                    self._folder.path,
                )
            self._left_out += 1
            return
        self._handed_on += 1
        self._worker.add(clip)

    def _encode(self, clip: _Clip) -> None:
        frames = list(steady(clip.frames))
        self._folder.write(
            f"{clip.name}{self._encoder.suffix}",
            lambda part: self._encoder.encode(frames, part, self._stop),
            clip.now_ms,
        )
        self._encoded += 1


def steady(frames: Sequence[tuple[float, bytes]]) -> Iterator[bytes]:
    """The frames at CLIP_FPS: each stays until the next one came."""
    begin, end = frames[0][0], frames[-1][0]
    number = 0
    for tick in range(round((end - begin) * CLIP_FPS) + 1):
        while number + 1 < len(frames) and frames[number + 1][0] - begin <= (tick + 0.5) / CLIP_FPS:
            number += 1
        yield frames[number][1]

"""Cameras at this computer: USB cameras by V4L2, ribbon-cable (CSI) cameras of a Pi or Jetson, GStreamer.

Each function returns an opened capture: cv2.VideoCapture, or what does the same for a Raspberry Pi's camera.
"""

from __future__ import annotations

import glob
import importlib
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.system.machine import board_kind

_MAX_SIDE = 16384  # pixels
_MAX_FPS = 1000.0
_STALL_S = 10.0  # a CSI camera without a frame for so long has stopped
# The end of a GStreamer pipeline: BGR as OpenCV wants it, the newest frame only, and as it comes. With
# sync=true the sink would hold frames back until their presentation time.
_SINK = "videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1 sync=false"
_VENV = "a virtual environment sees it only if made with `python3 -m venv --system-site-packages`"


@dataclass(frozen=True)
class CameraOptions:
    """What to request from a camera at this computer; None leaves it to the camera.

    width, height: pixels, 1..16384, both or none.
    fps: frames per second, above 0, at most 1000.
    fourcc: four letters of the pixel format, such as "MJPG" or "YUYV" (V4L2 only).
    Raises ConfigError for other values.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        if (self.width is None) != (self.height is None):
            raise ConfigError("camera size: expected width and height, got only one of them")
        for side in (self.width, self.height):
            if side is not None and not 1 <= side <= _MAX_SIDE:
                raise ConfigError(f"camera size: expected 1..{_MAX_SIDE} pixels a side, got {side}")
        if self.fps is not None and not 0 < self.fps <= _MAX_FPS:
            raise ConfigError(f"camera fps: expected above 0, at most {_MAX_FPS:.0f}, got {self.fps}")
        if self.fourcc is not None and not re.fullmatch(r"[!-~][ -~]{3}", self.fourcc):
            raise ConfigError(
                f"camera fourcc: expected four letters such as MJPG or YUYV, got {self.fourcc!r}"
            )

    @property
    def given(self) -> list[str]:
        """The names of the options that request something."""
        return [name for name in ("width", "height", "fps", "fourcc") if getattr(self, name) is not None]


def open_v4l2(name: str | int, public: str, options: CameraOptions, warn: Callable[[str], None]) -> Any:
    """The camera with a number or device path.

    public: its name in errors. warn: called with one line if it gives something else than was requested.
    Raises SourceError when it cannot be opened.
    """
    # With a GStreamer-enabled OpenCV a number would open another backend, which knows no FOURCC.
    capture = cv2.VideoCapture(name, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
    if not capture.isOpened():
        raise SourceError(f"{public}: no such camera, or it cannot be opened{list_cameras()}{csi_hint()}")
    if different := configure(capture, options):
        warn(f"{public}: {different}")
    # One buffer for the driver to fill while the other is read; more would only hold older frames.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)
    return capture


def configure(capture: Any, options: CameraOptions) -> str:
    """Request the options from a capture; what it gives instead, in one line, or "" if it agrees.

    A driver takes what it cannot do without a word and does something near to it: only reading back shows it.
    """
    # 1. Request. The pixel format first: it decides which sizes there are, and the size which rates.
    if options.fourcc is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
    if options.width is not None and options.height is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.height)
    if options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    # 2. Read back and compare.
    asked, given = [], []
    if options.fourcc is not None:
        code = int(capture.get(cv2.CAP_PROP_FOURCC))
        letters = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24))
        fourcc = letters if letters.isprintable() and code else "an unknown format"
        if fourcc != options.fourcc:
            asked.append(options.fourcc)
            given.append(fourcc)
    if options.width is not None:
        size = f"{capture.get(cv2.CAP_PROP_FRAME_WIDTH):.0f}x{capture.get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"
        if size != f"{options.width}x{options.height}":
            asked.append(f"{options.width}x{options.height}")
            given.append(size)
    if options.fps is not None:
        fps = capture.get(cv2.CAP_PROP_FPS)
        if abs(fps - options.fps) > 0.02 * options.fps:  # 29.97 is 30
            asked.append(f"{options.fps:g} fps")
            given.append(f"{fps:g} fps")
    return f"asked for {', '.join(asked)}; the camera gives {', '.join(given)}" if asked else ""


def open_gstreamer(pipeline: str, public: str) -> Any:
    """A GStreamer pipeline; one without an appsink gets one that keeps only the newest frame, in BGR.

    Raises SourceError when OpenCV has no GStreamer, or the pipeline does not start.
    """
    if not has_gstreamer():
        raise SourceError(
            f"{public}: this OpenCV has no GStreamer (those from PyPI have none); "
            "use the one of the operating system (apt: python3-opencv, on a Jetson JetPack's)"
        )
    text = pipeline if "appsink" in pipeline else f"{pipeline} ! {_SINK}"
    capture = cv2.VideoCapture(text, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        # The pipeline itself may hold a password.
        raise SourceError(f"{public}: this GStreamer pipeline does not start; try it with `gst-launch-1.0`")
    return capture


def open_csi(index: int, public: str, options: CameraOptions) -> Any:
    """The ribbon-cable camera of a Raspberry Pi (by picamera2) or of a Jetson (by nvarguscamerasrc).

    Raises SourceError that names what is missing.
    """
    if board_kind() == "jetson":
        return open_gstreamer(argus_pipeline(index, options), public)
    try:
        # Comes with the operating system, not from PyPI: no extra of ours can bring it.
        picamera2 = importlib.import_module("picamera2")
    except ImportError as error:
        if board_kind() == "pi":
            raise SourceError(
                f"{public}: needs picamera2 ({error}): `sudo apt install python3-picamera2`; {_VENV}"
            ) from None
        raise SourceError(
            f"{public}: expected a Raspberry Pi with picamera2, or a Jetson; this computer is neither; "
            "use `--camera 0`, /dev/video0 or a URL"
        ) from None
    return PiCamera(picamera2.Picamera2, index, public, options)


def argus_pipeline(index: int, options: CameraOptions) -> str:
    """The GStreamer pipeline for the CSI camera `index` of a Jetson; by default 1280x720 at 30 fps."""
    # A rate in thousandths, because 29.97 is no whole number. The image signal processor leaves frames in the
    # memory of the GPU (NVMM), and nvvidconv brings them out.
    rate = f"{round(1000 * (options.fps or 30))}/1000"
    size = f"width={options.width or 1280}, height={options.height or 720}"
    return (
        f"nvarguscamerasrc sensor-id={index} ! video/x-raw(memory:NVMM), {size}, framerate={rate} ! "
        f"nvvidconv ! video/x-raw, format=BGRx ! {_SINK}"
    )


class PiCamera:
    """A Raspberry Pi's CSI camera, with that part of cv2.VideoCapture which `Video` uses.

    By picamera2, because libcamera's cameras are no V4L2 devices that OpenCV could open: /dev/video0 of a Pi
    is the raw sensor.
    """

    def __init__(self, picamera2: Any, index: int, public: str, options: CameraOptions) -> None:
        """picamera2: the class Picamera2. Raises SourceError when the camera does not start."""
        # libcamera reports each start in many lines on stderr; who wants them sets the variable.
        os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:ERROR")
        try:
            self._camera = picamera2(index)
        except Exception as error:  # IndexError, RuntimeError or what libcamera raises, by its version
            raise SourceError(
                f"{public}: no camera {index} on the ribbon cable, or another program uses it ({error}); "
                "try `rpicam-hello --list-cameras`"
            ) from None
        try:
            # "RGB888" is libcamera's name for bytes in the order blue, green, red.
            main: dict[str, Any] = {"format": "RGB888"}
            if options.width is not None:
                main["size"] = (options.width, options.height)
            period = round(1e6 / (options.fps or 30.0))  # microseconds; least and most alike fix the rate
            controls = {"FrameDurationLimits": (period, period)}
            self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
            self._camera.start()
        except Exception as error:
            self.release()
            raise SourceError(f"{public}: the camera does not start: {error}") from None
        self._fps = options.fps or 30.0

    def grab(self) -> bool:
        """Wait for the next frame; False when none comes."""
        done = threading.Event()
        # Waiting in picamera2 itself has no limit in its older versions, and a camera that is stuck could not
        # be closed.
        self._job = self._camera.capture_array("main", wait=False, signal_function=lambda _: done.set())
        return done.wait(_STALL_S)

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """The frame that was grabbed."""
        return True, self._job.get_result()

    def get(self, prop: int) -> float:
        """Width, height and rate; 0 for anything else."""
        width, height = self._camera.camera_configuration()["main"]["size"]
        known = {
            cv2.CAP_PROP_FRAME_WIDTH: width,
            cv2.CAP_PROP_FRAME_HEIGHT: height,
            cv2.CAP_PROP_FPS: self._fps,
        }
        return float(known.get(prop, 0.0))

    def release(self) -> None:
        """Stop and close the camera."""
        # `stop` would wait behind a capture that never comes; `close` stops the event loop first.
        self._camera.close()


def csi_hint(root: Path = Path("/")) -> str:
    """What to try on a board whose own camera appears as /dev/video* but gives no image there."""
    return "; a camera on the ribbon cable is `--camera csi`" if board_kind(root) in ("pi", "jetson") else ""


def list_cameras() -> str:
    """The cameras of this computer, to end a message with."""
    found = ", ".join(sorted(glob.glob("/dev/video*")))
    return f"; found {found}" if found else "; this computer shows no camera (/dev/video*)"


def has_gstreamer() -> bool:
    """Whether OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None

"""The source that a camera's settings name, opened and checked: images, a video, or a live stream."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_centernet.camera_config import Settings
from edge_centernet.errors import ConfigError
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.sources.files import (
    Source,
    Stills,
    Video,
    is_live,
    is_url,
    open_camera,
    open_source,
    public_name,
)
from edge_centernet.system import heap

if TYPE_CHECKING:
    from edge_centernet.sources.live import LiveCapture

    Frames = Source | LiveCapture

_log = logging.getLogger(__name__)


def open_frames(settings: Settings, report: Callable[[str], None], several: bool = False) -> Frames:
    """The source, opened and checked; a live one is read on its own thread from now on.

    report: gets one line for each file that is skipped. several: it is one of several cameras, whose name is
    told with each message, and which is waited for, as the others must not fail with it.
    Raises ConfigError for options of a camera where there is none and for tracking in images that are no
    sequence, SourceError when nothing can be read.
    """
    if settings.pace is not None or settings.loop:
        return _play(settings, report)
    requested = {"size": settings.size, "fps": settings.fps, "fourcc": settings.fourcc}
    width: int | None = None
    height: int | None = None
    if settings.size is not None:
        parts = settings.size.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            raise ConfigError(
                f"--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got {settings.size!r}"
            )
        width, height = (int(part) for part in parts)
    if settings.camera is None:
        source = settings.source or ""
        given = [f"--{name}" for name, value in requested.items() if value is not None]
        refusal = f"{', '.join(given)}: expected only with --camera, got --source {public_name(source)}"
        if given and (given != ["--fps"] or is_live(source)):
            raise ConfigError(refusal)
        if not is_live(source):
            opened = open_source(source, warn=lambda line: report(f"Warning: {line}"))
            if isinstance(opened, Stills):
                _take_as_sequence(opened, settings)
            elif given:
                opened.close()
                raise ConfigError(refusal.replace("--camera", "--camera or images"))
            return opened
    from edge_centernet.sources.cameras import CameraOptions
    from edge_centernet.sources.live import LiveCapture

    options = CameraOptions(width, height, settings.fps, settings.fourcc)
    text = settings.camera or settings.source or ""
    if is_url(text):  # a pipeline of GStreamer may hold one
        from edge_centernet.sources.network import check_url

        check_url(text)  # now, as --wait would wait for it to become right
    heap.share_arenas()  # before the threads of the capture start, each of which would get its own

    def tell(line: str) -> None:
        _log.warning("%s%s", f"{settings.name}: " if several else "", line)

    capture = LiveCapture(
        lambda: open_camera(text, options, tell),
        f"camera {text}" if text.isdecimal() else public_name(text),
        frozen_s=settings.frozen_after,
        report=tell,
    )
    capture.start(wait=settings.wait or several)
    return capture


def _play(settings: Settings, report: Callable[[str], None]) -> LiveCapture:
    """A video at its own pace, as if it were a camera."""
    from edge_centernet.sources.live import LiveCapture
    from edge_centernet.sources.playback import Playback

    source = settings.source or ""
    if settings.pace is None:
        raise ConfigError("--loop: expected --pace real with it: without a pace, a video would never end")
    given = {"--size": settings.size, "--fps": settings.fps, "--fourcc": settings.fourcc}
    if wrong := ", ".join(name for name, value in given.items() if value is not None):
        raise ConfigError(f"{wrong}: expected no such option with --pace real: the video has its own")
    if settings.camera is not None or is_live(source):
        name = public_name(settings.camera or source)
        raise ConfigError(f"--pace real: expected a video, got the camera {name}, which has its own pace")
    said: set[str] = set()

    def warn(line: str) -> None:
        if line not in said:  # each showing would say it again
            said.add(line)
            report(f"Warning: {line}")

    def open_video() -> Video:
        opened = open_source(source, warn)
        if isinstance(opened, Stills):
            got = f"the image {opened.public_names[0]}" if len(opened.names) == 1 else "images"
            raise ConfigError(f"--pace real: expected a video, got {got}")
        return opened

    heap.share_arenas()  # as below
    parts = itertools.count() if settings.loop else None
    capture = LiveCapture(
        lambda: Playback(open_video, parts),
        public_name(source),
        frozen_s=settings.frozen_after,
        ends=not settings.loop,
        report=_log.warning,
    )
    capture.start()
    return capture


def _take_as_sequence(stills: Stills, settings: Settings) -> None:
    """Give images the rate that the settings give them; refuse what follows objects where there is none."""
    if settings.fps is not None:
        stills.as_sequence(settings.fps)
    follows = {
        "--track": settings.track,
        "--count-line": settings.count_line,
        "--zone": settings.zone,
        "--room": settings.room,
        "--rule": settings.rule,
        "--presence": settings.presence,
        "--floor": settings.floor,
        "--store": settings.store,
        "--events-dir": settings.events_dir,
        "--webhook": settings.webhook,
    }
    given = ", ".join(option for option, value in follows.items() if value)
    if given and len(stills.names) == 1:
        raise ConfigError(
            f"{given}: expected a video, a camera or a sequence of images, "
            f"got one image, {stills.public_names[0]}"
        )
    if given and stills.fps is None:
        raise ConfigError(
            f"{given}: expected a video, a camera or a sequence of images, got {len(stills.names)} single "
            "images; if they are consecutive, tell their number per second, as in --fps 10"
        )


def capture_state(frames: Frames, newest: Frame | None) -> CaptureState:
    """The state of a source, of which this is the newest frame; a file is as live as that."""
    if not isinstance(frames, (Stills, Video)):
        return frames.state
    if newest is None:
        return CaptureState("live")
    return CaptureState("live", frames=newest.number + 1, last_frame=newest.captured)

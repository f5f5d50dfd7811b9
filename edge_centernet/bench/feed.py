"""What the workers detect on: images in memory, or a video or camera through the pipeline of `detect`."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import edge_centernet
from edge_centernet.detector import Detector
from edge_centernet.files import sha256
from edge_centernet.imageio import read_image
from edge_centernet.pipeline import Pipeline
from edge_centernet.sources.files import Source, Video, is_live, open_camera, open_source
from edge_centernet.sources.live import LiveCapture
from edge_centernet.system import heap
from edge_centernet.system.logs import quiet_libraries

SAMPLE = Path(edge_centernet.__file__).parent / "assets/sample.jpg"
STEPS = ("preprocess", "inference", "decode")
END_TO_END = "end_to_end"
# Of a folder, in the memory of each worker: reading files is not what is measured.
MOST_PICTURES, MOST_BYTES = 100, 100_000_000
_SILENT_S = 10.0  # a camera that gives no frame for so long has no turn
# First frames of a turn, which are not counted: so many, but in this share of its time at most. The
# processor's caches still hold what another worker left there.
_LEAD_IN, _LEAD_IN_SHARE = 5, 0.2

Picture = NDArray[np.uint8]  # (H, W, 3) BGR


def _silent(line: str) -> None:
    """Drop a warning: the measuring process has shown it, and each worker would show it again."""


class Turn(NamedTuple):
    """One turn. ms: milliseconds of each counted frame by step and end to end; age_ms: live sources only.

    seconds: from the end of the last frame that is not counted to the end of the last one.
    """

    ms: dict[str, list[float]]
    age_ms: list[float]
    seconds: float


class Feed:
    """A source, not yet opened. live: whether it is a camera or stream, read as by `detect --camera`."""

    def __init__(self, source: str | None = None, camera: str | None = None) -> None:
        """As the options of `detect` say; neither: the sample photo. A source may also name a camera."""
        if camera is None and source is not None:
            # What `detect --camera` takes; a file may have such a name.
            numbered = re.match(r"\d+$|/dev/|csi(:\d+)?$|gst:", source) and not Path(source).is_file()
            if numbered or is_live(source):
                source, camera = None, source
        self.source, self.camera = source, camera
        self.live = camera is not None

    def describe(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """What there is, for the record, without names: kind, count, sizes, a hash of what is seen.

        It opens the source. warn: called with a line for each image that is left out. Raises SourceError
        where there is nothing to read.
        """
        with closing(self._open_camera() if self.live else open_source(str(self.source or SAMPLE))) as source:
            if isinstance(source, Video):
                height, width = next(iter(source)).image.shape[:2]
                about: dict[str, Any] = {
                    "pictures": None,
                    "sizes": [f"{width}x{height}"],
                    "fps": round(source.fps, 2),
                }
                digest = (
                    None if self.live or not Path(self.source or "").is_file() else sha256(self.source or "")
                )
                return {"kind": "live" if self.live else "video", **about, "sha256": digest}
        pictures, more = self.pictures(warn)
        # Of the pixels, not of the files: two JPEG decoders may see different images.
        digests = hashlib.sha256()
        for picture in pictures:
            digests.update(repr(picture.shape).encode() + picture.tobytes())
        sizes = sorted({f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures})
        about = {"pictures": len(pictures), "left_out": more, "sizes": sizes, "sha256": digests.hexdigest()}
        return {"kind": "sample" if self.source is None else "pictures", **about}

    def pictures(self, warn: Callable[[str], None] = _silent) -> tuple[list[Picture], int]:
        """The images, and how many more the folder holds.

        Those that cannot be read are left out, as `detect` leaves them out. A video or camera gives the
        sample photo, to start and warm up with. Raises SourceError if no image is left.
        """
        if self.live:
            return [read_image(SAMPLE)], 0
        source = open_source(str(self.source or SAMPLE), warn)
        if isinstance(source, Video):
            source.close()
            return [read_image(SAMPLE)], 0
        taken: list[Picture] = []
        size = 0
        for frame in source:
            taken.append(frame.image)
            size += frame.image.nbytes
            if len(taken) >= MOST_PICTURES or size >= MOST_BYTES:
                break
        return taken, len(source.names) - len(taken) - source.skipped

    def first(self) -> Picture:
        """The first image; the sample photo stands for a camera's, which comes when the camera is ready."""
        if self.live:
            return read_image(SAMPLE)
        with closing(open_source(str(self.source or SAMPLE), _silent)) as source:
            return next(iter(source)).image

    def frames(self) -> Source | LiveCapture:
        """Opened as `detect` opens it; close it."""
        if not self.live:
            return open_source(str(self.source or SAMPLE), _silent)
        capture = LiveCapture(self._open_camera, "camera", report=_silent)
        heap.share_arenas()  # as `detect` does, for memory is measured too
        capture.start()
        return capture

    def _open_camera(self) -> Video:
        return open_camera(self.camera or "", warn=_silent)


def detect_pictures(
    detector: Detector, pictures: Iterator[Picture], seconds: float, at_least: int = 1
) -> Turn:
    """Detect in one image after the other for so long, with a clock around `Detector.detect`.

    pictures: without end, in memory already. at_least: frames to count, even if that takes longer.
    """
    begin = time.perf_counter()
    for _ in range(_LEAD_IN):
        detector.detect(next(pictures))
        if time.perf_counter() - begin > _LEAD_IN_SHARE * seconds:
            break
    times: dict[str, list[float]] = {step: [] for step in (*STEPS, END_TO_END)}
    counted = end = time.perf_counter()
    while end - begin < seconds or len(times[END_TO_END]) < at_least:
        picture = next(pictures)
        start = time.perf_counter()
        _, ms = detector.detect_timed(picture)
        end = time.perf_counter()
        for step in STEPS:
            times[step].append(ms[step])
        times[END_TO_END].append(1000.0 * (end - start))
    return Turn(times, [], end - counted)


def detect_frames(detector: Detector, feed: Feed, seconds: float) -> Turn:
    """Detect in a video or camera for so long through the pipeline of `detect`; short videos are repeated.

    End to end is the sum of the steps here: they overlap, and what lies between is waiting, which the age
    shows.
    """
    times: dict[str, list[float]] = {step: [] for step in (*STEPS, END_TO_END)}
    ages: list[float] = []
    left, counted = _LEAD_IN, 0.0
    end = time.perf_counter()
    begin = until = 0.0  # of the first result on: how long it takes to open is another matter
    while end < (until or end + 1.0):
        # A round of this loop is one showing of the video.
        with quiet_libraries(), closing(feed.frames()) as frames, Pipeline(frames, detector) as pipeline:
            gives_up = end + _SILENT_S
            for result in pipeline:
                end = time.perf_counter()
                if result is None:  # no frame yet; the pipeline lets us look at the clock
                    if end > (until or gives_up):
                        break
                    continue
                begin = begin or end
                until = until or end + seconds
                # The first frame is never counted: there is no end of another one to measure `seconds` from.
                if counted == 0.0 or (left > 0 and end - begin <= _LEAD_IN_SHARE * seconds):
                    left, counted = left - 1, end
                else:
                    for step in STEPS:
                        times[step].append(result.ms[step])
                    times[END_TO_END].append(sum(result.ms[step] for step in STEPS))
                    ages.append(result.age_ms)
                if end >= until:
                    break
        if not until:
            break
    return Turn(times, ages if feed.live else [], end - counted)

"""The frames to tune on: few enough for memory and patience, spread over all that is watched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from edge_centernet.calibration.images import spread
from edge_centernet.errors import SourceError
from edge_centernet.imageio import image_size
from edge_centernet.progress import Progress
from edge_centernet.sources import Frame
from edge_centernet.sources.files import Source, Stills, Video, is_live, open_camera, open_source
from edge_centernet.tracking.geometry import Size

RATE = 5.0  # frames a second: enough to follow people who walk, and more would only look the same
STRETCH = 20  # frames in a row, four seconds: long enough to see that something moves
_MOST_BYTES = 512 << 20  # of frames in memory


@dataclass(frozen=True, eq=False)
class View:
    """What was watched.

    name: of the source, without passwords. frames: in their order. moving: whether they follow each other in
    stretches of RATE frames a second; otherwise they are single images. size: (width, height) of most frames.
    """

    name: str
    frames: tuple[Frame, ...]
    moving: bool
    size: Size

    @property
    def half(self) -> int:
        """Number of frames to choose on; those behind are for the check."""
        return len(self.frames) // 2

    @property
    def seconds(self) -> float:
        """Time that the frames stand for; 0 for single images."""
        return len(self.frames) / RATE if self.moving else 0.0


def watch(text: str, most: int, seconds: float, progress: Progress, warn: Callable[[str], None]) -> View:
    """Read a video, a camera or a folder of single images.

    Args:
        text: as --source or --camera of `detect`.
        most: frames to keep, fewer where memory is short.
        seconds: of a video or camera to watch at most.
        progress: gets the seconds that were watched.
        warn: gets a line for each file that is skipped.

    Raises SourceError where it cannot be read, or holds too little to tune on.
    """
    # open_source knows URLs; what else names a camera is what `detect --camera` takes.
    camera = text.isdecimal() or text.startswith(("/dev/", "gst:")) or re.fullmatch(r"csi(:\d+)?", text)
    source: Source = open_camera(text, warn=warn) if camera or is_live(text) else open_source(text, warn)
    with closing(source):
        if isinstance(source, Stills):
            source.names = spread(source.names, _fitting(source.names, most))
            frames, name, moving = list(source), text, False
        else:
            frames = _stretches(_watched(source, seconds, progress), most)
            name, moving = source.name, True
    if len(frames) < 2 * STRETCH:
        raise SourceError(
            f"{name}: expected at least {2 * STRETCH} images, or {2 * STRETCH / RATE:g} seconds of video, to "
            f"tune on, got {len(frames)}{' frames' if moving else ''}"
        )
    widths, heights = zip(*((one.image.shape[1], one.image.shape[0]) for one in frames), strict=True)
    return View(name, tuple(frames), moving, (median_low(widths), median_low(heights)))


def _fitting(names: list[str], most: int) -> int:
    """How many of the images memory holds, if all are as large as the first; `most` at most."""
    try:
        width, height = image_size(Path(names[0]))
    except SourceError:  # it is skipped, or reported, where it is read
        return most
    return max(2 * STRETCH, min(most, _MOST_BYTES // (3 * width * height)))


def _watched(source: Video, seconds: float, progress: Progress) -> Iterator[Frame]:
    """Frames RATE times a second, for so many seconds."""
    total = seconds if source.live else min(seconds, source.length / source.fps or seconds)
    shown, due = 0, 0.0
    for frame in source:
        if frame.seconds >= seconds:
            break
        while shown < min(frame.seconds, int(total) - 1):
            shown += 1
            progress("Watching", shown, int(total))
        if frame.seconds > due - 0.1 / RATE:  # the times of frames are not exact
            due = frame.seconds + 1.0 / RATE
            yield frame
    while shown < int(total):
        shown += 1
        progress("Watching", shown, int(total))


def _stretches(frames: Iterator[Frame], most: int) -> list[Frame]:
    """At most `most` frames, in stretches of STRETCH; when there are too many, every second one goes."""
    kept: list[list[Frame]] = []
    limit, gap = 0, 1
    for i, frame in enumerate(frames):
        if not kept:
            limit = max(2, min(most, _MOST_BYTES // frame.image.nbytes) // STRETCH)
        number, first = divmod(i, STRETCH)
        if number % gap:
            continue
        if first == 0:
            if len(kept) == limit:
                kept, gap = kept[::2], 2 * gap
                if number % gap:
                    continue
            kept.append([])
        kept[-1].append(frame)
    return [frame for stretch in kept for frame in stretch]

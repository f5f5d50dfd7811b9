"""A video that plays as a camera films, each frame at its time by the wall clock; `LiveCapture` reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from edge_centernet.sources import Frame
from edge_centernet.sources.files import Video

# A picture that stands is shown again so often. A camera would film it again and again: without it, a slide
# of ten seconds would look like a camera that froze.
_REPEAT_S = 0.25
# And for no longer than this: recordings of motion that were joined, or damaged times, may leave out hours.
_LONGEST_S = 10.0
# Frames that are late by less are caught up with. A computer that was asleep goes on where it stopped: what
# it missed would rush past at many times its speed.
_MOST_BEHIND_S = 1.0


class Playback:
    """A video from its beginning to its end, or from then on again, at its own rate.

    name, fps: of the video. live: always True, as the frames come in real time.

    A reader that is slower than the frames does not hold them up if it takes the newest only. Where decoding
    itself is slower than the video's rate, the video plays more slowly.
    """

    live = True

    def __init__(self, open: Callable[[], Video], parts: Iterator[int] | None = None) -> None:
        """Open it.

        open: opens the video; called again for each further showing.
        parts: numbers of the showings, for Frame.part; None for a video that ends with the first.
        Raises what `open` raises.
        """
        self._open, self._parts = open, parts
        self._video = open()
        self.name, self.fps = self._video.name, self._video.fps
        self._interrupted = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Each frame when it is due. Raises SourceError when the video cannot be opened again."""
        due = time.monotonic()
        while True:
            part = 0 if self._parts is None else next(self._parts)
            shown: Frame | None = None
            last = 0.0
            for frame in self._video:
                due += min(frame.seconds - last, _LONGEST_S)
                last = frame.seconds
                while (left := due - time.monotonic()) > 0.0:
                    if self._interrupted.wait(min(left, _REPEAT_S)):
                        return
                    if left > _REPEAT_S and shown is not None:
                        yield replace(shown, captured=time.monotonic())
                now = time.monotonic()
                if now - due > _MOST_BEHIND_S:
                    due = now
                shown = replace(frame, captured=now, part=part)
                yield shown
            if self._parts is None:
                return
            due += 1.0 / self.fps  # of the last frame
            self._video.close()
            self._video = self._open()

    def interrupt(self) -> None:
        """End a wait for the next frame, from another thread."""
        self._interrupted.set()
        self._video.interrupt()

    def close(self) -> None:
        """Release the file."""
        self._video.close()

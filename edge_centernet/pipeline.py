"""Frames in, results out, with the steps overlapped: the slowest one sets the rate, and no frame waits in a queue.

A file loses no frame: each step waits for the next. A live source loses all but the newest: a frame is taken
when the network is free or about to be, so a slow network sees fewer frames, never old ones.

    reader -> preprocess -> inference -> the thread that iterates: decode, and whatever the caller does

Where the network waits for a camera, its thread takes the frame and preprocesses it by itself: handing it
from thread to thread would only take time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.heads import Heads
from edge_centernet.preprocess import Letterbox
from edge_centernet.sources import Frame
from edge_centernet.sources.files import Stills, Video
from edge_centernet.system.single_slot import SingleSlotQueue

if TYPE_CHECKING:  # who reads files only need not load what cameras need
    from edge_centernet.sources.live import LiveCapture

_LOOK_S = 0.2  # how often a wait looks whether it is still wanted: bounds the time that stopping takes
_MIN_LOOK_S = 0.005
_QUIET_S = 0.5  # a live source is silent when nothing came for so long
_FPS_WINDOW_S = 3.0


@dataclass(frozen=True, eq=False)
class Result:
    """One frame with its detections. ms: milliseconds by step. age_ms: from the frame's capture to now."""

    frame: Frame
    found: Detections
    ms: dict[str, float]
    age_ms: float


class Pipeline:
    """Iterate over it for the results, in the order of the frames. Close it, or leave its `with` block, when done.

    While a live source is silent, None comes twice a second, so that who watches can say so.
    frames: pictures are read one after the other; a video file and a live source go through the threads.
    An error in any step is raised where the results are taken, after the results before it.
    """

    def __init__(self, frames: Stills | Video | LiveCapture, detector: Detector) -> None:
        """Nothing runs before the first result is asked for."""
        self._frames, self._detector = frames, detector
        newest = frames.live
        self._read: SingleSlotQueue[Frame] = SingleSlotQueue(newest)
        self._prepared: SingleSlotQueue[_Prepared] = SingleSlotQueue(newest)
        self._inferred: SingleSlotQueue[_Inferred] = SingleSlotQueue(False)
        # Of a live source only:
        self._taking = threading.Lock()  # held while a frame is waited for and preprocessed
        self._last = -1  # number of the newest frame taken; guarded by it
        self._busy = threading.Event()  # the network can take no frame yet
        self._free = 0.0  # when it probably can, time.monotonic()
        self._ahead_s = 0.0  # how long before that a frame must be taken
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def __iter__(self) -> Iterator[Result | None]:
        """Until the source ends, or after `stop`."""
        if isinstance(self._frames, Stills):  # large, few, and each may be the last: no reading ahead
            return self._one_by_one(self._frames)
        return self._overlapped()

    def __enter__(self) -> Pipeline:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the threads."""
        self.close()

    def stop(self) -> None:
        """Let the iteration end after the result at hand. Safe to call from a signal handler."""
        self._stopped = True

    def close(self) -> None:
        """Stop the threads; the source and the runtime stay open, for who opened them closes them."""
        self.stop()
        for handover in (self._read, self._prepared, self._inferred):
            handover.close()
        for thread in self._threads:
            # The reader may hang in a camera driver; it is a daemon and holds nothing but its source.
            thread.join(timeout=5.0)

    def _one_by_one(self, frames: Stills) -> Iterator[Result]:
        for frame in frames:
            found, ms = self._detector.detect_timed(frame.image)
            yield Result(frame, found, ms, _age_ms(frame))
            if self._stopped:
                return

    def _overlapped(self) -> Iterator[Result | None]:
        if isinstance(self._frames, Video):
            self._start("read", self._read_all)
            self._start("preprocess", self._preprocess_all)
        else:
            self._start("preprocess", self._preprocess_ahead)
        self._start("inference", self._infer)
        heard = time.monotonic()
        while not self._stopped:
            inferred = self._inferred.take(_LOOK_S)
            if inferred is not None:
                yield self._decode(inferred)
                heard = time.monotonic()
            elif self._inferred.ended:
                return
            elif self._frames.live and time.monotonic() - heard >= _QUIET_S:
                yield None
                heard = time.monotonic()

    def _decode(self, inferred: _Inferred) -> Result:
        start = time.perf_counter()
        found = self._detector.boxes(inferred.heads, inferred.box)
        inferred.ms["decode"] = 1000.0 * (time.perf_counter() - start)
        return Result(inferred.frame, found, inferred.ms, _age_ms(inferred.frame))

    # ---- the threads -----------------------------------------------------------------------------

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _read_all(self) -> None:
        with self._read.feeding():
            for frame in cast(Video, self._frames):
                if not self._read.put(frame):
                    return

    def _preprocess_all(self) -> None:
        with self._prepared.feeding():
            while (frame := self._read.take()) is not None:
                if not self._prepared.put(self._prepare(frame)):
                    return

    def _preprocess_ahead(self) -> None:
        """Have the newest frame ready when the network is free, and spare the work on frames that it cannot take."""
        with self._prepared.feeding():
            while not self._prepared.closed:
                if not self._busy.wait(_LOOK_S):
                    continue
                # Rather too early than late: a newer frame replaces one that is ready too soon.
                early = self._free - self._ahead_s - time.monotonic()
                if early > 0.0:
                    time.sleep(min(early, _LOOK_S))
                    continue
                with self._taking:
                    left = self._free - time.monotonic()
                    if self._busy.is_set() and (
                        prepared := self._newest(min(max(left, _MIN_LOOK_S), _LOOK_S))
                    ):
                        self._prepared.put(prepared)

    def _take(self) -> _Prepared | None:
        """What to infer next, waiting for it; None when nothing more comes, or is wanted."""
        if isinstance(self._frames, Video):
            return self._prepared.take()
        self._busy.clear()
        while not self._prepared.ended:
            # What is ready is taken at once, although the other thread may be waiting for a newer one.
            if prepared := self._prepared.take(0.0):
                return prepared
            with self._taking:
                if prepared := self._prepared.take(0.0) or self._newest(_LOOK_S):
                    return prepared
        return self._prepared.take(0.0)  # raises what ended it

    def _newest(self, timeout: float) -> _Prepared | None:
        """The camera's next frame, preprocessed."""
        capture = cast("LiveCapture", self._frames)
        frame = capture.newest(self._last, timeout)
        if frame is None:
            if capture.state.state == "ended":
                self._prepared.close()
            return None
        self._last = frame.number
        return self._prepare(frame)

    def _infer(self) -> None:
        usual = 0.0
        with self._inferred.feeding():
            # Room first, then a frame: a frame taken early would grow old while the caller is busy.
            while self._inferred.wait_empty() and (prepared := self._take()) is not None:
                start = time.monotonic()
                self._free = start + usual
                self._ahead_s = 0.2 * usual + prepared.ms["preprocess"] / 1000.0
                self._busy.set()
                heads = self._detector.infer(prepared.x)
                taken = time.monotonic() - start
                usual = taken if usual == 0.0 else 0.8 * usual + 0.2 * taken
                ms = {**prepared.ms, "inference": 1000.0 * taken}
                # Copied: the engine's own memory is overwritten by the next inference, and decoding overlaps
                # with that.
                copied = Heads(*(np.array(head) for head in heads))
                if not self._inferred.put(_Inferred(prepared.frame, copied, prepared.box, ms)):
                    return

    def _prepare(self, frame: Frame) -> _Prepared:
        start = time.perf_counter()
        x, box = self._detector.prepare(frame.image)
        return _Prepared(frame, x, box, {"preprocess": 1000.0 * (time.perf_counter() - start)})


class Rate:
    """Results a second, over the last three seconds."""

    def __init__(self) -> None:
        """No result yet: a rate of 0."""
        self._times: deque[float] = deque(maxlen=3000)

    def tick(self) -> float:
        """Count one result, now; the rate."""
        now = time.monotonic()
        self._times.append(now)
        while now - self._times[0] > _FPS_WINDOW_S:
            self._times.popleft()
        span = now - self._times[0]
        return (len(self._times) - 1) / span if span > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Prepared:
    frame: Frame
    x: NDArray[Any]
    box: Letterbox
    ms: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Inferred:
    frame: Frame
    heads: Heads
    box: Letterbox
    ms: dict[str, float]


def _age_ms(frame: Frame) -> float:
    return 1000.0 * (time.monotonic() - frame.captured)

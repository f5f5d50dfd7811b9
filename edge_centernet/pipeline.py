"""Frames in, results out, with the steps overlapped.

    reader -> preprocess -> inference -> the thread that iterates: decode, and whatever the caller does

Overlap: each step has a thread of its own. While the network computes one frame, the next one is preprocessed
and the last one is decoded, drawn and sent, so that the slowest step alone sets the rate, and not the sum of
all. OpenCV, the engines and the C decoder release Python's global lock, so that threads suffice.

Single-slot queues: between two steps there is room for one frame. More room would not raise the rate, which
the slowest step sets; frames would only wait longer and grow old.

Which frame is dropped: of a file none, as each step waits for the next. Of a live source all but the newest.
A frame is taken when the network is free or about to be; those that the camera delivers in the meantime are
dropped before any work is spent on them. A slow network therefore sees fewer frames, but never an old one.

Several cameras share the network by fair turns: the one after the last that had a turn comes next, if it has
a new frame. A slow or lost camera takes no turn and delays no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
from edge_centernet.tiles import TiledHeads, TiledInput, Tiling

if TYPE_CHECKING:  # reading files does not load what cameras need
    from edge_centernet.sources.live import LiveCapture

_LOOK_S = (
    0.2  # how long a wait lasts before it checks whether it was stopped: bounds the time that stopping takes
)
_MIN_LOOK_S = 0.005  # the shortest wait for a frame, where the network is about to be free
_QUIET_S = 0.5  # a live source is silent when nothing came for so long
_FPS_WINDOW_S = 3.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """One frame with its detections.

    ms: milliseconds of each step, "preprocess", "inference" and "decode". age_ms: since the frame's capture.
    lane: which of several cameras it is from, 0 for the first.
    """

    frame: Frame
    found: Detections
    ms: dict[str, float]
    age_ms: float
    lane: int = 0


class Pipeline:
    """An iterable of results in the order of the frames. Close it, or leave its `with` block, when done.

    frames: still images are processed one after the other, a video file and a live source on threads.
    beside: further live sources beside a first one, each with a detector of its own; all have one runtime.

    While no live source gives a frame, None comes twice a second, so that the caller can report it. An error
    in any step is raised where the results are taken, after the results before it; but a frame that cannot be
    preprocessed is only logged where there are several cameras, as it is no fault of the others.
    """

    def __init__(
        self,
        frames: Stills | Video | LiveCapture,
        detector: Detector,
        beside: Sequence[tuple[LiveCapture, Detector]] = (),
    ) -> None:
        """Nothing runs before the first result is asked for."""
        self._frames = frames
        self._detectors = [detector, *(other for _, other in beside)]
        self._captures = [cast("LiveCapture", frames), *(capture for capture, _ in beside)]
        newest = frames.live
        self._read: SingleSlotQueue[Frame] = SingleSlotQueue(newest)
        self._prepared: SingleSlotQueue[_Prepared] = SingleSlotQueue(newest)
        self._inferred: SingleSlotQueue[_Inferred] = SingleSlotQueue(False)
        # For a live source only, whose frames both the preprocessing and the inference thread may take:
        self._taking = threading.Lock()  # held while one of them waits for a frame and preprocesses it
        self._last = [-1] * len(self._detectors)  # number of each camera's newest frame that was taken
        self._turn = -1  # the camera whose frame was taken last; both are guarded by `_taking`
        self._arrived = threading.Event()  # one of the cameras has a new frame, or has ended
        self._refused: dict[int, str] = {}  # why the last frame of a camera could not be preprocessed
        self._busy = threading.Event()  # the network can take no frame yet
        self._free = 0.0  # when it probably can, time.monotonic()
        self._ahead_s = 0.0  # how long before that a frame must be taken to be ready in time
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def __iter__(self) -> Iterator[Result | None]:
        """Until the source ends, or after `stop`."""
        # Still images are large and few, and the user may stop after each: nothing is read ahead.
        if isinstance(self._frames, Stills):
            for frame in self._frames:
                found, ms = self._detectors[0].detect_timed(frame.image)
                yield Result(frame, found, ms, _age_ms(frame))
                if self._stopped:
                    return
            return
        # 1. Start a thread for each step but the last.
        if isinstance(self._frames, Video):
            self._start("read", self._read_all)
            self._start("preprocess", self._preprocess_all)
        else:  # a live source has a reader of its own, which keeps the newest frame
            for capture in self._captures:
                capture.arrived = self._arrived
            self._start("preprocess", self._preprocess_ahead)
        self._start("inference", self._infer)
        # 2. The last step, on the caller's thread: what the caller does with a result overlaps, too.
        heard = time.monotonic()
        while not self._stopped:
            inferred = self._inferred.take(_LOOK_S)
            if inferred is not None:
                start = time.perf_counter()
                found = self._detectors[inferred.lane].boxes(inferred.heads, inferred.box)
                inferred.ms["decode"] = 1000.0 * (time.perf_counter() - start)
                yield Result(inferred.frame, found, inferred.ms, _age_ms(inferred.frame), inferred.lane)
                heard = time.monotonic()
            elif self._inferred.ended:
                return
            elif self._frames.live and time.monotonic() - heard >= _QUIET_S:
                yield None
                heard = time.monotonic()

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
        """Stop the threads. The source and the runtime stay open: the caller who opened them closes them."""
        self.stop()
        for queue in (self._read, self._prepared, self._inferred):
            queue.close()
        for thread in self._threads:
            # The reader may hang in a driver. It is a daemon thread and holds nothing but its source.
            thread.join(timeout=5.0)

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
                if not self._prepared.put(self._prepare(0, frame)):
                    return

    def _preprocess_ahead(self) -> None:
        """Of a live source: have the newest frame ready at the moment when the network is free."""
        with self._prepared.feeding():
            while not self._prepared.closed:
                # 1. While the network waits for a frame, it takes one by itself (`_take`).
                if not self._busy.wait(_LOOK_S):
                    continue
                # 2. Wait until just before the network is free. A frame that is taken now would be older
                #    then, and all that are preprocessed but the last would be wasted work.
                early = self._free - self._ahead_s - time.monotonic()
                if early > 0.0:
                    time.sleep(min(early, _LOOK_S))
                    continue
                # 3. Take the newest frame. If the network is busy for longer than expected, this repeats, and
                #    a newer frame replaces the one in the slot: better too early than too late. Only one of
                #    the same camera, whose turn it is. The wait ends when the network should be free, which
                #    then takes the frame directly.
                with self._taking:
                    left = self._free - time.monotonic()
                    ready = self._prepared.peek()
                    if self._busy.is_set() and (
                        prepared := self._newest(min(max(left, _MIN_LOOK_S), _LOOK_S), ready)
                    ):
                        if ready is None:
                            self._prepared.put(prepared)
                        else:  # unless that was taken meanwhile: its camera has had its turn then
                            self._prepared.swap(ready, prepared)

    def _take(self) -> _Prepared | None:
        """What to infer next, waiting for it; None when nothing more comes, or the pipeline is closed."""
        if isinstance(self._frames, Video):
            return self._prepared.take()
        self._busy.clear()
        while not self._prepared.ended:
            # What is ready is taken at once, although the other thread may be waiting for a newer one.
            if prepared := self._prepared.take(0.0):
                return prepared
            # Nothing is ready: the camera is slower than the network. This thread then waits for the frame
            # and preprocesses it by itself, as to pass it from thread to thread would only take time. The
            # other one may have put a frame while this one waited for the lock, hence the second look.
            with self._taking:
                if prepared := self._prepared.take(0.0) or self._newest(_LOOK_S):
                    return prepared
        return self._prepared.take(0.0)  # raises what ended it

    def _newest(self, timeout: float, instead_of: _Prepared | None = None) -> _Prepared | None:
        """The newest frame of the camera whose turn it is, preprocessed; None if none came in `timeout` s.

        instead_of: what is ready already; then only a newer frame of the same camera will do.
        """
        until = time.monotonic() + timeout
        count = len(self._captures)
        patience = timeout if count == 1 else 0.0  # of several none may be waited for alone
        while True:
            self._arrived.clear()  # before looking, so that no frame is missed
            turns = [(self._turn + 1 + i) % count for i in range(count)]
            for lane in turns if instead_of is None else [instead_of.lane]:
                if (frame := self._captures[lane].newest(self._last[lane], patience)) is not None:
                    self._last[lane], self._turn = frame.number, lane
                    return self._prepare_live(lane, frame)
            if all(capture.state.state == "ended" for capture in self._captures):
                self._prepared.close()
                return None
            if not self._arrived.wait(until - time.monotonic()):
                return None

    def _infer(self) -> None:
        usual = 0.0  # seconds that an inference takes, a moving average
        with self._inferred.feeding():
            # 1. Room first, then a frame: a frame taken early would grow old while the caller is busy.
            while self._inferred.wait_empty() and (prepared := self._take()) is not None:
                # 2. Announce when the network will be free, with a fifth of an inference to spare: a frame
                #    that is ready too soon costs a little work, one that is late leaves the network idle.
                start = time.monotonic()
                self._free = start + usual
                self._ahead_s = 0.2 * usual + prepared.ms["preprocess"] / 1000.0
                self._busy.set()
                # 3. Compute.
                heads = self._detectors[prepared.lane].infer(prepared.x)
                taken = time.monotonic() - start
                usual = taken if usual == 0.0 else 0.8 * usual + 0.2 * taken
                ms = {**prepared.ms, "inference": 1000.0 * taken}
                # 4. Copy: the next inference overwrites the engine's memory, while this result is decoded.
                #    Those of tiles are copies already, put together.
                copied = heads if isinstance(heads, TiledHeads) else Heads(*map(np.array, heads))
                if not self._inferred.put(_Inferred(prepared.lane, prepared.frame, copied, prepared.box, ms)):
                    return

    def _prepare(self, lane: int, frame: Frame) -> _Prepared:
        start = time.perf_counter()
        x, box = self._detectors[lane].prepare(frame.image)
        return _Prepared(lane, frame, x, box, {"preprocess": 1000.0 * (time.perf_counter() - start)})

    def _prepare_live(self, lane: int, frame: Frame) -> _Prepared | None:
        try:
            prepared = self._prepare(lane, frame)
        except Exception as error:
            if len(self._captures) == 1:
                raise
            if self._refused.get(lane) != str(error):  # not again for each frame
                self._refused[lane] = str(error)
                _log.error("%s: a frame cannot be used: %s", frame.source, error)
            return None
        self._refused.pop(lane, None)
        return prepared


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
    lane: int
    frame: Frame
    x: NDArray[Any] | TiledInput
    box: Letterbox | Tiling
    ms: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Inferred:
    lane: int
    frame: Frame
    heads: Heads | TiledHeads
    box: Letterbox | Tiling
    ms: dict[str, float]


def _age_ms(frame: Frame) -> float:
    return 1000.0 * (time.monotonic() - frame.captured)

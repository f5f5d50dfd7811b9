"""The newest frame of a camera, read on a thread, and opened again when the camera stops or freezes.

Two kinds of thread: a reader opens the camera once and reads it until it ends; the supervisor starts readers
one after the other. Both exist because a call into a driver may never return: Python cannot interrupt it, and
a thread that reads cannot watch itself. A reader that hangs is abandoned: a stream from the network is
interrupted, another camera is closed if the call ever returns.

Frames are read as fast as they come, also while nobody takes them. Drivers and network streams queue frames
that are not read, so a loop that reads only when it is ready would see the past.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_centernet.errors import ConfigError, EdgeCenterNetError, SourceError
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.sources.files import Video
from edge_centernet.sources.playback import Playback
from edge_centernet.system import heap

# Seconds from the beginning of one attempt to open to the next; the last one is repeated. Short at first,
# because a cable that was touched is back at once; never long, because nobody is there to restart it.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_MIN_PAUSE_S = 0.5  # after an attempt that took long
_STEADY_S = 10.0  # a camera that lived so long begins again with the shortest pause
_FIRST_OPENING_S = 40.0  # before the camera's own pace is known; sources have limits of their own, 15 s
_OPENING_S = 6.0  # later, or twice as long as the camera took before
_CLOSE_S = 1.5  # for the threads to end when all is closed
_TIDY_EVERY_S = 10.0  # between two times that freed memory is given back to the system
_MOST_HANGING = 4  # abandoned readers; each may hold a device, a socket and some megabytes


class LiveCapture:
    """The newest frame of a camera, through disconnections.

    name: of the source, as frames and messages carry it. live: always True.
    arrived: is set at each frame and at the end; who waits for several cameras gives them all the same one.
    """

    live = True
    skipped = 0  # as of other sources: files that could not be read
    stuck_s = 60.0  # without an attempt, because all hang: then the state is "stuck", and a watchdog may act

    def __init__(
        self,
        open: Callable[[], Video | Playback],
        name: str,
        *,
        frozen_s: float = 5.0,
        ends: bool = False,
        report: Callable[[str], None],
    ) -> None:
        """Check the options; nothing is opened before `start`.

        Args:
            open: opens the camera, on a thread of its own; called again after each loss.
            name: of the source, for frames and messages.
            frozen_s: seconds without a frame after which the camera is opened again, above 0.
            ends: whether the capture ends where what was opened does, without an error; a camera does not.
            report: gets one line when the camera is lost, freezes or is back; called on a thread of this
                object.

        Raises ConfigError for a frozen_s that is not above 0.
        """
        if not frozen_s > 0:
            raise ConfigError(f"frozen after: expected more than 0 seconds, got {frozen_s}")
        self.name = name
        self.arrived = threading.Event()
        self._open, self._frozen_s, self._ends, self._report = open, frozen_s, ends, report
        # Guards all below; notified of frames, the first failure and closing.
        self._changed = threading.Condition()
        self._created = time.monotonic()
        self._state = CaptureState()
        self._frame: Frame | None = None
        self._taken = True
        self._begin: float | None = None
        self._fps = 25.0
        self._failure: Exception | None = None  # of the first opening
        self._closed = False
        self._reader: _Reader | None = None
        self._hanging: list[_Reader] = []
        self._wait = False
        self._opening_s = _FIRST_OPENING_S
        self._tidied = self._created
        self._nudge = threading.Event()  # for the supervisor: a reader ended, or all is over
        self._supervisor = threading.Thread(target=self._supervise, name="capture", daemon=True)

    def start(self, wait: bool = False) -> None:
        """Open the camera and return when its first frame is there. To be called once.

        wait: return at once instead, and keep trying for as long as the camera is not there.
        Raises SourceError (or what `open` raised) when the camera cannot be opened; it is closed then.
        """
        self._wait = wait
        atexit.register(self.close)  # a thread inside OpenCV aborts the process when Python ends around it
        self._supervisor.start()
        if wait:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._frame is not None or self._failure is not None or self._closed
            )
            failure = self._failure
        if failure is not None:
            self.close()
            raise failure

    def newest(self, after: int, timeout: float | None = None) -> Frame | None:
        """The newest frame if its number is above `after`; waits `timeout` seconds for it, None for ever.

        None when none came in time, and at once when the capture has ended or is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._state.state == "ended" or self._newer(after), timeout)
            if not self._newer(after):
                return None
            self._taken = True
            return self._frame

    @property
    def state(self) -> CaptureState:
        """The current state of the camera."""
        with self._changed:
            return self._state

    @property
    def fps(self) -> float:
        """Frames per second as the camera reports them, always positive; 25 until it is known."""
        with self._changed:
            return self._fps

    def close(self) -> None:
        """Stop reading and release the camera. Takes less than 2 s even if the camera hangs."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._frame = None
            self._state = replace(self._state, state="ended", detail="")
            reader = self._reader
            self._changed.notify_all()
        self.arrived.set()
        self._nudge.set()
        if reader is not None:
            reader.interrupt()
        atexit.unregister(self.close)
        until = time.monotonic() + _CLOSE_S
        for thread in (self._supervisor, reader.thread if reader else None):
            if thread is not None and thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _newer(self, after: int) -> bool:
        return self._frame is not None and self._frame.number > after

    # ---- the supervisor's thread -----------------------------------------------------------------

    def _supervise(self) -> None:
        attempt = 0
        while True:
            # 1. Open the camera on a new thread.
            with self._changed:
                if self._closed:
                    return
                self._reader = reader = _Reader(self._open, self._deliver, self._nudge, self.name)
                reader.thread.start()
            # 2. Watch it until it is lost.
            loss = self._watch(reader)
            if loss is None:
                return
            if self._ends and reader.ended:
                with self._changed:
                    self._state = replace(self._state, state="ended", detail="")
                    self._changed.notify_all()
                return
            # 3. A camera that could not be opened at all is an error of whoever started it, who is waiting.
            if self.state.frames == 0 and not self._wait:
                with self._changed:
                    self._failure = loss.error
                    self._changed.notify_all()
                return
            self._lose(loss, was_live=reader.frames > 0)
            # 4. Pause, longer with each attempt that fails.
            if reader.last - reader.started > _STEADY_S:
                attempt = 0
            due = reader.started + _PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]
            self._sleep(max(_MIN_PAUSE_S, due - time.monotonic()))
            attempt += 1
            # 5. Wait until few enough readers hang; report it if they seem to do so for good.
            since = time.monotonic()
            while not self._closed:
                self._hanging = [reader for reader in self._hanging if reader.thread.is_alive()]
                if len(self._hanging) < _MOST_HANGING:
                    break
                if self._state.state != "stuck" and time.monotonic() - since > self.stuck_s:
                    detail = "the driver blocks every attempt to open it; only a new process can help"
                    with self._changed:
                        self._state = replace(self._state, state="stuck", detail=detail)
                    self._notify(detail)
                self._sleep(0.25)

    def _watch(self, reader: _Reader) -> _Loss | None:
        """Wait until a reader ends or hangs: why, or None when the capture is closed."""
        while True:
            self._nudge.clear()  # before looking, so that nothing that happens meanwhile is missed
            with self._changed:
                if self._closed:
                    return None
                limit = self._frozen_s if reader.frames else self._opening_s
                left = reader.last + limit - time.monotonic()
                if reader.error is not None or left <= 0:
                    self._reader = None  # from now on its frames are refused
                    if reader.error is not None:
                        return _Loss(False, reader.error)
                    self._hanging.append(reader)
                    reader.interrupt()
                    what = "no new frame" if reader.frames else "no answer"
                    return _Loss(reader.frames > 0, SourceError(f"{self.name}: {what} for {limit:.3g} s"))
            self._nudge.wait(left)
            # On this thread, because it has nothing else to do; it takes half a millisecond.
            if time.monotonic() - self._tidied >= _TIDY_EVERY_S:
                self._tidied = time.monotonic()
                heap.give_back()

    def _lose(self, loss: _Loss, was_live: bool) -> None:
        """Note that the camera is gone, and report it once: not again for each attempt that fails."""
        detail = str(loss.error).removeprefix(f"{self.name}: ")
        with self._changed:
            before = self._state
            if self._closed:
                return
            state = ("frozen" if loss.frozen else "lost") if was_live else before.state
            self._state = replace(before, state=state, detail=detail)
        if was_live:
            self._notify(f"{state}, opening it again until it is back: {detail}")
        elif before.frames == 0 and not before.detail:
            self._notify(f"not there yet, waiting for it: {detail}")

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _notify(self, line: str) -> None:
        # A closed stderr or a failing listener must not end the capture.
        with contextlib.suppress(Exception):
            self._report(f"{self.name}: {line}")

    # ---- called on a reader's thread -------------------------------------------------------------

    def _deliver(self, reader: _Reader, video: Video | Playback, frame: Frame) -> bool:
        """Take a frame; False when this reader is no longer wanted."""
        with self._changed:
            if self._closed or reader is not self._reader:
                return False
            before = self._state
            # 1. The reader is alive, and its camera's pace known from its first frame on.
            reader.last = time.monotonic()
            reader.frames += 1
            if reader.frames == 1:
                self._fps = video.fps
                self._opening_s = max(_OPENING_S, 2 * (reader.last - reader.started))
                self._nudge.set()  # another limit holds now
            # 2. One numbering and one clock for all readers: tracks and counts go on after an interruption.
            if self._begin is None:
                self._begin = frame.captured
            seconds = frame.captured - self._begin
            self._frame = replace(frame, source=self.name, number=before.frames, seconds=seconds)
            self._state = CaptureState(
                state="live",
                reopened=before.reopened + (reader.frames == 1 and before.frames > 0),
                frames=before.frames + 1,
                dropped=before.dropped + (not self._taken),
                last_frame=frame.captured,
            )
            self._taken = False
            self._changed.notify_all()
        self.arrived.set()
        # 3. Reported outside the lock, because a listener may take its time.
        if before.state != "live" and before.detail:
            gone = frame.captured - (self._created if before.last_frame is None else before.last_frame)
            self._notify(f"{'there' if before.last_frame is None else 'back'} after {gone:.1f} s")
        return True


@dataclass(frozen=True)
class _Loss:
    """Why a reader's camera is gone. frozen: it gave frames, and then no more, without an error."""

    frozen: bool
    error: Exception


class _Reader:
    """One opening of the camera, read until it ends or nobody wants its frames."""

    def __init__(
        self,
        open: Callable[[], Video | Playback],
        deliver: Callable[[_Reader, Video | Playback, Frame], bool],
        nudge: threading.Event,
        name: str,
    ) -> None:
        self._open, self._deliver, self._nudge, self._name = open, deliver, nudge, name
        self.started = self.last = time.monotonic()  # last: when it gave a frame
        self.frames = 0
        self.error: Exception | None = None  # set when it has ended
        self.ended = False  # set before that, if there was nothing left to read
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._video: Video | Playback | None = None  # once it is open; opening has limits of its own

    def interrupt(self) -> None:
        """End a read that hangs, if the camera can do that. For other threads."""
        if (video := self._video) is not None:
            video.interrupt()

    def _run(self) -> None:
        try:
            self._video = video = self._open()
            try:
                for frame in video:
                    if not self._deliver(self, video, frame):
                        break
                else:
                    self.ended = True
            finally:
                video.close()
                self._video = None
                heap.give_back()
            self.error = SourceError(f"{self._name}: it ended")
        except EdgeCenterNetError as known:
            # Without the stack that it came through: it holds this reader and its last image, and they would
            # stay until the next full garbage collection, minutes later.
            known.__context__ = known.__cause__ = None
            self.error = known.with_traceback(None)
        except Exception as surprise:  # of a driver; it must not end the watch over the camera
            self.error = SourceError(f"{self._name}: {type(surprise).__name__}: {surprise}")
        self._nudge.set()

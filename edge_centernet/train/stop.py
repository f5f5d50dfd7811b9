"""How training is stopped: Ctrl-C and SIGTERM are answered at once, and nothing that was learned is lost.

Importing this loads nothing heavy, so that `edge-centernet train` listens before it loads PyTorch.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def launched_rank() -> int | None:
    """This process's number where torchrun started it, as one of several; None otherwise."""
    rank = os.environ.get("RANK")
    return None if rank is None else int(rank)


class StopRequest:
    """Ctrl-C and SIGTERM: heeded at once where the work can be done again, elsewhere when that is reached.

    made: whether one has come.
    """

    def __init__(self) -> None:
        """Nothing has been asked."""
        self.made = False
        self._at_once = False
        self._listening = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen for the duration of the block, and answer on the screen; a block inside one does nothing."""
        if self._listening:
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.made = True
            if self._at_once:
                raise KeyboardInterrupt

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, stop) for number in signals}
        self._listening = True
        with self._answers():
            try:
                yield
            finally:
                self._listening = False
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise KeyboardInterrupt for a signal inside the block, and for one that has come before it."""
        if self.made:
            raise KeyboardInterrupt
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside `at_once`: hold a signal back until the block, such as one that saves, is over."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before
        if before and self.made:
            raise KeyboardInterrupt

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Say that a signal was heard, also where the work is one long call in which Python hears nothing."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._answer, args=(reader,), name="answer-signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            writer.shutdown(socket.SHUT_RDWR)  # closing would not do: loading workers have it open, too
            thread.join()
            writer.close()
            reader.close()

    def _answer(self, reader: socket.socket) -> None:
        """In a thread: one line for the first signal of the two."""
        rank = launched_rank()
        said = bool(rank)  # by the first process
        while numbers := reader.recv(64):
            if not said and any(number in (signal.SIGINT, signal.SIGTERM) for number in numbers):
                said = True
                when = "" if rank is None or self._at_once else " after this step"
                # Not by tqdm or sys.stderr: the main thread may hold their locks.
                os.write(2, f"\nStopping{when}.\n".encode())

"""Keep C libraries from writing to standard error: our own exceptions say it once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


def silence_opencv() -> None:
    """Stop OpenCV's own lines on stderr: what goes wrong is reported by our exceptions."""
    logging = getattr(cv2.utils, "logging", None)  # moved between OpenCV releases
    quiet = getattr(logging, "setLogLevel", None) or getattr(cv2, "setLogLevel", None)
    if quiet is not None:
        quiet(0)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what C libraries write to file descriptor 2 (libpng, FFmpeg, XNNPACK): our exceptions say it once.

    Affects the whole process; nested and concurrent use is safe, descriptor 2 comes back when the last one
    leaves.
    """
    silence_opencv()
    _Stderr.hide()
    try:
        yield
    finally:
        _Stderr.show()


class _Stderr:
    """Descriptor 2, counted, so that threads may hide it at the same time."""

    lock = threading.Lock()
    users = 0
    saved = -1

    @classmethod
    def hide(cls) -> None:
        with cls.lock:
            cls.users += 1
            if cls.users > 1:
                return
            try:
                cls.saved = os.dup(2)
            except OSError:  # stderr is closed: nothing to hide
                return
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 2)
            os.close(devnull)

    @classmethod
    def show(cls) -> None:
        with cls.lock:
            cls.users -= 1
            if cls.users == 0 and cls.saved >= 0:
                os.dup2(cls.saved, 2)
                os.close(cls.saved)
                cls.saved = -1

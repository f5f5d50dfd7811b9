"""Return free memory to the system, in a process that runs for months.

glibc gives each new thread an arena of its own, up to eight for each core, and keeps what is freed there for
the next threads of that arena. A camera that is opened again is a new thread each time: its images come from
another arena, and those of the last one stay resident. What an arena holds free differs by several megabytes
from one opening to the next; returned from time to time, it can neither hide a leak nor look like one. With
other C libraries (musl, macOS) both functions do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

_M_ARENA_MAX = -8  # malloc.h


def share_arenas(most: int = 2) -> bool:
    """Let all threads share at most so many arenas; returns whether the C library did it.

    To be called before the threads start: an arena that exists stays.
    """
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, most))


def give_back() -> bool:
    """Return free memory to the system, which takes milliseconds; returns whether there was any."""
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(ctypes.c_size_t(0)))


@functools.cache
def _function(name: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

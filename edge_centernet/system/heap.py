"""Memory that is free goes back to the system, in a process that runs for months.

glibc gives each new thread its own arena, up to eight a core, and keeps what is freed there for that arena's
next threads. A camera that is opened again is a new thread each time: its pictures come from another arena,
and the last one's stay resident. What an arena keeps free differs from one opening to the next by several
megabytes; given back from time to time, it cannot hide a leak, nor look like one. Elsewhere (musl, macOS)
both functions do nothing.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_ARENA_MAX = -8  # malloc.h


def share_arenas(most: int = 2) -> bool:
    """Let all threads share so many arenas; to be called before they start. Whether the C library took it."""
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, most))


def give_back() -> bool:
    """Return free memory to the system, which takes milliseconds. Whether there was any."""
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(ctypes.c_size_t(0)))


def _function(name: str) -> Any:
    """Of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

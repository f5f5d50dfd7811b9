"""How the C library is compiled and looked at by the tests of its files."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

import edge_centernet.decoder

SOURCES = Path(edge_centernet.decoder.__file__).parent
STRICT = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
BUILDS = {
    "plain": ["-std=c99", "-O2"],
    "sanitized": ["-std=c99", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    # What a careless firmware build does; rounded() must keep the bits anyway.
    "contracting": ["-std=gnu99", "-O3", "-ffp-contract=fast", "-march=native"],
}
LEVELS = ["-O0", "-Os", "-O2", "-O3"]


class CImage(ctypes.Structure):
    """ecn_image."""

    _fields_ = [("data", ctypes.c_void_p), ("chroma", ctypes.c_void_p)] + [
        (name, ctypes.c_int32) for name in ("format", "width", "height", "stride", "chroma_stride")
    ]


class CInput(ctypes.Structure):
    """ecn_input."""

    _fields_ = [("data", ctypes.c_void_p), ("table", ctypes.c_void_p)] + [
        (name, ctypes.c_int32) for name in ("width", "height", "dtype", "layout", "color", "pad")
    ]


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Standard output; fails the test with everything the command said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def cpp_compiler() -> str:
    """The first of c++, g++, clang++; skips the test without any."""
    cpp = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if cpp is None:
        pytest.skip("no C++ compiler: install g++ or clang++")
    return cpp


def symbols(compiler: str, level: str, source: Path, library: Path) -> list[tuple[str, str]]:
    """(kind as nm has it, name) of each symbol in the object file that `source` becomes."""
    flags = ["-std=c99", level, "-fno-stack-protector", "-fno-pic"]
    run(compiler, *flags, *STRICT, "-c", source, "-o", library)
    words = [line.split() for line in run("nm", library).splitlines()]
    return [(word[-2], word[-1]) for word in words]

"""For which machines, Pythons and C libraries there are engines on PyPI: why one cannot be installed.

The newest releases, as docs/benchmarks/wheels.json has them (scripts/wheel_matrix.py); a test compares.
"""

from __future__ import annotations

from typing import NamedTuple

Version = tuple[int, int]


class Wheel(NamedTuple):
    """Wheels of a package for one machine: the Pythons, oldest and newest, and the oldest glibc."""

    package: str
    machine: str
    oldest_python: Version
    newest_python: Version
    glibc: Version


WHEELS = (
    Wheel("ai-edge-litert", "aarch64", (3, 10), (3, 14), (2, 27)),
    Wheel("ai-edge-litert", "x86_64", (3, 10), (3, 14), (2, 27)),
    Wheel("tflite-runtime", "aarch64", (3, 10), (3, 11), (2, 34)),
    Wheel("tflite-runtime", "armv7l", (3, 10), (3, 11), (2, 34)),
    Wheel("tflite-runtime", "x86_64", (3, 10), (3, 11), (2, 17)),
    Wheel("openvino", "aarch64", (3, 10), (3, 14), (2, 35)),
    Wheel("openvino", "x86_64", (3, 10), (3, 14), (2, 28)),
    Wheel("onnxruntime", "aarch64", (3, 10), (3, 14), (2, 28)),
    Wheel("onnxruntime", "x86_64", (3, 10), (3, 14), (2, 28)),
)
# Where the newest release needs a newer glibc than there is: (package, machine) -> (oldest glibc, what to install).
OLDER = {
    ("openvino", "aarch64"): ((2, 31), "openvino<2025.3"),
    ("openvino", "x86_64"): ((2, 17), "openvino<2026"),
    ("tflite-runtime", "aarch64"): ((2, 17), "tflite-runtime<2.14"),
    ("tflite-runtime", "armv7l"): ((2, 17), "tflite-runtime<2.14"),
    ("onnxruntime", "aarch64"): ((2, 27), "onnxruntime<1.24"),
    ("onnxruntime", "x86_64"): ((2, 27), "onnxruntime<1.24"),
}


def for_machine(machine: str) -> tuple[Wheel, ...]:
    """Those for a machine, whatever its Python and glibc."""
    return tuple(wheel for wheel in WHEELS if wheel.machine == machine)


def for_python(machine: str, python: Version) -> tuple[Wheel, ...]:
    """Those for a machine and a Python."""
    return tuple(w for w in for_machine(machine) if w.oldest_python <= python <= w.newest_python)


def for_glibc(machine: str, glibc: Version) -> tuple[Wheel, ...]:
    """Those whose newest release runs with a glibc."""
    return tuple(wheel for wheel in for_machine(machine) if wheel.glibc <= glibc)


def requirement(package: str, machine: str, glibc: Version | None) -> str | None:
    """What to ask pip for; an older release where the glibc is old, None where there is none for it."""
    wheel = next((wheel for wheel in for_machine(machine) if wheel.package == package), None)
    if wheel is None:
        return None
    if glibc is None or wheel.glibc <= glibc:
        return package
    oldest, older = OLDER.get((package, machine), ((99, 0), ""))
    return older if oldest <= glibc else None

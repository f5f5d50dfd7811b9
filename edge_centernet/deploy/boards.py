"""The boards that a bundle can be made for: processor, Python, engine and model format of each.

docs/devices.md says how each was tested: on silicon, emulated, or by construction (its parts alone).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

from edge_centernet.errors import ConfigError
from edge_centernet.runtimes.engines import Engine, engine_of_package, packages

LOCKS = Path(__file__).parent / "locks.json"  # written by scripts/lock_wheels.py
PACKAGES = tuple(packages())  # the values of `--engine`: an engine is named by its package


@dataclass(frozen=True)
class Target:
    """One kind of board.

    machine: as `uname -m` prints it.
    python: version of the board's usual system, such as "3.11".
    engine: one of PACKAGES.
    model: name of the shipped model that suits the board.
    symmetric: whether the model file is the one for TensorRT, which takes no zero points but 0.
    system_packages: whether the board's own Python packages stay visible (picamera2, OpenCV with GStreamer,
        NumPy where PyPI has none).
    apt: Debian packages that are needed for this, named in the message that asks for them.
    left_out: packages of the lock that they replace.
    """

    name: str
    board: str
    machine: str
    python: str
    engine: str
    model: str = "centernet-mbv2-320"
    symmetric: bool = False
    system_packages: bool = False
    apt: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def runtime(self) -> Engine:
        """The engine that is in the package."""
        return engine_of_package(self.engine)

    @property
    def lock(self) -> list[str]:
        """A requirements line with version and hash for every wheel; empty where there are no wheels."""
        return locks().get(f"{self.machine}-py{self.python.replace('.', '')}-{self.engine}", [])

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc that all of its wheels run with (docs/devices.md)."""
        # Wheels for x86 are built on older systems than those for ARM: 2.28 was enough for all of them.
        return min(arm_glibc(self.engine), (2, 28)) if self.machine == "x86_64" else arm_glibc(self.engine)


def arm_glibc(package: str) -> tuple[int, int]:
    """The oldest glibc that a package's wheels for ARM run with."""
    wheel = packages()[package].wheel("aarch64")
    assert wheel is not None, f"{package} has no wheels for aarch64"
    return wheel.glibc


_BOOKWORM = "Raspberry Pi OS Bookworm, 64 bit"
_PI = Target("pi4", f"Raspberry Pi 4, {_BOOKWORM}", "aarch64", "3.11", "ai-edge-litert", system_packages=True)
_JETSON = Target("jetson-nano", "Jetson Nano with Python 3.10, CPU only", "aarch64", "3.10", "ai-edge-litert")
TARGETS = {
    target.name: target
    for target in (
        _PI,
        replace(_PI, name="pi5", board=f"Raspberry Pi 5, {_BOOKWORM}"),
        replace(_PI, name="pi3", board=f"Raspberry Pi 3, {_BOOKWORM}", model="centernet-nano-256"),
        replace(_PI, name="pizero2", board=f"Raspberry Pi Zero 2 W, {_BOOKWORM}", model="centernet-nano-256"),
        replace(
            _JETSON,
            name="jetson-orin",
            board="Jetson Orin, JetPack 6",
            engine="onnxruntime",
            symmetric=True,
            system_packages=True,
            # PyPI's OpenCV has no GStreamer, without which a Jetson's CSI cameras give no image.
            apt=("python3-opencv",),
            left_out=("opencv-python-headless",),
        ),
        replace(_JETSON, model="centernet-nano-256"),
        Target("generic-arm64", "64-bit ARM, Debian 12", "aarch64", "3.11", "ai-edge-litert"),
        Target(
            "generic-armhf",
            "32-bit ARM, Debian 12",
            "armv7l",
            "3.11",
            "tflite-runtime",
            model="centernet-nano-256",
            system_packages=True,
            apt=("python3-numpy", "python3-opencv"),
        ),
        Target("x86", "64-bit PC, Debian 12", "x86_64", "3.11", "openvino"),
    )
}


@functools.cache
def locks() -> dict[str, list[str]]:
    """MACHINE-pyXY-ENGINE -> the requirements lines of a bundle's wheels, in the order of their names."""
    found: dict[str, list[str]] = json.loads(LOCKS.read_text(encoding="utf-8"))
    return found


def find_target(name: str, python: str | None = None, engine: str | None = None) -> Target:
    """The target of that name, with another Python or engine if given.

    Raises ConfigError for an unknown name, and for a combination that has no wheels.
    """
    if name not in TARGETS:
        raise ConfigError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}")
    target = TARGETS[name]
    engine = engine or target.engine
    if engine not in PACKAGES:
        raise ConfigError(f"engine: expected one of {', '.join(PACKAGES)}, got {engine!r}")
    target = replace(
        target,
        python=python or target.python,
        engine=engine,
        # Only ONNX Runtime can pass the symmetric model on to TensorRT; other engines read their own format.
        symmetric=target.symmetric and engine == "onnxruntime",
    )
    if not target.lock:
        prefix = f"{target.machine}-"
        known = [name.removeprefix(prefix) for name in locks() if name.startswith(prefix)]
        raise ConfigError(
            f"target {name}: no wheels of {engine} for Python {target.python} on {target.machine}; "
            f"expected one of {', '.join(known)}"
        )
    return target


def platforms(machine: str, glibc: tuple[int, int]) -> list[str]:
    """The wheel tags that run on a machine with that glibc, the newest first (PEP 600)."""
    # PEP 600 names each glibc; 2.17 and 2.5 also have the names manylinux2014 and manylinux1 of before.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc[1], 16, -1)]
    legacy = ["manylinux1_x86_64"] if machine == "x86_64" else []
    return [*tags, f"manylinux2014_{machine}", *legacy]

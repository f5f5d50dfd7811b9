"""The boards that a bundle can be made for: processor, Python, engine and model format of each.

What a board can run decides; docs/devices.md says which of it was seen on silicon, emulated, or is by
construction.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

from edge_centernet.errors import ConfigError
from edge_centernet.runtimes.engines import Engine, engine_of_package, packages

LOCKS = Path(__file__).parent / "locks.json"  # by scripts/lock_wheels.py
PACKAGES = tuple(packages())  # what `--engine` takes: an engine by its package


@dataclass(frozen=True)
class Target:
    """One kind of board.

    machine: as `uname -m` prints it. python: "3.11". engine: one of PACKAGES. symmetric: whether the model
    file is the one for TensorRT. system_packages: whether the board's own Python packages stay visible
    (picamera2, OpenCV with GStreamer, NumPy where PyPI has none). apt: what they are, for the message that
    asks for them.
    left_out: packages of the lock that they stand in for.
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
        """The engine that the package brings."""
        return engine_of_package(self.engine)

    @property
    def lock(self) -> list[str]:
        """Every wheel with its version and hash, a requirements line each; none where the combination has no wheels."""
        return locks().get(f"{self.machine}-py{self.python.replace('.', '')}-{self.engine}", [])

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc that all of its wheels run with (docs/devices.md)."""
        return min(arm_glibc(self.engine), (2, 28)) if self.machine == "x86_64" else arm_glibc(self.engine)


def arm_glibc(package: str) -> tuple[int, int]:
    """The oldest glibc that a package's wheels for ARM run with; those for x86 are content with 2.28."""
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
            # PyPI's has no GStreamer, without which a Jetson's CSI cameras give no picture.
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
    """MACHINE-pyXY-ENGINE -> a requirements line with version and hash for every wheel of a bundle, by name."""
    found: dict[str, list[str]] = json.loads(LOCKS.read_text(encoding="utf-8"))
    return found


def find_target(name: str, python: str | None = None, engine: str | None = None) -> Target:
    """The target of that name, for another Python or with another engine if asked.

    Raises ConfigError for a name that is none, and where no wheels are known for the combination.
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
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc[1], 16, -1)]
    legacy = (
        [f"manylinux2014_{machine}"]
        if machine != "x86_64"
        else [f"manylinux2014_{machine}", "manylinux1_x86_64"]
    )
    return [*tags, *legacy]

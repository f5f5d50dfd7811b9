"""The engines: one record for each, and opening a model with one.

Reading the records loads neither an engine nor NumPy. To add an engine, write its adapter (a class with the
methods of `runtimes.base.Runtime`) and one record here.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from edge_centernet.artifact import check_content, check_exists, read_manifest
from edge_centernet.errors import ConfigError, MissingDependency

if TYPE_CHECKING:  # it needs NumPy: which engines there are can be asked where NumPy does not load
    from edge_centernet.runtimes.base import Runtime

Version = tuple[int, int]


@dataclass(frozen=True)
class Wheel:
    """The systems that PyPI has a package for.

    machine: as `uname -m` prints it. oldest_python, newest_python: both included.
    glibc: the oldest that the newest release runs with.
    older: for systems with an older glibc: the oldest glibc that an earlier release runs with, and what to
        ask pip for.
    """

    package: str
    machine: str
    oldest_python: Version
    newest_python: Version
    glibc: Version
    older: tuple[Version, str] | None = None


@dataclass(frozen=True)
class Package:
    """A Python package that brings an engine.

    name: its name on PyPI.
    module: what is imported.
    probe: the module that the adapter imports first; `doctor` tries it in a process of its own.
    wheels: one for each machine.
    other_names: the names under which other builds of it are published.
    blocked: modules by which it would report its use to somebody; it works without them.
    """

    name: str
    module: str
    probe: str
    wheels: tuple[Wheel, ...]
    other_names: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the module `probe`, with `blocked` made impossible to import in this process.

        Raises ImportError where it is not installed, and whatever a damaged installation raises.
        """
        for name in self.blocked:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]
        return import_module(self.probe)

    def wheel(self, machine: str) -> Wheel | None:
        """Its wheels for a machine, as `uname -m` prints it; None where there are none."""
        return next((wheel for wheel in self.wheels if wheel.machine == machine), None)


@dataclass(frozen=True)
class Engine:
    """An inference engine.

    name: what `--runtime` calls it. title: its name for people.
    suffix: of the model files that it runs.
    adapter: "module:class", a `Runtime` that is made from a path and a number of threads.
    devices: whether it runs on other devices than the CPU; its adapter then takes the name of one, too.
    packages: any one of them will do; the first is preferred.
    extra: the pip extra that installs one of them.
    targets: those of `edge-centernet convert` whose files it runs, the usual one first.
    """

    name: str
    title: str
    suffix: str
    adapter: str
    packages: tuple[Package, ...]
    extra: str
    targets: tuple[str, ...]
    devices: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules of its packages."""
        return tuple(package.module for package in self.packages)

    @property
    def package(self) -> Package | None:
        """The package that would be imported, found without importing it; None if none is installed."""
        return next((package for package in self.packages if is_installed(package.module)), None)

    def load_adapter(self) -> Callable[..., Runtime]:
        """Import the adapter's module, and with it the engine; returns the adapter's class."""
        # A text instead of the class itself: naming the class here would import every engine.
        module, _, attribute = self.adapter.partition(":")
        adapter: Callable[..., Runtime] = getattr(import_module(module), attribute)
        return adapter


# The wheels are those of the newest releases, as docs/benchmarks/wheels.json has them
# (scripts/wheel_matrix.py); a test compares them.
# `import openvino` reports itself to Google Analytics, unless its telemetry is not installed.
OPENVINO = Package(
    "openvino",
    module="openvino",
    probe="openvino",
    blocked=("openvino_telemetry",),
    wheels=(
        Wheel("openvino", "aarch64", (3, 10), (3, 14), (2, 35), older=((2, 31), "openvino<2025.3")),
        Wheel("openvino", "x86_64", (3, 10), (3, 14), (2, 28), older=((2, 17), "openvino<2026")),
    ),
)


def openvino_core() -> Any:
    """OpenVINO's `Core`, one in a process; a fork gets its own. Nothing else makes one.

    Its CPU plugin installs a stack for signals, and puts back the one before when it ends. Of two that end in
    the order in which they began, the second puts back what the first has freed, and the next signal ends the
    process with SIGSEGV (seen with 2026.4). The only one, which never ends, frees nothing.
    """
    return _core_of(os.getpid())


@functools.cache
def _core_of(process: int) -> Any:
    return OPENVINO.load().Core()


_LITERT = Package(
    "ai-edge-litert",
    module="ai_edge_litert",
    probe="ai_edge_litert.interpreter",
    wheels=(
        Wheel("ai-edge-litert", "aarch64", (3, 10), (3, 14), (2, 27)),
        Wheel("ai-edge-litert", "x86_64", (3, 10), (3, 14), (2, 27)),
    ),
)
# It needs NumPy below 2, but it is the only one for 32-bit ARM and the only one that runs under qemu-user.
_TFLITE_RUNTIME = Package(
    "tflite-runtime",
    module="tflite_runtime",
    probe="tflite_runtime.interpreter",
    wheels=(
        Wheel("tflite-runtime", "aarch64", (3, 10), (3, 11), (2, 34), older=((2, 17), "tflite-runtime<2.14")),
        Wheel("tflite-runtime", "armv7l", (3, 10), (3, 11), (2, 34), older=((2, 17), "tflite-runtime<2.14")),
        Wheel("tflite-runtime", "x86_64", (3, 10), (3, 11), (2, 17)),
    ),
)
_ONNXRUNTIME = Package(
    "onnxruntime",
    module="onnxruntime",
    probe="onnxruntime",
    wheels=(
        Wheel("onnxruntime", "aarch64", (3, 10), (3, 14), (2, 28), older=((2, 27), "onnxruntime<1.24")),
        Wheel("onnxruntime", "x86_64", (3, 10), (3, 14), (2, 28), older=((2, 27), "onnxruntime<1.24")),
    ),
    other_names=("onnxruntime-gpu",),
)

ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "openvino",
            title="OpenVINO",
            suffix=".xml",
            adapter="edge_centernet.runtimes.ov:OpenVINORuntime",
            packages=(OPENVINO,),
            extra="openvino",
            targets=("openvino", "openvino-boxes"),
            devices=True,
        ),
        Engine(
            "tflite",
            title="TFLite",
            suffix=".tflite",
            adapter="edge_centernet.runtimes.tflite:TFLiteRuntime",
            packages=(_LITERT, _TFLITE_RUNTIME),
            extra="tflite",
            targets=("tflite", "tflite-uint8"),
        ),
        Engine(
            "onnxruntime",
            title="ONNX Runtime",
            suffix=".onnx",
            adapter="edge_centernet.runtimes.ort:ONNXRuntime",
            packages=(_ONNXRUNTIME,),
            extra="onnxruntime",
            targets=("onnx", "tensorrt"),
        ),
    )
}
NAMES = ("auto", *ENGINES)
CPU = "CPU"  # the device that every engine has
# One model is opened at a time: two threads that ask OpenVINO 2026.4 for a dtype for the first time can wait
# for each other forever.
_opening = Lock()


def open_runtime(
    path: str | Path, runtime: str = "auto", threads: int | None = None, device: str = CPU
) -> Runtime:
    """Open a model file (.xml, .tflite or .onnx) with its engine.

    runtime: one of NAMES; auto goes by the suffix. threads: CPU threads, None leaves it to the engine.
    device: OpenVINO's name of the device that computes, such as "GPU", in any case.
    Several threads may call it; they take turns.
    Raises ArtifactError for a file that is damaged, not ours or not what its manifest says, ConfigError for
    an engine that does not run this kind of file or has no such device, MissingDependency when the engine is
    not installed.
    """
    path = Path(path)
    check_exists(path)
    engine = engine_by_suffix(path)
    if runtime not in ("auto", engine.name):
        other = engine_by_name(runtime)
        raise ConfigError(
            f"{path}: {runtime} runs {other.suffix} files; use --runtime {engine.name}, "
            f"or make one with 'edge-centernet convert --target {other.targets[0]}'"
        )
    check_device(engine, device)
    if engine.package is None:
        raise MissingDependency.for_extra(engine.title, engine.extra)
    # Before the engine sees the file: it may open a damaged one and compute nonsense.
    check_content(path, read_manifest(path))
    with _opening:
        if engine.devices:
            return engine.load_adapter()(path, threads, device)
        return engine.load_adapter()(path, threads)


def is_cpu(device: str) -> bool:
    """Whether a device, as a user writes it, is the CPU."""
    return device.strip().upper() == CPU


def check_device(engine: Engine, device: str) -> None:
    """Raise ConfigError for another device than the CPU with an engine that runs nowhere else."""
    if not is_cpu(device) and not engine.devices:
        raise ConfigError(
            f"device: expected CPU with {engine.title}, got {device!r}; only OpenVINO runs on other devices: "
            "use --runtime openvino and an .xml file"
        )


def engine_by_name(name: str) -> Engine:
    """The record of that name. Raises ConfigError for a name that is none."""
    if name not in ENGINES:
        raise ConfigError(f"runtime: expected one of {', '.join(NAMES)}, got {name!r}")
    return ENGINES[name]


def engine_by_suffix(path: Path) -> Engine:
    """The engine that runs this kind of file; the path must have passed `artifact.check_exists`."""
    return next(engine for engine in ENGINES.values() if engine.suffix == path.suffix.lower())


def engine_of_package(package: str) -> Engine:
    """The engine that a package of that name on PyPI brings. Raises KeyError for a name that is none."""
    for engine in ENGINES.values():
        if any(one.name == package for one in engine.packages):
            return engine
    raise KeyError(package)


def packages() -> dict[str, Package]:
    """The packages of all engines, by their names on PyPI."""
    return {package.name: package for engine in ENGINES.values() for package in engine.packages}


def installed(name: str) -> bool:
    """Whether a package of the engine is there, without importing it."""
    return ENGINES[name].package is not None


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a finder refuses it, or it was imported without a spec
        return False


# ---- wheels: why an engine cannot be installed -----------------------------------------------------


def wheels_for_machine(machine: str) -> tuple[Wheel, ...]:
    """Those for a machine, whatever its Python and glibc."""
    found = (package.wheel(machine) for package in packages().values())
    return tuple(wheel for wheel in found if wheel is not None)


def wheels_for_python(machine: str, python: Version) -> tuple[Wheel, ...]:
    """Those for a machine and a Python."""
    return tuple(w for w in wheels_for_machine(machine) if w.oldest_python <= python <= w.newest_python)


def wheels_for_glibc(machine: str, glibc: Version) -> tuple[Wheel, ...]:
    """Those whose newest release runs with a glibc."""
    return tuple(wheel for wheel in wheels_for_machine(machine) if wheel.glibc <= glibc)


def requirement(package: str, machine: str, glibc: Version | None) -> str | None:
    """What to ask pip for: an older release where the glibc is old, None where no release runs."""
    known = packages().get(package)
    wheel = None if known is None else known.wheel(machine)
    if wheel is None:
        return None
    if glibc is None or wheel.glibc <= glibc:
        return package
    if wheel.older is not None and wheel.older[0] <= glibc:
        return wheel.older[1]
    return None

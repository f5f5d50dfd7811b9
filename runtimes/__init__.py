"""Inference engines behind one protocol. Importing this imports none of them."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from edge_centernet.artifact import check_content, check_exists, read_manifest
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.model_zoo import find_model, is_name, ships

if TYPE_CHECKING:  # it needs NumPy: which engines there are can be asked where NumPy does not load
    from edge_centernet.runtimes.base import Runtime


class Engine(NamedTuple):
    """How to open one kind of file: its suffix, the adapter, the modules that would do, the pip extra."""

    title: str
    suffix: str
    adapter: str
    modules: tuple[str, ...]
    extra: str


ENGINES = {
    "openvino": Engine("OpenVINO", ".xml", "edge_centernet.runtimes.ov:OpenVINORuntime", ("openvino",), "openvino"),
    "tflite": Engine(
        "TFLite",
        ".tflite",
        "edge_centernet.runtimes.tflite:TFLiteRuntime",
        ("ai_edge_litert", "tflite_runtime"),
        "tflite",
    ),
    "onnxruntime": Engine(
        "ONNX Runtime", ".onnx", "edge_centernet.runtimes.ort:ONNXRuntime", ("onnxruntime",), "onnxruntime"
    ),
}
NAMES = ("auto", *ENGINES)
# One model is opened at a time: two threads that ask OpenVINO 2026.4 for a dtype for the first time can wait forever.
_opening = Lock()


def open_runtime(path: str | Path, runtime: str = "auto", threads: int | None = None) -> Runtime:
    """Open a model file (.xml, .tflite or .onnx) with its engine.

    runtime: one of NAMES; auto goes by the suffix. threads: CPU threads, None leaves it to the engine.
    Threads may open at the same time; they take turns.
    Raises ArtifactError for a file that is damaged, not ours or not what its manifest says, ConfigError for an engine
    that does not run this kind of file, MissingDependency when the engine is not installed.
    """
    path = Path(path)
    check_exists(path)
    name = _by_suffix(path)
    if runtime not in ("auto", name):
        _engine(runtime)
        raise ConfigError(
            f"{path}: {runtime} runs {ENGINES[runtime].suffix} files; use --runtime {name}, "
            f"or make one with 'edge-centernet convert --target {_target(runtime)}'"
        )
    engine = ENGINES[name]
    if not installed(name):
        raise MissingDependency.for_extra(engine.title, engine.extra)
    check_content(path, read_manifest(path))
    module, _, attribute = engine.adapter.partition(":")
    with _opening:
        opened: Runtime = getattr(import_module(module), attribute)(path, threads)
    return opened


def choose(model: str | Path, runtime: str = "auto") -> tuple[Path, str]:
    """(file, engine name) for a model path or the name of a shipped model: the first of `candidates`."""
    return candidates(model, runtime)[0]


def candidates(model: str | Path, runtime: str = "auto") -> list[tuple[Path, str]]:
    """(file, engine name), the best first, for a model path or the name of a shipped model.

    A file decides by its suffix. For a name, auto takes TFLite on ARM (OpenVINO's ARM plugin has no int8 kernels and
    answered wrongly in some releases) and OpenVINO elsewhere, then what else is installed.
    """
    if not is_name(model):
        path = find_model(model)
        check_exists(path)
        return [(path, _by_suffix(path) if runtime == "auto" else runtime)]
    if runtime != "auto":
        return [(find_model(model, _engine(runtime).suffix), runtime)]
    shipped = [name for name in pick() if ships(model, ENGINES[name].suffix)]
    return [(find_model(model, ENGINES[name].suffix), name) for name in shipped or pick()[:1]]


def pick(machine: str | None = None) -> tuple[str, ...]:
    """The installed engines for this machine (platform.machine() unless given), the best first; at least one."""
    arm = (machine or platform.machine()).lower().startswith(("arm", "aarch"))
    order = ("tflite", "openvino", "onnxruntime") if arm else ("openvino", "tflite", "onnxruntime")
    if found := tuple(name for name in order if installed(name)):
        return found
    best = ENGINES[order[0]]
    raise MissingDependency.for_extra(f"no inference engine found: {best.title}", best.extra)


def installed(name: str) -> bool:
    """Whether the engine's package is there, without importing it."""
    return any(_found(module) for module in ENGINES[name].modules)


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a finder refuses it, or it was imported without a spec
        return False


def _engine(name: str) -> Engine:
    if name not in ENGINES:
        raise ConfigError(f"runtime: expected one of {', '.join(NAMES)}, got {name!r}")
    return ENGINES[name]


def _by_suffix(path: Path) -> str:
    return next(name for name, engine in ENGINES.items() if engine.suffix == path.suffix.lower())


def _target(runtime: str) -> str:
    return "onnx" if runtime == "onnxruntime" else runtime

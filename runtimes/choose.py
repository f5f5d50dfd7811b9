"""Which engine runs a model on this machine, and which of the model's files with it.

A file decides by its suffix. For the name of a shipped model the installed engines are tried, the best for
the processor first, and the first one that passes the model's self-test is taken.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from pathlib import Path

from edge_centernet.artifact import check_exists
from edge_centernet.errors import ArtifactError, MissingDependency
from edge_centernet.model_zoo import find_model, is_name, ships
from edge_centernet.runtimes.engines import ENGINES, engine_by_name, engine_by_suffix, installed
from edge_centernet.system.machine import is_arm

_log = logging.getLogger(__name__)


def select_engine(
    model: str | Path,
    runtime: str = "auto",
    *,
    asked: bool = True,
    tell: Callable[[str], None] = _log.warning,
) -> tuple[Path, str]:
    """(file, engine name) for a model path or the name of a shipped model: the first candidate that passes its test.

    asked: False takes the first unasked. tell: called with a line for each engine that is passed over.
    Raises ArtifactError when none is left, and what `candidates` raises.
    """
    # Here: the module also runs as a program, which Python warns of where importing the package has loaded it
    # already.
    from edge_centernet.runtimes import selfcheck

    for path, engine in candidates(model, runtime):
        reason = selfcheck.selftest_failure(path, engine) if asked else None
        if reason is None:
            return path, engine
        tell(f"{ENGINES[engine].title} cannot be relied on here for {path}: it {reason}")
    raise ArtifactError(
        f"{model}: expected an engine that computes it on this machine, found none; try another --runtime, another "
        "release of the engine, or convert the model again"
    )


def first_candidate(model: str | Path, runtime: str = "auto") -> tuple[Path, str]:
    """(file, engine name) for a model path or the name of a shipped model, without a test of the engine."""
    return candidates(model, runtime)[0]


def candidates(model: str | Path, runtime: str = "auto") -> list[tuple[Path, str]]:
    """(file, engine name), the best first, for a model path or the name of a shipped model.

    A file decides by its suffix. For a name, auto takes TFLite on ARM (OpenVINO's ARM plugin has no int8
    kernels and answered wrongly in some releases) and OpenVINO elsewhere, then what else is installed.
    """
    if not is_name(model):
        path = find_model(model)
        check_exists(path)
        return [(path, engine_by_suffix(path).name if runtime == "auto" else runtime)]
    if runtime != "auto":
        return [(find_model(model, engine_by_name(runtime).suffix), runtime)]
    shipped = [name for name in pick() if ships(model, ENGINES[name].suffix)]
    return [(find_model(model, ENGINES[name].suffix), name) for name in shipped or pick()[:1]]


def pick(machine: str | None = None) -> tuple[str, ...]:
    """The installed engines for this machine (platform.machine() unless given), the best first; at least one."""
    arm = is_arm(machine or platform.machine())
    order = ("tflite", "openvino", "onnxruntime") if arm else ("openvino", "tflite", "onnxruntime")
    if found := tuple(name for name in order if installed(name)):
        return found
    best = ENGINES[order[0]]
    raise MissingDependency.for_extra(f"no inference engine found: {best.title}", best.extra)

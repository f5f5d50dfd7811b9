"""Which engine runs a model on this machine, and which of the model's files with it.

This is the only place that decides it, in three steps:

1. The candidates. A model file has the one engine that runs its kind, by its suffix. The name of a shipped
   model stands for several files, so every installed engine that a shipped file is for is a candidate.
2. Their order: the best for the processor first, TFLite on ARM and OpenVINO elsewhere.
3. The self-test. The first candidate that computes the model's self-test vector correctly is taken; those
   that fail are passed over with a warning.

What a user names, with --runtime, --device or as a file, is not replaced by anything else: it is the only
candidate. A device other than the CPU names OpenVINO.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from pathlib import Path

from edge_centernet.artifact import check_exists
from edge_centernet.errors import ArtifactError, MissingDependency
from edge_centernet.model_zoo import find_model, is_name, ships
from edge_centernet.runtimes.engines import (
    CPU,
    ENGINES,
    check_device,
    engine_by_name,
    engine_by_suffix,
    installed,
    is_cpu,
)
from edge_centernet.system.machine import is_arm

_log = logging.getLogger(__name__)


def select_engine(
    model: str | Path,
    runtime: str = "auto",
    device: str = CPU,
    *,
    run_selftest: bool = True,
    tell: Callable[[str], None] = _log.warning,
) -> tuple[Path, str]:
    """The file and the name of the engine for a model: the first candidate that passes the self-test.

    Args:
        model: a path, or the name of a shipped model.
        runtime: "auto" or the name of an engine.
        device: OpenVINO's name of the device that is to compute.
        run_selftest: False takes the first candidate without a test.
        tell: called with a line for each engine that is passed over.

    Raises ArtifactError when no candidate is left, and what `candidates` raises.
    """
    # Imported here, because selfcheck is also run as a program: Python warns about a program whose module the
    # package has loaded before it starts.
    from edge_centernet.runtimes import selfcheck

    # 1 and 2. The candidates in their order.
    for path, engine in candidates(model, runtime, device):
        # 3. The self-test, in a process of its own, as a broken engine may crash. Its verdict is remembered,
        #    so that only the first start on a machine pays for it.
        reason = selfcheck.selftest_failure(path, engine, device) if run_selftest else None
        if reason is None:
            return path, engine
        if not is_cpu(device):
            raise ArtifactError(
                f"{path}: expected a device that computes it correctly, and in int8 where it is quantized; "
                f"{device} {reason}; use --device CPU"
            )
        tell(f"{ENGINES[engine].title} cannot be relied on here for {path}: it {reason}")
    # Better no result than wrong boxes: there is no fall-back to an engine that failed.
    raise ArtifactError(
        f"{model}: expected an engine that computes it on this machine, found none; try another --runtime, "
        "another release of the engine, or convert the model again"
    )


def first_candidate(model: str | Path, runtime: str = "auto", device: str = CPU) -> tuple[Path, str]:
    """The file and the name of the engine for a model, without a test of the engine."""
    return candidates(model, runtime, device)[0]


def candidates(model: str | Path, runtime: str = "auto", device: str = CPU) -> list[tuple[Path, str]]:
    """Every file and engine that could run a model, the best first; at least one.

    Raises ArtifactError for a model that is not there, ConfigError for an unknown engine or one that has no
    other device than the CPU where another is asked for, MissingDependency where no engine is installed.
    """
    # A file decides by its suffix. Whether --runtime fits that suffix is checked when the file is opened.
    if not is_name(model):
        path = find_model(model)
        check_exists(path)
        engine = engine_by_suffix(path) if runtime == "auto" else engine_by_name(runtime)
        check_device(engine, device)
        return [(path, engine.name)]
    # The name of a shipped model with an engine, or a device that only one has: that engine's file.
    if runtime == "auto" and not is_cpu(device):
        runtime = next(name for name, engine in ENGINES.items() if engine.devices)
    if runtime != "auto":
        check_device(engine_by_name(runtime), device)
        return [(find_model(model, engine_by_name(runtime).suffix), runtime)]
    # The name alone: every installed engine that the package has a file for. Where there is none,
    # `find_model` fails for the best engine and says how to make its file.
    shipped = [name for name in pick() if ships(model, ENGINES[name].suffix)]
    return [(find_model(model, ENGINES[name].suffix), name) for name in shipped or pick()[:1]]


def pick(machine: str | None = None) -> tuple[str, ...]:
    """The installed engines, the best first; at least one. Raises MissingDependency where there is none.

    machine: as `uname -m` prints it; this machine unless given.
    """
    # TFLite first on ARM: OpenVINO's ARM plugin has no int8 kernels and gave wrong results in some releases.
    # ONNX Runtime last: it runs the interchange file as it is, without a conversion for the processor.
    arm = is_arm(machine or platform.machine())
    known = ("tflite", "openvino", "onnxruntime") if arm else ("openvino", "tflite", "onnxruntime")
    # An engine that was added to the records comes after those whose place was found by measuring.
    order = (*known, *(name for name in ENGINES if name not in known))
    if found := tuple(name for name in order if installed(name)):
        return found
    best = ENGINES[order[0]]
    raise MissingDependency.for_extra(f"no inference engine found: {best.title}", best.extra)

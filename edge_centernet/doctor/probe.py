"""Loads what may crash, in a process of its own, and says line by line how far it came.

    python -m edge_centernet.doctor.probe software
    python -m edge_centernet.doctor.probe ENGINE MODEL

Each line is a JSON object; `doctor.examine` merges them. {"stage": ...} is said before a stage begins, so
that the last one tells where a crash was. Other lines are the libraries' own.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

BACKENDS = ("V4L2", "GSTREAMER", "FFMPEG")
_RUNS, _SECONDS = 15, 3.0  # inferences timed: so many, or for so long


def say(**words: Any) -> None:
    """One line, out before anything can crash."""
    print(json.dumps(words), flush=True)


def software() -> None:
    """NumPy, OpenCV, the decoder, picamera2: in the order in which they build on each other."""
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "numpy": lambda: {"version": import_module("numpy").__version__},
        "opencv": _opencv,
        "decoder": _decoder,
        "picamera2": _picamera2,
    }
    for name, load in stages.items():
        say(stage=name)
        try:
            found = load()
        except Exception as error:  # whatever a broken package raises is its story
            found = {"error": in_one_line(error), "missing": isinstance(error, ModuleNotFoundError)}
        say(**{name: found})
    say(stage="")


def _opencv() -> dict[str, Any]:
    cv2 = import_module("cv2")
    registry = cv2.videoio_registry
    # Those from PyPI list GStreamer as a plug-in that is not there.
    names = {
        registry.getBackendName(backend) for backend in registry.getBackends() if registry.hasBackend(backend)
    }
    return {"version": cv2.__version__, "backends": [name for name in BACKENDS if name in names]}


def _decoder() -> dict[str, Any]:
    backend = import_module("edge_centernet.decoder").BACKEND
    if backend == "c":
        return {"version": "c"}
    try:
        import_module("edge_centernet.decoder.native")
    except Exception as error:  # "cannot import name": it is not there; else it is there and does not load
        return {"version": "numpy", "error": in_one_line(error)}
    return {"version": "numpy"}


def _picamera2() -> dict[str, Any]:
    picamera2 = import_module("picamera2")
    cameras = picamera2.Picamera2.global_camera_info()
    # libcamera lists USB cameras too, which V4L2 has already.
    names = [
        str(camera.get("Model", "camera"))
        for camera in cameras
        if "usb" not in str(camera.get("Id", "")).lower()
    ]
    return {"version": getattr(picamera2, "__version__", "") or "installed", "cameras": names}


def engine(name: str, path: Path) -> None:
    """File, package, opening, the self-test vector, time, INT8."""
    say(stage="file")
    from edge_centernet.artifact import check_content, check_exists, read_manifest
    from edge_centernet.runtimes import ENGINES, open_runtime

    check_exists(path)
    manifest = read_manifest(path)
    check_content(path, manifest)
    say(stage="import")
    package = ENGINES[name].package or ENGINES[name].packages[0]
    package.load()
    say(stage="open")
    with closing(open_runtime(path, name)) as runtime:
        say(stage="answer", device=runtime.device)
        from edge_centernet import selftest

        if manifest.golden is None:
            import numpy as np

            x = np.zeros(manifest.input.shape, manifest.input.dtype)
            runtime.run(x)
            say(verdict="unasked")
        else:
            x = selftest.test_input(manifest)
            wrong = selftest.problem(manifest, runtime.run(x), package.probe)
            say(verdict="wrong" if wrong else "right", reason=wrong or "")
        say(stage="time")
        say(ms=median_ms(lambda: runtime.run(x)))
        say(stage="int8")
        from edge_centernet.runtimes import executed_precision

        say(**executed_precision.executed(runtime, path, x)._asdict())
    if ENGINES[name].devices:
        # In this stage still: a driver of another device that crashes is not the fault of the CPU's plugin.
        from edge_centernet.runtimes import ov

        say(devices=ov.devices())
    say(stage="")


def median_ms(run: Callable[[], Any]) -> float:
    """Milliseconds of an inference; the first one, which may still prepare things, does not count."""
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < _RUNS and time.perf_counter() - begin < _SECONDS:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times), 2)


def in_one_line(error: BaseException) -> str:
    """The line of a message that says something. NumPy's is a page whose point is the "Original error"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("Original error")), lines[0]
    )


def main(words: list[str]) -> int:
    """Run one of the two; the exit status is 0, or 1 where a stage failed."""
    try:
        if words[0] == "software":
            software()
        else:
            engine(words[0], Path(words[1]))
    except Exception as error:  # said in one line, so that whoever asked can go on
        say(failed=in_one_line(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Names and helpers that tests in several folders import."""

from __future__ import annotations

import importlib.util
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ENGINES = ("openvino", "tflite", "onnxruntime")
SUFFIX = {"openvino": ".xml", "tflite": ".tflite", "onnxruntime": ".onnx"}


def copy_artifact(source: Path, folder: Path) -> Path:
    """A copy of a model file, with its .bin if it has one, to damage."""
    for part in source.parent.glob(f"{source.stem}.*"):
        if part.suffix in (source.suffix, ".bin" if source.suffix == ".xml" else source.suffix):
            shutil.copy(part, folder / part.name)
    return folder / source.name


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py as a module; NAME may hold a folder."""
    folder = Path(__file__).resolve().parents[1] / "scripts"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # scripts import each other
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Result(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes while the block runs: the kernel takes what fits, then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def allow_interrupts() -> None:
    """For Popen(preexec_fn=): let signals through that a background job or `nohup` has the tests ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

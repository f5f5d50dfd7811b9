"""Names and helpers that tests in several folders import."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import NamedTuple

ENGINES = ("openvino", "tflite", "onnxruntime")
SUFFIX = {"openvino": ".xml", "tflite": ".tflite", "onnxruntime": ".onnx"}


def copy_artifact(source: Path, folder: Path) -> Path:
    """A copy of a model file, with its .bin if it has one, to damage."""
    for part in source.parent.glob(f"{source.stem}.*"):
        if part.suffix in (source.suffix, ".bin" if source.suffix == ".xml" else source.suffix):
            shutil.copy(part, folder / part.name)
    return folder / source.name


class Result(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def allow_interrupts() -> None:
    """For Popen(preexec_fn=): let Ctrl-C through even where these tests run as a background job, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

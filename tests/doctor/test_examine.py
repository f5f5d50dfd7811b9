"""How engines' processes end, and what that says of them."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_centernet.doctor import examine, probe
from edge_centernet.doctor.examine import judge, listen, model_files, read_engines, read_software
from edge_centernet.doctor.facts import Engine
from edge_centernet.errors import ArtifactError
from edge_centernet.runtimes import ENGINES, NAMES, executed_precision, pick

ROOT = Path(__file__).resolve().parents[2]
HERE = Engine("openvino", "OpenVINO", "openvino", "2026.4.1", "m.xml", "unchecked")
FINE: dict[str, Any] = {"stage": "", "ended": "", "hung": False}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a module in front of the installed one of that name, for the processes that are started."""

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return write


def test_every_installed_engine_is_run() -> None:
    """Each on its file of the shipped model: right answers, in int8, in so many milliseconds."""
    found = read_engines("centernet-nano-256", quick=False)

    assert [engine.name for engine in found] == list(ENGINES)
    for engine in found:
        pytest.importorskip(ENGINES[engine.name].modules[0])
        assert (engine.state, engine.stage, engine.int8) == ("right", "", "yes"), engine
        assert Path(engine.model).suffix == ENGINES[engine.name].suffix
        assert engine.ms is not None
        assert 0 < engine.ms < 1000
        assert ("CPU" in engine.devices) == (engine.name == "openvino")


def test_a_file_is_for_one_engine(onnx_model: Path) -> None:
    """The others are installed and have nothing to run."""
    others = [
        e for e in read_engines(str(onnx_model), quick=False) if e.name != "onnxruntime" and e.installed
    ]

    assert {(e.state, e.model) for e in others} == {("unchecked", "")}


@pytest.mark.parametrize("name", ENGINES)
def test_a_float_network_is_not_called_int8(name: str, artifacts: dict[tuple[str, str], Path]) -> None:
    """Each engine tells by what it executes, not by what it is called."""
    pytest.importorskip(ENGINES[name].modules[0])
    told = listen([name, str(artifacts[name, "fp32"])], examine.TIMEOUT)

    assert (told["verdict"], told["int8"]) == ("unasked", "no")
    assert told["how"].startswith("0 of ")


def test_a_segmentation_fault_is_a_fact(package: Callable[[str, str], None], onnx_model: Path) -> None:
    """A real one, while the package is imported: the process dies, doctor tells where."""
    package("onnxruntime", "import ctypes; ctypes.string_at(0)")
    told = listen(["onnxruntime", str(onnx_model)], 60)
    engine = judge(replace(HERE, name="onnxruntime"), told)

    assert (engine.state, engine.stage, engine.reason) == ("crashed", "import", "crashed (SIGSEGV)")


def test_a_hang_is_a_fact(package: Callable[[str, str], None], onnx_model: Path) -> None:
    """It is ended, and what it had said until then counts."""
    package("onnxruntime", "import time; print('{ not JSON', flush=True); time.sleep(600)")
    engine = judge(replace(HERE, name="onnxruntime"), listen(["onnxruntime", str(onnx_model)], 3))

    assert (engine.state, engine.stage, engine.reason) == ("hung", "import", "did not end within 3 s")


def test_a_package_that_cannot_be_imported_says_why(
    package: Callable[[str, str], None], onnx_model: Path
) -> None:
    """In its own words."""
    package("onnxruntime", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    engine = judge(replace(HERE, name="onnxruntime"), listen(["onnxruntime", str(onnx_model)], 60))

    assert (engine.state, engine.stage) == ("broken", "import")
    assert engine.reason == "libcudart.so.12: cannot open shared object file"


def test_a_changed_file_is_the_file_s_fault(onnx_model: Path, tmp_path: Path) -> None:
    """Found before the engine is imported."""
    path = tmp_path / "cut.onnx"
    path.write_bytes(onnx_model.read_bytes()[:-40])
    engine = judge(replace(HERE, name="onnxruntime"), listen(["onnxruntime", str(path)], 60))

    assert (engine.state, engine.stage) == ("damaged", "file")


@pytest.mark.parametrize(
    ("told", "state", "stage"),
    [
        ({"verdict": "right", "ms": 3.0, "int8": "yes", "how": "x"}, "right", ""),
        ({"verdict": "wrong", "reason": "heat"}, "wrong", ""),
        ({"stage": "open", "ended": "crashed (SIGILL)"}, "crashed", "open"),
        ({"stage": "time", "verdict": "right", "ended": "crashed (SIGSEGV)"}, "crashed", "time"),
        (
            {"stage": "int8", "verdict": "right", "ended": "crashed (SIGSEGV)"},
            "right",
            "",
        ),  # while we looked inside
        ({"stage": "int8", "verdict": "right", "failed": "x"}, "right", ""),
        ({"stage": "answer", "failed": "stopped while it ran"}, "wrong", "answer"),
        ({"stage": "open", "failed": "NumPy 1 only"}, "broken", "open"),
        ({"ended": "python: Permission denied"}, "crashed", ""),
    ],
)
def test_the_end_decides(told: dict[str, Any], state: str, stage: str) -> None:
    """What the last stage was, and how the process ended in it."""
    engine = judge(HERE, {**FINE, **told})

    assert (engine.state, engine.stage) == (state, stage)
    assert (engine.int8 == "cannot be told") == (told.get("stage") == "int8")


def test_broken_numpy_breaks_nothing_here(package: Callable[[str, str], None]) -> None:
    """The one line of its page of explanations that says something; OpenCV fails for the same cause."""
    cause = "libopenblas.so.0: cannot open shared object file"
    page = f"IMPORTANT: PLEASE READ THIS\\n\\nOriginal error was: {cause}\\n"
    package("numpy", f"raise ImportError('{page}')")
    software, _ = read_software()

    assert software.numpy.error == cause
    assert software.opencv.error != ""
    assert software.decoder == ""


def test_numpy_that_kills_the_process_is_named(package: Callable[[str, str], None]) -> None:
    """An illegal instruction, as in a build for a newer processor; what comes after it was not tried."""
    package("numpy", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    software, _ = read_software()

    assert software.numpy.error == "crashed (SIGILL)"
    assert software.opencv.error == "not tried: numpy crashed (SIGILL)"


def test_software_that_is_there_is_told() -> None:
    """The versions are those of the packages."""
    import cv2

    software, _ = read_software()

    assert (software.numpy.version, software.numpy.error) == (np.__version__, "")
    assert software.opencv.version == cv2.__version__
    assert {"V4L2", "FFMPEG"} <= set(software.backends)
    assert software.decoder == ("c" if any(examine._DECODER.glob("_decoder*.so")) else "numpy")


def test_a_python_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is no traceback."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    software, _ = read_software()

    assert software.numpy.error == f"{tmp_path / 'python'}: No such file or directory"


def test_a_model_that_is_not_there_is_an_error() -> None:
    """The usual one, before any work."""
    with pytest.raises(ArtifactError, match="no such file"):
        model_files("no-such-model")


def test_auto_s_order_is_the_runtimes_own() -> None:
    """Asked, not copied."""
    assert examine.order() == pick()
    assert set(examine.order()) <= set(NAMES)


def test_what_a_delegate_takes_lies_between_its_outputs_and_inputs() -> None:
    """Two of four operations: the first and the last are computed by others."""
    ops = [
        {"index": 0, "op_name": "CONV_2D", "inputs": [0, 10], "outputs": [1]},
        {"index": 1, "op_name": "CONV_2D", "inputs": [1, 11], "outputs": [2]},
        {"index": 2, "op_name": "ADD", "inputs": [2, 1], "outputs": [3]},
        {"index": 3, "op_name": "CONV_2D", "inputs": [3, 12], "outputs": [4]},
        {"index": 4, "op_name": "DELEGATE", "inputs": [1, 11], "outputs": [3]},
    ]
    assert executed_precision.delegated(ops) == {1, 2}
    assert executed_precision.delegated(ops[:4]) == set()


def test_without_xnnpack_no_convolution_is_taken(artifacts: dict[tuple[str, str], Path]) -> None:
    """The same file with and without it, in the real engine."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    content = artifacts["tflite", "int8"].read_bytes()
    fast = []
    for kernels in ("AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"):
        kind = getattr(interpreter.OpResolverType, kernels)
        opened = interpreter.Interpreter(model_content=content, experimental_op_resolver_type=kind)
        opened.allocate_tensors()
        about = opened.get_input_details()[0]
        opened.set_tensor(about["index"], np.zeros(about["shape"], about["dtype"]))
        opened.invoke()
        told = executed_precision.tflite(opened)
        fast.append((told.int8, told.fast))
    assert fast == [("yes", True), ("yes", False)]


def test_the_median_leaves_out_the_first() -> None:
    """Which may still prepare things."""
    calls: list[int] = []
    assert 0 <= probe.median_ms(lambda: calls.append(1)) < 100
    assert len(calls) == 1 + probe._RUNS


def test_the_wheel_tag_is_this_python_s() -> None:
    """On this machine, as pip would say it."""
    from edge_centernet.system.machine import read_machine

    assert sysconfig.get_platform().endswith(read_machine().wheels)

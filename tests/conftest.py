"""What tests in several folders share: files of a small network, images, a CLI runner, a C compiler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import squares
from numpy.typing import NDArray
from support import Result

pytest_plugins = ["shared_fixtures"]  # in tests/helpers; "fixtures" would be pytest's own module


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(engine, precision) -> a file of the squares network, made by the real converters."""
    folder = tmp_path_factory.mktemp("artifacts")
    made = {}
    for precision in ("int8", "fp32"):
        int8 = precision == "int8"
        onnx = squares.write_onnx(folder / f"squares-{precision}.onnx", int8)
        made["onnxruntime", precision] = onnx
        made["openvino", precision] = squares.write_openvino(
            onnx.with_suffix(".xml"), onnx, squares.manifest(int8)
        )
    for precision in ("int8", "fp32"):
        path = folder / f"squares-{precision}.tflite"
        made["tflite", precision] = squares.write_tflite(
            path, made["onnxruntime", "int8"], precision == "int8"
        )
    return made


@pytest.fixture
def onnx_model(artifacts: dict[tuple[str, str], Path]) -> Path:
    """The squares network for ONNX Runtime, the engine that opens fastest."""
    return artifacts["onnxruntime", "int8"]


@pytest.fixture
def write_image() -> Callable[[Path, NDArray[np.uint8]], Path]:
    """Save an array as an image file of the path's format."""
    import cv2

    def write(path: Path, image: NDArray[np.uint8]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)
        return path

    return write


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `edge-centernet ARGS` in this process; what C libraries print is captured as well."""
    from edge_centernet.cli import cli

    def call(*args: str | Path) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(arg) for arg in args], prog_name="edge-centernet")
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def compiler() -> str:
    """Path of the C compiler: $CC, or the first of cc, gcc, clang."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no C compiler: install gcc or clang, or set CC")
    return found

"""The records of the engines: what reads them agrees, and reading them is cheap."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_centernet import artifact
from edge_centernet.runtimes.engines import ENGINES, engine_of_package, packages, requirement

ROOT = Path(__file__).resolve().parents[2]


def test_reading_the_records_loads_neither_an_engine_nor_numpy() -> None:
    """`doctor` and `--help` ask for them where any of these may be what is broken."""
    code = "import json, sys, edge_centernet.runtimes.engines; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    heavy = {"numpy", "cv2", *(module for engine in ENGINES.values() for module in engine.modules)}
    assert heavy & set(loaded) == set()


def test_every_kind_of_model_file_has_one_engine() -> None:
    """What carries a manifest is what an engine runs."""
    assert sorted(engine.suffix for engine in ENGINES.values()) == sorted(artifact.SUFFIXES)


def test_every_target_of_convert_feeds_one_engine() -> None:
    """The targets in the records are those that can be converted to."""
    converters = pytest.importorskip("edge_centernet.converters")
    assert set(converters.SUFFIXES) == set(converters.CONVERTERS)
    assert converters.SUFFIXES["tensorrt"] == "-tensorrt.onnx"


def test_an_engine_is_found_by_its_package() -> None:
    """As the targets of a bundle name them."""
    assert engine_of_package("tflite-runtime").name == "tflite"
    with pytest.raises(KeyError):
        engine_of_package("onnx")


@pytest.mark.parametrize(
    ("package", "machine", "glibc", "expected"),
    [
        ("openvino", "aarch64", (2, 36), "openvino"),
        ("openvino", "aarch64", (2, 31), "openvino<2025.3"),
        ("openvino", "aarch64", (2, 28), None),
        ("openvino", "armv7l", (2, 36), None),
        ("onnxruntime", "x86_64", None, "onnxruntime"),
        ("ncnn", "x86_64", (2, 36), None),
    ],
)
def test_what_pip_is_asked_for(
    package: str, machine: str, glibc: tuple[int, int] | None, expected: str | None
) -> None:
    """The newest release where the C library is new enough, else an older one, else none."""
    assert requirement(package, machine, glibc) == expected


def test_the_wheels_are_those_of_the_record() -> None:
    """docs/benchmarks/wheels.json, as PyPI had them: same packages, machines and C libraries."""
    path = ROOT / "docs/benchmarks/wheels.json"
    if not path.exists():
        pytest.skip("records are not in the source distribution")
    record = json.loads(path.read_text())
    known = [wheel for package in packages().values() for wheel in package.wheels]
    checked = 0
    for wheel in known:
        for row in record:
            python = tuple(map(int, row["python"].split(".")))
            newest = row["wheels"][wheel.package]
            inside = wheel.oldest_python <= python <= wheel.newest_python
            if row["machine"] != wheel.machine or python < wheel.oldest_python:
                continue
            assert bool(newest) == inside, (wheel, row["system"])
            if newest and row["glibc"] >= f"2.{wheel.glibc[1]}" and python > (3, 10):
                assert newest["glibc"] == f"2.{wheel.glibc[1]}", (wheel, row["system"])
                checked += 1
    assert checked >= len(known)

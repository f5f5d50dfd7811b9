"""Device code runs without torch, ONNX or a word of the host code; `--help` is instant."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import edge_centernet

PACKAGE = Path(edge_centernet.__file__).parent
HOST = (
    "calibration",
    "converters",
    "model",
    "train",
    "labelling",
    "peers",
    "cli.label",
    "cli.train",
    "cli.convert",
    "cli.import_",
    "cli.verify",
    "cli.export_frigate",
)
# Each engine may be imported by its adapter and by nobody else.
ADAPTERS = {
    "runtimes.ov": ("openvino",),
    "runtimes.tflite": ("ai_edge_litert", "tflite_runtime"),
    "runtimes.ort": ("onnxruntime",),
}
ENGINES = {engine for engines in ADAPTERS.values() for engine in engines}
REFUSED = {
    *("torch", "torchvision", "tensorflow", "onnx", "onnxsim", "safetensors", "tflite", "flatbuffers"),
    *(f"edge_centernet.{name}" for name in HOST),
}
# SystemExit, because an ImportError could be caught and passed over in silence.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == refused or name.startswith(refused + ".") for refused in REFUSED):
            raise SystemExit(f"device code imported {name}")
sys.meta_path.insert(0, Refuse())
"""
CPU_SECONDS_MAX = 0.3


def is_host(module: str) -> bool:
    """Whether `module`, named below edge_centernet, belongs to the host side."""
    return any(module == host or module.startswith(f"{host}.") for host in HOST)


def device_modules() -> list[str]:
    """Every module of the package that is neither host code nor an adapter, named below edge_centernet."""
    found = []
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for name in files:
            if name.endswith(".py"):
                parts = Path(folder, name).relative_to(PACKAGE).with_suffix("").parts
                found.append(".".join(part for part in parts if part != "__init__"))
    return sorted(name for name in found if name and not is_host(name) and name not in ADAPTERS)


def run_refusing(refused: set[str], code: str, *args: str | Path, cwd: Path = PACKAGE.parent) -> str:
    """Run `code` in a fresh interpreter that refuses to import `refused`; its standard output.

    `python -c` looks in `cwd` first: by default that is where the package under test is, installed or not.
    """
    code = f"REFUSED = {sorted(refused)!r}\n{REFUSE}\n{code}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_device_modules_import_without_host_packages() -> None:
    """A fresh interpreter that has no torch, ONNX, engine or host code imports every device module."""
    modules = device_modules()
    assert {"manifest", "image", "decoder", "detector", "runtimes", "cli"} <= set(modules)
    code = "import importlib; [importlib.import_module(name) for name in sys.argv[1:]]; print(len(sys.argv) - 1)"
    names = [f"edge_centernet.{name}" for name in modules]
    assert run_refusing(REFUSED | ENGINES, code, *names) == f"{len(names)}\n"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapter_imports_only_its_engine(adapter: str) -> None:
    """An adapter imports without torch, ONNX, host code and the engines of the other adapters."""
    refused = REFUSED | (ENGINES - set(ADAPTERS[adapter]))
    code = "import importlib; print(importlib.import_module(sys.argv[1]).__name__)"
    assert run_refusing(refused, code, f"edge_centernet.{adapter}") == f"edge_centernet.{adapter}\n"


@pytest.mark.parametrize(
    ("runtime", "adapter"),
    [("openvino", "runtimes.ov"), ("tflite", "runtimes.tflite"), ("onnxruntime", "runtimes.ort")],
)
def test_detect_runs_without_host_packages(runtime: str, adapter: str, tmp_path: Path) -> None:
    """From the photo to the boxes with one engine and nothing of the host side."""
    refused = REFUSED | (ENGINES - set(ADAPTERS[adapter]))
    code = "from edge_centernet.cli import main; main()"
    photo = PACKAGE / "assets" / "sample.jpg"
    options = ("--source", photo, "--runtime", runtime, "--out", tmp_path, "--format", "jsonl", "--no-save")
    lines = run_refusing(refused, code, "detect", *options, cwd=tmp_path).splitlines()
    written = [line for file in tmp_path.rglob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
    frames = [json.loads(line) for line in (*lines, *written) if line.startswith("{")]
    assert {found["class"] for found in frames[0]["detections"]} >= {"person", "cat"}


def test_help_runs_without_any_engine() -> None:
    """`edge-centernet --help` needs neither the host packages nor an engine."""
    out = run_refusing(REFUSED | ENGINES, "from edge_centernet.cli import main; main()", "--help")
    assert "detect" in out


def cpu_seconds(*args: str) -> float:
    """Processor time, user and system, that one run of the Python interpreter with `args` takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL, cwd=PACKAGE.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def test_help_is_instant() -> None:
    """`edge-centernet --help` takes under 0.3 s of processor time; waiting for other programs does not count."""
    code = "from edge_centernet.cli import main; main()"
    cpu_seconds("-c", code, "--help")  # writes the byte code, fills the file cache
    assert statistics.median(cpu_seconds("-c", code, "--help") for _ in range(5)) < CPU_SECONDS_MAX

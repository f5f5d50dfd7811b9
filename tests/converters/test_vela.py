"""Arm's Vela compiles the shipped .tflite files for Ethos-U, whole."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_centernet.model_zoo import find_model


@pytest.mark.parametrize(
    ("model", "accelerator", "operators"),
    [("centernet-nano-256", "ethos-u55-256", 84), ("centernet-mbv2-320", "ethos-u65-512", 88)],
)
def test_every_operator_goes_to_the_npu(model: str, accelerator: str, operators: int, tmp_path: Path) -> None:
    """None is left to the processor: one NPU operator comes out, with the source's four tensors."""
    vela = shutil.which("vela")
    if vela is None:
        pytest.skip("pip install ethos-u-vela")
    tflite = pytest.importorskip("tflite", reason="pip install '.[convert]'")
    command = [
        vela,
        find_model(model, ".tflite"),
        "--accelerator-config",
        accelerator,
        "--output-dir",
        tmp_path,
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CPU operators = 0 (0.0%)" in done.stdout
    assert f"NPU operators = {operators} (100.0%)" in done.stdout

    compiled = tflite.Model.GetRootAs((tmp_path / f"{model}_vela.tflite").read_bytes())
    graph = compiled.Subgraphs(0)
    assert graph.OperatorsLength() == 1
    ports = [*graph.InputsAsNumpy(), *graph.OutputsAsNumpy()]
    assert [graph.Tensors(i).Name().decode() for i in ports] == ["image", "heat", "size", "offset"]
    assert {graph.Tensors(i).Type() for i in ports} == {tflite.TensorType.INT8}

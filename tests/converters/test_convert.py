"""Converting end to end: every target agrees with its source, and nothing half-done is left behind."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import file_precision
import numpy as np
import onnx
import pytest
import qdq_factory
from click.testing import CliRunner

from edge_centernet import qdq
from edge_centernet.artifact import read_manifest
from edge_centernet.cli.convert import command
from edge_centernet.converters import ALL, convert, to_openvino, to_tflite
from edge_centernet.errors import ArtifactError, ConfigError, ConversionError
from edge_centernet.model_zoo import find_model
from edge_centernet.qdq import reference


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    """Pictures like those the test networks were calibrated with, (H, W, 3) uint8."""
    return qdq_factory.photos(6, 96, 128, seed=7)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_all_targets_agree_with_the_source(
    network_file: Path, tmp_path: Path, pictures: list[Any], precision: Any
) -> None:
    """Each engine answers as the source does: a quarter step off on average in int8, rounding in fp32."""
    limit, agreement = {"int8": (0.25, 0.6), "fp32": (0.001, 1.0)}[precision]
    artifacts = convert(network_file, list(ALL), precision, tmp_path, pictures=pictures)
    assert [a.target for a in artifacts] == ["openvino", "tflite", "onnx", "tensorrt"]
    for artifact in artifacts:
        assert max(error.mean for error in artifact.report.heads.values()) < limit, artifact.target
        assert artifact.report.found > 30
        assert artifact.report.agreement >= agreement
        assert read_manifest(artifact.path) == artifact.manifest
        assert (artifact.manifest.verified, artifact.manifest.precision) == (True, precision)


def test_folder_holds_the_artifacts_only(mobilenet_file: Path, tmp_path: Path, pictures: list[Any]) -> None:
    """No temporary file or folder remains."""
    convert(mobilenet_file, list(ALL), "int8", tmp_path, pictures=pictures)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "mobilenet-tensorrt.onnx", "mobilenet.bin", "mobilenet.onnx", "mobilenet.tflite", "mobilenet.xml",
    ]  # fmt: skip


def test_onnx_copy_is_the_same_network(mobilenet_file: Path, tmp_path: Path, pictures: list[Any]) -> None:
    """The int8 ONNX can be converted again and answers bit for bit as the interchange file does."""
    convert(mobilenet_file, ["onnx"], "int8", tmp_path, pictures=pictures)
    before, after = (
        reference.Reference(qdq.load(path), "int8", pictures)
        for path in (mobilenet_file, tmp_path / "mobilenet.onnx")
    )
    for one, other in zip(before.answers, after.answers, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_onnx_with_shared_constants_opens(mobilenet_file: Path, tmp_path: Path, pictures: list[Any]) -> None:
    """Exporters share equal zero points between weights, which some options of ONNX Runtime cannot open."""
    model = onnx.load(mobilenet_file)
    seen: dict[bytes, str] = {}
    values = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = onnx.numpy_helper.to_array(values[node.input[2]])
            node.input[2] = seen.setdefault(
                f"{zero.dtype}{zero.shape}".encode() + zero.tobytes(), node.input[2]
            )
    onnx.save(model, tmp_path / "shared.onnx")
    artifacts = convert(tmp_path / "shared.onnx", ["onnx"], "int8", tmp_path / "out", pictures=pictures)
    assert artifacts[0].report.failures == ()


def test_float_onnx_has_no_quantization_left(
    mobilenet_file: Path, tmp_path: Path, pictures: list[Any]
) -> None:
    """All Q/DQ pairs are gone, ReLU6 is not, and the checker accepts the file."""
    convert(mobilenet_file, ["onnx"], "fp32", tmp_path, pictures=pictures)
    model = onnx.load(tmp_path / "mobilenet-fp32.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Cast", "Sub", "Mul", "Conv", "Clip", "Relu", "Add", "Resize"}


def test_wrong_artifact_is_not_left_behind(
    mobilenet_file: Path, tmp_path: Path, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that damages one layer is caught by verification; the sound targets are still written."""
    right = to_tflite.convert

    def wrong(network: qdq.Network, precision: Any) -> Any:
        ops = list(network.ops)
        at = next(i for i, op in enumerate(ops) if op.y.name == "size")
        ops[at] = replace(ops[at], bias=ops[at].bias + 20 * ops[at].y.quant.scale)
        return right(replace(network, ops=tuple(ops)), precision)

    monkeypatch.setattr(to_tflite, "convert", wrong)
    with pytest.raises(
        ConversionError, match=r"tflite: does not answer as the source does: size differs by \d+"
    ):
        convert(mobilenet_file, ["tflite", "onnx"], "int8", tmp_path, pictures=pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["mobilenet.onnx"]


def test_swapped_heads_are_caught(mobilenet_file: Path, pictures: list[Any], tmp_path: Path) -> None:
    """Size and offset share a shape; an artifact that exchanged them fails verification or does not open."""
    network = qdq.load(mobilenet_file)
    heads = {**network.heads, "size": network.heads["offset"], "offset": network.heads["size"]}
    to_tflite.convert(replace(network, heads=heads), "int8")(tmp_path / "x.tflite", False)
    try:
        failures = reference.Reference(network, "int8", pictures).compare(tmp_path / "x.tflite").failures
    except ArtifactError:
        return
    assert failures


def test_source_is_never_overwritten(mobilenet_file: Path) -> None:
    """Writing ONNX into the source's folder under its name is refused before any work."""
    before = mobilenet_file.read_bytes()
    with pytest.raises(ConfigError, match="overwrite the source"):
        convert(mobilenet_file, ["onnx"], "int8", mobilenet_file.parent)
    assert mobilenet_file.read_bytes() == before


def test_unknown_target_is_named(mobilenet_file: Path, tmp_path: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(
        ConfigError, match="expected openvino, tflite, onnx, tensorrt, tflite-uint8, openvino-boxes, got ncnn"
    ):
        convert(mobilenet_file, ["ncnn"], "int8", tmp_path)


def test_output_folder_that_is_a_file_is_refused(mobilenet_file: Path, tmp_path: Path) -> None:
    """One clear line instead of a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder to write to"):
        convert(mobilenet_file, ["onnx"], "int8", tmp_path / "file")


def test_command_prints_the_table(mobilenet_file: Path, tmp_path: Path) -> None:
    """One line for each target with head errors and agreement, then the files."""
    result = CliRunner().invoke(
        command, [str(mobilenet_file), "--fp32", "--target", "tflite", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "tflite" in result.output
    assert "0.000 / 0.0" in result.output
    assert str(tmp_path / "mobilenet-fp32.tflite") in result.output


def test_several_targets_are_written_once_each(mobilenet_file: Path, tmp_path: Path) -> None:
    """In the order in which they were named."""
    words = [f"--target={name}" for name in ("onnx", "tflite", "onnx")]
    result = CliRunner().invoke(command, [str(mobilenet_file), "--fp32", *words, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mobilenet-fp32.onnx",
        "mobilenet-fp32.tflite",
    ]
    files = [line for line in result.output.splitlines() if " bytes, " in line]
    assert [Path(line.split()[0]).suffix for line in files] == [".onnx", ".tflite"]


# In a process of its own, where PyTorch cannot be imported: its memory and time are those of the command.
# VmHWM and not ru_maxrss, which a process inherits from the one that started it: here, from all of pytest.
MEASURED = """
import resource, sys
sys.modules["torch"] = None
from edge_centernet.bench.resources import peak_rss_mb
from edge_centernet.cli import cli
cli(["convert", "--int8", "--target", "all", "--out", sys.argv[1]], standalone_mode=False)
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, peak_rss_mb() / 1e3)
"""


@pytest.mark.slow
def test_shipped_model_converts_within_20_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    """All targets, verified by their engines, without PyTorch. Seconds are the processor's."""
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, gigabytes = (float(value) for value in done.stdout.splitlines()[-1].split())

    assert seconds < 20
    assert gigabytes < 1
    assert len(list(tmp_path.iterdir())) == 5


def test_shipped_model_is_int8_throughout(tmp_path: Path) -> None:
    """OpenVINO executes every convolution of the shipped network in int8; its .tflite holds integers only."""
    try:
        network = qdq.load(find_model(suffix=".onnx"))
    except ArtifactError:
        pytest.skip("the shipped model is not there yet")
    to_openvino.convert(network, "int8")(tmp_path / "x.xml", False)
    to_tflite.convert(network, "int8")(tmp_path / "x.tflite", False)
    assert file_precision.openvino_float_layers(tmp_path / "x.xml") == []
    assert len(file_precision.openvino_kernels(tmp_path / "x.xml")) == sum(
        isinstance(op, qdq.Conv) for op in network.ops
    )
    assert file_precision.tflite_float_tensors(tmp_path / "x.tflite") == []

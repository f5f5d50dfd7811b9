"""`--device`: OpenVINO's devices, chosen by name or by OpenVINO, and refused where they compute otherwise.

A machine of ours has a CPU only. AUTO and HETERO:CPU are other devices to OpenVINO, and run for real.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("openvino", reason="needs the openvino extra")

from edge_centernet import selftest
from edge_centernet.bench import session
from edge_centernet.cli.detect import command
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.heads import Heads
from edge_centernet.model_zoo import find_model
from edge_centernet.qdq.reference import ASSETS
from edge_centernet.runtimes import candidates, executed_precision, open_runtime, select_engine, selfcheck
from edge_centernet.runtimes.engines import OPENVINO, openvino_core

openvino = OPENVINO.load()

NAME = "centernet-nano-256"
SAMPLE = str(ASSETS / "sample.jpg")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the nano model without the hash that would reveal a change, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / f"{NAME}.xml"
    shutil.copy(find_model(NAME, ".bin"), path.with_suffix(".bin"))
    unsealed(find_model(NAME, ".xml"), path)
    return path


def unsealed(source: Path, path: Path) -> None:
    """Copy an .xml file without its content's hash."""
    text, count = re.subn(r"(content_sha256&quot;: &quot;)[0-9a-f]{64}", r"\1", source.read_text())
    assert count == 1
    path.write_text(text)


def cached(model: Path) -> int:
    """How many compiled networks are kept."""
    return len(list((model.parent / "cache/edge-centernet/openvino").glob("*.blob")))


def answers(model: Path, device: str) -> tuple[str, list[bytes]]:
    """What computed, and the bytes of the heads for the question of the self-check."""
    runtime = open_runtime(model, threads=1, device=device)
    heads: Heads = runtime.run(selftest.test_input(runtime.manifest))
    found = [np.ascontiguousarray(head).tobytes() for head in heads]
    runtime.close()
    return runtime.device, found


def test_auto_tells_what_it_chose_and_answers_alike(model: Path) -> None:
    """To the bit on the CPU, which goes without saying where it was named; in small letters, too."""
    here = openvino_core().available_devices
    if here != ["CPU"]:
        pytest.skip(f"AUTO may choose another of {', '.join(here)}")
    device, heads = answers(model, "auto")
    assert device == "CPU (AUTO)"
    assert answers(model, "cpu") == ("", heads)


def test_each_device_has_its_own_compiled_network(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds it again."""
    _, heads = answers(model, "CPU")
    assert answers(model, "hetero:cpu") == ("HETERO:CPU", heads)
    assert cached(model) == 2
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: pytest.fail("compiled again"))
    assert answers(model, "HETERO:CPU") == ("HETERO:CPU", heads)


@pytest.mark.parametrize(
    ("device", "needs"),
    [
        ("gpu.7", "; a GPU must be Intel's, with its driver for OpenCL"),
        ("NPU.7", "; an NPU needs Intel's linux-npu-driver"),
        ("HETERO:GPU.7,CPU", "; a GPU must be Intel's"),
        ("MULTI:CPU", ""),
        ("HETERO:", ""),
        ("CPU,CPU", ""),
        ("CPU.1", ""),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(
    model: Path, device: str, needs: str
) -> None:
    """In one line, with what it would need."""
    here = ", ".join(openvino_core().available_devices)
    said = f"device: expected {here} or AUTO, which OpenVINO has here, got {device!r}{needs}"
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        open_runtime(model, device=device)
    assert str(error.value).endswith("(docs/devices.md)")
    assert "\n" not in str(error.value)


def test_detect_refuses_a_device_that_is_not_here(model: Path) -> None:
    """By the same line: the self-check leaves it to whoever opens the model."""
    done = CliRunner().invoke(command, [SAMPLE, "--model", str(model), "--device", "gpu.7"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("device: expected CPU")
    assert done.exception.exit_code == 2


def test_what_a_device_cannot_compile_is_one_line(model: Path) -> None:
    """With the device that is tried next: the CPU then tells whether it is the file."""
    model.write_text(model.read_text().replace('type="Interpolate"', 'type="Foreseen"'))
    with pytest.raises(ArtifactError) as error:
        open_runtime(model, device="AUTO")
    assert re.fullmatch(
        r".*\.xml: OpenVINO cannot compile it for AUTO: .*; use --device CPU", str(error.value)
    )


def test_a_signal_after_two_models_were_closed_in_their_order(model: Path) -> None:
    """Is handled, whatever OpenVINO left behind of its stacks for signals."""
    program = (
        "import os, signal, sys; from edge_centernet.runtimes import open_runtime; got = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "first = open_runtime(sys.argv[1], threads=1); second = open_runtime(sys.argv[1], threads=1)\n"
        "first.close(); second.close(); del first, second\n"
        "os.kill(os.getpid(), signal.SIGTERM); print(got)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(model)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr


def test_a_camera_file_names_the_device(model: Path) -> None:
    """And what AUTO chose is told once."""
    config = model.with_name("camera.toml")
    config.write_text(f'model = "{model}"\ndevice = "auto"\nformat = "none"\nsave = false\n')
    done = CliRunner().invoke(command, [SAMPLE, "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert re.findall(r"Using (OpenVINO on \S+ \(AUTO\)), int8: ", done.stderr)
    assert done.stderr.count("AUTO") == 1


def test_a_device_that_does_not_compute_in_int8_is_refused(model: Path) -> None:
    """An int8 file whose weights are floats: its answers are right, and it may run on the CPU."""
    from openvino.passes import ConstantFolding, Manager

    network = openvino_core().read_model(str(model))
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(network)
    path = model.with_name("folded.xml")
    openvino.serialize(network, str(path))
    reason = selfcheck.selftest_failure(path, "openvino", "AUTO")
    assert reason is not None
    assert re.match(r"does not compute in int8: 0 of 68 convolutions; kernels: .*_f32", reason, re.IGNORECASE)
    assert selfcheck.selftest_failure(path, "openvino") is None


def test_a_device_that_answers_wrongly_is_refused_and_nothing_is_remembered(model: Path) -> None:
    """In one line with the device and the way out: a driver may be better tomorrow."""
    weights = np.frombuffer(model.with_suffix(".bin").read_bytes(), np.uint8).copy()
    weights[200_000:210_000] ^= 0x3C
    model.with_suffix(".bin").write_bytes(weights.tobytes())
    with pytest.raises(ArtifactError) as error:
        select_engine(model, device="auto")
    assert re.fullmatch(
        r".*\.xml: expected a device that computes it correctly, and in int8 where it is quantized; "
        r"auto answers wrongly: heat differs by .* \(at most 1\.5\); use --device CPU",
        str(error.value),
    )
    assert not (model.parent / "cache/edge-centernet/selfcheck.json").exists()


@pytest.mark.parametrize(
    ("kernels", "verdict"),
    [
        (["convolution_gpu_mmad_b_fs_yx_fsv32__i8", "jit:ir__u8"], "yes"),
        (["convolution_gpu_bfyx_os_iyx_osv16__f16", "jit:ir__f32"], "no"),
        (["undef_i8", "undef_u8"], "yes"),
        ([], "cannot be told"),
    ],
)
def test_kernels_of_a_gpu_tell_their_precision(kernels: list[str], verdict: str) -> None:
    """By the names that its plugin gives them; an NPU shows none, and is judged by its answers."""
    shown = SimpleNamespace(executed_precisions=lambda: dict(enumerate(kernels)))
    assert executed_precision.openvino(shown).int8 == verdict


def test_other_engines_have_the_cpu_only() -> None:
    """A file or an engine that is named is refused in one line; a model's name means OpenVINO's file."""
    says = "device: expected CPU with TFLite, got 'GPU'; only OpenVINO runs on other devices"
    tflite = find_model(NAME, ".tflite")
    for refuse in (
        lambda: candidates(NAME, "tflite", "GPU"),
        lambda: candidates(tflite, device="GPU"),
        lambda: open_runtime(tflite, device="GPU"),
    ):
        with pytest.raises(ConfigError, match=says):
            refuse()
    assert candidates(NAME, "tflite", "cpu") == [(tflite, "tflite")]
    assert candidates(NAME, device="AUTO") == [(find_model(NAME, ".xml"), "openvino")]


def test_bench_measures_openvino_alone_on_another_device() -> None:
    """Every configuration has the device; another engine that is named is refused."""
    wish = session.Settings(NAME, (), (1,), device="AUTO")
    (one,) = session.configurations(wish, lambda line: None)
    assert (one.runtime, one.device, one.name) == ("openvino", "AUTO", "OpenVINO, 1 thread")
    with pytest.raises(ConfigError, match="expected CPU with ONNX Runtime, got 'AUTO'"):
        session.configurations(session.Settings(NAME, ("onnxruntime",), (1,), device="AUTO"), print)

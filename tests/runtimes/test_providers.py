"""Where ONNX Runtime computes: the providers for a file, the folder of a built engine, and the warnings."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the convert extra")
pytest.importorskip("onnxruntime", reason="needs the onnxruntime extra")

from edge_centernet.converters import convert  # noqa: E402
from edge_centernet.detector import Detector  # noqa: E402
from edge_centernet.errors import ArtifactError, ConfigError  # noqa: E402
from edge_centernet.model_zoo import find_model  # noqa: E402
from edge_centernet.qdq.reference import ASSETS  # noqa: E402
from edge_centernet.runtimes import open_runtime, ort, providers, selfcheck  # noqa: E402
from edge_centernet.runtimes.providers import CPU, CUDA, TENSORRT, Facts  # noqa: E402

NAME = "centernet-nano-256"
EVERY = (TENSORRT, CUDA, CPU)
# Where the sample photo shows them, measured by hand.
SAMPLE = {"person": np.array((18, 14, 368, 512)), "cat": np.array((520, 0, 1110, 512))}
SYMMETRIC, ASYMMETRIC, FLOAT = Facts(100, True), Facts(100, False), Facts(0, True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The nano model as "tensorrt" (symmetric), "onnx" (as it was trained) and "fp32"."""
    out = tmp_path_factory.mktemp("providers")
    source = find_model(NAME, ".onnx")
    files = {a.target: a.path for a in convert(source, ["tensorrt", "onnx"], "int8", out)}
    (plain,) = convert(source, ["onnx"], "fp32", out)
    return {**files, "fp32": plain.path}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No engine, no verdict and no choice from elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(providers.CACHE, raising=False)
    monkeypatch.delenv(providers.CHOICE, raising=False)
    return tmp_path / "cache"


def iou(a: Any, b: Any) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    low, high = np.maximum(a, b)[:2], np.minimum(a, b)[2:]
    inner = float(np.prod(np.maximum(high - low, 0)))
    return inner / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - inner)


def titles(available: tuple[str, ...], file: Facts, choice: str = "") -> list[str]:
    """The names of the planned providers, for people."""
    return [p.title for p in providers.plan(available, file, Path("x"), providers.allowed(choice))]


@pytest.mark.parametrize(
    ("available", "file", "choice", "expected"),
    [
        (EVERY, SYMMETRIC, "", ["TensorRT", "CUDA", "CPU"]),
        ((CPU, CUDA, TENSORRT), SYMMETRIC, "", ["TensorRT", "CUDA", "CPU"]),
        (EVERY, FLOAT, "", ["TensorRT", "CUDA", "CPU"]),
        (EVERY, ASYMMETRIC, "", ["CUDA", "CPU"]),
        ((CUDA, CPU), SYMMETRIC, "", ["CUDA", "CPU"]),
        (("AzureExecutionProvider", CPU), SYMMETRIC, "", ["CPU"]),
        (EVERY, SYMMETRIC, "cuda", ["CUDA", "CPU"]),
        (EVERY, SYMMETRIC, " CPU, TensorRT", ["TensorRT", "CPU"]),
        (EVERY, SYMMETRIC, "cpu", ["CPU"]),
        (EVERY, ASYMMETRIC, "tensorrt", ["CPU"]),
    ],
)
def test_providers_by_build_file_and_choice(
    available: tuple[str, ...], file: Facts, choice: str, expected: list[str]
) -> None:
    """TensorRT, CUDA, CPU, if they are there; never TensorRT for zero points other than 0; always the CPU."""
    assert titles(available, file, choice) == expected


def test_tensorrt_is_told_to_use_the_files_scales_and_to_keep_its_engine() -> None:
    """int8 where there are quantizers, float16 for what has none, both caches in the given folder."""
    first, *others = providers.plan(EVERY, SYMMETRIC, Path("/engines/x"))

    assert first.options == {
        "trt_int8_enable": "1",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/engines/x",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/engines/x",
    }
    assert [p.options for p in others] == [{}, {}]
    assert providers.plan(EVERY, FLOAT, Path("x"))[0].options["trt_int8_enable"] == "0"


def test_an_unknown_provider_is_refused() -> None:
    """A typing error does not end in a slower device without a word."""
    with pytest.raises(
        ConfigError, match="EDGE_CENTERNET_PROVIDERS: expected some of tensorrt, cuda, cpu, got gpu"
    ):
        providers.allowed("cuda,gpu")


def test_what_a_file_is_is_read_from_its_graph(made: dict[str, Path]) -> None:
    """The same answer as the onnx package gives for every quantizer in the file."""
    found = {kind: providers.facts(path) for kind, path in made.items()}
    for kind, path in made.items():
        graph = onnx.load(path).graph
        values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
        pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
        zeros = [values[n.input[2]] for n in pairs]
        symmetric = all(z.dtype == np.int8 and not z.any() for z in zeros)

        assert found[kind] == Facts(len(pairs), symmetric)

    assert (found["tensorrt"].symmetric, found["onnx"].symmetric, found["fp32"]) == (
        True,
        False,
        Facts(0, True),
    )


@pytest.mark.parametrize("change", ["unsigned", "no zero point", "one step off", "an integer operation"])
def test_one_quantizer_that_tensorrt_cannot_compute_is_enough(
    made: dict[str, Path], tmp_path: Path, change: str
) -> None:
    """Each is looked at, its type too."""
    model = onnx.load(made["tensorrt"])
    node = [n for n in model.graph.node if n.op_type == "DequantizeLinear"][-1]
    if change == "no zero point":
        del node.input[2]
    elif change == "an integer operation":
        node.op_type = "ConvInteger"
    else:
        value = np.array(0, np.uint8) if change == "unsigned" else np.array(1, np.int8)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, "changed"))
        node.input[2] = "changed"
    onnx.save(model, tmp_path / "x.onnx")

    assert providers.facts(made["tensorrt"]).symmetric
    assert not providers.facts(tmp_path / "x.onnx").symmetric


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_one_clear_error(
    made: dict[str, Path], tmp_path: Path, keep: float
) -> None:
    """Facts are read before the engine opens the file."""
    data = made["tensorrt"].read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * keep)])

    with pytest.raises(ArtifactError, match=r"cut\.onnx: the model file is cut off or damaged"):
        providers.facts(path)


def test_the_symmetric_file_detects_on_the_cpu(
    made: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A device without a GPU runs the file made for TensorRT, says that it is the CPU, finds cat and man."""
    picture = cv2.imread(str(ASSETS / "sample.jpg"))
    runtime = open_runtime(made["tensorrt"])
    found = Detector(runtime).detect(picture)
    names = [runtime.manifest.model.classes[i] for i in found.class_id]
    boxes = dict(zip(names, found.xyxy, strict=True))
    runtime.close()

    assert runtime.device == "CPU"
    assert sorted(names) == ["cat", "person"]
    assert {name: iou(boxes[name], box) > 0.75 for name, box in SAMPLE.items()} == {
        "cat": True,
        "person": True,
    }
    assert not caplog.records


def test_a_provider_whose_library_is_missing_is_passed_over_with_a_line(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """The build lists TensorRT and CUDA, and neither loads: a line each, the CPU computes, empty stdout.

    ONNX Runtime from PyPI for the CPU has neither: asked for them, it stops as the GPU build does without
    libraries.
    """
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: list(EVERY))
    runtime = open_runtime(made["tensorrt"])

    lines = [record.getMessage() for record in caplog.records]
    assert [(line.split(" does not run ")[0]) for line in lines] == ["TensorRT", "CUDA"]
    assert all("no library for it" in line for line in lines)
    assert runtime.device == "CPU"
    assert capfd.readouterr().out == ""
    assert Detector(runtime).detect(cv2.imread(str(ASSETS / "sample.jpg"))).class_id.tolist()
    runtime.close()


def test_zero_points_are_named_where_they_keep_tensorrt_out(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The line says which file would do."""
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: [TENSORRT, CPU])
    open_runtime(made["onnx"]).close()

    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"TensorRT does not run {made['onnx'].name}: it knows zero point 0 only"
    )
    assert "convert --target tensorrt" in record.getMessage()


def test_a_damaged_file_is_not_blamed_on_a_device(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no provider opens it, the file is at fault."""
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: list(EVERY))
    model = onnx.load(made["tensorrt"])
    model.graph.node[-1].op_type = "NoSuchOperation"
    path = tmp_path / "x.onnx"
    onnx.save(model, path)

    with pytest.raises(ArtifactError, match=r"x\.onnx: the model file is cut off or damaged"):
        ort.ONNXRuntime(path)


def test_each_file_has_an_engine_folder_of_its_own(
    made: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    """By content, not by name or place: weights, unlike the graph, are in no engine's name."""
    path = tmp_path / "a" / "net.onnx"
    path.parent.mkdir()
    shutil.copy(made["tensorrt"], path)
    before = providers.engine_folder(path)
    moved = tmp_path / "b" / "net.onnx"
    moved.parent.mkdir()
    shutil.copy(path, moved)

    assert before.parent == own_cache / "edge-centernet" / "engines"
    assert before.name.startswith("net-")
    assert providers.engine_folder(moved) == before
    moved.write_bytes(moved.read_bytes() + b"\0\0")
    assert providers.engine_folder(moved) != before


@pytest.mark.parametrize("part", ["onnxruntime_version", "tensorrt_version", "device_tree_model"])
def test_an_engine_is_for_one_release_and_one_board(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A new TensorRT, a new ONNX Runtime and a card moved to another Jetson have it built again."""
    before = providers.engine_folder(made["tensorrt"])
    monkeypatch.setattr(providers, part, lambda: "another")

    assert providers.engine_folder(made["tensorrt"]) != before


def test_the_environment_says_where_engines_are(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment builds them as root in one place, and the service reads them there."""
    monkeypatch.setenv(providers.CACHE, str(tmp_path / "engines"))

    assert providers.engine_folder(made["tensorrt"]).parent == tmp_path / "engines"


def test_an_engine_is_kept_whole_and_for_all_to_read(tmp_path: Path) -> None:
    """What a build wrote appears at its end under the final name, and the next start works in that folder."""
    folder = tmp_path / "engines" / "net-1"
    with providers.building(folder) as scratch:
        assert not folder.exists()
        (scratch / "net_sm87.engine").write_bytes(b"plan")
        (scratch / "net_sm87.engine").chmod(0o600)

    assert (folder / "net_sm87.engine").read_bytes() == b"plan"
    assert [oct(p.stat().st_mode & 0o777) for p in (folder, folder / "net_sm87.engine")] == ["0o755", "0o644"]
    with providers.building(folder) as again:
        assert again == folder
    assert [p.name for p in folder.parent.iterdir()] == ["net-1"]


@pytest.mark.parametrize("failure", ["no engine", "error"])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, failure: str) -> None:
    """Neither a half engine under the final name nor a folder beside it."""
    folder = tmp_path / "engines" / "net-1"

    def build() -> None:
        with providers.building(folder) as scratch:
            (scratch / ("net.profile" if failure == "no engine" else "net.engine")).write_bytes(b"half")
            if failure == "error":
                raise KeyboardInterrupt

    if failure == "error":
        with pytest.raises(KeyboardInterrupt):
            build()
    else:
        build()
    assert list(folder.parent.iterdir()) == []


def test_of_two_builds_at_once_both_end_well(tmp_path: Path) -> None:
    """Two cameras that start together: the first engine stays, the second process keeps its own in memory."""
    folder = tmp_path / "engines" / "net-1"
    with providers.building(folder) as one:
        (one / "a.engine").write_bytes(b"one")
        with providers.building(folder) as two:
            (two / "a.engine").write_bytes(b"two")

    assert (folder / "a.engine").read_bytes() == b"two"
    assert [p.name for p in folder.parent.iterdir()] == ["net-1"]


def test_patience_is_asked_for_once(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where an engine will be built, the self-check reports it and waits longer; else it does neither."""
    monkeypatch.setattr(providers, "_library", lambda name: tmp_path / "lib.so")
    monkeypatch.setattr(providers, "tensorrt_version", lambda: "100300")
    waited: list[float] = []
    monkeypatch.setattr(selfcheck, "ask", lambda command, timeout: (waited.append(timeout), (True, ""))[1])
    path = made["tensorrt"]
    folder = providers.engine_folder(path)

    assert selfcheck.selftest_failure(path, "onnxruntime") is None
    (record,) = caplog.records
    assert record.getMessage() == (
        f"Building the TensorRT engine of {path.name}: some minutes, once; it is kept in {folder}"
    )
    (tmp_path / "cache/edge-centernet/selfcheck.json").unlink()
    folder.mkdir(parents=True)
    assert selfcheck.selftest_failure(path, "onnxruntime") is None
    assert waited == [selfcheck.TIMEOUT + selfcheck.BUILDING, selfcheck.TIMEOUT]
    assert len(caplog.records) == 1


def test_no_patience_is_asked_for_where_no_engine_will_be_built(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No TensorRT here, a file that it cannot compute, a user who does not want it, another kind of file."""
    assert providers.first_start(made["tensorrt"]) is None
    monkeypatch.setattr(providers, "_library", lambda name: tmp_path / "lib.so")
    assert providers.first_start(made["tensorrt"]) is None
    monkeypatch.setattr(providers, "tensorrt_version", lambda: "100300")
    assert providers.first_start(made["tensorrt"])
    assert providers.first_start(made["onnx"]) is None
    assert providers.first_start(find_model(NAME, ".tflite")) is None
    monkeypatch.setenv(providers.CHOICE, "cuda")
    assert providers.first_start(made["tensorrt"]) is None


def test_a_verdict_of_the_cpu_is_not_taken_for_the_gpus(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After TensorRT is installed, or forbidden, the self-check asks again."""
    asked: list[float] = []
    monkeypatch.setattr(selfcheck, "ask", lambda command, timeout: (asked.append(timeout), (True, ""))[1])
    selfcheck.selftest_failure(made["tensorrt"], "onnxruntime")
    selfcheck.selftest_failure(made["tensorrt"], "onnxruntime")
    assert len(asked) == 1

    monkeypatch.setattr(providers, "_library", lambda name: tmp_path / "lib.so")
    selfcheck.selftest_failure(made["tensorrt"], "onnxruntime")
    monkeypatch.setenv(providers.CHOICE, "cuda")
    selfcheck.selftest_failure(made["tensorrt"], "onnxruntime")
    assert len(asked) == 3


def test_onnx_runtime_leaves_no_device_id_and_reports_nothing(made: dict[str, Path], own_cache: Path) -> None:
    """From 1.29 on it would write one beside a queue of reports as soon as it is imported."""
    code = (
        "import sys; from edge_centernet.runtimes import open_runtime; "
        "print(open_runtime(sys.argv[1]).device)"
    )
    # Unit tests and CI machines are exempt from its reports: this must look like neither.
    hidden = ("ORT_", "CI", "GITHUB", "TF_BUILD", "PYTEST", "JENKINS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(made["tensorrt"])],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "CPU\n"
    assert [p for p in own_cache.rglob("*") if "edge-centernet" not in p.parts] == []


def test_the_log_has_the_level_of_a_warning(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service's journal shows it with `journalctl -p warning`."""
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    open_runtime(made["tensorrt"]).close()

    assert [(r.name, r.levelno) for r in caplog.records] == [("edge_centernet.runtimes.ort", logging.WARNING)]


class StandIn:
    """An ONNX Runtime session as TensorRT's behaves with its cache, by its documentation; the CPU computes.

    There is no TensorRT where tests run. It builds an engine where none is in the folder it is given, loads
    what is there, and refuses an engine of another release.
    """

    builds = True
    log: ClassVar[list[str]] = []

    def __init__(
        self, path: str, options: Any, providers: list[str], provider_options: Any, **kwargs: Any
    ) -> None:
        """Open the file on the CPU, as what was asked for."""
        self._names = providers
        if providers[0] == TENSORRT:
            folder = Path(provider_options[0]["trt_engine_cache_path"])
            engine = folder / "graph_0_sm87.engine"
            if engine.is_file() and engine.read_text() != "this release":
                raise RuntimeError("could not deserialize engine")
            if not engine.is_file() and self.builds:
                engine.write_text("this release")
                self.log.append("built")
            else:
                self.log.append("loaded")
        self._session = REAL(path, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        """Those that were asked for."""
        return self._names

    def __getattr__(self, name: str) -> Any:
        """Whatever else a session does."""
        return getattr(self._session, name)


REAL = ort.onnxruntime.InferenceSession


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """In place of ONNX Runtime's session."""
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: [TENSORRT, CPU])
    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", StandIn)
    monkeypatch.setattr(StandIn, "log", [])
    monkeypatch.setattr(StandIn, "builds", True)
    return StandIn


def test_the_second_start_does_not_build_again(made: dict[str, Path], stand_in: type[StandIn]) -> None:
    """The engine is in the cache when the first start is over, and the second loads it from there."""
    devices = []
    for _ in range(2):
        runtime = open_runtime(made["tensorrt"])
        devices.append(runtime.device)
        runtime.close()

    assert (devices, stand_in.log) == (["TensorRT", "TensorRT"], ["built", "loaded"])
    assert providers.holds_engine(providers.engine_folder(made["tensorrt"]))


def test_an_engine_that_does_not_load_is_built_again(made: dict[str, Path], stand_in: type[StandIn]) -> None:
    """After an update that the key does not know of, or a damaged card."""
    open_runtime(made["tensorrt"]).close()
    engine = providers.engine_folder(made["tensorrt"]) / "graph_0_sm87.engine"
    engine.write_text("half")
    runtime = open_runtime(made["tensorrt"])

    assert (runtime.device, stand_in.log, engine.read_text()) == (
        "TensorRT",
        ["built", "built"],
        "this release",
    )
    runtime.close()


def test_tensorrt_that_takes_nothing_is_not_called_tensorrt(
    made: dict[str, Path],
    stand_in: type[StandIn],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """ONNX Runtime lists a provider that computes no node: without an engine the next one is taken."""
    monkeypatch.setattr(stand_in, "builds", False)
    monkeypatch.setattr(providers, "why_not", lambda name: None)
    runtime = open_runtime(made["tensorrt"])

    assert runtime.device == "CPU"
    assert caplog.messages == [
        f"TensorRT does not run {made['tensorrt'].name}: it took no part of the network"
    ]
    assert not providers.engine_folder(made["tensorrt"]).exists()
    runtime.close()


def test_an_engine_that_cannot_be_kept_is_not_built_at_every_start(
    made: dict[str, Path],
    stand_in: type[StandIn],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: Any,
) -> None:
    """Minutes at every boot are worse than the next device: the line names the folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(providers.CACHE, str(tmp_path / "file"))
    monkeypatch.setattr(providers, "why_not", lambda name: None)
    runtime = open_runtime(made["tensorrt"])

    assert (runtime.device, stand_in.log) == ("CPU", [])
    assert str(tmp_path / "file") in caplog.text
    runtime.close()

"""One suite that every runtime passes, in both precisions, on a network whose answers are known."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import squares
from support import ENGINES, SUFFIX, copy_artifact

from edge_centernet.detector import Detector
from edge_centernet.errors import ArtifactError, ConfigError, ManifestError
from edge_centernet.extras import command_for
from edge_centernet.model_zoo import DEFAULT, FOLDER
from edge_centernet.preprocess import prepare
from edge_centernet.runtimes import first_candidate, open_runtime, pick
from edge_centernet.runtimes.base import Runtime

SCENE = squares.scene(("red", 10, 18), ("green", 58, 38), ("blue sky", 90, 6))
BOXES = [[10, 18, 34, 42], [58, 38, 82, 62], [90, 6, 114, 30]]
Artifacts = dict[tuple[str, str], Path]
both = pytest.mark.parametrize("precision", ["int8", "fp32"])
every = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def runtime(artifacts: Artifacts, engine: str, precision: str) -> Runtime:
    """The squares network, opened."""
    return open_runtime(artifacts[engine, precision], threads=1)


@every
@both
def test_heads_are_what_the_manifest_says(runtime: Runtime, engine: str) -> None:
    """`run` returns (C, H, W) arrays of the manifest's dtypes, bound by name."""
    heads = runtime.run(prepare(SCENE, runtime.manifest)[0])
    specs = (runtime.manifest.heat, runtime.manifest.size, runtime.manifest.offset)
    assert [(h.shape, h.dtype.name) for h in heads] == [(s.chw, s.dtype) for s in specs]
    assert runtime.name == engine


@every
@both
def test_finds_the_squares(runtime: Runtime) -> None:
    """Each square is found once, with its class, where it was drawn."""
    found, ms = Detector(runtime, threshold=0.5).detect_timed(SCENE)
    by_class = np.argsort(found.class_id)
    assert found.class_id[by_class].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.xyxy[by_class], BOXES, atol=0.1)
    assert sorted(ms) == ["decode", "inference", "preprocess"]
    assert min(ms.values()) > 0


@both
def test_engines_agree(artifacts: Artifacts, precision: str) -> None:
    """On noise, every engine gives the same real values: two steps apart at most in INT8, 1e-4 in float."""
    noise = np.random.default_rng(0).integers(0, 256, (squares.HEIGHT, squares.WIDTH, 3)).astype(np.uint8)
    real = []
    for engine in ENGINES:
        runtime = open_runtime(artifacts[engine, precision], threads=1)
        heads = runtime.run(prepare(noise, runtime.manifest)[0])
        specs = (runtime.manifest.heat, runtime.manifest.size, runtime.manifest.offset)
        real.append(
            [
                h.astype(np.float64)
                if s.quant is None
                else s.quant.scale * (h.astype(np.float64) - s.quant.zero_point)
                for h, s in zip(heads, specs, strict=True)
            ]
        )
    steps = (0.125, 0.0625, 0.0078125) if precision == "int8" else (5e-5, 5e-5, 5e-5)
    for other in real[1:]:
        for a, b, step in zip(real[0], other, steps, strict=True):
            np.testing.assert_allclose(a, b, atol=2 * step, rtol=0)


@every
@both
def test_run_is_repeatable(artifacts: Artifacts, engine: str, precision: str) -> None:
    """The same picture gives the same bits again, after another picture, and with more threads."""
    one, two = (open_runtime(artifacts[engine, precision], threads=n) for n in (1, 2))
    x, other = (prepare(image, one.manifest)[0] for image in (SCENE, SCENE[::-1].copy()))
    first = [head.copy() for head in one.run(x)]
    one.run(other)
    for again in (one.run(x), two.run(x)):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@every
@both
def test_run_does_not_change_its_input(runtime: Runtime) -> None:
    """Engines that share memory with NumPy still leave the caller's array alone."""
    x = prepare(SCENE, runtime.manifest)[0]
    before = x.copy()
    runtime.run(x)
    assert np.array_equal(x, before)


@every
@both
def test_another_input_is_refused(runtime: Runtime) -> None:
    """A wrong dtype or shape is an error, never reinterpreted."""
    x = prepare(SCENE, runtime.manifest)[0]
    with pytest.raises(ValueError, match=r"expected .*int8"):
        runtime.run(x.astype(np.float32))
    with pytest.raises(ValueError, match=r"expected .*int8"):
        runtime.run(x[:, :, :-1])


@every
@both
def test_closed_is_closed(runtime: Runtime) -> None:
    """`close` may be called twice; `run` says that the runtime is closed."""
    x = prepare(SCENE, runtime.manifest)[0]
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.run(x)


@every
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(artifacts: Artifacts, engine: str, part: float, tmp_path: Path) -> None:
    """However much of it is missing, the file is named and nothing is run."""
    path = copy_artifact(artifacts[engine, "int8"], tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ArtifactError, match=path.name):
        open_runtime(path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.9])
def test_cut_openvino_weights_are_refused(artifacts: Artifacts, part: float, tmp_path: Path) -> None:
    """The .bin beside the .xml is checked too."""
    path = copy_artifact(artifacts["openvino", "int8"], tmp_path).with_suffix(".bin")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ArtifactError, match=path.name):
        open_runtime(path.with_suffix(".xml"))


def test_missing_openvino_weights_are_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    """A .xml without its .bin: the message names the file that is missing."""
    path = copy_artifact(artifacts["openvino", "int8"], tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ArtifactError, match=r"squares-int8\.bin: .*no such file"):
        open_runtime(path)


@every
def test_damage_inside_is_refused_or_harmless(artifacts: Artifacts, engine: str, tmp_path: Path) -> None:
    """Zeros over a part of the file end in ArtifactError or a network that runs, in no other exception."""
    path = copy_artifact(artifacts[engine, "int8"], tmp_path)
    data = path.read_bytes()
    for start in range(0, len(data) - 64, len(data) // (3 if engine == "tflite" else 12)):
        path.write_bytes(data[:start] + bytes(64) + data[start + 64 :])
        code = f"from edge_centernet.runtimes import open_runtime; open_runtime({str(path)!r})"
        if engine == "tflite":  # a damaged flatbuffer can crash the engine itself: in a process of its own
            done = subprocess.run(squares.python("-c", code), capture_output=True, text=True, env=os.environ)
            assert done.returncode <= 0 or "ArtifactError" in done.stderr or "ManifestError" in done.stderr, (
                done.stderr
            )
            continue
        with contextlib.suppress(ArtifactError, ManifestError):
            open_runtime(path).close()


def stamped(engine: str, artifacts: Artifacts, folder: Path, **names: str) -> Path:
    """The INT8 artifact under a manifest whose tensors have other names."""
    path = folder / f"stamped{SUFFIX[engine]}"
    if engine == "tflite":
        own = open_runtime(artifacts["tflite", "int8"]).manifest
        return squares.restamp_tflite(path, artifacts["tflite", "int8"], squares.renamed(own, **names))
    manifest = squares.renamed(squares.manifest(True), **names)
    onnx = squares.write_onnx(folder / "stamped.onnx", True, manifest)
    return onnx if engine == "onnxruntime" else squares.write_openvino(path, onnx, manifest)


@every
def test_swapped_heads_are_refused(artifacts: Artifacts, engine: str, tmp_path: Path) -> None:
    """Size and offset share a shape; a manifest that swaps them is caught by name."""
    path = stamped(engine, artifacts, tmp_path, size="offset", offset="size")
    with pytest.raises(ArtifactError, match="swaps heads"):
        open_runtime(path)


@every
def test_the_manifest_of_another_network_is_refused(
    artifacts: Artifacts, engine: str, tmp_path: Path
) -> None:
    """Tensor names that are not in the file: the message lists what was expected and what is there."""
    path = stamped(engine, artifacts, tmp_path, heat="hm")
    with pytest.raises(ArtifactError, match=r"another network: expected .* hm"):
        open_runtime(path)


@every
def test_other_types_than_the_manifest_says_are_refused(
    artifacts: Artifacts, engine: str, tmp_path: Path
) -> None:
    """An INT8 manifest on a float network."""
    path = tmp_path / f"mixed{SUFFIX[engine]}"
    if engine == "tflite":
        squares.restamp_tflite(
            path, artifacts["tflite", "fp32"], open_runtime(artifacts["tflite", "int8"]).manifest
        )
    else:
        onnx = squares.write_onnx(tmp_path / "mixed.onnx", False, squares.manifest(True))
        if engine == "openvino":
            squares.write_openvino(path, onnx, squares.manifest(True))
    with pytest.raises(ArtifactError, match=r"the manifest says \w+ .*, the network has"):
        open_runtime(path)


def test_other_scales_than_the_manifest_says_are_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    """TFLite tells the scales of its tensors: they must be the manifest's."""
    from dataclasses import replace

    from edge_centernet.manifest import Quant

    own = open_runtime(artifacts["tflite", "int8"]).manifest
    other = own.with_tensors(size=replace(own.size, quant=Quant(0.5, 3)))
    path = squares.restamp_tflite(tmp_path / "other.tflite", artifacts["tflite", "int8"], other)
    with pytest.raises(ArtifactError, match=r"says scale 0\.5, zero point 3, the network has scale 0\.0625"):
        open_runtime(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
def test_a_foreign_model_is_refused(suffix: str, artifacts: Artifacts, tmp_path: Path) -> None:
    """A sound model file without our manifest is not guessed at."""
    import onnx

    model = onnx.load(artifacts["onnxruntime", "int8"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    if suffix == ".xml":
        import openvino as ov

        ov.save_model(ov.convert_model(str(tmp_path / "foreign.onnx")), str(tmp_path / "foreign.xml"))
    if suffix == ".tflite":
        data = artifacts["tflite", "int8"].read_bytes()
        (tmp_path / "foreign.tflite").write_bytes(data[: data.index(b"PK\x03\x04")])
    with pytest.raises(ArtifactError, match="no edge-centernet manifest"):
        open_runtime(tmp_path / f"foreign{suffix}")


def test_a_runtime_that_does_not_run_the_file_is_refused(artifacts: Artifacts) -> None:
    """--runtime against the suffix: both ways out are named."""
    with pytest.raises(ConfigError, match=r"use --runtime tflite, or make one with .*--target openvino"):
        open_runtime(artifacts["tflite", "int8"], "openvino")


def test_an_unknown_runtime_is_refused(artifacts: Artifacts) -> None:
    """The names that are known are listed."""
    with pytest.raises(ConfigError, match="auto, openvino, tflite, onnxruntime"):
        open_runtime(artifacts["tflite", "int8"], "tensorrt")


def test_auto_goes_by_platform() -> None:
    """TFLite on ARM, OpenVINO elsewhere."""
    assert [pick(m)[0] for m in ("aarch64", "armv7l", "arm64", "x86_64")] == [
        "tflite",
        "tflite",
        "tflite",
        "openvino",
    ]


def test_auto_goes_by_suffix_for_a_file(artifacts: Artifacts) -> None:
    """A file knows its engine."""
    assert [first_candidate(artifacts[engine, "int8"])[1] for engine in ENGINES] == list(ENGINES)


@pytest.mark.parametrize(
    ("engine", "extra"), [("openvino", "openvino"), ("tflite", "tflite"), ("onnxruntime", "onnxruntime")]
)
def test_a_missing_engine_names_the_pip_extra(artifacts: Artifacts, engine: str, extra: str) -> None:
    """In an interpreter that cannot import the engine, opening says which pip command brings it."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("openvino", "ai_edge_litert", "tflite_runtime", "onnxruntime"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from edge_centernet.runtimes import open_runtime
open_runtime({str(artifacts[engine, "int8"])!r})
"""
    done = subprocess.run(squares.python("-c", code), capture_output=True, text=True)
    assert "MissingDependency: " in done.stderr
    # Run in a checkout, a process does not know that pip was told to leave it there.
    assert command_for(extra).replace("-e ", "") in done.stderr.replace("-e ", "")


def test_openvino_says_which_kernels_it_runs(artifacts: Artifacts) -> None:
    """`executed_precisions` reports INT8 for every convolution of the INT8 file, none of the float one."""
    from edge_centernet.runtimes.ov import OpenVINORuntime

    kernels = {
        p: OpenVINORuntime(artifacts["openvino", p], 1).executed_precisions() for p in ("int8", "fp32")
    }
    assert [k.rsplit("_")[-1].upper() for k in kernels["int8"].values()] == ["I8"] * 3
    # Convolutions of one input and shape may be fused in float.
    assert {k.rsplit("_")[-1].upper() for k in kernels["fp32"].values()} <= {"F32", "FP32"}
    assert kernels["fp32"]


@every
def test_the_shipped_model_opens_and_answers(engine: str) -> None:
    """The files in the package pass the same checks, and give boxes on the sample photo."""
    path = FOLDER / f"{DEFAULT}{SUFFIX[engine]}"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there yet")
    from edge_centernet.imageio import read_image

    found = Detector(open_runtime(path, threads=1)).detect(
        read_image(FOLDER.parent / "assets" / "sample.jpg")
    )
    assert len(found) > 0

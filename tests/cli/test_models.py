"""`edge-centernet models` and `inspect`: every shipped model with its figures, and what a file contains."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import squares
from click.testing import CliRunner
from support import ENGINES
from test_detect import environment

from edge_centernet.artifact import read_manifest
from edge_centernet.cli import cli
from edge_centernet.decoder import BACKEND
from edge_centernet.errors import ArtifactError
from edge_centernet.files import sha256
from edge_centernet.model_zoo import DEFAULT, find_model, names

BENCHMARKS = Path(__file__).resolve().parents[2] / "docs/benchmarks"
Run = Callable[..., Any]
LIMIT = 30e6  # bytes: what the package may weigh in all


def _listed() -> list[dict]:  # type: ignore[type-arg]
    result = CliRunner().invoke(cli, ["models", "--json"])
    assert result.exit_code == 0
    return json.loads(result.output)  # type: ignore[no-any-return]


def test_every_shipped_model_is_listed_the_default_first() -> None:
    """The names with a size are those of the files in the package; the others say where they are."""
    listed = {model["name"]: model for model in _listed()}
    shipped = [name for name, model in listed.items() if any(model["bytes"].values())]

    assert sorted(shipped) == list(names())
    assert next(iter(listed)) == DEFAULT
    assert all("not in the package" in model["note"] for name, model in listed.items() if name not in shipped)


@pytest.mark.parametrize(("engine", "suffix"), [("openvino", ".xml"), ("tflite", ".tflite")])
def test_accuracy_is_that_of_the_shipped_files(engine: str, suffix: str) -> None:
    """AP50 and AP are rounded from an evaluation whose sha256 is the shipped file's."""
    if not BENCHMARKS.is_dir():
        pytest.skip("records are not in the source distribution")
    for model in (one for one in _listed() if one["name"] in names()):
        result = json.loads((BENCHMARKS / model["name"] / "eval.json").read_text())[engine]

        assert result["sha256"] == sha256(find_model(model["name"], suffix))
        assert model["accuracy"][engine]["AP50"] == pytest.approx(result["AP50"], abs=5e-5)
        assert model["accuracy"][engine]["AP"] == pytest.approx(result["AP"], abs=5e-5)


def test_all_models_together_fit_the_package() -> None:
    """30 MB, and no file of theirs is missing."""
    sizes = [size for model in _listed() if model["name"] in names() for size in model["bytes"].values()]

    assert min(sizes) > 0
    assert sum(sizes) < LIMIT


def test_the_table_names_version_input_and_licence() -> None:
    """One line a model under the header."""
    lines = CliRunner().invoke(cli, ["models"]).output.splitlines()

    assert lines[0].split() == [
        "NAME",
        "VERSION",
        "INPUT",
        "CLASSES",
        "AP50",
        "AP",
        "OPENVINO",
        "TFLITE",
        "LICENCE",
    ]
    version = read_manifest(find_model(DEFAULT, ".onnx")).model.version
    assert lines[1].split()[:4] == [DEFAULT, version, "320x320", "20"]
    assert lines[1].endswith("Apache-2.0")


def test_a_model_that_is_not_in_the_package_says_where_it_is() -> None:
    """Asked for by name it is refused with its note: how to make it."""
    (note,) = [model["note"] for model in _listed() if model["name"] == "centernet-r18"]
    with pytest.raises(ArtifactError, match="model 'centernet-r18': not in the package"):
        find_model("centernet-r18")

    assert "docs/decisions/0009-shipped-models.md" in note


# ---- inspect --------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_inspect_json(run: Run, artifacts: dict[tuple[str, str], Path], engine: str, precision: str) -> None:
    """Manifest, tensors, size and hash of each format."""
    path = artifacts[engine, precision]
    done = run("inspect", path, "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["manifest"]["precision"] == precision
    assert report["manifest"]["model"]["classes"] == list(squares.CLASSES)
    weights = path.with_suffix(".bin").stat().st_size if engine == "openvino" else 0
    assert report["bytes"] == path.stat().st_size + weights
    heat = report["tensors"][1]
    assert (heat["role"], heat["dtype"]) == ("heat", "int8" if precision == "int8" else "float32")
    assert heat["scale"] == (0.125 if precision == "int8" else None)


def test_inspect_text(run: Run, onnx_model: Path) -> None:
    """The same for people."""
    out = run("inspect", onnx_model).out
    for text in (
        "ONNX, int8",
        "128x96 rgb",
        "red, green, blue sky",
        "scale 0.125, zero point 0",
        "sha256",
        "as trained",
    ):
        assert text in out
    assert ("decoder     C, on this machine" in out) == (BACKEND == "c")
    assert ("decoder     NumPy (no C compiler" in out) == (BACKEND == "numpy")


def test_inspect_needs_no_engine(artifacts: dict[tuple[str, str], Path]) -> None:
    """Nor NumPy: it works where nothing but click is installed."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openvino", "ai_edge_litert", "onnxruntime", "onnx", "numpy", "cv2"):
            raise SystemExit(f"imported {{name}}")
sys.meta_path.insert(0, Absent())
from edge_centernet.cli import cli
for path in {[str(p) for p in artifacts.values()]!r}:
    cli.main(["inspect", path], standalone_mode=False)
"""
    subprocess.run(squares.python("-c", code), check=True, env=environment(), stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["none.onnx", "nonesuch", "photo.jpg"])
def test_inspect_refuses_what_is_no_model(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"x")
    done = run("inspect", name)
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1

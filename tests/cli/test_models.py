"""`edge-centernet models`: every shipped model, with figures that its result files carry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_centernet.artifact import read_manifest
from edge_centernet.cli import cli
from edge_centernet.errors import ArtifactError
from edge_centernet.files import sha256
from edge_centernet.model_zoo import DEFAULT, find_model, names

BENCHMARKS = Path(__file__).resolve().parents[2] / "docs/benchmarks"
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
        result = json.loads((BENCHMARKS / model["name"] / f"eval-{engine}.json").read_text())

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

    assert "docs/training.md" in note

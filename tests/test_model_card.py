"""The model cards: up to date with their result files, and refused where those are of another model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import load_script

from edge_centernet.models import DEFAULT, names

ROOT = Path(__file__).resolve().parents[1]
RESULTS = f"docs/benchmarks/{DEFAULT}"


card = load_script("model_card")


@pytest.mark.parametrize("name", names())
def test_every_shipped_model_has_a_card_of_its_result_files(name: str) -> None:
    """Made again, the card is the one in docs/models; else: python scripts/model_card.py NAME."""
    assert (ROOT / "docs/models" / f"{name}.md").read_text(encoding="utf-8") == card.render(name, ROOT)


@pytest.mark.parametrize("name", names())
def test_the_figures_in_the_card_are_those_of_the_records(name: str) -> None:
    """AP50 and AP of the INT8 record, to three digits, in the row of its network."""
    text = (ROOT / "docs/models" / f"{name}.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "docs/benchmarks" / name / "eval-openvino.json").read_text())
    assert f"| INT8, QAT, OpenVINO | {record['AP']:.3f} | {record['AP50']:.3f} | {record['AP75']:.3f} |" in text
    assert all(f"| {one} | " in text for one in record["per_class"])
    for key in ("overlap_0.3", "overlap_0.5"):
        group = record["crowds"][key]
        row = f"> {key[-3:]} | {group['objects']} | INT8, QAT, OpenVINO | {group['recall']['0.3']:.3f} |"
        assert row in text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the card of the default model is made from, to damage; the model files are linked."""
    for page in ("docs/training.md", "edge_centernet/models/README.md"):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    for path in (ROOT / "docs/benchmarks").glob("*.json"):
        shutil.copy(path, tmp_path / "docs/benchmarks")
    for path in (ROOT / "edge_centernet/models").glob(f"{DEFAULT}.*"):
        os.symlink(path, tmp_path / "edge_centernet/models" / path.name)
    return tmp_path


def change(path: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a JSON file."""
    record = json.loads(path.read_text())
    how(record)
    path.write_text(json.dumps(record))


def test_a_record_of_the_network_quantized_without_training_gets_its_column(copy: Path) -> None:
    """A quarter of one class's AP50 lost in PTQ: a row, the difference, and that class named as losing most."""
    results = copy / RESULTS
    record = json.loads((results / "eval-float.json").read_text())
    record["per_class"]["dog"]["AP50"] -= 0.25
    (results / "eval-ptq.json").write_text(json.dumps(record))
    text = card.render(DEFAULT, copy)
    dog = record["per_class"]["dog"]["AP50"]
    assert f"| INT8, PTQ | {record['AP']:.3f} |" in text
    assert f"{dog:.3f} (-0.250)" in text
    assert "- PTQ: AP50 +0.000, AP +0.000 overall; the class that loses most is dog (-0.250); 1 of 20 lose" in text


def test_a_record_that_knows_what_its_scores_are_worth_gets_a_section(copy: Path) -> None:
    """A row for it, with its worst class and what scores were as trained; none for records from before."""
    assert "## Scores" not in card.render(DEFAULT, copy)
    shown = {"threshold": 0.375, "class_thresholds": {"dog": 0.5}, "precision": 0.75, "recall": 0.5, "f1": 0.6}
    calibration = {"lowest": 0.05, "error": 0.02, "per_class": {"cat": 0.03, "dog": 0.04, "sheep": None}}
    calibration["before"] = {"error": 0.09}
    path = copy / RESULTS / "eval-openvino.json"
    change(path, lambda record: record.update(at_threshold=shown, calibration=calibration))
    text = card.render(DEFAULT, copy)
    assert "from the default threshold (0.375, dog 0.5) on" in text
    assert "| INT8, QAT, OpenVINO | 0.750 | 0.500 | 0.600 | 0.020 | 0.040 (dog) | 0.090 |" in text


def test_a_latency_of_another_file_is_not_shown(copy: Path) -> None:
    """Its hash is not that of the network that ships."""
    for path in [*(copy / "docs/benchmarks").glob("int8-speed-*.json"), *(copy / RESULTS).glob("int8-speed-*.json")]:
        change(path, lambda record: record.update(model_sha256="0" * 64))
    assert "## Latency\n\nNot measured for these files." in card.render(DEFAULT, copy)


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("eval-openvino.json", lambda r: r.update(sha256="0" * 64), "measured another centernet-mbv2-320.xml than"),
        ("eval-tflite.json", lambda r: r.pop("crowds"), "--runtime tflite"),
        ("eval-tflite.json", lambda r: r.update(images=7), "images differ from those in eval-float.json"),
        ("eval-openvino.json", lambda r: r["per_class"].pop("dog"), "per_class differ from those in eval-float.json"),
        ("agreement.json", lambda r: r["results"][0].update(sha256="0" * 64), "check_agreement.py --name"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(
    copy: Path, file: str, how: Callable[[dict[str, Any]], Any], message: str
) -> None:
    """Which file, and the command that measures again."""
    change(copy / RESULTS / file, how)
    with pytest.raises(card.CardError) as error:
        card.render(DEFAULT, copy)
    assert message in str(error.value)
    assert file in str(error.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (f"{RESULTS}/eval-float.json", "expected a result file, found none"),
        (f"{RESULTS}/limits.md", "expected the limits of the model as a list"),
    ],
)
def test_a_missing_file_is_named(copy: Path, file: str, message: str) -> None:
    """Instead of a card without it."""
    (copy / file).unlink()
    with pytest.raises(card.CardError, match=message):
        card.render(DEFAULT, copy)


@pytest.mark.parametrize(
    ("page", "old", "message"),
    [
        (
            "edge_centernet/models/README.md",
            "**Licence of the weights**",
            r"Licence of the weights.*found none; add it",
        ),
        ("edge_centernet/models/README.md", f"## {DEFAULT}", "expected a heading"),
        ("docs/training.md", "```", "expected the command that made centernet-mbv2-320 as a fenced block"),
    ],
)
def test_a_page_without_what_the_card_quotes_is_named(copy: Path, page: str, old: str, message: str) -> None:
    """The licence, the section of the model, the command."""
    path = copy / page
    path.write_text(path.read_text(encoding="utf-8").replace(old, "gone"), encoding="utf-8")
    with pytest.raises(card.CardError, match=message):
        card.render(DEFAULT, copy)


def test_check_tells_whether_the_card_is_up_to_date(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 without a card, 0 after writing it with its two pictures, 1 when a record changed, 2 for an error."""
    pytest.importorskip("torch", reason="needs the train extra")
    monkeypatch.setattr(card, "ROOT", copy)
    for picture in (copy / RESULTS).glob("*.png"):
        picture.unlink()
    runner = CliRunner()
    assert runner.invoke(card.main, ["--check"]).exit_code == 1
    assert runner.invoke(card.main, []).exit_code == 0
    assert {path.name for path in (copy / RESULTS).glob("*.png")} == {"curves.png", "pr.png"}
    assert runner.invoke(card.main, ["--check"]).exit_code == 0
    change(copy / RESULTS / "eval-float.json", lambda record: record.update(AP=0.9))
    outdated = runner.invoke(card.main, ["--check"])
    assert (outdated.exit_code, "out of date" in outdated.output) == (1, True)
    (copy / RESULTS / "eval-float.json").unlink()
    assert runner.invoke(card.main, ["--check"]).exit_code == 2

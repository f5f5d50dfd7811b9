"""`edge-centernet eval` on a real network whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import squares

from edge_centernet.files import sha256

NAMES = ["green", "kite", "red"]  # another order than the model's, one that it lacks, one of its own missing
# (class, left, top): where the network answers exactly, 2 pixels after a multiple of 4.
SCENES = [[("red", 10, 14), ("green", 70, 50)], [("green", 42, 30)], [("red", 90, 62), ("blue sky", 6, 6)]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares network, int8."""
    return squares.write_onnx(tmp_path_factory.mktemp("model") / "squares.onnx", int8=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images and their instances.json, in images/."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i, scene in enumerate(SCENES, 1):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), squares.scene(*scene))
        images.append({"id": i, "file_name": f"{i}.png", "width": squares.WIDTH, "height": squares.HEIGHT})
        for name, left, top in scene:
            if name in NAMES:
                own = {"image_id": i, "category_id": NAMES.index(name) + 1}
                annotations.append(
                    {**own, "id": len(annotations) + 1, "bbox": [left, top, squares.SIDE, squares.SIDE]}
                )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_a_perfect_detector_has_ap_1(
    run: Callable[..., Any], model: Path, data: Path, tmp_path: Path
) -> None:
    """Table on stdout, the same numbers in the JSON file, and nothing left beside it."""
    out = tmp_path / "new" / "metrics.json"
    images = data.parent / "images"
    result = run(
        "eval", "--model", model, "--data", data, "--images", images, "--threads", "1", "--json", out
    )
    assert result.code == 0, result.err
    metrics = json.loads(out.read_text())
    assert [metrics[key] for key in ("AP", "AP50", "AP75", "AP_small")] == [1.0] * 4
    assert (metrics["AP_medium"], metrics["AP_large"], metrics["images"]) == (None, None, 3)
    assert metrics["per_class"] == {"green": {"AP": 1.0, "AP50": 1.0}, "red": {"AP": 1.0, "AP50": 1.0}}
    assert metrics["ms_median"] > 0
    assert set(metrics["ms"]) == {"preprocess", "inference", "decode"}
    assert [metrics[key] for key in ("runtime", "device", "precision")] == ["onnxruntime", "CPU", "int8"]
    assert [line.split() for line in result.out.splitlines() if line.startswith(("green", "all"))] == [
        ["green", "1.000", "1.000"],
        ["all", "1.000", "1.000"],
    ]
    assert [path.name for path in out.parent.iterdir()] == ["metrics.json"]
    # An AP over fewer classes than the data set has must say so.
    assert "not evaluated, only in the data set: 'kite'; only in the model: 'blue sky'" in result.out
    assert metrics["left_out"] == {"data set": ["kite"], "model": ["blue sky"]}


def test_crowds_and_curves_are_in_table_and_json(
    run: Callable[..., Any], model: Path, data: Path, tmp_path: Path
) -> None:
    """Two annotations of one square share a cell with IoU 1: one of them is found, and so are both others.

    The record names the file measured by its hash, and holds a list of numbers on one line.
    """
    content = json.loads(data.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 99})
    data.write_text(json.dumps(content))
    out = tmp_path / "metrics.json"
    result = run("eval", "--model", model, "--data", data, "--json", out)
    metrics = json.loads(out.read_text())
    crowds = metrics["crowds"]
    half = {
        "objects": 2,
        "others": 3,
        "recall": {"0.3": 0.5, "0.01": 0.5},
        "recall_others": {"0.3": 1.0, "0.01": 1.0},
    }
    assert crowds["overlap_0.5"] == crowds["centre_collision"] == half
    row = next(line for line in result.out.splitlines() if line.startswith("share a heatmap cell"))
    assert row.split()[4:] == ["2", "0.500", "1.000", "0.500", "1.000"]
    assert metrics["precision_recall"]["per_class"]["green"]["precision"] == [1.0] * 101
    assert metrics["sha256"] == sha256(model)
    assert max(map(len, out.read_text().splitlines())) > 500


def test_scores_are_in_table_json_and_plots(
    run: Callable[..., Any], model: Path, data: Path, tmp_path: Path
) -> None:
    """Three of three objects and nothing else from 0.3 on; one bin, whose error is the distance to 1."""
    out, plots = tmp_path / "metrics.json", tmp_path / "plots"
    result = run("eval", "--model", model, "--data", data, "--json", out, "--plots", plots)
    assert result.code == 0, result.err
    metrics = json.loads(out.read_text())
    shown, calibration = metrics["at_threshold"], metrics["calibration"]
    assert (shown["threshold"], shown["precision"], shown["recall"]) == (0.3, 1.0, 1.0)
    (score,) = calibration["bins"]["score"]
    (share,) = calibration["bins"]["precision"]
    assert calibration["error"] == pytest.approx(abs(score - share), abs=1e-4)
    assert calibration["before"] is None
    lines = result.out.splitlines()
    assert "at the default threshold (0.3): precision 1.000  recall 1.000" in lines
    assert any(line.startswith("calibration error from score 0.05 on: of all 0.") for line in lines)
    assert {path.name for path in plots.iterdir()} == {"pr.png", "reliability.png"}
    assert cv2.imread(str(plots / "reliability.png")).std() > 5


def test_a_moved_box_lowers_ap(run: Callable[..., Any], model: Path, data: Path, tmp_path: Path) -> None:
    """One of two green squares annotated 12 pixels off: AP50 of green is 1/2 up to recall 1/2."""
    content = json.loads(data.read_text())
    content["annotations"][1]["bbox"][0] += 12
    data.write_text(json.dumps(content))
    out = tmp_path / "metrics.json"
    assert run("eval", "--model", model, "--data", data, "--json", out).code == 0
    per_class = json.loads(out.read_text())["per_class"]
    assert per_class["red"]["AP50"] == 1.0
    assert 0.2 < per_class["green"]["AP50"] < 0.8


def test_bad_input_is_one_line_and_exit_code_2(run: Callable[..., Any], model: Path, data: Path) -> None:
    """No class in common, no data, no model, no folder of images, a result that cannot be written."""
    content = json.loads(data.read_text())
    for category in content["categories"]:
        category["name"] += "!"
    strange = data.with_name("strange.json")
    strange.write_text(json.dumps(content))
    good = ["eval", "--model", model, "--data", data]
    for args, message in (
        (
            ["eval", "--model", model, "--data", strange, "--images", data.parent / "images"],
            "no class name in common",
        ),
        (["eval", "--model", model, "--data", data.with_name("none.json")], "no such file or folder"),
        (["eval", "--model", data.with_name("none.onnx"), "--data", data], "none.onnx"),
        ([*good, "--images", data.with_name("nowhere")], "expected the folder of the images"),
        ([*good, "--json", data / "out.json"], "cannot write there"),
        (["eval", "--model", model], "Missing option '--data'"),
    ):
        result = run(*args)
        assert (result.code, result.out) == (2, "")
        assert message in result.err


def test_a_result_that_cannot_be_written_is_known_before_the_work(
    run: Callable[..., Any], model: Path, data: Path
) -> None:
    """The model is not even opened."""
    result = run("eval", "--model", model, "--data", data, "--json", data / "out.json")
    assert "Using" not in result.err
    assert "cannot write there" in result.err

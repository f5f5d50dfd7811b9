"""`edge-centernet data check`: table, JSON file, exit code."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import squares
from test_detect import environment

import edge_centernet
from edge_centernet.data.check import KINDS

Run = Callable[..., Any]
ASSETS = Path(edge_centernet.__file__).parent / "assets"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def yolo(root: Path, photos: dict[str, str]) -> Path:
    """A YOLO folder of shipped photos at a quarter of their size; photo -> its labels."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name, labels in photos.items():
        image = cv2.imread(str(ASSETS / f"{name}.jpg"))
        assert image is not None
        small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(root / "images" / f"{name}.jpg"), small)
        (root / "labels" / f"{name}.txt").write_text(labels)
    (root / "classes.txt").write_text("cat\nperson\n")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photos with nothing wrong."""
    return yolo(tmp_path / "train", {"cat": "0 0.5 0.5 0.4 0.6\n", "astronaut": "1 0.4 0.4 0.5 0.7\n"})


def test_a_good_set_is_described_and_ends_with_0(run: Run, data: Path, tmp_path: Path) -> None:
    """Table on stdout, progress on stderr, the same figures in the file, and nothing beside it."""
    out = tmp_path / "new" / "check.json"
    done = run("data", "check", data, "--json", out)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert ["train", "2", "2", "0", "2", "0"] in rows
    assert ["cat", "1", "1", "50.0%", "0"] in rows
    assert rows[-1] == ["0", "errors,", "0", "warnings"]
    assert "read train" in done.err
    record = json.loads(out.read_text())
    assert record["findings"] == []
    assert record["sets"]["train"]["classes"]["person"]["objects"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["check.json"]


def test_several_sets_are_checked_as_one(run: Run, data: Path, tmp_path: Path) -> None:
    """What one lacks, or is not labelled for, is told; names that mean one class are one."""
    shop = yolo(tmp_path / "shop", {"sample": "1 0.5 0.5 0.4 0.6\n"})
    (shop / "classes.txt").write_text("Person\nsofa\n")
    done = run(
        "data", "check", data, shop, "--labelled-only", "shop=couch", "--json", tmp_path / "check.json"
    )
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "check.json").read_text())["sets"]["train"]
    assert (figures["data"], figures["images"], figures["objects"]) == (f"{data} + {shop}", 3, 3)
    assert {name: one["unlabelled"] for name, one in figures["classes"].items()} == {
        "cat": 1,
        "person": 1,
        "sofa": 2,
    }
    assert "train: sofa is unlabelled in 2 of 3 images" in done.out.splitlines()


def test_warnings_alone_are_no_failure(run: Run, data: Path) -> None:
    """An empty image is named, exit code 0."""
    (data / "labels" / "cat.txt").write_text("")
    done = run("data", "check", data)
    assert done.code == 0
    assert f"WARNING empty_image (1): {KINDS['empty_image'].title}" in done.out
    assert f"  train: {data / 'images' / 'cat.jpg'}: has no box" in done.out.splitlines()
    assert done.out.splitlines()[-1] == "0 errors, 2 warnings"


def test_errors_end_with_1_and_the_file_names_all_of_them(run: Run, data: Path, tmp_path: Path) -> None:
    """Seven bad lines: five on the screen, seven in the file."""
    with (data / "labels" / "cat.txt").open("a") as file:
        file.write("0 0.5 0.5 0.5\n" * 7)
    done = run("data", "check", data, "--json", tmp_path / "check.json")
    assert done.code == 1
    assert "ERROR annotation (7): " in done.out
    assert done.out.count(": expected 5 numbers") == 5
    assert "  ... and 2 more (--json FILE names all)" in done.out
    record = json.loads((tmp_path / "check.json").read_text())
    assert [finding["text"].split(": ")[1] for finding in record["findings"]] == [
        f"line {n}" for n in range(2, 9)
    ]


def test_a_leak_from_train_to_val_is_an_error(run: Run, data: Path, tmp_path: Path) -> None:
    """Both sets stand side by side in the tables."""
    val = yolo(tmp_path / "val", {"cat": "0 0.5 0.5 0.4 0.6\n"})
    done = run("data", "check", data, "--val", val)
    assert done.code == 1
    assert "ERROR leak (1)" in done.out
    assert ["cat", "1", "1", "50.0%", "0", "1", "1", "100.0%", "0"] in [
        line.split() for line in done.out.splitlines()
    ]
    part = run("data", "check", data, "--val", data, "--val-images", val / "images")
    assert (part.code, "ERROR leak (1)" in part.out) == (1, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "no such file or folder"),
        (["{data}", "--size", "100"], "expected WIDTHxHEIGHT such as 512x384, or one"),
        (["{data}", "--val", "{data}"], "is the training set itself"),
        (["{data}", "--val-images", "{data}"], "--val-images: expected --val with it"),
        (["{data}", "--json", "{data}/classes.txt/x.json"], "cannot write there"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2(
    run: Run, data: Path, args: list[str], message: str
) -> None:
    """Before any image is read."""
    done = run("data", "check", *(arg.format(data=data) for arg in args))
    assert done.code == 2
    assert message in done.err
    assert "read train" not in done.err
    assert done.out == ""


def test_it_runs_without_any_extra(data: Path) -> None:
    """No torch, no tqdm, no engine: a base install can check its data."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tqdm", "openvino", "ai_edge_litert", "onnxruntime", "onnx",
        "yaml"):
            raise SystemExit(f"imported {{name}}")
sys.meta_path.insert(0, Absent())
sys.argv = ["edge-centernet", "data", "check", {str(data)!r}]
from edge_centernet.cli import main
main()
"""
    done = subprocess.run(squares.python("-c", code), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_help_of_check_ends_with_an_example(run: Run) -> None:
    """And says what the exit codes mean."""
    text = " ".join(run("data", "check", "--help").out.split())
    assert "The exit code is 0 without errors, 1 with errors, and 2 if" in text
    assert "Example: edge-centernet data check instances_train.json --val" in text


@pytest.mark.skipif(not PAGE.is_file(), reason="needs docs/data.md of the checkout")
def test_every_kind_of_finding_is_documented() -> None:
    """The tables of docs/data.md list the kinds by severity, in the order of the report."""
    rows = re.findall(r"^\| `(\w+)` \| (error|warning) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert rows == [(name, kind.severity) for name, kind in KINDS.items()]

"""`edge-centernet train` on a small drawn data set: files, resuming, bad input."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")
import cv2
from support import allow_interrupts

SETTINGS = (
    "width=0.25", "size=64", "early_side=64", "epochs=3", "qat_epochs=1", "batch_size=4", "freeze=0", "workers=0",
    "warmup=2", "eval_every=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images with one filled circle or square each, as COCO JSON."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "train").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(16):
        canvas = np.full((64, 80, 3), 60, np.uint8)
        x, y, half = (int(v) for v in (rng.integers(20, 60), rng.integers(20, 44), rng.integers(8, 16)))
        if i % 2:
            cv2.rectangle(canvas, (x - half, y - half), (x + half, y + half), (30, 200, 30), -1)
        else:
            cv2.circle(canvas, (x, y), half, (30, 30, 220), -1)
        cv2.imwrite(str(folder / f"train/{i}.png"), canvas)
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 64})
        box = [x - half, y - half, 2 * half, 2 * half]
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": box, "area": 4 * half * half, "iscrowd": 0}
        )
    categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances_train.json").write_text(json.dumps(data))
    return folder / "instances_train.json"


def _command(data: Path, out: Path, *more: str) -> list[str]:
    settings = [part for s in SETTINGS for part in ("--set", s)]
    base = [sys.executable, "-m", "edge_centernet", "train", "--data", str(data), "--out", str(out), "--name", "drawn"]
    return [*base, *settings, "--threads", "1", "--device", "cpu", *more]


def _train(data: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(data, out, *more), capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = _train(drawn, out, "--val", str(drawn))
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_weights_metrics_and_the_interchange_file(finished: Path) -> None:
    """Four lines of metrics (3 float, 1 QAT), both checkpoints, NAME.onnx with the class names."""
    from edge_centernet.artifact import read_manifest

    rows = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))

    assert [(r["stage"], r["epoch"]) for r in rows] == [("float", "1"), ("float", "2"), ("float", "3"), ("qat", "1")]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert rows[2]["AP50"] != ""
    assert (finished / "float.safetensors").is_file()
    assert (finished / "qat.safetensors").is_file()
    assert read_manifest(finished / "drawn.onnx").model.classes == ("circle", "square")


def test_an_interrupted_run_goes_on_to_the_same_weights(drawn: Path, finished: Path, tmp_path: Path) -> None:
    """Ctrl-C after the first epoch, --resume, and qat.safetensors equals the uninterrupted run's to the byte."""
    out = tmp_path / "cut"
    process = subprocess.Popen(
        _command(drawn, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=allow_interrupts,
    )
    deadline = time.monotonic() + 200
    while not (out / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert not (out / "qat.safetensors").exists(), "the run must have been cut short"
    resumed = _train(drawn, out, "--resume")
    assert resumed.returncode == 0, resumed.stderr

    def digest(folder: Path) -> str:
        return hashlib.sha256((folder / "qat.safetensors").read_bytes()).hexdigest()

    assert digest(out) == digest(finished)
    epochs = [row.split(",")[:2] for row in (out / "metrics.csv").read_text().splitlines()[1:]]
    assert epochs == [["float", "1"], ["float", "2"], ["float", "3"], ["qat", "1"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "lr=fast"), "--set lr: expected float, got 'fast'"),
        (("--set", "speed=9"), "--set: expected NAME=VALUE with one of"),
        (("--set", "size=100"), "training option size: expected a multiple of 32, at least 64, got 100"),
        (("--resume",), "--resume: expected an earlier run, found no"),
        (("--weights", "nowhere.safetensors"), "found nothing at nowhere.safetensors"),
    ],
)
def test_bad_options_are_one_line_and_exit_two(
    drawn: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """No traceback, what was expected and what came."""
    done = _train(drawn, tmp_path / "out", *arguments)
    errors = [line for line in done.stderr.splitlines() if "Error" in line]

    assert done.returncode == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr


def test_a_finished_run_is_not_overwritten(drawn: Path, finished: Path) -> None:
    """Training into its folder without --resume is refused."""
    before = (finished / "qat.safetensors").stat().st_mtime_ns
    done = _train(drawn, finished)

    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert (finished / "qat.safetensors").stat().st_mtime_ns == before

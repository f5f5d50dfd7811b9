"""`edge-centernet train` on a small drawn data set: files, resuming, bad input."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")
import cv2
from support import Result, allow_interrupts

from edge_centernet.artifact import read_manifest

SETTINGS = (
    "width=0.25", "size=64", "early_side=64", "epochs=3", "qat_epochs=1", "batch_size=4", "freeze=0",
    "workers=0", "neck=16,16,16", "head=16", "context=1", "warmup=2", "eval_every=0", "amp=off",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images with one filled circle or square each, as COCO JSON."""
    return _draw(tmp_path_factory.mktemp("drawn"), 0)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many others, to validate on."""
    return _draw(tmp_path_factory.mktemp("others"), 1)


def _draw(folder: Path, seed: int) -> Path:
    (folder / "train").mkdir()
    rng = np.random.default_rng(seed)
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
            {
                "id": i,
                "image_id": i,
                "category_id": 1 + i % 2,
                "bbox": box,
                "area": 4 * half * half,
                "iscrowd": 0,
            }
        )
    categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances_train.json").write_text(json.dumps(data))
    return folder / "instances_train.json"


def _command(data: Path, out: Path, *more: str) -> list[str]:
    settings = [part for s in SETTINGS for part in ("--set", s)]
    base = [
        sys.executable,
        "-m",
        "edge_centernet",
        "train",
        "--data",
        str(data),
        "--out",
        str(out),
        "--name",
        "drawn",
        "--weights",
        "none",
    ]
    return [*base, *settings, "--threads", "1", "--device", "cpu", *more]


def _train(data: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(data, out, *more), capture_output=True, text=True, check=False, timeout=300
    )


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "qat.safetensors").read_bytes()).hexdigest()


def _rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def finished(drawn: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run, with what it printed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = _train(drawn, out, "--val", str(others))
    assert done.returncode == 0, done.stderr
    (out / "printed.txt").write_text(done.stdout)
    return out


@pytest.mark.slow
def test_a_run_leaves_weights_metrics_and_the_interchange_file(finished: Path) -> None:
    """Four lines of metrics (3 float, 1 QAT), both checkpoints, NAME.onnx with the class names."""
    rows = _rows(finished)

    assert [(r["stage"], r["epoch"]) for r in rows] == [
        ("float", "1"),
        ("float", "2"),
        ("float", "3"),
        ("qat", "1"),
    ]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert rows[2]["AP50"] != ""
    for name in ("float", "qat", "best", "last"):
        assert (finished / f"{name}.safetensors").is_file()
    assert read_manifest(finished / "drawn.onnx").model.classes == ("circle", "square")


@pytest.mark.slow
def test_the_terminal_shows_ap_the_classes_and_where_to_look(finished: Path) -> None:
    """A line an evaluation; at the end a row a class and the paths of pictures and weights."""
    printed = (finished / "printed.txt").read_text()
    assert re.search(r"^float 3/3: loss [\d.]+, AP50 [\d.]+, AP [\d.]+ \(best\)$", printed, re.M)
    assert re.search(r"^qat 1/1: loss [\d.]+, AP50 [\d.]+, AP [\d.]+$", printed, re.M)
    rows = [line.split() for line in printed.splitlines()]
    assert ["class", "images", "objects", "AP50", "AP"] in rows
    assert [row[:3] for row in rows if row[:1] in (["circle"], ["square"], ["all"])] == [
        ["circle", "8", "8"],
        ["square", "8", "8"],
        ["all", "16", "16"],
    ]
    assert f"Best and worst images: {finished / 'contact_sheet.jpg'}" in printed
    assert f"Curves: {finished / 'curves.png'}" in printed


# A signal from inside, as soon as a stage is under way: the same stage on every machine. What it costs is
# measured in the processor's time, which other programs do not change: that of loading everything, and that
# from the signal to the end, which the parent finds.
STOPPED = """
import os, signal, sys, time
import edge_centernet.train.export, edge_centernet.train.loop, onnxsim
from edge_centernet.cli import main
number, stage = int(sys.argv.pop(1)), sys.argv.pop(1)
module, name, nth = stage.split(":")
import importlib
owner = importlib.import_module(module)
work = getattr(owner, name)
loading = time.process_time()
calls = 0
def stopped(*args, **more):
    global calls
    calls += 1
    if calls == int(nth):
        print(f"cpu {loading} {time.process_time()}", flush=True)
        os.kill(os.getpid(), number)
        time.sleep(60)  # what would have to be waited for
    return work(*args, **more)
setattr(owner, name, stopped)
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number", "position"),
    [
        ("edge_centernet.data.base:image_size:3", signal.SIGTERM, None),
        ("edge_centernet.train.dataset:make_targets:3", signal.SIGINT, ("float", 0, 0)),
        ("edge_centernet.train.loop:centernet_loss:6", signal.SIGTERM, ("float", 1, 1)),
        ("edge_centernet.train.loop:_listen:150", signal.SIGINT, ("float", 0, 0)),
        ("edge_centernet.train.validate:letterbox:3", signal.SIGINT, ("float", 2, 4)),
        ("edge_centernet.train.validate:letterbox:19", signal.SIGTERM, ("float", 3, 0)),
        ("edge_centernet.calibration.images:read_image:3", signal.SIGINT, ("float", 3, 0)),
        ("edge_centernet.train.loop:centernet_loss:14", signal.SIGINT, ("qat", 0, 1)),
        ("edge_centernet.train.validate:letterbox:35", signal.SIGINT, ("qat", 0, 4)),
        ("edge_centernet.train.report:tile:1", signal.SIGTERM, ("qat", 1, 0)),
        ("edge_centernet.train.export:qdq_onnx:1", signal.SIGINT, ("qat", 1, 0)),
    ],
    ids=[
        "reading", "loading a batch", "forward", "backward", "validation", "score calibration", "calibration",
        "int8 step", "int8 validation", "report", "export",
    ],
)  # fmt: skip
def test_a_stop_is_heeded_at_once_in_every_stage(
    drawn: Path,
    others: Path,
    finished: Path,
    tmp_path: Path,
    stage: str,
    number: signal.Signals,
    position: tuple[str, int, int] | None,
) -> None:
    """It says so and how to go on, drops what is under way, and ends in a fraction of the time of loading.

    What is resumed ends with the weights of an uninterrupted run. position: of the state that is saved.
    """
    import torch

    more = ("--val", str(others))
    arguments = _command(drawn, tmp_path / "out", *more)[3:]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number)), stage, *arguments],
        capture_output=True, text=True, check=False, timeout=300, preexec_fn=allow_interrupts,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    loading, signalled = map(float, re.findall(r"^cpu (\S+) (\S+)$", done.stdout, re.M)[0])
    whole = sum(getattr(after, part) - getattr(before, part) for part in ("ru_utime", "ru_stime"))
    assert whole - signalled < 0.2 * loading
    answer, *_, last = [line for line in done.stderr[done.stderr.index("\nStopping") :].splitlines() if line]
    assert answer == "Stopping."
    if position is None:
        assert last == "Stopped before anything was learned. Run the command again."
        return
    assert last == ("Stopped; everything up to here is saved. To go on, repeat the command with --resume.")
    state = torch.load(tmp_path / "out/state.pt", weights_only=True)
    assert (state["stage"], state["epoch"], state["step"]) == position
    resumed = _train(drawn, tmp_path / "out", *more, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert _digest(tmp_path / "out") == _digest(finished)
    assert _rows(tmp_path / "out")[-1]["AP50"] == _rows(finished)[-1]["AP50"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_to_the_group_ends_without_a_traceback(
    drawn: Path, others: Path, tmp_path: Path, processes: int
) -> None:
    """Loading workers and the processes of torchrun get it too, as from systemd or a closed terminal."""
    command = _command(drawn, tmp_path / "out", "--val", str(others), "--set", "workers=1")
    command += ["--set", "epochs=1000"]
    command += ["--processes", f"{processes}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "out/state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert "Traceback" not in stderr
    assert "Stopped; everything up to here is saved" in stderr
    assert process.returncode != 0


@pytest.mark.slow
def test_patience_ends_the_float_stage_and_takes_the_best(drawn: Path, others: Path, tmp_path: Path) -> None:
    """A rate at which nothing is learned: two evaluations without a better AP, and the first is the best."""
    options = ("--val", str(others), "--epochs", "50", "--lr", "1e-12", "--patience", "2", "--batch", "16")
    done = _train(drawn, tmp_path, *options, "--set", "eval_every=1")
    assert done.returncode == 0, done.stderr
    assert (
        "Stopped early: no better AP in 2 evaluations (patience); the best is that of epoch 1" in done.stdout
    )
    assert [(row["stage"], row["epoch"]) for row in _rows(tmp_path)] == [
        ("float", "1"),
        ("float", "2"),
        ("float", "3"),
        ("qat", "1"),
    ]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["batch_size"], config["lr"], config["patience"]) == (16, 1e-12, 2)


@pytest.mark.slow
def test_the_parts_of_a_set_are_used_for_what_they_are(drawn: Path, others: Path, tmp_path: Path) -> None:
    """Train is learned, val chosen by, test evaluated at the end; all of it is said."""
    for part, source in (("train", drawn), ("val", others), ("test", others)):
        data = json.loads(source.read_text())
        for one in data["images"]:
            one["file_name"] = str(source.parent / "train" / one["file_name"])
        (tmp_path / f"instances_{part}.json").write_text(json.dumps(data))
    done = _train(tmp_path, tmp_path / "out", "--set", "epochs=1", "--set", "qat_epochs=0")
    assert done.returncode == 0, done.stderr
    assert f"Validation on 16 images: {tmp_path} (val), the part val of --data" in done.stderr
    assert f"Test of the result on 16 images: {tmp_path} (test)" in done.stderr
    assert "val, as INT8 computes:" in done.stdout
    assert "test, as INT8 computes:" in done.stdout


def test_validation_by_the_training_images_is_refused(
    run: Callable[..., Result], drawn: Path, tmp_path: Path
) -> None:
    """By the same path, and by another file that names the same images."""
    same = run("train", "--data", drawn, "--val", drawn, "--out", tmp_path / "out")
    assert (same.code, "is the training set itself" in same.err) == (2, True)
    copy = tmp_path / "copy.json"
    copy.write_text(drawn.read_text())
    images = ("--val-images", drawn.parent / "train")
    other = run("train", "--data", drawn, "--val", copy, *images, "--out", tmp_path / "out")
    assert (other.code, "all 16 images are training images" in other.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_patience_needs_a_validation_set(run: Callable[..., Result], drawn: Path, tmp_path: Path) -> None:
    """Without one AP never rises."""
    done = run("train", "--data", drawn, "--patience", "3", "--weights", "none", "--out", tmp_path / "out")
    assert (done.code, "patience: expected a validation set" in done.err) == (2, True)


def test_options_are_listed_from_the_dataclass(run: Callable[..., Result]) -> None:
    """Every field, with its default; nothing else is needed."""
    from edge_centernet.train.config import TrainConfig

    done = run("train", "--list-options")
    assert done.code == 0, done.err
    listed = re.findall(r"^  (\w+)=(\S*)", done.out, re.M)
    assert [name for name, _ in listed] == list(TrainConfig().to_dict())
    assert {"size": "320x320", "neck": "128,96,64", "symmetric": "false", "lr": "0.004"}.items() <= dict(
        listed
    ).items()


def test_words_of_other_trainers_mean_the_same_or_lead_to_ours(tmp_path: Path) -> None:
    """imgsz, batch and lr0 are size, batch_size and lr; what differs is named."""
    from edge_centernet.errors import ConfigError
    from edge_centernet.train.config import TrainConfig

    assert TrainConfig.parse(("imgsz=256", "batch=4", "lr0=0.01")) == {
        "size": (256, 256),
        "batch_size": 4,
        "lr": 0.01,
    }
    yaml = tmp_path / "run.yaml"
    yaml.write_text("imgsz: 256\nbatch: 4\namp: on\n")
    assert TrainConfig.read_yaml(yaml) == {"size": (256, 256), "batch_size": 4, "amp": "on"}
    for setting, message in (
        ("close_mosaic=10", "there is no option 'close_mosaic'; set mosaic_part"),
        ("epoch=3", "did you mean 'epochs'"),
        ("lr", "expected NAME=VALUE, got 'lr'"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig.parse((setting,))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(drawn: Path, finished: Path, tmp_path: Path) -> None:
    """Ctrl-C after the first epoch, then --resume: qat.safetensors is the uninterrupted run's to the byte."""
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

    assert _digest(out) == _digest(finished)
    epochs = [row.split(",")[:2] for row in (out / "metrics.csv").read_text().splitlines()[1:]]
    assert epochs == [["float", "1"], ["float", "2"], ["float", "3"], ["qat", "1"]]


# kill -9 from inside, so that it comes at the same step on every machine.
KILLED = """
import os, signal, sys
from edge_centernet.train.loop import Trainer
step = Trainer._train_step
def killed(self, *batch):
    if (self.position.epoch, self.position.step) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)
Trainer._train_step = killed
from edge_centernet.cli import main
main()
"""


@pytest.mark.slow
def test_a_run_killed_inside_an_epoch_goes_on_to_the_same_weights(
    drawn: Path, finished: Path, tmp_path: Path
) -> None:
    """A kill -9 in the second epoch, then --resume: qat.safetensors equals the uninterrupted run's."""
    import torch

    out = tmp_path / "killed"
    arguments = _command(drawn, out, "--set", "save_every=0.001")[3:]  # behind python -m edge_centernet
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False, timeout=300
    )
    state = torch.load(out / "state.pt", weights_only=True)
    resumed = _train(drawn, out, "--resume")

    assert killed.returncode == -signal.SIGKILL
    assert (state["epoch"], state["step"]) == (1, 2)
    assert resumed.returncode == 0, resumed.stderr
    assert _digest(out) == _digest(finished)


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(drawn: Path, tmp_path: Path) -> None:
    """Two torchrun processes with half of each batch: within 0.2 %, where another seed is 1 % off.

    A low rate: AdamW turns the last bit of a gradient near zero into a whole step, by which the curves part,
    farther on one processor than on another (1.2 % at the usual rate).
    """
    alone, two = tmp_path / "alone", tmp_path / "two"
    slowly = ("--set", "lr=4e-4")
    assert _train(drawn, alone, *slowly).returncode == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = _command(drawn, two, *slowly)
    done = subprocess.run([*launcher, *command[1:]], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    ours, theirs = ([float(r["loss"]) for r in _rows(folder)] for folder in (two, alone))

    assert len(ours) == 4
    assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.slow
def test_several_sets_are_learnt_as_one(drawn: Path, others: Path, tmp_path: Path) -> None:
    """A second set of the same images, labelled for rings: a warning, the union of classes, a network."""
    pytest.importorskip("faster_coco_eval", reason="needs the eval extra")
    data = json.loads(drawn.read_text())
    more = tmp_path / "rings" / "more.json"
    more.parent.mkdir()
    data["categories"] = [{"id": 1, "name": "ring"}, {"id": 2, "name": "Square"}]
    more.write_text(json.dumps(data))
    sets = (
        "--data",
        str(more),
        "--images",
        f"rings={drawn.parent / 'train'}",
        "--labelled-only",
        "rings=ring",
    )
    short = ("--val", str(others), "--set", "epochs=1", "--set", "qat_epochs=0")
    done = _train(drawn, tmp_path / "out", *sets, *short)

    assert done.returncode == 0, done.stderr
    assert "16 image files are in several of the data sets" in done.stderr
    assert "32 training images, 3 classes" in done.stderr
    assert json.loads((tmp_path / "out/config.json").read_text())["classes"] == ["circle", "square", "ring"]


@pytest.mark.slow
def test_a_yaml_file_sets_options_and_the_command_line_wins(drawn: Path, tmp_path: Path) -> None:
    """seed: 7, epochs: 2 in the file, --set epochs=1: config.json has 7 and 1; the folder names the model."""
    pytest.importorskip("yaml", reason="needs the eval extra")
    (tmp_path / "run.yaml").write_text("seed: 7\nepochs: 2\nneck: [16, 16, 24]\nqat_epochs: 0\n")
    base = [part for s in SETTINGS if not s.startswith(("epochs", "neck", "qat")) for part in ("--set", s)]
    done = subprocess.run(
        [sys.executable, "-m", "edge_centernet", "train", "--data", str(drawn),
         "--out", str(tmp_path / "out"), "--weights", "none", "--config", str(tmp_path / "run.yaml"),
         *base, "--set", "epochs=1", "--threads", "1"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out/config.json").read_text())

    assert (config["seed"], config["epochs"], config["neck"]) == (7, 1, [16, 16, 24])
    assert read_manifest(tmp_path / "out/out.onnx").model.name == "out"


@pytest.mark.slow
def test_training_can_start_from_a_checkpoint_of_ours(drawn: Path, finished: Path, tmp_path: Path) -> None:
    """No architecture is given: it is the checkpoint's, and the loss is nearer to where that ended."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_centernet", "train", "--data", str(drawn), "--out", str(tmp_path),
         "--device", "cpu", "--weights", str(finished / "float.safetensors"), "--set", "epochs=1",
         "--set", "qat_epochs=0", "--set", "batch_size=4",
         "--set", "workers=0", "--set", "lr=1e-5", "--set", "mosaic=0", "--threads", "1"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "config.json").read_text())

    assert (config["width"], config["neck"], config["size"]) == (0.25, [16, 16, 16], [64, 64])
    first, last = float(_rows(finished)[0]["loss"]), float(_rows(finished)[2]["loss"])
    assert float(_rows(tmp_path)[0]["loss"]) < (first + last) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "lr=fast"), "--set lr: expected float, got 'fast'"),
        (("--set", "speed=9"), "--set: there is no option 'speed'"),
        (("--set", "size=100"), "size: expected WIDTHxHEIGHT such as 512x384, or one number for a square"),
        (
            ("--images", "a", "--images", "b"),
            "--images: expected one folder for each set of --data, 1, or NAME=FOLDER",
        ),
        (
            ("--labelled-only", "instances_train=circel"),
            "labelled only for 'circel': expected one of the classes 'circle', 'squ",
        ),
        (("--classes", "ring"), "holds none of the classes asked for ('ring'); it has 'circle', 'square'"),
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


Change = Callable[[dict[str, Any]], None]


def _annotated(change: Change) -> Change:
    def apply(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            change(annotation)

    return apply


def _ten_times(data: dict[str, Any]) -> None:
    for image in data["images"]:
        image.update(width=800, height=640)


def _turned(data: dict[str, Any]) -> None:
    for image in data["images"]:
        image.update(width=64, height=80)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_ten_times, "0.png: expected 800x640 pixels as its annotation says, got 80x64"),
        (_turned, "0.png: expected 64x80 pixels as its annotation says, got 80x64"),
        (
            lambda data: data.update(annotations=[]),
            "expected labelled objects to learn from, found none in 16 images",
        ),
        (
            _annotated(lambda one: one.update(iscrowd=1)),
            "expected labelled objects to learn from, found none",
        ),
        (_annotated(lambda one: one.update(bbox=[9, 9, 1, 1])), "all 16 objects are less than 2 pixels wide"),
    ],
)
def test_data_that_teaches_nothing_right_is_refused_before_the_first_step(
    run: Callable[..., Result], drawn: Path, tmp_path: Path, change: Change, message: str
) -> None:
    """Images of another size than their annotation says, no object, only ignored ones, only tiny ones."""
    data = json.loads(drawn.read_text())
    change(data)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    settings = [part for s in SETTINGS for part in ("--set", s)]
    images = ("--images", drawn.parent / "train")
    result = run("train", "--data", path, *images, "--out", tmp_path / "out", "--weights", "none", *settings)

    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


def test_a_validation_set_is_looked_at_before_the_first_step(
    run: Callable[..., Result], drawn: Path, tmp_path: Path
) -> None:
    """One without an object, and one with an image that was made smaller after annotating."""
    for name, change, message in (
        ("empty", {"annotations": []}, "expected at least one labelled object to evaluate on, found none"),
        ("small", {}, "expected 800x640 pixels as its annotation says, got 80x64"),
    ):
        whole = json.loads(drawn.read_text())
        parts = [{**whole, "images": images} for images in (whole["images"][:8], whole["images"][8:])]
        for part in parts:
            ids = {image["id"] for image in part["images"]}
            part["annotations"] = [one for one in whole["annotations"] if one["image_id"] in ids]
        learnt, data = parts[0], {**parts[1], **change}
        if not change:
            _ten_times(data)
        (train := tmp_path / "train.json").write_text(json.dumps(learnt))
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(data))
        images = drawn.parent / "train"
        options = ("--images", images, "--val", path, "--val-images", images, "--weights", "none")
        result = run("train", "--data", train, *options, "--out", tmp_path / "out")
        assert (result.code, message in result.err) == (2, True), result.err


def test_a_part_that_is_not_learnt_is_a_warning(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One circle of 1x1 pixel of 8, and every square gone."""
    from edge_centernet.data import read_dataset
    from edge_centernet.manifest import InputSize
    from edge_centernet.train.dataset import Augment, check_objects

    data = read_dataset(drawn)
    first = replace(data.samples[0], boxes=np.array([[9, 9, 10, 10]], np.float32))
    circles = [sample for sample in data.samples[1:] if 0 in sample.labels]
    check_objects(replace(data, samples=(first, *circles)), "shapes.json", InputSize(64, 64), Augment())

    assert [record.getMessage() for record in caplog.records] == [
        "shapes.json: 1 of 8 objects are not learnt: less than 2 pixels wide or high in the network's input "
        "of 64x64",
        "shapes.json: no object to learn from of 'square'",
    ]


@pytest.mark.parametrize("names", [["square", "circle"], ["circle", "ring"], ["circle"]])
def test_a_run_is_not_resumed_with_other_classes(
    run: Callable[..., Result], drawn: Path, tmp_path: Path, names: list[str]
) -> None:
    """Swapped, renamed or fewer: the network would call one thing by the name of another."""
    from edge_centernet.train.config import TrainConfig

    (tmp_path / "config.json").write_text(json.dumps({**TrainConfig().to_dict(), "classes": names}))
    result = run("train", "--data", drawn, "--out", tmp_path, "--resume")

    assert result.code == 2
    assert f"learns {', '.join(map(repr, names))}, in this order, but the data set has 'circle'" in result.err


@pytest.mark.slow
def test_a_finished_run_is_not_overwritten(drawn: Path, finished: Path) -> None:
    """Training into its folder without --resume is refused."""
    before = (finished / "qat.safetensors").stat().st_mtime_ns
    done = _train(drawn, finished)

    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert (finished / "qat.safetensors").stat().st_mtime_ns == before

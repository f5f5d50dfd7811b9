"""Retrain the shipped model on other classes with the defaults, and hold it to what that must reach.

    python scripts/own_classes.py playing_cards --json docs/benchmarks/own-classes.json
    python scripts/own_classes.py bccd --json docs/benchmarks/own-classes.json

Trains (float, then quantization-aware), converts to INT8 and evaluates the OpenVINO file, with the commands a
newcomer would type. Exits with 1 when AP50 or the time for training misses the target.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click
from measured import cli

from edge_centernet.files import write_atomic


class Task(NamedTuple):
    """Where a data set's parts are, and what must be reached in how many minutes on two CPU cores."""

    train: str
    val: str
    test: str
    ap50: float
    minutes: float


TASKS = {
    "playing_cards": Task("instances_train.json", "instances_val.json", "instances_val.json", 0.95, 20),
    "bccd": Task("ImageSets/Main/train.txt", "ImageSets/Main/val.txt", "ImageSets/Main/test.txt", 0.85, 40),
}


@click.command()
@click.argument("task", type=click.Choice(sorted(TASKS)))
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the result into it.")
def main(task: str, data: Path, out: Path, record: Path | None) -> None:
    """Train, convert and evaluate TASK."""
    parts, folder, run = TASKS[task], data / task, out / task
    name = task.replace("_", "-")
    start = time.monotonic()
    data_of_run = ("--data", folder / parts.train, "--val", folder / parts.val)
    cli("train", *data_of_run, "--out", run, "--name", name)
    minutes = (time.monotonic() - start) / 60
    made, result_file = run / "artifacts", run / "eval-openvino.json"
    cli("convert", run / f"{name}.onnx", "--int8", "--target", "openvino", "--out", made)
    model, test = made / f"{name}.xml", folder / parts.test
    cli("eval", "--model", model, "--data", test, "--json", result_file)
    result = json.loads(result_file.read_text())
    good = result["AP50"] >= parts.ap50 and minutes <= parts.minutes
    if record:
        records = json.loads(record.read_text()) if record.exists() else {}
        about = {"minutes": round(minutes, 1), "reached": good, "target": parts._asdict()}
        records[task] = {"AP50": result["AP50"], "AP": result["AP"], **about}
        write_atomic(record, json.dumps(records, indent=1) + "\n")
    click.echo(
        f"{task}: INT8 AP50 {result['AP50']:.3f} (at least {parts.ap50}) after {minutes:.1f} minutes "
        f"(at most {parts.minutes:g}): {'reached' if good else 'NOT reached'}"
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

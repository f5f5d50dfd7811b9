"""Where the accuracy goes: what AP would be if one thing about the detections were perfect.

    python scripts/error_budget.py edge_centernet/models/centernet-mbv2-320.safetensors \
        --data ../shared/data/voc2007/instances_val.json

From the best score down, each detection that overlaps a free object of its class by IoU 0.3 or more is given that
object's centre, its size or both; what that adds to AP is lost by localisation. "class" gives a detection the class of
the object that it overlaps most, by IoU 0.5 or more. Writes docs/benchmarks/NAME/error-budget.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from edge_centernet.artifact import sha256
from edge_centernet.crowds import iou
from edge_centernet.data import Sample, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.evaluate import evaluate_samples
from edge_centernet.files import write_atomic
from edge_centernet.model.checkpoint import load_checkpoint
from edge_centernet.train.validate import THRESHOLD, predict

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs/benchmarks"
NEAR = 0.3  # IoU from which a detection is taken to mean an object
SAME = 0.5  # IoU from which only its class can be wrong
PERFECT = ("nothing", "centre", "size", "centre and size", "class")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Validation set: COCO JSON, VOC or YOLO.")
def main(checkpoint: Path, data: Path) -> None:
    """Print and write the error budget of CHECKPOINT."""
    model, stage = load_checkpoint(checkpoint)
    val = read_dataset(data, classes=model.spec.classes)
    found = list(predict(model, val, THRESHOLD))
    rows = []
    for perfect in PERFECT:
        mended = [mend(f, sample, perfect) for f, sample in zip(found, val.samples, strict=True)]
        metrics = evaluate_samples(mended, val, model.spec.classes, model.spec)
        rows.append({"perfect": perfect, "AP50": round(metrics["AP50"], 4), "AP": round(metrics["AP"], 4)})
        click.echo(f"perfect {perfect:16} AP50 {metrics['AP50']:.4f}  AP {metrics['AP']:.4f}")
    record = {"stage": stage, "checkpoint_sha256": sha256(checkpoint), "near": NEAR, "same": SAME, "rows": rows}
    write_atomic(BENCHMARKS / model.spec.name / "error-budget.json", json.dumps(record, indent=1) + "\n")


def mend(found: Detections, sample: Sample, perfect: str) -> Detections:
    """`found` with what `perfect` names taken from the objects of `sample`, ignored ones too: then nobody counts it."""
    if perfect == "nothing" or not len(found.score) or not len(sample.boxes):
        return found
    overlaps = iou(found.xyxy, sample.boxes)  # (N, M)
    if perfect == "class":
        best = overlaps.argmax(axis=1)
        right = np.where(overlaps.max(axis=1) >= SAME, sample.labels[best], found.class_id)
        return Detections(found.xyxy, found.score, right.astype(np.int32))
    xyxy, taken = found.xyxy.copy(), np.zeros(len(sample.boxes), np.bool_)
    for i in np.argsort(-found.score, kind="stable"):
        free = np.where((sample.labels == found.class_id[i]) & ~taken, overlaps[i], 0)  # (M,)
        j = int(free.argmax())
        if free[j] >= NEAR:
            taken[j] = True
            xyxy[i] = moved(xyxy[i], sample.boxes[j], perfect)
    return Detections(xyxy, found.score, found.class_id)


def moved(box: NDArray[np.float32], truth: NDArray[np.float32], perfect: str) -> NDArray[np.float32]:
    """(4,) x1 y1 x2 y2 with the true box's centre, its size or both."""
    centre = truth if "centre" in perfect else box
    size = truth if "size" in perfect else box
    middle, half = (centre[:2] + centre[2:]) / 2, (size[2:] - size[:2]) / 2
    return np.concatenate([middle - half, middle + half])


if __name__ == "__main__":
    main()

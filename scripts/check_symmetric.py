#!/usr/bin/env python3
"""What the zero points cost that TensorRT does not know: COCO metrics of a shipped model's two ONNX files.

    python scripts/check_symmetric.py --data ../shared/data/voc2007/instances_val.json [--model NAME] [--threads 1]

Both are run by ONNX Runtime on the CPU: the file as it was trained, and the one that `convert --target tensorrt` makes
of it. TensorRT itself is not needed; it adds what its float16 layers and its order of sums differ. The record goes to
docs/benchmarks/MODEL/symmetric.json.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["EDGE_CENTERNET_PROVIDERS"] = "cpu"

import click
import onnxruntime

from edge_centernet.artifact import sha256
from edge_centernet.converters import convert
from edge_centernet.crowds import MAX_DETECTIONS
from edge_centernet.data import read_dataset
from edge_centernet.detector import Detector
from edge_centernet.evaluate import THRESHOLD, evaluate_dataset
from edge_centernet.files import write_atomic
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.runtimes import open_runtime

OUT = Path(__file__).resolve().parent.parent / "docs/benchmarks"
KEYS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def measure(path: Path, data: Path, threads: int) -> dict[str, Any]:
    """Metrics of one file on all pictures of the data set."""
    runtime = open_runtime(path, threads=threads)
    dataset, classes = read_dataset(data), runtime.manifest.model.classes
    detector = Detector(runtime, threshold=THRESHOLD, max_detections=MAX_DETECTIONS)
    with click.progressbar(dataset.samples, label=path.name, file=sys.stderr) as samples:
        result = evaluate_dataset(detector.detect_timed, dataset, classes, lambda _: samples)
    runtime.close()
    click.echo(f"{path.name}: AP {result['AP']:.4f}, AP50 {result['AP50']:.4f}, {len(dataset.samples)} images")
    per_class = {name: {key: value[key] for key in ("AP", "AP50")} for name, value in result["per_class"].items()}
    numbers = {key: result[key] for key in KEYS}
    return {
        "file": path.name,
        "sha256": sha256(path),
        "images": len(dataset.samples),
        **numbers,
        "per_class": per_class,
    }


@click.command()
@click.option("--model", default=DEFAULT, show_default=True, help="Name of a shipped model.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Validation set: COCO JSON, VOC or YOLO.")
@click.option("--threads", default=1, show_default=True)
def main(model: str, data: Path, threads: int) -> None:
    """Measure both files and write the record."""
    source = find_model(model, ".onnx")
    with tempfile.TemporaryDirectory() as folder:
        lines: list[str] = []
        (made,) = convert(source, ["tensorrt"], "int8", Path(folder), progress=lines.append)
        record = {
            **{"data": data.name, "engine": f"onnxruntime {onnxruntime.__version__}, CPU"},
            "as_trained": measure(source, data, threads),
            "symmetric": measure(made.path, data, threads),
            "said_by_convert": next(line for line in lines if "zero point 0 only" in line),
        }
    write_atomic(OUT / model / "symmetric.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

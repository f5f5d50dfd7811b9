"""Do OpenVINO, TFLite and ONNX Runtime give the same answer to the same quantized network?

    python scripts/compare_engines.py ../shared/data/voc2007/instances_val.json --limit 200

For each pair of engines: the share of cells of the raw heads that differ by at most STEPS output steps, the largest
difference, and the share of detections (score above 0.3, `edge_centernet.converters.verify`) that agree. Exit code 1
where less than 99.9 % of the cells or 99 % of the detections do. Writes docs/benchmarks/NAME/engines.json.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ROOT, commit, cpu_name

from edge_centernet.artifact import sha256
from edge_centernet.converters.graphs import HEADS
from edge_centernet.converters.verify import agreement
from edge_centernet.data import read_dataset
from edge_centernet.files import write_atomic
from edge_centernet.heads import Heads, real_values
from edge_centernet.image import prepare, read_image
from edge_centernet.manifest import Manifest
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.progress import bars
from edge_centernet.runtimes import open_runtime

STEPS, CELLS, DETECTIONS = 2, 0.999, 0.99
ENGINES = {"onnxruntime": ".onnx", "openvino": ".xml", "tflite": ".tflite"}

Side = tuple[Heads, Manifest]


class Pair:
    """What two engines made of all images so far."""

    def __init__(self) -> None:
        """Nothing seen."""
        self.cells = self.near = self.found = self.matched = 0
        self.largest = 0.0

    def add(self, one: Side, other: Side) -> None:
        """Count one image."""
        for role in HEADS:
            spec = getattr(one[1], role)
            a, b = (real_values(getattr(heads, role), getattr(manifest, role)) for heads, manifest in (one, other))
            steps = np.abs(a - b) / spec.quant.scale  # (C, H, W)
            self.cells += steps.size
            self.near += int((steps < STEPS + 0.5).sum())
            self.largest = max(self.largest, float(steps.max()))
        found, matched = agreement(one, other)
        self.found, self.matched = self.found + found, self.matched + matched

    def row(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "cells": self.cells,
            "within_2_steps": round(self.near / self.cells, 6),
            "largest_steps": round(self.largest, 2),
            "detections": self.found,
            "agree": round(self.matched / self.found, 5),
        }


def answers(data: Path, limit: int, files: dict[str, Path]) -> dict[tuple[str, str], Pair]:
    """(engine, engine) -> their comparison over the first `limit` images."""
    runtimes = {engine: open_runtime(path, engine, threads=1) for engine, path in files.items()}
    pairs = {pair: Pair() for pair in combinations(files, 2)}
    with bars() as progress:
        samples = read_dataset(data).samples[: limit or None]
        for number, sample in enumerate(samples, 1):
            image = read_image(sample.path)
            sides = {}
            for engine, runtime in runtimes.items():
                x, _ = prepare(image, runtime.manifest)
                sides[engine] = Heads(*(np.array(head) for head in runtime.run(x))), runtime.manifest
            for (one, other), pair in pairs.items():
                pair.add(sides[one], sides[other])
            progress("images", number, len(samples))
    return pairs


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--model", default=DEFAULT, show_default=True, help="A shipped model.")
@click.option("--limit", default=200, show_default=True, help="Only the first N images; 0 for all.")
@click.option("--out", type=click.Path(path_type=Path), help="Default docs/benchmarks/NAME/engines.json.")
def main(data: Path, model: str, limit: int, out: Path | None) -> None:
    """Compare the engines on the images of DATA."""
    files = {engine: find_model(model, suffix) for engine, suffix in ENGINES.items()}
    rows = {f"{one} and {other}": pair.row() for (one, other), pair in answers(data, limit, files).items()}
    record = {
        "model": model,
        "images": limit,
        "sha256": {path.name: sha256(path) for path in files.values()},
        "cpu": cpu_name(),
        "commit": commit(),
        "pairs": rows,
    }
    write_atomic(out or ROOT / "docs/benchmarks" / model / "engines.json", json.dumps(record, indent=1) + "\n")
    for name, row in rows.items():
        click.echo(
            f"{name:26} {row['within_2_steps']:.4%} of {row['cells']} cells within {STEPS} steps (largest "
            f"{row['largest_steps']:g}), {row['agree']:.2%} of {row['detections']} detections agree"
        )
    sys.exit(int(any(row["within_2_steps"] < CELLS or row["agree"] < DETECTIONS for row in rows.values())))


if __name__ == "__main__":
    main()

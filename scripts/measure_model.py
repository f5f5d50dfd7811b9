"""Everything that a model card shows, measured on a model's files; then its line in `edge-centernet models`.

    python scripts/measure_model.py centernet-mbv2-320 runs/voc ../shared/data/voc2007 --note "the default"

RUN holds float.safetensors, DATA instances_val.json. Writes docs/benchmarks/NAME/ and the model's record in
edge_centernet/model_zoo/, then fills in all tables. Latency is measured of models in the package only. One
thread, on a machine that is quiet.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from measured import ROOT, cli

from edge_centernet.artifact import read_manifest
from edge_centernet.data import read_dataset
from edge_centernet.evaluation.plots import write_precision_recall, write_reliability
from edge_centernet.files import sha256, write_atomic
from edge_centernet.model_zoo import FOLDER
from edge_centernet.network.checkpoint import load_checkpoint
from edge_centernet.train.validate import validate

SUFFIX = {"openvino": ".xml", "tflite": ".tflite"}
MEASURED_ON = "VOC 2007 validation (1,002 images)"


@click.command()
@click.argument("name")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--note", required=True, help="What it is for, in a few words.")
@click.option("--files", type=click.Path(path_type=Path), default=FOLDER, help="Where its files are.")
@click.option("--measured-on", default=MEASURED_ON, show_default=True, help="DATA in words.")
@click.option("--licence", default="Apache-2.0", show_default=True)
def main(name: str, run: Path, data: Path, note: str, files: Path, measured_on: str, licence: str) -> None:
    """Measure the files of NAME, made from the checkpoints in RUN, on the validation images of DATA."""
    out, images = ROOT / "docs/benchmarks" / name, data / "instances_val.json"
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        for engine, suffix in SUFFIX.items():
            # The record names the file, and not where the repository lies on this machine.
            file, record = Path(os.path.relpath(files / f"{name}{suffix}")), Path(folder) / f"{engine}.json"
            cli("eval", "--model", file, "--data", images, "--threads", "1", "--json", record)
            results[engine] = json.loads(record.read_text())
    evaluations = {"float": evaluate_checkpoint(run / "float.safetensors", images), **results}
    write_atomic(out / "eval.json", json.dumps(evaluations, indent=1) + "\n")
    write_precision_recall(results["openvino"], out / "pr.png")
    write_reliability(results["openvino"], out / "reliability.png")
    spec = read_manifest(files / f"{name}.onnx").model
    shown = ("AP50", "AP")
    accuracy = {engine: {key: round(of[key], 4) for key in shown} for engine, of in results.items()}
    about = {
        "name": name, "version": spec.version, "width": spec.width, "height": spec.height,
        "classes": len(spec.classes), "licence": licence, "data": measured_on, "note": note,
        "accuracy": accuracy,
    }  # fmt: skip
    write_atomic(FOLDER / f"{name}.json", json.dumps(about, indent=1) + "\n")
    if files.resolve() == FOLDER.resolve():
        bench = out / f"bench-{platform.machine()}.json"
        written = ("--json", bench, "--chart", bench.with_suffix(".svg"))
        cli("bench", "--model", name, "--duration", "20", *written)
    subprocess.run([sys.executable, ROOT / "scripts/tables.py", "--write"], check=True)


def evaluate_checkpoint(checkpoint: Path, images: Path) -> dict[str, Any]:
    """COCO's metrics of a checkpoint in PyTorch: the float network, or the simulated INT8 one."""
    model, stage = load_checkpoint(checkpoint)
    metrics = validate(model, read_dataset(images, classes=model.spec.classes))
    click.echo(f"{stage}: AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f} on {metrics['images']} images")
    return {"stage": stage, "checkpoint_sha256": sha256(checkpoint), **metrics}


if __name__ == "__main__":
    main()

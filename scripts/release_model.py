"""From a finished training run to the files of a model: checkpoint, QDQ ONNX, OpenVINO, TFLite.

    python scripts/release_model.py runs/voc

Writes edge_centernet/models/NAME.{safetensors,onnx,xml,bin,tflite}, NAME from the checkpoint: the float checkpoint to
train on from, its weights as float16, and what is made from the quantized one. That one goes, as float16 too, with the
run's options, metrics and pictures to docs/benchmarks/NAME/: the INT8 files can be made again from it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from edge_centernet.converters import convert
from edge_centernet.converters.verify import table
from edge_centernet.files import write_atomic
from edge_centernet.model.checkpoint import load_checkpoint, save_checkpoint
from edge_centernet.models import FOLDER
from edge_centernet.train.export import export_onnx

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs/benchmarks"
RECORDS = ("metrics.csv", "curves.png")


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--version", default="1", show_default=True, help="The model's version, for its manifest.")
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), default=FOLDER, help="Elsewhere: the quantized checkpoint too."
)
def main(run: Path, version: str, folder: Path) -> None:
    """Write and verify the files of a finished RUN folder."""
    model, stage = load_checkpoint(run / "qat.safetensors")
    name = model.spec.name
    model.spec = replace(model.spec, version=version)
    records = BENCHMARKS / name
    records.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    quantized = (records if folder == FOLDER else folder) / "qat.safetensors"
    save_checkpoint(quantized, model, stage, half=True)
    start, start_stage = load_checkpoint(run / "float.safetensors")
    start.spec = model.spec
    save_checkpoint(folder / f"{name}.safetensors", start, start_stage, half=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = export_onnx(quantized, Path(scratch) / f"{name}.onnx")
        artifacts = convert(source, ("onnx", "openvino", "tflite"), "int8", folder)
    config = json.loads((run / "config.json").read_text())
    for helper in ("guide", "teacher", "tower_weights"):
        config[helper] = Path(config[helper]).name  # where it lay is nobody's business
    write_atomic(records / "config.json", json.dumps(config, indent=1) + "\n")
    for record in RECORDS:
        if (run / record).is_file():
            shutil.copy(run / record, records / record)
    click.echo(table({a.target: a.report for a in artifacts}))
    for path in sorted(folder.glob(f"{name}.*")):
        click.echo(f"{path.stat().st_size / 1e6:7.2f} MB  {path.name}")


if __name__ == "__main__":
    main()

"""From a finished training run to the files of a model: checkpoint, QDQ ONNX, OpenVINO, TFLite.

    python scripts/release_model.py runs/voc

Writes edge_centernet/model_zoo/NAME.{safetensors,onnx,xml,bin,tflite}, NAME from the checkpoint: the float
checkpoint to train on from, its weights as float16, and the INT8 files, made from RUN/qat.safetensors.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click

from edge_centernet.converters import convert
from edge_centernet.model_zoo import FOLDER
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint
from edge_centernet.qdq.reference import table
from edge_centernet.train.export import export_onnx


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--version", default="1", show_default=True, help="The model's version, for its manifest.")
@click.option("--out", "folder", type=click.Path(path_type=Path), default=FOLDER)
def main(run: Path, version: str, folder: Path) -> None:
    """Write and verify the files of a finished RUN folder."""
    model, stage = load_checkpoint(run / "qat.safetensors")
    name = model.spec.name
    model.spec = replace(model.spec, version=version)
    folder.mkdir(parents=True, exist_ok=True)
    start, start_stage = load_checkpoint(run / "float.safetensors")
    start.spec = model.spec
    save_checkpoint(folder / f"{name}.safetensors", start, start_stage, half=True)
    with tempfile.TemporaryDirectory() as scratch:
        quantized = Path(scratch) / "qat.safetensors"
        save_checkpoint(quantized, model, stage, half=True)
        source = export_onnx(quantized, Path(scratch) / f"{name}.onnx")
        artifacts = convert(source, ("onnx", "openvino", "tflite"), "int8", folder)
    click.echo(table({a.target: a.report for a in artifacts}))
    for path in sorted(folder.glob(f"{name}.*")):
        click.echo(f"{path.stat().st_size / 1e6:7.2f} MB  {path.name}")


if __name__ == "__main__":
    main()

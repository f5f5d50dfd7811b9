"""From a finished training run to the files that ship: checkpoint, QDQ ONNX, OpenVINO, TFLite.

    python scripts/release_model.py runs/voc/qat.safetensors

Writes edge_centernet/models/NAME.{safetensors,onnx,xml,bin,tflite}, NAME from the checkpoint. The checkpoint's weights
are stored as float16; the other files are made from that file, so that all of them hold one network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from edge_centernet.converters import convert
from edge_centernet.converters.verify import table
from edge_centernet.model.checkpoint import load_checkpoint, save_checkpoint
from edge_centernet.models import FOLDER
from edge_centernet.train.export import export_onnx


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
def main(checkpoint: Path) -> None:
    """Write and verify the shipped files of a QAT CHECKPOINT."""
    model, stage = load_checkpoint(checkpoint)
    name = model.spec.name
    weights = FOLDER / f"{name}.safetensors"
    save_checkpoint(weights, model, stage, half=True)
    with tempfile.TemporaryDirectory() as folder:
        source = export_onnx(weights, Path(folder) / f"{name}.onnx")
        artifacts = convert(source, ("onnx", "openvino", "tflite"), "int8", FOLDER)
    click.echo(table({a.target: a.report for a in artifacts}))
    for path in sorted(FOLDER.glob(f"{name}.*")):
        click.echo(f"{path.stat().st_size / 1e6:7.2f} MB  {path.name}")


if __name__ == "__main__":
    main()

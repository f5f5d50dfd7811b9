"""COCO metrics of a checkpoint in PyTorch: the float network, or the simulation of the quantized one.

python scripts/eval_checkpoint.py runs/voc/float.safetensors --data ../shared/data/voc2007/instances_val.json
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_centernet.data import read_dataset
from edge_centernet.files import sha256, write_atomic
from edge_centernet.network.checkpoint import load_checkpoint
from edge_centernet.train.validate import validate


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Validation set: COCO JSON, VOC or YOLO.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON record.")
def main(checkpoint: Path, data: Path, out: Path | None) -> None:
    """Print AP and AP50 of CHECKPOINT."""
    model, stage = load_checkpoint(checkpoint)
    metrics = validate(model, read_dataset(data, classes=model.spec.classes))
    record = {"stage": stage, "checkpoint_sha256": sha256(checkpoint), **metrics}
    click.echo(f"{stage}: AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f} on {metrics['images']} images")
    if out:
        write_atomic(out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

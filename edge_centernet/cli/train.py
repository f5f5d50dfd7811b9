"""edge-centernet train: float, then quantization-aware."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from edge_centernet.errors import ConfigError, MissingDependency


def _parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """("lr=0.001", "epochs=3") -> typed options."""
    from edge_centernet.train.config import TrainConfig

    types = {f.name: str(f.type) for f in fields(TrainConfig)}
    convert: dict[str, type] = {"int": int, "float": float, "str": str}
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in types:
            raise ConfigError(f"--set: expected NAME=VALUE with one of {', '.join(sorted(types))}; got {setting!r}")
        try:
            parsed[name] = convert[types[name]](text)
        except ValueError:
            raise ConfigError(f"--set {name}: expected {types[name]}, got {text!r}") from None
    return parsed


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Training set: COCO JSON, VOC or YOLO.")
@click.option("--val", type=click.Path(path_type=Path), help="Validation set, evaluated during training.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Image folder of --data, where it is not the usual one."
)
@click.option("--val-images", type=click.Path(path_type=Path), help="Image folder of --val.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; made if absent.")
@click.option("--name", default="centernet-mbv2-320", show_default=True, help="The model's name in its manifest.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Pretrained backbone (.safetensors, torchvision names)."
)
@click.option("--epochs", type=int, help="Float epochs; shorthand for --set epochs=N.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any option of TrainConfig; repeatable.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; PyTorch's choice by default.")
@click.option("--resume", is_flag=True, help="Go on from the last finished epoch in --out.")
def command(
    data: Path, val: Path | None, images: Path | None, val_images: Path | None, out: Path, name: str,
    weights: Path | None, epochs: int | None, settings: tuple[str, ...], device: str, threads: int | None, resume: bool,
) -> None:  # fmt: skip
    """Train a CenterNet on your own classes, float first, then quantization-aware.

    Stop with Ctrl-C and go on with --resume. Writes float.safetensors, qat.safetensors, metrics.csv
    and NAME.onnx, the interchange file that `edge-centernet convert` takes.

    Example: edge-centernet train --data train.json --val val.json --out runs/mine --weights mobilenet_v2.safetensors
    """
    try:
        import torch
        import torch.utils.data
    except ImportError:
        raise MissingDependency.for_extra("Training", "train") from None
    from edge_centernet.data import read_dataset
    from edge_centernet.train.config import TrainConfig
    from edge_centernet.train.export import export_onnx
    from edge_centernet.train.loop import Trainer

    if threads:
        torch.set_num_threads(threads)
    saved = _saved_config(out) if resume else {}
    wanted = saved | _parse_settings(settings) | ({"epochs": epochs} if epochs is not None else {})
    config = TrainConfig.from_dict(wanted)
    if not resume and (out / "state.pt").exists():
        raise ConfigError(f"{out} already holds a run: go on with --resume, or choose another --out")
    train_set = read_dataset(data, images)
    val_set = read_dataset(val, val_images, classes=train_set.classes) if val is not None else None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {out}: {error.strerror}") from None
    click.echo(f"{len(train_set)} training images, {len(train_set.classes)} classes, run folder {out}", err=True)
    trainer = Trainer(config, train_set, val_set, out, name, weights, device)
    if resume:
        trainer.resume()
    trainer.run()
    path = export_onnx(out / "qat.safetensors", out / f"{name}.onnx")
    click.echo(f"Trained. Convert it with: edge-centernet convert {path} --int8 --target all --out artifacts")


def _saved_config(out: Path) -> dict[str, Any]:
    path = out / "config.json"
    if not path.is_file():
        raise ConfigError(f"--resume: expected an earlier run, found no {path}")
    saved: dict[str, Any] = json.loads(path.read_text())
    saved.pop("classes", None)
    return saved

"""`edge-centernet train`: float, then quantization-aware."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import input_size, set_options, sources
from edge_centernet.data import DataSource, read_datasets
from edge_centernet.data.base import list_names
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.manifest import InputSize
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.progress import bars


@click.command(cls=Command)
@option_group(
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        required=True,
        multiple=True,
        help="Training set: COCO JSON, VOC or YOLO; repeat it to merge several.",
    ),
    heading="Data",
)
@set_options("--data", val="Validation set to evaluate during training; repeatable.")
@option_group(
    click.option(
        "--classes", metavar="A,B", help="Train on these classes only, under these names.  [default: all]"
    ),
    heading="Data",
)
@option_group(
    click.option(
        "--weights",
        default=DEFAULT,
        show_default=True,
        help="Weights to start from: a checkpoint or a shipped model (classes with the same name are kept), "
        "a pretrained backbone (.pth or .safetensors, torchvision names), or 'none'.",
    ),
    click.option("--name", default=DEFAULT, show_default=True, help="Name of the model in its manifest."),
    click.option(
        "--size",
        callback=input_size,
        metavar="WxH",
        help="Width and height of the network's input in pixels, multiples of 32, or one number for a "
        "square; short for --set size=WxH.  [default: that of --weights, else 320x320]",
    ),
    click.option(
        "--symmetric",
        is_flag=True,
        help="Use only zero points of 0, for TensorRT; short for --set symmetric=true.",
    ),
    heading="Model",
)
@option_group(
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="YAML file with options of TrainConfig.",
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Option of TrainConfig; repeatable."
    ),
    click.option("--epochs", type=int, help="Number of float epochs; short for --set epochs=N."),
    click.option(
        "--device", default="auto", show_default=True, help="Device to train on: auto, cpu, cuda, cuda:1, ..."
    ),
    click.option(
        "--threads", type=click.IntRange(1), help="Number of CPU threads.  [default: PyTorch decides]"
    ),
    heading="Training",
)
@option_group(
    click.option(
        "--out", type=click.Path(path_type=Path), required=True, help="Run folder, created if missing."
    ),
    click.option("--resume", is_flag=True, help="Continue the run in --out from its last saved state."),
    heading="Output",
)
def command(
    data: tuple[Path, ...], val: tuple[Path, ...], images: tuple[str, ...], val_images: tuple[str, ...],
    labelled_only: tuple[str, ...], classes: str | None, out: Path, name: str, weights: str,
    config_file: Path | None, size: InputSize | None, epochs: int | None, settings: tuple[str, ...],
    symmetric: bool, device: str, threads: int | None, resume: bool,
) -> None:  # fmt: skip
    """Train a CenterNet on your own classes, first in float, then quantization-aware.

    Training starts from the shipped model unless --weights names another start. It can be interrupted with
    Ctrl-C and continued with --resume. Writes float.safetensors, qat.safetensors, metrics.csv, curves.png,
    pr.png, contact_sheet.jpg and NAME.onnx, the interchange file for `edge-centernet convert`. To use several
    GPUs or machines: torchrun ... -m edge_centernet train ...

    With several --data, the classes of all sets are learned. Where a set lacks a class or is not labelled for
    it, detections of that class count neither as right nor as wrong.

    Example: edge-centernet train --data train.json --val val.json --out runs/mine
    """
    try:
        import torch
        import torch.utils.data
    except ImportError:
        raise MissingDependency.for_extra("Training", "train") from None
    from edge_centernet.network import distributed
    from edge_centernet.train.config import TrainConfig

    if threads:
        torch.set_num_threads(threads)
    wanted = TrainConfig.read_yaml(config_file) if config_file is not None else {}
    wanted |= TrainConfig.parse(settings) | ({"epochs": epochs} if epochs is not None else {})
    wanted |= ({"symmetric": True} if symmetric else {}) | ({"size": size} if size is not None else {})
    chosen = torch.device(device) if device != "auto" else distributed.default_device()
    train_sets, val_sets = sources("--data", data, images, val, val_images, labelled_only)
    names = None if classes is None else [word.strip() for word in classes.split(",")]
    with distributed.process_group(chosen):
        _train(train_sets, val_sets, names, out, name, weights, wanted, device, resume)


def _train(
    data: Sequence[DataSource], val: Sequence[DataSource], classes: Sequence[str] | None, out: Path,
    name: str, weights: str, wanted: dict[str, Any], device: str, resume: bool,
) -> None:  # fmt: skip
    """Everything between reading the options and the interchange file, in every process."""
    from edge_centernet.network import distributed
    from edge_centernet.network.checkpoint import read_header
    from edge_centernet.train.config import TrainConfig
    from edge_centernet.train.dataset import Augment, check_objects
    from edge_centernet.train.export import export_onnx
    from edge_centernet.train.loop import Trainer
    from edge_centernet.train.start import is_checkpoint

    first = distributed.rank() == 0
    # 1. The options: what was asked goes before what an earlier run or the start brings along.
    start: Path | None = None
    defaults: dict[str, Any] = {}
    learnt: list[str] | None = None  # classes of the run that is resumed
    if resume:
        saved = out / "config.json"
        if first and not saved.is_file():
            raise ConfigError(f"--resume: expected an earlier run, found no {saved}")
        # Other machines may not see the folder, so the first process tells them what is in it.
        known: Any = distributed.from_first(json.loads(saved.read_text()) if first else None)
        defaults = {option: value for option, value in known.items() if option != "classes"}
        learnt = known.get("classes")
    elif weights != "none":
        start = Path(weights)
        if start.suffix not in (".safetensors", ".pth", ".pt", ".tar") and not start.exists():
            start = find_model(weights, ".safetensors")  # the checkpoint of a shipped model
        if is_checkpoint(start):
            defaults["size"] = read_header(start)[0].input_size
    config = TrainConfig.from_dict(defaults | wanted)
    if first and not resume and (out / "state.pt").exists():
        raise ConfigError(f"{out} already holds a run: go on with --resume, or choose another --out")
    # 2. The data. Validation counts the classes of training.
    train_set = read_datasets(data, classes)
    if learnt is not None and learnt != list(train_set.classes):
        raise ConfigError(
            f"--resume: the run in {out} learns {list_names(learnt)}, in this order, but the data set has "
            f"{list_names(train_set.classes)}; give it the data of its start, or begin in another --out"
        )
    val_set = read_datasets(val, train_set.classes) if val else None
    if first:
        # Before hours of training, not in their midst.
        augment = Augment(scale=(config.scale_min, config.scale_max))
        check_objects(train_set, " + ".join(str(one.path) for one in data), config.size, augment)
        if val_set is not None and not any(sample.counted.any() for sample in val_set.samples):
            shown = " + ".join(str(one.path) for one in val)
            raise SourceError(
                f"--val {shown}: expected at least one labelled object to evaluate on, found none"
            )
        with bars() as progress:
            train_set.check_images("check images", progress)
            if val_set is not None:
                val_set.check_images("check images of val", progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {out}: {error.strerror}") from None
    if first:
        count = f"{len(train_set)} training images, {len(train_set.classes)} classes"
        source = "resuming" if resume else f"starting from {start or 'nothing'}"
        echo(f"{count}, {source}, run folder {out}", err=True)
    # 3. Training and export.
    trainer = Trainer(config, train_set, val_set, out, name, start, device)
    if resume:
        trainer.resume()
    trainer.run()
    if first:
        path = export_onnx(out / "qat.safetensors", out / f"{name}.onnx")
        convert = f"edge-centernet convert {path} --int8 --target all --out artifacts"
        echo(f"Trained. Convert it with: {convert}")

"""`edge-centernet train`: float, then quantization-aware."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edge_centernet.cli import INTERRUPTED, Command, echo, option_group
from edge_centernet.cli.options import input_size, set_options, sources
from edge_centernet.data import Dataset, DataSource, Parts, read_datasets, unpack_all, use_parts
from edge_centernet.data.base import list_names, log
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.manifest import InputSize
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.progress import bars, unseen
from edge_centernet.train.config import TrainConfig

if TYPE_CHECKING:
    from edge_centernet.train.stop import StopRequest


def _list_options(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Callback of --list-options: print what --set takes, and end."""
    if not asked or ctx.resilient_parsing:
        return
    group = ""
    for option in TrainConfig.describe():
        if option.group != group:
            echo(f"\n{option.group}" if group else option.group)
            group = option.group
        echo(
            click.wrap_text(
                f"{option.name}={option.default}  {option.help}",
                100,
                "  ",
                "      ",
                preserve_paragraphs=False,
            )
        )
    ctx.exit()


@click.command(cls=Command)
@option_group(
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        required=True,
        multiple=True,
        help="Training set: an export as a folder, file or .zip (COCO, VOC, YOLO, labelme); repeat it to "
        "merge several. If it has parts, the part train is used.",
    ),
    heading="Data",
)
@set_options(
    "--data",
    val="Validation set to evaluate during training; repeatable.  [default: the part val of --data, if any]",
)
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
    click.option(
        "--name", help="Name of the model and of its file, NAME.onnx.  [default: that of the run folder]"
    ),
    click.option(
        "--size",
        "--imgsz",
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
        help="YAML file with options of training, one NAME: VALUE a line.",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any other option of training; repeatable. See --list-options.",
    ),
    click.option(
        "--list-options",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_options,
        help="Print all options for --set and --config, with their defaults, and exit.",
    ),
    click.option(
        "--epochs",
        type=int,
        help=f"Number of float epochs; short for --set epochs=N.  [default: {TrainConfig.epochs}]",
    ),
    click.option(
        "--batch",
        "--batch-size",
        "batch_size",
        type=int,
        help="Images a step, over all processes; short for --set batch_size=N.  "
        f"[default: {TrainConfig.batch_size}]",
    ),
    click.option(
        "--lr",
        "--lr0",
        "lr",
        type=float,
        help=f"Peak learning rate; short for --set lr=RATE.  [default: {TrainConfig.lr}]",
    ),
    click.option(
        "--patience",
        type=int,
        help="Evaluations (one every eval_every epochs) without a better AP after which the float stage "
        "ends; short for --set patience=N.  [default: 0, never]",
    ),
    click.option(
        "--device", default="auto", show_default=True, help="Device to train on: auto, cpu, cuda, cuda:1, ..."
    ),
    click.option(
        "--threads", type=click.IntRange(1), help="Number of CPU threads.  [default: PyTorch decides]"
    ),
    click.option(
        "--processes",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Processes on this machine that train together, one for each GPU.",
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
    labelled_only: tuple[str, ...], classes: str | None, out: Path, name: str | None, weights: str,
    config_file: Path | None, size: InputSize | None, epochs: int | None, batch_size: int | None,
    lr: float | None, patience: int | None, settings: tuple[str, ...], symmetric: bool, device: str,
    threads: int | None, processes: int, resume: bool,
) -> None:  # fmt: skip
    """Train a CenterNet on your own classes, first in float, then quantization-aware.

    Training starts from the shipped model unless --weights names another start. It can be interrupted with
    Ctrl-C and continued with --resume. Writes best.safetensors and last.safetensors, float.safetensors (the
    best with calibrated scores), qat.safetensors, metrics.csv, curves.png, pr.png, contact_sheet.jpg and
    NAME.onnx, the interchange file for `edge-centernet convert`. To use several machines: torchrun ... -m
    edge_centernet train ...

    With several --data, the classes of all sets are learned. Where a set lacks a class or is not labelled for
    it, detections of that class count neither as right nor as wrong.

    Example: edge-centernet train --data train.json --val val.json --out runs/mine
    """
    from edge_centernet.train.stop import StopRequest, launched_rank

    if processes > 1 and launched_rank() is None:
        _require_torch()
        raise SystemExit(_launch(processes))
    stop = StopRequest()
    try:
        with stop.on_signals(), stop.at_once():
            _require_torch()
            import torch

            from edge_centernet.network import distributed

            if threads:
                torch.set_num_threads(threads)
            wanted = TrainConfig.read_yaml(config_file) if config_file is not None else {}
            wanted |= TrainConfig.parse(settings)
            short = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "patience": patience, "size": size}
            wanted |= {option: value for option, value in short.items() if value is not None}
            wanted |= {"symmetric": True} if symmetric else {}
            chosen = torch.device(device) if device != "auto" else distributed.default_device()
            train_sets, val_sets = sources("--data", data, images, val, val_images, labelled_only)
            names = None if classes is None else [word.strip() for word in classes.split(",")]
            with distributed.process_group(chosen):
                name = name or out.resolve().name or DEFAULT
                _train(train_sets, val_sets, names, out, name, weights, wanted, device, resume, stop)
    except KeyboardInterrupt:
        _end_stopped(out)


def _end_stopped(out: Path) -> NoReturn:
    """Say how to go on after a stop, and end the process."""
    from edge_centernet.train.stop import launched_rank

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # it is ending
    for worker in multiprocessing.active_children():  # which would look for its end every five seconds
        worker.kill()
    if not launched_rank():  # the first of several, or the only process
        saved = (out / "state.pt").is_file()
        echo(
            "Stopped; everything up to here is saved. To go on, repeat the command with --resume."
            if saved
            else "Stopped before anything was learned. Run the command again.",
            err=True,
        )
    # All files are closed. Python itself would look through all objects of PyTorch several times before it
    # ends, which takes a second or more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _launch(processes: int) -> int:
    """Run this very command in several processes, as torchrun does it; the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)  # each process speaks for itself
    count = ["--standalone", "--nproc-per-node", str(processes)]
    try:
        torchrun([*count, "-m", "edge_centernet", *sys.argv[1:]])
    except SignalException as error:  # its processes have stopped and said so
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        return abs(next(iter(error.failures.values())).exitcode) or 1
    return 0


def _require_torch() -> None:
    """Raise MissingDependency where PyTorch is not installed."""
    try:
        import torch.utils.data  # noqa: F401
    except ImportError:
        raise MissingDependency.for_extra("Training", "train") from None


def _train(
    data: Sequence[DataSource], val: Sequence[DataSource], classes: Sequence[str] | None, out: Path,
    name: str, weights: str, wanted: dict[str, Any], device: str, resume: bool, stop: StopRequest,
) -> None:  # fmt: skip
    """Everything between reading the options and the interchange file, in every process."""
    from edge_centernet.network import distributed
    from edge_centernet.network.checkpoint import read_header
    from edge_centernet.train.dataset import Augment, check_objects
    from edge_centernet.train.export import export_onnx
    from edge_centernet.train.loop import Trainer
    from edge_centernet.train.report import class_table
    from edge_centernet.train.start import is_checkpoint

    first = distributed.is_first()
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
    with bars() as progress:
        if first:
            unpack_all((*data, *val), progress)
        distributed.from_first(None)  # the others find what the first one has unpacked
    parts = use_parts(data, val)
    with bars() if first else nullcontext(unseen) as progress:
        train_set = read_datasets(parts.train, classes, progress)
        val_set = read_datasets(parts.val, train_set.classes, progress) if parts.val else None
        test_set = read_datasets(parts.test, train_set.classes, progress) if parts.test else None
    if learnt is not None and learnt != list(train_set.classes):
        raise ConfigError(
            f"--resume: the run in {out} learns {list_names(learnt)}, in this order, but the data set has "
            f"{list_names(train_set.classes)}; give it the data of its start, or begin in another --out"
        )
    if val_set is not None:
        _compare(train_set, val_set, _shown(parts.val))
    if first:
        # Before hours of training, not in their midst.
        augment = Augment(scale=(config.scale_min, config.scale_max))
        check_objects(train_set, _shown(parts.train), config.size, augment)
        for option, one, shown in (("--val", val_set, parts.val), ("test", test_set, parts.test)):
            if one is not None and not any(sample.counted.any() for sample in one.samples):
                raise SourceError(
                    f"{option} {_shown(shown)}: expected at least one labelled object to evaluate on, "
                    "found none"
                )
        with bars() as progress:
            train_set.check_images("check images", progress)
            for title, one in (("val", val_set), ("test", test_set)):
                if one is not None:
                    one.check_images(f"check images of {title}", progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {out}: {error.strerror}") from None
    if first:
        count = f"{len(train_set)} training images, {len(train_set.classes)} classes"
        source = "resuming" if resume else f"starting from {'nothing' if weights == 'none' else weights}"
        echo(f"{count}, {source}, run folder {out}", err=True)
        echo(_validation(parts, bool(val), val_set, test_set), err=True)
    # 3. Training and export.
    trainer = Trainer(config, train_set, val_set, out, name, start, device, test_set, stop)
    if resume:
        trainer.resume()
    trainer.run()
    if first:
        path = export_onnx(out / "qat.safetensors", out / f"{name}.onnx")
        for part, one in (("val", val_set), ("test", test_set)):
            if one is not None and part in trainer.metrics:
                echo("\n".join(["", f"{part}, as INT8 computes:", *class_table(one, trainer.metrics[part])]))
        echo(f"\n{_files(out)}")
        convert = f"edge-centernet convert {path} --int8 --target all --out artifacts"
        echo(f"Trained. Convert it with: {convert}")


def _shown(sets: Sequence[DataSource]) -> str:
    return " + ".join(map(str, sets))


def _compare(train: Dataset, val: Dataset, shown: str) -> None:
    """Refuse a validation set of training images alone, and say how many of another are."""
    learned = {sample.path.resolve() for sample in train.samples}
    same = sum(sample.path.resolve() in learned for sample in val.samples)
    if same == len(val):
        raise SourceError(
            f"--val {shown}: all {same} images are training images, which say nothing about new ones; "
            "make two parts with edge-centernet data split"
        )
    if same:
        log.warning("--val %s: %d of %d images are training images too", shown, same, len(val))


def _validation(parts: Parts, asked: bool, val: Dataset | None, test: Dataset | None) -> str:
    """What the network is evaluated on, a line each."""
    if val is None:
        text = "No validation set: no AP, no best, scores as trained; edge-centernet data split makes one"
    else:
        text = f"Validation on {len(val)} images: {_shown(parts.val)}"
        text += "" if asked else ", the part val of --data"
    if test is not None:
        text += f"\nTest of the result on {len(test)} images: {_shown(parts.test)}"
    return text


def _files(out: Path) -> str:
    """Where to look, of what there is."""
    files = {
        "Best and worst images": ("contact_sheet.jpg",),
        "Curves": ("curves.png",),
        "Weights": ("best.safetensors", "last.safetensors"),
    }
    there = {title: [out / n for n in names if (out / n).is_file()] for title, names in files.items()}
    return "\n".join(f"{title}: {', '.join(map(str, found))}" for title, found in there.items() if found)

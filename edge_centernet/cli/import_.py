"""`edge-centernet import`: checkpoints of the original CenterNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.output import prepare_folder


def _triple(_: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Three numbers with commas between them."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise click.BadParameter(f"expected three numbers B,G,R, got {text!r}", param=option)
    return numbers


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--classes",
    required=True,
    metavar="NAMES",
    help="coco, pascal, names with commas between them, or a text file with one a line; in the order of training.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--name", help="The model's name in its manifest.  [default: the checkpoint's file name]")
@click.option("--size", type=int, help="Input side in pixels, a multiple of 32.  [default: 512; pascal: 384]")
@click.option("--mean", callback=_triple, metavar="B,G,R", help="Of pixel / 255.  [default: those of COCO; pascal's]")
@click.option("--std", callback=_triple, metavar="B,G,R", help="Of pixel / 255.  [default: those of COCO; pascal's]")
@click.option(
    "--calibrate",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Images like those to detect on; 128 of them are used.  [default: the packaged sample photos, a rough start]",
)
def command(
    checkpoint: Path, classes: str, out: Path, name: str | None, size: int | None, mean: Any, std: Any,
    calibrate: Path | None,
) -> None:  # fmt: skip
    """Take over a checkpoint of the original CenterNet and quantize it.

    CHECKPOINT: a .pth of github.com/xingyizhou/CenterNet, task ctdet, arch res_18. Writes NAME-float.safetensors,
    NAME-int8.safetensors and NAME.onnx, the interchange file that `edge-centernet convert` takes.

    Example: edge-centernet import ctdet_res18.pth --classes coco --calibrate photos --out imported
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingDependency.for_extra("Importing", "train") from None
    from edge_centernet.model.checkpoint import save_checkpoint
    from edge_centernet.model.original import PUBLISHED, load_original
    from edge_centernet.train.export import export_onnx
    from edge_centernet.train.ptq import quantize

    published = PUBLISHED.get(classes, PUBLISHED["coco"])
    names = PUBLISHED[classes].classes if classes in PUBLISHED else _names(classes)
    name = name or checkpoint.stem
    model = load_original(checkpoint, name, names, size or published.size, mean or published.mean, std or published.std)
    pictures, count = _pictures(calibrate)
    prepare_folder(out)
    quantized, found, matched = quantize(model, pictures(), count)
    save_checkpoint(out / f"{name}-float.safetensors", model, "float")
    save_checkpoint(out / f"{name}-int8.safetensors", quantized, "qat")
    path = export_onnx(out / f"{name}-int8.safetensors", out / f"{name}.onnx")
    click.echo(
        f"INT8 against float: {matched} of {found} detections above 0.3 agree "
        "(same class, IoU >= 0.5, score within 0.1)"
    )
    click.echo(f"Imported. Convert it with: edge-centernet convert {path} --int8 --target all --out artifacts")


def _names(text: str) -> tuple[str, ...]:
    """Class names from a list or a file."""
    file = Path(text)
    try:
        parts = file.read_text(encoding="utf-8").splitlines() if file.is_file() else text.split(",")
    except UnicodeDecodeError:
        raise ConfigError(f"--classes: expected a text file with one name a line, got something else: {file}") from None
    return tuple(part.strip() for part in parts if part.strip())


def _pictures(folder: Path | None) -> tuple[Callable[[], Any], int]:
    """(a function that reads the pictures one by one, how many they are)."""
    from edge_centernet.calibration.images import pick_images
    from edge_centernet.converters.verify import sample_pictures
    from edge_centernet.image import read_image

    if folder is None:
        click.echo("Calibrating on the packaged sample photos: give your own with --calibrate FOLDER", err=True)
        samples = sample_pictures()
        return lambda: samples, len(samples)
    files = pick_images(folder)
    return lambda: map(read_image, files), len(files)

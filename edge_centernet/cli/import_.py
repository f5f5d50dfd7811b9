"""`edge-centernet import`: CenterNets that were made elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge_centernet.classes import COCO
from edge_centernet.cli import Command, echo, option_group
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.files import prepare_folder
from edge_centernet.manifest import ModelSpec
from edge_centernet.progress import bars
from edge_centernet.qdq.float_onnx import Description, adopt
from edge_centernet.qdq.onnx_graph import read_model
from edge_centernet.system.logs import quiet_libraries

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Published:
    """What the original CenterNet's code fixes for one of its data sets.

    mean, std: of pixel / 255: blue, green, red. size: input side in pixels.
    """

    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    size: int


# src/lib/datasets/dataset/pascal.py at commit 3a1e9c6; it applies ImageNet's RGB statistics to BGR pixels
_PASCAL = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PUBLISHED = {
    # src/lib/datasets/dataset/coco.py at commit f16ef63, with COCO's classes in their own order
    "coco": Published(COCO, (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835), 512),
    "pascal": Published(_PASCAL, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 384),
}


def _triple(_: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Three numbers with commas between them."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise click.BadParameter(
            f"expected three numbers with commas between them, got {text!r}", param=option
        )
    return numbers


@click.command(cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@option_group(
    click.option(
        "--classes",
        required=True,
        metavar="NAMES",
        help="Class names in the order of training: coco, pascal, names separated by commas, or a text file "
        "with one name per line.",
    ),
    click.option(
        "--size", type=int, help="Input side in pixels, a multiple of 32.  [default: 512; pascal: 384]"
    ),
    click.option(
        "--mean",
        callback=_triple,
        metavar="X,Y,Z",
        help="Mean of pixel / 255, in the order of --color.  [default: COCO's, or pascal's]",
    ),
    click.option(
        "--std",
        callback=_triple,
        metavar="X,Y,Z",
        help="Standard deviation of pixel / 255, in the order of --color.  [default: COCO's, or pascal's]",
    ),
    click.option(
        "--color",
        type=click.Choice(["rgb", "bgr"]),
        default="bgr",
        show_default=True,
        help="Order of the colour channels, for an ONNX file.",
    ),
    heading="How the network was trained",
)
@option_group(
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="IMAGES",
        help="Representative images, a folder or a data set; the INT8 ranges are measured on 200 of them.  "
        "[required]",
    ),
    heading="Calibration",
)
@option_group(
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="Output folder, created if missing.",
    ),
    click.option("--name", help="Name of the model in its manifest.  [default: the checkpoint's file name]"),
    heading="Output",
)
def command(
    checkpoint: Path, classes: str, out: Path, name: str | None, size: int | None, mean: Any, std: Any,
    color: Any, calibration: Path | None,
) -> None:  # fmt: skip
    """Import a CenterNet that was trained elsewhere, and quantize it.

    CHECKPOINT is a .pth file of github.com/xingyizhou/CenterNet (task ctdet, arch res_18), or a float ONNX
    file with outputs named hm (or heat, heatmap), wh (or size) and reg (or offset). Writes NAME.onnx, the
    interchange file for `edge-centernet convert`, and for a .pth also NAME.safetensors, the float weights.

    Example: edge-centernet import ctdet_res18.pth --classes coco --calibration photos --out imported
    """
    from edge_centernet.calibration.images import pick_images
    from edge_centernet.converters.open import Calibration, quantized
    from edge_centernet.files import write_atomic

    # 1. What is told before the network is read: no images, a mistyped folder, a file that holds no names.
    if calibration is None:
        raise ConfigError(
            "--calibration: expected a folder or a data set; int8 needs ranges measured on images like those "
            "it will see (200 are good)"
        )
    pick_images(calibration, 1)
    if classes in PUBLISHED:
        names = PUBLISHED[classes].classes
    else:
        file = Path(classes)
        try:
            parts = file.read_text(encoding="utf-8").splitlines() if file.is_file() else classes.split(",")
        except UnicodeDecodeError:
            raise ConfigError(
                f"--classes: expected a text file with one name a line, got a binary file: {file}"
            ) from None
        names = tuple(part.strip() for part in parts if part.strip())
    # 2. A float ONNX network in our form. The original code pads with black.
    usual = PUBLISHED.get(classes, PUBLISHED["coco"])
    name = name or checkpoint.stem
    mean, std = mean or usual.mean, std or usual.std
    given = Description(name, names, size or usual.size, mean, std, color, pad_value=0)
    if checkpoint.suffix.lower() == ".onnx":
        save: Save | None = None
        with quiet_libraries():
            model, spec = adopt(read_model(checkpoint), given)
    else:
        model, spec, save = _from_pth(checkpoint, given)
    # 3. Ranges, then the files.
    with bars() as progress, quiet_libraries():
        network, _, report = quantized(checkpoint, model, spec, Calibration(calibration), progress)
    prepare_folder(out)
    if save is not None:
        save(out / f"{name}.safetensors")
    write_atomic(out / f"{name}.onnx", network.model.SerializeToString(deterministic=True))
    assert report is not None  # a float network was measured
    for line in report.lines():
        echo(line)
    convert = f"edge-centernet convert {out / name}.onnx --int8 --target all --out artifacts"
    echo(f"Imported. Convert it with: {convert}")


Save = Callable[[Path], None]  # writes the float weights there


def _from_pth(path: Path, given: Description) -> tuple[Any, ModelSpec, Save]:
    """(float ONNX, what it means, how to save its weights) of a checkpoint of the original code."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingDependency.for_extra("Importing a .pth", "train") from None
    from edge_centernet.network.checkpoint import save_checkpoint
    from edge_centernet.network.original import load_original
    from edge_centernet.train.export import float_onnx

    model = load_original(path, given.name, given.classes, given.size, given.mean, given.std)

    def save(weights: Path) -> None:
        save_checkpoint(weights, copy.deepcopy(model), "float")

    # Export folds the batch norms into the weights, of a copy: a checkpoint keeps them apart.
    return float_onnx(copy.deepcopy(model)), model.spec, save

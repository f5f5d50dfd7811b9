"""`edge-centernet convert`: a file for each engine, quantized if need be, and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import input_size
from edge_centernet.converters import ALL, CONVERTERS, artifact_paths, convert
from edge_centernet.data import DataSource, read_datasets, to_measure_on
from edge_centernet.errors import ConfigError
from edge_centernet.files import write_atomic
from edge_centernet.imageio import read_image
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.progress import bars
from edge_centernet.system.logs import quiet_libraries

if TYPE_CHECKING:
    from edge_centernet.calibration.report import CalibrationReport
    from edge_centernet.manifest import InputSize, Precision

DIAGNOSED = 4  # images to find the layers to blame with
# calibration.ranges.METHODS, without importing it: --help shall not load NumPy and ONNX.
METHODS = ("average", "minmax", "percentile", "mse", "entropy")


@click.command(cls=Command)
@click.argument("model", default=DEFAULT, metavar="[MODEL]")
@option_group(
    click.option(
        "--target",
        "chosen",
        type=click.Choice([*CONVERTERS, "all"]),
        multiple=True,
        default=["all"],
        show_default=True,
        help="Format to write; repeatable. openvino writes .xml and .bin, tflite a .tflite, onnx an .onnx, "
        "tensorrt an .onnx for trtexec; all writes these four. tflite-uint8 writes a .tflite that takes raw "
        "uint8 pixels, openvino-boxes an .xml and .bin with the decoder inside, for OpenVINO's Model API.",
    ),
    click.option(
        "--int8/--fp32",
        "int8",
        default=True,
        show_default=True,
        help="Full-integer, or float for comparison.",
    ),
    click.option(
        "--size",
        callback=input_size,
        metavar="WxH",
        help="Width and height of the input in pixels, multiples of 32, or one number for a square. A "
        "quantized MODEL keeps its scales; with --calibration they are measured at this size.  "
        "[default: MODEL's]",
    ),
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(),
        help="Output folder, created if missing.  [default: the current one]",
    ),
    heading="Output",
)
@option_group(
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="IMAGES",
        help="Representative images to measure the INT8 ranges on: a folder or a data set (COCO JSON, VOC "
        "list, YOLO .yaml). Required for a float MODEL; for a shipped model, its float weights are quantized "
        "anew.",
    ),
    click.option(
        "--calibration-images",
        type=click.IntRange(min=1),
        default=200,
        show_default=True,
        help="Number of images to measure on, spread evenly.",
    ),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="mse",
        show_default=True,
        help="How to choose the ranges.",
    ),
    click.option(
        "--symmetric",
        is_flag=True,
        help="Use only zero points of 0, as TensorRT requires. Needs --calibration.",
    ),
    click.option(
        "--accuracy-budget",
        type=click.FloatRange(0, 1),
        help="Largest drop of AP50 below float that is acceptable on --data. The most sensitive layers stay "
        "in float until it is met; if half of the layers are not enough, exit with code 3 and write no file.",
    ),
    click.option("--data", type=click.Path(path_type=Path), help="Labelled images for --accuracy-budget."),
    heading="Calibration",
)
def command(
    model: str, int8: bool, chosen: tuple[str, ...], out: Path, size: InputSize | None,
    calibration: Path | None, calibration_images: int, method: str, symmetric: bool,
    accuracy_budget: float | None, data: Path | None,
) -> None:  # fmt: skip
    """Convert a model and verify every file against it.

    MODEL is the name of a shipped model (the default), a checkpoint (.safetensors), or an .onnx file written
    by 'edge-centernet train', 'import' or 'convert'. A quantized model keeps its learned scales; a float
    model is quantized on the images of --calibration. Each file is run by its engine on sample photos and is
    only kept if its outputs match those of the source.

    Example: edge-centernet convert --int8 --target all --out converted
    """
    from edge_centernet.calibration.images import pick_images
    from edge_centernet.calibration.quantize import Options
    from edge_centernet.converters import accuracy_budget as accuracy_budget_module
    from edge_centernet.converters.diagnosis import refuse_broken
    from edge_centernet.converters.open import Calibration, open_network
    from edge_centernet.converters.to_tensorrt import engine_command
    from edge_centernet.qdq.float_network import float_model
    from edge_centernet.qdq.reference import table

    if symmetric and calibration is None:
        raise ConfigError("--symmetric: expected --calibration with it, as the ranges are measured again")
    if (accuracy_budget is None) != (data is None):
        raise ConfigError(
            "--accuracy-budget and --data: expected both, the limit and the labelled images to measure on"
        )
    # 1. What can be refused is refused before minutes of calibration.
    with bars() as progress:
        dataset = (
            None if data is None else read_datasets([to_measure_on(DataSource(data))], progress=progress)
        )
    source = find_model(model, ".onnx" if calibration is None else ".safetensors")
    options = Options(method, symmetric=symmetric)
    wanted = None if calibration is None else Calibration(calibration, calibration_images, options)
    targets = list(dict.fromkeys(name for one in chosen for name in (ALL if one == "all" else [one])))
    precision: Precision = "int8" if int8 else "fp32"
    stem = source.stem if size is None else size.named(source.stem)
    artifact_paths(source, targets, precision, out, stem)
    with quiet_libraries():
        # 2. The interchange network, quantized if that was asked for.
        with bars() as progress:
            network, original, report = open_network(
                source, wanted, progress=progress, fp32=not int8, size=size
            )
            if report is not None and calibration is not None and int8 and dataset is None:
                few = [read_image(path) for path in pick_images(calibration, DIAGNOSED)]
                refuse_broken(network, float_model(original), report.found, report.matched, few)
            if dataset is not None and accuracy_budget is not None and int8:
                meet = accuracy_budget_module.meet
                network = meet(network, original, dataset, accuracy_budget, echo, progress)
        # 3. A file for each target, verified.
        artifacts = convert(source, targets, precision, out, network=network, progress=echo, stem=stem)
    if report is not None and int8:
        _tell(report, out / f"{stem}-calibration.json")
    echo(table({artifact.target: artifact.report for artifact in artifacts}))
    for artifact in artifacts:
        echo(f"{artifact.path}  {artifact.path.stat().st_size} bytes, {artifact.seconds:.1f} s")
        if artifact.target == "tensorrt":
            echo(f"On the Jetson: {engine_command(artifact.path, precision)}")


def _tell(report: CalibrationReport, path: Path) -> None:
    """The figures on the screen, the warnings on standard error, everything in a file."""
    write_atomic(path, json.dumps(report.to_json(), indent=1) + "\n")
    first, agreement, *warnings = report.lines()
    echo(f"Calibration: {first}; {path}\n{agreement}")
    for line in warnings:
        echo(line, err=True)

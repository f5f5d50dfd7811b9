"""`edge-centernet convert`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_centernet.converters import CONVERTERS, convert
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.sources import quiet_libraries


@click.command(short_help="Make OpenVINO, TFLite and ONNX files.")
@click.argument("model", default=DEFAULT, metavar="[MODEL]")
@click.option("--int8/--fp32", "int8", default=True, show_default=True, help="Full-integer, or float for comparison.")
@click.option(
    "--target",
    type=click.Choice([*CONVERTERS, "all"]),
    default="all",
    show_default=True,
    help="openvino: .xml and .bin; tflite: .tflite; onnx: .onnx.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write to, made if missing.  [default: the current one]",
)
def command(model: str, int8: bool, target: str, out: Path) -> None:
    """Convert a network and verify every file against it.

    MODEL: a quantized (QDQ) .onnx file made by 'edge-centernet train', or the name of a shipped model (the default).
    Each file is run by its real engine on sample photos and must answer as the source does, or it is not left behind.

    Example: edge-centernet convert --int8 --target all --out converted
    """
    from edge_centernet.converters.verify import table

    source = find_model(model, ".onnx")
    targets = list(CONVERTERS) if target == "all" else [target]
    with quiet_libraries():
        artifacts = convert(source, targets, "int8" if int8 else "fp32", out, progress=click.echo)
    click.echo(table({artifact.target: artifact.report for artifact in artifacts}))
    for artifact in artifacts:
        click.echo(f"{artifact.path}  {artifact.path.stat().st_size} bytes, {artifact.seconds:.1f} s")

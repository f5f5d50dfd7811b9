"""`edge-centernet export-frigate`: a network with its decoder inside, for Frigate."""

from __future__ import annotations

from pathlib import Path

import click

from edge_centernet import qdq
from edge_centernet.cli import Command, echo
from edge_centernet.converters import frigate
from edge_centernet.errors import ConfigError
from edge_centernet.files import prepare_folder
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.system.logs import quiet_libraries


@click.command(cls=Command)
@click.argument("model", default=DEFAULT, metavar="[MODEL]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Output folder, created if missing; existing files are replaced.  [default: the current one]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help=f"Lowest score in the output; Frigate ignores everything below {frigate.FLOOR:g}.  "
    "[default: the model's]",
)
def command(model: str, out: Path, threshold: float | None) -> None:
    """Export a network with its decoder built in, for Frigate's openvino and onnx detectors.

    MODEL is the name of a shipped model (the default), or an int8 .onnx file written by 'edge-centernet
    train' or 'convert'. The label map and the lines for Frigate's config.yml are written with it. Both
    engines run the model on sample photos; unless they find what detect finds, nothing is written.
    docs/frigate.md explains the next steps.

    Example: edge-centernet export-frigate centernet-mbv2-320 --out frigate
    """
    source = find_model(model, ".onnx")
    if source.suffix.lower() != ".onnx":
        raise ConfigError(
            f"{source}: expected the .onnx file of the network; 'edge-centernet convert' makes one"
        )
    network = qdq.load(source)
    prepare_folder(out)
    with quiet_libraries():
        done = frigate.export(network, source.stem, out, threshold, progress=echo)
    for engine, (found, matched) in done.agreement.items():
        share = f"{matched} of {found} boxes agree with the decoder's"
        echo(f"{engine}: {share if found else 'no boxes in the sample photos, and none by the decoder'}")
    for path in (done.model, done.labels, done.config):
        echo(path)

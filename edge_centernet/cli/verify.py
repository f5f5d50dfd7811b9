"""`edge-centernet verify`: a file against the network it was made from, layer by layer."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from edge_centernet.artifact import read_manifest
from edge_centernet.cli import Command, echo
from edge_centernet.data import DataSource, read_datasets, to_measure_on
from edge_centernet.errors import ConfigError, ConversionError
from edge_centernet.files import write_atomic
from edge_centernet.model_zoo import find_model, names
from edge_centernet.progress import bars
from edge_centernet.system.logs import quiet_libraries

IMAGES = 32  # of --images, spread evenly


@click.command(cls=Command)
@click.argument("artifact", metavar="ARTIFACT")
@click.option(
    "--against",
    metavar="PATH|NAME",
    help="Network that the file was made from: an interchange .onnx, a checkpoint, or a shipped name.  "
    "[default: the int8 .onnx beside the file, else the shipped model of the same name, at the file's size; "
    "an int8 .onnx is compared with its own float weights]",
)
@click.option(
    "--float",
    "unrounded",
    metavar="PATH|NAME",
    help="Float network that was quantized (.safetensors, .onnx or a shipped name). Layers and AP are then "
    "compared with its weights before rounding.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of images to compare on.  [default: those of --data, else the packaged photos]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled images to compare on, and to report the difference in AP.",
)
@click.option(
    "--split",
    type=click.Choice(("val", "test", "train")),
    help="Which part of a --data that has parts.  [default: val, else test]",
)
@click.option(
    "--json",
    "out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the full report to this file too.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the error of each layer as a PNG.",
)
def command(
    artifact: str, against: str | None, unrounded: str | None, images: Path | None, data: Path | None,
    split: str | None, out: Path | None, picture: Path | None,
) -> None:  # fmt: skip
    """Compare a model file, run by its engine on real images, with the network it was made from.

    Prints the difference of each head in steps of its int8 output, how many detections agree, the layers
    where int8 loses most of the signal, and with --data the difference in AP. The exit code is 2 if the
    outputs of the file do not match its source.

    Example: edge-centernet verify converted/centernet-mbv2-320.tflite --picture layers.png
    """
    from edge_centernet.calibration.images import pick_images
    from edge_centernet.converters import accuracy_budget, diagnosis
    from edge_centernet.converters.open import open_network
    from edge_centernet.imageio import read_image
    from edge_centernet.qdq import reference as reference_module
    from edge_centernet.qdq.float_network import float_model
    from edge_centernet.runtimes import open_runtime

    path = find_model(artifact, ".onnx")
    with bars() as progress:
        dataset = None
        if data is not None:
            dataset = read_datasets([to_measure_on(DataSource(data, split=split))], progress=progress)
    accuracy = {}
    with quiet_libraries(), bars() as progress:
        # 1. The file's heads against those of its source.
        source = _source(path, against)
        size = read_manifest(path).model.input_size
        network = open_network(source, fp32=True, size=size).network
        samples = reference_module.sample_pictures
        if images is not None:
            pictures = [read_image(path) for path in pick_images(images, IMAGES)]
        elif dataset is not None:
            spread = np.linspace(0, len(dataset) - 1, min(IMAGES, len(dataset))).round().astype(int)
            pictures = [read_image(dataset.samples[i].path) for i in spread]
        else:
            pictures = samples()
        reference = reference_module.Reference(network, read_manifest(path).precision, pictures)
        report = reference.compare(path)
        # 2. Each layer in int8 against float: with --float, the weights before any rounding.
        original = network
        if unrounded is not None:
            float_path, size = find_model(unrounded, ".safetensors"), network.manifest.model.input_size
            original = open_network(float_path, fp32=True, size=size).original
        layers = diagnosis.diagnose(network, float_model(original), pictures)
        # 3. AP of the file and of the float network.
        if dataset is not None:
            with closing(open_runtime(path)) as runtime:
                accuracy[path.name] = accuracy_budget.measure(runtime, dataset, progress, path.suffix[1:])
            accuracy["float"] = accuracy_budget.accuracy(original, "fp32", dataset, progress, "float")
    echo(reference_module.table({path.suffix[1:]: report}))
    echo(diagnosis.table(layers))
    for name, value in accuracy.items():
        echo(f"{name}: AP50 {value['AP50']:.4f}, AP {value['AP']:.4f}")
    if picture is not None:
        diagnosis.draw(layers, f"{network.manifest.model.name}: int8 against float", picture)
        echo(picture)
    if out is not None:
        found = {
            "artifact": str(path),
            "heads": asdict(report),
            "layers": [asdict(layer) for layer in layers],
        }
        write_atomic(out, json.dumps({**found, "accuracy": accuracy}, indent=1) + "\n")
    if report.failures:
        hint = ""
        if against is None:
            hint = (
                f"; its source was taken to be {source}: if it was made from another network, name that one "
                "by --against"
            )
        raise ConversionError(
            f"{path}: its outputs do not match its source: {', '.join(report.failures)}{hint}"
        )


def _source(path: Path, against: str | None) -> Path:
    """The network to compare with: what --against says, or the .onnx beside the file, or a shipped one."""
    manifest = read_manifest(path)
    beside = path.with_suffix(".onnx")  # what `convert` writes with it
    if against is not None:
        return find_model(against, ".onnx")
    if manifest.precision == "int8" and beside.is_file():
        other = read_manifest(beside)
        if (other.precision, other.model) == (manifest.precision, manifest.model):
            return beside
    sized = {
        manifest.model.input_size.named(name): name for name in names()
    }  # what `convert --size` calls them
    name = sized.get(manifest.model.name, manifest.model.name)
    if name not in names():
        raise ConfigError(f"{path}: made from {name!r}, which does not ship: name the network with --against")
    return find_model(name, ".onnx")

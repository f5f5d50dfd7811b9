"""Which input size for which scene? Accuracy, time and the smallest person found, for models at a list of sizes.

    python scripts/measure_sizes.py --data ../shared/data/voc2007/instances_val.json
    python scripts/measure_sizes.py centernet-nano-256 --size 256 --size 512x384 --data street.json --limit 5 --blocks 1

Each model's quantized network is converted to each size with the scales it learned (`edge-centernet convert --size`),
one thread, INT8. AP and AP50 are COCO's on --data, in the first engine. Milliseconds are for inference alone, on the
sample photos, all models and sizes of an engine in turns.

The smallest person: persons of --data are counted by their height in pixels of the network's input, in bins a factor of
the square root of two wide; from the model's threshold on, at IoU 0.5. The smallest bin of at least 20 persons of which
half or more are found is the answer, given in pixels of a frame of 1280x720 that is letterboxed into the input.

Writes docs/benchmarks/sizes.json and prints the table that `table` makes of it, in Markdown.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ENGINES, ROOT, commit, cpu_name, inferences, installed, quantiles
from numpy.typing import NDArray

from edge_centernet.calibration.images import spread
from edge_centernet.converters import convert
from edge_centernet.converters.open import open_network
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.evaluation.coco import THRESHOLD, evaluate_samples, match_samples
from edge_centernet.files import sha256, write_atomic
from edge_centernet.imageio import read_image
from edge_centernet.manifest import InputSize, ModelSpec
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.preprocess import Letterbox
from edge_centernet.progress import Progress, bars
from edge_centernet.qdq import reference
from edge_centernet.runtimes import open_runtime
from edge_centernet.system.quiet import quiet_libraries

MODELS = (DEFAULT, "centernet-nano-256")
SIZES = ("256", "320", "416x320", "512x384", "640x352", "640x480")
PERSON = "person"
TITLES = {"openvino": "OpenVINO", "tflite": "TFLite"}
FRAME = (1280, 720)  # pixels, width and height: what most cameras give
EDGES = tuple(8 * 2 ** (i / 2) for i in range(14))  # pixels of the network's input: 8, 11.3, 16 ... 724
MIN_PERSONS = 20  # in a bin, to say something about it
FOUND = 0.5  # of the persons in a bin
BLOCK, UNCOUNTED = 25, 5  # inferences of a turn, and those at its start that find another network in the caches

Bin = dict[str, Any]  # from, to: pixels of the input; persons: how many; recall: 0..1


@click.command()
@click.argument("models", nargs=-1)
@click.option("--size", "sizes", multiple=True, default=SIZES, show_default=True, metavar="WxH", help="Repeatable.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Labelled images: COCO JSON, VOC or YOLO.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Image folder of --data, where it is not the usual one."
)
@click.option("--limit", type=click.IntRange(min=1), help="So many images, evenly spread.  [default: all]")
@click.option("--blocks", default=20, show_default=True, help="Turns of each network for the time.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs/benchmarks/sizes.json")
def main(
    models: tuple[str, ...], sizes: tuple[str, ...], data: Path, images: Path | None, limit: int | None, blocks: int,
    out: Path,
) -> None:  # fmt: skip
    """Measure MODELS (names of shipped ones or QDQ .onnx files) at each size, write and print."""
    try:
        chosen = [InputSize.of(size) for size in dict.fromkeys(sizes)]
        sources = [find_model(model, ".onnx") for model in models or MODELS]
        dataset = read_dataset(data, images)
        if limit is not None:
            dataset = Dataset(dataset.classes, tuple(spread(dataset.samples, limit)))
        with bars() as progress, quiet_libraries():
            rows = measure(sources, chosen, dataset, blocks, progress)
    except EdgeCenterNetError as error:
        raise click.ClickException(str(error)) from None
    record = {
        "rows": rows, "data": "/".join(data.resolve().parts[-2:]), "images": len(dataset.samples), "threads": 1,
        "frame": list(FRAME), "min_persons": MIN_PERSONS, "blocks": blocks, "counted_per_block": BLOCK - UNCOUNTED,
        "sha256": {source.stem: sha256(source) for source in sources},
        "versions": {package: installed(package) for package in ENGINES.values()},
        "machine": {"arch": platform.machine(), "cpu": cpu_name(), "python": platform.python_version()},
        "commit": commit(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_atomic(out, json.dumps(record, indent=1) + "\n")
    click.echo(table(record))
    click.echo(out, err=True)


def measure(
    sources: Sequence[Path], sizes: Sequence[InputSize], dataset: Dataset, blocks: int, progress: Progress
) -> list[dict[str, Any]]:
    """A row for each source at each size; see `table`. `blocks`: turns for the time."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        runtimes: dict[str, dict[tuple[str, InputSize], Any]] = {engine: {} for engine in ENGINES}
        for i, (source, size) in enumerate((s, z) for s in sources for z in sizes):
            network = open_network(source, size=size).network
            stem = f"{i}-{size}"
            made = convert(source, list(ENGINES), "int8", Path(folder), network=network, stem=stem)
            for artifact in made:
                runtime = open_runtime(artifact.path, threads=1)
                opened.callback(runtime.close)
                runtimes[artifact.target][source.stem, size] = runtime
            rows.append(
                {
                    "model": source.stem,
                    "size": list(size),
                    **accuracy(made[0].path, f"{source.stem} at {size}", dataset, progress),
                }
            )
        pictures = reference.sample_pictures()
        for engine, networks in runtimes.items():
            times = inferences(networks, pictures, blocks, BLOCK, UNCOUNTED, warm_up=1)
            for row, values in zip(rows, times.values(), strict=True):
                row[engine] = {
                    "ms": round(statistics.median(values), 3),
                    "p10_p90_ms": [round(q, 3) for q in quantiles(values)],
                }
    return rows


def accuracy(path: Path, title: str, dataset: Dataset, progress: Progress) -> dict[str, Any]:
    """AP, AP50, those of persons alone, recall of persons by height, and the smallest of them that is found."""
    found: list[Detections] = []
    with Detector(path, threads=1, threshold=THRESHOLD) as detector:
        spec = detector.manifest.model
        for i, sample in enumerate(dataset.samples, 1):
            found.append(detector.detect(read_image(sample.path)))
            progress(title, i, len(dataset.samples))
    metrics = evaluate_samples(found, dataset, spec.classes, spec)
    result = {key: metrics[key] and round(metrics[key], 4) for key in ("AP", "AP50")}
    if PERSON in metrics["per_class"]:
        result["person"] = {key: value and round(value, 4) for key, value in metrics["per_class"][PERSON].items()}
        result["person_by_height"] = list(by_height(*heights(found, dataset, spec), spec.threshold))
        result["smallest_person"] = smallest(result["person_by_height"], spec.input_size)
    return result


def heights(
    found: Sequence[Detections], dataset: Dataset, spec: ModelSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) height of each person that counts, in pixels of the input; (N,) the score that found it, -1 for none."""
    label = dataset.classes.index(PERSON)
    pixels, scores = [], []
    for sample, match in zip(dataset.samples, match_samples(found, dataset, spec.classes), strict=True):
        mine = (sample.labels == label) & ~sample.ignore
        boxes = Letterbox(sample.width, sample.height, *spec.input_size).to_input(sample.boxes[mine])
        pixels.append(boxes[:, 3] - boxes[:, 1])
        scores.append(match.found_at[mine])
    return np.concatenate(pixels).astype(np.float64), np.concatenate(scores).astype(np.float64)


def by_height(pixels: NDArray[np.float64], scores: NDArray[np.float64], threshold: float) -> Iterator[Bin]:
    """The bins between EDGES that hold persons, from the smallest, with the share found from `threshold` on."""
    for low, high in pairwise(EDGES):
        own = scores[(pixels >= low) & (pixels < high)]
        if len(own):
            recall = float((own >= np.float32(threshold)).mean().round(4))
            yield {"from": round(low, 1), "to": round(high, 1), "persons": len(own), "recall": recall}


def smallest(bins: Sequence[Bin], size: InputSize) -> dict[str, Any] | None:
    """The smallest bin of enough persons of which enough are found, in pixels of FRAME; None without one."""
    scale = Letterbox(*FRAME, *size).scale  # pixels of the input per pixel of the frame
    for one in bins:
        if one["persons"] >= MIN_PERSONS and one["recall"] >= FOUND:
            return {"from": round(one["from"] / scale, 1), "to": round(one["to"] / scale, 1)}
    return None


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    head = [
        "model",
        "input",
        "AP50",
        "AP",
        "AP50 of persons",
        *(f"{TITLES[engine]}, ms" for engine in ENGINES),
        "smallest person",
    ]
    lines = [head, ["---"] * len(head)]
    for row in record["rows"]:
        person, least = row.get("person", {}).get("AP50"), row.get("smallest_person")
        lines.append(
            [
                row["model"],
                "x".join(map(str, row["size"])),
                *("-" if value is None else f"{value:.3f}" for value in (row["AP50"], row["AP"], person)),
                *(f"{row[engine]['ms']:.1f}" for engine in ENGINES),
                "-" if least is None else f"{math.floor(least['from'])} to {math.ceil(least['to'])} pixels",
            ]
        )
    width, height = record["frame"]
    note = (
        f"{record['images']} images of {record['data']}; one thread of {record['machine']['cpu']}; height of the "
        f"smallest persons of whom at least half are found, in a frame of {width}x{height}."
    )
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", note])


if __name__ == "__main__":
    main()

"""What a larger or smaller input changes: accuracy, time, and how small people may be.

    python scripts/measure_sizes.py ../shared/data/voc2007/instances_val.json

Each shipped model, converted to each size, looks at all photos in OpenVINO; then all sizes of a model take
turns in blocks of inferences, one thread, on a machine that is quiet. A person's height is counted in pixels
of the network's input, and told as pixels of a 1280x720 frame, which the input shows smaller. Writes
docs/benchmarks/sizes-x86_64.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
from compare_speed import measure
from measured import ROOT, circumstances
from numpy.typing import NDArray

from edge_centernet.converters import convert
from edge_centernet.converters.open import open_network
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.detector import Detector
from edge_centernet.evaluation.coco import MAX_DETECTIONS, THRESHOLD, evaluate_samples, match_samples
from edge_centernet.files import sha256, write_atomic
from edge_centernet.manifest import InputSize
from edge_centernet.model_zoo import find_model, names
from edge_centernet.preprocess import Letterbox
from edge_centernet.progress import Progress, bars, with_progress
from edge_centernet.qdq import reference
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.base import Runtime

SIZES = ("256x256", "320x320", "352x192", "448x256", "512x288", "640x352", "512x384", "640x480")
FRAME = (1280, 720)
AROUND = 100  # persons of about one height, of whom a share is found


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--blocks", default=8, show_default=True, help="Turns of each size.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "docs/benchmarks/sizes-x86_64.json",
)  # fmt: skip
def main(data: Path, blocks: int, out: Path) -> None:
    """Measure, print, write."""
    dataset, results = read_dataset(data), {}
    for name in names():
        source = find_model(name, ".onnx")
        with tempfile.TemporaryDirectory() as folder, ExitStack() as opened, bars() as progress:
            runtimes: dict[str, Runtime] = {}
            for size in SIZES:
                network = open_network(source, fp32=True, size=InputSize.of(size)).network
                pictures = reference.sample_pictures()[:2]
                (made,) = convert(
                    source, ["openvino"], "int8", Path(folder), network=network, pictures=pictures, stem=size
                )
                runtimes[size] = open_runtime(made.path, "openvino", threads=1)
                opened.callback(runtimes[size].close)
            rows = {size: judge(runtime, dataset, progress) for size, runtime in runtimes.items()}
            for size, times in measure(runtimes, blocks).items():
                rows[size]["ms"] = round(statistics.median(times), 3)
                click.echo(f"{name} {size} {rows[size]}")
        results[name] = {"sizes": rows, "sha256": sha256(source)}
    record = {"results": results, "images": len(dataset), "blocks": blocks, **circumstances(["openvino"])}
    write_atomic(out, json.dumps(record, indent=1) + "\n")


def judge(runtime: Runtime, dataset: Dataset, progress: Progress) -> dict[str, Any]:
    """AP50, AP, and from which height on half of the persons are found at the model's own threshold."""
    detector = Detector(runtime, threshold=THRESHOLD, max_detections=MAX_DETECTIONS)
    model = runtime.manifest.model
    found = [
        detector.detect(s.read()) for s in with_progress(dataset.samples, str(model.input_size), progress)
    ]
    whole = evaluate_samples(found, dataset, model.classes)
    # Heights of persons in the network's input, and whether each was found.
    person = dataset.classes.index("person")
    limit = dict(zip(model.classes, np.broadcast_to(model.suggested, len(model.classes)), strict=True))[
        "person"
    ]
    heights, hits = [], []
    for sample, one in zip(dataset.samples, match_samples(found, dataset, model.classes), strict=True):
        mine = sample.counted & (sample.labels == person)
        scale = Letterbox(sample.width, sample.height, *model.input_size).scale
        heights.append((sample.boxes[mine, 3] - sample.boxes[mine, 1]) * scale)
        hits.append(one.found_at[mine] >= limit)
    seen = smallest(np.concatenate(heights), np.concatenate(hits))
    frame = Letterbox(*FRAME, *model.input_size).scale
    return {
        "AP50": round(whole["AP50"], 4), "AP": round(whole["AP"], 4), "smallest_in_input": round(seen, 1),
        "smallest_in_frame": round(seen / frame, 1),
    }  # fmt: skip


def smallest(heights: NDArray[np.float32], hits: NDArray[np.bool_]) -> float:
    """The height from which on, of any AROUND persons of about one height, half or more are found."""
    order = np.argsort(heights)
    share = np.convolve(hits[order], np.full(AROUND, 1 / AROUND), "valid")
    too_few = np.flatnonzero(share[: len(share) // 2] < 0.5)  # those who fill the image are another matter
    return float(heights[order][(too_few[-1] + 1 if len(too_few) else 0) + AROUND // 2])


if __name__ == "__main__":
    main()

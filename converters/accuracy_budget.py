"""`convert --accuracy-budget`: as many layers in float as it takes to stay near the float network, and no more."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_centernet import qdq
from edge_centernet.calibration.images import spread
from edge_centernet.calibration.sensitivity import PICTURES, layers, sensitivity
from edge_centernet.converters import to_onnx
from edge_centernet.data import Dataset
from edge_centernet.detector import Detector
from edge_centernet.errors import AccuracyError
from edge_centernet.evaluation.coco import THRESHOLD, detector_classes, evaluate_dataset
from edge_centernet.evaluation.crowds import MAX_DETECTIONS
from edge_centernet.imageio import read_image
from edge_centernet.manifest import Precision
from edge_centernet.progress import Progress
from edge_centernet.qdq.mixed import with_floats
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.base import Runtime

MOST = 0.5  # of all layers: beyond, int8 has nothing left to offer


def meet(
    network: qdq.Network,
    original: qdq.Network,
    data: Dataset,
    budget: float,
    tell: Callable[[str], None],
    progress: Progress,
) -> qdq.Network:
    """`network`, with its most sensitive layers in float if that is what it takes.

    original: the float weights (see `mixed.with_floats`). budget: how far AP50 on `data` may fall below the
      float
    network's, 0..1. tell: called with a line for each step. Raises AccuracyError when half of the layers in
    float do not suffice.
    """
    names = layers(network)
    everything = qdq.parse(with_floats(network, names, original))
    goal = accuracy(everything, "fp32", data, progress, "float")["AP50"] - budget
    tell(f"AP50 {goal + budget:.4f} in float: int8 may fall to {goal:.4f}")
    reached = accuracy(network, "int8", data, progress, "int8")["AP50"]
    tell(f"AP50 {reached:.4f} in int8: {_verdict(reached, goal)}")
    if reached >= goal:
        return network
    errors = sensitivity(network, original, _pictures(data), progress)
    ranking = sorted(errors, key=lambda name: -errors[name])
    for count in _counts(int(MOST * len(names))):
        chosen = ranking[:count]
        mixed = qdq.parse(with_floats(network, chosen, original))
        reached = accuracy(mixed, "int8", data, progress, f"{count} in float")["AP50"]
        more = f"{count} of {len(names)} layers in float, now also {_added(chosen)}"
        tell(f"AP50 {reached:.4f} with {more}: {_verdict(reached, goal)}")
        if reached >= goal:
            return mixed
    raise AccuracyError(
        f"accuracy budget {budget:g}: expected AP50 of at least {goal:.4f}, got {reached:.4f} with half of the layers "
        f"in float; the worst are {', '.join(ranking[:3])}: calibrate on more images, or train for int8"
    )


def _counts(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`."""
    return [1 << i for i in range(most.bit_length()) if 1 << i <= most]


def _added(chosen: Sequence[str]) -> str:
    new = chosen[len(chosen) // 2 :]
    return ", ".join(new[:4]) + (" ..." if len(new) > 4 else "")


def _verdict(reached: float, goal: float) -> str:
    return "within the budget" if reached >= goal else f"{goal - reached:.4f} too little"


def _pictures(data: Dataset) -> list[Any]:
    """A few images, evenly spread."""
    return [read_image(sample.path) for sample in spread(data.samples, PICTURES)]


def accuracy(
    network: qdq.Network, precision: Precision, data: Dataset, progress: Progress, title: str
) -> dict[str, float]:
    """AP and AP50 of a network on labelled images, run by ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx.convert(network, precision)(path, False)
        with closing(open_runtime(path)) as runtime:
            return measure(runtime, data, progress, title)


def measure(runtime: Runtime, data: Dataset, progress: Progress, title: str) -> dict[str, float]:
    """AP and AP50 of what a runtime runs, on labelled images; title: of the progress bar."""
    classes = runtime.manifest.model.classes
    only = detector_classes(classes, data.classes)
    detector = Detector(runtime, threshold=THRESHOLD, max_detections=MAX_DETECTIONS, only=only)
    found = evaluate_dataset(detector.detect_timed, data, classes, progress, title=title)
    return {key: float(found[key]) for key in ("AP", "AP50")}

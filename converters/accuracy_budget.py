"""`convert --accuracy-budget`: the most sensitive layers stay in float, as few of them as suffice.

Which layers int8 hurts is measured one by one: the error of the heads when that layer alone is quantized.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_centernet import qdq
from edge_centernet.calibration.images import spread
from edge_centernet.converters import to_onnx
from edge_centernet.data import Dataset
from edge_centernet.detector import Detector
from edge_centernet.errors import AccuracyError
from edge_centernet.evaluation.coco import THRESHOLD, detector_classes, evaluate_dataset
from edge_centernet.evaluation.crowds import MAX_DETECTIONS
from edge_centernet.heads import real_values
from edge_centernet.imageio import read_image
from edge_centernet.manifest import Precision
from edge_centernet.progress import Progress
from edge_centernet.qdq.float_network import with_floats
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.qdq.reference import Reference
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.base import Runtime

PICTURES = 4  # images that layers are ranked on: enough, since heads have thousands of cells
MOST = 0.5  # part of all layers that may be in float: beyond, int8 has nothing left to offer


def meet(
    network: qdq.Network,
    original: qdq.Network,
    data: Dataset,
    budget: float,
    tell: Callable[[str], None],
    progress: Progress,
) -> qdq.Network:
    """`network`, with its most sensitive layers in float if that is what it takes.

    Args:
        network: in int8.
        original: the float weights (see `float_network.with_floats`).
        data: labelled images.
        budget: how far AP50 on `data` may fall below the float network's, 0..1.
        tell: called with a line of text for each step.
        progress: called as work goes on.

    Raises AccuracyError when half of the layers in float do not suffice.
    """
    # 1. What float reaches, and whether int8 alone comes near enough.
    names = layers(network)
    everything = qdq.parse(with_floats(network, names, original))
    goal = accuracy(everything, "fp32", data, progress, "float")["AP50"] - budget
    tell(f"AP50 {goal + budget:.4f} in float: int8 may fall to {goal:.4f}")
    reached = accuracy(network, "int8", data, progress, "int8")["AP50"]
    tell(f"AP50 {reached:.4f} in int8: {_verdict(reached, goal)}")
    if reached >= goal:
        return network
    # 2. The layers, worst first.
    pictures = [read_image(sample.path) for sample in spread(data.samples, PICTURES)]
    errors = sensitivity(network, original, pictures, progress)
    ranking = sorted(errors, key=lambda name: -errors[name])
    # 3. The worst one in float, then two, four and so on: evaluating takes minutes, so trying every number
    #    would take hours, and doubling takes at most twice as many layers as needed.
    count = 1
    while count <= int(MOST * len(names)):
        chosen = ranking[:count]
        mixed = qdq.parse(with_floats(network, chosen, original))
        reached = accuracy(mixed, "int8", data, progress, f"{count} in float")["AP50"]
        new = chosen[count // 2 :]
        added = ", ".join(new[:4]) + (" ..." if len(new) > 4 else "")
        tell(
            f"AP50 {reached:.4f} with {count} of {len(names)} layers in float, now also {added}: "
            f"{_verdict(reached, goal)}"
        )
        if reached >= goal:
            return mixed
        count *= 2
    raise AccuracyError(
        f"accuracy budget {budget:g}: expected AP50 of at least {goal:.4f}, got {reached:.4f} with half of "
        f"the layers in float; the worst are {', '.join(ranking[:3])}: calibrate on more images, or train "
        "for int8"
    )


def _verdict(reached: float, goal: float) -> str:
    return "within the budget" if reached >= goal else f"{goal - reached:.4f} too little"


def layers(network: qdq.Network) -> list[str]:
    """Names of the operations that compute (Conv, Add), in order."""
    return [op.name for op in network.ops if isinstance(op, qdq.Conv | qdq.Add)]


def sensitivity(
    network: qdq.Network, original: qdq.Network, pictures: list[NDArray[np.uint8]], progress: Progress
) -> dict[str, float]:
    """Layer -> mean difference of the heads, in their output steps, with that layer alone in int8.

    original: see `float_network.with_floats`. pictures: (H, W, 3) BGR.
    """
    names = layers(network)
    floats = _heads(qdq.parse(with_floats(network, names, original)), pictures)
    errors = {}
    for i, name in enumerate(names):
        mixed = qdq.parse(with_floats(network, [other for other in names if other != name], original))
        errors[name] = float(
            np.mean([np.abs(a - b).mean() for a, b in zip(_heads(mixed, pictures), floats, strict=True)])
        )
        progress("Measuring sensitivity", i + 1, len(names))
    return errors


def _heads(network: qdq.Network, pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
    """Every head of every image, in steps: so errors of heat, sizes and offsets can be averaged."""
    answers = Reference(network, "int8", pictures).answers
    manifest = network.manifest
    return [
        real_values(getattr(answer, role), getattr(manifest, role)) / network.heads[role].quant.scale
        for answer in answers
        for role in HEADS
    ]


def accuracy(
    network: qdq.Network, precision: Precision, data: Dataset, progress: Progress, title: str
) -> dict[str, float]:
    """AP and AP50 of a network, run by ONNX Runtime.

    Args:
        network: what to measure.
        precision: "int8", or "fp32" for its weights in float.
        data: labelled images.
        progress: called as work goes on.
        title: of the progress bar.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx.convert(network, precision)(path, False)
        with closing(open_runtime(path)) as runtime:
            return measure(runtime, data, progress, title)


def measure(runtime: Runtime, data: Dataset, progress: Progress, title: str) -> dict[str, float]:
    """AP and AP50 of what a runtime runs, on labelled images. title: of the progress bar."""
    classes = runtime.manifest.model.classes
    only = detector_classes(classes, data.classes)
    detector = Detector(runtime, threshold=THRESHOLD, max_detections=MAX_DETECTIONS, only=only)
    found = evaluate_dataset(detector.detect_timed, data, classes, progress, title=title)
    return {key: float(found[key]) for key in ("AP", "AP50")}

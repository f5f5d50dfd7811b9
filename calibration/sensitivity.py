"""Which layers int8 hurts: the error of the heads when one layer alone is quantized."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_centernet import qdq
from edge_centernet.heads import real_values
from edge_centernet.progress import Progress
from edge_centernet.qdq.mixed import with_floats
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.qdq.reference import Reference

PICTURES = 4  # enough to rank layers: heads have thousands of cells


def layers(network: qdq.Network) -> list[str]:
    """Names of the operations that compute (Conv, Add), in order."""
    return [op.name for op in network.ops if isinstance(op, qdq.Conv | qdq.Add)]


def sensitivity(
    network: qdq.Network, original: qdq.Network, pictures: list[NDArray[np.uint8]], progress: Progress
) -> dict[str, float]:
    """Layer -> mean difference of the heads, in their output steps, with that layer in int8 and all others in float.

    original: see `mixed.with_floats`. pictures: (H, W, 3) BGR.
    """
    names = layers(network)
    floats = _heads(qdq.parse(with_floats(network, names, original)), pictures)
    errors = {}
    for i, name in enumerate(names):
        mixed = qdq.parse(with_floats(network, [other for other in names if other != name], original))
        errors[name] = float(
            np.mean([np.abs(a - b).mean() for a, b in zip(_heads(mixed, pictures), floats, strict=True)])
        )
        progress("sensitivity", i + 1, len(names))
    return errors


def _heads(network: qdq.Network, pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
    """Every head of every picture, in steps."""
    answers = Reference(network, "int8", pictures).answers
    manifest = network.manifest
    return [
        real_values(getattr(answer, role), getattr(manifest, role)) / network.heads[role].quant.scale
        for answer in answers
        for role in HEADS
    ]

"""Post-training quantization: a float ONNX network and pictures -> the interchange file (QDQ ONNX). No torch.

The arithmetic is that of quantization-aware training (`scheme.py`), so that every engine answers alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import qdq
from edge_centernet.calibration import scheme
from edge_centernet.calibration.observe import Pictures, Probe, channel_means, observe
from edge_centernet.calibration.ranges import NEEDS_COUNTS, Range, choose
from edge_centernet.calibration.report import CalibrationReport, make_report, split
from edge_centernet.calibration.rounding import rounded, second_moments
from edge_centernet.errors import SourceError
from edge_centernet.manifest import Manifest, ModelSpec, Quant
from edge_centernet.progress import Progress, unseen
from edge_centernet.qdq.insert import fill, real_name, with_quantizers
from edge_centernet.qdq.onnx_graph import HEADS, interchange_manifest, set_manifest
from edge_centernet.qdq.quantizers import shared_scales

DEFAULT_METHOD = "mse"


@dataclass(frozen=True)
class Options:
    """How to quantize.

    method: one of `ranges.METHODS`. bias_correction: move every bias by what rounding the weights does to its
      channel
    on average. compensation: round every weight with its channel in mind (`rounding`), not to the nearest
    step.
    symmetric: every zero point 0, for TensorRT.
    """

    method: str = DEFAULT_METHOD
    bias_correction: bool = True
    compensation: bool = True
    symmetric: bool = False


def quantize(
    float_model: Any,
    spec: ModelSpec,
    pictures: Pictures,
    options: Options = Options(),
    progress: Progress = unseen,
) -> tuple[Any, CalibrationReport]:
    """(the QDQ onnx.ModelProto with its manifest, how far its ranges can be trusted).

    float_model: see `insert.with_quantizers`. Raises SourceError when there are no pictures, ConversionError
      for a
    network that cannot be quantized, naming the node.
    """
    if not pictures:
        raise SourceError("calibration: expected at least one image, got none")
    network = unmeasured(float_model, spec)
    model = network.model
    probe = Probe(float_model, [real_name(op.y) for op in _measured(network)], spec)
    measured, held_out = split(pictures)
    seen = observe(probe, measured, options.method in NEEDS_COUNTS, progress)
    ranges = {name: choose(options.method, s) for name, s in seen.items()}
    # The surest peaks are few, so a method that weighs errors gives them up; clipped, each of them were a
    # plateau.
    ranges["heat"] = (ranges["heat"][0], seen["heat"].high)
    quants = activation_quants(network, ranges, options.symmetric)
    entering = {
        real_name(op.x) for op in network.ops if isinstance(op, qdq.Conv) and op.x is not network.input
    }
    inputs = Probe(float_model, sorted(entering), spec)
    means = channel_means(inputs, measured, progress) if options.bias_correction else {}
    moments = second_moments(inputs, network, measured, progress) if options.compensation else {}
    fill(model, constants(network, quants, means, moments))
    set_manifest(model, _filled(network.manifest, quants))
    report = make_report(
        options.method, seen, quants, qdq.parse(model), probe, (measured, held_out), progress
    )
    return model, report


def unmeasured(float_model: Any, spec: ModelSpec) -> qdq.Network:
    """The network with its quantizers in place, all scales 1, and its float weights."""
    model = with_quantizers(float_model, spec)
    # Scale 1 and zero point 0 are what `with_quantizers` left in the heads; `_filled` follows with the
    # measured ones.
    set_manifest(model, interchange_manifest(spec, dict.fromkeys(HEADS, Quant(1.0, 0)), {}))
    return qdq.parse(model)


def _measured(network: qdq.Network) -> list[qdq.Conv | qdq.Add]:
    """The operations whose results are stored anew; all others move stored values."""
    return [op for op in network.ops if isinstance(op, qdq.Conv | qdq.Add)]


# ---- activations
# -------------------------------------------------------------------------------------------------


def activation_quants(network: qdq.Network, ranges: dict[str, Range], symmetric: bool) -> dict[str, Quant]:
    """Real name -> Quant of every tensor behind an operation; those that `shared_scales` names share theirs."""
    limited = {**ranges, **_head_ranges(ranges)}
    quants: dict[str, Quant] = {}
    for group in shared_scales(network):
        measured = [[limited[name] for name in names if name in limited] for names in group]
        spans = [(min(r[0] for r in seen), max(r[1] for r in seen)) for seen in measured]
        for names, quant in zip(group, scheme.activation_quants(spans, symmetric), strict=True):
            quants.update(dict.fromkeys(names, quant))
    return quants


def _head_ranges(ranges: dict[str, Range]) -> dict[str, Range]:
    """Logits far below 0 are all background, sizes are never negative."""
    low, high = ranges["heat"]
    return {
        "heat": (max(low, scheme.HEAT_LOW), max(high, scheme.HEAT_HIGH)),
        "size": (max(ranges["size"][0], 0.0), ranges["size"][1]),
    }


# ---- weights and biases
# ------------------------------------------------------------------------------------------


def constants(
    network: qdq.Network,
    quants: dict[str, Quant],
    means: dict[str, NDArray[np.float64]],
    moments: dict[str, NDArray[np.float64]],
) -> dict[str, NDArray[Any]]:
    """Initializer name -> value: every scale and zero point, weights on their grid, biases on theirs.

    means: (C,) of what every convolution reads, for bias correction; moments: `rounding.second_moments`, to
      round with.
    What is not in them is neither corrected nor rounded but to the nearest step.
    """
    values: dict[str, NDArray[Any]] = {}
    for name, quant in quants.items():
        values[f"{name}/scale"] = np.array(quant.scale, np.float32)
        values[f"{name}/zero"] = np.array(quant.zero_point, np.int8)
    for op in network.ops:
        if isinstance(op, qdq.Conv):
            s_in = (
                quants[real_name(op.x)].scale if real_name(op.x) in quants else op.x.quant.scale
            )  # the image's
            values.update(
                conv_constants(
                    op, s_in, quants[real_name(op.y)].scale, means.get(real_name(op.x)), moments.get(op.name)
                )
            )
    return values


def conv_constants(
    op: qdq.Conv,
    s_in: float,
    s_out: float,
    mean: NDArray[np.float64] | None,
    moments: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[Any]]:
    """One convolution's weight, its scale and its bias; mean, moments: of what it reads, see `constants`."""
    scale = scheme.weight_scales(op.weight, op.groups > 1, s_in, s_out)  # (O,)
    if moments is None:
        settled = scheme.stored_weight(op.weight, scale)
    else:
        settled = rounded(op, scale, moments, scheme.DEPTHWISE_MAX if op.groups > 1 else scheme.DENSE_MAX)
    bias = op.bias.astype(np.float64)
    if mean is not None:
        bias = bias + _lost(op, op.weight - settled, mean)
    return {
        f"{op.name}/weight": settled,
        f"{op.name}/weight/scale": scale,
        f"{op.name}/bias": scheme.settled_bias(bias, s_in, scale),
    }


def _lost(op: qdq.Conv, error: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """(O,) what a weight error takes from each output channel on average (Nagel et al., arXiv 1906.04721, 4.2)."""
    per_input: NDArray[np.float64] = error.sum(axis=(2, 3), dtype=np.float64)  # (O, I / groups)
    return np.asarray(per_input[:, 0] * mean if op.groups > 1 else per_input @ mean)


# ---- manifest
# ----------------------------------------------------------------------------------------------------


def _filled(manifest: Manifest, quants: dict[str, Quant]) -> Manifest:
    return manifest.with_tensors(
        **{role: replace(getattr(manifest, role), quant=quants[role]) for role in HEADS}
    )

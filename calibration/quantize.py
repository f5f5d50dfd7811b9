"""Post-training quantization: a float ONNX network and images -> the interchange network, without torch.

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
from edge_centernet.manifest import ModelSpec, Quant
from edge_centernet.progress import Progress, unseen
from edge_centernet.qdq.insert import fill, real_name, shared_scales, with_quantizers
from edge_centernet.qdq.onnx_graph import HEADS, interchange_manifest, set_manifest

DEFAULT_METHOD = "mse"


@dataclass(frozen=True)
class Options:
    """How to quantize.

    method: one of `ranges.METHODS`. bias_correction: move every bias by what rounding the weights does to its
    channel on average. compensation: round every weight with its channel in mind (`rounding`) and not to the
    nearest step. symmetric: every zero point 0, for TensorRT.
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

    Args:
        float_model: the onnx.ModelProto, see `insert.with_quantizers`.
        spec: what the network means, for the manifest.
        pictures: functions that read one image each, (H, W, 3) uint8 BGR.
        options: how to quantize.
        progress: called as work goes on.

    Raises SourceError when there are no images, ConversionError for a network that cannot be quantized,
    naming the node.
    """
    if not pictures:
        raise SourceError("calibration: expected at least one image, got none")
    # 1. Where quantizers go. Only Conv and Add put out new values, all other operations move stored ones.
    network = unmeasured(float_model, spec)
    model = network.model
    computed = [real_name(op.y) for op in network.ops if isinstance(op, qdq.Conv | qdq.Add)]
    # 2. The ranges of their results.
    probe = Probe(float_model, computed, spec)
    measured, held_out = split(pictures)
    seen = observe(probe, measured, options.method in NEEDS_COUNTS, progress)
    ranges = {name: choose(options.method, s) for name, s in seen.items()}
    # The surest peaks are few, so a method that weighs errors gives them up; clipped, each of them would be a
    # plateau, which has no single highest cell.
    ranges["heat"] = (ranges["heat"][0], seen["heat"].high)
    quants = activation_quants(network, ranges, options.symmetric)
    # 3. What convolutions read, for rounding their weights. The first one reads the image, which is no tensor
    #    of the float network: its weights are rounded to the nearest step.
    entering = {
        real_name(op.x) for op in network.ops if isinstance(op, qdq.Conv) and op.x is not network.input
    }
    inputs = Probe(float_model, sorted(entering), spec)
    means = channel_means(inputs, measured, progress) if options.bias_correction else {}
    moments = second_moments(inputs, network, measured, progress) if options.compensation else {}
    # 4. Scales, zero points, weights and biases into the network, those of the heads into its manifest too.
    fill(model, constants(network, quants, means, moments))
    heads = {role: replace(getattr(network.manifest, role), quant=quants[role]) for role in HEADS}
    set_manifest(model, network.manifest.with_tensors(**heads))
    report = make_report(
        options.method, seen, quants, qdq.parse(model), probe, (measured, held_out), progress
    )
    return model, report


def unmeasured(float_model: Any, spec: ModelSpec) -> qdq.Network:
    """The network with its quantizers in place, all scales 1, and its float weights."""
    model = with_quantizers(float_model, spec)
    # Scale 1 and zero point 0 are the placeholders in the graph, and `qdq.parse` wants both to agree.
    set_manifest(model, interchange_manifest(spec, dict.fromkeys(HEADS, Quant(1.0, 0)), {}))
    return qdq.parse(model)


def activation_quants(network: qdq.Network, ranges: dict[str, Range], symmetric: bool) -> dict[str, Quant]:
    """Real name -> Quant of every result of an operation, shared where `insert.shared_scales` says so.

    ranges: real name -> (low, high) of every Conv and Add. symmetric: every zero point 0.
    """
    limited = dict(ranges)
    for head, floor in scheme.FLOORS.items():
        limited[head] = (max(ranges[head][0], floor), ranges[head][1])
    limited["heat"] = (limited["heat"][0], max(limited["heat"][1], scheme.HEAT_HIGH))
    quants: dict[str, Quant] = {}
    for group in shared_scales(network):
        measured = [[limited[name] for name in names if name in limited] for names in group]
        spans = [(min(r[0] for r in seen), max(r[1] for r in seen)) for seen in measured]
        for names, quant in zip(group, scheme.activation_quants(spans, symmetric), strict=True):
            quants.update(dict.fromkeys(names, quant))
    return quants


def constants(
    network: qdq.Network,
    quants: dict[str, Quant],
    means: dict[str, NDArray[np.float64]],
    moments: dict[str, NDArray[np.float64]],
) -> dict[str, NDArray[Any]]:
    """Initializer name -> value: every scale and zero point, weights on their grid, biases on theirs.

    means: name of a tensor that a convolution reads -> (C,) mean, for bias correction. moments: convolution
    -> `rounding.second_moments`. Biases without a mean are not corrected, weights without moments are rounded
    to the nearest step.
    """
    values: dict[str, NDArray[Any]] = {}
    for name, quant in quants.items():
        values[f"{name}/scale"] = np.array(quant.scale, np.float32)
        values[f"{name}/zero"] = np.array(quant.zero_point, np.int8)
    for op in network.ops:
        if isinstance(op, qdq.Conv):
            name = real_name(op.x)
            s_in = quants.get(name, op.x.quant).scale  # the image's scale is not measured
            s_out = quants[real_name(op.y)].scale
            values |= conv_constants(op, s_in, s_out, means.get(name), moments.get(op.name))
    return values


def conv_constants(
    op: qdq.Conv,
    s_in: float,
    s_out: float,
    mean: NDArray[np.float64] | None,
    moments: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[Any]]:
    """One convolution's weight, its scale and its bias, by initializer name.

    Args:
        op: the convolution with its float weight and bias.
        s_in: scale of what it reads.
        s_out: scale of its result.
        mean: (C,) of what it reads, for bias correction.
        moments: of what it reads (`rounding.second_moments`), to round the weight with.
    """
    depthwise = op.groups > 1
    scale = scheme.weight_scales(op.weight, depthwise, s_in, s_out)  # (O,)
    if moments is None:
        settled = scheme.stored_weight(op.weight, scale)
    else:
        settled = rounded(op, scale, moments, scheme.DEPTHWISE_MAX if depthwise else scheme.DENSE_MAX)
    bias = op.bias.astype(np.float64)
    if mean is not None:
        # What rounding takes from each output channel on average goes into the bias (Nagel et al.,
        # "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, 4.2).
        error = (op.weight - settled).sum(axis=(2, 3), dtype=np.float64)  # (O, I / groups)
        bias = bias + (error[:, 0] * mean if depthwise else error @ mean)
    return {
        f"{op.name}/weight": settled,
        f"{op.name}/weight/scale": scale,
        f"{op.name}/bias": scheme.settled_bias(bias, s_in, scale),
    }

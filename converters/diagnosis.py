"""Layer by layer: how much of the float network's signal is left in int8, and where it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import qdq
from edge_centernet.calibration.scheme import FLOORS, stored_activation
from edge_centernet.errors import ConversionError
from edge_centernet.files import write_atomic
from edge_centernet.preprocess import prepare
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.onnx_graph import HEADS, copy_of
from edge_centernet.qdq.reference import plain_session

SILENT = 1e-12  # power below which a tensor counts as zero
FEW = 10  # detections: fewer say nothing
BROKEN = 0.5  # part of them that must agree, or the network is not worth writing
CLEAN = 99.0  # dB, shown where there is no noise at all


@dataclass(frozen=True)
class Layer:
    """One operation and its signal-to-noise ratios, all in dB.

    snr: power of the float result over that of the int8 network's difference from it, which includes what
    was lost in front. rounding: the same for the float result merely stored with this layer's scale, which is
    what its range costs. lost: how far snr falls below that of the worst input; for layers that read the
    image, below `rounding`.
    """

    name: str
    kind: str
    snr: float
    rounding: float
    lost: float


def diagnose(network: qdq.Network, float_network: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Layer]:
    """Every Conv and Add of `network` against the same tensors of the float network, in order.

    float_network: what it was made from, an onnx.ModelProto with the same tensor names that reads uint8
    pixels; None takes the network's own weights in float. pictures: (H, W, 3) BGR. Raises ConversionError for
    another network.
    """
    # 1. The results of the operations: `names` leads from their integers to the float network's tensor.
    ops = [op for op in network.ops if isinstance(op, qdq.Conv | qdq.Add) and op.y.quant is not qdq.UNUSED]
    known = {name for node in float_network.graph.node for name in node.output} if float_network else None
    before = {
        node.output[0]: node.input[0] for node in network.model.graph.node if node.op_type == "QuantizeLinear"
    }
    names = {op.y.name: op.y.name if op.y.name in HEADS else before[op.y.name] for op in ops}
    missing = [name for name in names.values() if known is not None and name not in known]
    if missing:
        raise ConversionError(
            f"expected the float network that was quantized, got one without tensor {missing[0]!r}"
        )
    # 2. Both networks on all images: powers of the signal, of the int8 network's noise, and of the noise that
    #    rounding the float result alone makes.
    real = _probe(float_network or float_model(network), list(names.values()))
    stored = _probe(copy_of(network.model), list(names))
    power = {name: np.zeros(3) for name in names}
    for picture in pictures:
        x, _ = prepare(picture, network.manifest)
        floats = real.run(list(names.values()), {real.get_inputs()[0].name: x})
        integers = stored.run(list(names), {network.input.name: x})
        for op, expected, integer in zip(ops, floats, integers, strict=True):
            wanted, quant = expected.astype(np.float64), op.y.quant
            got = (integer.astype(np.float64) - quant.zero_point) * quant.scale
            if (floor := FLOORS.get(op.y.name)) is not None:  # below which nothing is meant to be stored
                wanted, got = np.maximum(wanted, floor), np.maximum(got, floor)
            parts = (wanted - (floor or 0.0), got - wanted, stored_activation(wanted, quant) - wanted)
            power[op.y.name] += [(part**2).sum() for part in parts]
    snr = {name: decibels(signal, noise) for name, (signal, noise, _) in power.items()}
    rounding = {name: decibels(signal, noise) for name, (signal, _, noise) in power.items()}
    # 3. What each operation adds to the noise of its worst input.
    sources = {op.y.name: op for op in network.ops}
    layers = []
    for op in ops:
        inputs = (op.x,) if isinstance(op, qdq.Conv) else (op.a, op.b)
        entering = [_measured(tensor, sources, snr) for tensor in inputs]
        own, kind = op.y.name, "Add"
        if isinstance(op, qdq.Conv):
            kind = "depthwise" if op.groups > 1 else "Conv"
            kind += f" {op.weight.shape[2]}x{op.weight.shape[3]}{' float' if op.real else ''}"
        worst = min((snr[name] for name in entering if name), default=rounding[own])
        layers.append(Layer(op.name, kind, snr[own], rounding[own], worst - snr[own]))
    return layers


def refuse_broken(
    network: qdq.Network, float_network: Any, found: int, matched: int, pictures: Sequence[NDArray[np.uint8]]
) -> None:
    """Raise ConversionError, naming the layers to blame, if int8 lost most of what the float network finds.

    Args:
        network: in int8.
        float_network: what it was made from, see `diagnose`.
        found: detections of both together.
        matched: those with a partner on the other side.
        pictures: (H, W, 3) BGR, to find the layers with.
    """
    if found < FEW or matched >= BROKEN * found:
        return
    worst = sorted(diagnose(network, float_network, pictures), key=lambda layer: -layer.lost)[:3]
    names = ", ".join(f"{layer.name} (loses {layer.lost:.0f} dB)" for layer in worst)
    raise ConversionError(
        f"int8 does not find what float finds: expected at least {BROKEN:.0%} of {found} detections on the "
        f"calibration images to agree, got {matched}; the layers that lose most are {names}. Keep them in "
        "float with --accuracy-budget, try another --method, or train for int8"
    )


def _probe(model: Any, names: list[str]) -> Any:
    """A session with these tensors as outputs."""
    import onnx

    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return plain_session(model)


def decibels(signal: float, noise: float) -> float:
    """10 log10 of the ratio, at most CLEAN."""
    if noise < SILENT:
        return CLEAN
    return float(np.clip(10 * np.log10(max(signal, SILENT) / noise), -CLEAN, CLEAN))


def _measured(tensor: qdq.Tensor, sources: dict[str, qdq.Op], snr: dict[str, float]) -> str:
    """The measured tensor whose integers `tensor` holds; empty for the image."""
    while tensor.name not in snr:
        op = sources.get(tensor.name)
        if op is None or isinstance(op, qdq.Conv | qdq.Add):
            return ""
        tensor = op.x
    return tensor.name


def table(layers: Sequence[Layer], count: int = 10) -> str:
    """The `count` layers that lose most, worst first, a line each."""
    worst = sorted(layers, key=lambda layer: -layer.lost)[:count]
    wide = max(len(layer.name) for layer in worst)
    lines = [
        f"{'layers that lose most':<{wide}}  {'':14} {'SNR dB':>7} {'lost dB':>8} {'rounding alone dB':>18}"
    ]
    lines += [
        f"{layer.name:<{wide}}  {layer.kind:14} {layer.snr:7.1f} {layer.lost:8.1f} {layer.rounding:18.1f}"
        for layer in worst
    ]
    return "\n".join(lines)


def draw(layers: Sequence[Layer], title: str, path: Path) -> None:
    """Draw SNR over depth as a PNG with the five layers that lose most named; complete or not there."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x = np.arange(len(layers))
    axes.plot(
        x, [layer.snr for layer in layers], marker="o", markersize=3, label="int8 network against float"
    )
    stored = [layer.rounding for layer in layers]
    axes.plot(x, stored, linewidth=1, alpha=0.6, label="storing the float result alone")
    text: dict[str, Any] = {"rotation": 60, "fontsize": 7, "xytext": (4, 6), "textcoords": "offset points"}
    for i in sorted(range(len(layers)), key=lambda i: -layers[i].lost)[:5]:
        axes.annotate(layers[i].name, (i, layers[i].snr), **text)
    axes.set(xlabel="layer, in order of execution", ylabel="signal to noise, dB", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())

"""Layer by layer: how much of the float network's signal is left in int8, and where it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import qdq
from edge_centernet.calibration.scheme import INT8_MAX, INT8_MIN
from edge_centernet.errors import ConversionError
from edge_centernet.files import write_atomic
from edge_centernet.preprocess import prepare
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.onnx_graph import HEADS, copy_of
from edge_centernet.qdq.reference import plain_session

SILENT = 1e-12  # power below which a tensor counts as zero
FEW = 10  # detections: fewer say nothing
BROKEN = 0.5  # of them must agree, or the network is not worth writing
CLEAN = 99.0  # dB: what no noise at all is shown as


@dataclass(frozen=True)
class Layer:
    """One operation.

    snr: dB, power of the float result over that of the difference of the int8 network's, with all that
      happened before.
    rounding: dB, the same for the float result merely stored with this layer's scale: what its range costs.
    lost: dB, how far snr falls below that of the worst of its inputs (of the image: below `rounding`).
    """

    name: str
    kind: str
    snr: float
    rounding: float
    lost: float


def diagnose(network: qdq.Network, float_network: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Layer]:
    """Every Conv and Add of `network` against the same tensors of the float network it was made from, in order.

    float_network: an onnx.ModelProto with the same tensor names that reads uint8 pixels; None takes the
      network's own
    weights in float. pictures: (H, W, 3) BGR.
    """
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
    real = _probe(float_network or float_model(network), list(names.values()))
    stored = _probe(copy_of(network.model), list(names))
    power = {name: np.zeros(3) for name in names}  # signal, noise, noise of rounding alone
    for picture in pictures:
        x, _ = prepare(picture, network.manifest)
        floats = real.run(list(names.values()), {real.get_inputs()[0].name: x})
        integers = stored.run(list(names), {network.input.name: x})
        for op, signal, integer in zip(ops, floats, integers, strict=True):
            power[op.y.name] += _powers(signal.astype(np.float64), integer, op.y.quant)
    snr = {name: decibels(signal, noise) for name, (signal, noise, _) in power.items()}
    rounding = {name: decibels(signal, noise) for name, (signal, _, noise) in power.items()}
    sources = {op.y.name: op for op in network.ops}
    layers = []
    for op in ops:
        entering = [
            _measured(t, sources, snr) for t in ((op.x,) if isinstance(op, qdq.Conv) else (op.a, op.b))
        ]
        own = op.y.name
        worst = min((snr[name] for name in entering if name), default=rounding[own])
        kind = "Add" if isinstance(op, qdq.Add) else _kind(op)
        layers.append(Layer(op.name, kind, snr[own], rounding[own], worst - snr[own]))
    return layers


def refuse_broken(
    network: qdq.Network, float_network: Any, found: int, matched: int, pictures: Sequence[NDArray[np.uint8]]
) -> None:
    """ConversionError, naming the layers to blame, where int8 lost most of what the float network finds.

    found, matched: detections of both together, those with a partner on the other side.
    """
    if found < FEW or matched >= BROKEN * found:
        return
    worst = sorted(diagnose(network, float_network, pictures), key=lambda layer: -layer.lost)[:3]
    names = ", ".join(f"{layer.name} (loses {layer.lost:.0f} dB)" for layer in worst)
    raise ConversionError(
        f"int8 does not find what float finds: expected at least {BROKEN:.0%} of {found} detections on the calibration "
        f"images to agree, got {matched}; the layers that lose most are {names}. Keep them in float with "
        "--accuracy-budget, try another --method, or train for int8"
    )


def _probe(model: Any, names: list[str]) -> Any:
    """A session with these tensors as outputs."""
    import onnx

    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return plain_session(model)


def _powers(signal: NDArray[np.float64], integer: NDArray[np.int8], quant: Any) -> NDArray[np.float64]:
    """(3,) sums of squares: signal, difference of the int8 network, difference by rounding the signal itself."""
    got = (integer.astype(np.float64) - quant.zero_point) * quant.scale
    kept = np.clip(np.rint(signal / quant.scale) + quant.zero_point, INT8_MIN, INT8_MAX)
    rounded = (kept - quant.zero_point) * quant.scale
    return np.array([(signal**2).sum(), ((got - signal) ** 2).sum(), ((rounded - signal) ** 2).sum()])


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


def _kind(op: qdq.Conv) -> str:
    size = f"{op.weight.shape[2]}x{op.weight.shape[3]}"
    return f"{'depthwise' if op.groups > 1 else 'Conv'} {size}{' float' if op.real else ''}"


def table(layers: Sequence[Layer], count: int = 10) -> str:
    """The layers that lose most, worst first."""
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
    """A picture of SNR over depth, as PNG, complete or not there; the five layers that lose most are named."""
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
    axes.plot(
        x,
        [layer.rounding for layer in layers],
        linewidth=1,
        alpha=0.6,
        label="storing the float result alone",
    )
    for i in sorted(range(len(layers)), key=lambda i: -layers[i].lost)[:5]:
        axes.annotate(
            layers[i].name,
            (i, layers[i].snr),
            rotation=60,
            fontsize=7,
            xytext=(4, 6),
            textcoords="offset points",
        )
    axes.set(xlabel="layer, in order of execution", ylabel="signal to noise, dB", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())

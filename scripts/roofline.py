"""How fast could this processor run our networks, and where does the time beyond that go?

    python scripts/roofline.py --variants --json docs/benchmarks/roofline-x86_64.json --chart docs/benchmarks/roofline-x86_64.png --page docs/limits.md

For each layer of the INT8 networks: its multiply-adds and the bytes it must move at least, and from these two lower bounds:

  bound       what no program can beat here: the larger of multiply-adds over the processor's dot products and bytes over
              the bandwidth of the cache that holds them, both measured in C (scripts/bench_peaks.c)
  attainable  what the engine itself reaches in a layer of the same kind at a favourable size, measured as networks of one
              kind of layer alone

beside the measured time: in OpenVINO its own counters (PERF_COUNT), in TFLite each layer as a network of its own, for the
delegate tells nothing of what is inside. One thread everywhere. --variants builds networks that differ from ours in one
thing, with random weights, through our own export, and times each beside the present one in turns (`network_variants.py`).
--page fills the tables of docs/limits.md from the record; with --from RECORD it does that alone.
"""  # noqa: E501

from __future__ import annotations

import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ENGINES, ROOT, commit, cpu_name, inferences, installed, take_turns
from layer_speed import kind_of
from numpy.typing import NDArray

from edge_centernet.converters import qdq, to_tflite, verify
from edge_centernet.errors import EdgeCenterNetError, MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.manifest import Quant
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.progress import Progress, bars
from edge_centernet.runtimes import choose, open_runtime
from edge_centernet.runtimes.tflite import interpreter_class

MODELS = (DEFAULT, "centernet-nano-256")
TURN, UNCOUNTED = 15, 5  # inferences of one network at a stretch; those not counted
CHAIN = 4  # equal layers one behind the other in the networks that show what an engine reaches
# kind of layer -> sizes that suit it: (channels in, channels out, side of the input)
FAVOURABLE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "1x1": ((256, 256, 40), (512, 512, 20), (128, 128, 40)),
    "3x3": ((64, 64, 40), (128, 128, 20)),
    "3x3, stride 2": ((64, 64, 80), (128, 128, 40)),
    "3x3 depthwise": ((384, 384, 20), (192, 192, 40), (96, 96, 80)),
    "3x3 depthwise, stride 2": ((384, 384, 40), (192, 192, 80)),
    "add": ((192, 192, 40), (96, 96, 40)),
    "upsample": ((128, 128, 20), (96, 96, 40)),
}


@dataclass(frozen=True)
class Work:
    """What one layer has to do: multiply-adds, and bytes that it reads and writes at least once."""

    name: str
    kind: str
    macs: int
    read: int
    written: int
    weights: int

    @property
    def bytes(self) -> int:
        """All it moves."""
        return self.read + self.written + self.weights


def work(op: qdq.Op) -> Work:
    """Everything is one byte but biases, which are four. Raises TypeError for operations that our networks have not."""
    match op:
        case qdq.Conv():
            out, per_group, kh, kw = op.weight.shape
            weights = out * per_group * kh * kw
            macs = weights * op.y.shape[1] * op.y.shape[2]
            return Work(op.name, kind_of(op), macs, _size(op.x), _size(op.y), weights + 4 * out)
        case qdq.Add():
            # One operand and the result stay in registers where it is fused into the convolution in front.
            return Work(op.name, "add", 0, _size(op.b), 0, 0)
        case qdq.Upsample():
            return Work(op.name, "upsample", 0, _size(op.x), _size(op.y), 0)
        case _:
            raise TypeError(f"{op.name}: {type(op).__name__} is not counted")


def _size(tensor: qdq.Tensor) -> int:
    return int(np.prod(tensor.shape))


@dataclass(frozen=True)
class Peaks:
    """The processor's limits. gmacs: 1e9 multiply-adds a second. read: working set in bytes -> 1e9 bytes a second."""

    instruction: str
    gmacs: float
    read: dict[int, float]

    def microseconds(self, layer: Work) -> float:
        """The lower bound of a layer."""
        sizes = [size for size in sorted(self.read) if size >= layer.bytes] or [max(self.read)]
        return max(layer.macs / self.gmacs, layer.bytes / self.read[sizes[0]]) / 1e3


def measure_peaks() -> Peaks:
    """Build and run scripts/bench_peaks.c. Raises MissingDependency without a C compiler."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise MissingDependency("measuring the processor's limits needs a C compiler: apt install gcc")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peaks"
        source = ROOT / "scripts/bench_peaks.c"
        subprocess.run([compiler, "-O3", "-march=native", "-o", program, source], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return parse_peaks(lines)


def parse_peaks(lines: Iterable[str]) -> Peaks:
    """What the program prints. AMX counts where the processor has it and the kernel grants it."""
    values = dict(line.split(" ", 1) for line in lines)
    if "gmacs" not in values:
        raise EdgeCenterNetError("bench_peaks.c knows no dot product of this processor: expected AVX2, VNNI or NEON")
    amx = float(values.get("amx_gmacs", 0))
    read = {int(name[5:]): float(value) for name, value in values.items() if name.startswith("read_")}
    name, gmacs = max((values["dot"], float(values["gmacs"])), ("AMX", amx), key=lambda pair: pair[1])
    return Peaks(name, gmacs, read)


# ---- layers alone --------------------------------------------------------------------------------------------------

UNIT = Quant(1 / 32, 0)


def layer(kind: str, c_in: int, c_out: int, side: int, name: str = "layer") -> qdq.Op:
    """One layer of a kind of FAVOURABLE, with random weights."""
    x = qdq.Tensor(f"{name}/x", (c_in, side, side), UNIT)
    if kind == "add":
        other = qdq.Tensor(f"{name}/b", x.shape, UNIT)
        return qdq.Add(name, x, other, qdq.Tensor(f"{name}/y", x.shape, UNIT), "linear")
    if kind == "upsample":
        return qdq.Upsample(name, x, qdq.Tensor(f"{name}/y", (c_in, 2 * side, 2 * side), UNIT), 2)
    size, depthwise, stride = int(kind[0]), "depthwise" in kind, 2 if "stride 2" in kind else 1
    per_group = 1 if depthwise else c_in
    weight = np.random.default_rng(0).integers(-63, 64, (c_out, per_group, size, size)).astype(np.float32) / 64
    y = qdq.Tensor(f"{name}/y", (c_out, side // stride, side // stride), UNIT)
    before = 0 if stride == 2 or size == 1 else 1
    pads = (before, before, size // 2, size // 2)
    scale, bias = np.full(c_out, 1 / 64, np.float32), np.zeros(c_out, np.float32)
    groups = c_in if depthwise else 1
    return qdq.Conv(name, x, y, weight, scale, bias, (stride, stride), pads, groups, "relu")


def tflite_alone(op: qdq.Op, network: qdq.Network) -> bytes:
    """A TFLite network of one operation, from stored input to stored output. network: for its manifest."""
    inputs = [op.a, op.b] if isinstance(op, qdq.Add) else [op.x]  # type: ignore[union-attr]

    class One(to_tflite.Int8Graph):
        def add_input(self) -> None:
            self.inputs = list(dict.fromkeys(self.activation(tensor) for tensor in inputs))

    graph = One(network)
    graph.add_op(op)
    return to_tflite.serialise(graph.rows, graph.steps, graph.inputs, [graph.index[op.y.name]], network.manifest.model)


def tflite_microseconds(model: bytes, runs: int) -> float:
    """Median of `runs` inferences, without the copying of input and output."""
    interpreter = interpreter_class()(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for x in interpreter.get_input_details():
        values = np.random.default_rng(0).integers(-100, 100, x["shape"])
        interpreter.set_tensor(x["index"], values.astype(x["dtype"]))
    times = take_turns({"invoke": interpreter.invoke}, runs, warm_up=max(3, runs // 6))
    return 1e6 * statistics.median(times["invoke"])


def openvino_chain(kind: str, c_in: int, c_out: int, side: int) -> bytes:
    """An ONNX network of CHAIN layers of one kind, QDQ as our export writes it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def const(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def pair(name: str, source: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{name}/q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}/q", "scale", "zero"], [f"{name}/dq"]))
        return f"{name}/dq"

    const("scale", np.asarray(UNIT.scale, np.float32))
    const("zero", np.asarray(0, np.int8))
    nodes.append(helper.make_node("DequantizeLinear", ["image", "scale", "zero"], ["real"]))
    now = "real"
    for i in range(1 if "stride" in kind or kind == "upsample" else CHAIN):
        op = layer(kind, c_in, c_out, side, f"layer{i}")
        if isinstance(op, qdq.Conv):
            values = {"w": op.weight_int8, "s": op.weight_scale, "z": np.zeros(c_out, np.int8)}
            weight = [const(f"{op.name}/{part}", value) for part, value in values.items()]
            const(f"{op.name}/b", op.bias)
            nodes.append(helper.make_node("DequantizeLinear", weight, [f"{op.name}/weight"], axis=0))
            how = {"kernel_shape": op.weight.shape[2:], "strides": op.stride, "pads": op.pads, "group": op.groups}
            parts = [now, f"{op.name}/weight", f"{op.name}/b"]
            nodes.append(helper.make_node("Conv", parts, [f"{op.name}/conv"], name=op.name, **how))
            nodes.append(helper.make_node("Relu", [f"{op.name}/conv"], [f"{op.name}/act"]))
            now = pair(op.name, f"{op.name}/act")
        else:
            sides = const(f"{op.name}/sides", np.array([1, 1, 2, 2], np.float32))
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            nodes.append(helper.make_node("Resize", [now, "", sides], [f"{op.name}/y"], name=op.name, **how))
            now = f"{op.name}/y"
    nodes.append(helper.make_node("QuantizeLinear", [now, "scale", "zero"], ["out"]))
    ends = [
        [helper.make_tensor_value_info("image", TensorProto.INT8, [1, c_in, side, side])],
        [helper.make_tensor_value_info("out", TensorProto.INT8, None)],
    ]
    graph = helper.make_graph(nodes, kind, *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return content


def openvino_profile(source: Path | bytes, runs: int) -> list[tuple[str, str, str, float]]:
    """(names of the layers it holds, kind of node, kernel, median microseconds) of what OpenVINO executes."""
    import openvino as ov

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERF_COUNT": True,
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(source) if isinstance(source, bytes) else str(source), "CPU", options)
    request = compiled.create_infer_request()
    shape = tuple(compiled.inputs[0].get_shape())
    low, high = (-100, 100) if compiled.inputs[0].get_element_type() == ov.Type.i8 else (0, 255)
    x = np.random.default_rng(0).integers(low, high, shape).astype(compiled.inputs[0].get_element_type().to_dtype())
    names = {
        op.get_friendly_name(): str(op.get_rt_info()["originalLayersNames"].astype(str))
        for op in compiled.get_runtime_model().get_ops()
    }
    seen: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for run in range(-3, runs):
        request.infer({0: x}, share_inputs=True)
        if run >= 0:
            for node in request.profiling_info:
                key = node.node_name, node.node_type, node.exec_type
                seen[key].append(1e6 * node.real_time.total_seconds())
    return [(names.get(name, name), kind, kernel, statistics.median(v)) for (name, kind, kernel), v in seen.items()]


def reached(runs: int, network: qdq.Network, progress: Progress) -> dict[str, dict[str, float]]:
    """Engine -> kind of layer -> its best rate: 1e9 multiply-adds a second, of add and upsample 1e9 bytes a second."""
    best: dict[str, dict[str, float]] = {"openvino": {}, "tflite": {}}
    total, done = sum(map(len, FAVOURABLE.values())), 0
    for kind, sizes in FAVOURABLE.items():
        for size in sizes:
            op = layer(kind, *size)
            one = work(op)
            amount = one.macs or _size(op.y) + one.read
            rates = {"tflite": amount / tflite_microseconds(tflite_alone(op, network), runs) / 1e3}
            if kind != "add":  # OpenVINO fuses it into the convolution in front
                wanted = "Interpolate" if kind == "upsample" else "Conv"
                profile = openvino_profile(openvino_chain(kind, *size), runs)
                rates["openvino"] = amount / min(us for _, what, _, us in profile if wanted in what and us) / 1e3
            for engine, rate in rates.items():
                best[engine][kind] = round(max(rate, best[engine].get(kind, 0.0)), 2)
            done += 1
            progress("kinds of layers", done, total)
    return best


# ---- networks ------------------------------------------------------------------------------------------------------


def measure_network(
    name: str, peaks: Peaks, kinds: dict[str, dict[str, float]], runs: int, progress: Progress
) -> dict[str, Any]:
    """Layer by layer and as a whole."""
    network = qdq.load(find_model(name, ".onnx"))
    rows = [
        {"name": w.name, "kind": w.kind, "stride": network.manifest.model.height // op.y.shape[1], "macs": w.macs,
         "bytes": w.bytes, "bound_us": round(peaks.microseconds(w), 2)}
        for op, w in zip(network.ops, map(work, network.ops), strict=True)
    ]  # fmt: skip
    own, other = attribute(openvino_profile(find_model(name, ".xml"), runs), [op.name for op in network.ops])
    for number, (op, row) in enumerate(zip(network.ops, rows, strict=True), 1):
        row["openvino_us"] = round(own.get(op.name, 0.0), 1)
        row["tflite_us"] = round(tflite_microseconds(tflite_alone(op, network), runs), 1)
        progress(name, number, len(rows))
    whole = wholes(name, runs)
    return {
        "macs": sum(row["macs"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "bound_ms": round(sum(row["bound_us"] for row in rows) / 1e3, 3),
        "engines": {
            engine: {"ms": whole[engine], **engine_summary(rows, engine, kinds[engine])} for engine in ENGINES
        },
        "openvino_other_us": {what: round(us, 1) for what, us in sorted(other.items(), key=lambda item: -item[1])},
        "layers": rows,
    }  # fmt: skip


def attribute(
    profile: Sequence[tuple[str, str, str, float]], layers: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """(layer -> microseconds, what belongs to no layer -> microseconds) of what OpenVINO executed.

    A node holds a convolution and what was fused into it, an addition too: the first of its layers gets the time.
    """
    known = set(layers)
    own: dict[str, float] = defaultdict(float)
    other: dict[str, float] = defaultdict(float)
    for names, kind, _, us in profile:
        mine = next((name for name in names.split(",") if name in known), None)
        if kind == "Reorder":  # before and behind a layer, but none's work
            mine = None
        if mine:
            own[mine] += us
        elif us:
            other[kind] += us
    return dict(own), dict(other)


def wholes(name: str, runs: int) -> dict[str, float]:
    """Engine -> median milliseconds of the whole network, in turns."""
    runtimes = {engine: open_runtime(*choose(name, engine), threads=1) for engine in ENGINES}
    times = inferences(runtimes, verify.sample_pictures(), max(1, runs // 10), TURN, UNCOUNTED, warm_up=1)
    return {engine: round(statistics.median(values), 3) for engine, values in times.items()}


def attainable(row: dict[str, Any], rates: dict[str, float]) -> float:
    """Microseconds of a layer at the best rate that the engine showed for its kind, but never below the bound."""
    rate = rates.get(row["kind"])
    if not rate:
        return float(row["bound_us"])
    return max(row["bound_us"], (row["macs"] or row["bytes"]) / rate / 1e3)


def engine_summary(rows: list[dict[str, Any]], engine: str, rates: dict[str, float]) -> dict[str, Any]:
    """By kind of layer, by stride, and altogether: milliseconds measured, attainable and bound."""
    by_kind = _sums(rows, engine, rates, "kind")
    by_kind = dict(sorted(by_kind.items(), key=lambda item: -item[1]["ms"]))
    by_stride = _sums(sorted(rows, key=lambda row: row["stride"]), engine, rates, "stride")
    keys = ("ms", "attainable_ms", "bound_ms")
    totals = {f"layers_{key}": round(sum(sums[key] for sums in by_kind.values()), 3) for key in keys}
    lost = sorted(rows, key=lambda row: row["bound_us"] - row[f"{engine}_us"])[:8]
    most = [{"name": r["name"], "kind": r["kind"], "us": r[f"{engine}_us"], "bound_us": r["bound_us"]} for r in lost]
    return {**totals, "by_kind": by_kind, "by_stride": by_stride, "loses_most": most}


def _sums(rows: list[dict[str, Any]], engine: str, rates: dict[str, float], what: str) -> dict[str, dict[str, Any]]:
    """What the rows that agree in `what` have together: layers, and milliseconds measured, attainable and bound."""
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        sums = groups.setdefault(str(row[what]), {"layers": 0, "ms": 0.0, "attainable_ms": 0.0, "bound_ms": 0.0})
        sums["layers"] += 1
        sums["ms"] += row[f"{engine}_us"] / 1e3
        sums["attainable_ms"] += attainable(row, rates) / 1e3
        sums["bound_ms"] += row["bound_us"] / 1e3
    return {
        group: {key: round(value, 3) if key != "layers" else value for key, value in sums.items()}
        for group, sums in groups.items()
    }


# ---- what is shown -------------------------------------------------------------------------------------------------


def peaks_table(record: dict[str, Any]) -> str:
    """What the processor and the engines reach."""
    peaks, kinds = record["peaks"], record["kinds"]
    lines = [
        f"{record['machine']['cpu']}, one thread: {peaks['gmacs']:.0f} thousand million multiply-adds a second "
        f"({peaks['instruction']}). Reading, in GB/s: "
        + ", ".join(f"{rate:.0f} from {_bytes(int(size))}" for size, rate in peaks["read"].items())
        + ".",
        "",
        "| one kind of layer alone, at its best size | OpenVINO | of the peak | TFLite | of the peak |",
        "|---|---|---|---|---|",
    ]
    for kind in FAVOURABLE:
        cells = []
        for engine in ("openvino", "tflite"):
            rate = kinds[engine].get(kind)
            if rate is None:
                cells += ["fused", ""]
            elif kind in ("add", "upsample"):
                cells += [f"{rate:.1f} GB/s", ""]
            else:
                cells += [f"{rate:.1f} GMAC/s", f"{rate / peaks['gmacs']:.0%}"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def models_table(record: dict[str, Any]) -> str:
    """Each network in each engine: bound, attainable, measured."""
    lines = [
        "| network | multiply-adds | engine | bound | attainable | sum of its layers | whole | whole / bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, model in record["models"].items():
        for engine, row in model["engines"].items():
            lines.append(
                f"| `{name}` | {model['macs'] / 1e6:.0f} M | {engine} | {row['layers_bound_ms']:.2f} ms | "
                f"{row['layers_attainable_ms']:.2f} ms | {row['layers_ms']:.2f} ms | {row['ms']:.2f} ms | "
                f"{row['ms'] / row['layers_bound_ms']:.1f} |"
            )
    return "\n".join(lines)


def kinds_table(record: dict[str, Any]) -> str:
    """Where the time of each network goes, kind by kind."""
    lines = _sums_lines(record, "by_kind", "layers", "bound")
    for name, model in record["models"].items():
        for what, us in model["openvino_other_us"].items():
            lines.append(f"| `{name}` | openvino | ({what}: no layer's work) | | {us / 1e3:.2f} ms | | | |")
    return "\n".join(lines)


def strides_table(record: dict[str, Any]) -> str:
    """Where the time of each network goes, by the stride of what a layer writes."""
    return "\n".join(_sums_lines(record, "by_stride", "stride", "attainable"))


def _sums_lines(record: dict[str, Any], groups: str, title: str, against: str) -> list[str]:
    """The table of one grouping; against: "bound" or "attainable", what its last column compares with."""
    lines = [
        f"| network | engine | {title} | number | measured | attainable | bound | measured / {against} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, model in record["models"].items():
        for engine, row in model["engines"].items():
            for group, sums in row[groups].items():
                limit = sums[f"{against}_ms"]
                ratio = f"{sums['ms'] / limit:.1f}" if sums["ms"] and limit else ""
                lines.append(
                    f"| `{name}` | {engine} | {group} | {sums['layers']} | {sums['ms']:.2f} ms | "
                    f"{sums['attainable_ms']:.2f} ms | {sums['bound_ms']:.2f} ms | {ratio} |"
                )
    return lines


def lost_table(record: dict[str, Any]) -> str:
    """The layers farthest above their bound."""
    lines = ["| network | engine | layer | kind | measured | bound |", "|---|---|---|---|---|---|"]
    for name, model in record["models"].items():
        for engine, row in model["engines"].items():
            for layer_ in row["loses_most"][:5]:
                lines.append(
                    f"| `{name}` | {engine} | `{layer_['name']}` | {layer_['kind']} | {layer_['us']:.0f} us | "
                    f"{layer_['bound_us']:.0f} us |"
                )
    return "\n".join(lines)


def variants_table(record: dict[str, Any]) -> str:
    """What each change of a network saves."""
    lines = [
        "| network | change | needs training | multiply-adds | OpenVINO | TFLite |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in record.get("variants", {}).items():
        for row in rows:
            cells = [_change(row["ratio"].get(engine)) for engine in ("openvino", "tflite")]
            lines.append(
                f"| `{name}` | {row['change']} | {'yes' if row['training'] else 'no'} | {row['macs'] / 1e6:.0f} M | "
                f"{' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _change(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio - 1:+.1%}"


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "peaks": peaks_table, "models": models_table, "kinds": kinds_table, "strides": strides_table,
    "lost": lost_table, "variants": variants_table,
}  # fmt: skip


def page(text: str, record: dict[str, Any]) -> str:
    """`text` with what stands between `<!-- roofline: NAME -->` and `<!-- end -->` made from the record."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- roofline: {match[1]} -->\n\n{TABLES[match[1]](record)}\n\n<!-- end -->"

    return re.sub(rf"<!-- roofline: ({'|'.join(TABLES)}) -->.*?<!-- end -->", fill, text, flags=re.S)


def chart(record: dict[str, Any], path: Path) -> None:
    """Layer by layer: the bound, and the time in either engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(len(record["models"]), 1, figsize=(12, 4 * len(record["models"])),
                                   layout="constrained", squeeze=False)  # fmt: skip
    for axes, (name, model) in zip(rows[:, 0], record["models"].items(), strict=True):
        layers = [row for row in model["layers"] if row["macs"]]
        where = np.arange(len(layers))
        axes.bar(where, [row["bound_us"] for row in layers], 0.9, color="0.75", label="bound")
        for engine, marker in (("openvino", "o"), ("tflite", "x")):
            axes.plot(where, [row[f"{engine}_us"] or np.nan for row in layers], marker, markersize=4, label=engine)
        axes.set_yscale("log")
        axes.set_ylabel("microseconds")
        axes.set_title(f"{name}: {record['machine']['cpu']}, one thread", fontsize=9)
        axes.set_xlim(-1, len(layers))
        axes.set_xlabel("convolution, from the image to the heads; d: depthwise")
        marks = [i for i, row in enumerate(layers) if "depthwise" in row["kind"]]
        axes.set_xticks(marks, ["d"] * len(marks), fontsize=6)
        axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def measure(models: Sequence[str], runs: int, with_variants: bool) -> dict[str, Any]:
    """The whole record."""
    with bars() as progress:
        peaks = measure_peaks()
        kinds = reached(runs, qdq.load(find_model(models[0], ".onnx")), progress)
        measured = {name: measure_network(name, peaks, kinds, runs, progress) for name in models}
        record: dict[str, Any] = {
            "peaks": {"instruction": peaks.instruction, "gmacs": peaks.gmacs, "read": peaks.read},
            "kinds": kinds,
            "models": measured,
        }
        if with_variants:
            from network_variants import measure_variants

            record["variants"] = {name: measure_variants(name, runs, progress) for name in models}
    return {
        **record,
        "runs": runs,
        "versions": {package: installed(package) for package in ENGINES.values()},
        "machine": {"arch": platform.machine(), "cpu": cpu_name(), "python": platform.python_version()},
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True, help="A shipped model.")
@click.option("--runs", default=100, show_default=True, help="Inferences of each layer and network.")
@click.option("--variants", "with_variants", is_flag=True, help="Time changed networks too.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write the record here.")
@click.option("--chart", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Layer by layer, a picture.")
@click.option("--page", "text", type=click.Path(path_type=Path, exists=True), help="Fill this page's tables.")
@click.option("--from", "old", type=click.Path(path_type=Path, exists=True), help="Measure nothing, read this record.")
def main(
    models: tuple[str, ...], runs: int, with_variants: bool, out: Path | None, picture: Path | None, text: Path | None,
    old: Path | None,
) -> None:  # fmt: skip
    """Measure, print, write."""
    try:
        record = json.loads(old.read_text()) if old else json.loads(json.dumps(measure(models, runs, with_variants)))
    except EdgeCenterNetError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo("\n\n".join(make(record) for make in TABLES.values()))
    if out:
        write_atomic(out, json.dumps(record, indent=1) + "\n")
    if picture:
        chart(record, picture)
    if text:
        write_atomic(text, page(text.read_text(), record))


if __name__ == "__main__":
    main()

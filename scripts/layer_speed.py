"""Which convolutions gain from INT8 in TFLite, and which lose? Each is run as a network of its own, one thread.

    python scripts/layer_speed.py centernet-mbv2-320

Median microseconds in int8 and fp32, in turns of one layer after the other, printed by kind of layer and size of its
input. Writes docs/benchmarks/NAME/tflite-layers-MACHINE.json with every layer.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ROOT, commit, cpu_name, installed, take_turns

from edge_centernet.converters import qdq, to_tflite
from edge_centernet.files import write_atomic
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.progress import bars
from edge_centernet.runtimes.tflite import interpreter_class

RUNS, WARM_UP = 60, 10


def alone(kind: type[to_tflite.Graph], network: qdq.Network, conv: qdq.Conv) -> bytes:
    """A TFLite network of one convolution, from its stored input to its stored output."""

    class One(kind):  # type: ignore[misc, valid-type]
        def add_input(self) -> None:
            self.inputs = [self.activation(conv.x)]

    graph = One(network)
    graph.add_op(conv)
    return to_tflite.serialise(
        graph.rows, graph.steps, graph.inputs, [graph.index[conv.y.name]], network.manifest.model
    )


def microseconds(model: bytes) -> float:
    """Median of RUNS inferences."""
    interpreter = interpreter_class()(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    x = interpreter.get_input_details()[0]
    values = np.random.default_rng(0).integers(-100, 100, x["shape"])
    interpreter.set_tensor(x["index"], values.astype(x["dtype"]))
    times = take_turns({"invoke": interpreter.invoke}, RUNS, warm_up=WARM_UP)
    return 1e6 * statistics.median(times["invoke"])


def measure(network: qdq.Network) -> list[dict[str, Any]]:
    """A row for each convolution."""
    convolutions, rows = [op for op in network.ops if isinstance(op, qdq.Conv)], []
    with bars() as progress:
        for number, conv in enumerate(convolutions, 1):
            int8, fp32 = (
                microseconds(alone(kind, network, conv)) for kind in (to_tflite.Int8Graph, to_tflite.FloatGraph)
            )
            rows.append({
                "name": conv.name, "kind": kind_of(conv), "in": list(conv.x.shape), "out": list(conv.y.shape),
                "int8_us": round(int8, 1), "fp32_us": round(fp32, 1),
            })  # fmt: skip
            progress("layers", number, len(convolutions))
    return rows


def kind_of(conv: qdq.Conv) -> str:
    """E.g. "3x3 depthwise, stride 2"."""
    size = "x".join(str(side) for side in conv.weight.shape[2:])
    stride = f", stride {conv.stride[0]}" if conv.stride[0] > 1 else ""
    return f"{size}{' depthwise' if conv.groups > 1 else ''}{stride}"


def table(rows: list[dict[str, Any]]) -> str:
    """Summed by kind and width of the input, the slowest in int8 first; the whole at the end."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[f"{row['kind']} at {row['in'][2]}"].append(row)
    lines = [f"{'layers':32} {'n':>3} {'int8 ms':>8} {'fp32 ms':>8} {'gain':>5}"]
    order = sorted(groups.items(), key=lambda item: -sum(row["int8_us"] for row in item[1]))
    for name, members in [*order, ("all", rows)]:
        int8, fp32 = (sum(row[key] for row in members) / 1e3 for key in ("int8_us", "fp32_us"))
        lines.append(f"{name:32} {len(members):3} {int8:8.2f} {fp32:8.2f} {fp32 / int8:5.2f}")
    return "\n".join(lines)


@click.command()
@click.argument("model", default=DEFAULT)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file instead of the one named above.")
def main(model: str, out: Path | None) -> None:
    """Measure the convolutions of MODEL, a QDQ .onnx or the name of a shipped model."""
    source = find_model(model, ".onnx")
    rows = measure(qdq.load(source))
    versions = {"ai-edge-litert": installed("ai-edge-litert")}
    record = {"cpu": cpu_name(), "commit": commit(), "versions": versions, "layers": rows}
    path = out or ROOT / "docs/benchmarks" / source.stem / f"tflite-layers-{platform.machine()}.json"
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    click.echo(table(rows))


if __name__ == "__main__":
    main()

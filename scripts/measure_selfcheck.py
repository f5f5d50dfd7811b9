#!/usr/bin/env python3
"""How far wrong engines are from the golden answer, and one that only rounds otherwise: what the limits rest on.

    python scripts/measure_selfcheck.py [--json docs/benchmarks/selfcheck.json] [--seen FILE...]
    python scripts/measure_selfcheck.py --engine-here MODEL... >FILE     the engine of this machine, for --seen

Faults are put into the interchange file and run by ONNX Runtime. Into one convolution at a time, one in every tenth of
the network: weights zero, half of the channels zero, weights doubled. Into all at once, as engines have had them: sums
that do not leave 16 bits or wrap around there, results rounded down, zero points of activations forgotten, one scale
for all channels. What only rounds otherwise is TFLite without XNNPACK: ai-edge-litert with its built-in kernels here,
and what was seen of tflite-runtime elsewhere (scripts/devices/chroot_install.sh).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from edge_centernet import golden
from edge_centernet.artifact import read_manifest
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest
from edge_centernet.models import FOLDER, names
from edge_centernet.runtimes import choose, open_runtime, selfcheck

PLACES = 10  # convolutions that are broken, evenly spread


def steps(manifest: Manifest, heads: Heads) -> dict[str, float]:
    """The three heads' mean differences, in output steps."""
    return {role: round(mean, 2) for role, mean in golden.differences(manifest, heads).items()}


def engine_here(path: Path) -> dict[str, Any]:
    """What the engine of this machine answers; OpenVINO with INT8 kernels on ARM too, where we switch them off."""
    engine = choose(path)[1]
    if engine == "openvino":
        from edge_centernet.runtimes import ov

        options = ov._options
        ov._options = lambda threads: {k: v for k, v in options(threads).items() if k != "LP_TRANSFORMS_MODE"}
    with closing(open_runtime(path, engine, threads=1)) as runtime:
        heads = runtime.run(golden.question(runtime.manifest))
        name = selfcheck.version(engine)
        verdict = golden.problem(runtime.manifest, heads, name.split()[0])
        found = steps(runtime.manifest, heads)
    return {
        "model": path.stem,
        "engine": name,
        "machine": platform.machine(),
        "steps": found,
        "verdict": verdict or "right",
    }


def answer(model: Any, manifest: Manifest) -> Heads:
    """The network's heads for its golden question, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(list(golden.ROLES), {session.get_inputs()[0].name: golden.question(manifest)})
    return Heads(*(head[0] for head in found))


class Network:
    """The interchange file, to be broken."""

    def __init__(self, path: Path) -> None:
        """Load it anew: each fault starts from the whole one."""
        import onnx

        self.model = onnx.load(path)
        self.graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.convolutions = [node for node in self.graph.node if node.op_type == "Conv"]

    def value(self, name: str) -> Any:
        """A stored tensor as an array."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.tensors[name])

    def store(self, name: str, array: Any) -> None:
        """Replace a stored tensor, or add one."""
        from onnx import numpy_helper

        if name not in self.tensors:
            self.tensors[name] = self.graph.initializer.add()
        self.tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def weights(self, convolution: Any) -> Any:
        """The DequantizeLinear node of a convolution's weights: [stored int8, step, zero point]."""
        return self.makers[convolution.input[1]]

    def behind(self, node: Any, operations: list[tuple[str, Any]]) -> None:
        """Put binary operations with constants behind a node, before all that read it."""
        from onnx import helper

        result = node.output[0]
        at = list(self.graph.node).index(node) + 1
        node.output[0] = before = f"{result}/whole"
        for number, (operation, constant) in enumerate(operations):
            self.store(f"{result}/constant{number}", constant)
            after = result if number == len(operations) - 1 else f"{result}/{number}"
            extra = {"fmod": 1} if operation == "Mod" else {}
            new = helper.make_node(operation, [before, f"{result}/constant{number}"], [after], **extra)
            self.graph.node.insert(at + number, new)
            before = after


def zero(weights: Any) -> Any:
    """A layer that is not computed."""
    return weights * 0


def half(weights: Any) -> Any:
    """A kernel that leaves half of the channels out."""
    changed = weights.copy()
    changed[: len(changed) // 2] = 0
    return changed


def doubled(weights: Any) -> Any:
    """A shift by one too many."""
    return np.clip(weights.astype(np.int32) * 2, -127, 127).astype(weights.dtype)


def in_16_bits(network: Network, wrap: bool) -> None:
    """Every sum of products ends at the limits of 16 bits, or wraps around there."""
    for node in network.convolutions:
        scale_in = network.value(network.makers[node.input[0]].input[1])
        unit = (scale_in * network.value(network.weights(node).input[1])).astype(np.float32).reshape(1, -1, 1, 1)
        low, size = np.float32(-(2**15)), np.float32(2**16)
        ends = [("Max", low), ("Min", np.float32(2**15 - 1))]
        around = [("Add", np.float32(2**22 - low)), ("Mod", size), ("Add", low)]
        network.behind(node, [("Div", unit), *(around if wrap else ends), ("Mul", unit)])


def round_down(network: Network) -> None:
    """Every result of a convolution is cut off, not rounded."""
    readers = {name: node for node in network.graph.node for name in node.input}
    for node in network.convolutions:
        reader = readers[node.output[0]]
        while reader.op_type != "QuantizeLinear":
            reader = readers[reader.output[0]]
        network.behind(node, [("Sub", (network.value(reader.input[1]) * 0.4999).astype(np.float32))])


def forget_zero_points(network: Network) -> None:
    """Every convolution reads its activations as if their zero point were that of no offset."""
    for node in network.convolutions:
        reader = network.makers[node.input[0]]
        zero_point = network.value(reader.input[2])
        network.store(f"{node.name}/forgotten", np.zeros_like(zero_point))
        reader.input[2] = f"{node.name}/forgotten"


def one_scale(network: Network) -> None:
    """Every convolution takes the mean scale of its weights for all channels."""
    for node in network.convolutions:
        name = network.weights(node).input[1]
        network.store(name, np.full_like(step := network.value(name), step.mean()))


EVERYWHERE: dict[str, Callable[[Network], None]] = {
    "sums end at 16 bits": lambda network: in_16_bits(network, wrap=False),
    "sums wrap around at 16 bits": lambda network: in_16_bits(network, wrap=True),
    "results rounded down": round_down,
    "zero points forgotten": forget_zero_points,
    "one scale for all channels": one_scale,
}
IN_ONE: dict[str, Callable[[Any], Any]] = {"weights zero": zero, "half of the channels zero": half, "doubled": doubled}


def faults(path: Path) -> list[dict[str, Any]]:
    """What each fault does to the answer."""
    manifest = read_manifest(path)
    records = []
    for fault, everywhere in EVERYWHERE.items():
        everywhere(network := Network(path))
        found = steps(manifest, answer(network.model, manifest))
        records.append({"model": path.stem, "fault": fault, "convolution": "all", "steps": found})
    count = len(Network(path).convolutions)
    for fault, change in IN_ONE.items():
        for index in sorted({i * (count - 1) // (PLACES - 1) for i in range(PLACES)}):
            network = Network(path)
            stored = network.weights(network.convolutions[index]).input[0]
            network.store(stored, change(network.value(stored)))
            found = steps(manifest, answer(network.model, manifest))
            records.append({"model": path.stem, "fault": fault, "convolution": index, "steps": found})
    return records


def rounding(path: Path) -> dict[str, Any]:
    """TFLite with its own kernels: right, but not to the bit."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from edge_centernet.runtimes.base import as_chw, head_specs

    manifest = read_manifest(path)
    builtin = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    engine = Interpreter(str(path), experimental_op_resolver_type=builtin, num_threads=1)
    engine.allocate_tensors()
    engine.set_tensor(engine.get_input_details()[0]["index"], golden.question(manifest))
    engine.invoke()
    at = {detail["name"]: detail["index"] for detail in engine.get_output_details()}
    heads = Heads(*(as_chw(engine.get_tensor(at[spec.name]), spec) for spec in head_specs(manifest)))
    name = f"{selfcheck.version('tflite')} without XNNPACK"
    found = steps(manifest, heads)
    return {"model": path.stem, "engine": name, "machine": platform.machine(), "steps": found}


def main() -> None:
    """Print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seen", type=Path, nargs="*", default=[], help="what --engine-here printed on other machines")
    parser.add_argument("--engine-here", type=Path, nargs="+", metavar="MODEL")
    options = parser.parse_args()
    if options.engine_here:
        for path in options.engine_here:
            print(json.dumps(engine_here(path)), flush=True)
        return
    lines = [line for path in options.seen for line in path.read_text().splitlines() if line.startswith('{"model"')]
    engines = [*(rounding(FOLDER / f"{name}.tflite") for name in names()), *map(json.loads, lines)]
    found = [record for name in names() for record in faults(FOLDER / f"{name}.onnx")]
    for record in [*engines, *found]:
        print(*record.values(), sep="  ")
    worst = sorted(max(record["steps"].values()) for record in found)
    print(f"faults: least {worst[0]}, tenth {worst[len(worst) // 10]}, median {statistics.median(worst)} steps")
    if options.json:
        lines = [",\n ".join(json.dumps(record) for record in part) for part in (engines, found)]
        options.json.write_text(f'{{"engines": [\n {lines[0]}\n],\n"faults": [\n {lines[1]}\n]}}\n')


if __name__ == "__main__":
    main()

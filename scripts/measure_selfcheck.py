#!/usr/bin/env python3
"""How far wrong engines are from the golden answer, and one that only rounds otherwise: what the limit rests on.

    python scripts/measure_selfcheck.py [--json docs/benchmarks/selfcheck.json]

Faults are put into the interchange file one at a time and run by ONNX Runtime: a convolution whose weights are zero, or
half of whose channels are, or whose steps are doubled, one in every tenth of the network. What only rounds otherwise is
TFLite without XNNPACK: tflite-runtime, or ai-edge-litert with its built-in kernels.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from edge_centernet import golden
from edge_centernet.artifact import read_manifest
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest
from edge_centernet.models import FOLDER, names

PLACES = 10  # convolutions that are broken, evenly spread


def worst(manifest: Manifest, heads: Heads) -> float:
    """The largest of the three heads' mean differences, in output steps."""
    return max(golden.differences(manifest, heads).values())


def answer(model: onnx.ModelProto, manifest: Manifest) -> Heads:
    """The network's heads for its golden question, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(golden.ROLES), {session.get_inputs()[0].name: golden.question(manifest)})
    return Heads(*(head[0] for head in found))


def break_weights(path: Path, index: int, fault: str) -> onnx.ModelProto:
    """The network with one convolution's stored weights changed."""
    model = onnx.load(path)
    weights = [t for t in model.graph.initializer if len(t.dims) == 4]
    tensor = weights[index]
    array = numpy_helper.to_array(tensor).copy()
    if fault == "zero":
        array[:] = 0
    elif fault == "half of the channels zero":
        array[: len(array) // 2] = 0
    else:
        array = (array * (2 if array.dtype.kind == "f" else 1)).astype(array.dtype)
        array = np.clip(array.astype(np.int32) * 2, -127, 127).astype(array.dtype) if array.dtype.kind == "i" else array
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def faults(path: Path) -> list[dict[str, Any]]:
    """What each fault does to the answer."""
    manifest = read_manifest(path)
    count = len([t for t in onnx.load(path).graph.initializer if len(t.dims) == 4])
    records = []
    for fault in ("zero", "half of the channels zero", "doubled"):
        for index in sorted({i * (count - 1) // (PLACES - 1) for i in range(PLACES)}):
            steps = worst(manifest, answer(break_weights(path, index, fault), manifest))
            records.append({"model": path.stem, "fault": fault, "convolution": index, "steps": round(steps, 2)})
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
    return {"model": path.stem, "steps": {k: round(v, 2) for k, v in golden.differences(manifest, heads).items()}}


def main() -> None:
    """Print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [record for name in names() for record in faults(FOLDER / f"{name}.onnx")]
    rounded = [rounding(FOLDER / f"{name}.tflite") for name in names()]
    for record in [*rounded, *found]:
        print(*record.values(), sep="  ")
    steps = sorted(record["steps"] for record in found)
    print(f"faults: least {steps[0]}, tenth {steps[len(steps) // 10]}, median {statistics.median(steps)} steps")
    if options.json:
        options.json.write_text(json.dumps({"rounding": rounded, "faults": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""TFLite: ai_edge_litert, or tflite_runtime where that is the only one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.artifact import damaged, read_manifest, stopped
from edge_centernet.errors import MissingDependency
from edge_centernet.extras import pip_command
from edge_centernet.heads import Heads
from edge_centernet.manifest import Quant
from edge_centernet.runtimes.base import as_chw, check_input, check_names, check_tensor, head_specs

MAX_THREADS = 4  # XNNPACK gains nothing from more on networks of this size


class TFLiteRuntime:
    """A .tflite file with XNNPACK on the CPU."""

    name = "tflite"
    device = ""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the model. threads: None takes the usable cores, four at most."""
        self.manifest, self._path = read_manifest(path), path
        interpreter = interpreter_class()
        if not threads:
            # Not the number of cores: a container or taskset may leave this process fewer of them.
            affinity = hasattr(os, "sched_getaffinity")
            threads = min(len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1, MAX_THREADS)
        try:
            # From memory: a file that is replaced on disk while it is mapped would change under the engine.
            self._interpreter = interpreter(model_content=path.read_bytes(), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise damaged(path, (str(error).strip().splitlines() or ["TFLite"])[0]) from None
        # Compare every tensor with the manifest, and remember the numbers by which TFLite knows them.
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        check_names(path, self.manifest, [t["name"] for t in inputs], [t["name"] for t in outputs])
        found = {tensor["name"]: tensor for tensor in (*inputs, *outputs)}
        for spec in (self.manifest.input, *head_specs(self.manifest)):
            tensor = found[spec.name]
            shape, dtype = tuple(int(d) for d in tensor["shape"]), np.dtype(tensor["dtype"]).name
            scale, zero_point = tensor["quantization"]  # (0.0, 0) when there is none
            quant = Quant(float(scale), int(zero_point)) if scale else None
            check_tensor(path, spec, shape, dtype, quant, quant_known=True)
        self._index = {name: int(tensor["index"]) for name, tensor in found.items()}

    def run(self, x: NDArray[Any]) -> Heads:
        """See Runtime.run."""
        if self._interpreter is None:
            raise RuntimeError("the runtime is closed")
        check_input(self.manifest.input, x)
        self._interpreter.set_tensor(self._index[self.manifest.input.name], x)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise stopped(self._path, self.name, error) from None
        # Copies (some 150 kB): the interpreter refuses to run while a view of its memory is alive.
        return Heads(
            *(as_chw(self._interpreter.get_tensor(self._index[s.name]), s) for s in head_specs(self.manifest))
        )

    def close(self) -> None:
        """See Runtime.close."""
        self._interpreter = None


def interpreter_class() -> Any:
    """The Interpreter of the package that is installed; raises MissingDependency."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingDependency.for_extra("TFLite", "tflite") from None
        if int(np.__version__.split(".")[0]) >= 2:
            # It was built for NumPy 1 and would end the process at Interpreter(), without a message.
            raise MissingDependency(
                f"tflite-runtime works with NumPy 1 only: {pip_command('numpy<2')}, or: "
                f"{pip_command('ai-edge-litert')}"
            ) from None
    return Interpreter

"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from edge_centernet.artifact import damaged, read_manifest, stopped
from edge_centernet.heads import Heads
from edge_centernet.runtimes.base import as_chw, check_input, check_names, check_tensor, head_specs

_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}


class ONNXRuntime:
    """An .onnx file."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the model. threads: None lets ONNX Runtime take every physical core."""
        self.manifest, self._path = read_manifest(path), path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only: what goes wrong comes back as an exception
        options.intra_op_num_threads = threads or 0
        # No "session.x64quantprecision" (exact uint8 x int8 products without VNNI): in 1.32 it fails on networks whose
        # convolutions share a zero point. Weights of 7 bits, as training leaves them, do not need it.
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base class of their own
            raise damaged(path, str(error).strip().splitlines()[0]) from None
        self._check(path)

    def run(self, x: NDArray[Any]) -> Heads:
        """See Runtime.run."""
        if self._session is None:
            raise RuntimeError("the runtime is closed")
        check_input(self.manifest.input, x)
        specs = head_specs(self.manifest)
        try:
            outputs = self._session.run([s.name for s in specs], {self.manifest.input.name: x})
        except Exception as error:  # its exceptions have no base class of their own
            raise stopped(self._path, self.name, error) from None
        return Heads(*(as_chw(output, spec) for output, spec in zip(outputs, specs, strict=True)))

    def close(self) -> None:
        """See Runtime.close."""
        self._session = None

    def _check(self, path: Path) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_names(path, self.manifest, [t.name for t in inputs], [t.name for t in outputs])
        found = {tensor.name: tensor for tensor in (*inputs, *outputs)}
        for spec in (self.manifest.input, *head_specs(self.manifest)):
            tensor = found[spec.name]
            # A symbolic dimension is a string; 0 is in no manifest.
            shape = tuple(d if isinstance(d, int) else 0 for d in tensor.shape)
            check_tensor(path, spec, shape, _DTYPES.get(tensor.type, tensor.type))

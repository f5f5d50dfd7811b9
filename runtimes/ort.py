"""ONNX Runtime on TensorRT, CUDA or the CPU: the first of them that works.

ONNX Runtime has a fall-back of its own, which is off: it prints to standard output, where records go, and
does not say which library is missing (docs/decisions/0021-onnxruntime-on-jetson.md).
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge_centernet.artifact import damaged, read_manifest, stopped
from edge_centernet.heads import Heads
from edge_centernet.runtimes import providers
from edge_centernet.runtimes.base import as_chw, check_input, check_names, check_tensor, head_specs
from edge_centernet.runtimes.providers import CPU, TENSORRT, TITLES, Facts, Provider

_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}
_FATAL = 4  # log level of ONNX Runtime: what goes wrong comes back as an exception

_log = logging.getLogger(__name__)


class ONNXRuntime:
    """An .onnx file on the first of TensorRT, CUDA and the CPU that can compute it here."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the model; for TensorRT, build its engine where there is none yet (`runtimes.providers`).

        threads: of the CPU; None lets ONNX Runtime take every physical core.
        """
        self.manifest, self._path, self._threads = read_manifest(path), path, threads
        self.device = ""
        if line := providers.first_start(path):
            _log.warning(line)
        onnxruntime.set_default_logger_severity(_FATAL)
        self._session: Any = self._open(providers.facts(path))
        # Compare every tensor of the network with the manifest.
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_names(path, self.manifest, [t.name for t in inputs], [t.name for t in outputs])
        found = {tensor.name: tensor for tensor in (*inputs, *outputs)}
        for spec in (self.manifest.input, *head_specs(self.manifest)):
            tensor = found[spec.name]
            # A symbolic dimension is a string; 0 is in no manifest.
            shape = tuple(d if isinstance(d, int) else 0 for d in tensor.shape)
            check_tensor(path, spec, shape, _DTYPES.get(tensor.type, tensor.type))

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

    def _open(self, file: Facts) -> Any:
        """A session with the first provider that starts, and those behind it for what it cannot compute."""
        available, permitted = onnxruntime.get_available_providers(), providers.allowed()
        left = providers.plan(available, file, providers.engine_folder(self._path), permitted)
        if TENSORRT in available and TENSORRT in permitted and not file.symmetric:
            self._warn(
                TENSORRT,
                "it knows zero point 0 only; 'edge-centernet convert --target tensorrt' makes a file for it",
            )
        # One provider after the other. A provider that fails raises, or is silently absent from the session;
        # both mean that the next one is tried. The loop ends at the CPU, which every build has.
        while True:
            first = left[0].name
            try:
                session = self._with_tensorrt(file, left) if first == TENSORRT else self._session_of(left)
                reason = f"{self.name} could not start it"
            except Exception as error:  # its exceptions have no base class of their own
                if first == CPU:
                    raise damaged(self._path, _first_line(error)) from None
                reason = _first_line(error)
            else:
                if first in session.get_providers():
                    self.device = left[0].title
                    return session
            self._warn(first, providers.why_not(first) or reason)
            left = left[1:]

    def _with_tensorrt(self, file: Facts, chosen: list[Provider]) -> Any:
        """A session with the engine in the cache, or with a new one, which is in the cache from then on."""
        folder = providers.engine_folder(self._path)
        if folder.is_dir():
            try:
                return self._warm(self._session_of(chosen))
            except Exception:  # an engine that cannot be loaded any more
                shutil.rmtree(folder, ignore_errors=True)
        names = [provider.name for provider in chosen]
        with providers.building(folder) as scratch:
            session = self._warm(self._session_of(providers.plan(names, file, scratch, names)))
            if TENSORRT in session.get_providers() and not providers.holds_engine(scratch):
                raise RuntimeError("it took no part of the network")
        return session

    def _warm(self, session: Any) -> Any:
        """The session after one image of zeros."""
        # TensorRT builds or loads its engine when the first image comes: better now than during detection.
        spec = self.manifest.input
        session.run(None, {spec.name: np.zeros(spec.shape, spec.dtype)})
        return session

    def _session_of(self, chosen: list[Provider]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = self._threads or 0
        if chosen[0].name == TENSORRT:
            # TensorRT fuses by itself, and rejects weights whose quantizers were folded away
            # (onnxruntime #17312).
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # No "session.x64quantprecision" (exact uint8 x int8 products without VNNI): in 1.32 it fails on
        # networks whose convolutions share a zero point. Weights of 7 bits, as ours are, do not need it.
        return onnxruntime.InferenceSession(
            str(self._path),
            options,
            providers=[provider.name for provider in chosen],
            provider_options=[provider.options for provider in chosen],
            enable_fallback=0,
        )

    def _warn(self, name: str, reason: str) -> None:
        _log.warning("%s does not run %s: %s", TITLES[name], self._path.name, reason)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

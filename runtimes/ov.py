"""OpenVINO on the CPU.

Compiled networks are cached in $XDG_CACHE_HOME/edge-centernet/openvino, which saves most of the time of the
next start. OpenVINO's own cache (CACHE_DIR) identifies a model by its path and time: a new model of the same
name, size and time would be answered by the old one. Ours identifies it by its bytes.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_centernet.artifact import damaged, read_manifest, stopped
from edge_centernet.heads import Heads
from edge_centernet.runtimes import compile_cache
from edge_centernet.runtimes.base import (
    BOX_OUTPUTS,
    as_chw,
    check_input,
    check_names,
    check_tensor,
    head_specs,
)
from edge_centernet.runtimes.engines import OPENVINO
from edge_centernet.system.machine import is_arm

ov = OPENVINO.load()

_log = logging.getLogger(__name__)


class OpenVINORuntime:
    """An OpenVINO IR (.xml with its .bin beside it)."""

    name = "openvino"
    device = ""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Compile the model. threads: None lets OpenVINO take every physical core."""
        self.manifest, self._path = read_manifest(path), path
        # 1. Options. Without the f32 hint some CPUs compute the float parts in bfloat16, and results differ
        #    from machine to machine.
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        if is_arm(platform.machine()):
            # OpenVINO's int8 on ARM crashed or gave wrong results (openvino #34673): compute in float.
            options["LP_TRANSFORMS_MODE"] = False
        # 2. Compile, or load what was compiled before.
        self._compiled = _compile(path, options)
        # 3. Compare every tensor with the manifest. A port may carry further names (those of the tensors it
        #    was fused with); a port with none of ours belongs to another network.
        inputs = {port.get_any_name(): port for port in self._compiled.inputs}
        outputs = {name: port for port in self._compiled.outputs for name in port.get_names()}
        expected = {spec.name for spec in head_specs(self.manifest)}
        known = expected.union(BOX_OUTPUTS)
        foreign = [port.get_any_name() for port in self._compiled.outputs if not port.get_names() & known]
        check_names(path, self.manifest, list(inputs), [n for n in outputs if n in expected] + foreign)
        for spec, port in [
            (self.manifest.input, inputs[self.manifest.input.name]),
            *((s, outputs[s.name]) for s in head_specs(self.manifest)),
        ]:
            # A dynamic dimension becomes 0, which no manifest contains.
            shape = tuple(0 if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
            check_tensor(path, spec, shape, str(port.get_element_type().to_dtype()))
        self._request: Any = self._compiled.create_infer_request()

    def run(self, x: NDArray[Any]) -> Heads:
        """See Runtime.run."""
        if self._request is None:
            raise RuntimeError("the runtime is closed")
        check_input(self.manifest.input, x)
        # Shared: neither the input nor the outputs are copied, which `Runtime.run` allows for.
        try:
            self._request.infer({self.manifest.input.name: x}, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise stopped(self._path, self.name, error) from None
        return Heads(*(as_chw(self._request.get_tensor(s.name).data, s) for s in head_specs(self.manifest)))

    def close(self) -> None:
        """See Runtime.close."""
        self._request = self._compiled = None

    def executed_precisions(self) -> dict[str, str]:
        """Convolution -> kernel and precision that the CPU plugin chose for it, e.g. "brgconv_avx512_I8"."""
        info = {
            op.get_friendly_name(): op.get_rt_info() for op in self._compiled.get_runtime_model().get_ops()
        }
        kinds = {name: str(rt["layerType"].astype(str)) for name, rt in info.items()}
        return {
            name: str(rt["primitiveType"].astype(str)) for name, rt in info.items() if "Conv" in kinds[name]
        }


def _compile(path: Path, options: dict[str, Any]) -> Any:
    """The compiled network, from the cache for this file, release, processor and options, or a new one."""
    core = ov.Core()
    about = (
        compile_cache.content_of(path),
        ov.get_version(),
        compile_cache.processor(),
        repr(sorted(options.items())),
    )
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:32]
    file = compile_cache.folder() / "openvino" / f"{key}.blob"
    # The cache only saves time: whatever goes wrong with it is a line in the debug log, and the network is
    # compiled as if there were none.
    if (content := compile_cache.load(file)) is not None:
        try:
            return core.import_model(content, "CPU", options)
        except RuntimeError as error:
            _log.debug("%s: compiled again: %s", file, _last_line(error))
    try:
        compiled = core.compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        raise damaged(path, _last_line(error)) from None
    try:
        compile_cache.store(file, compiled.export_model().getvalue())
    except RuntimeError as error:  # a plugin that cannot export
        _log.debug("%s: not cached: %s", file, _last_line(error))
    return compiled


def _last_line(error: Exception) -> str:
    """The last line of OpenVINO's nested message, the one that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "unknown error"

"""OpenVINO on the CPU, or on another device that it has here.

Compiled networks are cached in $XDG_CACHE_HOME/edge-centernet/openvino, which saves most of the time of the
next start. OpenVINO's own cache (CACHE_DIR) identifies a model by its path and time: a new model of the same
name, size and time would be answered by the old one. Ours identifies it by its bytes, and a device by its
name and its driver.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_centernet.artifact import damaged, read_manifest, stopped
from edge_centernet.errors import ArtifactError, ConfigError
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
from edge_centernet.runtimes.engines import CPU, OPENVINO, openvino_core
from edge_centernet.system.machine import is_arm

ov = OPENVINO.load()

# OpenVINO chooses one device; or it splits the network, with the names of devices after the colon. (MULTI
# lets devices take turns: an answer would not be that of the device that was checked.)
_AUTO, _HETERO = "AUTO", "HETERO:"
# What a kind of device needs, for who asks for one that is not here.
_NEEDS = {
    "GPU": "a GPU must be Intel's, with its driver for OpenCL (intel-opencl-icd) and a user in group render",
    "NPU": "an NPU needs Intel's linux-npu-driver and a user in group render",
}
# What a runtime graph tells of an operation. A GPU's plugin may call the kernel "undef".
_TOLD = ("layerType", "primitiveType", "runtimePrecision")
# What identifies a device and its driver; each kind of device has some of these properties.
_IDENTITY = (
    "FULL_DEVICE_NAME",
    "DEVICE_ARCHITECTURE",
    "GPU_UARCH_VERSION",
    "GPU_DRIVER_VERSION",
    "NPU_DRIVER_VERSION",
    "NPU_COMPILER_VERSION",
)

_log = logging.getLogger(__name__)


class OpenVINORuntime:
    """An OpenVINO IR (.xml with its .bin beside it)."""

    name = "openvino"

    def __init__(self, path: Path, threads: int | None = None, device: str = CPU) -> None:
        """Compile the model.

        threads: of the CPU; None lets OpenVINO take every physical core. device: one of `devices`, AUTO, or
        HETERO: with several of them, in any case. Raises ConfigError for a device that is not here.
        """
        self.manifest, self._path = read_manifest(path), path
        # 1. Compile, or load what was compiled before.
        core = openvino_core()
        name = _find_device(core, device)
        self._compiled = _compile(core, path, name, _options(core, name, threads))
        # 2. What computes. The CPU goes without saying.
        self.device = "" if name == CPU else name
        if name == _AUTO:
            self.device = f"{', '.join(self._compiled.get_property('EXECUTION_DEVICES'))} ({_AUTO})"
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
        """Convolution -> kernel and precision that the plugin chose for it, e.g. "brgconv_avx512_I8".

        Empty for a device that does not show what it executes.
        """
        info = {
            op.get_friendly_name(): op.get_rt_info() for op in self._compiled.get_runtime_model().get_ops()
        }
        told = {op: {key: str(rt[key].astype(str)) for key in _TOLD if key in rt} for op, rt in info.items()}
        return {
            op: f"undef_{rt['runtimePrecision']}" if rt["primitiveType"] == "undef" else rt["primitiveType"]
            for op, rt in told.items()
            if "Conv" in rt.get("layerType", "")
        }


def devices() -> list[str]:
    """OpenVINO's names of the devices here: "CPU", "GPU" or "GPU.0" and "GPU.1", "NPU"."""
    return list(openvino_core().available_devices)


def _find_device(core: Any, asked: str) -> str:
    """OpenVINO's name of the device that a user asks for. Raises ConfigError where it is not here."""
    name = asked.strip().upper()
    if name in (CPU, _AUTO):  # always here; looking for others loads their drivers
        return name
    here = list(core.available_devices)
    # Where there is one GPU it is called GPU, and where there are several the first is GPU.0: both mean it.
    known = {*here, *(one.partition(".")[0] for one in here), *(f"{one}.0" for one in here if one != CPU)}
    parts = name.removeprefix(_HETERO).split(",") if name.startswith(_HETERO) else [name]
    if known.issuperset(parts):
        return name
    needs = "".join(f"; {text}" for kind, text in _NEEDS.items() if kind in name)
    raise ConfigError(
        f"device: expected {', '.join(here)} or {_AUTO}, which OpenVINO has here, got {asked!r}{needs} "
        "(docs/devices.md)"
    )


def _options(core: Any, device: str, threads: int | None) -> dict[str, Any]:
    """OpenVINO's options for a device. threads: of the CPU."""
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == _AUTO or device.startswith(_HETERO):
        options["DEVICE_PROPERTIES"] = {one: _options(core, one, threads) for one in core.available_devices}
        if device == _AUTO:
            # Else the CPU answers until the other device is ready: neither checked nor measured would be
            # what runs.
            options["ENABLE_STARTUP_FALLBACK"] = False
        return options
    # Without the f32 hint some CPUs compute the float parts in bfloat16, and results differ from machine to
    # machine. An NPU knows f16 only, and refuses the hint.
    if not device.startswith("NPU"):
        options["INFERENCE_PRECISION_HINT"] = "f32"
    if device == CPU and threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    if device == CPU and is_arm(platform.machine()):
        # OpenVINO's int8 on ARM crashed or gave wrong results (openvino #34673): compute in float.
        options["LP_TRANSFORMS_MODE"] = False
    return options


def _identity(core: Any, device: str) -> list[str]:
    """What a compiled network depends on beside the processor: the other devices here and their drivers."""
    found = []
    for one in [] if device == CPU else core.available_devices:
        known = core.get_property(one, "SUPPORTED_PROPERTIES")
        for name in (name for name in _IDENTITY if name in known):
            with suppress(RuntimeError):  # one that a driver does not answer
                found.append(f"{one} {name} {core.get_property(one, name)}")
    return found


def _compile(core: Any, path: Path, device: str, options: dict[str, Any]) -> Any:
    """The compiled network, from the cache for this file, release, device and options, or a new one."""
    about = (
        compile_cache.content_of(path),
        ov.get_version(),
        compile_cache.processor(),
        device,
        _identity(core, device),
        repr(sorted(options.items())),
    )
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:32]
    file = compile_cache.folder() / "openvino" / f"{key}.blob"
    # The cache only saves time: whatever goes wrong with it is a line in the debug log, and the network is
    # compiled as if there were none.
    if (content := compile_cache.load(file)) is not None:
        try:
            return core.import_model(content, device, options)
        except RuntimeError as error:
            _log.debug("%s: compiled again: %s", file, _last_line(error))
    try:
        compiled = core.compile_model(str(path), device, options)
    except RuntimeError as error:
        if device != CPU:  # which says nothing about the file
            raise ArtifactError(
                f"{path}: OpenVINO cannot compile it for {device}: {_last_line(error)}; use --device CPU"
            ) from None
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

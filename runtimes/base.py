"""What every inference engine must offer, and the checks they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ArtifactError
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest, Quant, TensorSpec

ROLES = Heads._fields


class Runtime(Protocol):
    """One opened model. A runtime only runs: letterbox, decoding and timing live above it."""

    name: str
    manifest: Manifest
    device: str  # what computes it, where the engine has a choice, such as "TensorRT" or "CPU"; else empty

    def run(self, x: NDArray[Any]) -> Heads:
        """Infer. x: exactly manifest.input's shape and dtype; the views returned are valid until the next call.

        Raises ArtifactError where the engine stops: a damaged file can open and still not run.
        """

    def close(self) -> None:
        """Release the engine; may be called twice. `run` raises RuntimeError afterwards."""


def head_specs(manifest: Manifest) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """The specs of heat, size, offset, in that order."""
    return manifest.heat, manifest.size, manifest.offset


def check_names(path: Path, manifest: Manifest, inputs: list[str], outputs: list[str]) -> None:
    """ArtifactError unless the engine has exactly the manifest's one input and three outputs, each in its own role.

    size and offset share a shape: nothing but their names tells them apart.
    """
    for role, spec in zip(ROLES, head_specs(manifest), strict=True):
        if spec.name in ROLES and spec.name != role:
            raise ArtifactError(
                f"{path}: the manifest swaps heads: {role} is bound to the tensor {spec.name!r}"
            )
    expected = {spec.name for spec in head_specs(manifest)}
    if inputs != [manifest.input.name] or set(outputs) != expected or len(outputs) != len(expected):
        raise ArtifactError(
            f"{path}: the manifest belongs to another network: expected input {manifest.input.name} and outputs "
            f"{', '.join(sorted(expected))}, got {', '.join(inputs)} and {', '.join(sorted(outputs))}"
        )


def check_tensor(
    path: Path,
    spec: TensorSpec,
    shape: tuple[int, ...],
    dtype: str,
    quant: Quant | None = None,
    quant_known: bool = False,
) -> None:
    """ArtifactError unless an engine's tensor is what the manifest says. quant_known: the engine tells scales too."""
    if shape != spec.shape or dtype != spec.dtype:
        raise ArtifactError(
            f"{path}: tensor {spec.name!r}: the manifest says {spec.dtype} {spec.shape}, "
            f"the network has {dtype} {shape}"
        )
    if quant_known and not _same(spec.quant, quant):
        raise ArtifactError(
            f"{path}: tensor {spec.name!r}: the manifest says {_words(spec.quant)}, the network has {_words(quant)}"
        )


def check_input(spec: TensorSpec, x: NDArray[Any]) -> None:
    """ValueError unless x is what `prepare` makes: engines would convert or reinterpret anything else silently."""
    if x.shape != spec.shape or x.dtype != np.dtype(spec.dtype):
        raise ValueError(f"input {spec.name!r}: expected {spec.dtype} {spec.shape}, got {x.dtype} {x.shape}")


def as_chw(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """A (C, H, W) view of one output with batch size 1, whatever its layout."""
    one: NDArray[Any] = array[0]
    return one if spec.layout == "NCHW" else one.transpose(2, 0, 1)


def _same(a: Quant | None, b: Quant | None) -> bool:
    if a is None or b is None:
        return a is b
    # A flatbuffer holds float32 scales, a manifest the decimal digits of either width.
    return a.zero_point == b.zero_point and bool(np.isclose(a.scale, b.scale, rtol=1e-6, atol=0.0))


def _words(quant: Quant | None) -> str:
    return "no quantization" if quant is None else f"scale {quant.scale:g}, zero point {quant.zero_point}"

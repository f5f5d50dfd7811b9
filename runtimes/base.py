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
        """Compute the heads of one input.

        x: exactly of manifest.input's shape and dtype. The views that are returned are valid until the next
        call. Raises ArtifactError where the engine stops: a damaged file can open and still not run.
        """

    def close(self) -> None:
        """Release the engine; may be called twice. `run` raises RuntimeError afterwards."""


def head_specs(manifest: Manifest) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """The specs of heat, size, offset, in that order."""
    return manifest.heat, manifest.size, manifest.offset


# Outputs beside the heads in a file with the decoder in its graph, for programs that read boxes: a runtime
# here leaves them alone.
BOX_OUTPUTS = ("bboxes", "scores", "labels")


def check_names(path: Path, manifest: Manifest, inputs: list[str], outputs: list[str]) -> None:
    """ArtifactError unless the engine has exactly the manifest's input and three outputs, in their roles."""
    # size and offset share a shape: nothing but their names tells them apart, so a manifest that swapped them
    # would pass every later check and give boxes of nonsense sizes.
    for role, spec in zip(ROLES, head_specs(manifest), strict=True):
        if spec.name in ROLES and spec.name != role:
            raise ArtifactError(
                f"{path}: the manifest swaps heads: {role} is bound to the tensor {spec.name!r}"
            )
    expected = {spec.name for spec in head_specs(manifest)}
    if inputs != [manifest.input.name] or set(outputs) != expected or len(outputs) != len(expected):
        raise ArtifactError(
            f"{path}: the manifest belongs to another network: expected input {manifest.input.name} and "
            f"outputs {', '.join(sorted(expected))}, "
            f"got {', '.join(inputs)} and {', '.join(sorted(outputs))}"
        )


def check_tensor(
    path: Path,
    spec: TensorSpec,
    shape: tuple[int, ...],
    dtype: str,
    quant: Quant | None = None,
    quant_known: bool = False,
) -> None:
    """Compare one tensor of an engine with what the manifest says of it.

    Args:
        path: the model file, which the message names.
        spec: the manifest's word.
        shape: the engine's shape; a dimension that the engine does not fix is 0, which no manifest contains.
        dtype: the engine's type by NumPy's name.
        quant: the engine's scale and zero point; None where the tensor has none.
        quant_known: whether the engine reports scales at all. Otherwise `quant` is not compared.

    Raises:
        ArtifactError: they differ.
    """
    if shape != spec.shape or dtype != spec.dtype:
        raise ArtifactError(
            f"{path}: tensor {spec.name!r}: the manifest says {spec.dtype} {spec.shape}, "
            f"the network has {dtype} {shape}"
        )
    same = spec.quant is quant  # where one of them is None
    if spec.quant is not None and quant is not None:
        # A flatbuffer holds float32 scales, a manifest the decimal digits of either width.
        close = np.isclose(spec.quant.scale, quant.scale, rtol=1e-6, atol=0.0)
        same = spec.quant.zero_point == quant.zero_point and bool(close)
    if quant_known and not same:
        raise ArtifactError(
            f"{path}: tensor {spec.name!r}: the manifest says {_words(spec.quant)}, "
            f"the network has {_words(quant)}"
        )


def check_input(spec: TensorSpec, x: NDArray[Any]) -> None:
    """ValueError unless x has the shape and dtype of the input."""
    # Checked for every image, because engines convert or reinterpret anything else without a word.
    if x.shape != spec.shape or x.dtype != np.dtype(spec.dtype):
        raise ValueError(f"input {spec.name!r}: expected {spec.dtype} {spec.shape}, got {x.dtype} {x.shape}")


def as_chw(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """A (C, H, W) view of one output with batch size 1, whatever its layout."""
    one: NDArray[Any] = array[0]
    return one if spec.layout == "NCHW" else one.transpose(2, 0, 1)


def _words(quant: Quant | None) -> str:
    return "no quantization" if quant is None else f"scale {quant.scale:g}, zero point {quant.zero_point}"

"""What both decoders take and give: one head with its quantization, and the box record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ArtifactError
from edge_centernet.manifest import DIM_MAX, Quant

# ecn_box of edgecn_decode.h: network-input pixels, not clipped; score in the heatmap's own unit.
BOX = np.dtype(
    [
        ("x1", np.float32),
        ("y1", np.float32),
        ("x2", np.float32),
        ("y2", np.float32),
        ("score", np.float32),
        ("class_id", np.int32),
        ("cell", np.int32),  # y * width + x
    ]
)


@dataclass(frozen=True, eq=False)
class Head:
    """One output map (channels, height, width), any strides, as stored.

    data: int8, uint8 or int16 with `quant`, or float32 without. Each side 1..1024.
    Raises ArtifactError for anything else, naming `role`.
    """

    role: str
    data: NDArray[Any]
    quant: Quant | None = None

    def __post_init__(self) -> None:
        """Reject what the C decoder would reject."""
        shape, dtype = self.data.shape, self.data.dtype
        if len(shape) != 3 or not all(1 <= side <= DIM_MAX for side in shape):
            raise ArtifactError(f"{self.role} head: expected 3 dimensions of 1 to {DIM_MAX}, got {shape}")
        if dtype not in (np.int8, np.uint8, np.int16, np.float32):
            raise ArtifactError(f"{self.role} head: expected int8, uint8, int16 or float32, got {dtype}")
        if (dtype == np.float32) != (self.quant is None):
            raise ArtifactError(
                f"{self.role} head: expected a scale for integers only, got {self.quant} and {dtype}"
            )
        if self.quant is not None:
            self._check(self.quant)

    def _check(self, quant: Quant) -> None:
        limits = np.iinfo(self.data.dtype)
        if not 2.0**-149 <= quant.scale <= float(np.finfo(np.float32).max):
            raise ArtifactError(
                f"{self.role} head: expected a scale that float32 can hold, got {quant.scale}"
            )
        if not limits.min <= quant.zero_point <= limits.max:
            raise ArtifactError(
                f"{self.role} head: zero point {quant.zero_point} does not fit {self.data.dtype}"
            )

    def real(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored values to real ones, float32, rounded once: scale * (stored - zero_point)."""
        if self.quant is None:
            return stored
        return (stored.astype(np.int32) - self.quant.zero_point).astype(np.float32) * np.float32(
            self.quant.scale
        )


def as_pair(quant: Quant | None) -> tuple[float, int]:
    """(scale, zero point), as the extension takes it; floats have none."""
    return (1.0, 0) if quant is None else (quant.scale, quant.zero_point)

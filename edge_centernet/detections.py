"""The result type: three parallel arrays, checked at the door, read-only afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = (("xyxy", np.dtype(np.float32)), ("score", np.dtype(np.float32)), ("class_id", np.dtype(np.int32)))


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best score first.

    xyxy: (N, 4) float32, left, top, right, bottom in pixels of the original image, inside it.
    score: (N,) float32, probability 0..1.
    class_id: (N,) int32, index into ModelSpec.classes.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int32]

    def __post_init__(self) -> None:
        """Convert to the documented dtypes and reject shapes that do not belong together."""
        for name, dtype in _DTYPES:
            array = np.ascontiguousarray(getattr(self, name), dtype)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        n = len(self.score)
        if self.xyxy.shape != (n, 4) or self.score.shape != (n,) or self.class_id.shape != (n,):
            raise ValueError(
                f"expected xyxy (N, 4), score (N,), class_id (N,); got {self.xyxy.shape}, "
                f"{self.score.shape}, {self.class_id.shape}"
            )

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.score)

    def __getitem__(self, index: Any) -> Detections:
        """Select by boolean mask, slice or index array."""
        return Detections(self.xyxy[index], self.score[index], self.class_id[index])

    @classmethod
    def empty(cls) -> Detections:
        """No box at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

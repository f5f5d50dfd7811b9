"""What a runtime returns: the three maps of a CenterNet, as the engine stored them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.manifest import TensorSpec


class Heads(NamedTuple):
    """Views into the engine's outputs, (channels, height, width), any strides, stored dtype.

    heat (C, H, W); size (2, H, W) width, height in cells; offset (2, H, W) x, y in cells.
    Valid until the next `run` or `close` of the runtime that made them.
    """

    heat: NDArray[Any]
    size: NDArray[Any]
    offset: NDArray[Any]


def real_values(stored: NDArray[Any], spec: TensorSpec) -> NDArray[np.float64]:
    """What a stored head means: scale * (stored - zero point), or the floats themselves."""
    values = stored.astype(np.float64)
    return values if spec.quant is None else (values - spec.quant.zero_point) * spec.quant.scale

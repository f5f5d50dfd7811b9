"""What a runtime returns: the three maps of a CenterNet, as the engine stored them."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray


class Heads(NamedTuple):
    """Views into the engine's outputs, (channels, height, width), any strides, stored dtype.

    heat (C, H, W); size (2, H, W) width, height in cells; offset (2, H, W) x, y in cells.
    Valid until the next `run` or `close` of the runtime that made them.
    """

    heat: NDArray[Any]
    size: NDArray[Any]
    offset: NDArray[Any]

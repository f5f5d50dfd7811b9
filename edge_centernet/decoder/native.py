"""The C decoder behind the same function as reference.py. Importing it fails where it was not built."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import _decoder
from edge_centernet.decoder.head import BOX, Head
from edge_centernet.errors import ArtifactError

VERSION = 0x00010000  # ECN_VERSION of the header this file was written for
_DTYPES = {"float32": 0, "int8": 1, "uint8": 2}  # ECN_F32, ECN_S8, ECN_U8
_INDEX_MAX = 2**31 - 1

_expected = (BOX.itemsize, {name: field[1] for name, field in (BOX.fields or {}).items()}, VERSION >> 16)
_compiled = (_decoder.BOX_SIZE, _decoder.BOX_OFFSETS, _decoder.VERSION >> 16)
if _compiled != _expected:
    raise RuntimeError(
        f"decoder extension: expected ecn_box size, offsets and version {_expected}, got {_compiled}: "
        "reinstall edge-centernet (in a checkout: python setup.py build_ext --inplace)"
    )


def decode_boxes(
    heat: Head, size: Head, offset: Head, *, cell_px: float, threshold: float, capacity: int
) -> NDArray[np.void]:
    """The `capacity` best peaks as BOX records (N,), best first; see reference.decode_boxes.

    Releases the GIL. Views are read where they lie; only those C cannot address are copied
    (negative strides, strides that are no multiple of the item size, unaligned).
    """
    classes, height, width = heat.data.shape
    for head in (size, offset):
        if head.data.shape != (2, height, width):  # the C side cannot see the end of an array
            raise ArtifactError(f"{head.role} head: expected shape {(2, height, width)}, got {head.data.shape}")
    # Names, so that a copy lives until the C side has read it.
    heat_view, size_view, offset_view = (_addressable(head.data) for head in (heat, size, offset))
    out = np.empty(min(capacity, heat.data.size), BOX)
    count = _decoder.decode(
        _describe(heat, heat_view),
        _describe(size, size_view),
        _describe(offset, offset_view),
        classes,
        height,
        width,
        cell_px,
        threshold,
        out.ctypes.data,
        len(out),
    )
    if count < 0:
        raise ArtifactError(f"decoder: {_decoder.strerror(count)}")
    return out[:count]


def _describe(head: Head, view: NDArray[Any]) -> tuple[int, float, int, int, int, int, int]:
    c, y, x = (
        stride // view.itemsize if side > 1 else 0  # NumPy leaves the stride of a lone element arbitrary
        for side, stride in zip(view.shape, view.strides, strict=True)
    )
    scale, zero_point = (head.quant.scale, head.quant.zero_point) if head.quant else (1.0, 0)
    return view.ctypes.data, scale, zero_point, _DTYPES[view.dtype.name], c, y, x


def _addressable(data: NDArray[Any]) -> NDArray[Any]:
    """`data` itself if the C side can walk it, else a copy."""
    steps = [(side - 1, stride) for side, stride in zip(data.shape, data.strides, strict=True) if side > 1]
    walkable = all(stride >= 0 and stride % data.itemsize == 0 for _, stride in steps)
    last = sum(count * stride for count, stride in steps) // data.itemsize
    return data if walkable and last <= _INDEX_MAX and data.flags.aligned else np.ascontiguousarray(data)

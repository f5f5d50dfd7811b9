"""The C decoder behind the same functions as rule.py. Importing this module fails where it was not built."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import _decoder
from edge_centernet.decoder.rule import BOX, Head, Levels, Tile, as_pair
from edge_centernet.errors import ArtifactError

VERSION = 0x00020001  # ECN_VERSION of the header this file was written for

# A record that C lays out otherwise would give wrong boxes without an error, so an extension that was built
# from other sources is refused. Only the major version counts: a minor one adds functions.
_expected = (BOX.itemsize, {name: field[1] for name, field in (BOX.fields or {}).items()}, VERSION >> 16)
_compiled = (_decoder.BOX_SIZE, _decoder.BOX_OFFSETS, _decoder.VERSION >> 16)
if _compiled != _expected:
    raise RuntimeError(
        f"decoder extension: expected ecn_box size, offsets and version {_expected}, got {_compiled}: "
        "reinstall edge-centernet (in a checkout: python setup.py build_ext --inplace)"
    )


def decode_boxes(
    heat: Head,
    size: Head,
    offset: Head,
    *,
    cell_px: float,
    threshold: float,
    capacity: int,
    class_thresholds: NDArray[np.float32] | None = None,
) -> NDArray[np.void]:
    """The `capacity` best peaks as BOX records (N,), best first.

    The arguments are those of `rule.decode_boxes`. Raises ArtifactError for heads that do not fit each other.
    """
    _, height, width = heat.data.shape
    for head in (size, offset):
        if head.data.shape != (2, height, width):  # the C side cannot see the end of an array
            raise ArtifactError(
                f"{head.role} head: expected shape {(2, height, width)}, got {head.data.shape}"
            )
    out = np.empty(max(0, min(capacity, heat.data.size)), BOX)
    arrays = (heat.data, size.data, offset.data)
    quants = (as_pair(heat.quant), as_pair(size.quant), as_pair(offset.quant))
    return out[: find(arrays, quants, cell_px, threshold, class_thresholds, out)]


def find(
    arrays: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    quants: tuple[tuple[float, int], tuple[float, int], tuple[float, int]],
    cell_px: float,
    threshold: float,
    class_thresholds: NDArray[np.float32] | None,
    out: NDArray[np.void],
) -> int:
    """Fill `out` with the best peaks; returns how many. Releases the GIL.

    Args:
        arrays: heat (C, H, W), size and offset (2, H, W), as stored. Their shapes are not checked here.
        quants: (scale, zero point) of each; (1.0, 0) for float32.
        cell_px: input pixels per cell.
        threshold: in the heatmap's unit.
        class_thresholds: (C,) one for each class instead of `threshold`.
        out: BOX records, as many as boxes are wanted.

    Raises:
        ArtifactError: C refuses an argument, or there is not one threshold for each class.
    """
    if class_thresholds is not None:
        class_thresholds = np.ascontiguousarray(class_thresholds, np.float32)
        if class_thresholds.shape != arrays[0].shape[:1]:
            raise ArtifactError(
                f"class thresholds: expected {len(arrays[0])} numbers, got shape {class_thresholds.shape}"
            )
    as_floats = out.view(np.float32)  # whose memory C finds faster than that of records
    # Views are read where they lie. Only those that C cannot walk are copied: negative strides, strides that
    # are no multiple of the item size, unaligned data (which a contiguous array can be, hence np.array).
    count = _decoder.decode(*arrays, *quants, cell_px, threshold, class_thresholds, as_floats)
    if count == _decoder.NOT_WALKABLE:
        heat, size, offset = (np.array(array, order="C") for array in arrays)
        count = _decoder.decode(heat, size, offset, *quants, cell_px, threshold, class_thresholds, as_floats)
    return _checked(count)


def drop_duplicate_peaks(boxes: NDArray[np.void], any_class: bool = False) -> NDArray[np.void]:
    """See rule.drop_duplicate_peaks. Works in place: what is returned is the first part of `boxes`."""
    return boxes[: _checked(_decoder.drop_twins(boxes.view(np.float32), len(boxes), int(any_class)))]


def to_image(boxes: NDArray[np.void], frame: tuple[int, int, int, int, int, int]) -> NDArray[np.void]:
    """See rule.to_image. Works in place."""
    _checked(_decoder.to_image(boxes.view(np.float32), len(boxes), frame))
    return boxes


def to_probability(boxes: NDArray[np.void]) -> NDArray[np.void]:
    """See rule.to_probability. Works in place."""
    _decoder.to_probability(boxes.view(np.float32), len(boxes))
    return boxes


def drop_cut(
    boxes: NDArray[np.void], tile: Tile, tile_cells: tuple[int, int], cells: tuple[int, int], cell_px: float
) -> NDArray[np.void]:
    """See rule.drop_cut, whose arguments these are. Works in place.

    Args:
        boxes: in pixels of the canvas.
        tile: where it lies.
        tile_cells: its height and width in cells.
        cells: those of the canvas.
        cell_px: pixels per cell.
    """
    floats = boxes.view(np.float32)
    return boxes[: _checked(_decoder.drop_cut(floats, len(boxes), tile, tile_cells, cells, cell_px))]


def join_levels(fine: NDArray[np.void], coarse: NDArray[np.void], levels: Levels) -> NDArray[np.void]:
    """See rule.join_levels."""
    both = np.concatenate([fine, coarse])
    count = _decoder.join_levels(both.view(np.float32), len(fine), len(coarse), levels)
    return both[: _checked(count)]


def _checked(result: int) -> int:
    if result < 0:
        raise ArtifactError(f"decoder: {_decoder.strerror(result)}")
    return result

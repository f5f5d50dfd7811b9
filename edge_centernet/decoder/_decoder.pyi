from typing import Any, Final

from numpy.typing import NDArray

_Quant = tuple[float, int]  # scale, zero_point

BOX_OFFSETS: Final[dict[str, int]]
BOX_SIZE: Final[int]
NOT_WALKABLE: Final[int]
VERSION: Final[int]

def decode(
    heat: NDArray[Any],
    size: NDArray[Any],
    offset: NDArray[Any],
    heat_quant: _Quant,
    size_quant: _Quant,
    offset_quant: _Quant,
    cell_px: float,
    threshold: float,
    class_thresholds: NDArray[Any] | None,
    out: NDArray[Any],
    /,
) -> int: ...
def drop_twins(boxes: NDArray[Any], count: int, scope: int, /) -> int: ...
def drop_cut(
    boxes: NDArray[Any],
    count: int,
    tile: tuple[int, int, int, int, int, int],
    tile_cells: tuple[int, int],
    cells: tuple[int, int],
    cell_px: float,
    /,
) -> int: ...
def join_levels(
    boxes: NDArray[Any], fine: int, coarse: int, levels: tuple[float, float, float, float], /
) -> int: ...
def to_image(boxes: NDArray[Any], count: int, frame: tuple[int, int, int, int, int, int], /) -> int: ...
def to_probability(boxes: NDArray[Any], count: int, /) -> int: ...
def strerror(code: int, /) -> str: ...

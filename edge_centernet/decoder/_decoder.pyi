from typing import Final

_Head = tuple[int, float, int, int, int, int, int]  # address, scale, zero_point, dtype, strides c, y, x in elements

BOX_OFFSETS: Final[dict[str, int]]
BOX_SIZE: Final[int]
VERSION: Final[int]

def decode(
    heat: _Head,
    size: _Head,
    offset: _Head,
    classes: int,
    height: int,
    width: int,
    cell_px: float,
    threshold: float,
    out: int,
    capacity: int,
    /,
) -> int: ...
def strerror(code: int, /) -> str: ...

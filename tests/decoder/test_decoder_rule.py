"""What is a peak, which comes first, where is its box: values worked out by hand, for both back ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_centernet.decoder.rule import BOX, Head
from edge_centernet.errors import ArtifactError
from edge_centernet.manifest import Quant

Decode = Callable[..., Any]
UNIT = Quant(1.0, 0)
EARLIER = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]
LATER = [(0, 1), (1, -1), (1, 0), (1, 1)]


def cells(
    decode_boxes: Decode, heat: Any, *, threshold: float = 1.0, capacity: int = 100
) -> list[tuple[int, int]]:
    """(class, cell) of the peaks in a heatmap (C, H, W) of int8, uint8 or float32, best first."""
    heat = np.asarray(heat)
    quant = None if heat.dtype == np.float32 else UNIT
    zeros = np.zeros((2, *heat.shape[1:]), np.float32)
    heads = Head("heat", heat, quant), Head("size", zeros), Head("offset", zeros)
    boxes = decode_boxes(*heads, cell_px=4.0, threshold=threshold, capacity=capacity)
    return [(int(box["class_id"]), int(box["cell"])) for box in boxes]


def box(
    decode_boxes: Decode, size: Any, offset: Any, quants: tuple[Quant | None, Quant | None] = (None, None)
) -> Any:
    """x1, y1, x2, y2 of one peak at x = 2, y = 1 with stride 4; size and offset are (2,) arrays."""
    heat = np.zeros((1, 3, 4), np.float32)
    heat[0, 1, 2] = 9
    maps = [np.broadcast_to(np.asarray(pair)[:, None, None], (2, 3, 4)) for pair in (size, offset)]
    heads = Head("heat", heat), Head("size", maps[0], quants[0]), Head("offset", maps[1], quants[1])
    (found,) = decode_boxes(*heads, cell_px=4.0, threshold=1.0, capacity=5)
    return [float(found[name]) for name in ("x1", "y1", "x2", "y2")]


def grid(dtype: str, at: dict[tuple[int, int], float]) -> NDArray[Any]:
    """A (1, 5, 5) map of zeros with the given cells set."""
    heat = np.zeros((1, 5, 5), dtype)
    for (y, x), value in at.items():
        heat[0, y, x] = value
    return heat


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
@pytest.mark.parametrize(("dy", "dx"), EARLIER + LATER)
def test_of_two_equal_neighbours_the_earlier_is_the_peak(
    decode_boxes: Decode, dtype: str, dy: int, dx: int
) -> None:
    """A tie between neighbours, whatever the direction, gives one box: at the first in raster order."""
    heat = grid(dtype, {(2, 2): 5, (2 + dy, 2 + dx): 5})
    first = min((2, 2), (2 + dy, 2 + dx))
    assert cells(decode_boxes, heat) == [(0, first[0] * 5 + first[1])]


@pytest.mark.parametrize(("dy", "dx"), EARLIER + LATER)
def test_the_higher_neighbour_is_the_peak(decode_boxes: Decode, dy: int, dx: int) -> None:
    """One unit more in any of the eight directions takes the peak away."""
    heat = grid("int8", {(2, 2): 5, (2 + dy, 2 + dx): 6})
    assert cells(decode_boxes, heat) == [(0, (2 + dy) * 5 + 2 + dx)]


def test_a_flat_map_gives_one_box_a_class(decode_boxes: Decode) -> None:
    """Saturation everywhere is one peak in the first corner, not one a cell."""
    assert cells(decode_boxes, np.full((3, 9, 9), 127, np.int8)) == [(0, 0), (1, 0), (2, 0)]


def test_rows_do_not_wrap_around(decode_boxes: Decode) -> None:
    """The last cell of a row and the first of the next are adjacent in memory, not in the image."""
    assert cells(decode_boxes, grid("uint8", {(1, 4): 5, (2, 0): 6})) == [(0, 10), (0, 9)]


def test_ties_go_to_the_lower_class_then_the_lower_cell(decode_boxes: Decode) -> None:
    """Equal peaks keep this order also when there are more of them than room."""
    heat = np.zeros((3, 5, 5), np.int8)
    heat[:, ::2, ::2] = 7
    heat[2, 4, 4] = 8
    expected = [(2, 24), (0, 0), (0, 2), (0, 4), (0, 10), (0, 12), (0, 14), (0, 20), (0, 22), (0, 24), (1, 0)]
    assert cells(decode_boxes, heat, capacity=11) == expected


def test_nan_is_no_peak_and_hides_none(decode_boxes: Decode) -> None:
    """A peak surrounded by NaN is found; NaN itself is not, even without a threshold."""
    heat = np.full((1, 3, 3), np.nan, np.float32)
    heat[0, 1, 1] = -4
    assert cells(decode_boxes, heat, threshold=-np.inf) == [(0, 4)]


def test_infinite_heat_is_the_best(decode_boxes: Decode) -> None:
    """+inf is a value like others, -inf passes no finite threshold."""
    heat = grid("float32", {(0, 0): np.inf, (2, 2): 3, (4, 4): -np.inf})
    assert cells(decode_boxes, heat) == [(0, 0), (0, 12)]
    assert cells(decode_boxes, heat, threshold=np.inf) == [(0, 0)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
def test_threshold_includes_its_own_value(decode_boxes: Decode, dtype: str) -> None:
    """A stored 7 passes a threshold of 7 and fails the next float above it."""
    heat = grid(dtype, {(2, 2): 7})
    assert cells(decode_boxes, heat, threshold=7.0) == [(0, 12)]
    assert cells(decode_boxes, heat, threshold=float(np.nextafter(np.float32(7), np.float32(8)))) == []


@pytest.mark.parametrize(("dtype", "highest"), [("int8", 127), ("uint8", 255)])
def test_threshold_at_the_end_of_the_range(decode_boxes: Decode, dtype: str, highest: int) -> None:
    """The highest value that can be stored passes itself; nothing passes more."""
    heat = grid(dtype, {(2, 2): highest})
    assert cells(decode_boxes, heat, threshold=float(highest)) == [(0, 12)]
    assert cells(decode_boxes, heat, threshold=highest + 0.5) == []


def test_capacity_0_is_no_box(decode_boxes: Decode) -> None:
    """No room, no boxes, no error."""
    assert cells(decode_boxes, grid("int8", {(2, 2): 7}), capacity=0) == []


def test_box_is_centre_and_size_times_stride(decode_boxes: Decode) -> None:
    """Sides: x = (2 + 0.5 -+ 3/2) * 4, y = (1 + 0.25 -+ 2/2) * 4."""
    assert box(decode_boxes, np.float32([3, 2]), np.float32([0.5, 0.25])) == [4.0, 1.0, 16.0, 9.0]


def test_quantized_size_and_offset(decode_boxes: Decode) -> None:
    """The same box from uint8 sizes (scale 0.25, zero point 8) and int8 offsets (0.125, -4)."""
    quants = Quant(0.25, 8), Quant(0.125, -4)
    assert box(decode_boxes, np.uint8([20, 16]), np.int8([0, -2]), quants) == [4.0, 1.0, 16.0, 9.0]


@pytest.mark.parametrize("bad", [-3.0, np.nan, np.inf, -np.inf])
def test_impossible_sizes_count_as_zero(decode_boxes: Decode, bad: float) -> None:
    """A negative, NaN or infinite width leaves a box of width 0 at its centre, with its height."""
    assert box(decode_boxes, np.float32([bad, 2]), np.float32([0.5, 0.25])) == [10.0, 1.0, 10.0, 9.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_impossible_offsets_count_as_zero(decode_boxes: Decode, bad: float) -> None:
    """A NaN or infinite offset means the cell's own corner; a negative one is a number like others."""
    assert box(decode_boxes, np.float32([3, 2]), np.float32([bad, -0.5])) == [2.0, -2.0, 14.0, 6.0]


@pytest.mark.parametrize(
    ("data", "quant", "message"),
    [
        (np.zeros((3, 3), np.int8), UNIT, "expected 3 dimensions of 1 to 1024, got (3, 3)"),
        (np.zeros((1, 0, 3), np.int8), UNIT, "expected 3 dimensions of 1 to 1024, got (1, 0, 3)"),
        (np.zeros((1, 1, 1025), np.int8), UNIT, "expected 3 dimensions of 1 to 1024, got (1, 1, 1025)"),
        (np.zeros((1, 3, 3), np.int32), UNIT, "expected int8, uint8, int16 or float32, got int32"),
        (np.zeros((1, 3, 3), ">f4"), None, "expected int8, uint8, int16 or float32, got >f4"),
        (np.zeros((1, 3, 3), np.int8), None, "expected a scale for integers only, got None and int8"),
        (np.zeros((1, 3, 3), np.int8), Quant(1e-60, 0), "expected a scale that float32 can hold, got 1e-60"),
        (np.zeros((1, 3, 3), np.int8), Quant(1e39, 0), "expected a scale that float32 can hold, got 1e+39"),
        (np.zeros((1, 3, 3), np.int8), Quant(1.0, 200), "zero point 200 does not fit int8"),
    ],
)
def test_heads_that_cannot_be_decoded_are_refused(
    data: NDArray[Any], quant: Quant | None, message: str
) -> None:
    """The message names the head, what was expected and what came."""
    with pytest.raises(ArtifactError) as error:
        Head("heat", data, quant)
    assert message in str(error.value)
    assert str(error.value).startswith("heat head: ")


# ---- the binding --------------------------------------------------------------------------------


@pytest.fixture
def raw(compiler: str) -> Any:
    """The extension module itself."""
    from edge_centernet.decoder import _decoder

    return _decoder


@pytest.mark.parametrize(
    ("code", "change", "text"),
    [
        (-2, {"dtype": np.int32}, "unknown dtype: expected ECN_F32, ECN_S8, ECN_U8 or ECN_S16"),
        (-3, {"scale": 0.0}, "scale is not a positive finite number, or zero_point does not fit the dtype"),
        (
            -4,
            {"width": 1025},
            "a dimension is outside 1..1024, a stride is negative, or the last index reaches 2^31",
        ),
        (
            -5,
            {"cell_px": 0.0},
            "a count is negative, cell_px is not a positive finite number, a threshold is NaN,",
        ),
        (
            -5,
            {"threshold": float("nan")},
            "a count is negative, cell_px is not a positive finite number, a threshold",
        ),
    ],
)
def test_every_error_code_reaches_python(raw: Any, code: int, change: dict[str, Any], text: str) -> None:
    """The extension returns the C library's own codes and texts."""
    is_ = {"dtype": np.int8, "width": 3, "scale": 1.0, "cell_px": 4.0, "threshold": 1.0} | change
    head, out = np.zeros((2, 3, is_["width"]), is_["dtype"]), np.zeros(4, BOX)
    quant = (is_["scale"], 0)
    assert (
        raw.decode(head, head, head, quant, quant, quant, is_["cell_px"], is_["threshold"], None, out) == code
    )
    assert raw.strerror(code).startswith(text)
    assert out.tobytes() == bytes(out.nbytes)


def test_c_errors_are_raised(raw: Any) -> None:
    """What the C side refuses becomes one clear exception."""
    from edge_centernet.decoder import native

    heads = [Head(role, np.zeros((2, 3, 3), np.float32)) for role in ("heat", "size", "offset")]
    with pytest.raises(
        ArtifactError, match="decoder: a count is negative, cell_px is not a positive finite number"
    ):
        native.decode_boxes(*heads, cell_px=0.0, threshold=1.0, capacity=4)


def test_a_short_head_is_never_read_past_its_end(raw: Any) -> None:
    """A size head of another shape is refused before an address is passed on."""
    from edge_centernet.decoder import native

    heat, size, offset = (Head("size", np.zeros((c, 3, w), np.float32)) for c, w in ((5, 3), (2, 2), (2, 3)))
    with pytest.raises(ArtifactError, match=r"size head: expected shape \(2, 3, 3\), got \(2, 3, 2\)"):
        native.decode_boxes(heat, size, offset, cell_px=1.0, threshold=1.0, capacity=4)


def test_other_threads_run_while_c_decodes(raw: Any) -> None:
    """The GIL is released: this thread keeps ticking during a decode of 268 million cells."""
    from edge_centernet.decoder import native

    heads = [
        Head(role, np.broadcast_to(np.int8(0), (channels, 1024, 1024)), UNIT)
        for role, channels in (("heat", 256), ("size", 2), ("offset", 2))
    ]
    worker = threading.Thread(
        target=native.decode_boxes, args=heads, kwargs={"cell_px": 4.0, "threshold": 9.0, "capacity": 1}
    )
    worker.start()
    ticks = 0
    while worker.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks >= 10


def test_an_extension_of_another_layout_is_refused(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale build is named, not read wrongly."""
    import importlib

    from edge_centernet.decoder import native

    monkeypatch.setattr(raw, "BOX_SIZE", 32)
    with pytest.raises(
        RuntimeError, match=r"decoder extension: expected .* got \(32, .*reinstall edge-centernet"
    ):
        importlib.reload(native)

"""NumPy and C find the same boxes, to the bit, in 10,000 random inputs."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_centernet.decoder import BACKEND, rule
from edge_centernet.decoder.rule import Head
from edge_centernet.manifest import Quant

DTYPES = ("int8", "uint8", "int16", "float32")
LAYOUTS = ("NCHW", "NHWC", "NHWC padded", "cropped", "every second", "reversed", "broadcast", "unaligned")
EXAMPLES = {"int8": 4000, "uint8": 2000, "int16": 2000, "float32": 2000}
LIMITS = {"int8": (-128, 128), "uint8": (0, 256), "int16": (-32768, 32768)}
FLOATS = np.float32([0.0, -0.0, 1.0, -1.5, 0.3, 7.25, np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45])


class Style(NamedTuple):
    """How one head looks. levels 0: as many distinct values as chance gives; scale 0: any float32 > 0."""

    dtype: str
    layout: str
    levels: int
    any_bits: bool
    scale: float


def lay_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """The same (C, H, W) values somewhere else in memory ("broadcast": one column, repeated)."""
    c, h, w = array.shape
    if layout == "NHWC":
        return np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1)
    if layout == "NHWC padded":
        memory = np.full((h, w, c + 3), 100, array.dtype)
        memory[..., :c] = array.transpose(1, 2, 0)
        return memory.transpose(2, 0, 1)[:c]
    if layout == "cropped":
        memory = np.full((c + 1, h + 2, w + 3), 100, array.dtype)
        memory[1:, 1:-1, 1:-2] = array
        return memory[1:, 1:-1, 1:-2]
    if layout == "every second":
        memory = np.full((c, h, 2 * w), 100, array.dtype)
        memory[..., ::2] = array
        return memory[..., ::2]
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1]
    if layout == "broadcast":
        return np.broadcast_to(array[:, :, :1], array.shape)
    if layout == "unaligned":
        return np.ndarray(array.shape, array.dtype, b"\0" + array.tobytes(), offset=1)
    return array


def make_head(rng: np.random.Generator, role: str, shape: tuple[int, int, int], style: Style) -> Head:
    """A head of few distinct values (plateaus), or of any bits at all (every NaN, infinity and subnormal)."""
    count = int(np.prod(shape))
    dtype = np.dtype(style.dtype)
    values = np.frombuffer(rng.bytes(count * dtype.itemsize), dtype)
    if style.levels:
        distinct = values if dtype != np.float32 or style.any_bits else rng.choice(FLOATS, count)
        values = rng.choice(distinct[: style.levels], count)
    scale = style.scale or float(rng.integers(1, 0x7F800000, dtype=np.uint32).view(np.float32))
    quant = None if dtype == np.float32 else Quant(scale, int(rng.integers(*LIMITS[style.dtype])))
    return Head(role, lay_out(values.reshape(shape), style.layout), quant)


def make_scene(drawn: tuple[Any, ...]) -> tuple[list[Head], dict[str, Any]]:
    """Arguments of decode_boxes; the threshold often lies on a stored value, or one float beside it."""
    seed, classes, height, width, *styles, (heat_dtype, beside), threshold, capacity, cell_px = drawn
    rng = np.random.default_rng(seed)
    styles[0] = styles[0]._replace(dtype=heat_dtype)
    heat, size, offset = (
        make_head(rng, role, (channels, height, width), style)
        for role, channels, style in zip(("heat", "size", "offset"), (classes, 2, 2), styles, strict=True)
    )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        stored = heat.real(heat.data[0, 0, :1])[0]
        stored = stored if beside is None else np.nextafter(stored, np.float32(beside))
    if threshold is None:
        threshold = -np.inf if np.isnan(stored) else float(stored)
    own = rng.choice(np.float32([threshold, np.inf, 0.0, 5.0]), classes) if seed % 3 == 0 else None
    options = {"cell_px": cell_px, "threshold": threshold, "capacity": capacity, "class_thresholds": own}
    return [heat, size, offset], options


# Hypothesis draws everything but the values themselves, which come from the seed: ten times as fast.
# One choice among all styles is one draw; a draw a field would be most of the running time.
SCALES = (0.1, 1 / 256, 1.0, 2.0**-149, 3.4e38, 0.0)
STYLES = st.sampled_from(
    [Style(*fields) for fields in product(DTYPES, LAYOUTS, (2, 3, 1, 6, 0), (False, True), SCALES)]
)


def scenes(dtype: str) -> st.SearchStrategy[tuple[list[Head], dict[str, Any]]]:
    """Scenes with a heatmap of this dtype and size and offset of any."""
    return st.tuples(
        st.integers(0, 2**32 - 1),
        st.integers(1, 4),
        st.integers(1, 7) | st.integers(20, 30),  # from 256 cells on they are looked at in blocks
        st.integers(1, 7) | st.integers(15, 40),
        STYLES,
        STYLES,
        STYLES,
        st.tuples(st.just(dtype), st.sampled_from([None, np.inf, -np.inf])),
        st.none() | st.just(-np.inf) | st.floats(width=32, allow_nan=False),
        st.sampled_from([4, 100, 1, 0, 7]),
        st.sampled_from([4.0, 1.0, 0.1, 32.0, 3.4e38]),
    ).map(make_scene)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_and_c_agree_box_for_box(dtype: str, request: pytest.FixtureRequest) -> None:
    """Coordinates, scores, classes, cells, order and count are the same bits."""
    if BACKEND != "c":
        request.getfixturevalue("compiler")  # skips without one; with one, the import below fails
    from edge_centernet.decoder import native

    seen = {"examples": 0, "boxes": 0, "empty": 0}

    @settings(
        max_examples=EXAMPLES[dtype],
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(scenes(dtype))
    def agree(scene: tuple[list[Head], dict[str, Any]]) -> None:
        three, options = scene
        expected = rule.decode_boxes(*three, **options)
        actual = native.decode_boxes(*three, **options)
        seen["examples"] += 1
        seen["boxes"] += len(expected)
        seen["empty"] += not len(expected)
        assert expected.tobytes() == actual.tobytes(), f"\n{expected}\n{actual}"
        frame = (640, 360, 57, 32, 3, 12)
        ends = [
            side.to_probability(side.to_image(side.drop_duplicate_peaks(boxes, len(boxes) % 2 == 0), frame))
            for side, boxes in ((rule, expected), (native, actual))
        ]
        assert ends[0].tobytes() == ends[1].tobytes(), f"\n{ends[0]}\n{ends[1]}"

    agree()
    assert seen["examples"] >= EXAMPLES[dtype]
    assert seen["boxes"] > seen["examples"]  # the inputs are worth decoding
    assert seen["empty"] < 0.6 * seen["examples"]

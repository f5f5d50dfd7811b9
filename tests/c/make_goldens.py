"""Write tests/golden/decoder_v3.npz and .bin: head tensors, and the boxes that the NumPy rule finds in them.

Run from anywhere: python tests/c/make_goldens.py
The files pin the rule. Regenerate only when it changes on purpose, and raise VERSION (and the file names with
it) in the same commit. Both hold the same cases: Python reads the .npz, tests/c/test_decode.c the .bin,
because a C test on a device has no unzip.

The .bin, little-endian throughout: "ECNGOLD", VERSION as one byte, int32 number of cases; then for each case
    char name[32]; int32 classes, height, width, capacity; float32 cell_px, threshold;
    int32 class thresholds (0 or classes); float32 each;
    heat, size, offset: int32 dtype, zero_point, stride_c, stride_y, stride_x; float32 scale; int32 bytes; the
      elements;
    int32 boxes; for each: float32 x1, y1, x2, y2, score; int32 class_id, cell
    what follows: int32 scope of twins; the frame: int32 src_width, src_height, new_width, new_height, left,
    top; int32 boxes; each as above, without twins, mapped to the image, the score as a probability
then int32 joins; for each: float32 width, height, reach_x, reach_y; and three times, of the fine, the coarse
    and the joined level, int32 boxes; each as above
and at the end int32 pairs; for each: float32 logit, its probability
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import rule
from edge_centernet.decoder.rule import Head, Levels
from edge_centernet.files import write_atomic
from edge_centernet.manifest import Quant

VERSION = 3
FOLDER = Path(__file__).resolve().parents[1] / "golden"
DTYPES = ("float32", "int8", "uint8", "int16")  # their index is ecn_tensor.dtype
ROLES = ("heat", "size", "offset")
BOX_COLUMNS = ("x1", "y1", "x2", "y2", "score")


@dataclass(frozen=True)
class Case:
    """One decode: heads as views (C, H, W) of the flat arrays that the C side walks with strides."""

    name: str
    heads: tuple[Head, Head, Head]
    capacity: int
    cell_px: float
    threshold: float  # in the heatmap's unit, a float32 value
    class_thresholds: tuple[float, ...] = ()  # alike
    any_class: bool = False  # what counts as twins
    frame: tuple[int, int, int, int, int, int] = (640, 360, 32, 18, 0, 7)  # of rule.to_image

    def run(self, decoder: Any) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """(the boxes, what is left of them at the end) according to one of the two decoders, a module."""
        own = np.array(self.class_thresholds, np.float32) if self.class_thresholds else None
        boxes = decoder.decode_boxes(
            *self.heads,
            cell_px=self.cell_px,
            threshold=self.threshold,
            capacity=self.capacity,
            class_thresholds=own,
        )
        final = decoder.to_image(decoder.drop_duplicate_peaks(boxes.copy(), self.any_class), self.frame)
        return boxes, decoder.to_probability(final)


def main() -> None:
    """Write both files and say what is in them."""
    cases = [(case, *case.run(rule)) for case in make_cases()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {"version": np.int32(VERSION)}  # type: ignore[dict-item]
    for case, boxes, final in cases:
        arrays.update(to_arrays(case, boxes, final))
    temporary = FOLDER / "new.npz"
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, FOLDER / f"decoder_v{VERSION}.npz")
    write_atomic(FOLDER / f"decoder_v{VERSION}.bin", pack(cases))
    for case, boxes, final in cases:
        heat = case.heads[0].data
        print(
            f"{case.name:24} {heat.dtype!s:8} {heat.shape!s:14} {len(boxes):4} boxes, "
            f"{len(final):4} without duplicate peaks"
        )


# ---- the cases ----------------------------------------------------------------------------------


def make_cases() -> Iterator[Case]:
    """Every rule of the decoder at least once, small enough to read in a hex dump."""
    rng = np.random.default_rng(20)
    logits = Quant(0.07, 25)
    for name, layout in (("int8 NCHW", "NCHW"), ("int8 NHWC", "NHWC"), ("int8 padded NHWC", "padded")):
        heat = _peaks(rng, (3, 12, 10), -60, 110).astype(np.int8)
        size = rng.integers(-20, 120, (2, 12, 10)).astype(np.int8)  # a few negative sizes
        offset = rng.integers(-10, 90, (2, 12, 10)).astype(np.int8)
        quants = (logits, Quant(0.15, -7), Quant(1 / 90, 0))
        yield _case(
            name,
            (heat, size, offset),
            quants,
            layout,
            capacity=20,
            cell_px=4.0,
            threshold=-0.8472978603872037,
        )
    heat = _peaks(rng, (2, 9, 11), 5, 250).astype(np.uint8)
    size, offset = (rng.integers(0, 256, (2, 9, 11)).astype(np.uint8) for _ in range(2))
    quants = (Quant(1 / 256, 0), Quant(0.06, 3), Quant(1 / 255, 0))
    yield _case(
        "uint8 probabilities", (heat, size, offset), quants, "NHWC", capacity=16, cell_px=8.0, threshold=0.3
    )

    heat = rng.normal(-3, 2, (2, 8, 8)).astype(np.float32)
    size, offset = (rng.normal(2, 2, (2, 8, 8)).astype(np.float32) for _ in range(2))
    yield _case(
        "float32", (heat, size, offset), (None,) * 3, "NCHW", capacity=50, cell_px=4.0, threshold=-2.5
    )
    odd = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, 3e38, -3e38, 1e-45, 0.5])
    heat, size, offset = (rng.choice(odd, (c, 8, 8)).astype(np.float32) for c in (2, 2, 2))
    heads = (heat, size, offset)
    yield _case(
        "float32 NaN and Inf", heads, (None,) * 3, "NHWC", capacity=128, cell_px=4.0, threshold=-np.inf
    )
    heads = (_peaks(rng, (2, 6, 6), -90, 90).astype(np.int8), size[:, :6, :6], offset[:, :6, :6])
    quants = (logits, None, None)
    yield _case("int8 heat, float boxes", heads, quants, "NCHW", capacity=9, cell_px=4.0, threshold=0.0)

    yield from _tie_cases()
    yield from _large_cases(rng)
    yield from _option_cases(rng)


def _large_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Dense maps of a few blocks of cells with a peak here and there, in every dtype and layout."""
    for dtype, quant in (
        ("int8", Quant(0.07, 25)),
        ("uint8", Quant(0.07, 200)),
        ("int16", Quant(0.001, 90)),
        ("float32", None),
    ):
        limits = (-6.0, 6.0) if quant is None else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        for layout in ("NCHW", "NHWC", "padded"):
            low, high = limits[0], limits[0] + 0.4 * (limits[1] - limits[0])
            heat = rng.uniform(low, high, (3, 19, 33))
            for c, y, x in rng.integers(0, (3, 19, 33), (9, 3)):
                heat[c, y, x] = rng.uniform(0.8 * limits[1], limits[1])
            heat[2, 18, 32] = limits[1]  # the very last cell
            boxes = rng.integers(-5, 60, (2, 2, 19, 33)).astype(np.int8)
            quants = (quant, Quant(0.1, 0), Quant(0.02, 0))
            name = f"large {dtype} {layout}"
            yield _case(
                name, (heat.astype(dtype), *boxes), quants, layout, capacity=40, cell_px=4.0, threshold=0.5
            )
    one = rng.integers(-128, 127, (1, 20, 30)).astype(np.int8)
    rest = (Quant(0.1, 0), Quant(0.02, 0))
    boxes = rng.integers(0, 60, (2, 2, 20, 30)).astype(np.int8)
    yield _case(
        "one class", (one, *boxes), (Quant(0.05, 0), *rest), "NHWC", capacity=12, cell_px=8.0, threshold=5.0
    )


def _option_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A threshold for each class; twins of one and of any class."""
    heat = _peaks(rng, (3, 12, 10), -60, 110).astype(np.int8)
    size = rng.integers(90, 120, (2, 12, 10)).astype(np.int8)  # large boxes of like size: many twins
    offset = rng.integers(0, 90, (2, 12, 10)).astype(np.int8)
    quants = (Quant(0.07, 25), Quant(0.15, -7), Quant(1 / 90, 0))
    plain = _case(
        "class thresholds", (heat, size, offset), quants, "NHWC", capacity=60, cell_px=4.0, threshold=9.0
    )
    own = tuple(float(np.float32(value)) for value in (-1.5, 2.25, math.inf))
    yield replace(plain, class_thresholds=own)
    yield replace(plain, name="twins of one class", threshold=-3.0)
    yield replace(
        plain, name="twins of any class", threshold=-3.0, any_class=True, frame=(1920, 1080, 40, 23, 0, 8)
    )


def _tie_cases() -> Iterator[Case]:
    flat = np.full((2, 5, 5), 40, np.int8)
    ones = np.full((2, 5, 5), 1, np.int8)
    unit = (Quant(1.0, 0),) * 3
    yield _case("flat map", (flat, ones, ones), unit, "NCHW", capacity=8, cell_px=1.0, threshold=-128.0)
    isolated = np.full((4, 5, 5), -128, np.int8)
    isolated[:, ::2, ::2] = 7  # 36 equal peaks, room for 10
    boxes = (np.full((2, 5, 5), 3, np.int8), np.zeros((2, 5, 5), np.int8))
    yield _case(
        "ties over capacity", (isolated, *boxes), unit, "NCHW", capacity=10, cell_px=4.0, threshold=7.0
    )
    yield _case(
        "just over the ties", (isolated, *boxes), unit, "NCHW", capacity=10, cell_px=4.0, threshold=7.0000005
    )
    yield _case("capacity 0", (isolated, *boxes), unit, "NHWC", capacity=0, cell_px=4.0, threshold=0.0)
    lone = tuple(np.full((c, 1, 1), 5, np.uint8) for c in (1, 2, 2))
    yield _case("one cell", lone, (Quant(0.1, 0),) * 3, "NCHW", capacity=1, cell_px=32.0, threshold=0.5)


def _peaks(rng: np.random.Generator, shape: tuple[int, int, int], low: int, high: int) -> NDArray[np.int64]:
    """(C, H, W) small plateaus: coarse values, each about 2x2 cells."""
    channels, height, width = shape
    coarse = rng.integers(0, 8, (channels, height // 2 + 1, width // 2 + 1)) * (high - low) // 7 + low
    noise = rng.integers(0, 2, shape) * rng.integers(0, 5, shape)
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
    return np.clip(fine - noise, low, high)  # type: ignore[no-any-return]


def _case(
    name: str,
    arrays: tuple[NDArray[Any], ...],
    quants: tuple[Quant | None, ...],
    layout: str,
    *,
    capacity: int,
    cell_px: float,
    threshold: float,
) -> Case:
    heads = zip(ROLES, (_lay_out(array, layout) for array in arrays), quants, strict=True)
    heat, size, offset = (Head(*head) for head in heads)
    return Case(name, (heat, size, offset), capacity, cell_px, float(np.float32(threshold)))


def _lay_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """The same (C, H, W) values in other strides."""
    if layout == "NCHW":
        return np.ascontiguousarray(array)
    channels, height, width = array.shape
    padded = channels if layout == "NHWC" else -(-channels // 4) * 4  # NPUs pad channels to a multiple
    memory = np.full((height, width, padded), 99, array.dtype)  # 99: high, so that reading the padding shows
    memory[..., :channels] = array.transpose(1, 2, 0)
    return memory.transpose(2, 0, 1)[:channels]


# ---- the files ----------------------------------------------------------------------------------


def _flat(head: Head) -> tuple[NDArray[Any], tuple[int, int, int]]:
    """The elements from the first one to the last one in memory order, and the element strides."""
    c, y, x = (stride // head.data.itemsize for stride in head.data.strides)
    last = sum((side - 1) * stride for side, stride in zip(head.data.shape, (c, y, x), strict=True))
    return np.lib.stride_tricks.as_strided(head.data, (last + 1,), (head.data.itemsize,)), (c, y, x)


def to_arrays(case: Case, boxes: NDArray[np.void], final: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """One case as plain arrays; `load` is the inverse."""
    shape = case.heads[0].data.shape
    arrays: dict[str, NDArray[Any]] = {
        f"{case.name}/shape, capacity": np.array([*shape, case.capacity], np.int32),
        f"{case.name}/cell_px, threshold": np.array([case.cell_px, case.threshold], np.float32),
        f"{case.name}/class thresholds": np.array(case.class_thresholds, np.float32),
        f"{case.name}/any_class, frame": np.array([case.any_class, *case.frame], np.int32),
    }
    for key, found in (("boxes", boxes), ("final", final)):
        arrays[f"{case.name}/{key}"] = np.stack([found[column] for column in BOX_COLUMNS], axis=1)
        arrays[f"{case.name}/{key} ids"] = np.stack([found["class_id"], found["cell"]], axis=1)
    for head in case.heads:
        flat, strides = _flat(head)
        quant = [head.quant.scale, head.quant.zero_point] if head.quant else []
        arrays[f"{case.name}/{head.role}"] = flat
        arrays[f"{case.name}/{head.role} strides"] = np.array(strides, np.int32)
        arrays[f"{case.name}/{head.role} quant"] = np.array(quant, np.float64)
    return arrays


def load(path: Path) -> list[tuple[Case, NDArray[np.void], NDArray[np.void]]]:
    """The cases of a .npz, their boxes, and what is left at the end. RuntimeError for another version."""
    with np.load(path) as file:
        arrays = dict(file)
    if arrays["version"] != VERSION:
        raise RuntimeError(
            f"{path}: expected version {VERSION}, got {arrays['version']}: run tests/c/make_goldens.py"
        )
    names = [key.removesuffix("/boxes") for key in arrays if key.endswith("/boxes")]
    return [_from_arrays(name, arrays) for name in names]


def _from_arrays(
    name: str, arrays: dict[str, NDArray[Any]]
) -> tuple[Case, NDArray[np.void], NDArray[np.void]]:
    *shape, capacity = (int(value) for value in arrays[f"{name}/shape, capacity"])
    cell_px, threshold = (float(value) for value in arrays[f"{name}/cell_px, threshold"])
    heads = []
    for role in ROLES:
        flat, quant = arrays[f"{name}/{role}"], arrays[f"{name}/{role} quant"]
        strides = tuple(int(stride) * flat.itemsize for stride in arrays[f"{name}/{role} strides"])
        view = np.lib.stride_tricks.as_strided(flat, (shape[0] if role == "heat" else 2, *shape[1:]), strides)
        heads.append(Head(role, view, Quant(float(quant[0]), int(quant[1])) if len(quant) else None))
    own = tuple(float(value) for value in arrays[f"{name}/class thresholds"])
    any_class, *frame = (int(value) for value in arrays[f"{name}/any_class, frame"])
    case = Case(
        name, (heads[0], heads[1], heads[2]), capacity, cell_px, threshold, own, bool(any_class), tuple(frame)
    )
    return case, _records(arrays, f"{name}/boxes"), _records(arrays, f"{name}/final")


def _records(arrays: dict[str, NDArray[Any]], key: str) -> NDArray[np.void]:
    columns, ids = arrays[key], arrays[f"{key} ids"]
    boxes = np.empty(len(columns), rule.BOX)
    for index, column in enumerate(BOX_COLUMNS):
        boxes[column] = columns[:, index]
    boxes["class_id"], boxes["cell"] = ids[:, 0], ids[:, 1]
    return boxes


def logits() -> NDArray[np.float32]:
    """Numbers to try the logistic function on: a fine grid, both ends, and what is no number."""
    odd = [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        85.99999,
        -85.99999,
        86.0,
        -86.0,
        1000.0,
        -1000.0,
        np.inf,
        -np.inf,
        np.nan,
    ]
    return np.concatenate([np.linspace(-90, 90, 2001), np.linspace(-1, 1, 501), odd]).astype(np.float32)


def joins() -> Iterator[tuple[Levels, NDArray[np.void], NDArray[np.void]]]:
    """(levels, fine boxes, coarse boxes) to join: of all sizes around the limit, with many ties."""
    rng = np.random.default_rng(21)
    for number in range(24):
        levels = Levels(*rng.uniform(20, 60, 2).astype(np.float32).tolist(), *rng.uniform(2, 12, 2).tolist())
        if number % 3 == 0:
            levels = levels._replace(height=math.inf)
        pair = []
        for count in rng.integers(0, 24, 2):
            boxes = np.zeros(count, rule.BOX)
            for axis in "xy":
                centre, side = rng.uniform(0, 90, count), rng.uniform(0, 80, count)
                boxes[f"{axis}1"], boxes[f"{axis}2"] = centre - side / 2, centre + side / 2
            boxes["score"] = -np.sort(-rng.integers(0, 9, count) / 9)
            boxes["class_id"], boxes["cell"] = rng.integers(0, 2, count), rng.integers(0, 1000, count)
            pair.append(boxes)
        yield levels, pair[0], pair[1]


def pack(cases: list[tuple[Case, NDArray[np.void], NDArray[np.void]]]) -> bytes:
    """The .bin: see the module docstring."""
    parts = [b"ECNGOLD", struct.pack("<Bi", VERSION, len(cases))]
    for case, boxes, final in cases:
        parts.append(struct.pack("<32s4i", case.name.encode(), *case.heads[0].data.shape, case.capacity))
        parts.append(struct.pack("<2f", case.cell_px, case.threshold))
        own = case.class_thresholds
        parts.append(struct.pack(f"<i{len(own)}f", len(own), *own))
        for head in case.heads:
            flat, strides = _flat(head)
            scale, zero_point = (head.quant.scale, head.quant.zero_point) if head.quant else (0.0, 0)
            dtype = DTYPES.index(head.data.dtype.name)
            parts.append(struct.pack("<5ifi", dtype, zero_point, *strides, scale, flat.nbytes))
            parts.append(flat.astype(flat.dtype.newbyteorder("<")).tobytes())
        parts += [struct.pack("<i", len(boxes)), *(struct.pack("<5f2i", *box.tolist()) for box in boxes)]
        parts.append(struct.pack("<7i", case.any_class, *case.frame))
        parts += [struct.pack("<i", len(final)), *(struct.pack("<5f2i", *box.tolist()) for box in final)]
    joined = [
        (levels, (fine, coarse, rule.join_levels(fine, coarse, levels))) for levels, fine, coarse in joins()
    ]
    parts.append(struct.pack("<i", len(joined)))
    for levels, lists in joined:
        parts.append(struct.pack("<4f", *levels))
        for boxes in lists:
            parts += [struct.pack("<i", len(boxes)), *(struct.pack("<5f2i", *box.tolist()) for box in boxes)]
    pairs = np.stack([logits(), rule.logistic(logits())], axis=1)
    parts += [struct.pack("<i", len(pairs)), pairs.astype("<f4").tobytes()]
    return b"".join(parts)


if __name__ == "__main__":
    main()

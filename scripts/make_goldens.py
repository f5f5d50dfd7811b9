"""Write tests/golden/decoder_v1.npz and .bin: head tensors, and the boxes that the NumPy rule finds in them.

Run from anywhere: python scripts/make_goldens.py
The files pin the rule. Regenerate only when it changes on purpose, and raise VERSION (and the file names with it)
in the same commit. Both hold the same cases: Python reads the .npz, tests/c/test_decode.c the .bin, because a C test
on a device has no unzip.

The .bin, little-endian throughout: "ECNGOLD", VERSION as one byte, int32 number of cases; then for each case
    char name[32]; int32 classes, height, width, capacity; float32 cell_px, threshold;
    heat, size, offset: int32 dtype, zero_point, stride_c, stride_y, stride_x; float32 scale; int32 bytes; the elements;
    int32 boxes; for each: float32 x1, y1, x2, y2, score; int32 class_id, cell
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import reference
from edge_centernet.decoder.head import Head
from edge_centernet.files import write_atomic
from edge_centernet.manifest import Quant

VERSION = 1
FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"
DTYPES = ("float32", "int8", "uint8")  # their index is ecn_tensor.dtype
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

    def run(self, decode_boxes: Any) -> NDArray[np.void]:
        """The boxes according to one of the two decoders."""
        return decode_boxes(*self.heads, cell_px=self.cell_px, threshold=self.threshold, capacity=self.capacity)


def main() -> None:
    """Write both files and say what is in them."""
    cases = [(case, case.run(reference.decode_boxes)) for case in make_cases()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {"version": np.int32(VERSION)}  # type: ignore[dict-item]
    for case, boxes in cases:
        arrays.update(to_arrays(case, boxes))
    temporary = FOLDER / "new.npz"
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, FOLDER / f"decoder_v{VERSION}.npz")
    write_atomic(FOLDER / f"decoder_v{VERSION}.bin", pack(cases))
    for case, boxes in cases:
        print(f"{case.name:24} {case.heads[0].data.dtype!s:8} {case.heads[0].data.shape!s:14} {len(boxes):4} boxes")


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
        yield _case(name, (heat, size, offset), quants, layout, capacity=20, cell_px=4.0, threshold=-0.8472978603872037)
    heat = _peaks(rng, (2, 9, 11), 5, 250).astype(np.uint8)
    size, offset = (rng.integers(0, 256, (2, 9, 11)).astype(np.uint8) for _ in range(2))
    quants = (Quant(1 / 256, 0), Quant(0.06, 3), Quant(1 / 255, 0))
    yield _case("uint8 probabilities", (heat, size, offset), quants, "NHWC", capacity=16, cell_px=8.0, threshold=0.3)

    heat = rng.normal(-3, 2, (2, 8, 8)).astype(np.float32)
    size, offset = (rng.normal(2, 2, (2, 8, 8)).astype(np.float32) for _ in range(2))
    yield _case("float32", (heat, size, offset), (None,) * 3, "NCHW", capacity=50, cell_px=4.0, threshold=-2.5)
    odd = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, 3e38, -3e38, 1e-45, 0.5])
    heat, size, offset = (rng.choice(odd, (c, 8, 8)).astype(np.float32) for c in (2, 2, 2))
    heads = (heat, size, offset)
    yield _case("float32 NaN and Inf", heads, (None,) * 3, "NHWC", capacity=128, cell_px=4.0, threshold=-np.inf)
    heads = (_peaks(rng, (2, 6, 6), -90, 90).astype(np.int8), size[:, :6, :6], offset[:, :6, :6])
    quants = (logits, None, None)
    yield _case("int8 heat, float boxes", heads, quants, "NCHW", capacity=9, cell_px=4.0, threshold=0.0)

    yield from _tie_cases()


def _tie_cases() -> Iterator[Case]:
    flat = np.full((2, 5, 5), 40, np.int8)
    ones = np.full((2, 5, 5), 1, np.int8)
    unit = (Quant(1.0, 0),) * 3
    yield _case("flat map", (flat, ones, ones), unit, "NCHW", capacity=8, cell_px=1.0, threshold=-128.0)
    isolated = np.full((4, 5, 5), -128, np.int8)
    isolated[:, ::2, ::2] = 7  # 36 equal peaks, room for 10
    boxes = (np.full((2, 5, 5), 3, np.int8), np.zeros((2, 5, 5), np.int8))
    yield _case("ties over capacity", (isolated, *boxes), unit, "NCHW", capacity=10, cell_px=4.0, threshold=7.0)
    yield _case("just over the ties", (isolated, *boxes), unit, "NCHW", capacity=10, cell_px=4.0, threshold=7.0000005)
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


def to_arrays(case: Case, boxes: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """One case as plain arrays; `load` is the inverse."""
    shape = case.heads[0].data.shape
    arrays: dict[str, NDArray[Any]] = {
        f"{case.name}/shape, capacity": np.array([*shape, case.capacity], np.int32),
        f"{case.name}/cell_px, threshold": np.array([case.cell_px, case.threshold], np.float32),
        f"{case.name}/boxes": np.stack([boxes[column] for column in BOX_COLUMNS], axis=1),
        f"{case.name}/class_id, cell": np.stack([boxes["class_id"], boxes["cell"]], axis=1),
    }
    for head in case.heads:
        flat, strides = _flat(head)
        quant = [head.quant.scale, head.quant.zero_point] if head.quant else []
        arrays[f"{case.name}/{head.role}"] = flat
        arrays[f"{case.name}/{head.role} strides"] = np.array(strides, np.int32)
        arrays[f"{case.name}/{head.role} quant"] = np.array(quant, np.float64)
    return arrays


def load(path: Path) -> list[tuple[Case, NDArray[np.void]]]:
    """The cases of a .npz and their boxes; RuntimeError if it is of another version."""
    with np.load(path) as file:
        arrays = dict(file)
    if arrays["version"] != VERSION:
        raise RuntimeError(f"{path}: expected version {VERSION}, got {arrays['version']}: run scripts/make_goldens.py")
    names = [key.removesuffix("/boxes") for key in arrays if key.endswith("/boxes")]
    return [_from_arrays(name, arrays) for name in names]


def _from_arrays(name: str, arrays: dict[str, NDArray[Any]]) -> tuple[Case, NDArray[np.void]]:
    *shape, capacity = (int(value) for value in arrays[f"{name}/shape, capacity"])
    cell_px, threshold = (float(value) for value in arrays[f"{name}/cell_px, threshold"])
    heads = []
    for role in ROLES:
        flat, quant = arrays[f"{name}/{role}"], arrays[f"{name}/{role} quant"]
        strides = tuple(int(stride) * flat.itemsize for stride in arrays[f"{name}/{role} strides"])
        view = np.lib.stride_tricks.as_strided(flat, (shape[0] if role == "heat" else 2, *shape[1:]), strides)
        heads.append(Head(role, view, Quant(float(quant[0]), int(quant[1])) if len(quant) else None))
    columns, ids = arrays[f"{name}/boxes"], arrays[f"{name}/class_id, cell"]
    boxes = np.empty(len(columns), reference.BOX)
    for index, column in enumerate(BOX_COLUMNS):
        boxes[column] = columns[:, index]
    boxes["class_id"], boxes["cell"] = ids[:, 0], ids[:, 1]
    return Case(name, (heads[0], heads[1], heads[2]), capacity, cell_px, threshold), boxes


def pack(cases: list[tuple[Case, NDArray[np.void]]]) -> bytes:
    """The .bin: see the module docstring."""
    parts = [b"ECNGOLD", struct.pack("<Bi", VERSION, len(cases))]
    for case, boxes in cases:
        parts.append(struct.pack("<32s4i", case.name.encode(), *case.heads[0].data.shape, case.capacity))
        parts.append(struct.pack("<2f", case.cell_px, case.threshold))
        for head in case.heads:
            flat, strides = _flat(head)
            scale, zero_point = (head.quant.scale, head.quant.zero_point) if head.quant else (0.0, 0)
            dtype = DTYPES.index(head.data.dtype.name)
            parts.append(struct.pack("<5ifi", dtype, zero_point, *strides, scale, flat.nbytes))
            parts.append(flat.astype(flat.dtype.newbyteorder("<")).tobytes())
        parts.append(struct.pack("<i", len(boxes)))
        parts += [struct.pack("<5f2i", *box.tolist()) for box in boxes]
    return b"".join(parts)


if __name__ == "__main__":
    main()

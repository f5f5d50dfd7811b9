"""The C letterbox: the bytes of preprocess.py for every size and format, strict compilers, no symbols."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from c_library import BUILDS, LEVELS, SOURCES, STRICT, CImage, CInput, cpp_compiler, run, symbols
from numpy.typing import NDArray

import edge_centernet.decoder
from edge_centernet.imageio import read_image
from edge_centernet.manifest import Layout, Manifest, ModelSpec, Quant, TensorSpec
from edge_centernet.preprocess import Letterbox, prepare

LIBRARY = SOURCES / "edgecn_letterbox.c"
ASSETS = Path(edge_centernet.__file__).parent / "assets"
RGB, BGR, YUYV, NV12 = range(4)
FORMATS = {"rgb": RGB, "bgr": BGR, "yuyv": YUYV, "nv12": NV12}
DTYPES = {"int8": 1, "uint8": 2}  # ECN_S8, ECN_U8
LAYOUTS = {"NHWC": 0, "NCHW": 1}
FRAME = ("src_width", "src_height", "new_width", "new_height", "left", "top")
EXACT = Quant(1 / 128, 0)  # int8: stored = pixel - 128
Image = NDArray[np.uint8]


class CFrame(ctypes.Structure):
    """ecn_frame."""

    _fields_ = [(name, ctypes.c_int32) for name in FRAME]


@pytest.fixture(scope="module")
def library(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The C file as a shared object."""
    path = tmp_path_factory.mktemp("letterbox") / "letterbox.so"
    run(compiler, "-std=c99", "-O2", "-shared", "-fPIC", LIBRARY, "-o", path)
    loaded = ctypes.CDLL(str(path))
    loaded.ecn_letterbox_table.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p,
    ]  # fmt: skip
    return loaded


def padded(plane: Image, gap: int) -> tuple[Image, int]:
    """(bytes of the rows with `gap` bytes of rubbish after each but the last, stride)."""
    rows = plane.reshape(len(plane), -1)  # (H, bytes of a row)
    apart = np.full((len(rows), rows.shape[1] + gap), 0xA5, np.uint8)
    apart[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(apart.reshape(-1)[: apart.size - gap]), apart.shape[1]


def c_letterbox(
    library: ctypes.CDLL,
    planes: tuple[Image, ...],
    pixel_format: int,
    spec: ModelSpec,
    tensor: TensorSpec,
    table: NDArray[Any] | None = None,
    gap: int = 0,
) -> tuple[NDArray[Any], CFrame]:
    """What ecn_letterbox writes, in tensor.shape and dtype, and the frame it returns."""
    height, width = planes[0].shape[:2]
    parts = [padded(plane, gap) for plane in planes]
    chroma, chroma_stride = (parts[1][0].ctypes.data, parts[1][1]) if pixel_format == NV12 else (None, 0)
    image = CImage(parts[0][0].ctypes.data, chroma, pixel_format, width, height, parts[0][1], chroma_stride)
    out = np.full(tensor.shape, 0x5A, tensor.dtype)
    _, in_height, in_width = tensor.chw
    place = CInput(
        out.ctypes.data, None if table is None else table.ctypes.data, in_width, in_height,
        DTYPES[tensor.dtype], LAYOUTS[tensor.layout], {"rgb": RGB, "bgr": BGR}[spec.color], spec.pad_value,
    )  # fmt: skip
    work = np.full(library.ecn_letterbox_work(in_width) // 2, 0x5A5A, np.int16)
    frame = CFrame()
    code = library.ecn_letterbox(
        ctypes.byref(image),
        ctypes.byref(place),
        ctypes.c_void_p(work.ctypes.data),
        work.nbytes,
        ctypes.byref(frame),
    )
    assert code == 0
    return out, frame


def input_spec(height: int, width: int, dtype: str, layout: Layout, quant: Quant = EXACT) -> TensorSpec:
    """The network's input, of any size."""
    shape = (1, height, width, 3) if layout == "NHWC" else (1, 3, height, width)
    return TensorSpec("image", shape, layout, dtype, quant)


def manifest_of(model: ModelSpec, tensor: TensorSpec) -> Manifest:
    """The least that prepare() takes."""
    height, width = model.cells
    heads: dict[str, Any] = {
        role: TensorSpec(role, (1, channels, height, width), "NCHW", "float32")
        for role, channels in (("heat", 1), ("size", 2), ("offset", 2))
    }
    return Manifest(model, tensor, **heads, precision="int8")


def c_table(library: ctypes.CDLL, spec: ModelSpec, tensor: TensorSpec) -> NDArray[np.uint8]:
    """The 768 bytes of ecn_letterbox_table."""
    assert tensor.quant is not None
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    table = np.empty(768, np.uint8)
    code = library.ecn_letterbox_table(
        mean.ctypes.data, std.ctypes.data, tensor.quant.scale, tensor.quant.zero_point, DTYPES[tensor.dtype],
        table.ctypes.data,
    )  # fmt: skip
    assert code == 0
    return table


def noise(height: int, width: int, channels: int, seed: int = 0) -> Image:
    """Every byte value: the hardest image to interpolate alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def to_planes(pixel_format: int, height: int, width: int, seed: int = 0) -> tuple[tuple[Image, ...], Image]:
    """(random planes of one format, the BGR image OpenCV makes of them)."""
    if pixel_format == NV12:
        whole = noise(height * 3 // 2, width, 1, seed)
        return (whole[:height], whole[height:]), cv2.cvtColor(whole, cv2.COLOR_YUV2BGR_NV12).astype(np.uint8)
    if pixel_format == YUYV:
        pairs = noise(height, width, 2, seed)
        return (pairs,), cv2.cvtColor(pairs, cv2.COLOR_YUV2BGR_YUY2).astype(np.uint8)
    pixels = noise(height, width, 3, seed)
    return (pixels,), pixels if pixel_format == BGR else np.ascontiguousarray(pixels[..., ::-1])


def differing(expected: NDArray[Any], actual: NDArray[Any]) -> int:
    """How many values differ."""
    assert (expected.shape, expected.dtype) == (actual.shape, actual.dtype)
    return int(np.count_nonzero(expected != actual))


SIZES = {  # width, height of the image
    "tiny": (1, 1),
    "one_column": (1, 37),
    "one_row": (53, 1),
    "smaller": (5, 3),
    "odd": (451, 301),
    "nearly_equal": (97, 63),
    "equal": (96, 64),
    "equal_width": (96, 31),
    "exact_half": (192, 128),
    "exact_third": (288, 192),
    "hd": (1280, 720),
    "portrait": (720, 1280),
    "longest_row": (8192, 2),
    "longest_column": (2, 8192),
}


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_prepare(size: str, library: ctypes.CDLL) -> None:
    """Shrunk, enlarged, halved or equal, for both types, layouts and orders: the bytes of `prepare`."""
    width, height = SIZES[size]
    image = noise(height, width, 3)
    colors: tuple[Literal["rgb", "bgr"], ...] = ("rgb", "bgr")
    layouts: tuple[Layout, ...] = ("NHWC", "NCHW")
    for dtype, layout, color in product(DTYPES, layouts, colors):
        quant = EXACT if dtype == "int8" else Quant(1 / 128, 128)
        spec, tensor = (
            ModelSpec("m", "1", 64, 96, ("cat",), color=color),
            input_spec(64, 96, dtype, layout, quant),
        )
        expected, _ = prepare(image, manifest_of(spec, tensor))
        actual, _ = c_letterbox(library, (image,), BGR, spec, tensor)
        assert differing(expected, actual) == 0


@pytest.mark.parametrize("name", ["astronaut.jpg", "cat.jpg", "sample.jpg"])
@pytest.mark.parametrize("side", [256, 320])
def test_photos_are_those_of_prepare(name: str, side: int, library: ctypes.CDLL) -> None:
    """What the shipped models are shown of the sample photos: 0 bytes differ."""
    photo = read_image(ASSETS / name)
    spec, tensor = ModelSpec("m", "1", side, side, ("cat",)), input_spec(side, side, "int8", "NHWC")
    expected, _ = prepare(photo, manifest_of(spec, tensor))
    actual, _ = c_letterbox(library, (photo,), BGR, spec, tensor)
    assert differing(expected, actual) == 0


def sizes_at_random(count: int) -> Iterator[tuple[int, int, int, int]]:
    """Image and input sides, from tiny to a few hundred; even images, for all formats."""
    rng = np.random.default_rng(3)
    for limit in rng.choice([8, 60, 300], count):
        src, dst = rng.integers(1, limit + 1, 2), rng.integers(1, rng.choice([8, 60, 200]), 2)
        yield 2 * int(src[0]), 2 * int(src[1]), int(dst[0]), int(dst[1])


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_every_format_at_every_size(pixel_format: str, library: ctypes.CDLL) -> None:
    """300 random sizes, rows 0 to 6 bytes apart: cvtColor, resize and padding in Python agree."""
    layouts: tuple[Layout, ...] = ("NHWC", "NCHW")
    for i, (width, height, in_width, in_height) in enumerate(sizes_at_random(300)):
        planes, bgr = to_planes(FORMATS[pixel_format], height, width, i)
        box = Letterbox(width, height, in_width, in_height)
        expected = np.zeros((in_height, in_width, 3), np.int8)
        size = (box.new_width, box.new_height)
        inside = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        rows, columns = slice(box.top, box.top + box.new_height), slice(box.left, box.left + box.new_width)
        expected[rows, columns] = (inside[..., ::-1] ^ 0x80).view(np.int8)
        tensor = input_spec(in_height, in_width, "int8", layouts[i % 2])
        spec = ModelSpec("m", "1", 32, 32, ("cat",))  # only its colour and padding count here
        actual, _ = c_letterbox(library, planes, FORMATS[pixel_format], spec, tensor, gap=i % 7)
        if tensor.layout == "NCHW":
            expected = expected.transpose(2, 0, 1)
        assert differing(expected[None], actual) == 0, (width, height, in_width, in_height)


def test_largest_enlargement(library: ctypes.CDLL) -> None:
    """Up to the 4096 columns that the header allows, coefficients are OpenCV's: 0 bytes differ."""
    image = noise(2, 131, 3)
    spec, tensor = ModelSpec("m", "1", 64, 4096, ("cat",)), input_spec(64, 4096, "int8", "NHWC")
    expected, _ = prepare(image, manifest_of(spec, tensor))
    actual, frame = c_letterbox(library, (image,), BGR, spec, tensor)
    assert frame.new_width == 4096
    assert differing(expected, actual) == 0


def test_every_colour_of_video(library: ctypes.CDLL) -> None:
    """All 2^24 values of Y, U, V: the same R, G, B as OpenCV, in the size of the image."""
    u, v = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    pairs = np.empty((256, 512, 2), np.uint8)
    pairs[:, 0::2, 1], pairs[:, 1::2, 1] = u, v
    spec, tensor = (
        ModelSpec("m", "1", 256, 512, ("cat",)),
        input_spec(256, 512, "uint8", "NHWC", Quant(1 / 128, 128)),
    )
    wrong = 0
    for luma in range(0, 256, 2):
        pairs[:, 0::2, 0], pairs[:, 1::2, 0] = luma, luma + 1
        actual, _ = c_letterbox(library, (pairs,), YUYV, spec, tensor)
        wrong += differing(cv2.cvtColor(pairs, cv2.COLOR_YUV2RGB_YUY2)[None], actual)
    assert wrong == 0


def test_frames_are_those_of_python(library: ctypes.CDLL) -> None:
    """New sides and padding of 20000 pairs of sizes, halves to even among them, are Letterbox's."""
    rng = np.random.default_rng(5)
    sides = np.concatenate([rng.integers(1, 8193, (15000, 4)), rng.integers(1, 40, (5000, 4))]).tolist()
    frame = CFrame()
    for width, height, in_width, in_height in sides:
        in_width, in_height = min(in_width, 4096), min(in_height, 4096)
        assert library.ecn_letterbox_frame(width, height, in_width, in_height, ctypes.byref(frame)) == 0
        box = Letterbox(width, height, in_width, in_height)
        expected = (width, height, box.new_width, box.new_height, box.left, box.top)
        assert tuple(getattr(frame, name) for name in FRAME) == expected


QUANTS = {
    "exact_int8": ("int8", EXACT, (128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
    "imagenet": ("int8", Quant(0.0186584, -14), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "halves": ("uint8", Quant(2.0, 3), (0.0, 1.0, 2.0), (1.0, 1.0, 1.0)),
    "clipped": ("uint8", Quant(1e-30, 128), (127.5, 0.0, 255.0), (0.1, 3.0, 1e-5)),
    "flat": ("int8", Quant(1e30, 127), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", QUANTS)
def test_table_is_that_of_prepare(name: str, library: ctypes.CDLL) -> None:
    """Mean, deviation, scale and zero point of a manifest, made a table in C: the bytes of `prepare`."""
    dtype, quant, mean, std = QUANTS[name]
    layouts: tuple[Layout, ...] = ("NHWC", "NCHW")
    image = noise(90, 50, 3)
    for layout in layouts:
        spec = ModelSpec("m", "1", 64, 96, ("cat",), pad_value=77, mean=mean, std=std)
        tensor = input_spec(64, 96, dtype, layout, quant)
        expected, _ = prepare(image, manifest_of(spec, tensor))
        actual, _ = c_letterbox(library, (image,), BGR, spec, tensor, c_table(library, spec, tensor))
        assert differing(expected, actual) == 0


def test_table_rounds_as_numpy_at_random(library: ctypes.CDLL) -> None:
    """500 random means, deviations and scales: all 768 entries are NumPy's."""
    rng = np.random.default_rng(9)
    for _ in range(500):
        mean, std = rng.uniform(0, 255, 3), rng.uniform(0.5, 255, 3)
        scale, zero_point = math.exp(rng.uniform(-6, 1)), int(rng.integers(-128, 128))
        spec = ModelSpec("m", "1", 32, 32, ("cat",), mean=tuple(mean.tolist()), std=tuple(std.tolist()))
        tensor = input_spec(32, 32, "int8", "NHWC", Quant(scale, zero_point))
        real = (np.arange(256.0)[None] - mean[:, None]) / std[:, None]  # (3, 256)
        expected = np.clip(np.rint(real / scale) + zero_point, -128, 127).astype(np.int8)
        assert differing(expected.reshape(-1), c_table(library, spec, tensor).view(np.int8)) == 0


def test_checksums_of_the_c_program_are_opencvs(root: Path) -> None:
    """The two numbers by which the C test knows OpenCV's bytes, on machines without it, come from here."""
    noise_at = (np.arange(160 * 120 * 2, dtype=np.uint32) * np.uint32(2654435761) >> 24).astype(np.uint8)
    enlarged = noise_at[: 67 * 43 * 3].reshape(43, 67, 3)
    shrunk = cv2.cvtColor(noise_at.reshape(120, 160, 2), cv2.COLOR_YUV2RGB_YUY2).astype(np.uint8)
    source = (root / "tests" / "c" / "test_letterbox.c").read_text()
    spec = ModelSpec("m", "1", 64, 96, ("cat",), color="bgr")  # keeps the order, whichever it is
    for image, call in ((enlarged, "ECN_RGB, 67, 43"), (shrunk, "ECN_YUYV, 160, 120")):
        stored, _ = prepare(
            image, manifest_of(spec, input_spec(64, 96, "uint8", "NHWC", Quant(1 / 128, 128)))
        )
        weighted = stored.reshape(-1).astype(np.uint64) * np.arange(1, stored.size + 1, dtype=np.uint64)
        assert f"checksum({call}) == 0x{int(weighted.sum()) % 2**32:08X}u" in source


@pytest.mark.parametrize("build", BUILDS)
def test_c_program_finds_no_failure(build: str, compiler: str, root: Path, tmp_path: Path) -> None:
    """Compiled without a warning, the C test passes its checks of every error code and of sizes up to 13."""
    program = tmp_path / "test_letterbox"
    test = root / "tests" / "c" / "test_letterbox.c"
    run(compiler, *BUILDS[build], *STRICT, f"-I{SOURCES}", test, LIBRARY, "-o", program)
    assert run(program) == "8704 checks, 0 failures\n"


def test_c_program_notices_a_wrong_library(compiler: str, root: Path, tmp_path: Path) -> None:
    """A library that rounds down where OpenCV rounds is found: the program above can fail."""
    program, changed = tmp_path / "test_letterbox", tmp_path / "changed.c"
    source = LIBRARY.read_text()
    assert source.count("(a + b + 2) >> 2") == 1
    changed.write_text(source.replace("(a + b + 2) >> 2", "(a + b) >> 2"))
    run(
        compiler,
        "-std=c99",
        f"-I{SOURCES}",
        root / "tests" / "c" / "test_letterbox.c",
        changed,
        "-o",
        program,
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 1
    assert not done.stdout.endswith(" 0 failures\n")


def test_c_source_is_also_cpp(compiler: str, tmp_path: Path) -> None:
    """A C++ compiler takes the same file without a warning."""
    run(cpp_compiler(), "-x", "c++", *STRICT, "-c", LIBRARY, "-o", tmp_path / "letterbox.o")


@pytest.mark.parametrize("level", LEVELS)
def test_library_needs_memcpy_and_memset_only(level: str, compiler: str, tmp_path: Path) -> None:
    """No libm, no malloc: at most those two undefined symbols in the object file, and no data of its own."""
    found = symbols(compiler, level, LIBRARY, tmp_path / "letterbox.o")
    assert {name for kind, name in found if kind == "U"} <= {"memcpy", "memset"}
    assert [name for kind, name in found if kind in "DdBbC"] == []
    assert sorted(name for kind, name in found if kind == "T") == [
        "ecn_letterbox",
        "ecn_letterbox_frame",
        "ecn_letterbox_strerror",
        "ecn_letterbox_table",
        "ecn_letterbox_work",
    ]


@pytest.mark.parametrize("optimised", ["-Os", "-O2", "-O3"])
def test_stack_is_what_the_header_says(optimised: str, compiler: str, tmp_path: Path) -> None:
    """No call chain needs 700 bytes: without recursion, no more than all functions' frames together."""
    library = tmp_path / "letterbox.o"
    done = subprocess.run(
        [compiler, "-std=c99", optimised, "-fstack-usage", "-c", LIBRARY, "-o", library],
        capture_output=True,
        text=True,
    )
    usage = library.with_suffix(".su")
    if done.returncode != 0 or not usage.exists():
        pytest.skip("the compiler does not know -fstack-usage")
    frames = [line.split("\t") for line in usage.read_text().splitlines()]
    assert {kind for _, _, kind in frames} == {"static"}
    assert sum(int(size) for name, size, _ in frames if not name.endswith(":ecn_letterbox_table")) <= 700


def test_header_example_compiles(compiler: str, tmp_path: Path) -> None:
    """The header's example is C: its ten lines, inside a function, compile without a warning."""
    header = (SOURCES / "edgecn_letterbox.h").read_text()
    lines = [line[7:] for line in header.split("*/")[0].splitlines() if line.startswith(" *     ")]
    assert len(lines) == 10
    example = "\n".join(lines)
    program = tmp_path / "example.c"
    program.write_text(
        '#include <stddef.h>\n#include "edgecn_letterbox.h"\n'
        "extern const uint8_t camera[]; extern const ecn_heads heads;\n"
        "void stop(const char *); void run_network(const int8_t *); int32_t example(ecn_box *boxes);\n"
        f"int32_t example(ecn_box *boxes)\n{{\nint32_t n;\n{example}\nreturn n;\n}}\n"
    )
    run(compiler, "-std=c99", *STRICT, f"-I{SOURCES}", "-c", program, "-o", tmp_path / "example.o")


def test_errors_have_texts(library: ctypes.CDLL) -> None:
    """The new code of the letterbox tells what to look at."""
    text: Callable[[int], bytes] = library.ecn_letterbox_strerror
    library.ecn_letterbox_strerror.restype = ctypes.c_char_p
    assert text(-16) == b"the workspace is smaller than ECN_LETTERBOX_WORK or at an odd address"

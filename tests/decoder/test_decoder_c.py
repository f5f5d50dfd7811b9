"""The C library on its own: strict compilers, goldens without Python, sanitizers, no outside symbols."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from c_library import BUILDS, LEVELS, SOURCES, STRICT, cpp_compiler, run, symbols

import edge_centernet.decoder

LIBRARY = SOURCES / "edgecn_decode.c"


@pytest.mark.parametrize("build", BUILDS)
def test_c_program_finds_the_golden_boxes(build: str, compiler: str, root: Path, tmp_path: Path) -> None:
    """Compiled without a warning, the C test passes all goldens and its own checks of every error code."""
    program = tmp_path / "test_decode"
    test = root / "tests" / "c" / "test_decode.c"
    run(compiler, *BUILDS[build], *STRICT, f"-I{SOURCES}", test, LIBRARY, "-o", program)
    out = run(program, root / "tests" / "golden" / "decoder_v3.bin")
    assert out.startswith("28 golden cases, ")
    assert out.endswith(" checks, 0 failures\n")


def test_c_program_notices_a_wrong_golden(compiler: str, root: Path, tmp_path: Path) -> None:
    """A changed last bit of the last probability is found: the program above can fail."""
    program, changed = tmp_path / "test_decode", tmp_path / "changed.bin"
    run(compiler, "-std=c99", f"-I{SOURCES}", root / "tests" / "c" / "test_decode.c", LIBRARY, "-o", program)
    golden = bytearray((root / "tests" / "golden" / "decoder_v3.bin").read_bytes())
    golden[-4] ^= 1
    changed.write_bytes(golden)
    done = subprocess.run([program, changed], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.endswith(" 1 failures\n")


def test_c_source_is_also_cpp(compiler: str, tmp_path: Path) -> None:
    """A C++ compiler takes the same file without a warning."""
    run(cpp_compiler(), "-x", "c++", *STRICT, "-c", LIBRARY, "-o", tmp_path / "decode.o")


@pytest.mark.parametrize("level", LEVELS)
def test_library_needs_no_outside_symbol(level: str, compiler: str, tmp_path: Path) -> None:
    """No libm, no malloc: memcpy and memset at most, and no data of its own."""
    found = symbols(compiler, level, LIBRARY, tmp_path / "decode.o")
    assert [name for kind, name in found if kind in "DdBbC"] == []
    assert {name for kind, name in found if kind == "U"} <= {"memcpy", "memset"}
    assert sorted(name for kind, name in found if kind == "T") == [
        "ecn_decode",
        "ecn_drop_cut",
        "ecn_drop_twins",
        "ecn_join_levels",
        "ecn_logistic",
        "ecn_probability_table",
        "ecn_stitch",
        "ecn_strerror",
        "ecn_to_image",
        "ecn_to_probability",
        "ecn_version",
    ]


def test_extension_is_active_where_it_can_be_built(compiler: str) -> None:
    """Where there is a C compiler, the C decoder is in use (`python setup.py build_ext --inplace`)."""
    assert edge_centernet.decoder.BACKEND == "c"


def test_decoder_finds_the_golden_boxes(decoder: ModuleType, goldens: ModuleType, root: Path) -> None:
    """Both back ends give every golden box, and what is left of them in the image, to the bit."""
    cases = goldens.load(root / "tests" / "golden" / "decoder_v3.npz")
    assert len(cases) == 28
    for case, boxes, final in cases:
        found = case.run(decoder)
        assert found[0].tobytes() == boxes.tobytes(), case.name
        assert found[1].tobytes() == final.tobytes(), case.name


def test_decoder_joins_levels_alike(decoder: ModuleType, goldens: ModuleType) -> None:
    """Both back ends join the boxes of tiles and of the whole image to the same ones, to the bit."""
    kept = 0
    for levels, fine, coarse in goldens.joins():
        expected = goldens.rule.join_levels(fine, coarse, levels)
        kept += len(expected)
        assert decoder.join_levels(fine.copy(), coarse.copy(), levels).tobytes() == expected.tobytes()
    assert kept > 100


def test_decoder_drops_cut_boxes_alike(decoder: ModuleType, goldens: ModuleType) -> None:
    """Both back ends drop the same boxes of each tile."""
    rng, rule, dropped = np.random.default_rng(3), goldens.rule, 0
    tiles = [rule.Tile(left, 0, 10 * (left > 0), 0, 20 if left else 10, 9) for left in (0, 8)]
    for _ in range(20):
        boxes = np.zeros(40, rule.BOX)
        for axis, side in (("x", 160), ("y", 120)):
            ends = np.sort(rng.integers(0, side, (2, 40)), axis=0)
            boxes[f"{axis}1"], boxes[f"{axis}2"] = ends
        boxes["cell"] = rng.integers(0, 300, 40)
        for tile in tiles:
            where = (tile, (12, 12), (15, 20), 8.0)
            expected = rule.drop_cut(boxes, *where)
            dropped += len(boxes) - len(expected)
            assert decoder.drop_cut(boxes.copy(), *where).tobytes() == expected.tobytes()
    assert dropped > 50


def test_both_golden_files_hold_the_same_cases(goldens: ModuleType, root: Path) -> None:
    """The .bin for C is the .npz in other clothes."""
    cases = goldens.load(root / "tests" / "golden" / "decoder_v3.npz")
    assert goldens.pack(cases) == (root / "tests" / "golden" / "decoder_v3.bin").read_bytes()


def test_layouts_of_one_map_have_the_same_golden_boxes(goldens: ModuleType, root: Path) -> None:
    """A float32 map decodes to the same boxes in NCHW and NHWC memory."""
    cases = {
        case.name: (case, boxes)
        for case, boxes, _ in goldens.load(root / "tests" / "golden" / "decoder_v3.npz")
    }
    case, boxes = cases["float32"]
    moved = [
        goldens.Head(
            head.role, np.ascontiguousarray(head.data.transpose(1, 2, 0)).transpose(2, 0, 1), head.quant
        )
        for head in case.heads
    ]
    assert moved[0].data.strides != case.heads[0].data.strides
    again = goldens.Case(case.name, tuple(moved), case.capacity, case.cell_px, case.threshold)
    assert again.run(goldens.rule)[0].tobytes() == boxes.tobytes()


def test_goldens_of_another_version_are_refused(goldens: ModuleType, tmp_path: Path) -> None:
    """The reader names the version it found and the script to run."""
    np.savez(tmp_path / "old.npz", version=np.int32(0))
    with pytest.raises(RuntimeError, match=r"expected version 3, got 0: run tests/c/make_goldens\.py"):
        goldens.load(tmp_path / "old.npz")


def test_logistic_is_within_a_millionth(decoder: ModuleType, goldens: ModuleType) -> None:
    """Against exp in double precision, for all that a heatmap may hold; both back ends agree to the bit."""
    logits = goldens.logits()
    boxes = np.zeros(len(logits), goldens.rule.BOX)
    boxes["score"] = logits
    found = decoder.to_probability(boxes)["score"]

    assert found.tobytes() == goldens.rule.logistic(logits).tobytes()
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert np.abs(found - exact)[~np.isnan(logits)].max() < 1e-6
    assert found[np.isnan(logits)].tolist() == [0.0]

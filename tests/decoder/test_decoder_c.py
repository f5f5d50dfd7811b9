"""The C library on its own: strict compilers, goldens without Python, sanitizers, no outside symbols."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
    out = run(program, root / "tests" / "golden" / "decoder_v2.bin")
    assert out.startswith("28 golden cases, ")
    assert out.endswith(" checks, 0 failures\n")


def test_c_program_notices_a_wrong_golden(compiler: str, root: Path, tmp_path: Path) -> None:
    """A changed last bit of the last probability is found: the program above can fail."""
    program, changed = tmp_path / "test_decode", tmp_path / "changed.bin"
    run(compiler, "-std=c99", f"-I{SOURCES}", root / "tests" / "c" / "test_decode.c", LIBRARY, "-o", program)
    golden = bytearray((root / "tests" / "golden" / "decoder_v2.bin").read_bytes())
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
        "ecn_drop_twins",
        "ecn_logistic",
        "ecn_probability_table",
        "ecn_strerror",
        "ecn_to_image",
        "ecn_to_probability",
        "ecn_version",
    ]


def test_extension_is_active_where_it_can_be_built(compiler: str) -> None:
    """Where there is a C compiler, the C decoder is in use (`python setup.py build_ext --inplace`)."""
    assert edge_centernet.decoder.BACKEND == "c"

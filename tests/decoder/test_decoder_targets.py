"""The C decoder on every kind of machine it is meant for: each stage of scripts/test_decoder_targets.sh."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import pytest

STAGES = (
    "native",
    "i686",
    "aarch64",
    "armhf",
    "s390x",
    "riscv64",
    "cortex-m",
    "sanitize",
    "valgrind",
    "tidy",
    "cppcheck",
    "size",
)

pytestmark = pytest.mark.cross


def run(root: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """What the script said, both streams together."""
    command = [str(root / "scripts" / "test_decoder_targets.sh"), *map(str, args)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_passes(stage: str, root: Path, tmp_path: Path) -> None:
    """Every check of the stage passes, and at least one was made."""
    have = run(root, "--have", stage)
    if have.returncode != 0:
        pytest.skip(f"not installed: {have.stdout.strip()}; scripts/test_decoder_targets.sh --install")
    done = run(root, "--csv", tmp_path / "size.csv", stage)
    assert done.returncode == 0, done.stdout
    assert "PASS" in done.stdout
    assert "FAIL" not in done.stdout


def test_stages_are_those_of_the_script(root: Path) -> None:
    """A stage added to the script is tested here too."""
    script = (root / "scripts" / "test_decoder_targets.sh").read_text()
    found = re.search(r"^STAGES=\((.*)\)$", script, re.MULTILINE)
    assert found is not None
    assert tuple(found[1].split()) == STAGES


def test_script_refuses_an_unknown_stage(root: Path) -> None:
    """A misspelt stage is an error that names the stages, not a run of nothing."""
    done = run(root, "cortexm")
    assert done.returncode == 2
    assert "cortex-m" in done.stdout


def test_committed_sizes_are_within_the_limits(root: Path) -> None:
    """On a Cortex-M4 at -Os: less than 6 KiB of flash, less than 512 bytes of stack, nothing from the C library."""
    text = (root / "docs" / "benchmarks" / "decoder-size.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    decoder = [row for row in rows if row["library"] == "edgecn_decode"]
    cortex_m4 = [row for row in decoder if row["target"].startswith("cortex-m4") and row["opt"] == "Os"]
    assert len(cortex_m4) == 2
    for row in cortex_m4:
        assert int(row["text_bytes"]) < 6144
        assert int(row["stack_bytes"]) < 512
        assert set(row["undefined"].split()) <= {"memcpy", "memset", "memmove"}

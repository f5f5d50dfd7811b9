"""The C decoder on every kind of machine it is meant for: each stage of tests/c/targets.sh."""

from __future__ import annotations

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
    command = [str(root / "tests/c/targets.sh"), *map(str, args)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_passes(stage: str, root: Path, tmp_path: Path) -> None:
    """Every check of the stage passes, and at least one was made."""
    have = run(root, "--have", stage)
    if have.returncode != 0:
        pytest.skip(f"not installed: {have.stdout.strip()}; tests/c/targets.sh --install")
    done = run(root, "--csv", tmp_path / "size.csv", stage)
    assert done.returncode == 0, done.stdout
    assert "PASS" in done.stdout
    assert "FAIL" not in done.stdout


def test_script_refuses_an_unknown_stage(root: Path) -> None:
    """A misspelt stage is an error that names the stages, not a run of nothing."""
    done = run(root, "cortexm")
    assert done.returncode == 2
    assert "cortex-m" in done.stdout

"""What scripts/run_tutorial.py takes from the tutorial; the run itself takes half an hour."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import click
import pytest
from support import load_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    return load_script("run_tutorial")


def test_the_steps_lead_from_installation_to_a_bundle(script: ModuleType) -> None:
    """Seven of them; the eighth needs a board."""
    steps = script.steps((ROOT / "docs/tutorial.md").read_text(encoding="utf-8"))

    assert [heading.split(".")[0] for heading, _ in steps] == ["1", "2", "3", "4", "5", "6", "7"]
    words = [line.split()[1] for _, block in steps for line in block.splitlines() if "edge-centernet" in line]
    assert words == ["data", "train", "convert", "verify", "eval", "detect", "bundle"]
    assert not any("pi@" in block for _, block in steps)


def test_a_step_that_fails_is_told(script: ModuleType, tmp_path: Path) -> None:
    """The first command that fails ends it."""
    with pytest.raises(click.ClickException, match="ended with 3"):
        script.run("sh -c 'exit 3'\ntouch after\n", tmp_path)
    assert list(tmp_path.iterdir()) == []

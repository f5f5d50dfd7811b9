"""The tutorial's commands run as they stand on the page, on the data set that they draw."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/tutorial.md"
HEADINGS = ("2. Get", "3. Check", "4. Train", "5. Convert", "6. Detect")  # the others need PyPI or a board
SHORT = "--epochs 1 --size 96 --set qat_epochs=0 --set workers=0"  # instead of the page's minutes


def blocks(heading: str) -> list[str]:
    """The shell blocks of the step whose heading begins like this."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)


@pytest.mark.slow
@pytest.mark.skipif(not PAGE.is_file(), reason="needs docs/tutorial.md of the checkout")
def test_the_commands_lead_from_drawn_signs_to_detections(tmp_path: Path) -> None:
    """Each step finds what the step before left; only the training is cut short."""
    pytest.importorskip("torch")
    program = tmp_path / ".venv/bin/edge-centernet"
    program.parent.mkdir(parents=True)
    call = shlex.join([sys.executable, "-c", "from edge_centernet.cli import main; main()"])
    program.write_text(f'#!/bin/sh\n[ "$1" = train ] && set -- "$@" {SHORT}\nexec {call} "$@"\n')
    program.chmod(0o755)

    activated = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    for heading in HEADINGS:
        (commands,) = blocks(heading)
        done = subprocess.run(
            ["sh", "-e", "-c", commands],
            cwd=tmp_path,
            env=activated,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{heading}\n{done.stdout}{done.stderr}"
        if heading == "3. Check":
            assert done.stdout.endswith("0 errors, 0 warnings\n")

    named = [tmp_path / name for name in re.findall(r"`(runs/[\w/]+\.jpg)`", PAGE.read_text("utf-8"))]
    assert named
    assert [path for path in named if not path.is_file()] == []
    assert json.loads((tmp_path / "converted/eval.json").read_text())["images"] == 30
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 180

"""The examples of docs/extending.md run, print what the page shows below them, and are typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
from doc_pages import ROOT, blocks_of, text_of

PAGE = ROOT / "docs" / "extending.md"
THINGS = ("An engine", "A backbone", "A data format", "An export target", "An output")
NEEDS = {
    "A backbone": ("torch", "onnxruntime"),
    "An export target": ("onnx", "onnxruntime"),
    "An engine": ("onnx",),
}


class Example(NamedTuple):
    """A module under its name, the program that uses it, and what that prints."""

    name: str
    module: str
    program: str
    printed: str


def example(heading: str) -> Example:
    """The three blocks of a section."""
    section = text_of(PAGE).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = list(blocks_of("docs/extending.md", section))
    assert [block.language for block in found] == ["python", "python", "text"]
    module, program, printed = (block.text for block in found)
    name = re.match(r"# (\w+\.py)\n", module)
    assert name, f"{heading}: expected the module's name in its first line"
    return Example(name[1], module, program, printed)


def test_there_is_an_example_of_everything() -> None:
    """A section for each, and no other."""
    assert tuple(re.findall(r"^## (.+)$", text_of(PAGE), re.M)) == THINGS


@pytest.mark.parametrize("heading", THINGS)
def test_the_example_prints_what_the_page_shows(heading: str, tmp_path: Path) -> None:
    """The module is found beside the program, as in a project of one's own; nothing in the package changes."""
    for package in NEEDS.get(heading, ()):
        pytest.importorskip(package)
    if heading == "An engine" and int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("needs OpenCV 5")
    one = example(heading)
    (tmp_path / one.name).write_text(one.module, encoding="utf-8")
    (tmp_path / "program.py").write_text(one.program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == one.printed


@pytest.mark.slow
def test_the_examples_are_typed(tmp_path: Path) -> None:
    """There is nothing in the modules that mypy --strict complains of."""
    files = []
    for heading in THINGS:
        one = example(heading)
        files.append(tmp_path / one.name)
        files[-1].write_text(one.module, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--config-file",
        str(ROOT / "setup.cfg"),
    ]
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout + done.stderr).strip() == ""

"""README is executed: its commands are what CI and the scripts run, its examples work, its links lead somewhere."""

from __future__ import annotations

import configparser
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest

import edge_centernet
from edge_centernet.cli import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
CLI = [sys.executable, "-c", "from edge_centernet.cli import main; main()"]
# Where the sample photo shows them, pixels: left, top, right, bottom. Measured by hand, good to about 20 pixels.
SAMPLE = {"person": (18, 14, 368, 512), "cat": (520, 0, 1110, 512)}


def block(heading: str, language: str) -> str:
    """The first fenced block of `language` below a heading of README.md."""
    section = README.split(f"\n## {heading}\n", 1)[1]
    match = re.search(rf"```{language}\n(.*?)```", section, re.S)
    assert match, f"no {language} block below '{heading}'"
    return match.group(1).strip()


def lines(path: str) -> list[str]:
    """The lines of a shell script that do something."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    inner = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    return inner / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inner)


def commands() -> list[str]:
    """The names of the commands of the command line."""
    return cli.list_commands(click.Context(cli))


@functools.cache
def command_help(name: str) -> str:
    """What `edge-centernet NAME --help` prints."""
    # `python -c` looks in the current folder first: let it find the package under test there, not the checkout.
    installed = Path(edge_centernet.__file__).parent.parent
    done = subprocess.run([*CLI, name, "--help"], cwd=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", commands())
def test_help_shows_no_escape(name: str) -> None:
    """What marks the layout for click is not printed."""
    assert "\\" not in command_help(name)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """The one line below 'Test it' is what .ci/run ends with."""
    command = block("Test it", "sh")
    assert command == lines(".ci/run")[-1]
    assert os.access(ROOT / command, os.X_OK)


def test_test_command_lints_checks_types_and_tests() -> None:
    """scripts/test installs torch first, then the package, and runs ruff, mypy and pytest."""
    steps = lines("scripts/test")
    installs = [line for line in steps if "pip install" in line]
    assert installs == ["python -m pip install torch==2.13.0", "python -m pip install '.[dev]'"]
    assert steps[-2:] == ["scripts/check --lint", 'pytest "$@"']
    check = lines("scripts/check")
    begins = check.index("python -m ruff check .")
    assert check[begins : begins + 5] == [
        "python -m ruff check .",
        "python -m ruff format --check .",
        'if [ "${1:-}" = --lint ]; then',
        "python -m mypy",
        "exit",
    ]


def test_quick_tests_are_those_that_are_there() -> None:
    """scripts/check names folders and files of tests that exist, and leaves out what is slow."""
    quick = next(line for line in lines("scripts/check") if line.startswith("quick="))
    assert [path for path in quick.removeprefix("quick=").strip('"').split() if not (ROOT / path).exists()] == []
    assert any('-m "not slow and not cross" $quick $changed' in line for line in lines("scripts/check"))


def test_first_command_is_one_line_that_installs_and_detects() -> None:
    """The one line below 'Try it' makes a virtual environment, installs, and detects on the shipped photo."""
    command = block("Try it", "sh")
    assert "\n" not in command
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert steps[1] == [".venv/bin/pip", "install", ".[openvino,tflite]"]
    assert steps[2][:2] == [".venv/bin/edge-centernet", "detect"]
    assert (ROOT / steps[2][steps[2].index("--source") + 1]).is_file()


def test_first_command_finds_the_person_and_the_cat(tmp_path: Path) -> None:
    """The detect part of the first command prints boxes where the two are, and saves the picture README names."""
    arguments = shlex.split(block("Try it", "sh").split("&&")[-1])[1:]
    photo = arguments[arguments.index("--source") + 1]
    (tmp_path / photo).parent.mkdir(parents=True)
    (tmp_path / photo).write_bytes((ROOT / photo).read_bytes())
    done = subprocess.run([*CLI, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(frames) == 1
    for name, where in SAMPLE.items():
        found = [one["box"] for one in frames[0]["detections"] if one["class"] == name]
        assert max((iou(tuple(box), where) for box in found), default=0.0) > 0.5, (name, found)

    named = re.search(r"saves the annotated picture as `([^`]+)`", README)
    assert named
    saved = cv2.imread(str(tmp_path / named.group(1)))
    assert saved is not None, sorted(tmp_path.rglob("*"))
    original = cv2.imread(str(ROOT / photo))
    assert original is not None
    assert saved.shape == original.shape
    changed = np.abs(saved.astype(np.int16) - original).max(axis=2) > 60  # JPEG noise is far below
    assert changed.sum() > 1000
    assert named.group(1) in done.stdout + done.stderr


def test_python_example_runs(tmp_path: Path) -> None:
    """The Python block of README prints the person and the cat."""
    done = subprocess.run(
        [sys.executable, "-c", block("Use it from Python", "python")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"person", "cat"}


def test_every_command_is_documented() -> None:
    """Each command of the command line stands in README or docs, and its help has an example that can be run."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    silent = [name for name in commands() if f"edge-centernet {name}" not in text]
    assert silent == []
    without_example = [
        name for name in commands() if f"edge-centernet {name}" not in command_help(name).split("\n", 1)[1]
    ]
    assert without_example == []


def test_readme_uses_only_options_that_exist() -> None:
    """Every option that README gives to a command is one that its help lists."""
    used = re.findall(r"edge-centernet (\w+)((?: +[^\s`&|]+)*)", README)
    unknown = {
        (name, option)
        for name, rest in used
        if name in commands()
        for option in re.findall(r"--[\w-]+", rest)
        if not re.search(rf"{option}\b", command_help(name))
    }
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    """Each relative link of a page leads to a file or folder that is there."""
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_changelog_begins_with_this_version() -> None:
    """The newest section of CHANGELOG.md is that of the version of the package, but for what is to come."""
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    released = sections[1:] if sections[0] == "Unreleased" else sections
    assert released[0] == edge_centernet.__version__


def test_readme_lists_the_extras() -> None:
    """The table of extras in README has a row for each extra of setup.cfg, and no other."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \|", README, re.M)
    assert rows == list(config["options.extras_require"])

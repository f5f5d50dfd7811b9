"""README's commands run for real, its example works, and what pages link to is there."""

from __future__ import annotations

import configparser
import functools
import json
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
TOP = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
PAGES = sorted([*(ROOT / name for name in TOP), *(ROOT / "docs").rglob("*.md")])
CLI = [sys.executable, "-c", "from edge_centernet.cli import main; main()"]
# Where the sample photo shows them, pixels: left, top, right, bottom. By hand, good to about 20 pixels.
SAMPLE = {"person": (18, 14, 368, 512), "cat": (520, 0, 1110, 512)}


def block(heading: str, language: str) -> str:
    """The first fenced block of `language` below a heading of README.md."""
    section = README.split(f"\n## {heading}\n", 1)[1]
    match = re.search(rf"```{language}\n(.*?)```", section, re.S)
    assert match, f"no {language} block below '{heading}'"
    return match.group(1).strip()


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
    # `python -c` looks in the current folder first: let it find the package under test there, not the
    # checkout.
    installed = Path(edge_centernet.__file__).parent.parent
    done = subprocess.run([*CLI, name, "--help"], cwd=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", commands())
def test_help_shows_no_escape_and_ends_with_an_example(name: str) -> None:
    """What marks the layout for click is not printed; the command itself stands below its usage line."""
    assert "\\" not in command_help(name)
    assert f"edge-centernet {name}" in command_help(name).split("\n", 1)[1]


def test_first_command_finds_the_person_and_the_cat(tmp_path: Path) -> None:
    """The detect part of the first command prints boxes where the two are, and saves the picture."""
    arguments = shlex.split(block("Try it", "sh").split("&&")[-1])[1:]
    photo = arguments[1]
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


@pytest.mark.slow
def test_convert_and_verify_run(tmp_path: Path) -> None:
    """The commands of 'Convert' that need the package alone: files for every engine, a picture."""
    lines = block("Convert", "sh").splitlines()
    for line in (lines[0], lines[-1]):
        done = subprocess.run([*CLI, *shlex.split(line)[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    suffixes = {path.suffix for path in (tmp_path / "converted").iterdir()}
    assert suffixes >= {".onnx", ".xml", ".bin", ".tflite"}
    assert cv2.imread(str(tmp_path / "layers.png")) is not None


def test_python_example_runs(tmp_path: Path) -> None:
    """The Python block of README prints the person and the cat."""
    done = subprocess.run(
        [sys.executable, "-c", block("Use it from Python", "python")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"person", "cat"}


def test_every_command_is_documented() -> None:
    """Each command of the command line stands in README or docs."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in commands() if f"edge-centernet {name}" not in text] == []


def test_links_lead_to_files() -> None:
    """Each relative link of a page, and each file of docs or scripts that it names, is there."""
    if not (ROOT / "docs/benchmarks").is_dir():
        pytest.skip("pages of figures are not in the source distribution")
    dead = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
        dead += [(page.name, link) for link in links if not (page.parent / link).exists()]
        named = re.findall(
            r"`((?:docs|scripts|tests|edge_centernet|calibration|converters)/[\w./-]+\.\w+)", text
        )
        dead += [(page.name, name) for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert dead == []


def test_readme_lists_the_extras() -> None:
    """The table of extras in README has a row for each extra of setup.cfg, and no other."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \|", README, re.M)
    assert rows == list(config["options.extras_require"])

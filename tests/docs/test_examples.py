"""The examples of docs/extending.md and docs/python.md run, print what the page shows, and are typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
from doc_pages import ROOT, blocks_of, text_of

from edge_centernet import read_image, sample_photo

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
    """The module is found beside the program, as in a project of one's own."""
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
    assert mypy(*files) == ""


# ---- docs/python.md

GUIDE = text_of(ROOT / "docs" / "python.md")
BLOCKS = re.findall(r"^## ([^\n]+)\n|```python\n(.*?)```", GUIDE, re.S | re.M)


def examples() -> list[tuple[str, str]]:
    """(heading, code) of each Python block of the page."""
    found, heading = [], ""
    for title, code in BLOCKS:
        if code:
            found.append((f"{heading} {sum(h.startswith(heading) for h, _ in found) + 1}", code))
        else:
            heading = title
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a video in which the sample photo moves by: the person goes through the middle."""
    folder = tmp_path_factory.mktemp("examples")
    photo = cv2.copyMakeBorder(
        read_image(sample_photo()), 0, 0, 500, 500, cv2.BORDER_CONSTANT, value=(128,) * 3
    )
    writer = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (800, 512))
    for i in range(24):
        writer.write(photo[:, 12 * i : 12 * i + 800])
    writer.release()
    return folder


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_the_example_of_the_guide_runs(folder: Path, code: str) -> None:
    """Without an error and with something to show, or a picture."""
    before = set(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or set(folder.iterdir()) != before


def test_the_guide_has_an_example_in_each_section() -> None:
    """Photo, arrays, video, tracker, counting, supervision, threads, engine, errors."""
    assert {name.rsplit(" ", 1)[0] for name, _ in EXAMPLES} == set(re.findall(r"^## ([^\n]+)", GUIDE, re.M))


@pytest.mark.slow
def test_the_examples_of_the_guide_are_typed(tmp_path: Path) -> None:
    """A user with mypy --strict gets types, and no complaint."""
    files = []
    for i, (_, code) in enumerate(EXAMPLES):
        files.append(tmp_path / f"example_{i}.py")
        files[-1].write_text(code, encoding="utf-8")
    assert mypy(*files) == ""


@pytest.mark.slow
def test_the_public_names_have_their_types(tmp_path: Path) -> None:
    """Not Any: what is lazy at run time is plain to a type checker, and a misspelt name is an error."""
    (tmp_path / "names.py").write_text(
        "from edge_centernet import Detector, read_image, sample_photo\n"
        "reveal_type(Detector)\n"
        "found = Detector().detect(read_image(sample_photo()))\n"
        "reveal_type(found)\n"
        "reveal_type(found[0])\n"
        "reveal_type(found[found.score > 0.5])\n"
        "reveal_type([one.name for one in found])\n"
        "from edge_centernet import Detektor\n",
        encoding="utf-8",
    )
    text = mypy(tmp_path / "names.py")
    assert 'has no attribute "Detektor"' in text
    revealed = [kind.replace("builtins.", "") for kind in re.findall(r'Revealed type is "([^"]+)"', text)]
    several = "edge_centernet.detections.Detections"
    corners = "tuple[float, float, float, float]"
    box = f"tuple[str, float, {corners}, int, fallback=edge_centernet.detections.Detection]"
    runtime = "edge_centernet.runtimes.base.Runtime"
    assert revealed[0].startswith(f"def (model: str | os.PathLike[str] | {runtime} =")
    assert revealed[1:] == [several, box, several, "list[str]"]


def mypy(*files: Path) -> str:
    """What mypy --strict says about files of a user, with our settings for packages without types."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    command += ["--config-file", str(ROOT / "setup.cfg")]
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()

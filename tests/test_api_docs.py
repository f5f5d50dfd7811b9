"""The examples of docs/python.md run as they stand, and are typed: mypy --strict finds nothing in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edge_centernet import read_image, sample_photo

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## ([^\n]+)\n|```python\n(.*?)```", PAGE, re.S | re.M)


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
def test_the_example_runs(folder: Path, code: str) -> None:
    """Without an error and with something to show, or a picture."""
    before = set(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or set(folder.iterdir()) != before


def test_there_is_an_example_of_each() -> None:
    """Photo, arrays, video, tracker, counting, supervision, threads, engine, errors."""
    assert {name.rsplit(" ", 1)[0] for name, _ in EXAMPLES} == set(re.findall(r"^## ([^\n]+)", PAGE, re.M))


@pytest.mark.slow
def test_the_examples_are_typed(tmp_path: Path) -> None:
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
    box = "tuple[str, float, tuple[float, float, float, float], int, fallback=edge_centernet.detections.Detection]"
    several = "edge_centernet.detections.Detections"
    assert revealed[0].startswith(
        "def (model: str | os.PathLike[str] | edge_centernet.runtimes.base.Runtime ="
    )
    assert revealed[1:] == [several, box, several, "list[str]"]


def mypy(*files: Path) -> str:
    """What mypy --strict says about files of a user, with the repository's settings for packages without types."""
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
    return (done.stdout + done.stderr).strip()

"""The tutorial's photos, from a zip as GitHub gives it and from a copy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.data import read_dataset

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/get_cards.py"
CARD = """<annotation><filename>cam.jpg</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>{0}</name>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>
"""


def get(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script as a process."""
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip laid out as the repository: two photos to train on, one to judge by, and other files."""
    found, photo = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))
    assert found
    path = tmp_path / "repository.zip"
    with zipfile.ZipFile(path, "w") as content:
        for part, name, label in (
            ("train", "IMG_1", "ace"),
            ("train", "IMG_2", "nine"),
            ("test", "IMG_3", "king"),
        ):
            content.writestr(f"repository-c1/images/{part}/{name}.JPG", photo.tobytes())
            content.writestr(f"repository-c1/images/{part}/{name}.xml", CARD.format(label))
        content.writestr("repository-c1/doc/labels.jpg", photo.tobytes())
    return path


def test_a_zip_becomes_coco(archive: Path, tmp_path: Path) -> None:
    """VOC counts from 1 and includes the last pixel: 11, 6, 30, 40 is a box of 20 x 35 at 10, 5."""
    done = get("--source", archive, "--out", "cards", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    train = read_dataset(tmp_path / "cards/instances_train.json")
    assert train.classes == ("nine", "ten", "jack", "queen", "king", "ace")
    assert [train.classes[sample.labels[0]] for sample in train.samples] == ["ace", "nine"]
    assert train.samples[0].boxes.tolist() == [[10.0, 5.0, 30.0, 40.0]]
    assert train.samples[0].path == tmp_path / "cards/train/IMG_1.JPG"
    val = json.loads((tmp_path / "cards/instances_val.json").read_text())
    assert val["annotations"][0]["bbox"] == [10.0, 5.0, 20.0, 35.0]
    assert sorted(p.name for p in (tmp_path / "cards").iterdir()) == [
        "instances_train.json", "instances_val.json", "train", "val",
    ]  # fmt: skip


def test_an_address_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    """And nothing is left behind."""
    done = get("--source", "http://127.0.0.1:9/cards.zip", "--out", "cards", cwd=tmp_path)

    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "expected a zip of photos" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept(archive: Path, tmp_path: Path) -> None:
    """The script does not mix two data sets."""
    (tmp_path / "cards").mkdir()
    done = get("--source", archive, "--out", "cards", cwd=tmp_path)

    assert done.returncode == 1
    assert "expected no such folder" in done.stderr


def test_the_copy_beside_the_repository_is_the_same_set(tmp_path: Path) -> None:
    """296 photos with 527 boxes, 67 with 143."""
    copy = ROOT.parent / "shared/data/playing_cards"
    if not copy.is_dir():
        pytest.skip(f"no {copy}")
    shutil.copytree(copy, tmp_path / "copy")
    done = get("--source", tmp_path / "copy", "--out", "cards", cwd=tmp_path)

    assert done.stdout.splitlines() == [
        "cards/instances_train.json: 296 photos, 527 boxes",
        "cards/instances_val.json: 67 photos, 143 boxes",
    ]

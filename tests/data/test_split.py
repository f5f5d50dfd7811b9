"""Parts that share no scene, and the sample set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support import Result

from edge_centernet.data import DataSource, read_dataset, use_parts
from edge_centernet.data.base import Dataset, Sample
from edge_centernet.data.split import BLOCKS, split
from edge_centernet.errors import ConfigError

Run = Callable[..., Result]


def picture(seed: int) -> NDArray[np.uint8]:
    """Large patches of random grey: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 255, (8, 9), np.uint8)
    return cv2.cvtColor(cv2.resize(cells, (90, 80), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)


def dataset(folder: Path, scenes: dict[str, int], labels: dict[str, int] | None = None) -> Dataset:
    """Images by name; equal numbers are one scene, filmed with a little noise. labels: class, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for i, (name, scene) in enumerate(scenes.items()):
        noise = np.random.default_rng(1000 + i).integers(0, 3, (80, 90, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.add(picture(scene), noise))
        box = np.asarray([[10, 10, 40, 40]], np.float32)
        label = np.asarray([(labels or {}).get(name, 0)], np.int64)
        samples.append(Sample(folder / name, 90, 80, box, label, np.zeros(1, np.bool_)))
    return Dataset(("cat", "dog"), tuple(samples))


def sides(data: Dataset, names: list[str], seed: int = 0) -> set[str]:
    """The parts in which these images are."""
    found = split(data, {"train": 0.8, "val": 0.2}, seed)
    return {part for part, own in found.images.items() for i in own if data.samples[i].path.name in names}


@pytest.mark.parametrize("seed", range(4))
def test_photos_of_one_scene_stay_together(seed: int, tmp_path: Path) -> None:
    """Three that look alike among twenty others, wherever the seed puts them."""
    alike = ["a.png", "b.png", "c.png"]
    data = dataset(tmp_path, {**dict.fromkeys(alike, 500), **{f"x{i}y.png": i for i in range(20)}})
    assert len(sides(data, alike, seed)) == 1


@pytest.mark.parametrize(
    "names",
    [
        "shop_frame_{:04}.png",
        "door_mp4-{}_png.rf.0a1b2c.png",
        "walk.avi_{:06}.png",
    ],
)
def test_frames_of_a_video_stay_together(names: str, tmp_path: Path) -> None:
    """By their names, though every picture of this one is another."""
    frames = [names.format(i) for i in range(6)]
    others = {f"photo{chr(97 + i)}.png": 100 + i for i in range(20)}
    data = dataset(tmp_path, {name: i for i, name in enumerate(frames)} | others)
    assert {len(sides(data, frames, seed)) for seed in range(4)} == {1}


def test_numbered_photos_are_no_video(tmp_path: Path) -> None:
    """IMG_0001, IMG_0002, ... of a camera: neighbours show different things."""
    data = dataset(tmp_path, {f"IMG_{i:04}.png": i for i in range(20)})
    found = split(data, {"train": 0.8, "val": 0.2})
    assert (found.scenes, found.cut) == ({"train": 16, "val": 4}, False)


def test_one_video_alone_is_cut_where_time_passes(tmp_path: Path) -> None:
    """Into ten runs of neighbours; each is on one side."""
    data = dataset(tmp_path, {f"frame{i}.png": 1 for i in range(40)})
    found = split(data, {"train": 0.8, "val": 0.2})
    assert found.cut
    assert sum(found.scenes.values()) == BLOCKS
    number = {i: int(sample.path.stem.removeprefix("frame")) for i, sample in enumerate(data.samples)}
    for own in found.images.values():
        runs = {number[i] // 4 for i in own}
        assert len(own) == 4 * len(runs)


def test_every_class_is_shared_out(tmp_path: Path) -> None:
    """Five dogs among forty cats: one of them is for validation, with any seed."""
    names = [f"IMG_{i:04}.png" for i in range(45)]
    data = dataset(tmp_path, {name: i for i, name in enumerate(names)}, dict.fromkeys(names[:5], 1))
    for seed in range(4):
        found = split(data, {"train": 0.8, "val": 0.2}, seed)
        dogs = [sum(int(data.samples[i].labels[0]) for i in own) for own in found.images.values()]
        assert dogs == [4, 1]
        assert len(found.images["val"]) == 9


def test_the_seed_decides(tmp_path: Path) -> None:
    """The same gives the same, another one another."""
    data = dataset(tmp_path, {f"IMG_{i:04}.png": i for i in range(30)})
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    first, again, other = (split(data, shares, seed).images for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(i for own in first.values() for i in own) == list(range(30))


def test_a_single_scene_cannot_be_split(tmp_path: Path) -> None:
    """A few photos of one thing."""
    with pytest.raises(ConfigError, match="expected a scene for each of 2 parts, found 1 in 3 images"):
        split(dataset(tmp_path, {"a.png": 1, "b.png": 1, "c.png": 1}), {"train": 0.8, "val": 0.2})


def test_the_command_writes_parts_that_train_takes(run: Run, tmp_path: Path) -> None:
    """Photos stay where they are; scores and what was ignored are kept; nothing is overwritten."""
    dataset(tmp_path / "photos", {f"p{i}.png": i for i in range(10)})
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]} for i in range(10)]
    boxes[0] |= {"ignore": 1}
    boxes[1] |= {"score": 0.5}
    images = [{"id": i, "file_name": f"p{i}.png", "width": 90, "height": 80} for i in range(10)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    done = run("data", "split", tmp_path / "all.json", "--out", tmp_path / "parts", "--val", "0.3")

    assert done.code == 0, done.err
    assert [line.split() for line in done.out.splitlines()[:3]] == [
        ["set", "images", "scenes", "cat"],
        ["train", "7", "7", "7"],
        ["val", "3", "3", "3"],
    ]
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [
        "instances_train.json",
        "instances_val.json",
    ]
    found = use_parts([DataSource(tmp_path / "parts")], [])
    assert [source.split for source in (*found.train, *found.val)] == ["train", "val"]
    samples = [s for part in ("train", "val") for s in read_dataset(tmp_path / "parts", split=part).samples]
    assert {sample.path.resolve() for sample in samples} == set((tmp_path / "photos").iterdir())
    assert sum(int(sample.ignore.sum()) for sample in samples) == 1
    assert sorted(float(score) for sample in samples for score in sample.scores)[:2] == [0.5, 1]
    again = run("data", "split", tmp_path / "all.json", "--out", tmp_path / "parts")
    assert (again.code, "is there already; choose another --out" in again.err) == (2, True)
    whole = run("data", "split", tmp_path / "parts", "--out", tmp_path / "more")
    assert (whole.code, "has parts already (train, val)" in whole.err) == (2, True)


def test_the_sample_set_is_whole_and_free_of_findings(run: Run, tmp_path: Path) -> None:
    """Three parts of drawn signs, which `data check` finds nothing wrong with."""
    assert run("data", "sample", tmp_path / "signs").code == 0
    done = run("data", "check", tmp_path / "signs")
    assert (done.code, done.out.splitlines()[-1]) == (0, "0 errors, 0 warnings")
    parts = {part: read_dataset(tmp_path / "signs", split=part) for part in ("train", "val", "test")}
    assert [len(data) for data in parts.values()] == [120, 30, 30]
    assert parts["val"].classes == ("stop", "give way", "no entry")
    again = run("data", "sample", tmp_path / "signs")
    assert (again.code, "choose another folder" in again.err) == (2, True)

"""`edge-centernet label` on real photos: our shipped model, detectors of others, and both together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from support import Result
from yolox import write_yolox

import edge_centernet
from edge_centernet.data import read_dataset
from edge_centernet.extras import command_for
from edge_centernet.labelling.ensemble import Ensemble
from edge_centernet.peers.common import COCO

ASSETS = Path(edge_centernet.__file__).parent / "assets"
# In sample.jpg, 1126 x 512 pixels; measured by hand, good to about 20 pixels.
PERSON, CAT = (18, 14, 368, 512), (520, 0, 1110, 512)
Run = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with the sample photo and, one folder below, the astronaut."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    shutil.copy(ASSETS / "sample.jpg", folder)
    shutil.copy(ASSETS / "astronaut.jpg", folder / "below")
    return folder


def iou(bbox: list[float], box: tuple[float, ...]) -> float:
    """Of COCO's x, y, width, height with corners."""
    x1, y1, x2, y2 = bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]
    inner = max(0.0, min(x2, box[2]) - max(x1, box[0])) * max(0.0, min(y2, box[3]) - max(y1, box[1]))
    return inner / ((x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - inner)


def found(labels: dict[str, Any], photo: str, name: str, box: tuple[float, ...]) -> dict[str, Any]:
    """The annotation of that class in that photo that overlaps the box most."""
    image = next(one["id"] for one in labels["images"] if one["file_name"].endswith(photo))
    category = next(one["id"] for one in labels["categories"] if one["name"] == name)
    mine = [
        one for one in labels["annotations"] if (one["image_id"], one["category_id"]) == (image, category)
    ]
    return max(mine, key=lambda one: iou(one["bbox"], box))


def labelled(folder: Path) -> Path:
    """A COCO file of twelve photos, four times each of the three that we have, with person and cat."""
    objects = {
        "sample.jpg": {1: PERSON, 2: CAT},
        "astronaut.jpg": {1: (0, 30, 512, 512)},
        "cat.jpg": {2: (35, 20, 430, 300)},
    }
    (folder / "known").mkdir(parents=True)
    images, annotations = [], []
    for number in range(12):
        name = list(objects)[number % 3]
        shutil.copy(ASSETS / name, folder / "known" / f"{number}.jpg")
        height, width = cv2.imread(str(ASSETS / name)).shape[:2]
        images.append({"id": number, "file_name": f"known/{number}.jpg", "width": width, "height": height})
        for category, (x1, y1, x2, y2) in objects[name].items():
            own = {"image_id": number, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append({"id": len(annotations) + 1, **own})
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
    path = folder / "known.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_our_model_labels_a_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    """Person and cat of the sample photo are objects where they are, and a reader gets them."""
    out, sheet = tmp_path / "out" / "labels.json", tmp_path / "out" / "sheet.jpg"
    result = run("label", "--threads", 1, photos, "--out", out, "--sheet", sheet)
    assert result.code == 0, result.err
    labels = json.loads(out.read_text())
    for name, box in (("person", PERSON), ("cat", CAT)):
        best = found(labels, "sample.jpg", name, box)
        assert iou(best["bbox"], box) > 0.7
        assert (best["ignore"], best["iscrowd"]) == (0, 0)
        assert 0.33 <= best["score"] <= 1
    data = read_dataset(out)
    assert [sample.path.resolve() for sample in data.samples] == [
        photos / "below/astronaut.jpg",
        photos / "sample.jpg",
    ]
    assert (~data.samples[1].ignore).sum() >= 2
    assert labels["info"]["score"] == "fused score, not calibrated"
    assert [one["name"] for one in labels["info"]["models"]] == ["centernet-mbv2-320"]
    assert cv2.imread(str(sheet)).shape[1] == 6 * 320
    assert f"{out}: 2 photos" in result.out


def voters(folder: Path) -> tuple[str | Path, ...]:
    """Our default model, and one that sees a person in all of every photo: alone it is mostly wrong."""
    person = write_yolox(folder / "yolox_person.onnx", (0.0, 0.0, 1.0, 1.0), COCO.index("person"))
    return ("--model", "centernet-mbv2-320", "--model", f"yolox-nano={person}")


def test_a_detector_of_others_votes_with_ours(run: Run, photos: Path, tmp_path: Path) -> None:
    """One that always says "person" of the whole input, with 0.855: the two are averaged by weight.

    Of the class that it alone knows nothing is lost: the skis it sees have its own score.
    """
    person = write_yolox(tmp_path / "yolox_person.onnx", (0.0, 0.0, 1.0, 1.0), COCO.index("person"))
    skis = write_yolox(tmp_path / "skis.onnx", (0.0, 0.0, 1.0, 1.0), COCO.index("skis"))
    photo, out = photos / "below" / "astronaut.jpg", tmp_path / "labels.json"
    ours = ("--model", "centernet-mbv2-320")
    shared = ("label", "--threads", 1, photo, *ours, "--out", out, "--classes", "person,skis")
    scores = {}
    for weight in (1, 3):
        result = run(*shared, "--model", f"yolox-nano={person}", "--weight", 1, "--weight", weight)
        assert result.code == 0, result.err
        scores[weight] = found(json.loads(out.read_text()), "astronaut.jpg", "person", (0, 0, 512, 512))[
            "score"
        ]
    assert 0.01 < abs(scores[3] - 0.855) < abs(scores[1] - 0.855)
    alone = 2 * scores[1] - 0.855  # our model's own score
    assert scores[3] == pytest.approx((alone + 3 * 0.855) / 4, abs=2e-3)
    result = run(*shared, "--model", f"yolox-nano={skis}")
    assert result.code == 0, result.err
    assert found(json.loads(out.read_text()), "astronaut.jpg", "skis", (0, 0, 512, 512))[
        "score"
    ] == pytest.approx(0.855, abs=1e-3)


def test_calibrated_scores_are_probabilities_with_thresholds(run: Run, photos: Path, tmp_path: Path) -> None:
    """The table has precision and recall of each class; map and thresholds are kept; the set's classes."""
    known, out = labelled(tmp_path / "set"), tmp_path / "labels.json"
    calibration = ("--calibrate-on", known, "--precision", 0.6)
    result = run("label", "--threads", 1, photos, *voters(tmp_path), *calibration, "--out", out)
    assert result.code == 0, result.err
    labels = json.loads(out.read_text())
    about = labels["info"]
    assert about["score"] == "probability of being right at IoU 0.5"
    assert [one["name"] for one in labels["categories"]] == ["person", "cat"]
    told = about["calibration"]
    assert told["images"] == 12
    assert {name: row["objects"] for name, row in told["per_class"].items()} == {"person": 8, "cat": 8}
    assert told["overall"]["precision"] >= 0.6
    assert 0.15 <= about["threshold"] <= about["ignore_below"]
    assert about["ignore_below"] >= 0.5
    assert all(one["score"] >= about["threshold"] for one in labels["annotations"])
    assert all(one["ignore"] == (one["score"] < about["ignore_below"]) for one in labels["annotations"])
    row = next(line for line in result.err.splitlines() if line.startswith("cat"))
    assert row.split()[1:3] == ["8", f"{told['per_class']['cat']['precision']:.3f}"]


def test_photos_of_the_labelled_set_are_looked_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve photos, calibrated on themselves, six of them by --limit: six looks."""
    looks = []
    detect = Ensemble.detect

    def counted(self: Ensemble, image: Any) -> Any:
        looks.append(image.shape)
        return detect(self, image)

    monkeypatch.setattr(Ensemble, "detect", counted)
    known, out = labelled(tmp_path / "set"), tmp_path / "labels.json"
    calibration = (*voters(tmp_path), "--calibrate-on", known, "--precision", 0.5)
    result = run("label", "--threads", 1, known, *calibration, "--limit", 6, "--out", out)
    assert result.code == 0, result.err
    assert len(looks) == len(json.loads(out.read_text())["images"]) == 6


def test_a_damaged_photo_among_others_is_skipped_and_named(run: Run, photos: Path, tmp_path: Path) -> None:
    """The others are labelled."""
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    out = tmp_path / "labels.json"
    result = run("label", "--threads", 1, photos, "--out", out)
    assert result.code == 0, result.err
    assert f"Warning: skipped {photos / 'broken.jpg'}" in result.err
    assert len(json.loads(out.read_text())["images"]) == 2


def test_ctrl_c_leaves_the_labels_of_before(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at the second photo: exit code 130, the old file as it was, nothing beside it."""
    out = tmp_path / "out" / "labels.json"
    out.parent.mkdir()
    out.write_text("old")
    detect, looks = Ensemble.detect, []

    def interrupted(self: Ensemble, image: Any) -> Any:
        looks.append(image.shape)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return detect(self, image)

    monkeypatch.setattr(Ensemble, "detect", interrupted)
    result = run("label", "--threads", 1, photos, "--out", out, "--sheet", tmp_path / "out" / "sheet.jpg")
    assert result.code == 130
    assert [(path.name, path.read_text()) for path in out.parent.iterdir()] == [("labels.json", "old")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--out", "labels.txt"), "expected a file name that ends with .json"),
        (("--weight", 1, "--weight", 2), "expected one for each of 1 models, got 2"),
        (("--precision", 0.9), "--precision: expected --calibrate-on with it"),
        (
            ("--threshold", 0.5, "--ignore-below", 0.4),
            "expected at most --ignore-below, which is 0.4; got 0.5",
        ),
        (("--classes", "person,unicorn"), "none of the models knows unicorn"),
        (
            ("--model", "nanodet-g=absent.onnx"),
            "absent.onnx: no such file; get it from scripts/peers/fetch.py",
        ),
        (("--model", "centernet-mini"), "centernet-mini"),
        (("--calibrate-on", "absent.json"), "absent.json: no such file or folder"),
    ],
)
def test_what_cannot_be_is_one_line_before_the_work(
    args: tuple[Any, ...], message: str, run: Run, photos: Path, tmp_path: Path
) -> None:
    """Exit code 2, what was expected, nothing written."""
    out = () if "--out" in args else ("--out", tmp_path / "out" / "labels.json")
    result = run("label", "--threads", 1, photos, *out, *args)
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.rglob("*.json")) == []


def test_a_file_of_an_unnamed_family_is_told_how_to_say_it(run: Run, photos: Path, tmp_path: Path) -> None:
    """An .onnx that is not ours and whose name says nothing."""
    foreign = write_yolox(tmp_path / "foreign.onnx", (0.0, 0.0, 1.0, 1.0), 0)
    result = run("label", "--threads", 1, photos, "--model", foreign, "--out", tmp_path / "labels.json")
    assert result.code == 2
    assert f"is it of another family? Then say so: --model FAMILY={foreign}" in result.err


def test_without_ncnn_the_extra_is_named(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package is missing, before any photo is read."""
    monkeypatch.setitem(__import__("sys").modules, "ncnn", None)
    model = tmp_path / "nanodet-m.param"
    model.write_text("7767517\n")
    result = run("label", "--threads", 1, photos, "--model", model, "--out", tmp_path / "labels.json")
    assert result.code == 2
    assert command_for("label") in result.err

"""The report of a run, from a real network's detections, the shipped model's metrics and drawn images."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("matplotlib", reason="needs the train extra")
pytest.importorskip("faster_coco_eval", reason="needs the eval extra")
import cv2
import squares
from numpy.typing import NDArray

import edge_centernet
from edge_centernet.data import Dataset, Sample
from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.draw import class_color
from edge_centernet.errors import ConfigError
from edge_centernet.evaluation.crowds import NOT_COUNTED, RIGHT, WRONG, Matches
from edge_centernet.evaluation.plots import write_precision_recall
from edge_centernet.imageio import read_image
from edge_centernet.runtimes import open_runtime
from edge_centernet.train.report import (
    ImageScore,
    TensorBoardLog,
    rank,
    score_image,
    shown_of,
    write_curves,
    write_report,
)

FILES = {"metrics.csv", "curves.png", "pr.png", "contact_sheet.jpg", "eval.json"}
# What is drawn, and what is annotated, as (class, left, top); the network finds what is drawn.
DRAWN = [
    [("red", 10, 14), ("green", 70, 50)],
    [("green", 42, 30)],
    [("red", 90, 62)],
    [],
]
ANNOTATED = [
    [("red", 10, 14), ("green", 70, 50)],  # both right
    [("red", 42, 30)],  # one wrong, one missed
    [("red", 90, 62), ("blue sky", 6, 6)],  # one right, one missed
    [],  # nothing to find, nothing found
]
METRICS = """stage,epoch,side,lr,loss,heat,AP50,AP,seconds
float,1,64,0.001,4,3,,,1.5
float,2,128,0.0005,3,2,0.5,0.25,1.5
qat,1,128,0.0001,2.5,1.5,0.5,0.25,1.5
"""


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[Detections]]:
    """Four images on disk and what the squares network finds in them."""
    folder = tmp_path_factory.mktemp("squares")
    samples = []
    for i, (drawn, annotated) in enumerate(zip(DRAWN, ANNOTATED, strict=True)):
        path = folder / f"{i}.png"
        assert cv2.imwrite(str(path), squares.scene(*drawn))
        boxes = np.array([(x, y, x + squares.SIDE, y + squares.SIDE) for _, x, y in annotated], np.float32)
        labels = np.array([squares.CLASSES.index(name) for name, *_ in annotated], np.int64)
        ignore = np.zeros(len(labels), np.bool_)
        samples.append(Sample(path, squares.WIDTH, squares.HEIGHT, boxes.reshape(-1, 4), labels, ignore))
    model = squares.write_onnx(folder / "squares.onnx", int8=True)
    with closing(open_runtime(model, threads=1)) as runtime:
        detector = Detector(runtime, threshold=0.01)
        found = [detector.detect(read_image(sample.path)) for sample in samples]
    return Dataset(squares.CLASSES, tuple(samples)), found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with metrics."""
    (tmp_path / "metrics.csv").write_text(METRICS)
    return tmp_path


def test_a_report_is_three_pictures_and_their_figures(
    run: Path, validation: tuple[Dataset, list[Detections]]
) -> None:
    """Red is found in two of three places, green in its only one, blue never. No temporary file is left."""
    data, found = validation
    metrics = write_report(run, found, data)
    assert metrics is not None
    assert {path.name for path in run.iterdir()} == FILES
    assert json.loads((run / "eval.json").read_text()) == metrics
    ap50 = {name: one["AP50"] for name, one in metrics["per_class"].items()}
    assert ap50 == {"red": pytest.approx(67 / 101), "green": 1.0, "blue sky": 0.0}
    for name in ("curves.png", "pr.png"):
        picture = cv2.imread(str(run / name))
        assert picture is not None
        assert picture.std() > 5


def test_the_contact_sheet_shows_best_and_worst_with_predictions_and_truth(
    run: Path, validation: tuple[Dataset, list[Detections]]
) -> None:
    """Two bands of one row of six tiles: images 0 and 2 above, image 1 below; image 3 cannot be judged."""
    data, found = validation
    write_report(run, found, data)
    sheet = cv2.imread(str(run / "contact_sheet.jpg"))
    assert sheet is not None
    assert sheet.shape == (2 * (36 + 320 + 40), 6 * 320, 3)
    tiles = {
        (band, column): sheet[36 + 396 * band : 36 + 396 * band + 320, 320 * column : 320 * column + 320]
        for band in (0, 1)
        for column in (0, 1, 2)
    }
    red, green = (class_color(squares.CLASSES.index(name)) for name in ("red", "green"))
    # The lines of the predictions: image 0 has both, image 2 red alone, image 1 green alone.
    assert [_has(tiles[0, 0], red), _has(tiles[0, 0], green)] == [True, True]
    assert [_has(tiles[0, 1], red), _has(tiles[0, 1], green)] == [True, False]
    assert [_has(tiles[1, 0], red), _has(tiles[1, 0], green)] == [False, True]
    assert all(_has(tiles[place], (255, 255, 255)) for place in ((0, 0), (0, 1), (1, 0)))
    for empty in ((0, 2), (1, 1)):
        assert np.abs(tiles[empty].astype(int) - 40).max() < 8


def _has(tile: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    """Whether a line's worth of pixels has about this colour; the squares are pure red, green and blue."""
    near = (np.abs(tile.astype(int) - color) < 45).all(axis=2)
    pure = np.zeros(tile.shape[:2], np.bool_)
    for fill in squares.BGR.values():
        pure |= (np.abs(tile.astype(int) - fill) < 25).all(axis=2)
    return int((near & ~pure).sum()) > 40


def test_a_real_network_is_run_over_the_validation_set(run: Path) -> None:
    """The shipped checkpoint finds the person and the cat of the sample photo; boxes measured by hand."""
    from edge_centernet.model_zoo import find_model
    from edge_centernet.network.checkpoint import load_checkpoint

    model, _ = load_checkpoint(find_model("centernet-mbv2-320", ".safetensors"))
    photo = Path(edge_centernet.__file__).parent / "assets" / "sample.jpg"
    height, width = read_image(photo).shape[:2]
    boxes = np.array([(18, 14, 368, 512), (520, 0, 1110, 512)], np.float32)
    labels = np.array([model.spec.classes.index(name) for name in ("person", "cat")])
    data = Dataset(model.spec.classes, (Sample(photo, width, height, boxes, labels, np.zeros(2, np.bool_)),))
    metrics = write_report(run, model, data)
    assert metrics is not None
    assert metrics["AP50"] == 1.0
    assert metrics["crowds"]["centre_collision"]["others"] == 2
    assert metrics["at_threshold"]["recall"] == 1.0
    assert (run / "reliability.png").is_file()


def test_without_a_validation_set_there_are_curves_only(run: Path) -> None:
    """And no figures."""
    assert write_report(run, [], None) is None
    assert {path.name for path in run.iterdir()} == {"metrics.csv", "curves.png"}


# ---- curves
# ----------------------------------------------------------------------------------------------------


def _grey(path: Path) -> int:
    """Pixels of the shade that marks the QAT stage: 7 % black on white."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return int((np.abs(picture.astype(int) - 237) <= 1).all(axis=2).sum())


def test_the_qat_stage_is_shaded(tmp_path: Path) -> None:
    """About the share of the picture that QAT epochs have of all; without them nothing is."""
    header = METRICS.splitlines()[0]
    lines = [f"{'float' if i < 30 else 'qat'},{i},64,0.001,{4 - i / 20},3,0.5,0.25,1.5" for i in range(33)]
    for name, kept in (("all", lines), ("float", lines[:30])):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *kept]) + "\n")
        write_curves(tmp_path / f"{name}.csv", tmp_path / f"{name}.png")
    share = 3 / 33
    assert share / 3 < _grey(tmp_path / "all.png") / (900 * 900) < share
    assert _grey(tmp_path / "float.png") < 200  # edges of letters


def test_every_column_that_is_no_figure_of_another_kind_is_a_loss(run: Path) -> None:
    """A loss part that this code has never heard of is drawn; equal metrics give equal files."""
    write_curves(run / "metrics.csv", run / "a.png")
    write_curves(run / "metrics.csv", run / "b.png")
    assert (run / "a.png").read_bytes() == (run / "b.png").read_bytes()
    for column, drawn in (("iou_loss", True), ("seconds", False)):
        text = METRICS.replace("seconds", column)
        (run / "metrics.csv").write_text(text)
        write_curves(run / "metrics.csv", run / "b.png")
        assert ((run / "a.png").read_bytes() != (run / "b.png").read_bytes()) == drawn


def test_a_run_that_was_never_evaluated_or_diverged_has_curves(run: Path) -> None:
    """One epoch, no AP, a loss that is not a number, one below zero."""
    (run / "metrics.csv").write_text("stage,epoch,lr,loss,heat,AP50,AP\nfloat,1,0.001,nan,-0.5,,\n")
    write_curves(run / "metrics.csv", run / "curves.png")
    assert cv2.imread(str(run / "curves.png")) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read them (No such file or directory)"),
        ("", "expected one line of metrics an epoch, got none"),
        ("stage,epoch,loss\n", "expected one line of metrics an epoch, got none"),
        ("stage,epoch,loss\nfloat,1,3\nfloat,2,much\n", "line 3, loss: expected a number, got 'much'"),
        ("stage,epoch,loss\nfloat,1,3,4\n", "line 2"),
    ],
)
def test_metrics_that_cannot_be_read_are_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    """Which file, which line, what was expected; nothing is written."""
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        write_report(tmp_path, [], None)
    assert message in str(error.value)
    assert str(tmp_path / "metrics.csv") in str(error.value)
    assert not (tmp_path / "curves.png").exists()


# ---- precision and recall, the order of images
# --------------------------------------------------------------------


def test_the_precision_recall_plot_comes_from_the_record_alone(
    run: Path, validation: tuple[Dataset, list[Detections]]
) -> None:
    """From eval.json read back: the same picture. A class without objects has a plot that says so."""
    data, found = validation
    more = Dataset((*data.classes, "kite"), data.samples)
    write_report(run, found, more)
    record = json.loads((run / "eval.json").read_text())
    assert record["precision_recall"]["per_class"]["kite"] is None
    write_precision_recall(record, run / "again.png")
    assert (run / "again.png").read_bytes() == (run / "pr.png").read_bytes()


def test_an_image_is_judged_by_what_is_shown() -> None:
    """One of four detections is below 0.3, one not counted; of two objects the ignored one is not missed."""
    sample = Sample(
        Path("x"),
        9,
        9,
        np.array([[0, 0, 1, 1]] * 3, np.float32),
        np.zeros(3, np.int64),
        np.array([False, False, True]),
    )
    found = Detections(np.zeros((4, 4)), np.array([0.75, 0.5, 0.4, 0.2]), np.zeros(4))
    matches = Matches(
        np.array([RIGHT, WRONG, NOT_COUNTED, RIGHT], np.int8), np.array([0.75, 0.2, -1], np.float32)
    )
    score = score_image(shown_of(matches, sample, found, 0.3, [0]))
    assert score == ImageScore(right=1, wrong=1, missed=1, confidence=0.25)
    assert score.f1 == 0.5
    # Of a model with a threshold for each of two classes, of which the data set has the second only.
    assert score_image(shown_of(matches, sample, found, (0.6, 0.1), [1])).wrong == 0
    assert score_image(shown_of(matches, sample, found, (0.6, 0.1), [1])).missed == 0


def test_images_are_ordered_by_f1_then_by_confidence() -> None:
    """Without a right box the image with the surer false alarm is worse; nothing to judge is left out."""
    scores = [
        ImageScore(0, 1, 1, -0.4),
        ImageScore(1, 0, 0, 0.6),
        ImageScore(0, 0, 0, 0.0),
        ImageScore(1, 0, 0, 0.8),
        ImageScore(0, 1, 1, -0.9),
        ImageScore(3, 1, 1, 0.2),
    ]
    assert scores[2].f1 is None
    assert rank(scores) == [3, 1, 5, 0, 4]


# ---- TensorBoard
# -----------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_where_its_metrics_end(tmp_path: Path) -> None:
    """Three epochs logged, the third lost in a crash and repeated: TensorBoard shows 1, 2 and the new 3."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    header, *lines = METRICS.splitlines(keepends=True)
    keys = header.strip().split(",")
    with TensorBoardLog(tmp_path) as log:
        for line in lines:
            log.add(dict(zip(keys, line.strip().split(","), strict=True)))
    (tmp_path / "metrics.csv").write_text("".join([header, *lines[:2]]))
    with TensorBoardLog(tmp_path) as log:
        log.add({"stage": "qat", "epoch": 1, "loss": 9.0, "AP50": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 4.0), (2, 3.0), (3, 9.0)]
    assert [(e.step, e.value) for e in events.Scalars("val/AP50")] == [(2, 0.5), (3, 0.75)]
    assert set(events.Tags()["scalars"]) == {
        *("train/loss", "train/lr", "train/heat", "val/AP50", "val/AP", "run/side", "run/seconds"),
    }

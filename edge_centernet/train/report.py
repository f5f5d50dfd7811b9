"""The report of a training run, in its folder, and the log for TensorBoard.

    curves.png             losses, learning rate and accuracy of every epoch in metrics.csv
    pr.png                 precision against recall of every class on the validation set
    reliability.png        how often detections are right, by their score
    contact_sheet.jpg      the best and the worst validation images, with predictions and labels
    eval.json              the figures behind pr.png, as `evaluation.coco.evaluate_samples` returns them
    tensorboard/           for `tensorboard --logdir`

The plots are drawn on matplotlib's Agg canvas, which needs no display and touches no global state.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_centernet.classes import find_class
from edge_centernet.data import Dataset, Sample
from edge_centernet.detections import Detections
from edge_centernet.draw import banner, caption, class_color, draw, fit, grid, tile
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.evaluation.crowds import RIGHT, WRONG, Matches
from edge_centernet.evaluation.plots import save_figure, write_precision_recall, write_reliability
from edge_centernet.files import write_atomic
from edge_centernet.imageio import read_image
from edge_centernet.manifest import DEFAULT_THRESHOLD
from edge_centernet.network.centernet import CenterNet
from edge_centernet.train.validate import THRESHOLD, predict

Image = NDArray[np.uint8]  # (H, W, 3) BGR
Row = dict[str, str]  # of metrics.csv

TILES = 12  # best images, and as many worst
_COLUMNS = 6
_TILE = 320  # pixels, side of a picture in the contact sheet
_GAP = 4  # pixels around a picture
# Columns of metrics.csv that are not a loss; all others are drawn as one.
_NO_LOSS = ("stage", "epoch", "side", "lr", "AP50", "AP", "images_per_s", "seconds")
# TensorBoard shows scalars with the same prefix side by side.
_GROUPS = {"AP50": "val", "AP": "val", "side": "run", "images_per_s": "run", "seconds": "run"}
_STAGES = {"float": "float", "qat": "QAT"}
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (150, 150, 150)  # BGR


def write_report(
    run: Path, found: CenterNet | Sequence[Detections], data: Dataset | None
) -> dict[str, Any] | None:
    """Write the report of a run into its folder; each file is complete or not there.

    found: the network, or one `Detections` per image of `data` in its pixels, down to THRESHOLD, class_id
        indexing data.classes.
    data: the validation set; without one there are only curves.

    Returns the metrics that eval.json holds. Raises ConfigError for a folder without a readable metrics.csv,
    and what `evaluate_samples` and `read_image` raise.
    """
    write_curves(run / "metrics.csv", run / "curves.png")
    if data is None:
        return None
    from edge_centernet.evaluation.coco import evaluate_samples, match_samples  # needs the eval extra

    if isinstance(found, CenterNet):
        classes, spec = found.spec.classes, found.spec
        found = list(predict(found, data, THRESHOLD))
    else:
        classes, spec = data.classes, None
    metrics = evaluate_samples(found, data, classes, spec)
    write_atomic(run / "eval.json", (json.dumps(metrics) + "\n").encode())
    write_precision_recall(metrics, run / "pr.png")
    if metrics["calibration"] is not None:
        write_reliability(metrics, run / "reliability.png")
    shown = DEFAULT_THRESHOLD if spec is None else spec.suggested
    matches = match_samples(found, data, classes)
    write_contact_sheet(data, found, classes, matches, run / "contact_sheet.jpg", shown)
    return metrics


def class_table(data: Dataset, metrics: Mapping[str, Any]) -> list[str]:
    """Lines of a table: images, objects, AP50 and AP of each class of a data set, and of all.

    metrics: what `evaluate_samples` says of detections on `data`.
    """
    rows: list[tuple[str, ...]] = [("class", "images", "objects", "AP50", "AP")]
    counted = [sample.labels[sample.counted] for sample in data.samples]
    for name, figures in metrics["per_class"].items():
        own = [int((labels == data.classes.index(name)).sum()) for labels in counted]
        rows.append((name, f"{sum(map(bool, own))}", f"{sum(own)}", *_two(figures)))
    rows.append(("all", f"{len(counted)}", f"{sum(map(len, counted))}", *_two(metrics)))
    wide = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{wide}}" + "".join(f"  {cell:>7}" for cell in row[1:]) for row in rows]


def _two(figures: Mapping[str, Any]) -> list[str]:
    return ["-" if figures[key] is None else f"{figures[key]:.3f}" for key in ("AP50", "AP")]


# ---- curves


def write_curves(metrics_csv: Path, out: Path) -> None:
    """Plot losses (logarithmic where all are above 0), learning rate and AP over the epochs.

    A vertical line marks where the stage or the image side changes, because losses on its two sides do not
    compare. Every column that is not known to be something else is taken for a loss. Raises ConfigError where
    the metrics cannot be read.
    """
    rows = _read_metrics(metrics_csv)
    figure = Figure(figsize=(9, 9), layout="constrained")
    losses, rate, accuracy = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 2))
    for name in rows[0]:
        if name not in _NO_LOSS:
            _line(losses, rows, name, linewidth=2.0 if name == "loss" else 1.2)
    values = [float(np.min(line.get_ydata())) for line in losses.get_lines()]
    losses.set_yscale("log" if values and min(values) > 0 else "linear")
    losses.set_ylabel("loss")
    _line(rate, rows, "lr", color="black")
    rate.set_ylabel("learning rate")
    for name in ("AP50", "AP"):
        _line(accuracy, rows, name, marker="o", markersize=3)
    accuracy.set_ylim(0, 1)
    accuracy.set_ylabel("accuracy, validation")
    accuracy.set_xlabel("epoch")
    if not accuracy.get_lines():
        accuracy.text(0.5, 0.5, "not evaluated", transform=accuracy.transAxes, ha="center", va="center")
    for axes in (losses, rate, accuracy):
        axes.grid(alpha=0.3)
        if len(axes.get_lines()) > 1:
            axes.legend(loc="upper right" if axes is losses else "upper left", fontsize=8)
        _mark_parts(axes, rows, titles=axes is losses)
    save_figure(figure, out)


def _read_metrics(path: Path) -> list[Row]:
    """The lines of metrics.csv, every cell checked; raises ConfigError with file and line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{path}: expected the metrics of a training run, cannot read them ({why})"
        ) from None
    if not rows or "stage" not in rows[0]:
        raise ConfigError(
            f"{path}: expected one line of metrics an epoch, got none; train at least one epoch"
        )
    for number, row in enumerate(rows, 2):
        for name, text in row.items():
            if name != "stage" and text and not _is_number(text):
                raise ConfigError(f"{path}: line {number}, {name}: expected a number, got {text!r}")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):  # TypeError: csv gives surplus cells of a line as a list
        return False
    return True


def _line(axes: Axes, rows: list[Row], name: str, **style: Any) -> None:
    """Plot one column over the epochs, where it has a value."""
    points = [(x, float(row[name])) for x, row in enumerate(rows, 1) if row.get(name)]
    points = [(x, y) for x, y in points if math.isfinite(y)]  # a diverged loss would break the axis
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=name, **({"marker": "."} | style))


def _mark_parts(axes: Axes, rows: list[Row], titles: bool) -> None:
    """Shade QAT in grey, and mark with a dotted line where stage or image side change, and what begins."""
    parts = [(row["stage"], row.get("side")) for row in rows]
    starts = [i for i in range(len(parts)) if i == 0 or parts[i] != parts[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
        stage, side = parts[start]
        if start:
            axes.axvline(start + 0.5, color="black", linestyle=":", linewidth=1)
        if stage == "qat":
            axes.axvspan(start + 0.5, end + 0.5, color="black", alpha=0.07, linewidth=0)
        if titles:
            name = _STAGES.get(stage, stage) + (f"\n{side} px" if side else "")
            middle = (start + 1 + end) / 2
            axes.text(
                middle, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8
            )
    axes.set_xlim(0.5, len(rows) + 0.5)


# ---- contact sheet


@dataclass(frozen=True)
class ImageScore:
    """How well the detections that are shown fit one image, at IoU 0.5, without objects that do not count.

    right, wrong, missed: numbers of detections that found an object, of false alarms, of objects not found.
    confidence: mean score of the right detections minus mean score of the wrong ones, -1..1; 0 for none.
    """

    right: int
    wrong: int
    missed: int
    confidence: float

    @property
    def f1(self) -> float | None:
        """2 right / (2 right + wrong + missed), 0..1; None where nothing is to be found and nothing was."""
        total = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / total if total else None


class Shown(NamedTuple):
    """What is shown of one image.

    found: the K detections that reach the threshold. verdict: (K,) of `Matches`.
    missed: (M,) bool, the objects that none of them found, without those that do not count.
    """

    found: Detections
    verdict: NDArray[np.int8]
    missed: NDArray[np.bool_]


def shown_of(
    matches: Matches,
    sample: Sample,
    found: Detections,
    threshold: float | Sequence[float],
    labels: Sequence[int],
) -> Shown:
    """The detections of one image that reach the threshold, and the objects that they miss.

    Args:
        matches: how all detections and objects of the image fit each other.
        sample: the image and its M objects.
        found: all detections.
        threshold: one for all classes, or one for each class of the model.
        labels: which class of the model each of the data set's classes is, -1 for one that it does not know.
    """
    reached = found.reaching(threshold)
    limits = np.asarray(threshold, np.float32)
    # (M,); of a class that the model does not know nothing is found, so its -1 may take any limit.
    own = limits[np.asarray(labels)[sample.labels]] if limits.ndim else limits
    return Shown(found[reached], matches.verdict[reached], sample.counted & (matches.found_at < own))


def score_image(shown: Shown) -> ImageScore:
    """Count the matches of one image."""
    right, wrong = (shown.found.score[shown.verdict == verdict] for verdict in (RIGHT, WRONG))
    confidence = (float(right.mean()) if len(right) else 0.0) - (float(wrong.mean()) if len(wrong) else 0.0)
    return ImageScore(len(right), len(wrong), int(shown.missed.sum()), confidence)


def rank(scores: Sequence[ImageScore]) -> list[int]:
    """Indices of images, best first: by F1, images of equal F1 by confidence, then in their own order.

    In the best images every object is found, with a high score, and nothing else; in the worst, false alarms
    have high scores and no object is found. Images with nothing to find and nothing found are left out.
    """
    judged = [(one.f1, one.confidence, i) for i, one in enumerate(scores) if one.f1 is not None]
    return [i for _, _, i in sorted(judged, key=lambda key: (-key[0], -key[1], key[2]))]


def write_contact_sheet(
    data: Dataset,
    found: Sequence[Detections],
    classes: Sequence[str],
    matches: Sequence[Matches],
    out: Path,
    threshold: float | Sequence[float] = DEFAULT_THRESHOLD,
) -> None:
    """Draw the TILES best images above the TILES worst, worst first; fewer of each if there are few images.

    Predictions are drawn in the colour of their class, with their score; objects are white (grey where they
    do not count), with the name of their class where no detection found them. `rank` decides what is best.

    Args:
        data: the validation set.
        found: detections for each of its images.
        classes: the model's.
        matches: how detections and objects fit each other, for each image.
        out: the JPEG file.
        threshold: from which on predictions are drawn, one for all or one for each of `classes`.
    """
    known = [find_class(name, classes) for name in data.classes]
    labels = [-1 if k is None else k for k in known]
    shown = [shown_of(*one, threshold, labels) for one in zip(matches, data.samples, found, strict=True)]
    scores = [score_image(one) for one in shown]
    order = rank(scores)
    count = min(TILES, (len(order) + 1) // 2)
    best, worst = order[:count], order[count:][::-1][:count]
    bands = []
    for title, chosen in (("best", best), ("worst", worst)):
        tiles = [_tile(data, i, shown[i], classes, scores[i]) for i in chosen]
        if tiles:
            heading = banner(f"{title} of {len(data)} validation images", _COLUMNS * _TILE)
            bands += [heading, grid(tiles, _COLUMNS)]
    if not bands:
        bands = [banner("no validation image with an object or a detection", _COLUMNS * _TILE)]
    ok, jpeg = cv2.imencode(".jpg", np.vstack(bands), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok, "OpenCV always writes JPEG"
    write_atomic(out, jpeg.tobytes())


def _tile(data: Dataset, index: int, seen: Shown, classes: Sequence[str], score: ImageScore) -> Image:
    """One image with boxes, and a caption below it: (_TILE + the caption's height, _TILE, 3)."""
    sample = data.samples[index]
    image, scale = fit(read_image(sample.path), _TILE - 2 * _GAP)
    found = Detections(seen.found.xyxy * np.float32(scale), seen.found.score, seen.found.class_id)
    # Predictions, thicker than `draw` makes them at this size.
    for box, class_id in zip(found.xyxy, found.class_id, strict=True):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), class_color(int(class_id)), 3)
    # Objects as thin boxes, white on black so that they show on any background.
    for box, label, counted, missed in zip(
        sample.boxes, sample.labels, sample.counted, seen.missed, strict=True
    ):
        x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), _BLACK, 2)
        cv2.rectangle(image, (x1, y1), (x2, y2), _WHITE if counted else _GREY, 1)
        if missed:
            caption(image, data.classes[label], (x1 + 3, y2 - 4), 0.4)
    image = draw(image, found, classes)
    counts = f"{score.right} right, {score.wrong} wrong, {score.missed} missed"
    return tile(image, _TILE, (f"F1 {score.f1:.2f}  {counts}", sample.path.name))


# ---- TensorBoard


class TensorBoardLog:
    """RUN/tensorboard: one scalar an epoch for each number of a line of metrics.csv.

    Epochs are counted through both stages. A resumed run continues after the epochs that metrics.csv holds;
    what an interrupted run logged beyond them is hidden (TensorBoard's purge_step).
    """

    def __init__(self, run: Path) -> None:
        """run: the run folder, with metrics.csv already cut back to the epochs that are not repeated."""
        try:
            import tensorboard  # noqa: F401  # what torch's writer needs
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependency.for_extra("TensorBoard logging", "train") from None
        path = run / "metrics.csv"
        self._epochs = max(0, len(path.read_text(encoding="utf-8").splitlines()) - 1) if path.is_file() else 0
        purge = self._epochs + 1 if (run / "tensorboard").is_dir() else None
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge)

    def add(self, row: Mapping[str, Any]) -> None:
        """Log the next epoch's line of metrics; a cell that is not a number is left out."""
        self._epochs += 1
        for name, value in row.items():
            if name not in ("stage", "epoch") and _is_number(str(value)):
                self._writer.add_scalar(f"{_GROUPS.get(name, 'train')}/{name}", float(value), self._epochs)
        self._writer.flush()  # whoever watches sees every epoch as it ends

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> TensorBoardLog:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, also after Ctrl-C."""
        self.close()

"""Plots of an evaluation: precision over recall, and the share of right detections over their score.

They are drawn on matplotlib's Agg canvas, which needs no display and touches no global state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_centernet.errors import MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.manifest import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Raise MissingDependency without matplotlib: to be called before anything is measured."""
    if find_spec("matplotlib") is None:
        raise MissingDependency.for_extra("Plots", "convert")


def write_precision_recall(metrics: Mapping[str, Any], out: Path) -> None:
    """Draw one small plot per class: precision over recall at IoU 0.5, and a dot at the default threshold.

    metrics: what `evaluate_samples` returns, or the JSON file of `edge-centernet eval`.
    """
    from matplotlib.figure import Figure

    curves = metrics["precision_recall"]
    names = list(curves["per_class"])
    default = metrics.get("at_threshold") or {"threshold": DEFAULT_THRESHOLD, "class_thresholds": {}}
    columns = min(5, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.2 * columns + 0.4, 2.2 * lines + 0.6), layout="constrained")
    plots = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(plots, names, strict=False):
        curve, ap50 = curves["per_class"][name], metrics["per_class"][name]["AP50"]
        axes.set_title(f"{name}  {'-' if ap50 is None else f'{ap50:.3f}'}", fontsize=9)
        axes.grid(alpha=0.3)
        if curve is None:
            axes.text(0.5, 0.5, "no object", ha="center", va="center")
            continue
        reached = [i for i, precision in enumerate(curve["precision"]) if precision > 0]
        x, y = [curves["recall"][i] for i in reached], [curve["precision"][i] for i in reached]
        axes.plot(x, y, drawstyle="steps-pre")  # COCO's precision is the best at this recall or beyond: steps
        axes.fill_between(x, y, step="pre", alpha=0.15)
        threshold = default["class_thresholds"].get(name, default["threshold"])
        shown = [i for i in reached if curve["score"][i] >= threshold]
        if shown:
            at = shown[-1]
            axes.plot(curves["recall"][at], curve["precision"][at], "o", color="black", markersize=4)
    for axes in plots[len(names) :]:
        axes.set_visible(False)
    plots[0].set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1))
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    dot = "the class's threshold" if default["class_thresholds"] else f"score {default['threshold']:g}"
    figure.suptitle(f"AP50 by class; of all {metrics['AP50']:.3f}. Dot: {dot}", fontsize=10)
    save_figure(figure, out)


def write_reliability(metrics: Mapping[str, Any], out: Path) -> None:
    """Draw the share of right detections over their score, before and after calibration if there was one.

    metrics: what `evaluate_samples` returns for a model with its spec, or the JSON file of
    `edge-centernet eval`.
    """
    from matplotlib.figure import Figure

    record = metrics["calibration"]
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="black", linestyle=":", linewidth=1)
    parts = [("as trained", record["before"], "tab:orange")] if record["before"] else []
    parts.append(("calibrated" if record["before"] else "scores", record, "tab:blue"))
    for name, one, color in parts:
        error = "-" if one["error"] is None else f"{one['error']:.3f}"
        bins = one["bins"]
        axes.plot(bins["score"], bins["precision"], "o-", color=color, label=f"{name}, error {error}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of right detections (IoU 0.5)")
    axes.set_title(f"Expected calibration error from score {record['lowest']:g} on", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)
    save_figure(figure, out)


def save_figure(figure: Figure, out: Path) -> None:
    """Write a PNG, whole or not at all; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})  # without matplotlib's version
    write_atomic(out, buffer.getvalue())

"""Pictures of what an evaluation measured: precision against recall, and how often detections are right by their score.

Drawn with matplotlib's Agg canvas: no display is needed and no global state touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_centernet.errors import MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.manifest import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Before anything is measured: MissingDependency without it."""
    if find_spec("matplotlib") is None:
        raise MissingDependency.for_extra("Plots", "convert")


def write_precision_recall(metrics: Mapping[str, Any], out: Path) -> None:
    """One small plot a class: precision over recall at IoU 0.5, and a dot at the default threshold.

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
        else:
            _curve(axes, curves["recall"], curve, default["class_thresholds"].get(name, default["threshold"]))
    for axes in plots[len(names) :]:
        axes.set_visible(False)
    plots[0].set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1))
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    dot = "the class's threshold" if default["class_thresholds"] else f"score {default['threshold']:g}"
    figure.suptitle(f"AP50 by class; of all {metrics['AP50']:.3f}. Dot: {dot}", fontsize=10)
    save_figure(figure, out)


def _curve(
    axes: Axes, recall: Sequence[float], curve: Mapping[str, Sequence[float]], threshold: float
) -> None:
    reached = [i for i, precision in enumerate(curve["precision"]) if precision > 0]
    x, y = [recall[i] for i in reached], [curve["precision"][i] for i in reached]
    axes.plot(x, y, drawstyle="steps-pre")
    axes.fill_between(x, y, step="pre", alpha=0.15)
    shown = [i for i in reached if curve["score"][i] >= threshold]
    if shown:
        axes.plot(recall[shown[-1]], curve["precision"][shown[-1]], "o", color="black", markersize=4)


def write_reliability(metrics: Mapping[str, Any], out: Path) -> None:
    """Share of right detections over score, before and after calibration where the model has both.

    metrics: what `evaluate_samples` returns for a model with its spec, or the JSON file of `edge-centernet
      eval`.
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
    """As PNG, atomically; equal figures are equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})  # no version
    write_atomic(out, buffer.getvalue())

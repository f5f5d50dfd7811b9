"""A record as a picture: where the time of a frame goes, and how far its tail reaches."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

from edge_centernet.bench.record import Record
from edge_centernet.bench.report import machine_text, source_text
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.runtimes import ENGINES

SUFFIXES = (".png", ".svg")
# Okabe and Ito's colours, which can be told apart by those who see colours otherwise.
_COLOURS = {"preprocess": "#56B4E9", "inference": "#0072B2", "decode": "#E69F00"}
_MARKS = {"p50_ms": "o", "p90_ms": "|", "p99_ms": "x"}


def check(path: Path) -> None:
    """Before anything is measured: ConfigError for another kind of file, MissingDependency without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path}: expected a file name ending in {' or '.join(SUFFIXES)}, got {path.suffix!r}"
        )
    if find_spec("matplotlib") is None:
        raise MissingDependency.for_extra("--chart", "convert")


def draw(record: Record, path: Path) -> None:
    """Write it as PNG or SVG, by the suffix; whole or not at all. See `check`."""
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = record["results"]
    figure = Figure(figsize=(9.0, 1.8 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [
        f"{ENGINES[row['runtime']].title}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        for row in rows
    ]
    left = [0.0] * len(rows)
    for step, colour in _COLOURS.items():
        widths = [row["p50_ms"][step] for row in rows]
        axes.barh(names, widths, left=left, color=colour, height=0.6, label=f"{step}, p50")
        left = [a + b for a, b in zip(left, widths, strict=True)]
    first, last = ([row[rank]["end_to_end"] for row in rows] for rank in ("p50_ms", "p99_ms"))
    axes.hlines(names, first, last, color="black", linewidth=0.8)
    for rank, mark in _MARKS.items():
        ends = [row[rank]["end_to_end"] for row in rows]
        label = f"end to end, {rank.removesuffix('_ms')}"
        axes.plot(ends, names, linestyle="", marker=mark, color="black", markersize=7, label=label)
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("milliseconds a frame")
    model = f"{record['model']['name']} {record['model']['version']}"
    axes.set_title(
        f"{model}: {source_text(record['source'])}\n{machine_text(record['machine'])}", fontsize=10
    )
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    kind = path.suffix.lower()[1:]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    write_atomic(path, buffer.getvalue())

#!/usr/bin/env python3
"""Draw the pictures of README and docs/method.md: what the shipped model makes of the sample photo.

Needs an engine and matplotlib (the extra `convert`). Nothing is drawn by hand: the photo goes through
`prepare`, the runtime and the decoder as in `edge-centernet detect`, and what stands between them is shown.

    python scripts/draw_method.py [--out DIR]            # docs/pictures, if not given
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
import render_demo
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import edge_centernet
from edge_centernet.decoder import in_heat_unit
from edge_centernet.decoder.rule import Head, find_peaks, logistic
from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.draw import draw
from edge_centernet.heads import real_values
from edge_centernet.imageio import Image, read_image
from edge_centernet.manifest import Manifest
from edge_centernet.preprocess import Letterbox, letterbox, prepare
from edge_centernet.runtimes import first_candidate, open_runtime

OUT = Path(__file__).resolve().parent.parent / "docs" / "pictures"
PHOTO = Path(edge_centernet.__file__).parent / "assets" / "sample.jpg"
MODEL = "centernet-mbv2-320"
THRESHOLD = 0.3
DPI = 100
INK = "#1a5fb4"  # what is pointed at
CELL = {"fill": False, "edgecolor": "#33d17a", "linewidth": 2}
HEAT: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": 1}
FAR = 160.0  # focal length in pixels: a third of that of the clip
FRAMES = (60, 150, 420)  # of the clip, whose people come together in one scene
JPEG = {"quality": 88, "optimize": True}


class Steps(NamedTuple):
    """Everything between the photo and its boxes. Maps are in real units: probabilities and cells."""

    photo: Image  # (H, W, 3) BGR
    seen: NDArray[np.uint8]  # (320, 320, 3) RGB, what the network sees
    box: Letterbox
    manifest: Manifest
    heat: NDArray[np.float32]  # (C, 40, 40) probability
    size: NDArray[np.float64]  # (2, 40, 40) width, height in cells
    offset: NDArray[np.float64]  # (2, 40, 40) x, y in cells
    peaks: NDArray[np.bool_]  # (C, 40, 40) cells that the decoder takes
    found: Detections  # in pixels of the photo


def look(photo: Path = PHOTO) -> Steps:
    """Run the shipped model on the photo and keep what comes between."""
    file, engine = first_candidate(MODEL)
    runtime = open_runtime(file, engine, threads=1)
    try:
        image, manifest = read_image(photo), runtime.manifest
        seen, box = letterbox(image, manifest.model)
        heads = runtime.run(prepare(image, manifest)[0])
        found = Detector(runtime, threshold=THRESHOLD).boxes(heads, box)
        specs = (manifest.heat, manifest.size, manifest.offset)
        logits, size, offset = (real_values(head, spec) for head, spec in zip(heads, specs, strict=True))
        limit = np.float32(in_heat_unit(THRESHOLD, manifest.model.heat_unit))
        peaks = find_peaks(Head("heat", heads.heat, manifest.heat.quant), np.full(len(logits), limit))
    finally:
        runtime.close()
    return Steps(image, seen, box, manifest, logistic(logits.astype(np.float32)), size, offset, peaks, found)


def best_peak(steps: Steps, name: str) -> tuple[int, int, int]:
    """(class, y, x) of the strongest peak of a class."""
    channel = steps.manifest.model.classes.index(name)
    best = np.argmax(np.where(steps.peaks[channel], steps.heat[channel], 0))
    y, x = np.unravel_index(best, steps.heat.shape[1:])
    return channel, int(y), int(x)


def draw_letterbox(steps: Steps) -> Figure:
    """The photo, and the same photo as the network sees it, with the cells of the heatmap."""
    model, box = steps.manifest.model, steps.box
    figure, (left, right) = _axes(2, 3.9, width_ratios=(1.55, 1))
    left.imshow(cv2.cvtColor(steps.photo, cv2.COLOR_BGR2RGB))
    left.set_title(f"the photo: {box.src_width} x {box.src_height} pixels")
    right.imshow(steps.seen)
    _grid(right, model.stride, model.width)
    right.set_title(f"the network's input: {model.width} x {model.height}")
    photo = f"photo {box.new_width} x {box.new_height}, {box.top} rows of padding above"
    right.set_xlabel(f"{photo}\na heatmap cell for each {model.stride} x {model.stride} pixels")
    _bare(left, right)
    return figure


def draw_heatmap(steps: Steps) -> Figure:
    """Two of the heatmap's channels over what the network sees."""
    figure, axes = _axes(2, 3.0)
    side, stride, box = steps.manifest.model.width, steps.manifest.model.stride, steps.box
    shown = None
    for axis, name in zip(axes, ("person", "cat"), strict=True):
        channel, y, x = best_peak(steps, name)
        axis.imshow(cv2.cvtColor(cv2.cvtColor(steps.seen, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        heat = steps.heat[channel]
        seen_through = np.clip(2.5 * heat, 0, 0.85)
        shown = axis.imshow(heat, alpha=seen_through, extent=(0, side, side, 0), **HEAT)
        axis.set_ylim(box.top + box.new_height + stride, box.top - stride)  # most of the padding is left out
        axis.set_title(f"channel “{name}”: highest {heat[y, x]:.2f}")
    _bare(*axes)
    figure.colorbar(shown, ax=axes, label="probability of a centre", shrink=0.9)
    return figure


def draw_peaks(steps: Steps) -> Figure:
    """The cells around the cat's centre: as they are, after the 3x3 maximum, and what is left."""
    channel, y, x = best_peak(steps, "cat")
    heat = steps.heat[channel]
    highest = cv2.dilate(heat, np.ones((3, 3), np.uint8))  # of each cell and its 8 neighbours
    window = _window(y, x, 4, heat.shape)
    kept = np.where(steps.peaks[channel], heat, 0)
    figure, axes = _axes(3, 3.7)
    titles = ("probability", "highest of each 3 x 3", f"peaks of at least {THRESHOLD}")
    for axis, title, values in zip(axes, titles, (heat, highest, kept), strict=True):
        rows, columns = (range(part.start, part.stop) for part in window)
        axis.imshow(values[window], extent=(columns.start, columns.stop, rows.stop, rows.start), **HEAT)
        axis.set_title(title)
        axis.set_xticks([column + 0.5 for column in columns], columns, fontsize=8)
        axis.set_yticks([row + 0.5 for row in rows], rows, fontsize=8)
        for row in rows:
            for column in columns:
                value = float(values[row, column])
                ink = "black" if value > 0.6 else "white"
                text = f"{value:.2f}".removeprefix("0") if value else "·"
                axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5, color=ink)
    for axis in axes[:2]:
        axis.add_patch(Rectangle((x, y), 1, 1, **CELL))
    axes[0].set_ylabel("cell")
    return figure


def draw_size_and_offset(steps: Steps) -> Figure:
    """What two numbers of offset and two of size add to the cat's peak."""
    _, y, x = best_peak(steps, "cat")
    stride, side = steps.manifest.model.stride, steps.manifest.model.width
    (dx, dy), (width, height) = steps.offset[:, y, x], steps.size[:, y, x]
    figure, (near, whole) = _axes(2, 4.9)

    near.imshow(steps.seen, extent=(0, side / stride, side / stride, 0))
    near.set(xlim=(x - 1, x + 2), ylim=(y + 2, y - 1), xticks=range(x - 1, x + 3), yticks=range(y - 1, y + 3))
    near.grid(color="white", linewidth=1)
    near.add_patch(Rectangle((x, y), 1, 1, **{**CELL, "linewidth": 3}))
    _arrow(near, (x, y), (x + dx, y + dy))
    near.plot(x + dx, y + dy, "o", color=INK, markersize=9, markeredgecolor="white")
    place = f"from the corner of cell ({x}, {y})"
    near.set_title(f"offset: the centre lies {dx:.2f}, {dy:.2f} of a cell\n{place}")
    near.set_xlabel("cells")

    whole.imshow(steps.seen, extent=(0, side / stride, side / stride, 0))
    centre = (x + dx, y + dy)
    corner = (centre[0] - width / 2, centre[1] - height / 2)
    whole.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=INK, linewidth=2.5))
    for sign in (-1, 1):
        _arrow(whole, centre, (centre[0] + sign * width / 2, centre[1]))
        _arrow(whole, centre, (centre[0], centre[1] + sign * height / 2))
    whole.add_patch(Rectangle((x, y), 1, 1, **CELL))
    beyond = 2  # cells: the box reaches over the edge, and is cut off there later
    whole.set(xlim=(-beyond, side / stride + beyond), ylim=(side / stride + beyond, -beyond))
    pixels = f"{width * stride:.0f} x {height * stride:.0f} pixels"
    whole.set_title(f"size: {width:.1f} x {height:.1f} cells,\n{pixels} of the input")
    whole.set_xlabel("cells")
    return figure


def draw_small_objects() -> Figure:
    """People far away, two of them side by side, and what is found of them by one pass and by tiles."""
    render_demo.WIDTH, render_demo.HEIGHT, render_demo.FOCAL = 1280, 720, FAR
    people = [one for number in FRAMES for one in render_demo.people_at(number)]
    empty = render_demo.shop(render_demo.SCALE)
    scene = render_demo.picture(empty, people, np.random.default_rng(3))
    figure, axes = _axes(2, 2.3)
    for axis, tiles in zip(axes, (None, "3x2"), strict=True):
        with Detector(MODEL, threads=1, only=["person"], tiles=tiles) as detector:
            found = detector.detect(scene)
        axis.imshow(cv2.cvtColor(scene, cv2.COLOR_BGR2RGB), interpolation="bicubic")
        for (x1, y1, x2, y2), score in zip(found.xyxy, found.score, strict=True):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linewidth=2))
            axis.text(x1, y1 - 1, f"{score:.2f}", color="white", backgroundcolor=INK, fontsize=8, va="bottom")
        share = f"{len(found)} of {len(people)} found"
        axis.set_title(f"{'one pass' if tiles is None else f'--tiles {tiles}'}: {share}")
        axis.set(xlim=(460, 780), ylim=(430, 300))
    _bare(*axes)
    return figure


FIGURES: dict[str, Callable[[Steps], Figure]] = {
    "letterbox.jpg": draw_letterbox, "heatmap.jpg": draw_heatmap,
    "peaks.png": draw_peaks, "size-and-offset.jpg": draw_size_and_offset,
}  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Write a figure; what the tools would add of themselves (versions, time) is left out."""
    png = path.suffix == ".png"
    extra: dict[str, Any] = {"metadata": {"Software": None}} if png else {"pil_kwargs": JPEG}
    figure.savefig(path, dpi=DPI, **extra)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    steps = look()
    drawn = draw(steps.photo, steps.found, steps.manifest.model.classes)
    cv2.imwrite(str(out / "detections.jpg"), drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG["quality"]])
    for name, figure in FIGURES.items():
        save(figure(steps), out / name)
    save(draw_small_objects(), out / "small-objects.jpg")


def _axes(count: int, height: float, **more: Any) -> Any:
    """A figure with so many pictures beside each other, of so many inches, and their axes."""
    return plt.subplots(1, count, figsize=(9.6, height), layout="constrained", **more)


def _grid(axis: Axes, step: int, side: int) -> None:
    for at in range(step, side, step):
        axis.axhline(at, color="white", linewidth=0.3, alpha=0.7)
        axis.axvline(at, color="white", linewidth=0.3, alpha=0.7)


def _bare(*axes: Axes) -> None:
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def _window(y: int, x: int, around: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The cells at most `around` from (y, x), as far as there are any."""
    rows = slice(max(0, y - around), min(shape[0], y + around + 1))
    return rows, slice(max(0, x - around), min(shape[1], x + around + 1))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=end, xytext=start, arrowprops=style)


if __name__ == "__main__":
    main()

"""How fast is the decoder? Against reading the map once, CenterNet's own decode in PyTorch, NumPy, and OpenCV's NMS.

    python scripts/bench_decoder.py

One int8 heatmap of 80 classes at 128x128 with some 100 objects, Gaussians as CenterNet is trained on, one thread,
medians:

- C alone (scripts/bench_decoder.c, compiled with -O2 and -O3): NCHW and NHWC, and a map in which nothing is found,
  beside memcpy and memchr over the same bytes;
- from Python: `decode` with each back end; CenterNet's `ctdet_decode` (src/lib/models/decode.py) on the float32 map;
  OpenCV's NMSBoxes on as many candidate boxes as cells reach the threshold;
- what Python adds to C on a 20-class 80x80 map.

Writes docs/benchmarks/decoder-MACHINE.json. Exit code 1 where the decoder takes more than 1.5 times a memcpy of the
map, is less than 30 times as fast as PyTorch, 10 times as NumPy, slower than NMSBoxes, or Python adds 15 microseconds.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from check_int8_speed import ROOT, commit, cpu_name, take_turns
from numpy.typing import NDArray

from edge_centernet.artifact import read_manifest
from edge_centernet.decoder import _decoder, decode, in_heat_unit
from edge_centernet.decoder.head import BOX, as_pair
from edge_centernet.files import write_atomic
from edge_centernet.heads import Heads
from edge_centernet.manifest import PER_CLASS, Manifest, Quant
from edge_centernet.models import DEFAULT, find_model

CLASSES, SIDE, OBJECTS, TOP = 80, 128, 110, 100
QUANT = Quant(0.0625, 0)  # logits -8..8
THRESHOLD = 0.3
COLUMNS = ("nchw", "nhwc", "nothing_found", "memcpy", "memchr")


def heatmap(classes: int, side: int, objects: int, seed: int = 0) -> NDArray[np.int8]:
    """(classes, side, side) logits of noise around probability 0.005 and Gaussian splats with peaks of 0.35 to 0.95."""
    rng = np.random.default_rng(seed)
    probability = 1 / (1 + np.exp(-rng.normal(-5.3, 0.6, (classes, side, side))))
    ys, xs = np.mgrid[:side, :side]
    for _ in range(objects):
        c, (y, x), sigma = rng.integers(classes), rng.uniform(2, side - 2, 2), rng.uniform(0.6, 3.0)
        splat = rng.uniform(0.35, 0.95) * np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * sigma**2))
        probability[c] = np.maximum(probability[c], splat)
    stored = np.rint(np.log(probability / (1 - probability)) / QUANT.scale) + QUANT.zero_point
    return np.clip(stored, -128, 126).astype(np.int8)  # 126: memchr looks for 127 in vain


def manifest(classes: int, side: int) -> Manifest:
    """Of a network with int8 heads of this size in NCHW."""
    base = read_manifest(find_model(DEFAULT, ".tflite"))
    names = tuple(f"class {i}" for i in range(classes))
    none: dict[str, Any] = dict.fromkeys(PER_CLASS, ())
    model = replace(base.model, classes=names, **none, width=4 * side, height=4 * side, stride=4)
    heads = {
        role: replace(getattr(base, role), shape=(1, channels, side, side), layout="NCHW", quant=quant)
        for role, channels, quant in (
            ("heat", classes, QUANT),
            ("size", 2, Quant(0.1, 0)),
            ("offset", 2, Quant(0.01, 0)),
        )
    }
    image = replace(base.input, shape=(1, 4 * side, 4 * side, 3))
    return replace(base, model=model, input=image, golden=None, **heads)


def in_c(heat: NDArray[np.int8], threshold: float, turns: int) -> dict[str, dict[str, float]]:
    """Optimisation -> median microseconds of each column."""
    source = ROOT / "edge_centernet/decoder"
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        data, program = Path(folder) / "map.bin", Path(folder) / "bench"
        heat.tofile(data)
        numbers = [*heat.shape, QUANT.scale, QUANT.zero_point, threshold, turns]
        for level in ("-O2", "-O3"):
            files = [ROOT / "scripts/bench_decoder.c", source / "edgecn_decode.c"]
            command = ["cc", "-std=c99", level, f"-I{source}", *files, "-o", program]
            subprocess.run([str(part) for part in command], check=True)
            done = subprocess.run(
                [str(part) for part in (program, data, *numbers)], check=True, capture_output=True, text=True
            )
            table = np.array([[float(value) for value in line.split()] for line in done.stdout.splitlines()])
            medians = np.median(table, axis=0)
            named = zip(COLUMNS, medians[1:], strict=True)
            rows[level] = {"found": int(medians[0]), **{k: round(float(v), 2) for k, v in named}}
    return rows


def ctdet_decode(heat: torch.Tensor, wh: torch.Tensor, reg: torch.Tensor) -> torch.Tensor:
    """CenterNet's own: (1, C, H, W) logits, (1, 2, H, W) each -> (1, TOP, 6). src/lib/models/decode.py at 2b7692c."""
    heat = torch.sigmoid(heat)
    peaks = torch.nn.functional.max_pool2d(heat, 3, stride=1, padding=1)
    heat = heat * (peaks == heat).float()
    _, classes, height, width = heat.shape
    each_score, each_at = torch.topk(heat.view(1, classes, -1), TOP)
    ys, xs = (each_at // width).float(), (each_at % width).float()
    score, at = torch.topk(each_score.view(1, -1), TOP)
    class_id = (at // TOP).float()
    each_at, ys, xs = (t.view(1, -1).gather(1, at) for t in (each_at, ys, xs))
    reg, wh = (t.view(2, height * width)[:, each_at[0]].T[None] for t in (reg, wh))
    xs, ys = xs[..., None] + reg[..., :1], ys[..., None] + reg[..., 1:]
    half = wh / 2
    boxes = torch.cat([xs - half[..., :1], ys - half[..., 1:], xs + half[..., :1], ys + half[..., 1:]], 2)
    return torch.cat([boxes, score[..., None], class_id[..., None]], 2)


def nms_boxes(heat: NDArray[np.int8], threshold: float) -> tuple[Callable[[], Any], int]:
    """OpenCV's NMS of one box for each cell that reaches the threshold, and how many there are."""
    real = heat.astype(np.float32) * QUANT.scale
    classes, ys, xs = np.nonzero(real >= threshold)
    boxes = np.stack([xs * 4 - 20, ys * 4 - 20, np.full_like(xs, 40), np.full_like(ys, 40)], 1).astype(np.float64)
    scores = real[classes, ys, xs]
    return lambda: cv2.dnn.NMSBoxesBatched(boxes, scores, classes.astype(np.int32), threshold, 0.5), len(xs)


def medians(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Name -> median microseconds, the calls taking turns."""
    times = take_turns(calls, turns, warm_up=3)
    return {name: round(1e6 * statistics.median(values), 2) for name, values in times.items()}


def in_python(heat: NDArray[np.int8], turns: int) -> tuple[dict[str, float], int]:
    """(median microseconds by way of decoding, candidates for NMS)."""
    side = heat.shape[1]
    spec = manifest(len(heat), side)
    boxes = np.full((2, side, side), 30, np.int8)
    heads = Heads(heat, boxes, boxes)
    floats = [torch.from_numpy(a[None].astype(np.float32)) for a in (heat * np.float32(QUANT.scale), boxes, boxes)]
    suppress, candidates = nms_boxes(heat, in_heat_unit(THRESHOLD, "logit"))
    calls: dict[str, Callable[[], Any]] = {
        "decode, C": lambda: decode(heads, spec, threshold=THRESHOLD, backend="c"),
        "decode, NumPy": lambda: decode(heads, spec, threshold=THRESHOLD, backend="numpy"),
        "CenterNet's own, PyTorch": lambda: ctdet_decode(*floats),
        "NMSBoxes, OpenCV": suppress,
    }
    return medians(calls, turns), candidates


def overhead(turns: int) -> dict[str, float]:
    """What Python adds to the extension's function on a 20-class 80x80 map, in microseconds."""
    heat, side = heatmap(20, 80, 12), 80
    spec = manifest(20, side)
    boxes, out = np.full((2, side, side), 30, np.int8), np.empty(200, BOX)
    heads = Heads(heat, boxes, boxes)
    quants = [as_pair(head.quant) for head in (spec.heat, spec.size, spec.offset)]
    arguments = (*heads, *quants, 4.0, in_heat_unit(THRESHOLD, "logit"), None, out.view(np.float32))
    calls: dict[str, Callable[[], Any]] = {
        "decode": lambda: decode(heads, spec, threshold=THRESHOLD),
        "C": lambda: _decoder.decode(*arguments),
    }
    found = medians(calls, turns)
    return {**found, "added": round(found["decode"] - found["C"], 2)}


@click.command()
@click.option("--turns", default=300, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file instead of the one named above.")
def main(turns: int, out: Path | None) -> None:
    """Measure, write, print, judge."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    heat = heatmap(CLASSES, SIDE, OBJECTS)
    c = in_c(heat, in_heat_unit(THRESHOLD, "logit"), turns)
    python, candidates = in_python(heat, max(20, turns // 10))
    added = overhead(10 * turns)
    ours = python["decode, C"]
    ratios = {
        "decode in C to memcpy, NCHW": c["-O3"]["nchw"] / c["-O3"]["memcpy"],
        "decode in C to memcpy, NHWC": c["-O3"]["nhwc"] / c["-O3"]["memcpy"],
        "decode in C to memchr, NCHW": c["-O3"]["nchw"] / c["-O3"]["memchr"],
        "PyTorch to decode": python["CenterNet's own, PyTorch"] / ours,
        "NumPy to decode": python["decode, NumPy"] / ours,
        "NMSBoxes to decode": python["NMSBoxes, OpenCV"] / ours,
    }
    record = {
        "map": {"classes": CLASSES, "side": SIDE, "objects": OBJECTS, "candidates": candidates},
        "microseconds": {"c": c, "python": python, "overhead": added},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "cpu": cpu_name(),
        "commit": commit(),
    }
    path = out or ROOT / f"docs/benchmarks/decoder-{platform.machine()}.json"
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    click.echo(json.dumps(record, indent=1))
    kept = (
        max(ratios["decode in C to memcpy, NCHW"], ratios["decode in C to memcpy, NHWC"]) <= 1.5
        and ratios["PyTorch to decode"] >= 30
        and ratios["NumPy to decode"] >= 10
        and ratios["NMSBoxes to decode"] > 1
        and added["added"] < 15
    )
    sys.exit(int(not kept))


if __name__ == "__main__":
    main()

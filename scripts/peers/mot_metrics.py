"""MOTA, IDF1 and identity switches by py-motmetrics: REQUEST.json ANSWER.json.

REQUEST: a list of {"frames", "truth", "tracks", "iou"}, rows [frame, id, left, top, right, bottom].
"""

import json
import sys

import motmetrics
import numpy as np

METRICS = ("mota", "idf1", "num_switches", "precision", "recall")


def by_frame(rows: list, frames: int) -> list:
    """For each frame (ids, boxes)."""
    table = np.array(rows, float).reshape(-1, 6)
    parts = [table[table[:, 0] == frame] for frame in range(frames)]
    return [(part[:, 1].astype(int), part[:, 2:]) for part in parts]


def distances(a: np.ndarray, b: np.ndarray, iou: float) -> np.ndarray:
    """1 - IoU, NaN where it is below `iou`: what motmetrics' own iou_matrix does, which fails on NumPy 2."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    both = np.maximum(high - low, 0.0).prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    overlap = both / (area_a[:, None] + area_b - both)
    return np.where(overlap >= iou, 1.0 - overlap, np.nan)


def measure(job: dict) -> dict:
    """The metrics of one run."""
    events = motmetrics.MOTAccumulator(auto_id=True)
    truth, tracks = (by_frame(job[key], job["frames"]) for key in ("truth", "tracks"))
    for (true_ids, true_boxes), (ids, boxes) in zip(truth, tracks, strict=True):
        events.update(true_ids, ids, distances(true_boxes, boxes, job["iou"]))
    row = motmetrics.metrics.create().compute(events, metrics=list(METRICS)).iloc[0]
    return {key.removeprefix("num_"): round(float(row[key]), 4) for key in METRICS}


with open(sys.argv[1]) as file:
    jobs = json.load(file)
with open(sys.argv[2], "w") as file:
    json.dump([measure(job) for job in jobs], file)

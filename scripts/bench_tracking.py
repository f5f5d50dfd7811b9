"""Tracking and counting on PETS 2009 S2L1: ours, and ByteTrack by others on the same detections.

    python scripts/bench_tracking.py ../shared/data/pets09_s2l1_first400 --peers ~/peers

The detector runs once. Ours follows with its defaults, at the model's suggested threshold. The peers, the ByteTrack of
Roboflow's `trackers` and the last one that `supervision` had, run with their defaults and with a grid of settings; the
best of the grid by MOTA + IDF1 stands against ours, although it was chosen on the very frames it is measured on. They
and py-motmetrics run in environments of their own below --peers, made where they are missing.

Measured: MOTA, IDF1 and identity switches at IoU 0.5; crossings of a line by the rule of
edge_centernet.live.counting, of the truth and of each tracker; the same with fewer frames, and as a mean over runs in
which 5 % of the detections are dropped at random, since a single run of so few people is much luck; the truth's boxes
with random dropouts, which tells the tracker's errors from the detector's; milliseconds an update, seconds to import
and megabytes installed. Writes docs/benchmarks/tracking-pets09.json and .md.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter as Tallies
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ROOT, commit, cpu_name
from environments import environment
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.files import write_atomic
from edge_centernet.live.counting import Counter, Line, foot_points
from edge_centernet.live.state import Tracks
from edge_centernet.live.tracking import Tracker, TrackerOptions
from edge_centernet.models import DEFAULT
from edge_centernet.runtimes import choose, open_runtime
from edge_centernet.sources import open_source

RECORD = ROOT / "docs/benchmarks/tracking-pets09.json"
Rows = NDArray[np.float64]  # detections: frame, left, top, right, bottom, score; tracks: frame, id, left, ...
SIZE, FPS, FRAMES = (480, 360), 10.0, 400
LINE = Line("x = 240", (240.0, 360.0), (240.0, 0.0))  # upwards, so that "in" is to the right
LOWEST, IOU = 0.1, 0.5
STEPS = (1, 2, 5)  # every frame, every second, every fifth: 10, 5 and 2 a second
DROPPED, SEEDS = 0.05, 12  # of the detections
DROPOUTS, TRUTH_SEEDS = (0.1, 0.2, 0.3), 20  # of the truth's boxes
CROWD = 20  # objects in the scene for the stopwatch
PEERS = {  # name -> (module, packages of its environment)
    "trackers": ("trackers", ("trackers==2.6.1", "opencv-python-headless")),
    "supervision": ("supervision", ("supervision==0.28.0", "opencv-python-headless")),
}
GRID = {
    "trackers": {
        "low": (0.1, 0.2),
        "lost_track_buffer": (30, 75),
        "track_activation_threshold": (0.2, 0.3, 0.4, 0.5),
        "high_conf_det_threshold": (0.2, 0.3, 0.4),
        "minimum_iou_threshold": (0.05, 0.1, 0.2, 0.3),
        "minimum_consecutive_frames": (1, 3),
    },
    "supervision": {
        "low": (0.1, 0.2),
        "lost_track_buffer": (30, 75),
        "track_activation_threshold": (0.1, 0.2, 0.3, 0.4),
        "minimum_matching_threshold": (0.8, 0.9, 0.95, 0.98),
        "minimum_consecutive_frames": (1, 2, 3),
    },
}


@dataclass(frozen=True)
class Scene:
    """Detections of one sequence and the truth for it, frames numbered from 0."""

    rows: Rows
    truth: Rows
    frames: int
    fps: float


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--peers", type=click.Path(path_type=Path), required=True, help="Folder for the peers' environments.")
@click.option("--out", type=click.Path(path_type=Path), default=RECORD, show_default=True)
def main(data: Path, peers: Path, out: Path) -> None:
    """Detect once, track with each, measure, write, print."""
    truth = read_truth(data / "gt.txt")
    rows, threshold = detect(data / "video.mp4")
    scenes = make_scenes(rows, truth)
    runs = {"edge-centernet": {name: follow(scene, threshold) for name, scene in scenes.items()}}
    settings: dict[str, Any] = {"edge-centernet": {"threshold": threshold, **asdict(TrackerOptions())}}
    pythons = {name: environment(peers / name, packages) for name, (_, packages) in PEERS.items()}
    grids: dict[str, Any] = {}
    metrics = environment(peers / "motmetrics", ("motmetrics==1.4.0",))
    for name, python in pythons.items():
        default, best, grids[name] = tune(name, python, metrics, scenes["pets"])
        for title, setting in ((f"{name}, defaults", default), (f"{name}, tuned", best)):
            runs[title] = ask_peer(python, scenes, [setting])[0]
            settings[title] = setting
    record = report(runs, settings, scenes, metrics)
    record["grids"] = grids
    record["cost"] = costs(runs, pythons)
    record |= {
        "model": DEFAULT,
        "iou": IOU,
        "cpu": cpu_name(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    write_atomic(out, json.dumps(record, indent=1) + "\n")
    write_atomic(out.with_suffix(".md"), page(record))
    click.echo(page(record))


def read_truth(path: Path) -> Rows:
    """gt.txt of the MOT Challenge: frame from 1, id, left, top, width, height, ..."""
    table = np.loadtxt(path, delimiter=",")[:, :6]
    table[:, 0] -= 1
    table[:, 4:] += table[:, 2:4]
    return table


def detect(video: Path) -> tuple[Rows, float]:
    """People in every frame from LOWEST up, and the threshold that the model suggests."""
    file, engine = choose(DEFAULT)
    runtime = open_runtime(file, engine)
    detector = Detector(runtime, threshold=LOWEST, only=["person"])
    rows = [
        [frame.number, *box, score]
        for frame in open_source(str(video))
        for found in [detector.detect(frame.image)]
        for box, score in zip(found.xyxy, found.score, strict=True)
    ]
    threshold = runtime.manifest.model.threshold
    runtime.close()
    return np.array(rows, np.float64).round(3), threshold


def make_scenes(rows: Rows, truth: Rows) -> dict[str, Scene]:
    """Name -> what the trackers run on."""
    scenes = {"pets": Scene(rows, truth, FRAMES, FPS)}
    for step in STEPS[1:]:
        scenes[f"every {step}"] = Scene(thin(rows, step), thin(truth, step), FRAMES // step, FPS / step)
    for seed in range(SEEDS):
        kept = np.random.default_rng(seed).random(len(rows)) >= DROPPED
        scenes[f"dropped {seed}"] = Scene(rows[kept], truth, FRAMES, FPS)
    sure = np.column_stack([truth[:, 0], truth[:, 2:], np.ones(len(truth))])
    for rate, seed in itertools.product(DROPOUTS, range(TRUTH_SEEDS)):
        kept = np.random.default_rng(seed).random(len(truth)) >= rate
        scenes[f"truth {rate} {seed}"] = Scene(sure[kept], truth, FRAMES, FPS)
    scenes["crowd"] = crowd()
    return scenes


def thin(rows: Rows, step: int) -> Rows:
    """Every `step`th frame."""
    rows = rows[rows[:, 0] % step == 0].copy()
    rows[:, 0] //= step
    return rows


def crowd() -> Scene:
    """CROWD walkers for the stopwatch; nobody asks who is who."""
    rng = np.random.default_rng(0)
    place, speed = rng.uniform(0, 400, (CROWD, 2)), rng.normal(0, 2, (CROWD, 2))
    score = rng.uniform(0.31, 0.9, CROWD)  # all sure
    rows = []
    for frame in range(FRAMES):
        corner = place + frame * speed + rng.normal(0, 1, (CROWD, 2))
        rows.append(np.column_stack([np.full(CROWD, frame), corner, corner + np.array([20.0, 50.0]), score]))
    return Scene(np.concatenate(rows), np.zeros((0, 6)), FRAMES, FPS)


def follow(scene: Scene, threshold: float) -> dict[str, Any]:
    """Our tracker over one scene, as scripts/peers/bytetrack.py answers."""
    options = TrackerOptions()
    tracker, tracks, times = Tracker(threshold, options), [], []
    rows = scene.rows[scene.rows[:, 5] >= options.low_for(threshold)]
    for frame in range(scene.frames):
        of = rows[rows[:, 0] == frame]
        found = Detections(of[:, 1:5], of[:, 5], np.zeros(len(of)))
        start = time.perf_counter()
        seen = tracker.update(found, frame / scene.fps)
        times.append(1000.0 * (time.perf_counter() - start))
        tracks += [[frame, int(i), *box.tolist()] for i, box in zip(seen.id, seen.found.xyxy, strict=True)]
    return {"tracks": tracks, "ms": statistics.median(times)}


def ask(python: Path, script: str, request: Any) -> Any:
    """What a script of scripts/peers answers."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("request.json", "answer.json")]
        paths[0].write_text(json.dumps(request))
        subprocess.run([python, ROOT / "scripts/peers" / script, *paths], check=True, cwd=folder)
        return json.loads(paths[1].read_text())


def ask_peer(python: Path, scenes: dict[str, Scene], settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each setting: scene -> tracks and ms."""
    plain = {name: {"fps": s.fps, "frames": s.frames, "rows": s.rows.tolist()} for name, s in scenes.items()}
    answer: list[dict[str, Any]] = ask(python, "bytetrack.py", {"scenes": plain, "settings": settings})
    return answer


def measure(metrics: Path, jobs: list[tuple[Scene, dict[str, Any]]]) -> list[dict[str, float]]:
    """MOTA and so on of each run."""
    request = [
        {"frames": scene.frames, "truth": scene.truth.tolist(), "tracks": run["tracks"], "iou": IOU}
        for scene, run in jobs
    ]
    answer: list[dict[str, float]] = ask(metrics, "mot_metrics.py", request)
    return answer


def tune(name: str, python: Path, metrics: Path, scene: Scene) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A peer's defaults, the best of its grid by MOTA + IDF1, and the highest of either anywhere in the grid."""
    click.echo(f"Tuning {name}", err=True)
    default = {"low": LOWEST}
    keys = list(GRID[name])
    grid = [dict(zip(keys, values, strict=True)) for values in itertools.product(*GRID[name].values())]
    answers = ask_peer(python, {"pets": scene}, grid)
    scores = measure(metrics, [(scene, answer["pets"]) for answer in answers])
    best = max(range(len(grid)), key=lambda i: scores[i]["mota"] + scores[i]["idf1"])
    highest = {key: max(score[key] for score in scores) for key in ("mota", "idf1")}
    return default, grid[best], {"settings": len(grid), **highest}


def crossings(tracks: list[list[float]] | Rows, frames: int, fps: float) -> tuple[int, int]:
    """Counted to the left and to the right."""
    table = np.array(tracks, np.float64).reshape(-1, 6)
    counter, count = Counter([LINE]), None
    for frame in range(frames):
        of = table[table[:, 0] == frame]
        n = len(of)
        found = Detections(of[:, 2:], np.ones(n), np.zeros(n))
        seen = Tracks(of[:, 1].astype(np.int64), found, np.zeros((n, 2), np.float32), np.zeros(n, np.float32))
        count = counter.update(seen, frame / fps, SIZE).lines[0]
    assert count is not None
    return count.outward, count.inward


def sign_changes(truth: Rows) -> tuple[int, int]:
    """How often a true foot point changes sides, without any hysteresis: to the left, to the right."""
    n = len(truth)
    found = Detections(truth[:, 2:], np.ones(n), np.zeros(n))
    feet = foot_points(Tracks(truth[:, 1].astype(np.int64), found, np.zeros((n, 2), np.float32), np.zeros(n)))
    changes = Tallies(
        float(step)
        for track_id in np.unique(truth[:, 1])
        for step in np.diff(np.sign(feet[truth[:, 1] == track_id, 0] - 240.0))
        if step
    )
    return changes[-2.0], changes[2.0]


def report(
    runs: dict[str, dict[str, Any]], settings: dict[str, Any], scenes: dict[str, Scene], metrics: Path
) -> dict[str, Any]:
    """All that is measured of the tracks."""
    judged = [name for name in scenes if not name.startswith(("truth", "crowd"))]
    jobs = [(scenes[name], runs[title][name]) for title in runs for name in judged]
    scores = iter(measure(metrics, jobs))
    true = {name: crossings(scenes[name].truth, scenes[name].frames, scenes[name].fps) for name in judged}
    rows: dict[str, Any] = {}
    for title, of in runs.items():
        row: dict[str, Any] = {"settings": settings[title]}
        dropped = []
        for name in judged:
            counted = crossings(of[name]["tracks"], scenes[name].frames, scenes[name].fps)
            result = next(scores) | {"left": counted[0], "right": counted[1], "error": error(counted, true[name])}
            if name.startswith("dropped"):
                dropped.append(result)
            else:
                row[name] = result
        row["dropped"] = {key: round(statistics.mean(one[key] for one in dropped), 4) for key in dropped[0]}
        row["truth"] = {str(rate): truth_errors(of, scenes, rate) for rate in DROPOUTS}
        rows[title] = row
    return {
        "true_crossings": {name: true[name] for name in judged if not name.startswith("dropped")},
        "true_sign_changes": sign_changes(scenes["pets"].truth),
        "rows": rows,
    }


def truth_errors(of: dict[str, Any], scenes: dict[str, Scene], rate: float) -> dict[str, int]:
    """Of the runs over the truth with dropouts: how many counted wrongly, and by how much together."""
    names = [name for name in scenes if name.startswith(f"truth {rate} ")]
    true = crossings(scenes["pets"].truth, FRAMES, FPS)
    errors = [error(crossings(of[name]["tracks"], FRAMES, FPS), true) for name in names]
    return {"runs": len(errors), "wrong": sum(value > 0 for value in errors), "crossings": sum(errors)}


def error(counted: tuple[int, int], true: tuple[int, int]) -> int:
    """Crossings too many or too few, each way for itself."""
    return abs(counted[0] - true[0]) + abs(counted[1] - true[1])


def costs(runs: dict[str, Any], pythons: dict[str, Path]) -> dict[str, Any]:
    """Milliseconds an update, seconds to import, megabytes beside NumPy and OpenCV."""
    ours = {"import_s": import_seconds(Path(sys.executable), "edge_centernet.live.tracking"), "extra_mb": 0}
    rows: dict[str, dict[str, Any]] = {"edge-centernet": ours}
    for name, python in pythons.items():
        rows[name] = {"import_s": import_seconds(python, PEERS[name][0]), "extra_mb": megabytes(python)}
    for title, row in rows.items():
        of = runs.get(title) or runs[f"{title}, tuned"]
        row["ms_pets"], row["ms_crowd"] = (round(of[name]["ms"], 3) for name in ("pets", "crowd"))
    return rows


def import_seconds(python: Path, module: str) -> float:
    """To import it in a fresh interpreter, after NumPy; the median of 5."""
    program = f"import time, numpy; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    times = [
        float(subprocess.run([python, "-W", "ignore", "-c", program], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    return round(statistics.median(times), 2)


def megabytes(python: Path) -> int:
    """Installed beside NumPy, OpenCV and pip."""
    folder = next(python.parent.parent.glob("lib/python*/site-packages"))
    known = ("numpy", "opencv", "cv2", "pip", "setuptools", "pkg_resources", "_distutils_hack")
    return round(
        sum(
            path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and not path.relative_to(folder).parts[0].startswith(known)
        )
        / 1e6
    )


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    true, signs, rows = record["true_crossings"], record["true_sign_changes"], record["rows"]
    all_true = sum(true["pets"])
    text = f"""# Tracking and counting on PETS 2009 S2L1, first 400 frames

Written by `scripts/bench_tracking.py`; the record is `{RECORD.name}`. Detections by `{record["model"]}`, the same for
all; MOTA, IDF1 and identity switches by py-motmetrics at IoU {IOU}. The settings of the tuned peers are the best of a
grid by MOTA + IDF1 on these very frames; ours are the defaults.
[Decision 0018](../decisions/0018-own-tracker.md) tells what follows from it.

## All frames, 10 a second

By the counting rule the true foot points cross x = 240 {true["pets"][0]} times to the left and {true["pets"][1]} times
to the right (raw changes of sign: {signs[0]} and {signs[1]}).

"""
    text += table(
        ("tracker", "MOTA", "IDF1", "switches", "counted to the left", "to the right", "count error"),
        [("truth", "", "", "", *true["pets"], "")]
        + [(title, *pets_cells(row["pets"], all_true)) for title, row in rows.items()],
    )
    text += "\n" + "".join(
        f"Of {grid['settings']} settings of `{name}` the highest MOTA was {grid['mota']:.3f}, the highest IDF1 of any "
        f"{grid['idf1']:.3f}.\n"
        for name, grid in record["grids"].items()
    )
    text += f"""
## Is it luck?

Ten people and their paths are few. Means of {SEEDS} runs in which {100 * DROPPED:.0f} % of the detections were
dropped at random, and runs with fewer frames, as slow boards see them. Count error: crossings too many or too few, each
way for itself, of {all_true}, {sum(true["every 2"])} and {sum(true["every 5"])}. The peers stay as they were tuned.

"""
    scenes = {"dropped": "5 % dropped", "every 2": "5 a second", "every 5": "2 a second"}
    text += table(
        ("tracker", *(f"{name}: {what}" for name in scenes.values() for what in ("MOTA", "IDF1", "count error"))),
        [(title, *(cell for name in scenes for cell in luck_cells(row[name]))) for title, row in rows.items()],
    )
    text += f"""
## With a perfect detector

The truth's own boxes, of which a share is dropped at random, {TRUTH_SEEDS} seeds each: how many runs counted wrongly,
and by how many crossings together, of {TRUTH_SEEDS * all_true}.

"""
    text += table(
        ("tracker", *(f"{100 * rate:.0f} % dropped" for rate in DROPOUTS)),
        [
            (title, *(f"{c['wrong']} runs, {c['crossings']}" for c in row["truth"].values()))
            for title, row in rows.items()
        ],
    )
    text += f"""
## What it costs

Median of an update on one core of {record["cpu"]};
import after NumPy; size of what comes beside NumPy and OpenCV.

"""
    text += table(
        ("tracker", "ms on PETS", f"ms with {CROWD} objects", "import, s", "MB"),
        [
            (title, *(c[key] for key in ("ms_pets", "ms_crowd", "import_s", "extra_mb")))
            for title, c in record["cost"].items()
        ],
    )
    text += "\n## Settings\n\n"
    return text + "".join(f"- {title}: `{json.dumps(row['settings'])}`\n" for title, row in rows.items())


def pets_cells(one: dict[str, Any], true: int) -> tuple[Any, ...]:
    """A row of the first table."""
    share = f"{100 * one['error'] / true:.0f} %"
    return f"{one['mota']:.3f}", f"{one['idf1']:.3f}", round(one["switches"]), one["left"], one["right"], share


def luck_cells(one: dict[str, Any]) -> tuple[str, ...]:
    """Three cells of the second."""
    return f"{one['mota']:.3f}", f"{one['idf1']:.3f}", f"{one['error']:.2g}"


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """In Markdown."""
    lines = [" | ".join(map(str, row)) for row in (head, ("---",) * len(head), *rows)]
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    main()

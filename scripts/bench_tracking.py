"""Tracking and counting on PETS 2009 S2L1 behind a model: MOTA, IDF1, identity switches, crossings of a line.

    python scripts/bench_tracking.py ../shared/data/pets09_s2l1_first400 --model mine.xml

The detector runs once; the tracker follows with its defaults, at the model's suggested threshold, all frames
and every second and fifth one, as slow boards see them; once more with zones to ignore around a bollard and a
traffic cone, which the default model takes for people. Crossings are counted by the rule of
edge_centernet.tracking.scene, of the truth as of the tracks. py-motmetrics runs in an environment of its
own. Writes docs/benchmarks/tracking-pets09.json.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
from measured import ROOT, commit, environment
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.files import sha256, write_atomic
from edge_centernet.model_zoo import names
from edge_centernet.runtimes import first_candidate, open_runtime
from edge_centernet.sources.files import open_source
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.scene import Counter
from edge_centernet.tracking.state import Tracks
from edge_centernet.tracking.tracker import Tracker, TrackerOptions
from edge_centernet.tracking.zone_counter import Zone, parse_zone

# (N, 6): frame from 0, then of detections x1, y1, x2, y2, score; of tracks id, x1, y1, x2, y2
Rows = NDArray[np.float64]
FRAMES, FPS, SIZE, IOU = 400, 10.0, (480, 360), 0.5
LINE = Line("x = 240", (240.0, 360.0), (240.0, 0.0))  # upwards, so that "in" is to the right
STEPS = (1, 2, 5)  # every how manyth frame
IGNORED = (  # where the feet of the bollard and of the cone are
    parse_zone("bollard=18,78,33,78,33,94,18,94;ignore"),
    parse_zone("cone=178,128,194,128,194,142,178,142;ignore"),
)
PATH = click.Path(path_type=Path)


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", "models", multiple=True, help="Name or file.  [default: all shipped]")
@click.option("--tiles", help="As of `detect`.")
@click.option("--env", type=PATH, default=ROOT / ".venv-motmetrics", help="For py-motmetrics.")
@click.option("--out", type=PATH, default=ROOT / "docs/benchmarks/tracking-pets09.json")
def main(data: Path, models: tuple[str, ...], tiles: str | None, env: Path, out: Path) -> None:
    """Detect, track, measure, write, print."""
    # Of the MOT Challenge: frame from 1, id, left, top, width, height.
    truth = np.loadtxt(data / "gt.txt", delimiter=",")[:, :6]
    truth[:, 0] -= 1
    truth[:, 4:] += truth[:, 2:4]
    python = environment(env, ("motmetrics==1.4.0",))
    results: list[dict[str, Any]] = []
    jobs = []
    for model in models or names():
        rows, threshold, digest = detect(data / "video.mp4", model, tiles)
        for zones, step in itertools.product(((), IGNORED), STEPS):
            found, true, fps = thin(without(rows, zones), step), thin(truth, step), FPS / step
            frames = FRAMES // step
            tracks = follow(found, threshold, frames, fps)
            left, right = crossings(tracks, fps)
            about = {"model": Path(model).stem, "sha256": digest, "fps": fps, "ignored": len(zones)}
            results.append({**about, "left": left, "right": right})
            jobs.append({"frames": frames, "truth": true.tolist(), "tracks": tracks.tolist(), "iou": IOU})
    for result, metrics in zip(results, measure(python, jobs), strict=True):
        result.update(metrics)
        click.echo(" ".join(f"{key} {value}" for key, value in result.items() if key != "sha256"))
    record = {
        "results": results, "true_crossings": crossings(truth, FPS), "tracker": asdict(TrackerOptions()),
        "tiles": tiles, "commit": commit(), "date": datetime.now(timezone.utc).date().isoformat(),
    }  # fmt: skip
    write_atomic(out, json.dumps(record, indent=1) + "\n")


def detect(video: Path, model: str, tiles: str | None) -> tuple[Rows, float, str]:
    """People in every frame, the threshold that the model suggests, and the hash of its file."""
    file, engine = first_candidate(model)
    with closing(open_runtime(file, engine)) as runtime:
        threshold = runtime.manifest.model.threshold
        detector = Detector(
            runtime, threshold=TrackerOptions().low_for(threshold), only=["person"], tiles=tiles
        )
        rows = []
        for frame in open_source(str(video)):
            found = detector.detect(frame.image)
            rows += [[frame.number, *box, s] for box, s in zip(found.xyxy, found.score, strict=True)]
    return np.array(rows, np.float64), threshold, sha256(file)


def thin(rows: Rows, step: int) -> Rows:
    """Every `step`th frame."""
    rows = rows[rows[:, 0] % step == 0].copy()
    rows[:, 0] //= step
    return rows


def without(rows: Rows, zones: Sequence[Zone]) -> Rows:
    """Those that stand in none of these."""
    feet = np.stack([(rows[:, 1] + rows[:, 3]) / 2, np.minimum(rows[:, 4], SIZE[1] - 0.5)], 1).tolist()
    inside = np.array([zone.hold(feet, SIZE) for zone in zones], np.bool_).reshape(-1, len(rows))
    return rows[~inside.any(axis=0)]


def follow(rows: Rows, threshold: float, frames: int, fps: float) -> Rows:
    """The tracks of our tracker: (N, 6) frame, id, x1, y1, x2, y2."""
    tracker, tracks = Tracker(threshold, TrackerOptions()), []
    for frame in range(frames):
        of = rows[rows[:, 0] == frame]
        seen = tracker.update(Detections(of[:, 1:5], of[:, 5], np.zeros(len(of))), frame / fps)
        tracks += [[frame, int(i), *box.tolist()] for i, box in zip(seen.id, seen.found.xyxy, strict=True)]
    return np.array(tracks, np.float64).reshape(-1, 6)


def crossings(tracks: Rows, fps: float) -> tuple[int, int]:
    """How often the line was crossed to the left and to the right."""
    counter = Counter([LINE])
    for frame in range(int(tracks[:, 0].max()) + 1):
        of = tracks[tracks[:, 0] == frame]
        found = Detections(of[:, 2:], np.ones(len(of)), np.zeros(len(of)))
        still = np.zeros((len(of), 2), np.float32)
        seen = Tracks(of[:, 1].astype(np.int64), found, still, still[:, 0])
        count = counter.update(seen, frame / fps, SIZE).lines[0]
    return count.outward, count.inward


def measure(python: Path, jobs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """What py-motmetrics says of each job, by scripts/peers/mot_metrics.py."""
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps(jobs))
        script = ROOT / "scripts/peers/mot_metrics.py"
        subprocess.run([python, script, request, answer], check=True, cwd=folder)
        metrics: list[dict[str, float]] = json.loads(answer.read_text())
    return metrics


if __name__ == "__main__":
    main()

"""Where does the time of `edge-centernet detect` go, on one core? Steps of a frame, the whole command, and the start.

- frame: each step alone, in turns with the bare inference, on one core: preprocessing, decoding, what is between, and
  what a user may add (decode a JPEG, convert YUYV, follow, count, write a record, draw).
- command: `edge-centernet detect` on a film, by the difference of a long and a short one, so that the start is no part
  of it; the inferences beside it in turns.
- start: from the process's start to the first detection on its standard output, for every engine, with empty caches
  and with those that the first start left; and what of it imports take.

Writes docs/benchmarks/profile-MACHINE.json and .png. Exit code 1 if from frame to detections takes more than 1.15
times the inference, or a start with caches more than 1 s with TFLite or 2 s with OpenVINO.

Example: python scripts/profile_detect.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import matplotlib
import numpy as np

from edge_centernet.detector import Detector
from edge_centernet.draw import draw
from edge_centernet.files import write_atomic
from edge_centernet.image import prepare, read_image
from edge_centernet.live.counting import Counter, parse_line
from edge_centernet.live.state import CaptureState, Snapshot
from edge_centernet.live.tracking import Tracker
from edge_centernet.models import DEFAULT
from edge_centernet.output import JSONLines
from edge_centernet.runtimes import ENGINES, candidates, choose, open_runtime
from edge_centernet.sources import Frame

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from check_int8_speed import commit, cpu_name, take_turns  # noqa: E402

PHOTO = ROOT / "edge_centernet/assets/sample.jpg"
PICTURE = (1280, 720)
MOST_RATIO = 1.15
START_S = {"tflite": 1.0, "openvino": 2.0}
CLI = [str(Path(sys.executable).with_name("edge-centernet"))]
FPS = 30.0
REST = "between, and cold caches"
COLOURS = {"preprocess": "tab:blue", "inference": "#c3cad1", "decode": "tab:orange", REST: "tab:red"}
EMPTY, KEPT = "with empty caches", "with caches"


def frame(turns: int, engine: str) -> dict[str, Any]:
    """Median milliseconds of the steps, on this core, in turns."""
    image = cv2.resize(read_image(PHOTO), PICTURE).astype(np.uint8)
    runtime = open_runtime(*choose(DEFAULT, engine), 1)
    detector = Detector(runtime)
    x, box = prepare(image, detector.manifest)
    heads = runtime.run(x)
    found = detector.boxes(heads, box)
    jpeg = cv2.imencode(".jpg", image)[1]
    yuyv = np.zeros((*PICTURE[::-1], 2), np.uint8)
    shot = Frame("film", 0, image, 0.0)
    records = JSONLines(detector.classes)
    tracker, counter = Tracker(detector.threshold), Counter([parse_line("door=0.5,0,0.5,1")], [], detector.classes)
    numbers = iter(range(1, 10**9))

    def count() -> None:
        t = next(numbers) / FPS
        tracks = tracker.update(found, t)
        counter.update(tracks, t, PICTURE)

    calls: dict[str, Callable[[], Any]] = {
        "inference": lambda: runtime.run(x),
        "frame to detections": lambda: detector.detect(image),
        "preprocess": lambda: prepare(image, detector.manifest),
        "decode": lambda: detector.boxes(heads, box),
        "read a JPEG": lambda: cv2.imdecode(jpeg, cv2.IMREAD_COLOR),
        "convert YUYV": lambda: cv2.cvtColor(yuyv, cv2.COLOR_YUV2BGR_YUYV),
        "follow and count": count,
        "write a record": lambda: records.add(Snapshot(shot, found, {}, 0.0, FPS, CaptureState("film"))),
        "draw": lambda: draw(image, found, detector.classes),
    }
    seconds = take_turns(calls, turns, 20, 5, 1)
    runtime.close()
    ms = {name: round(1000.0 * statistics.median(values), 4) for name, values in seconds.items()}
    return {
        "picture": f"{PICTURE[0]}x{PICTURE[1]}",
        "objects": len(found),
        "ms": ms,
        "ratio": round(ms["frame to detections"] / ms["inference"], 4),
    }


def film(path: Path, frames: int) -> None:
    """A film of the sample photo."""
    image = cv2.resize(read_image(PHOTO), PICTURE)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, PICTURE)
    for _ in range(frames):
        writer.write(image)
    writer.release()


def command(rounds: int, engine: str, folder: Path) -> dict[str, Any]:
    """Milliseconds a frame of the whole command on this core, beside the inference alone."""
    short, long = 20, 120
    for name, count in (("short", short), ("long", long)):
        film(folder / f"{name}.avi", count)
    image = cv2.resize(read_image(PHOTO), PICTURE).astype(np.uint8)
    runtime = open_runtime(*choose(DEFAULT, engine), 1)
    x, _ = prepare(image, runtime.manifest)
    ways = {
        "detect": ["--no-save"],
        "detect, follow and count": ["--no-save", "--count-line", "door=0.5,0,0.5,1"],
        "detect and write an annotated film": ["--out", str(folder / "out")],
    }
    seen: dict[str, list[float]] = {name: [] for name in ("inference", *ways)}
    for turn in range(rounds):
        click.echo(f"command, {engine}: round {turn + 1} of {rounds}", err=True)
        seen["inference"] += [1000.0 * s for s in take_turns({"x": lambda: runtime.run(x)}, 1, 60, 10)["x"]]
        for name, words in ways.items():
            took = {}
            for part in ("short", "long"):
                began = time.perf_counter()
                options = ["--source", str(folder / f"{part}.avi"), "--runtime", engine, "--threads", "1", *words]
                subprocess.run([*CLI, "detect", *options], check=True, capture_output=True)
                took[part] = time.perf_counter() - began
            seen[name].append(1000.0 * (took["long"] - took["short"]) / (long - short))
    runtime.close()
    ms = {name: round(statistics.median(values), 3) for name, values in seen.items()}
    return {"film": f"{PICTURE[0]}x{PICTURE[1]}, MJPEG", "ms_a_frame": ms}


def first_line(words: list[str], environment: dict[str, str]) -> float:
    """Seconds from a command's start to its first line; it is left to end."""
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.stdout.read()
    if not line.startswith(b"{"):
        raise click.ClickException(f"`{' '.join(words)}`: expected a detection, got {line!r}; run it by hand")
    return seconds


def start(rounds: int, engines: list[str]) -> dict[str, Any]:
    """Seconds to the first detection; engines in turns."""
    seen: dict[str, dict[str, list[float]]] = {name: {EMPTY: [], KEPT: []} for name in engines}
    for turn in range(rounds):
        click.echo(f"start: round {turn + 1} of {rounds}", err=True)
        for name in engines:
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | {"XDG_CACHE_HOME": cache}
                words = [*CLI, "detect", "--source", str(PHOTO), "--runtime", name, "--no-save"]
                seen[name][EMPTY].append(first_line(words, environment))
                seen[name][KEPT].append(first_line(words, environment))
    rows = {}
    for name, ways in seen.items():
        rows[name] = {way: round(statistics.median(values), 3) for way, values in ways.items()}
    return {"seconds": rows, "imports": {name: imports(name) for name in engines}}


def imports(engine: str) -> dict[str, float]:
    """Milliseconds that packages take to be imported, their own imports included, in the order `detect` takes them."""
    module = next(name for name in ENGINES[engine].modules if importlib.util.find_spec(name))
    if engine == "tflite":
        module += ".interpreter"  # what detect imports of it; the package itself is empty
    wanted = ("numpy", "cv2", "click", "edge_centernet.cli.detect", module)
    script = f"import {', '.join(wanted)}"  # not `detect` itself, which hides what is printed while an engine opens
    words = [sys.executable, "-X", "importtime", "-c", script]
    tries = []
    for _ in range(5):
        told = subprocess.run(words, check=True, capture_output=True, text=True).stderr
        lines = re.findall(r"^import time: +\d+ \| +(\d+) \| +([\w.]+)$", told, re.M)
        tries.append({name: int(micro) / 1000.0 for micro, name in lines})
    return {name: round(statistics.median(found[name] for found in tries), 1) for name in wanted}


def chart(record: dict[str, Any], path: Path) -> None:
    """What a frame costs beside the inference, and the starts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    for at, seen in enumerate(record["frame"].values()):
        behind = 0.0
        ms = dict(seen["ms"])
        ms[REST] = ms["frame to detections"] - sum(ms[step] for step in ("preprocess", "inference", "decode"))
        for step, colour in COLOURS.items():
            left.barh(at, ms[step], left=behind, color=colour, label=step if at == 0 else None)
            behind += ms[step]
        left.text(0.5 * ms["inference"], at, f"{seen['ratio']:.3f} times the inference", va="center", ha="center")
    left.set(
        yticks=range(len(record["frame"])), yticklabels=list(record["frame"]), xlabel="ms a frame, one core",
        title="From a frame to its detections",
    )  # fmt: skip
    figure.legend(fontsize="small", loc="outside lower left", ncols=4)
    starts = record["start"]["seconds"]
    for offset, way in ((0.2, EMPTY), (-0.2, KEPT)):
        right.barh([i + offset for i in range(len(starts))], [row[way] for row in starts.values()], 0.38, label=way)
    right.set(yticks=range(len(starts)), yticklabels=list(starts), xlabel="s", title="From start to first detection")
    right.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


@click.command()
@click.option("--turns", default=40, show_default=True, help="Of 20 calls of each step.")
@click.option("--rounds", default=7, show_default=True, help="Of whole commands.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file; the picture goes beside it.")
def main(turns: int, rounds: int, out: Path | None) -> None:
    """Measure, write, print, judge."""
    all_cores = os.sched_getaffinity(0)
    engines = [engine for _, engine in candidates(DEFAULT)]
    os.sched_setaffinity(0, {max(all_cores)})  # those that are started inherit it
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "model": DEFAULT,
            "frame": {engine: frame(turns, engine) for engine in engines},
            "command": {engine: command(rounds, engine, Path(folder)) for engine in engines},
            "start": start(rounds, engines),
            "cpu": cpu_name(),
            "commit": commit(),
        }
    path = out or ROOT / f"docs/benchmarks/profile-{platform.machine()}.json"
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    chart(record, path.with_suffix(".png"))
    click.echo(json.dumps(record, indent=1))
    kept = all(seen["ratio"] <= MOST_RATIO for seen in record["frame"].values()) and all(
        record["start"]["seconds"][name][KEPT] <= most for name, most in START_S.items() if name in engines
    )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()

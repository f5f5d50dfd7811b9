"""Does live detection show the present? Frame age behind a slow network, and what the pipeline adds to the inference.

- age: a 30 fps camera (MJPEG over HTTP, a real server on loopback) and a network made 200 ms slower: how old each
  result is beyond its inference, in frame times, for --minutes; and how many pictures the server had sent by then,
  which counts the network and every buffer too. A video file through the same pipeline: is every frame processed?
- overhead: from a frame in memory to its detections, beside the inference alone, in turns, with one and two threads;
  once by Detector.detect, once through the pipeline at 30 fps.

Writes docs/benchmarks/live-MACHINE.json; exit code 1 if a result is older than two frame times and its inference, a
file loses a frame, or the median from frame to detections is above 1.15 times the inference.

Example: python scripts/check_live.py --minutes 5
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detector import Detector
from edge_centernet.files import write_atomic
from edge_centernet.heads import Heads
from edge_centernet.image import prepare, read_image
from edge_centernet.live.capture import LiveCapture
from edge_centernet.live.pipeline import Pipeline
from edge_centernet.models import DEFAULT
from edge_centernet.runtimes import choose, open_runtime
from edge_centernet.runtimes.base import Runtime
from edge_centernet.sources import Frame, open_camera, open_source

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/live")]

from check_int8_speed import commit, cpu_name, take_turns  # noqa: E402
from servers import FPS, age, mjpeg_server  # noqa: E402

SLOWER_S = 0.2
SIZES = ((640, 480), (1280, 720))
MOST_FRAMES, MOST_RATIO = 2.0, 1.15


class Slower:
    """A runtime that takes 200 ms longer."""

    def __init__(self, runtime: Runtime) -> None:
        """runtime: the real one."""
        self._runtime = runtime
        self.name, self.manifest, self.device = runtime.name, runtime.manifest, runtime.device
        self.close = runtime.close

    def run(self, x: NDArray[Any]) -> Heads:
        """As the runtime, later."""
        time.sleep(SLOWER_S)
        return self._runtime.run(x)


class Paced:
    """A camera that gives the same picture 30 times a second, from memory."""

    live, fps, skipped, name = True, float(FPS), 0, "paced"

    def __init__(self, image: NDArray[np.uint8]) -> None:
        """image: (H, W, 3) BGR."""
        self._image = image

    def __iter__(self) -> Iterator[Frame]:
        """Without an end."""
        begin = time.monotonic()
        for number in itertools.count():
            time.sleep(max(0.0, begin + number / FPS - time.monotonic()))
            yield Frame(self.name, number, self._image.copy(), number / FPS)

    def close(self) -> None:
        """Nothing is open."""


@click.command()
@click.option("--minutes", default=5.0, show_default=True, help="Of the slow network.")
@click.option("--turns", default=30, show_default=True, help="Of 20 inferences each.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file instead of the one named above.")
def main(minutes: float, turns: int, out: Path | None) -> None:
    """Measure, write, print, judge."""
    overhead = [row for threads in (1, 2) for size in SIZES for row in measure_overhead(size, threads, turns)]
    record = {
        "age": measure_age(60.0 * minutes),
        "file": measure_file(),
        "overhead": overhead,
        "cpu": cpu_name(),
        "commit": commit(),
    }
    write_atomic(out or ROOT / f"docs/benchmarks/live-{platform.machine()}.json", json.dumps(record, indent=1) + "\n")
    click.echo(json.dumps(record, indent=1))
    kept = (
        record["age"]["frame_times_beyond_inference"]["max"] <= MOST_FRAMES
        and record["file"]["frames"] == record["file"]["results"]
        and max(row["ratio"] for row in overhead) <= MOST_RATIO
    )
    sys.exit(0 if kept else 1)


def measure_age(seconds: float) -> dict[str, Any]:
    """How old results are behind a network that is 200 ms slower."""
    runtime = open_runtime(*choose(DEFAULT), 1)
    beyond, ages, pictures = [], [], []
    with mjpeg_server() as server:
        capture = LiveCapture(lambda: open_camera(server.url), "camera", report=click.echo)
        capture.start()
        until = time.monotonic() + seconds
        with Pipeline(capture, Detector(Slower(runtime))) as pipeline:
            for result in pipeline:
                if result is None:
                    continue
                ages.append(result.age_ms)
                beyond.append((result.age_ms - result.ms["inference"]) * FPS / 1000.0)
                pictures.append(age(result.frame.image) - result.ms["inference"] * FPS / 1000.0)
                if len(ages) % 50 == 0:
                    click.echo(f"{until - time.monotonic():.0f} s left, {ages[-1]:.0f} ms old", err=True)
                if time.monotonic() > until:
                    break
        frames = capture.state.frames
        capture.close()
    runtime.close()
    return {
        "seconds": seconds,
        "camera_fps": FPS,
        "frames": frames,
        "results": len(ages),
        "age_ms": spread(ages),
        "frame_times_beyond_inference": spread(beyond),
        "pictures_sent_since_beyond_inference": spread(pictures),
        "last_tenth_to_first_tenth": round(
            statistics.median(ages[-len(ages) // 10 :]) / statistics.median(ages[: len(ages) // 10]), 3
        ),
    }


def measure_file() -> dict[str, int]:
    """Frames written to a video file, and results it gives."""
    image, frames = read_image(ROOT / "edge_centernet/assets/sample.jpg"), 200
    runtime = open_runtime(*choose(DEFAULT), 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, image.shape[1::-1])
        for _ in range(frames):
            writer.write(image)
        writer.release()
        with Pipeline(open_source(str(path)), Detector(runtime)) as pipeline:
            numbers = [result.frame.number for result in pipeline if result is not None]
    runtime.close()
    return {"frames": frames, "results": len(set(numbers))}


def measure_overhead(size: tuple[int, int], threads: int, turns: int) -> list[dict[str, Any]]:
    """Median milliseconds from a frame to its detections and of the inference alone."""
    image = cv2.resize(read_image(ROOT / "edge_centernet/assets/sample.jpg"), size).astype(np.uint8)
    runtime = open_runtime(*choose(DEFAULT), threads)
    detector = Detector(runtime)
    x, _ = prepare(image, detector.manifest)
    seconds = take_turns(
        {"inference": lambda: runtime.run(x), "detect": lambda: detector.detect(image)}, turns, 20, 5, 1
    )
    times = {name: [1000.0 * value for value in values] for name, values in seconds.items()}
    rows = [row("detect", size, threads, times["detect"], times["inference"])]
    inference, whole = [], []
    capture = LiveCapture(lambda: Paced(image), "paced", report=click.echo)  # type: ignore[arg-type,return-value]
    capture.start()
    with Pipeline(capture, detector) as pipeline:
        for result in pipeline:
            if result is not None:
                inference.append(result.ms["inference"])
                whole.append(result.age_ms)
            if len(whole) == 10 * turns:
                break
    capture.close()
    runtime.close()
    rows.append(row("pipeline, 30 fps", size, threads, whole, inference))
    return rows


def row(way: str, size: tuple[int, int], threads: int, whole: list[float], inference: list[float]) -> dict[str, Any]:
    """One line of the table."""
    a, b = statistics.median(whole), statistics.median(inference)
    return {
        "way": way,
        "picture": f"{size[0]}x{size[1]}",
        "threads": threads,
        "frame_to_detections_ms": round(a, 3),
        "inference_ms": round(b, 3),
        "ratio": round(a / b, 3),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum; the first result, which waits for the engine to warm up, is left out."""
    rest = values[1:]
    return {
        "p50": round(statistics.median(rest), 2),
        "p99": round(float(np.percentile(rest, 99)), 2),
        "max": round(max(rest), 2),
    }


if __name__ == "__main__":
    main()

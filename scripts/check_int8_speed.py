"""Is INT8 faster? Median latency of INT8 and FP32 in OpenVINO and ai-edge-litert, in turns in one run.

Example: python scripts/check_int8_speed.py --model centernet-mbv2-320 --rounds 200
Writes docs/benchmarks/int8-speed-MACHINE.json; exit code 1 where INT8 is less than 1.8 (OpenVINO) or 1.7 (TFLite)
times as fast.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from edge_centernet.converters import convert
from edge_centernet.files import sha256, write_atomic
from edge_centernet.manifest import Precision
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.preprocess import prepare
from edge_centernet.qdq import reference
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.base import Runtime

ROOT = Path(__file__).resolve().parents[1]
Key = TypeVar("Key")
TARGETS = {"openvino": 1.8, "tflite": 1.7}
TURN, WARM_UP = 15, 5  # inferences of one network at a stretch; those not counted
ENGINES = {"openvino": "openvino", "tflite": "ai-edge-litert"}
PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")


def main() -> int:
    """Convert, measure, write, print; the exit code."""
    options = parse()
    source = find_model(options.model, ".onnx")
    with tempfile.TemporaryDirectory() as folder:
        pictures = reference.sample_pictures()
        runtimes: dict[tuple[str, str], Runtime] = {}
        for precision in PRECISIONS:
            for artifact in convert(
                source, list(ENGINES), precision, Path(folder), progress=print, pictures=pictures[:2]
            ):
                runtimes[artifact.target, precision] = open_runtime(artifact.path, threads=options.threads)
        times = inferences(runtimes, pictures, -(-options.rounds // (TURN - WARM_UP)), TURN, WARM_UP)
    record = report(source, options, times)
    path = options.out or ROOT / "docs/benchmarks" / f"int8-speed-{platform.machine()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(record, indent=2) + "\n")
    for name, row in record["engines"].items():
        print(f"{name:10} int8 {row['int8_ms']:7.2f} ms  fp32 {row['fp32_ms']:7.2f} ms  {row['speedup']:.2f} x")
    print(path)
    return 0 if all(row["speedup"] >= TARGETS[name] for name, row in record["engines"].items()) else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=DEFAULT, help="QDQ .onnx or name of a shipped model")
    parser.add_argument(
        "--rounds", type=int, default=200, help="measured inferences for each of the four (default 200)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--out", type=Path, help="JSON file (default docs/benchmarks/int8-speed-MACHINE.json)")
    return parser.parse_args()


def take_turns(
    calls: dict[Key, Callable[[], Any]], turns: int, length: int = 1, uncounted: int = 0, warm_up: int = 0
) -> dict[Key, list[float]]:
    """Key -> seconds of each counted call, `length` of each at a stretch: a busy moment of the machine hits all alike.

    uncounted: of a stretch, the first ones. They find the caches full of another's data, which no device with one
    network has. warm_up: turns before those that count.
    """
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for turn in range(-warm_up, turns):
        for key, call in calls.items():
            for i in range(length):
                start = time.perf_counter()
                call()
                if turn >= 0 and i >= uncounted:
                    times[key].append(time.perf_counter() - start)
    return times


def inferences(
    runtimes: dict[Key, Runtime], pictures: list[Any], turns: int, length: int, uncounted: int, warm_up: int = 0
) -> dict[Key, list[float]]:
    """Key -> milliseconds of each counted inference, in turns; pictures come again and again."""
    calls: dict[Key, Callable[[], Any]] = {}
    for key, runtime in runtimes.items():
        inputs = cycle([prepare(picture, runtime.manifest)[0] for picture in pictures])
        calls[key] = lambda run=runtime.run, inputs=inputs: run(next(inputs))
    times = take_turns(calls, turns, length, uncounted, warm_up)
    return {key: [1e3 * seconds for seconds in values] for key, values in times.items()}


def report(source: Path, options: argparse.Namespace, times: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    """What is kept: figures with commit, machine, versions and the hash of the network."""
    engines = {}
    for name in ENGINES:
        int8, fp32 = (statistics.median(times[name, precision]) for precision in PRECISIONS)
        spread = {f"{p}_p10_p90_ms": [round(q, 3) for q in quantiles(times[name, p])] for p in PRECISIONS}
        row = {"int8_ms": round(int8, 3), "fp32_ms": round(fp32, 3), "speedup": round(fp32 / int8, 3)}
        engines[name] = {**row, **spread}
    return {
        "engines": engines,
        "target_speedup": TARGETS,
        "model": source.name,
        "model_sha256": sha256(source),
        "rounds": options.rounds,
        "threads": options.threads,
        "versions": {package: installed(package) for package in ENGINES.values()},
        "machine": {"arch": platform.machine(), "cpu": cpu_name(), "python": platform.python_version()},
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def quantiles(values: list[float]) -> tuple[float, float]:
    """The 10th and 90th percentile."""
    tenths = statistics.quantiles(values, n=10)
    return tenths[0], tenths[-1]


def installed(package: str) -> str:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    """The processor and whether it has VNNI, which decides how fast INT8 is on x86."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown"
    )
    return f"{name} ({'VNNI' if 'vnni' in text else 'no VNNI'})"


def commit() -> str:
    """The commit that was measured."""
    result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())

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
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_centernet.artifact import sha256
from edge_centernet.converters import convert, verify
from edge_centernet.converters.base import Precision
from edge_centernet.files import write_atomic
from edge_centernet.image import prepare
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.base import Runtime

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"openvino": 1.8, "tflite": 1.7}
TURN, WARM_UP = 15, 5  # inferences of one network at a stretch; those not counted
ENGINES = {"openvino": "openvino", "tflite": "ai-edge-litert"}
PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")


def main() -> int:
    """Convert, measure, write, print; the exit code."""
    options = parse()
    source = find_model(options.model, ".onnx")
    with tempfile.TemporaryDirectory() as folder:
        pictures = verify.sample_pictures()
        runtimes: dict[tuple[str, str], Runtime] = {}
        for precision in PRECISIONS:
            for artifact in convert(
                source, list(ENGINES), precision, Path(folder), progress=print, pictures=pictures[:2]
            ):
                runtimes[artifact.target, precision] = open_runtime(artifact.path, threads=options.threads)
        times = measure(runtimes, pictures, options.rounds)
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


def measure(
    runtimes: dict[tuple[str, str], Runtime], pictures: list[Any], rounds: int
) -> dict[tuple[str, str], list[float]]:
    """(engine, precision) -> milliseconds of each inference.

    In turns of TURN inferences each: a busy moment of the machine hits all four alike. The first of a turn find the
    caches full of another network's weights, which no device with one network has; they are not counted.
    """
    inputs = {key: [prepare(p, runtime.manifest)[0] for p in pictures] for key, runtime in runtimes.items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runtimes}
    for _ in range(-(-rounds // (TURN - WARM_UP))):
        for key, runtime in runtimes.items():
            for i in range(TURN):
                x = inputs[key][i % len(pictures)]
                start = time.perf_counter()
                runtime.run(x)
                if i >= WARM_UP:
                    times[key].append((time.perf_counter() - start) * 1e3)
    return times


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

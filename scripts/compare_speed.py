"""How long one model takes beside another, or INT8 beside FP32: latency in one run, as a ratio to the first.

    python scripts/compare_speed.py centernet-mbv2-320 centernet-nano-256 --json speed-x86_64.json
    python scripts/compare_speed.py centernet-mbv2-320 centernet-mbv2-320:fp32

A MODEL is the name of a shipped one or a QDQ .onnx file; what comes behind a colon is the precision it is
converted to, without one it is INT8. They take turns in blocks of inferences, so that a busy moment of the
machine hits all alike. The first of a block, with another model's weights still in the caches, are not
counted. With --most the exit code is 1 where a later model takes more than so many times the first's time.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, cast, get_args

import click
from measured import circumstances

from edge_centernet.converters import convert
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.files import sha256, write_atomic
from edge_centernet.manifest import Precision
from edge_centernet.model_zoo import find_model, names
from edge_centernet.preprocess import prepare
from edge_centernet.qdq import reference
from edge_centernet.runtimes import first_candidate, open_runtime
from edge_centernet.runtimes.base import Runtime

ENGINES = {"openvino": "openvino", "tflite": "ai-edge-litert"}  # and their packages
BLOCK, UNCOUNTED = 25, 5  # inferences


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--blocks", default=20, show_default=True, help="Turns of each model.")
@click.option("--threads", default=1, show_default=True)
@click.option("--most", type=float, help="Largest ratio to the first model's time that is good.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write the record here.")
def main(models: tuple[str, ...], blocks: int, threads: int, most: float | None, out: Path | None) -> None:
    """Measure MODELS, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        files = {(m, e): _file(m, e, Path(folder)) for e in ENGINES for m in dict.fromkeys(models)}
        hashes = {m: {e: sha256(files[m, e]) for e in ENGINES} for m in models}
        engines = {}
        for engine in ENGINES:
            with ExitStack() as opened:
                runtimes = {m: open_runtime(files[m, engine], engine, threads=threads) for m in models}
                for runtime in runtimes.values():
                    opened.callback(runtime.close)
                engines[engine] = _rows(engine, measure(runtimes, blocks))
    record = {
        "engines": engines, "threads": threads, "blocks": blocks, "counted_per_block": BLOCK - UNCOUNTED,
        "sha256": hashes, **circumstances(list(ENGINES.values())),
    }  # fmt: skip
    if out:
        write_atomic(out, json.dumps(record, indent=1) + "\n")
    worst = max(rows[model]["ratio"] for rows in engines.values() for model in models[1:] or models)
    if most is not None:
        click.echo(f"largest ratio {worst:.3f} (at most {most})")
        sys.exit(worst > most)


def measure(runtimes: dict[str, Runtime], blocks: int) -> dict[str, list[float]]:
    """Milliseconds of each counted inference, in turns after one to warm up."""
    pictures = reference.sample_pictures()
    inputs = {m: cycle([prepare(p, r.manifest)[0] for p in pictures]) for m, r in runtimes.items()}
    times: dict[str, list[float]] = {model: [] for model in runtimes}
    for block in range(-1, blocks):
        for model, runtime in runtimes.items():
            for i in range(BLOCK):
                start = time.perf_counter()
                runtime.run(next(inputs[model]))
                if block >= 0 and i >= UNCOUNTED:
                    times[model].append(1e3 * (time.perf_counter() - start))
    return times


def _file(model: str, engine: str, folder: Path) -> Path:
    """The engine's file: a shipped one where it is, else converted into `folder`."""
    source, _, precision = model.partition(":")
    if precision not in ("", *get_args(Precision)):
        raise click.UsageError(f"{model}: expected int8 or fp32 behind the colon, got {precision!r}")
    try:
        if source in names() and precision in ("", "int8"):
            return first_candidate(source, engine)[0]
        pictures = reference.sample_pictures()[:2]
        wanted = cast(Precision, precision or "int8")
        (made,) = convert(find_model(source, ".onnx"), [engine], wanted, folder, pictures=pictures)
    except EdgeCenterNetError as error:
        raise click.ClickException(str(error)) from None
    return made.path


def _rows(engine: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Model -> median ms, 10th and 90th percentile, ratio of its median to the first model's; printed too."""
    first = statistics.median(next(iter(times.values())))
    rows = {}
    for model, values in times.items():
        median, tenths = statistics.median(values), statistics.quantiles(values, n=10)
        spread = [round(tenths[0], 3), round(tenths[-1], 3)]
        rows[model] = {"ms": round(median, 3), "p10_p90_ms": spread, "ratio": round(median / first, 3)}
        click.echo(f"{engine:10} {model:28} {median:7.2f} ms  {median / first:6.3f}")
    return rows


if __name__ == "__main__":
    main()

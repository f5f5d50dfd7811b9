"""How long does one model take beside another? INT8 latency of shipped models, in one run, as a ratio to the first.

    python scripts/compare_speed.py centernet-mbv2-320 centernet-nano-256 --most 0.35

The models take turns in blocks of inferences, as the loop behind a camera runs one of them. The first of a block, with
the other model's weights still in the caches, are not counted. Writes docs/benchmarks/speed-MACHINE.json; the exit code
is 1 where a later model takes more than --most of the first one's time.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ENGINES, ROOT, commit, cpu_name, inferences, installed, quantiles
from numpy.typing import NDArray

from edge_centernet.files import sha256, write_atomic
from edge_centernet.qdq import reference
from edge_centernet.runtimes import first_candidate, open_runtime

BLOCK, UNCOUNTED = 25, 5  # inferences


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--blocks", default=20, show_default=True, help="Turns of each model.")
@click.option("--threads", default=1, show_default=True)
@click.option("--most", default=1.0, show_default=True, help="Largest ratio to the first model's time that is good.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / f"docs/benchmarks/speed-{platform.machine()}.json"
)
def main(models: tuple[str, ...], blocks: int, threads: int, most: float, out: Path) -> None:
    """Measure the shipped MODELS, write and print."""
    pictures = reference.sample_pictures()
    engines = {engine: _engine(engine, models, blocks, threads, pictures) for engine in ENGINES}
    record = {
        "engines": engines, "threads": threads, "blocks": blocks, "counted_per_block": BLOCK - UNCOUNTED,
        "sha256": {m: {e: sha256(first_candidate(m, e)[0]) for e in ENGINES} for m in models},
        "versions": {package: installed(package) for package in ENGINES.values()},
        "machine": {"arch": platform.machine(), "cpu": cpu_name(), "python": platform.python_version()},
        "commit": commit(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_atomic(out, json.dumps(record, indent=1) + "\n")
    worst = max(rows[model]["ratio"] for rows in engines.values() for model in models[1:] or models)
    click.echo(f"{out}: largest ratio {worst:.3f} (at most {most})")
    sys.exit(worst > most)


def _engine(
    engine: str, models: tuple[str, ...], blocks: int, threads: int, pictures: list[NDArray[np.uint8]]
) -> dict[str, Any]:
    """Model -> median ms, 10th and 90th percentile, ratio of its median to the first model's; printed too."""
    runtimes = {model: open_runtime(*first_candidate(model, engine), threads=threads) for model in models}
    times = inferences(runtimes, pictures, blocks, BLOCK, UNCOUNTED, warm_up=1)
    first = statistics.median(times[models[0]])
    rows = {}
    for model, values in times.items():
        median = statistics.median(values)
        spread = [round(q, 3) for q in quantiles(values)]
        rows[model] = {"ms": round(median, 3), "p10_p90_ms": spread, "ratio": round(median / first, 3)}
        click.echo(f"{engine:10} {model:24} {median:7.2f} ms  {median / first:6.3f}")
    return rows


if __name__ == "__main__":
    main()

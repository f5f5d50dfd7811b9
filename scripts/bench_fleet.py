"""The report over a simulated fleet: makes months of Parquet files as `store compact` does, and measures it.

python scripts/bench_fleet.py FOLDER --boards 500 --days 365 --record docs/benchmarks/fleet.json

500 boards and a year are 180 million events, 263 million minutes of a zone and 3 GB.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from measured import circumstances

from edge_centernet.history import parquet
from edge_centernet.history.fleet import summarize_tree
from edge_centernet.progress import bars, with_progress

VISITS = 247  # a board and day; each crosses the line twice, enters the zone and leaves it: 4 events
# Boards in two time zones, open from 8 to 18; a day has the length that it has where clocks change.
_DAYS = """
    SELECT 'shop ' || lpad(board::VARCHAR, 3, '0') AS camera, date::DATE AS date, zone,
        date::TIMESTAMP AT TIME ZONE zone AS began,
        (date + INTERVAL 1 DAY)::TIMESTAMP AT TIME ZONE zone AS ended,
        $visits * 4 AS events, false AS paths, true AS settled, '' AS digest
    FROM (SELECT unnest(range($boards)) AS board,
            CASE WHEN board % 10 = 0 THEN 'Europe/London' ELSE 'Europe/Berlin' END AS zone),
        (SELECT unnest(generate_series($first::DATE, $last::DATE, INTERVAL 1 DAY)) AS date)
    ORDER BY camera, date"""
# One random number for each row: its remainders are the moment, the class and the length of the visit.
_EVENTS = """
    SELECT camera, date, number AS id, 1 AS run,
        began + to_milliseconds(28800000 + number * 36000000 // ($visits * 4) + random % 30000) AS time,
        (['crossed', 'entered', 'left', 'crossed'])[number % 4 + 1] AS kind,
        (['door', 'till', 'till', 'door'])[number % 4 + 1] AS place,
        (['in', '', '', 'out'])[number % 4 + 1] AS direction,
        CASE WHEN number // 4 % 20 = 0 THEN 'dog' ELSE 'person' END AS class, number // 4 AS track,
        CASE WHEN number % 4 = 2 THEN round(-120 * ln((random % 1000003 + 1) / 1000003), 2) END AS dwell,
        '' AS rule, CASE WHEN number % 4 = 2 THEN random % 100 / 2.0 END::DOUBLE AS value
    FROM (SELECT *, (hash(day * 1000 + number) % 1000000007)::BIGINT AS random
        FROM (SELECT *, (hash(camera, date) % 1000000007)::BIGINT AS day, unnest(range($visits * 4)) AS number
            FROM days))"""
_OCCUPANCY = """
    SELECT camera, date, began + to_minutes(minute) AS minute, 'till' AS place,
        open * (hash(day + minute) % 300) / 100.0::DOUBLE AS inside, 60.0::DOUBLE AS watched,
        (3 * open)::INTEGER AS most, open * (hash(day + minute) % 200) / 200.0::DOUBLE AS queue,
        (2 * open)::INTEGER AS queue_most
    FROM (SELECT *, (minute BETWEEN 480 AND 1080)::INTEGER AS open
        FROM (SELECT *, (hash(camera, date) % 1000000007)::BIGINT AS day, unnest(range(1440)) AS minute
            FROM days))"""
# A minute without a picture in one day of ten.
_GAPS = """
    SELECT camera, date, began + to_hours(6) AS began, began + to_hours(6) + to_minutes(1) AS ended,
        'camera' AS reason FROM days WHERE hash(camera, date) % 10 = 0"""


def simulate(folder: Path, boards: int, days: int) -> None:
    """Write what `store compact` would have written, from January 2026 on; months that are there stay."""
    year = [f"{2026 + month // 12}-{month % 12 + 1:02}" for month in range(days // 28 + 1)]
    with bars() as progress, parquet.database() as duck:
        (end,) = duck.execute("SELECT (DATE '2026-01-01' + $1::INTEGER - 1)::VARCHAR", [days]).fetchone() or (
            "",
        )
        for month in with_progress([month for month in year if f"{month}-01" <= end], "Months", progress):
            if not (folder / "days" / f"month={month}").exists():
                _month(duck, folder, month, end, boards)


def _month(duck: Any, folder: Path, month: str, end: str, boards: int) -> None:
    def write(table: str, query: str, **values: object) -> None:
        target = folder / table / f"month={month}" / f"{table}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        duck.execute(f"COPY ({query}) TO '{part}' (FORMAT parquet, COMPRESSION zstd)", values)
        part.rename(target)
        parquet.view(duck, table, [str(target)])

    (last,) = duck.execute(
        "SELECT least(last_day($1::DATE), $2::DATE)::VARCHAR", [f"{month}-01", end]
    ).fetchone()
    duck.execute("DROP TABLE IF EXISTS written")
    values = {"boards": boards, "visits": VISITS, "first": f"{month}-01", "last": last}
    duck.execute(f"CREATE TEMP TABLE written AS {_DAYS}", values)
    duck.execute("CREATE OR REPLACE TEMP VIEW days AS SELECT * FROM written")
    write("events", _EVENTS, visits=VISITS)
    write("occupancy", _OCCUPANCY)
    write("gaps", _GAPS)
    for table, query in parquet.HOURS.items():
        write(table, f"{query} ORDER BY camera, hour")
    write("days", "SELECT * FROM written")  # last: a month that was cut short is made again


# The command, and its own peak at the end: what wait4 tells counts the memory of the parent, too.
_MEASURED = """
import sys
from edge_centernet.cli import cli
cli.main(sys.argv[1:], standalone_mode=False)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(f"\\npeak {peak}", file=sys.stderr)
"""


def measure(folder: Path, *options: str) -> dict[str, float]:
    """The report as users run it: seconds, seconds of processor time, and peak memory in MB."""
    command = [sys.executable, "-c", _MEASURED, "report", str(folder), *options]
    before, began = os.times(), time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds, after = time.monotonic() - began, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    peak = float(done.stderr.rpartition("peak ")[2]) * 1024
    return {"seconds": round(seconds, 2), "cpu_seconds": round(used, 2), "peak_mb": round(peak / 1e6)}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--boards", default=500, show_default=True)
@click.option("--days", default=365, show_default=True)
@click.option("--repeat", default=3, show_default=True, help="Times to measure; the median is kept.")
@click.option("--record", type=click.Path(path_type=Path), help="File to write the figures to.")
def main(folder: Path, boards: int, days: int, repeat: int, record: Path | None) -> None:
    """Make the fleet where it is missing, and measure the daily report over all and over its last day."""
    simulate(folder, boards, days)
    report = summarize_tree(folder, step="day")
    events = report.totals.total()
    assert events == boards * days * VISITS * 4, (events, boards * days * VISITS * 4)
    results = {}
    for name, options in (
        ("all days", ()),
        (
            "last day",
            ("--from", f"{report.parts[-1].began:%Y-%m-%d}", "--to", f"{report.parts[-1].began:%Y-%m-%d}"),
        ),
    ):
        runs = [measure(folder, "--by", "day", *options) for _ in range(repeat)]
        results[name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        click.echo(f"{name}: {results[name]}")
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    about = {"boards": boards, "days": days, "events": events, "bytes": size, "results": results}
    if record is not None:
        record.write_text(json.dumps(about | circumstances(["duckdb"]), indent=1) + "\n")


if __name__ == "__main__":
    main()

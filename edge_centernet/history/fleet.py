"""The report over a tree of Parquet files, by DuckDB: many cameras, years, and yet no long wait."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_centernet.errors import ConfigError
from edge_centernet.history.parquet import HOURS, TABLES, database, read_rows, view
from edge_centernet.history.report import Durations, Report
from edge_centernet.history.summary import Summary, find_zone, main_zone, stretch
from edge_centernet.progress import Progress, unseen

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_QUERIES = 4  # of _add_zone that take time


def summarize_tree(
    tree: Path,
    begin: str | None = None,
    end: str | None = None,
    step: str = "hour",
    progress: Progress = unseen,
) -> Report:
    """Read what `export` or `compact` wrote, all cameras of it.

    Args:
        tree: the folder.
        begin: a date or whole hour in the time zone that most cameras are in; the first day if not given.
        end: likewise; a date is that whole day; the last day if not given.
        step: "hour", "day" or "week".
        progress: of reading.

    Raises ConfigError for another folder and for times that are none, StoreError for damaged files.
    """
    with database() as duck:
        for table in (*TABLES, *HOURS):
            layouts = ("camera=*/date=*/*.parquet", "month=*/*.parquet")
            found = [layout for layout in layouts if any((tree / table).glob(layout))]
            if table in HOURS and not found:
                duck.execute(f"CREATE TEMP VIEW {table} AS {HOURS[table]}")
                continue
            if table == "days" and len(found) != 1:
                got = "both" if found else "neither"
                raise ConfigError(
                    f"{tree}: expected what `store export` or `store compact` wrote, found {got}"
                )
            view(duck, table, [f"{escape(str(tree / table))}/{layout}" for layout in found])
        # A camera that has moved counts all its days in the zone of the newest one.
        duck.execute(
            "CREATE TEMP TABLE cameras AS SELECT camera, arg_max(zone, began) AS zone, "
            "epoch_ms(min(began)) AS first, epoch_ms(max(ended)) AS last FROM days GROUP BY camera"
        )
        cameras = read_rows(duck, "SELECT camera, zone, first, last FROM cameras ORDER BY camera")
        zone = main_zone([zone for _, zone, _, _ in cameras])
        first, last = min(one[2] for one in cameras), max(one[3] for one in cameras)
        began, ended = stretch(begin, end, first, last, zone)
        for at in (began, ended):
            local = datetime.fromtimestamp(at / 1000, find_zone(zone))
            if (local.minute, local.second, local.microsecond) != (0, 0, 0):
                raise ConfigError(f"report: expected whole hours for Parquet files, got {local:%H:%M:%S}")
        summary = Summary(began, ended, zone, step)
        zones = sorted({zone for _, zone, _, _ in cameras})
        for number, each in enumerate(zones):

            def query_done(n: int, number: int = number) -> None:
                progress("Parquet", number * _QUERIES + n, len(zones) * _QUERIES)

            own = [(name, a, b) for name, z, a, b in cameras if z == each]
            _add_zone(duck, summary, each, own, query_done)
    return summary.report(several=True)


def _add_zone(
    duck: DuckDBPyConnection,
    summary: Summary,
    zone: str,
    cameras: Sequence[tuple[str, int, int]],
    query_done: Callable[[int], None],
) -> None:
    """Add all cameras of one time zone.

    Args:
        duck: with views of all tables.
        summary: to add to.
        zone: an IANA name or an offset.
        cameras: their names, and from when to when there is something of them, in milliseconds.
        query_done: told after each of _QUERIES large queries, which one it was.
    """
    edges, local = summary.edges_in(zone), find_zone(zone)
    dates = [str(datetime.fromtimestamp(edge / 1000, local).date()) for edge in (edges[0], edges[-1])]
    values = {"names": [name for name, _, _ in cameras], "began": edges[0], "ended": edges[-1]}
    # By the date, which is a folder or in order, DuckDB passes over what it need not read.
    where = f"camera IN (SELECT unnest($names)) AND date BETWEEN '{dates[0]}' AND '{dates[1]}' AND "
    where += "{0} >= make_timestamptz($began * 1000) AND {0} < make_timestamptz($ended * 1000)"

    def rows(query: str, column: str) -> list[tuple[Any, ...]]:
        return duck.execute(query.format(where=where.format(column)), values).fetchall()

    counted = "SELECT {first}, kind, place, direction, class, sum(number)::BIGINT FROM event_hours "
    counted += "WHERE {{where}} GROUP BY ALL"
    for hour, *key, number in rows(counted.format(first="epoch_ms(hour)"), "hour"):
        summary.add_count(edges, hour, (key[0], key[1], key[2], key[3]), number)
    query_done(1)
    totals: dict[str, Counter[tuple[str, str, str, str]]] = defaultdict(Counter)
    for camera, *key, number in rows(counted.format(first="camera"), "hour"):
        totals[camera][key[0], key[1], key[2], key[3]] = number
    query_done(2)
    inside = (
        "SELECT epoch_ms(hour), place, sum(inside_s), sum(watched_s), max(most) FROM occupancy_hours "
        "WHERE {where} GROUP BY ALL"
    )
    for hour, place, inside_s, watched_s, most in rows(inside, "hour"):
        summary.add_inside(edges, hour, place, (inside_s, watched_s), most)
    query_done(3)
    lengths = (
        "SELECT place, dwell, count(*) FROM events WHERE {where} AND kind = 'left' "
        "GROUP BY ALL ORDER BY place, dwell"
    )
    for place, found in itertools.groupby(rows(lengths, "time"), lambda row: str(row[0])):
        table = np.array([(seconds, visits) for _, seconds, visits in found])
        summary.add_dwell({place: Durations(table[:, 0], table[:, 1].astype(np.int64))})
    query_done(4)
    away = "SELECT camera, epoch_ms(began), epoch_ms(ended), reason FROM gaps WHERE ended > "
    away += "make_timestamptz($began * 1000) AND began < make_timestamptz($ended * 1000)"
    # A day that is missing between others was deleted: nothing is known of it.
    missing = (
        "SELECT camera, epoch_ms(before), epoch_ms(began), 'off' FROM (SELECT camera, began, lag(ended) "
        "OVER (PARTITION BY camera ORDER BY began) AS before FROM days) WHERE before < began"
    )
    gaps: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for camera, *gap in duck.execute(away, {key: values[key] for key in ("began", "ended")}).fetchall():
        gaps[camera].append((gap[0], gap[1], gap[2]))
    for camera, *gap in duck.execute(missing).fetchall():
        gaps[camera].append((gap[0], gap[1], gap[2]))
    for name, first, last in cameras:
        all_gaps = [(0, first, "off"), *gaps[name], (last, edges[-1], "off")]
        summary.add_camera(name, zone, all_gaps, totals[name])

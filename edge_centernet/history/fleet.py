"""The report over a tree of Parquet files, by DuckDB: many cameras, years, and yet no long wait."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_centernet.errors import ConfigError
from edge_centernet.history.parquet import HOURS, TABLES, database, read_rows, text, view
from edge_centernet.history.report import Durations, Report
from edge_centernet.history.summary import Occupied, Summary, Turn, find_zone, main_zone, stretch
from edge_centernet.progress import Progress, unseen

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_STEPS = 6  # of reading, for the progress


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
        summary.held = first, last
        _add(duck, summary, cameras, progress)
    return summary.report(several=True)


def _add(
    duck: DuckDBPyConnection,
    summary: Summary,
    cameras: Sequence[tuple[str, str, int, int]],
    progress: Progress,
) -> None:
    """Add all that there is of cameras: name, time zone, and from when to when, in milliseconds."""
    zones = sorted({zone for _, zone, _, _ in cameras})
    wanted = _Wanted(duck, summary, zones)
    counted = "SELECT {}, kind, place, direction, class, sum(number)::BIGINT FROM {} GROUP BY ALL"
    for zone, hour, *key, number in wanted.rows(counted, "zone, epoch_ms(hour)", "event_hours"):
        summary.add_count(summary.edges_in(zone), hour, (key[0], key[1], key[2], key[3]), number)
    progress("Parquet", 1, _STEPS)
    totals: dict[str, Counter[tuple[str, str, str, str]]] = defaultdict(Counter)
    for camera, *key, number in wanted.rows(counted, "camera", "event_hours"):
        totals[camera][key[0], key[1], key[2], key[3]] = number
    progress("Parquet", 2, _STEPS)
    inside = (
        "SELECT {}, place, sum(inside_s), sum(watched_s), max(most), sum(queue_s), sum(queue_watched_s), "
        "max(queue_most) FROM {} GROUP BY ALL"
    )
    for zone, hour, place, *sums in wanted.rows(inside, "zone, epoch_ms(hour)", "occupancy_hours"):
        queue = None if sums[3] is None else Occupied(*sums[3:])
        summary.add_inside(summary.edges_in(zone), hour, place, Occupied(*sums[:3]), queue)
    progress("Parquet", 3, _STEPS)
    summary.add_dwell(_durations(wanted, "visits"))
    summary.add_waits(_durations(wanted, "waits"))
    progress("Parquet", 4, _STEPS)
    moved = "SELECT {}, sum(number)::BIGINT FROM {} GROUP BY ALL"
    rows = wanted.rows(moved, "origin, place", "moves")
    summary.add_moves({(origin, place): number for origin, place, number in rows})
    progress("Parquet", 5, _STEPS)
    turns: dict[str, list[Turn]] = defaultdict(list)
    alerts = "SELECT {}, epoch_ms(time), rule, place, direction, value, dwell FROM {} ORDER BY time, id"
    for camera, *turn in wanted.rows(alerts, "camera", "alerts"):
        turns[camera].append(Turn(*turn))
    progress("Parquet", 6, _STEPS)
    gaps: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    # A day that is missing between others was deleted: nothing is known of it.
    missing = (
        "SELECT camera, epoch_ms(before), epoch_ms(began), 'off' FROM (SELECT camera, began, lag(ended) "
        "OVER (PARTITION BY camera ORDER BY began) AS before FROM days) WHERE before < began"
    )
    known = f"SELECT camera, epoch_ms(began), epoch_ms(ended), reason FROM gaps WHERE {wanted.dates}"
    for camera, *gap in read_rows(duck, f"{known} UNION ALL {missing}"):
        gaps[camera].append((gap[0], gap[1], gap[2]))
    for name, zone, first, last in cameras:
        own = [(0, first, "off"), *gaps[name], (last, summary.edges_in(zone)[-1], "off")]
        summary.add_camera(name, zone, own, totals[name])
        summary.add_alerts(name, zone, turns[name])


def _durations(wanted: _Wanted, table: str) -> dict[str, Durations]:
    """By zone. table: "visits" or "waits"."""
    lengths = "SELECT {}, sum(number)::BIGINT FROM {} GROUP BY ALL ORDER BY ALL"
    found = {}
    rows = wanted.rows(lengths, "place, seconds", table)
    for place, of in itertools.groupby(rows, lambda row: str(row[0])):
        numbers = np.array([(seconds, visits) for _, seconds, visits in of])
        found[place] = Durations(numbers[:, 0], numbers[:, 1].astype(np.int64))
    return found


class _Wanted:
    """The rows of tables with sums by the hour that a report is about."""

    def __init__(self, duck: DuckDBPyConnection, summary: Summary, zones: Sequence[str]) -> None:
        """zones: of all cameras, which DuckDB has as `cameras`."""
        self._duck, self._zones = duck, zones
        edges, local = summary.edges_in(zones[0]), find_zone(zones[0])
        began, ended = (datetime.fromtimestamp(edge / 1000, local) for edge in (edges[0], edges[-1]))
        # On the clocks of all zones these are the same days.
        last = ended - timedelta(milliseconds=1)
        self.dates = f"date BETWEEN '{began:%Y-%m-%d}' AND '{last:%Y-%m-%d}'"
        self._whole_days = began.hour == ended.hour == 0
        stretches = ", ".join(
            f"({text(zone)}, {summary.edges_in(zone)[0]}, {summary.edges_in(zone)[-1]})" for zone in zones
        )
        duck.execute(
            "CREATE TEMP TABLE wanted AS SELECT camera, zone, make_timestamptz(since * 1000) AS since, "
            f"make_timestamptz(until * 1000) AS until FROM cameras JOIN (VALUES {stretches}) "
            "AS of(zone, since, until) USING (zone)"
        )

    def rows(self, query: str, first: str, table: str) -> list[tuple[Any, ...]]:
        """What a query finds that has two blanks: for its first columns, and for the table to read."""
        if self._whole_days and (len(self._zones) == 1 or not first.startswith("zone")):
            # The usual case, and half the work: a day is wanted or not, whatever the camera.
            chosen = f"SELECT *, {text(self._zones[0])} AS zone FROM {table} WHERE {self.dates}"
        else:
            chosen = (
                f"SELECT {table}.*, zone FROM {table} JOIN wanted USING (camera) "
                f"WHERE {self.dates} AND hour >= since AND hour < until"
            )
        return read_rows(self._duck, query.format(first, f"({chosen})"))

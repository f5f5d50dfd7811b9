"""Stores as Parquet, which DuckDB, Spark, BigQuery and Athena read: a file for each table, camera and day.

    TREE/events/camera=NAME/date=2026-11-30/events.parquet     `export`: what one camera counted in a day
    TREE/events/month=2026-11/events.parquet                   `compact`: what all of them counted in a month

docs/fleet.md says what is in each table. DuckDB writes it; it is told to fetch nothing from the network.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edge_centernet.errors import ConfigError
from edge_centernet.history.store import StoreError, open_store, unpack_points
from edge_centernet.history.summary import clip, covered, edges, find_zone
from edge_centernet.progress import Progress, unseen, with_progress

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Columns of each table and their types in DuckDB. The path has the others: camera and date.
_MOMENT = "TIMESTAMP WITH TIME ZONE"  # in UTC; given as milliseconds since 1970
TABLES = {
    "events": {
        "id": "BIGINT", "run": "INTEGER", "time": _MOMENT, "kind": "VARCHAR", "place": "VARCHAR",
        "direction": "VARCHAR", "class": "VARCHAR", "track": "BIGINT", "dwell": "DOUBLE",
        "rule": "VARCHAR", "value": "DOUBLE",
    },
    "occupancy": {
        "minute": _MOMENT, "place": "VARCHAR", "inside": "DOUBLE", "watched": "DOUBLE", "most": "INTEGER",
        "queue": "DOUBLE", "queue_most": "INTEGER",
    },
    "gaps": {"began": _MOMENT, "ended": _MOMENT, "reason": "VARCHAR"},
    "paths": {
        "run": "INTEGER", "track": "BIGINT", "class": "VARCHAR", "began": _MOMENT, "ended": _MOMENT,
        "seconds": "FLOAT[]", "x": "FLOAT[]", "y": "FLOAT[]", "size": "FLOAT[]",
    },
    # Written last: what a day's other tables hold counts from then on.
    "days": {
        "zone": "VARCHAR", "began": _MOMENT, "ended": _MOMENT, "events": "BIGINT", "paths": "BOOLEAN",
        "settled": "BOOLEAN", "digest": "VARCHAR",
    },
}  # fmt: skip
# Sums by the hour of local time, and alerts one by one: made by `compact` from a month, and by a report where
# only days are there.
HOURS = {
    "event_hours": """
        SELECT camera, date, days.began + to_hours((epoch_ms(time) - epoch_ms(days.began)) // 3600000)
            AS hour, kind, place, direction, class, count(*) AS number
        FROM events JOIN days USING (camera, date) GROUP BY ALL""",
    "occupancy_hours": """
        SELECT camera, date, days.began + to_hours((epoch_ms(minute) - epoch_ms(days.began)) // 3600000)
            AS hour, place, sum(inside * watched) AS inside_s, sum(watched) AS watched_s, max(most) AS most,
            sum(queue * watched) AS queue_s, sum(watched) FILTER (WHERE queue IS NOT NULL) AS queue_watched_s,
            max(queue_most) AS queue_most
        FROM occupancy JOIN days USING (camera, date) GROUP BY ALL""",
    "visits": """
        SELECT camera, date, days.began + to_hours((epoch_ms(time) - epoch_ms(days.began)) // 3600000)
            AS hour, place, dwell AS seconds, count(*) AS number
        FROM events JOIN days USING (camera, date) WHERE kind = 'left' GROUP BY ALL""",
    "waits": """
        SELECT camera, date, days.began + to_hours((epoch_ms(time) - epoch_ms(days.began)) // 3600000)
            AS hour, place, value AS seconds, count(*) AS number
        FROM events JOIN days USING (camera, date) WHERE kind = 'left' AND value IS NOT NULL GROUP BY ALL""",
    # Within a day: a store that began anew has its runs and tracks begin at 1 again.
    "moves": """
        SELECT camera, date, days.began + to_hours((epoch_ms(time) - epoch_ms(days.began)) // 3600000)
            AS hour, origin, place, count(*) AS number
        FROM (SELECT camera, date, time, place, lag(place) OVER
                (PARTITION BY camera, date, run, track ORDER BY time, id) AS origin
            FROM events WHERE kind = 'entered') JOIN days USING (camera, date)
        WHERE origin != place GROUP BY ALL""",
    "alerts": """
        SELECT camera, date, days.began + to_hours((epoch_ms(time) - epoch_ms(days.began)) // 3600000)
            AS hour, id, time, rule, place, direction, value, dwell
        FROM events JOIN days USING (camera, date) WHERE kind = 'alert'""",
}
_MEMORY = "1GB"  # that DuckDB may take; more goes to temporary files
_NAME_BYTES = 240  # of a folder: file systems allow 255


@dataclass(frozen=True)
class Exported:
    """What `export` did: the camera, how many days are over, and how many of them were written now."""

    camera: str
    days: int
    written: int


def export(
    store: Path,
    tree: Path,
    name: str = "",
    paths: bool = False,
    now: int | None = None,
    progress: Progress = unseen,
) -> Exported:
    """Write the days of a store that are over and not in the tree yet, or not as they are in the store.

    Each file is whole or not there, and a day is written once: days that the store no longer keeps stay in
    the tree. The store may be in use.

    Args:
        store: what `detect --store` wrote.
        tree: folder, made if missing.
        name: of the camera; the store's own if not given.
        paths: with the table of paths.
        now: milliseconds since 1970; days that end later are left out.
        progress: of writing.

    Raises StoreError for a store that cannot be read and a tree that cannot be written, ConfigError for a
    name that no folder can have.
    """
    now = round(time.time() * 1000) if now is None else now
    with closing(open_store(store)) as base, database() as duck:
        base.execute("BEGIN")  # one state of the store, whatever is written meanwhile
        about = covered(base)
        camera = name or about.camera
        local = find_zone(about.zone)
        written = _written(duck, tree, camera)
        midnight = datetime.fromtimestamp(about.first / 1000, local).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        *days, _ = edges(round(midnight.timestamp() * 1000), max(now, about.first + 1), local, "day")
        gaps = [(0, about.first, "off"), *base.execute("SELECT began, ended, reason FROM gap")]
        gaps = clip([*gaps, (about.last, now, "off")], days[0], now)
        count = 0
        for began, ended in with_progress(list(itertools.pairwise(days)), camera, progress):
            date = f"{datetime.fromtimestamp(began / 1000, local):%Y-%m-%d}"
            tables = _changed(base, (began, ended), written.get(date), paths)
            if tables is None:
                continue
            tables["gaps"] = [
                (max(a, began), min(b, ended), reason) for a, b, reason in gaps if a < ended and b > began
            ]
            settled = about.last >= ended
            digest = hashlib.sha256(repr((about.zone, settled, tables)).encode()).hexdigest()
            if date in written and written[date].digest == digest:
                continue
            row = about.zone, began, ended, len(tables["events"]), paths, settled, digest
            for table, rows in {**tables, "days": [row]}.items():
                target = tree / table / _partition(camera, date) / f"{table}.parquet"
                if rows:
                    _write_rows(duck, target, table, rows)
                else:
                    target.unlink(missing_ok=True)
            count += 1
    return Exported(camera, len(days) - 1, count)


@dataclass(frozen=True)
class _Day:
    """A day that is in the tree. settled: detection was alive after its end, which is known as a gap else."""

    events: int
    paths: bool
    settled: bool
    digest: str


def _written(duck: DuckDBPyConnection, tree: Path, camera: str) -> dict[str, _Day]:
    """The days of a camera that are in the tree, by date."""
    folder = tree / "days" / _partition(camera)
    if not folder.is_dir() or not any(folder.glob("*/*.parquet")):
        return {}
    rows = read_rows(
        duck,
        "SELECT date, events, paths, settled, digest FROM "
        f"read_parquet({text(escape(str(folder)) + '/*/*.parquet')}, hive_partitioning = true)",
    )
    return {str(date): _Day(*rest) for date, *rest in rows}


def _changed(
    base: sqlite3.Connection, day: tuple[int, int], before: _Day | None, paths: bool
) -> dict[str, list[tuple[Any, ...]]] | None:
    """The rows of a day's tables but for gaps; None where what is in the tree is to stay.

    day: its beginning and end in milliseconds.
    """
    (number,) = base.execute("SELECT count(*) FROM event WHERE time >= ? AND time < ?", day).fetchone()
    if before is not None:
        if number < before.events:  # the store has deleted some of them since
            return None
        if before.settled and number == before.events and before.paths >= paths:
            return None
    tables = {
        "events": base.execute(
            "SELECT id, run, time, kind, place, direction, class, track, round(dwell, 2), rule, "
            "round(value, 2) FROM event WHERE time >= ? AND time < ? ORDER BY time, id",
            day,
        ).fetchall(),
        # Two runs in one minute, around a restart, become one row.
        "occupancy": base.execute(
            "SELECT minute, place, sum(inside * watched) / sum(watched), sum(watched), max(most), "
            "sum(queue * watched) / sum(iif(queue IS NULL, 0, watched)), max(queue_most) "
            "FROM occupancy WHERE minute >= ? AND minute < ? GROUP BY minute, place ORDER BY minute, place",
            day,
        ).fetchall(),
    }
    if paths:
        rows = base.execute(
            "SELECT run, track, class, began, ended, points FROM path WHERE ended >= ? AND ended < ? "
            "ORDER BY ended, id",
            day,
        )
        tables["paths"] = [(*row, *unpack_points(points).T.tolist()) for *row, points in rows]
    return tables


def compact(tree: Path, target: Path, progress: Progress = unseen) -> list[str]:
    """Pack what `export` wrote into one file for each table and month, of all cameras, with sums by the hour.

    A month is written again where a day of it is new or has changed. Paths are left out.
    Returns the months that were written, such as "2026-11".
    Raises ConfigError for a folder without days, StoreError where it cannot be read or written.
    """
    if tree.resolve() == target.resolve():
        raise ConfigError(f"{target}: expected another folder than that of the days")
    months: dict[str, list[Path]] = {}
    for file in sorted(tree.glob("days/camera=*/date=*/*.parquet")):
        months.setdefault(file.parent.name.removeprefix("date=")[:7], []).append(file)
    if not months:
        raise ConfigError(f"{tree}: expected what `store export` wrote, found no days/camera=*/date=*")
    written = []
    with database() as duck:
        for month, files in with_progress(sorted(months.items()), "Months", progress):
            state = hashlib.sha256()
            for file in files:
                about = file.stat()
                state.update(f"{file.relative_to(tree)} {about.st_size} {about.st_mtime_ns}\n".encode())
            last = target / "days" / f"month={month}" / "days.parquet"
            if last.is_file() and _state(duck, last) == state.hexdigest():
                continue
            _pack(duck, tree, target, month, state.hexdigest())
            written.append(month)
    return written


def _pack(duck: DuckDBPyConnection, tree: Path, target: Path, month: str, state: str) -> None:
    """One month; its days last, as they say that it is complete."""
    tables = ("events", "occupancy", "gaps", "days")
    packed = {table: target / table / f"month={month}" / f"{table}.parquet" for table in (*tables, *HOURS)}
    found = {
        table: [escape(str(file)) for file in sorted(tree.glob(f"{table}/camera=*/date={month}-*/*.parquet"))]
        for table in tables
    }
    view(duck, "days", found["days"])
    for table in tables[:-1]:
        view(duck, table, found[table])
        _write(duck, packed[table], f"SELECT * FROM {table}")
        view(duck, table, [escape(str(packed[table]))])  # one file instead of thousands, for the sums
    for table, query in HOURS.items():
        _write(duck, packed[table], f"{query} ORDER BY camera, hour")
    source = f", kv_metadata {{source: {text(state)}}}"
    _write(duck, packed["days"], "SELECT * FROM days", options=source)


def _state(duck: DuckDBPyConnection, file: Path) -> str:
    rows = read_rows(
        duck, f"SELECT value FROM parquet_kv_metadata({text(escape(str(file)))}) WHERE key = 'source'"
    )
    return bytes(rows[0][0]).decode() if rows else ""


def view(duck: DuckDBPyConnection, table: str, files: Sequence[str]) -> None:
    """Make a view of a table in either layout. files: patterns of its files; none makes an empty view."""
    if files:
        # Typed, or a camera called 007 would be a number. In files of a month both are ordinary columns.
        days = "/camera=" in files[0]
        hive = "true, hive_types = {'camera': VARCHAR, 'date': DATE}" if days else "false"
        listed = ", ".join(map(text, files))
        rows = f"* FROM read_parquet([{listed}], hive_partitioning = {hive})"
    else:
        columns = {"camera": "VARCHAR", "date": "DATE", **TABLES[table]}
        rows = ", ".join(f'NULL::{kind} AS "{column}"' for column, kind in columns.items()) + " WHERE false"
    duck.execute(f"CREATE OR REPLACE TEMP VIEW {table} AS SELECT {rows}")


@contextmanager
def database() -> Iterator[DuckDBPyConnection]:
    """DuckDB in memory, which neither loads nor fetches anything; its errors become a StoreError."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="edge-centernet-") as spill:
        quiet = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        duck = duckdb.connect(config={**quiet, "memory_limit": _MEMORY, "temp_directory": spill})
        try:
            duck.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            yield duck
        except duckdb.InterruptException:
            raise KeyboardInterrupt from None
        except duckdb.Error as error:
            raise StoreError(f"DuckDB: {str(error).splitlines()[0]}") from None
        finally:
            duck.close()


def read_rows(duck: DuckDBPyConnection, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """What a query finds."""
    return duck.execute(query, list(values)).fetchall()


def text(value: str) -> str:
    """A string as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def _write_rows(duck: DuckDBPyConnection, target: Path, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    chosen = []
    for number, (column, kind) in enumerate(TABLES[table].items(), 1):
        given = "BIGINT" if kind == _MOMENT else kind
        value = f"unnest(${number}::{given}[])"
        chosen.append(f'{f"make_timestamptz({value} * 1000)" if kind == _MOMENT else value} AS "{column}"')
    values = [list(column) for column in zip(*rows, strict=True)]
    _write(duck, target, f"SELECT {', '.join(chosen)}", values)


def _write(
    duck: DuckDBPyConnection, target: Path, query: str, values: Sequence[object] = (), options: str = ""
) -> None:
    """Write a query's result as a file that is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Readers pass over names that begin with a dot.
    part = target.with_name(f".{target.name}.part")
    try:
        duck.execute(
            f"COPY ({query}) TO {text(str(part))} (FORMAT parquet, COMPRESSION zstd{options})", list(values)
        )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _partition(camera: str, date: str = "") -> Path:
    """camera=NAME/date=DATE, the name as Hive and DuckDB encode it: %20 for a blank, and so on."""
    folder = f"camera={quote(camera, safe='')}"
    if not camera or len(folder) > _NAME_BYTES:
        raise ConfigError(
            f"expected a camera name of 1 to {_NAME_BYTES // 10} letters, got {camera!r}; "
            "give another by --name"
        )
    return Path(folder, f"date={date}") if date else Path(folder)

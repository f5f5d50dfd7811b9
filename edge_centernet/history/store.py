"""One SQLite file for each camera: every event, where people walked, and when nobody looked.

    event      a crossing, an entry, an exit, an alert of a rule, a reset, with its time, place, class, track
    occupancy  for every zone and minute: how many were inside and in its queue, on average and at most
    path       the foot points of a track, without a picture
    gap        a time in which the process, the camera or the clock was away: no zeros, but nothing known
    run        each start of the process, and when it was last alive
    audit      what somebody saw who watched a part of it, beside what was counted (`history/audit.py`)

SQLite in WAL mode: one process writes and any number read. What is committed survives when the process is
killed; what `flush` has written to the disk survives a power cut, and so does the file itself at any moment.
Times are milliseconds since 1970 in UTC; each run remembers the time zone of its machine.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.files import lock_alone

APPLICATION_ID = 0x65636E68  # "ecnh": what `file` and SQLite tell this kind of database by
VERSION = 2  # of the tables below
DAY_MS = 86_400_000
MINUTE_MS = 60_000
# A process that was last alive this long before the next one starts was away; less is a quick restart.
_AWAY_MS = 5_000
_PRUNED = 2_000  # rows that one step of pruning deletes, so that the writer never waits long

_TABLES = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, began INTEGER NOT NULL, alive INTEGER NOT NULL, zone TEXT NOT NULL,
    camera TEXT NOT NULL);
CREATE TABLE event (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, time INTEGER NOT NULL, kind TEXT NOT NULL,
    place TEXT NOT NULL, direction TEXT NOT NULL, class TEXT NOT NULL, track INTEGER NOT NULL, dwell REAL);
CREATE INDEX event_time ON event (time);
CREATE TABLE occupancy (
    run INTEGER NOT NULL, minute INTEGER NOT NULL, place TEXT NOT NULL, inside REAL NOT NULL,
    watched REAL NOT NULL, most INTEGER NOT NULL, PRIMARY KEY (minute, place, run)) WITHOUT ROWID;
CREATE TABLE path (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, began INTEGER NOT NULL, ended INTEGER NOT NULL,
    class TEXT NOT NULL, track INTEGER NOT NULL, points BLOB NOT NULL);
CREATE INDEX path_ended ON path (ended);
CREATE TABLE gap (began INTEGER NOT NULL, ended INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE INDEX gap_ended ON gap (ended);
"""
# What version 2 has more than the tables above, which are those of version 1: a rule's name and its number,
# and the length of queues.
_ADDED = {
    "event": ("rule TEXT NOT NULL DEFAULT ''", "value REAL"),
    "occupancy": ("queue REAL", "queue_most INTEGER"),
}
# Made with the first audit: the tables above stay as they were, and older releases go on reading the file.
_AUDITS = """
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, began INTEGER NOT NULL, changed INTEGER NOT NULL, record TEXT NOT NULL)
"""


class StoreError(EdgeCenterNetError):
    """The store cannot be read or written. reason: what SQLite says, without the file's name."""

    reason = ""


class StoredEvent(NamedTuple):
    """Something that happened once.

    time: milliseconds since 1970, UTC.
    kind: "crossed", "entered", "left", "alert" or "reset". place: name of the line, zone or room.
    direction: "in" or "out" of a crossing, "began" or "ended" of an alert, else "".
    class_name, track: "" and 0 where it is not about one object.
    dwell: seconds that a visit ("left") or an alert ("ended") lasted.
    rule, value: see `edge_centernet.tracking.state.Event`.
    """

    time: int
    kind: str
    place: str
    direction: str
    class_name: str
    track: int
    dwell: float | None = None
    rule: str = ""
    value: float | None = None


class StoredMinute(NamedTuple):
    """How many were in a zone.

    minute: when it began, milliseconds since 1970, UTC. place: name of the zone.
    inside, most: on average over the `watched` seconds, and at most.
    queue, queue_most: the same of those who waited; None for a zone that is no queue.
    """

    minute: int
    place: str
    inside: float
    watched: float
    most: int
    queue: float | None = None
    queue_most: int | None = None


class StoredPath(NamedTuple):
    """Where a track walked.

    began, ended: milliseconds since 1970, UTC.
    points: (N, 4) float32: seconds since `began`, x and y of the foot point as fractions of the image's width
        and height, and the object's size, sqrt(width * height) of its box, as a fraction of the image's
        width. Kept as 16-bit numbers: to a hundredth of a second and 1/65535 of a side.
    """

    began: int
    ended: int
    class_name: str
    track: int
    points: NDArray[np.float32]


@dataclass(frozen=True)
class Retention:
    """How much is kept.

    days: of events, occupancy and gaps. path_days: of paths.
    max_bytes: size of the file; over it the oldest paths go first, then the oldest days of all.
    """

    days: float = 400
    path_days: float = 30
    max_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        """Raises ConfigError for a time or size that keeps nothing."""
        if self.days <= 0 or self.path_days < 0:
            raise ConfigError(f"keep: expected a positive number of days, got {self.days:g}")
        if self.max_bytes < 1 << 20:
            raise ConfigError(f"keep: expected at least 1048576 bytes, got {self.max_bytes}")


class Store:
    """The writer. One process may have a file open for writing; SQLite keeps others out.

    Everything but `flush` is to be called on one thread; `flush` on any other one, as it waits for the disk.
    """

    def __init__(self, path: Path, camera: str, now: int, zone: str = "") -> None:
        """Open or make the file, and begin a run; the time since the last one is a gap.

        now: milliseconds since 1970, UTC. zone: the machine's time zone, an IANA name; asked of the machine
            if not given.
        Raises StoreError for a file that is not one of ours, is of a newer version or cannot be written.
        """
        self.path = path
        if path.exists() and path.stat().st_size:
            with closing(open_store(path)):  # refuses another program's database before anything is written
                pass
        self._lock = _lock(path)
        base = None
        try:
            # Autocommit: each transaction below is explicit.
            self._base = base = sqlite3.connect(path, timeout=5, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            # Killed processes lose nothing at NORMAL; it is `flush` that guards against power cuts.
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("PRAGMA wal_autocheckpoint = 0")
            with _Transaction(self._base):
                (version,) = self._base.execute("PRAGMA user_version").fetchone()
                if version < 1:
                    for statement in _TABLES.split(";"):
                        self._base.execute(statement)
                    self._base.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                if version < 2:  # takes no time, however much is stored: SQLite adds columns to no row
                    for table, columns in _ADDED.items():
                        for column in columns:
                            self._base.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
                    self._base.execute("CREATE INDEX event_alert ON event (time) WHERE kind = 'alert'")
                    self._base.execute(f"PRAGMA user_version = {VERSION}")
                (last,) = self._base.execute("SELECT max(alive) FROM run").fetchone()
                if last is not None and now - last > _AWAY_MS:
                    self._base.execute("INSERT INTO gap VALUES (?, ?, 'off')", (last, now))
                self._run = self._base.execute(
                    "INSERT INTO run (began, alive, zone, camera) VALUES (?, ?, ?, ?)",
                    (now, now, zone or local_zone(), camera),
                ).lastrowid
        except sqlite3.Error as error:
            if base is not None:
                base.close()
            os.close(self._lock)
            raise _failed(path, error) from None

    def add(
        self,
        now: int,
        events: Sequence[StoredEvent] = (),
        paths: Sequence[StoredPath] = (),
        gaps: Sequence[tuple[int, int, str]] = (),
        occupancy: Iterable[StoredMinute | tuple[int, str, float, float, int]] = (),
    ) -> None:
        """Commit all of it, or nothing; after this call a killed process loses none of it.

        Args:
            now: the process is alive at this time, milliseconds since 1970.
            events: in the order in which they happened.
            paths: of tracks that ended.
            gaps: began, ended (milliseconds) and the reason: "camera" or "clock".
            occupancy: replaces what this run has said of that minute before.

        Raises StoreError where it cannot be written, such as on a full disk; nothing is written then.
        """
        base, run = self._base, self._run
        try:
            with _Transaction(base):
                base.executemany(
                    "INSERT INTO event (run, time, kind, place, direction, class, track, dwell, rule, value) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [(run, *event) for event in events],
                )
                base.executemany(
                    "INSERT INTO path (run, began, ended, class, track, points) VALUES (?, ?, ?, ?, ?, ?)",
                    [(run, *path[:4], pack_points(path.points)) for path in paths],
                )
                base.executemany("INSERT INTO gap VALUES (?, ?, ?)", gaps)
                base.executemany(
                    "INSERT OR REPLACE INTO occupancy "
                    "(run, minute, place, inside, watched, most, queue, queue_most) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [(run, *StoredMinute(*one)) for one in occupancy],
                )
                base.execute("UPDATE run SET alive = max(alive, ?) WHERE id = ?", (now, run))
        except sqlite3.Error as error:
            raise _failed(self.path, error) from None

    def close(self) -> None:
        """Write everything to the disk and close the file."""
        with suppress(sqlite3.Error):  # the log beside the file has all of it, and the next start reads it
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._base.close()
        os.close(self._lock)


def flush(path: Path, now: int, keep: Retention) -> None:
    """Bring what was committed onto the disk, and delete what is not to be kept any longer.

    On a connection of its own, so that it may run beside `Store.add` on another thread.
    Raises StoreError.
    """
    try:
        with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as base:
            base.execute("PRAGMA synchronous = FULL")
            _prune(base, now, keep)
            base.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        raise _failed(path, error) from None


def _prune(base: sqlite3.Connection, now: int, keep: Retention) -> None:
    oldest = now - int(keep.days * DAY_MS)
    _delete(base, "path", "ended", max(oldest, now - int(keep.path_days * DAY_MS)))
    for table, column in (("event", "time"), ("occupancy", "minute"), ("gap", "ended")):
        _delete(base, table, column, oldest)
    _forget(base, oldest)
    # A file does not shrink, but its free pages are used again: what counts is what is in use.
    for table, column in (("path", "ended"), ("event", "time"), ("occupancy", "minute")):
        while _used_bytes(base) > keep.max_bytes:
            (first,) = base.execute(f"SELECT min({column}) FROM {table}").fetchone()
            if first is None:
                break
            _delete(base, table, column, first + DAY_MS // 4)
            if table != "path":
                _forget(base, first + DAY_MS // 4)


def _forget(base: sqlite3.Connection, before: int) -> None:
    """Let runs begin where events do: a report would take what was deleted for hours without anyone."""
    base.execute("DELETE FROM run WHERE alive < ? AND id < (SELECT max(id) FROM run)", (before,))
    base.execute("UPDATE run SET began = ? WHERE began < ? AND alive >= ?", (before, before, before))


def _delete(base: sqlite3.Connection, table: str, column: str, before: int) -> None:
    key = "minute, place, run" if table == "occupancy" else "rowid"
    chosen = f"SELECT {key} FROM {table} WHERE {column} < ? LIMIT {_PRUNED}"
    while base.execute(f"DELETE FROM {table} WHERE ({key}) IN ({chosen})", (before,)).rowcount:
        pass


def _used_bytes(base: sqlite3.Connection) -> int:
    pages, free, size = (
        base.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _lock(path: Path) -> int:
    try:
        return lock_alone(path)
    except BlockingIOError:
        raise StoreError(
            f"{path}: another process is writing to it; give each camera a store of its own"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened for writing: {error.strerror}") from None


def open_store(path: Path) -> sqlite3.Connection:
    """A connection that only reads; a store of an earlier release has the columns of this one, empty.

    Raises StoreError for a missing file, another program's, a newer one.
    """
    if not path.is_file():
        raise StoreError(f"{path}: expected a store that `detect --store` wrote, found no such file")
    base = None
    try:
        base = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5, isolation_level=None)
        (kind,) = base.execute("PRAGMA application_id").fetchone()
        (version,) = base.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        if base is not None:
            base.close()
        raise _failed(path, error) from None
    if kind != APPLICATION_ID or version > VERSION:
        base.close()
        got = (
            f"one of version {version}, from a newer release"
            if kind == APPLICATION_ID
            else "another database"
        )
        raise StoreError(f"{path}: expected a store that `detect --store` wrote, got {got}")
    if version < VERSION:
        # A temporary view goes before a table of the same name, and the file stays as it is.
        for table, columns in _ADDED.items():
            empty = ", ".join(
                f"{'NULL' if 'DEFAULT' not in column else repr('')} AS {column.split()[0]}"
                for column in columns
            )
            base.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {empty} FROM main.{table}")
    return base


def last_alive(path: Path) -> int | None:
    """Until when a store has counts, milliseconds since 1970; None for one without. Raises StoreError."""
    with closing(open_store(path)) as base:
        (last,) = base.execute("SELECT max(alive) FROM run").fetchone()
    return None if last is None else int(last)


def keep_audit(path: Path, number: int | None, began: int, now: int, record: str) -> int:
    """Write an audit on a connection of its own, beside a process that counts; returns its number.

    Args:
        path: of a store.
        number: of one that is there, to replace it; None for a new one.
        began: milliseconds since 1970.
        now: likewise.
        record: JSON.

    Raises StoreError.
    """
    try:
        with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as base:
            base.execute("PRAGMA synchronous = FULL")  # whoever watched for an hour does it once
            with _Transaction(base):
                base.execute(_AUDITS)
                written = base.execute(
                    "INSERT OR REPLACE INTO audit (id, began, changed, record) VALUES (?, ?, ?, ?)",
                    (number, began, now, record),
                )
            return int(written.lastrowid or 0)
    except sqlite3.Error as error:
        raise _failed(path, error) from None


def kept_audits(path: Path) -> list[tuple[int, int, str]]:
    """Number, beginning (milliseconds since 1970) and record of each, by number. Raises StoreError."""
    with closing(open_store(path)) as base:
        if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit'").fetchone():
            return []
        return base.execute("SELECT id, began, record FROM audit ORDER BY id").fetchall()


def pack_points(points: NDArray[np.float32]) -> bytes:
    """(N, 4) as in `StoredPath` -> 8 bytes a point: little-endian 16-bit seconds/100, x, y and size."""
    scaled = points * np.array([100, 65535, 65535, 65535], np.float32)
    return np.clip(np.round(scaled), 0, 65535).astype("<u2").tobytes()


def unpack_points(packed: bytes) -> NDArray[np.float32]:
    """The inverse of `pack_points`, but for its rounding."""
    numbers = np.frombuffer(packed, "<u2").reshape(-1, 4).astype(np.float32)
    return np.divide(numbers, np.array([100, 65535, 65535, 65535], np.float32), dtype=np.float32)


def local_zone() -> str:
    """The machine's time zone as an IANA name; where there is none, its offset now, such as "+01:00"."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name:
        target = os.path.realpath("/etc/localtime")
        name = target.partition("/zoneinfo/")[2]
    if name:
        return name
    minutes = time.localtime().tm_gmtoff // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


class _Transaction:
    """`with` around statements: all of them or none. IMMEDIATE: the lock is taken first, not half-way."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base

    def __enter__(self) -> None:
        self._base.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                self._base.execute("COMMIT")
                return
            except sqlite3.Error:
                self._rollback()
                raise
        self._rollback()

    def _rollback(self) -> None:
        if self._base.in_transaction:  # a full disk may have ended it already
            self._base.execute("ROLLBACK")


def _failed(path: Path, error: sqlite3.Error) -> StoreError:
    text = str(error)
    if "not a database" in text:
        return StoreError(f"{path}: expected a store that `detect --store` wrote, got another file")
    failed = StoreError(f"{path}: cannot be read or written: {text}")
    failed.reason = text
    return failed

"""The store loses nothing that was committed, and keeps no more than it is told to."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_centernet.errors import ConfigError
from edge_centernet.history import store as store_module
from edge_centernet.history.store import (
    DAY_MS,
    Retention,
    Store,
    StoredEvent,
    StoredMinute,
    StoredPath,
    StoreError,
    flush,
    open_store,
    pack_points,
    unpack_points,
)

NOON = 1_796_040_000_000  # a day in November 2026


def event(time: int, place: str = "door", direction: str = "in", track: int = 1) -> StoredEvent:
    """A crossing."""
    return StoredEvent(time, "crossed", place, direction, "person", track)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What a reader finds."""
    with closing(open_store(path)) as base:
        return base.execute(query).fetchall()


def test_what_is_added_is_there(tmp_path: Path) -> None:
    """Each event as it was given, with the run it belongs to."""
    store = Store(tmp_path / "a.db", "door cam", NOON, "Europe/Berlin")
    store.add(NOON + 5, [event(NOON + 1), StoredEvent(NOON + 4, "left", "till", "", "dog", 9, 2.5)])
    store.close()
    assert rows(store.path, "SELECT run, time, kind, place, direction, class, track, dwell FROM event") == [
        (1, NOON + 1, "crossed", "door", "in", "person", 1, None),
        (1, NOON + 4, "left", "till", "", "dog", 9, 2.5),
    ]
    assert rows(store.path, "SELECT * FROM run") == [(1, NOON, NOON + 5, "Europe/Berlin", "door cam")]


def test_the_time_between_two_runs_is_a_gap(tmp_path: Path) -> None:
    """From the last sign of life to the next start; a restart within seconds leaves none."""
    path = tmp_path / "a.db"
    for began, alive in (
        (NOON, NOON + 60_000),
        (NOON + 62_000, NOON + 90_000),
        (NOON + 500_000, NOON + 500_001),
    ):
        store = Store(path, "c", began)
        store.add(alive)
        store.close()
    assert rows(path, "SELECT * FROM gap") == [(NOON + 90_000, NOON + 500_000, "off")]


def _count_until_killed(path: Path, told: int) -> None:
    """Add an event and then tell of it, as an output does that comes after the store."""
    store = Store(path, "c", NOON)
    number = 0
    while True:
        number += 1
        store.add(NOON + number, [event(NOON + number, track=number)])
        os.write(told, f"{number}\n".encode())
        if number % 50 == 0:
            flush(path, NOON + number, Retention())


@pytest.mark.parametrize("times", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_process_loses_nothing_that_it_told_of(tmp_path: Path, times: int) -> None:
    """Killed at random moments: the file opens, every event that was told of is in it, and none is twice."""
    path, chance = tmp_path / "a.db", random.Random(3)
    told_in_all = 0
    for run in range(1, times + 1):
        read, write = os.pipe()
        child = multiprocessing.get_context("fork").Process(target=_count_until_killed, args=(path, write))
        child.start()
        os.close(write)
        first = os.read(read, 1)  # it is at work
        time.sleep(chance.uniform(0, 0.1))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        told = first
        while part := os.read(read, 65536):
            told += part
        os.close(read)
        # The last line may be cut off: its event was committed, and so counts, but the number is not known.
        numbers = [int(line) for line in told.split(b"\n")[:-1]]
        found = [track for (track,) in rows(path, f"SELECT track FROM event WHERE run = {run} ORDER BY id")]
        assert found[: len(numbers)] == numbers
        assert len(found) - len(numbers) <= 2
        assert found == list(range(1, len(found) + 1))
        told_in_all += len(numbers)
    with closing(open_store(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT count(*) FROM event").fetchone()[0] >= told_in_all > times


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Both would count the same people; a reader may look at any time."""
    store = Store(tmp_path / "a.db", "c", NOON)
    with pytest.raises(StoreError, match="another process is writing to it; give each camera a store of its"):
        Store(store.path, "c", NOON)
    store.add(NOON, [event(NOON)])  # the refusal has not taken the lock away
    assert rows(store.path, "SELECT count(*) FROM event") == [(1,)]
    store.close()
    Store(store.path, "c", NOON).close()


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Another program's database, a text, a store of a newer release, a folder, a missing file."""
    other, text, newer = tmp_path / "other.db", tmp_path / "notes.txt", tmp_path / "newer.db"
    with closing(sqlite3.connect(other)) as base:
        base.execute("CREATE TABLE run (id)")
    text.write_text("This is not a database. " * 50)
    Store(newer, "c", NOON).close()
    with closing(sqlite3.connect(newer)) as base:
        base.execute("PRAGMA user_version = 99")
    for path, got in (
        (other, "got another database"),
        (text, "got another file"),
        (newer, "got one of version 99, from a newer release"),
        (tmp_path / "none" / "a.db", "cannot be opened for writing: No such file or directory"),
        (tmp_path, "cannot be opened for writing: Is a directory|found no such file"),
    ):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(StoreError, match=got):
            Store(path, "c", NOON)
        assert (path.read_bytes() if path.is_file() else None) == before
    with pytest.raises(StoreError, match="found no such file"):
        open_store(tmp_path / "none.db")


def test_a_failed_commit_leaves_nothing_of_it(tmp_path: Path) -> None:
    """All of `add` or nothing: here the second event breaks a rule of the table."""
    store = Store(tmp_path / "a.db", "c", NOON)
    with pytest.raises(StoreError, match="NOT NULL"):
        store.add(NOON, [event(NOON), event(NOON)._replace(place=None)])  # type: ignore[arg-type]
    store.add(NOON + 1, [event(NOON + 1)])
    store.close()
    assert rows(store.path, "SELECT time FROM event") == [(NOON + 1,)]


def test_old_days_and_old_paths_go(tmp_path: Path) -> None:
    """Events for 10 days, paths for 2, counted from the time of the flush."""
    store = Store(tmp_path / "a.db", "c", NOON)
    days = range(15)
    path = StoredPath(0, 0, "person", 1, np.zeros((2, 4), np.float32))
    store.add(
        NOON + 15 * DAY_MS,
        [event(NOON + day * DAY_MS) for day in days],
        [path._replace(began=NOON + day * DAY_MS, ended=NOON + day * DAY_MS) for day in days],
        [(NOON + day * DAY_MS, NOON + day * DAY_MS + 1, "camera") for day in days],
        [(NOON + day * DAY_MS, "till", 1.0, 60.0, 2) for day in days],
    )
    flush(store.path, NOON + 15 * DAY_MS - 1, Retention(days=10, path_days=2))
    store.close()
    counts = [
        rows(store.path, f"SELECT count(*) FROM {table}") for table in ("event", "occupancy", "gap", "path")
    ]
    assert counts == [[(10,)], [(10,)], [(10,)], [(2,)]]
    # A report begins where events do: the days before them are unknown, and no days without visitors.
    assert rows(store.path, "SELECT began FROM run") == [(NOON + 5 * DAY_MS - 1,)]


def test_the_file_stays_below_its_limit(tmp_path: Path) -> None:
    """The oldest paths go first; no event has to."""
    store = Store(tmp_path / "a.db", "c", NOON)
    points = np.random.default_rng(0).uniform(0, 1, (500, 4)).astype(np.float32)
    limit = 1 << 20
    for hour in range(48):
        now = NOON + hour * 3_600_000
        walks = [StoredPath(now, now + 1, "person", i, points) for i in range(20)]
        store.add(now, [event(now)], walks)
        flush(store.path, now, Retention(max_bytes=limit))
    store.close()
    assert rows(store.path, "SELECT count(*) FROM event") == [(48,)]
    ((oldest,),) = rows(store.path, "SELECT min(ended) FROM path")
    assert isinstance(oldest, int)
    assert oldest > NOON + 24 * 3_600_000
    assert store.path.stat().st_size < 1.5 * limit


def test_paths_are_kept_to_a_hundredth_of_a_second_and_less_than_a_pixel() -> None:
    """16 bits: 1/65535 of a side; what is outside of the picture is moved to its edge."""
    points = np.array([[0, 0, 0, 0], [0.204, 0.5, 1.2, 0.1], [655.35, 1, -1, 1]], np.float32)
    unpacked = unpack_points(pack_points(points))
    expected = [[0, 0, 0, 0], [0.2, 0.5, 1, 0.1], [655.35, 1, 0, 1]]
    np.testing.assert_allclose(unpacked, expected, atol=1e-4)
    assert len(pack_points(points)) == 24


def test_keeping_nothing_is_refused() -> None:
    """A limit that no store fits into would delete all of it."""
    with pytest.raises(ConfigError, match="expected a positive number of days, got 0"):
        Retention(days=0)
    with pytest.raises(ConfigError, match="expected at least 1048576 bytes, got 5"):
        Retention(max_bytes=5)


def old_store(path: Path) -> None:
    """A store of version 1, as the first release wrote it: an entry, an exit and a minute."""
    added = [column.split()[0] for columns in store_module._ADDED.values() for column in columns]
    tables = store_module._TABLES
    assert not [column for column in added if f" {column} " in tables]
    with closing(sqlite3.connect(path)) as base:
        base.executescript(tables)
        base.execute(f"PRAGMA application_id = {store_module.APPLICATION_ID}")
        base.execute("PRAGMA user_version = 1")
        base.execute("INSERT INTO run VALUES (1, ?, ?, 'Europe/Berlin', 'old cam')", (NOON, NOON + 60_000))
        base.execute("INSERT INTO event VALUES (1, 1, ?, 'entered', 'till', '', 'person', 4, NULL)", (NOON,))
        base.execute("INSERT INTO event VALUES (2, 1, ?, 'left', 'till', '', 'person', 4, 9.5)", (NOON + 1,))
        base.execute("INSERT INTO occupancy VALUES (1, ?, 'till', 0.5, 60.0, 1)", (NOON,))
        base.commit()


def test_a_store_of_an_earlier_release_is_read_as_it_is(tmp_path: Path) -> None:
    """By readers, who change no byte of it: what it does not have is empty."""
    path = tmp_path / "a.db"
    old_store(path)
    before = path.read_bytes()
    assert rows(path, "SELECT kind, dwell, rule, value FROM event") == [
        ("entered", None, "", None),
        ("left", 9.5, "", None),
    ]
    assert rows(path, "SELECT inside, queue, queue_most FROM occupancy") == [(0.5, None, None)]
    assert path.read_bytes() == before


def test_a_store_of_an_earlier_release_is_continued(tmp_path: Path) -> None:
    """The next start gives it what it lacks, and loses nothing; alerts, resets and queues are in it then."""
    path = tmp_path / "a.db"
    old_store(path)
    store = Store(path, "new cam", NOON + 61_000)
    alert = StoredEvent(NOON + 70_000, "alert", "till", "began", "", 0, None, "busy", 6)
    minute = StoredMinute(NOON + 60_000, "till", 3.0, 60.0, 8, 2.5, 6)
    store.add(NOON + 70_000, [alert], occupancy=[minute])
    store.close()
    assert rows(path, "SELECT time, kind, place, direction, class, track, dwell, rule, value FROM event") == [
        (NOON, "entered", "till", "", "person", 4, None, "", None),
        (NOON + 1, "left", "till", "", "person", 4, 9.5, "", None),
        tuple(alert),
    ]
    assert rows(path, "SELECT minute, place, inside, watched, most, queue, queue_most FROM occupancy") == [
        (NOON, "till", 0.5, 60.0, 1, None, None),
        tuple(minute),
    ]
    assert rows(path, "PRAGMA user_version") == [(store_module.VERSION,)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]

"""Days of many stores become Parquet once and whole, and a report over all of them is the sum of theirs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from click.testing import CliRunner
from support import full_disk, load_script

from edge_centernet.cli import cli
from edge_centernet.errors import ConfigError
from edge_centernet.history.page import as_html
from edge_centernet.history.report import as_csv, as_json, as_text
from edge_centernet.history.store import (
    Retention,
    Store,
    StoredEvent,
    StoredMinute,
    StoredPath,
    StoreError,
    flush,
    open_store,
)
from edge_centernet.history.summary import summarize

pytest.importorskip("duckdb", reason="the extra `fleet` is not installed")

import duckdb

from edge_centernet.history.fleet import summarize_tree
from edge_centernet.history.parquet import compact, export

ZONES = {"Alexanderplatz": "Europe/Berlin", "Times Square": "America/New_York", "a/b=ä%": "Europe/Berlin"}
DAYS = 14  # from 23 October 2025 on: clocks go back on the 26th in Berlin, on 2 November in New York
STRETCH = ("2025-10-23", "2025-11-05")


def at(text: str, zone: str = "Europe/Berlin") -> int:
    """Milliseconds of a local time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def fill(store: Store, zone: str, first: int, days: int, seed: int, late: int = 0) -> None:
    """Visits at any hour of some days. late: milliseconds after midnight at which it is last alive."""
    chance = np.random.default_rng(seed)
    for day in range(first, first + days):
        date = datetime(2025, 10, 23) + timedelta(days=day)
        began, ended = (at(str(date + timedelta(days=more)), zone) for more in (0, 1))
        events, minutes = [], []
        for hour, state, value in ((5, "began", 5.0), (7, "ended", 8.0), (23, "began", 5.0)):
            when, lasted = began + hour * 3_600_000, 7200.0 if state == "ended" else None
            events.append(StoredEvent(when, "alert", "till", state, "", 0, lasted, "busy", value))
        for visit in range(200):
            track = 200 * day + visit
            came, stayed = int(chance.integers(began, ended - 600_000)), float(chance.gamma(2, 60))
            name = "dog" if visit % 9 == 0 else "person"
            left = min(ended - 1, came + round(stayed * 1000))
            events += [
                StoredEvent(came, "crossed", "door", "in", name, track),
                StoredEvent(came, "entered", "till", "", name, track),
                StoredEvent(
                    left, "left", "till", "", name, track, stayed, "", stayed / 2 if visit % 3 else None
                ),
            ]
            if visit % 5 == 0:
                events.append(StoredEvent(came + 1, "entered", "shelf", "", name, track))
        for minute in range(began, ended, 60_000):
            inside, most = float(chance.integers(4)) / 4, int(chance.integers(5))
            minutes.append(StoredMinute(minute, "till", inside, 60.0, most, inside / 2, most // 2))
            if minute % 600_000 == 0:
                minutes.append(StoredMinute(minute, "shelf", inside, 60.0, most))
        walk = StoredPath(began, began + 1000, "person", 1, np.zeros((5, 4), np.float32))
        gaps = [(began + 3_600_000, began + 9_000_000, "camera")] if day % 3 == 0 else []
        store.add(ended + late, sorted(events), [walk], gaps, minutes)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shops on two continents; one has been off for three days."""
    folder, made = tmp_path_factory.mktemp("stores"), []
    for seed, (name, zone) in enumerate(ZONES.items()):
        began = at("2025-10-23", zone)
        path = folder / f"{seed}.db"
        store = Store(path, name, began, zone)
        if seed == 1:
            fill(store, zone, 0, 4, seed)
            store.close()
            store = Store(path, name, at("2025-10-30", zone), zone)
            fill(store, zone, 7, DAYS - 7, seed)
        else:
            fill(store, zone, 0, DAYS, seed)
        store.close()
        made.append(path)
    return made


@pytest.fixture(scope="module")
def tree(stores: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their days."""
    folder = tmp_path_factory.mktemp("tree")
    for store in stores:
        assert export(store, folder, paths=True, now=at("2025-11-06T09:00")).written == DAYS
    return folder


@pytest.fixture(scope="module")
def months(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two files a table."""
    folder = tmp_path_factory.mktemp("months")
    assert compact(tree, folder) == ["2025-10", "2025-11"]
    return folder


@pytest.mark.parametrize(
    ("begin", "end", "step"),
    [
        *((*STRETCH, step) for step in ("hour", "day", "week")),
        ("2025-10-24T06:00", "2025-11-03T20:00", "day"),
    ],
)
def test_one_report_from_stores_days_and_months(
    stores: list[Path], tree: Path, months: Path, begin: str, end: str, step: str
) -> None:
    """Every figure of it is the same, wherever it is read from."""
    expected = json.loads(as_json(summarize(stores, begin, end, step)))
    for folder in (tree, months):
        assert json.loads(as_json(summarize_tree(folder, begin, end, step))) == expected


def test_the_sum_is_that_of_the_stores(stores: list[Path], months: Path) -> None:
    """Counts of every hour and class, and what each camera's own report says of it."""
    single = [summarize(path, *STRETCH) for path in stores]
    report = summarize_tree(months, *STRETCH)
    assert report.totals == sum((one.totals for one in single), Counter())
    assert report.totals["crossed", "door", "in", "person"] == 177 * (3 * DAYS - 3)
    by_name = {one.camera: one for one in single}
    assert {one.name for one in report.cameras} == {*ZONES}
    assert report.moves == {("till", "shelf"): 40 * (3 * DAYS - 3)}
    assert {one.camera for one in report.alerts} == {*ZONES}
    assert len(report.alerts) == sum(len(one.alerts) for one in single) == 2 * (3 * DAYS - 3)
    assert report.waits["till"].visits.sum() == sum(one.waits["till"].visits.sum() for one in single) > 0
    for camera in report.cameras:
        own = by_name[camera.name]
        assert (camera.totals, camera.gaps) == (own.totals, own.gaps)
        assert camera.watched == pytest.approx(own.watched)
    # Hours of shops that share a time zone are the same hours.
    both = [one for one in single if one.zone == "Europe/Berlin"]
    shops = summarize([path for path, one in zip(stores, single, strict=True) if one in both], *STRETCH)
    for part, *parts in zip(shops.parts, *(one.parts for one in both), strict=True):
        assert part.events == sum((one.events for one in parts), Counter())
        assert part.watched == pytest.approx(np.mean([one.watched for one in parts]))


def test_nine_in_the_morning_is_that_of_each_shop(tmp_path: Path) -> None:
    """Two shops with a visitor at nine of their own clocks: both are in one hour."""
    paths = []
    for name, zone in (("B", "Europe/Berlin"), ("C", "Europe/Berlin"), ("N", "America/New_York")):
        store = Store(tmp_path / f"{name}.db", name, at("2025-11-10", zone), zone)
        nine = at("2025-11-10T09:30", zone)
        store.add(at("2025-11-11T01:00", zone), [StoredEvent(nine, "crossed", "door", "in", "person", 1)])
        store.close()
        paths.append(store.path)
    report = summarize(paths, "2025-11-10", "2025-11-10")
    assert [part.count("door", "in") for part in report.parts] == [
        3 if hour == 9 else 0 for hour in range(24)
    ]
    assert (report.zone, report.watched) == ("each camera's own time", 1)


def test_a_day_is_written_once(tmp_path: Path) -> None:
    """The next night writes the next day, and nothing else; a day that is not over is not there."""
    store, folder = Store(tmp_path / "a.db", "007", at("2025-10-23"), "Europe/Berlin"), tmp_path / "tree"
    fill(store, "Europe/Berlin", 0, 3, 1, late=5)
    now = at("2025-10-26T01:00")
    assert export(store.path, folder, now=now - 7_200_000).written == 2
    assert export(store.path, folder, now=now).written == 1
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert {path.parent.name for path in before} == {f"date=2025-10-{day}" for day in (23, 24, 25)}
    assert {path.parent.parent.name for path in before} == {"camera=007"}
    assert export(store.path, folder, now=now).written == 0
    fill(store, "Europe/Berlin", 3, 1, 2, late=5)
    assert export(store.path, folder, now=at("2025-10-27T01:00")).written == 1
    store.close()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert compact(folder, tmp_path / "months") == ["2025-10"]
    assert compact(folder, tmp_path / "months") == []


def test_what_the_store_deletes_stays(tmp_path: Path) -> None:
    """Days go from the store one by one, and one of them half; the folder keeps all of them whole."""
    store, folder = Store(tmp_path / "a.db", "c", at("2025-10-23"), "Europe/Berlin"), tmp_path / "tree"
    fill(store, "Europe/Berlin", 0, 4, 1, late=5)
    now = at("2025-10-27T12:00")
    assert export(store.path, folder, now=now).written == 4
    store.close()
    flush(store.path, now, Retention(days=1))
    assert export(store.path, folder, now=now).written == 0
    assert summarize_tree(folder).totals["entered", "till", "", "person"] == 4 * 177


def test_a_day_that_was_cut_short_is_mended(tmp_path: Path) -> None:
    """Written while detection was off, with a gap to midnight; late events make the day anew."""
    path, folder = tmp_path / "a.db", tmp_path / "tree"
    store = Store(path, "c", at("2025-10-23T08:00"), "Europe/Berlin")
    store.add(
        at("2025-10-23T20:00"), [StoredEvent(at("2025-10-23T19:00"), "crossed", "d", "in", "person", 1)]
    )
    store.close()
    now = at("2025-10-25T09:00")
    assert export(path, folder, now=now).written == 2
    days = summarize_tree(folder, step="day").parts
    assert [part.count("d", "in") for part in days] == [1, None]
    assert [part.watched for part in days] == pytest.approx([0.5, 0])
    store = Store(path, "c", at("2025-10-24T12:00"), "Europe/Berlin")
    store.add(at("2025-10-25T08:00"))
    store.close()
    assert export(path, folder, now=now).written == 2
    days = summarize_tree(folder, step="day").parts
    assert [part.count("d", "in") for part in days] == [1, 0]
    assert [part.watched for part in days] == pytest.approx([0.5, 0.5])


def test_paths_are_written_where_asked_for(stores: list[Path], tmp_path: Path) -> None:
    """Also into days that are there without them."""
    now = at("2025-11-06T09:00")
    assert export(stores[0], tmp_path, now=now).written == DAYS
    assert not (tmp_path / "paths").exists()
    assert export(stores[0], tmp_path, paths=True, now=now).written == DAYS
    assert export(stores[0], tmp_path, now=now).written == 0
    pattern = f"{tmp_path}/paths/*/*/*.parquet"
    rows = duckdb.sql(f"SELECT len(x), len(seconds), began < ended FROM read_parquet('{pattern}')").fetchall()
    assert rows == [(5, 5, True)] * DAYS


def test_anybody_reads_it(tree: Path, months: Path) -> None:
    """The query of docs/fleet.md, without any of our code: UTC, and names as they were."""
    for folder in (tree, months):
        found = duckdb.sql(
            f"SELECT camera, date, count(*) FROM read_parquet('{folder}/events/**/*.parquet', "
            "hive_partitioning = true) WHERE kind = 'crossed' GROUP BY ALL"
        ).fetchall()
        assert {row[0] for row in found} == {*ZONES}
        assert len(found) == 3 * DAYS - 3
        assert {row[2] for row in found} == {200}


def test_a_full_disk_leaves_no_half_of_a_file(stores: list[Path], tmp_path: Path) -> None:
    """One line, and what is there can be read; the next try writes the rest."""
    now = at("2025-11-06T09:00")
    with closing(open_store(stores[0])) as base:
        base.execute("SELECT * FROM run")  # it is in use, as SQLite would need some room to open it
        with full_disk(4_000), pytest.raises(StoreError, match="DuckDB: "):
            export(stores[0], tmp_path, now=now)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".parquet"] == []
    assert export(stores[0], tmp_path, now=now).written == DAYS
    assert summarize_tree(tmp_path, *STRETCH).totals == summarize(stores[0], *STRETCH).totals


def test_texts_have_a_table_of_the_cameras(stores: list[Path], months: Path) -> None:
    """In the terminal, in the page and in the table for spreadsheets, where names are no formulas."""
    report = summarize_tree(months, *STRETCH, "day")
    text = as_text(report)
    assert text.startswith(
        "3 cameras: 2025-10-23 00:00 to 2025-11-06 00:00 (each camera's own time), watched "
    )
    (line,) = (line for line in text.splitlines() if line.split()[0] == "Times")
    assert line.split()[2:] == ["76.9%", "2200", "440", "2200"]
    assert "<td>a/b=ä%</td>" in as_html(report)
    rows = [line.split(",") for line in as_csv(report).splitlines()]
    assert rows[0][-1] == "camera"
    *own, alerts = [row for row in rows if row[-1] == "Times Square"]
    assert (alerts[3], alerts[11], alerts[12]) == ("till", "busy", "22")
    assert [(row[3], row[4], row[5], row[6]) for row in own] == [
        ("door", "in", "dog", "253"), ("door", "in", "person", "1947"),
        ("shelf", "", "dog", "55"), ("shelf", "", "person", "385"),
        ("till", "", "dog", "253"), ("till", "", "person", "1947"),
    ]  # fmt: skip
    assert sum(int(row[6]) for row in rows[1:] if not row[-1] and row[3] == "door") == 200 * (3 * DAYS - 3)


def test_a_simulated_fleet_is_summed_up_whole(tmp_path: Path) -> None:
    """That of the benchmark has all the tables that `store compact` writes: 247 visits a board and day."""
    load_script("bench_fleet").simulate(tmp_path, boards=3, days=2)
    summary = summarize_tree(tmp_path, step="day")
    assert summary.totals.total() == 3 * 2 * 247 * 4
    assert json.loads(as_json(summary))["waits"]["till"]["visits"] == 6 * 247


@pytest.mark.slow
def test_the_commands(stores: list[Path], tmp_path: Path) -> None:
    """Export, pack and report, as README's readers type it."""
    run, folder = CliRunner(), tmp_path / "stores"
    folder.mkdir()
    for store in stores:
        shutil.copy(store, folder)
    in_use = Store(folder / stores[0].name, next(iter(ZONES)), at("2025-11-06T00:00:01"), "Europe/Berlin")
    assert {path.suffix for path in folder.iterdir()} > {".db", ".db-wal"}
    done = run.invoke(cli, ["store", "export", f"{folder}/*.db", "--parquet", str(tmp_path / "days")])
    assert done.exit_code == 0, done.output
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [*ZONES]
    packed = ["store", "compact", str(tmp_path / "days"), "--into", str(tmp_path / "months")]
    assert "2025-10, 2025-11" in run.invoke(cli, packed).stdout
    assert run.invoke(cli, packed).stdout == "Written: nothing, all is up to date\n"
    shown = [
        run.invoke(cli, ["report", source, "--by", "day", "--from", STRETCH[0], "--to", STRETCH[1]]).stdout
        for source in (f"{folder}/*", str(tmp_path / "days"), str(tmp_path / "months"))
    ]
    assert shown[0].startswith("3 cameras")
    assert shown[0] == shown[1] == shown[2]
    in_use.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "{}/none*.db"], "none*.db: expected a pattern of stores, found none"),
        (["report", "{}"], "expected what `store export` or `store compact` wrote, found neither"),
        (["report", "{}/a.db", "{}"], "expected stores, or one folder of Parquet files, got 2 paths"),
        (["store", "export", "{}/a.db", "{}/b.db", "--parquet", "{}/t"], "2 stores are of a camera 'twin': "),
        (
            ["store", "export", "{}/a.db", "{}/b.db", "--parquet", "{}/t", "--name", "x"],
            "a single store with",
        ),
        (
            ["store", "export", "{}/a.db", "--parquet", "{}/t", "--name", "x" * 300],
            "expected a camera name of",
        ),
        (["store", "compact", "{}", "--into", "{}/t"], "expected what `store export` wrote"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    """Exit code 2, and no folder is made."""
    for name in ("a", "b"):
        Store(tmp_path / f"{name}.db", "twin", at("2025-10-23"), "Europe/Berlin").close()
    done = CliRunner().invoke(cli, [text.format(tmp_path) for text in arguments])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert not (tmp_path / "t").exists()


def test_half_an_hour_is_refused_for_parquet(months: Path) -> None:
    """Its sums are by the hour."""
    with pytest.raises(ConfigError, match="expected whole hours for Parquet files, got 09:30:00"):
        summarize_tree(months, "2025-10-23T09:30")


def test_without_duckdb_one_store_has_its_report(stores: list[Path], tmp_path: Path) -> None:
    """What needs it names the extra."""
    code = (
        "import sys; sys.modules['duckdb'] = None\n"
        "from edge_centernet.cli import main\nsys.argv[0] = 'edge-centernet'\nmain()"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)

    assert run("report", str(stores[0])).returncode == 0
    done = run("store", "export", str(stores[0]), "--parquet", str(tmp_path / "t"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert 'packages that are not installed (extra "fleet")' in done.stderr

"""A report adds up to the events, tells what nobody saw, and keeps to the camera's own days."""

from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from click.testing import CliRunner

from edge_centernet.cli import cli
from edge_centernet.errors import ConfigError
from edge_centernet.history.page import as_fragment, as_html
from edge_centernet.history.report import Report, as_csv, as_json, as_text, dwell_figures
from edge_centernet.history.store import Store, StoredEvent, StoredMinute, StoredPath, open_store
from edge_centernet.history.summary import find_zone, summarize

BERLIN = ZoneInfo("Europe/Berlin")
DAYS = 10  # from 20 October 2026 on; summer time ends on the 25th
HOUR_MS = 3_600_000


def at(text: str) -> int:
    """Milliseconds of a time in Berlin."""
    return round(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp() * 1000)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of a shop that opens from 9 to 18, with a day off, an hour without a picture, and walks."""
    path, random = tmp_path_factory.mktemp("store") / "shop.db", np.random.default_rng(1)
    store = Store(path, "shop <1>", at("2026-10-20"), "Europe/Berlin")
    track = 0
    for day in range(DAYS):
        midnight = datetime(2026, 10, 20, tzinfo=BERLIN).replace(tzinfo=None) + timedelta(days=day)
        if day == 3:  # switched off from midnight to midnight
            store.close()
            continue
        if day == 4:
            store = Store(path, "shop <1>", at(str(midnight)), "Europe/Berlin")
        events, paths, minutes = [], [], []
        for hour in range(9, 18):
            begin = at(str(midnight.replace(hour=hour)))
            if (day, hour) == (6, 12):
                store.add(begin, gaps=[(begin, begin + HOUR_MS, "camera")])
                continue
            for _ in range(5 + hour):
                track += 1
                came, stayed = begin + int(random.integers(HOUR_MS)), float(random.gamma(2, 60))
                name = "dog" if track % 10 == 0 else "person"
                left = came + round(stayed * 1000)
                events.append(StoredEvent(came, "crossed", "door", "in", name, track))
                events.append(StoredEvent(came, "entered", "=till", "", name, track))
                events.append(StoredEvent(left, "left", "=till", "", name, track, stayed))
                events.append(StoredEvent(left, "crossed", "door", "out", name, track))
                walk = np.column_stack(
                    [np.arange(20), np.linspace(0, 1, 20), np.full(20, 0.6), np.full(20, 0.1)]
                )
                paths.append(StoredPath(came, came + 19_000, name, track, walk.astype(np.float32)))
            minutes += [(begin + minute * 60_000, "=till", 1.5, 60.0, 4) for minute in range(60)]
        store.add(at(str(midnight + timedelta(days=1))), sorted(events), paths, occupancy=minutes)
    store.close()
    return path


@pytest.fixture(scope="module")
def whole(shop: Path) -> Report:
    """All of it by the hour."""
    return summarize(shop)


def total(report: Report, kind: str, place: str, direction: str) -> int:
    """Of all classes."""
    return sum(report.totals[kind, place, direction, name] for name in ("person", "dog"))


@pytest.mark.parametrize("step", ["hour", "day", "week"])
def test_sums_are_those_of_the_event_log(shop: Path, step: str) -> None:
    """Whatever the step, each event is in exactly one part."""
    report = summarize(shop, step=step)
    with closing(open_store(shop)) as base:
        log = base.execute("SELECT kind, place, direction, class, count(*) FROM event GROUP BY 1, 2, 3, 4")
        assert dict(report.totals) == {tuple(key): number for *key, number in log}
    assert sum(part.events.total() for part in report.parts) == report.totals.total() > 3000


def test_a_day_is_a_day_when_clocks_change(shop: Path) -> None:
    """The 25th of October has 25 hours; no other day has."""
    days = summarize(shop, step="day").parts
    hours = [(part.ended.timestamp() - part.began.timestamp()) / 3600 for part in days]
    assert hours == [24] * 5 + [25] + [24] * 4
    assert all((part.began.hour, part.began.minute) == (0, 0) for part in days)
    assert len(summarize(shop).parts) == sum(hours)


def test_weeks_begin_on_monday(shop: Path) -> None:
    """20 October is a Tuesday: a short first week, then the 26th."""
    assert [f"{part.began:%d %a}" for part in summarize(shop, step="week").parts] == ["20 Tue", "26 Mon"]


def test_what_nobody_saw_is_no_zero(shop: Path, whole: Report) -> None:
    """The day off and the hour without a picture have no count; an hour at night has the count 0."""
    day = summarize(shop, step="day").parts[3]
    assert (day.watched, day.count("door", "in")) == (0, None)
    by_hour = {part.began.isoformat()[:13]: part for part in whole.parts}
    assert by_hour["2026-10-26T12"].count("door", "in") is None
    assert by_hour["2026-10-26T13"].count("door", "in") == 18
    assert by_hour["2026-10-26T03"].count("door", "in") == 0
    assert [(gap[2], gap[1] - gap[0]) for gap in whole.gaps] == [
        ("off", timedelta(days=1)),
        ("camera", timedelta(hours=1)),
    ]
    assert whole.watched == pytest.approx(1 - 25 / 241)


def test_a_stretch_is_cut_where_it_is_asked_for(shop: Path) -> None:
    """A date as the end is the whole day; hours are cut at both ends."""
    day = summarize(shop, "2026-10-21", "2026-10-21")
    assert (len(day.parts), day.began.isoformat()) == (24, "2026-10-21T00:00:00+02:00")
    assert total(day, "crossed", "door", "in") == 162
    part = summarize(shop, "2026-10-21T09:30", "2026-10-21T11:15")
    assert [(f"{one.began:%H:%M}", f"{one.ended:%H:%M}") for one in part.parts] == [
        ("09:30", "10:00"), ("10:00", "11:00"), ("11:00", "11:15"),
    ]  # fmt: skip
    beyond = summarize(shop, "2026-10-19", "2026-11-02", step="day")
    assert [part.watched for part in beyond.parts][:2] == [0, 1]
    assert [part.watched for part in beyond.parts][-3:] == [0, 0, 0]


def test_times_that_are_none_are_refused(shop: Path) -> None:
    """One line says what was expected."""
    with pytest.raises(
        ConfigError, match=r"expected a date or time such as 2026-11-30 or .*, got 'yesterday'"
    ):
        summarize(shop, "yesterday")
    with pytest.raises(
        ConfigError, match="expected an end after the beginning, got 2026-10-22 00:00 to 2026-10-2"
    ):
        summarize(shop, "2026-10-22", "2026-10-21")


def test_occupancy_dwell_and_presence(whole: Report) -> None:
    """1.5 inside while open; visits as long as they were; walks along one row of the picture."""
    open_hours = [part for part in whole.parts if part.inside]
    assert len(open_hours) == 9 * 9 - 1
    assert {(part.inside["=till"], part.most["=till"]) for part in open_hours} == {(1.5, 4)}
    seconds = whole.dwell["=till"]
    assert seconds.visits.sum() == total(whole, "left", "=till", "")
    assert dwell_figures(seconds)["mean_s"] == pytest.approx(120, rel=0.1)
    seen = whole.presence.sum(0)
    assert np.flatnonzero(seen.sum(1)).tolist() == [21]  # 0.6 of 36 rows
    assert seen.sum() == pytest.approx(19 * seconds.visits.sum(), rel=1e-3)
    assert np.flatnonzero(whole.presence.sum((1, 2))).tolist() == list(range(9, 18))


def test_csv_opens_in_a_spreadsheet(whole: Report) -> None:
    """A row for each part, place, direction and class; no formula; no number where nobody looked."""
    table = list(csv.DictReader(io.StringIO(as_csv(whole))))
    assert {row["place"] for row in table} == {"door", "'=till"}
    counted = sum(int(row["count"] or 0) for row in table if row["direction"] == "in")
    assert counted == total(whole, "crossed", "door", "in")
    assert {row["count"] for row in table if row["began"].startswith("2026-10-23")} == {""}


def test_json_and_text_tell_the_same(whole: Report) -> None:
    """Totals, gaps, and null for hours that nobody saw."""
    record = json.loads(as_json(whole))
    inward = [one for one in record["totals"] if (one["event"], one["direction"]) == ("crossed", "in")]
    assert f"door, in: {sum(one['count'] for one in inward)}; busiest hour: 2026-10-20 17:00 (22)" in as_text(
        whole
    )
    assert "nothing is known of 2026-10-23 00:00 to 2026-10-24 00:00: not running" in as_text(whole)
    assert "nothing is known of 2026-10-26 12:00 to 2026-10-26 13:00: no picture" in as_text(whole)
    assert [part["counts"] for part in record["parts"] if part["watched"] == 0] == [None] * 25


@pytest.mark.parametrize(
    ("step", "said"), [("day", "; busiest day: 2026-10-"), ("week", "; busiest week: from 2026-10-20 (")]
)
def test_the_busiest_part_is_named_by_its_date(shop: Path, step: str, said: str) -> None:
    """A day has no hour, and a week begins on a day."""
    line = next(one for one in as_text(summarize(shop, step=step)).splitlines() if "door, in" in one)
    assert said in line
    assert ":00" not in line


@pytest.mark.parametrize(
    ("begin", "end", "held"),
    [
        ("2026-11-03", "2026-11-04", True),
        ("2026-10-01", "2026-10-02", True),
        ("2026-10-20", "2026-10-21", False),
        (None, None, False),
    ],
)
def test_a_report_over_another_time_tells_what_the_store_holds(
    shop: Path, whole: Report, begin: str | None, end: str | None, held: bool
) -> None:
    """In the text and on the page; not where some of it is shown."""
    said = f"the store holds {whole.began:%Y-%m-%d %H}:"
    report = summarize(shop, begin, end, "day")
    assert [said in text for text in (as_text(report), as_html(report))] == [held, held]
    several = as_text(summarize([shop], begin, end, "day"))
    assert ("the stores hold 2026-10-" in several) == held


def test_a_short_time_is_told_in_minutes(whole: Report) -> None:
    """Not as 0.0 hours."""
    presence = np.zeros_like(whole.presence)
    for seconds, said in ((7.0, "7 seconds"), (240.0, "4 minutes"), (5400.0, "1.5 hours")):
        presence[9, 3, 4] = seconds
        assert f"picture, {said} in all" in as_html(replace(whole, presence=presence))


def test_the_page_needs_nothing_else(whole: Report) -> None:
    """No address, no script; what others chose is escaped; hatched where nobody looked."""
    page = as_html(whole)

    class Reader(HTMLParser):
        tags: list[str] = []  # noqa: RUF012
        links: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.links += [str(value) for name, value in attributes if name in ("href", "src")]

    reader = Reader()
    reader.feed(page)
    assert reader.links == []
    assert not {"script", "link", "img", "iframe"} & {*reader.tags}
    assert "http" not in page
    assert "shop &lt;1&gt;" in page
    assert "shop <1>" not in page
    assert page.count('class="gap"') == 3 * 25
    assert f"<b>{total(whole, 'crossed', 'door', 'in')}</b><span>door: in</span>" in page
    assert len(page) < 1_500_000


def test_the_live_page_s_charts_tell_until_when_they_count(tmp_path: Path) -> None:
    """Until the store's last sign of life: what happened since is left out, and said to be."""
    store = Store(tmp_path / "a.db", "a", at("2026-10-20T09:00:00"), "Europe/Berlin")
    events = [
        StoredEvent(at(f"2026-10-20T09:00:{s}"), "crossed", "door", "in", "person", 1) for s in (10, 31)
    ]
    store.add(at("2026-10-20T09:00:30"), events)
    charts = as_fragment(summarize(tmp_path / "a.db"))
    store.close()
    assert "counted up to 2026-10-20 09:00:30" in charts
    assert "<b>1</b><span>door: in</span>" in charts


def test_the_command_writes_what_it_is_asked_for(shop: Path, tmp_path: Path) -> None:
    """Totals on the terminal, and three files of one report."""
    files = {name: tmp_path / f"report.{name}" for name in ("csv", "json", "html")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    done = CliRunner().invoke(cli, ["report", str(shop), "--by", "day", *options])
    assert done.exit_code == 0, done.output
    report = summarize(shop, step="day")
    assert done.stdout == as_text(report)
    written = [path.read_text(encoding="utf-8") for path in files.values()]
    assert written == [as_csv(report).replace("\r\n", "\n"), as_json(report), as_html(report)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.db"], "none.db: expected a store that `detect --store` wrote, found no such file"),
        (
            ["SHOP", "--from", "soon"],
            "expected a date or time such as 2026-11-30 or 2026-11-30T18:00, got 'soon'",
        ),
    ],
)
def test_the_command_refuses_in_one_line(shop: Path, arguments: list[str], says: str) -> None:
    """Exit code 2 and nothing else."""
    done = CliRunner().invoke(cli, ["report", *(str(shop) if a == "SHOP" else a for a in arguments)])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr


def test_an_empty_store_has_a_report(tmp_path: Path) -> None:
    """Nobody came yet."""
    store = Store(tmp_path / "a.db", "c", at("2026-10-20T10:00"), "Europe/Berlin")
    store.add(at("2026-10-20T10:05"))
    store.close()
    report = summarize(store.path)
    assert (len(report.parts), report.watched, report.places) == (1, 1, ())
    assert "Nothing was counted" in as_html(report)
    assert as_text(report).startswith(
        "c: 2026-10-20 10:00 to 2026-10-20 10:05 (Europe/Berlin), watched 100.0%"
    )


def test_a_zone_is_a_name_or_an_offset() -> None:
    """A machine without a table of zones still gives a report, in UTC."""
    moment = datetime(2026, 7, 1)
    for name, hours in (("Europe/Berlin", 2), ("+05:30", 5.5), ("-03:00", -3), ("Mars/Olympus", 0), ("", 0)):
        assert find_zone(name).utcoffset(moment) == timedelta(hours=hours)


def test_moves_are_from_each_track_s_zone_to_its_next(tmp_path: Path) -> None:
    """Three zones; back again is another move, twice the same is none, nor what another run's track did."""
    path = tmp_path / "zones.db"
    came = at("2026-10-20T10:00")
    for run, walks in enumerate((("till", "shelf", "till"), ("shelf", "shelf", "<door>"))):
        store = Store(path, "shop", came + run * HOUR_MS, "Europe/Berlin")
        events = [
            StoredEvent(came + run * HOUR_MS + i * 1000, "entered", zone, "", "person", 1)
            for i, zone in enumerate(walks)
        ]
        events.append(StoredEvent(came + run * HOUR_MS + 500, "entered", "till", "", "person", 2))
        store.add(came + (run + 1) * HOUR_MS, sorted(events))
        store.close()
    report = summarize(path)
    assert report.moves == {("shelf", "<door>"): 1, ("shelf", "till"): 1, ("till", "shelf"): 1}
    assert "from till to shelf: 1\n" in as_text(report)
    assert {"from": "shelf", "to": "till", "count": 1} in json.loads(as_json(report))["moves"]
    assert "<td>from shelf</td><td>1</td><td>–</td><td>1</td>" in as_html(report)


def test_classes_are_told_apart(whole: Report) -> None:
    """On the terminal and as a table; both add up to the total."""
    classes = whole.by_class("door", "in")
    assert sum(classes.values()) == whole.total("door", "in")
    assert list(classes) == ["person", "dog"]
    assert f"; person {classes['person']}, dog {classes['dog']}\n" in as_text(whole)
    row = f"<tr><td>door: in</td><td>{classes['dog']}</td><td>{classes['person']}</td></tr>"
    assert f"<tr><th></th><th>dog</th><th>person</th></tr>{row}" in as_html(whole)


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """An hour at a queue of three on average; ten waited; two alerts, and a third when it was killed."""
    began = at("2026-10-20T09:30")
    store = Store(tmp_path_factory.mktemp("store") / "till.db", "till", began, "Europe/Berlin")
    waits = [
        StoredEvent(began + n, "left", "till", "", "person", n, 60.0 * n, "", 60.0 * n) for n in range(1, 11)
    ]
    passes = StoredEvent(began + 11, "left", "till", "", "person", 11, 1.0)
    turns = (5, "began", 6), (9, "ended", 8), (40, "began", 6), (44, "ended", 7), (58, "began", 9)
    alerts = [
        StoredEvent(began + minute * 60_000, "alert", "till", state, "", 0, None, "=busy", value)
        for minute, state, value in turns
    ]
    minutes = [
        StoredMinute(began + minute * 60_000, "till", 4.0, 60.0, 9, 3.0, 5 + (minute == 7))
        for minute in range(60)
    ]
    reset = StoredEvent(began + 12, "reset", "shop", "", "", 0, None, "", 0)
    store.add(began + 3_600_000, [*waits, passes, *alerts, reset], occupancy=minutes)
    store.close()
    return summarize(store.path)


def test_a_queue_has_waits_and_a_length(till: Report) -> None:
    """Those who passed through did not wait."""
    assert (till.dwell["till"].visits.sum(), till.waits["till"].visits.sum()) == (11, 10)
    assert [(part.queue["till"], part.queue_most["till"]) for part in till.parts] == [(3, 6), (3, 5)]
    assert "till, queue: 10 waited, mean 330 s, nine of ten up to 546 s; at most 6 at once" in as_text(till)
    record = json.loads(as_json(till))
    assert record["waits"]["till"]["p90_s"] == 546
    assert record["parts"][0]["queue"] == {"till": {"mean": 3.0, "most": 6}}
    page = as_html(till)
    assert "till: persons in the queue, on average" in page
    assert "10 waits; half of them last 330 s or more" in page


def test_the_minute_in_which_a_store_begins_counts(tmp_path: Path) -> None:
    """It began before the store did, by its name."""
    store = Store(tmp_path / "a.db", "c", at("2026-10-20T09:30:20"), "Europe/Berlin")
    began = at("2026-10-20T09:30")
    store.add(began + 50_000, occupancy=[StoredMinute(began, "till", 2.0, 30.0, 3)])
    store.close()
    (part,) = summarize(store.path).parts
    assert (part.inside, part.most) == ({"till": 2.0}, {"till": 3})


def test_alerts_are_listed(till: Report) -> None:
    """With beginning, end and the most; the last one has no end. A reset is no count."""
    assert [(f"{a.began:%H:%M}", a.ended and f"{a.ended:%H:%M}", a.value) for a in till.alerts] == [
        ("09:35", "09:39", 8),
        ("10:10", "10:14", 7),
        ("10:28", None, 9),
    ]
    assert (
        "alert =busy at till: 3; the last from 2026-10-20 10:28:00, its end is not known, at most 9"
        in as_text(till)
    )
    record = json.loads(as_json(till))
    assert record["alerts"][0] == {
        "rule": "=busy", "where": "till", "began": "2026-10-20T09:35:00+02:00",
        "ended": "2026-10-20T09:39:00+02:00", "value": 8,
    }  # fmt: skip
    table = [row for row in csv.DictReader(io.StringIO(as_csv(till))) if row["rule"]]
    assert [(row["place"], row["rule"], row["alerts"]) for row in table] == [
        ("till", "'=busy", "1"),
        ("till", "'=busy", "2"),
    ]
    assert as_html(till).count("<td>=busy</td><td>till</td>") == 3
    assert till.places == ()

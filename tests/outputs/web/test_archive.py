"""What the page tells of the past: charts, reports, tables, events and their pictures."""

from __future__ import annotations

import csv
import http.client
import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
import shop

from edge_centernet.history.report import as_csv
from edge_centernet.history.store import Store, StoredEvent, open_store
from edge_centernet.history.summary import summarize
from edge_centernet.outputs.web.archive import find_picture
from edge_centernet.outputs.web.server import WebServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    """A shop that has been open for eight days."""
    shop.fill(tmp_path / "shop.db", time.time(), days=8)
    with shop.open_shop(store=tmp_path / "shop.db", pictures=tmp_path / "events") as opened:
        yield opened


def get(server: WebServer, path: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def test_charts_and_report_are_those_of_the_report(server: WebServer, tmp_path: Path) -> None:
    """Gaps are hatched; the fragment brings no style; the report allows no script at all."""
    status, _, text = get(server, "/history?of=today")
    assert status == 200
    assert text.count('class="chart"') >= 3
    assert 'class="gap"' in text
    assert "style=" not in text
    assert "<script" not in text
    status, headers, page = get(server, "/report?by=day")
    assert (status, page.startswith("<!doctype html>")) == (200, True)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'; ")
    status, headers, table = get(server, "/report.csv?by=week")
    assert headers["Content-Disposition"].startswith('attachment; filename="counts-')
    rows = list(csv.DictReader(io.StringIO(table)))
    mine = csv.DictReader(io.StringIO(as_csv(summarize(tmp_path / "shop.db", step="week"))))
    assert [(row["place"], row["direction"], row["count"]) for row in rows] == [
        (row["place"], row["direction"], row["count"]) for row in mine
    ]
    for query, said in (
        ("from=yesterday", "expected a date"),
        ("from=2030-01-02&to=2030-01-01", "after the"),
    ):
        status, _, text = get(server, f"/report?{query}")
        assert (status, said in text) == (422, True)


def test_events_come_newest_first_and_older_ones_on_request(server: WebServer, tmp_path: Path) -> None:
    """Fifty at a time, none twice and none left out but those of one and the same millisecond."""
    first = json.loads(get(server, "/events.json")[2])["events"]
    times = [event["time"] for event in first]
    assert (len(first), times) == (50, sorted(times, reverse=True))
    older = json.loads(get(server, f"/events.json?before={times[-1]}")[2])["events"]
    assert max(event["time"] for event in older) < times[-1]
    assert {event["event"] for event in first} <= {"crossed", "entered", "left"}
    assert get(server, "/events.json?before=1%20OR%201")[0] == 422


def test_an_event_has_its_picture_and_no_other_file(server: WebServer, tmp_path: Path) -> None:
    """By time, kind and track; no path leads out of the folder."""
    with closing(open_store(tmp_path / "shop.db")) as base:
        time_ms, kind, track = base.execute(
            "SELECT time, kind, track FROM event ORDER BY time DESC, id DESC LIMIT 1"
        ).fetchone()
    day = datetime.fromtimestamp(time_ms / 1000, timezone.utc)
    picture = tmp_path / "events" / f"{day:%Y-%m-%d}" / f"{time_ms}-{kind}-{track}.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\xff\xd8 a picture")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    event = json.loads(get(server, "/events.json")[2])["events"]
    (link,) = {one["picture"] for one in event if one["picture"]}
    status, headers, text = get(server, f"/{link}")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert text.endswith(" a picture")
    name = f"{time_ms}-{kind}-{track}.jpg"
    for path in (
        "/event/2026-01-01/..%2f..%2fsecret.jpg",
        "/event/../secret.jpg",
        f"/event/{day:%Y-%m-%d}/{time_ms}-..-{track}.jpg",
        f"/event/{day:%Y-%m-%d}/{int(time_ms) + 1}-{kind}-{track}.jpg",
        f"/event/{name}",
    ):
        assert get(server, path)[0] == 404, path
    assert find_picture(tmp_path / "events", time_ms, "../../secret", 1) is None
    assert find_picture(None, time_ms, kind, track) is None


def test_a_name_is_text_in_the_charts(tmp_path: Path) -> None:
    """Whoever names a line may write anything."""
    now = round(time.time() * 1000)
    store = Store(tmp_path / "a.db", "<b>cam", now - 1000)
    store.add(now, [StoredEvent(now - 500, "crossed", "<script>x</script>", "in", "person", 1)])
    store.close()
    with shop.open_shop(store=tmp_path / "a.db") as server:
        text = get(server, "/history")[2]
    assert "<script>" not in text
    assert "&lt;script&gt;" in text

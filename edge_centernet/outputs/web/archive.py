"""What the live page tells of the past, from the store of `--store`.

GET /history        charts of today or of this week, to be put into the page
GET /report         the whole report as a page of its own; ?from=&to=&by= as in `edge-centernet report`
GET /report.csv     the same for a spreadsheet
GET /events.json    the newest events, or those before a time; ?before= in milliseconds since 1970
GET /event/...      the picture of an event, where one was kept
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from tornado.web import HTTPError

from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.history.page import as_fragment, as_html
from edge_centernet.history.report import STEPS, Report, as_csv
from edge_centernet.history.store import open_store
from edge_centernet.history.summary import summarize
from edge_centernet.outputs.web.server import Guarded

_T = TypeVar("_T")

_EVENTS = 50  # in one answer
# A report brings its own style, and no script at all.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _Past(Guarded):
    """Base of what reads the store, on another thread."""

    def initialize(self, store: Path, pictures: Path | None) -> None:
        """store: what is read. pictures: folder of the pictures of events; None if there are none."""
        self.store, self.pictures = store, pictures

    async def elsewhere(self, work: Callable[[], _T]) -> _T | None:
        """What `work` returns, or None after an answer of 422 with what is wrong."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except EdgeCenterNetError as error:
            self.set_status(422)
            self.finish(f"{error}\n")
            return None

    async def report(self) -> Report | None:
        """The report that the query asks for."""
        begin, end = (self.get_query_argument(name, None) or None for name in ("from", "to"))
        step = self.get_query_argument("by", "hour")
        if step not in STEPS:
            raise HTTPError(422)
        return await self.elsewhere(functools.partial(summarize, self.store, begin, end, step))


class _History(_Past):
    async def get(self) -> None:
        # The store's times are those of this machine.
        today = datetime.now().date()
        week = self.get_query_argument("of", "today") == "week"
        begin = today - timedelta(days=today.weekday()) if week else today

        def charts() -> str:
            try:
                return as_fragment(summarize(self.store, begin.isoformat()))
            except ConfigError:  # its end would be before its beginning
                return "<p>Nothing was counted yet: what crosses a line or enters a zone is counted.</p>"

        if (made := await self.elsewhere(charts)) is not None:
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(made)


class _Report(_Past):
    async def get(self) -> None:
        if (report := await self.report()) is not None:
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.set_header("Content-Security-Policy", _REPORT_POLICY)
            self.finish(as_html(report))


class _Csv(_Past):
    async def get(self) -> None:
        if (report := await self.report()) is not None:
            self.set_header("Content-Type", "text/csv; charset=utf-8")
            day = f"{report.began:%Y-%m-%d}"
            self.set_header("Content-Disposition", f'attachment; filename="counts-{day}.csv"')
            self.finish(as_csv(report))


class _Events(_Past):
    async def get(self) -> None:
        before = self.get_query_argument("before", "")
        if before and not (before.isascii() and before.isdecimal() and len(before) < 16):
            raise HTTPError(422)

        def newest() -> list[dict[str, Any]]:
            with closing(open_store(self.store)) as base:
                rows = base.execute(
                    "SELECT time, kind, place, direction, class, track, dwell, rule, value FROM event "
                    "WHERE time < ? ORDER BY time DESC, id DESC LIMIT ?",
                    (int(before or 1 << 53), _EVENTS),
                ).fetchall()
            names = ("time", "event", "where", "direction", "class", "id", "dwell_s", "rule", "value")
            events = [dict(zip(names, row, strict=True)) for row in rows]
            for event in events:
                picture = find_picture(self.pictures, event["time"], event["event"], event["id"])
                event["picture"] = None if picture is None else f"event/{picture.parent.name}/{picture.name}"
            return events

        if (events := await self.elsewhere(newest)) is not None:
            self.set_header("Content-Type", "application/json")
            self.finish({"events": events})


class _EventPicture(_Past):
    async def get(self, time: str, kind: str, track: str) -> None:
        picture = find_picture(self.pictures, int(time), kind, int(track))
        if picture is None:
            self.refuse(404)
            return
        if (data := await self.elsewhere(picture.read_bytes)) is not None:
            self.set_header("Content-Type", "image/jpeg")
            self.finish(data)


def find_picture(folder: Path | None, time: int, kind: str, track: int) -> Path | None:
    """The picture of an event, FOLDER/YYYY-MM-DD/TIME-KIND-TRACK.jpg; None if there is none.

    Its name is made from numbers and a word, whatever was asked for, so it leads nowhere else.
    time: milliseconds since 1970; the day is that of UTC.
    """
    if folder is None or not re.fullmatch(r"[\w-]{1,32}", kind):
        return None
    day = datetime.fromtimestamp(time / 1000, timezone.utc)
    path = folder / f"{day:%Y-%m-%d}" / f"{time}-{kind}-{track}.jpg"
    return path if path.is_file() else None


def handlers(store: Path, pictures: Path | None) -> list[tuple[Any, ...]]:
    """For `View.handlers`. pictures: see `find_picture`."""
    given = {"store": store, "pictures": pictures}
    return [
        ("history", _History, given),
        ("report", _Report, given),
        (r"report\.csv", _Csv, given),
        (r"events\.json", _Events, given),
        (r"event/\d{4}-\d\d-\d\d/(\d{1,15})-([\w-]{1,32})-(\d{1,15})\.jpg", _EventPicture, given),
    ]

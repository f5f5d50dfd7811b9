"""What a store says of a stretch of time: counts by hour, day or week, occupancy, dwell, what is missing.

An hour in which the camera was away is not an hour without visitors. Each part of a report says for how much
of it somebody was looking (`watched`); where nobody was, its counts are None.
"""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError
from edge_centernet.files import csv_text
from edge_centernet.history.audit import Audit, kept
from edge_centernet.history.store import MINUTE_MS, open_store, unpack_points

STEPS = ("hour", "day", "week")
REASONS = {"off": "not running", "camera": "no picture", "clock": "clock set"}  # of gaps, for people
CELLS = (36, 64)  # rows and columns of the presence map
_LONGEST_STEP_S = 1.0  # between two points of a path


@dataclass(frozen=True)
class Part:
    """One hour, day or week.

    began, ended: in the store's time zone. watched: share of it, 0..1, in which somebody was looking.
    events: number by (kind, place, direction, class).
    inside, most: persons in each zone, on average over the time watched, and at most.
    """

    began: datetime
    ended: datetime
    watched: float
    events: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    inside: dict[str, float] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)

    def count(self, place: str, direction: str) -> int | None:
        """Crossings of a line in a direction, or entries into a zone (""); None if nobody looked."""
        if self.watched <= 0:
            return None
        kind = "crossed" if direction else "entered"
        return sum(n for (k, p, d, _), n in self.events.items() if (k, p, d) == (kind, place, direction))


@dataclass(frozen=True)
class Report:
    """What `summarize` found.

    zone: the store's time zone. gaps: began, ended and reason of the times in which nobody looked.
    places: (place, direction), lines before zones; direction is "" for a zone.
    totals: as Part.events. dwell: (N,) seconds of all visits that ended, by zone.
    presence: (36, 64) seconds that foot points spent in each cell of the image, by hour of the day where
        paths were kept: (24, 36, 64).
    audits: of the store, whatever the time, the oldest first; those of which something was watched.
    """

    camera: str
    zone: str
    step: str
    began: datetime
    ended: datetime
    parts: tuple[Part, ...]
    gaps: tuple[tuple[datetime, datetime, str], ...]
    places: tuple[tuple[str, str], ...]
    totals: Counter[tuple[str, str, str, str]]
    dwell: dict[str, NDArray[np.float64]]
    presence: NDArray[np.float64]
    audits: tuple[Audit, ...] = ()

    def total(self, place: str, direction: str) -> int:
        """Crossings of a line in a direction, or entries into a zone (""), over the whole time."""
        kind = "crossed" if direction else "entered"
        return sum(n for (k, p, d, _), n in self.totals.items() if (k, p, d) == (kind, place, direction))

    @property
    def watched(self) -> float:
        """Share of the whole time, 0..1, in which somebody was looking."""
        # By timestamps: the difference of two local times does not know of clocks that changed between them.
        spans = [part.ended.timestamp() - part.began.timestamp() for part in self.parts]
        looked = sum(part.watched * span for part, span in zip(self.parts, spans, strict=True))
        return looked / sum(spans) if spans else 0.0

    def peak(self, place: str, direction: str) -> Part | None:
        """The part with the highest count; None where nothing was counted."""
        counted = [part for part in self.parts if part.count(place, direction)]
        return max(counted, key=lambda part: part.count(place, direction) or 0, default=None)


def summarize(path: Path, begin: str | None = None, end: str | None = None, step: str = "hour") -> Report:
    """Read a store.

    begin, end: dates or times in the store's time zone, such as 2026-11-30 or 2026-11-30T18:00; from the
        first run to the last sign of life if not given. A date as the end is that whole day.
    step: "hour", "day" or "week"; weeks begin on Monday.
    Raises ConfigError for a time that is none or an end before the beginning, StoreError for the file.
    """
    with closing(open_store(path)) as base:
        first, last, zone, camera = base.execute(
            "SELECT min(began), max(alive), (SELECT zone FROM run ORDER BY id DESC LIMIT 1), "
            "(SELECT camera FROM run ORDER BY id DESC LIMIT 1) FROM run"
        ).fetchone()
        local = find_zone(zone)
        began = first if begin is None else moment(begin, local, whole_day=False)
        ended = last if end is None else moment(end, local, whole_day=True)
        if ended <= began:
            raise ConfigError(
                f"report: expected an end after the beginning, got {_local(began, local):%Y-%m-%d %H:%M} to "
                f"{_local(ended, local):%Y-%m-%d %H:%M}"
            )
        known = base.execute("SELECT began, ended, reason FROM gap")
        gaps = clip([(0, first, "off"), *known, (last, ended, "off")], began, ended)
        edges = list(_edges(began, ended, local, step))
        parts = []
        for a, b in itertools.pairwise(edges):
            missing = sum(until - since for since, until, _ in clip(gaps, a, b))
            parts.append(Part(_local(a, local), _local(b, local), 1 - missing / (b - a)))
        _count(base, parts, edges)
        dwell = _dwell(base, began, ended)
        presence = _presence(base, began, ended, local)
    totals: Counter[tuple[str, str, str, str]] = sum((part.events for part in parts), Counter())
    # Lines first: they are what most people ask for.
    pairs = {(place, direction) for kind, place, direction, _ in totals if kind != "left"}
    places = sorted(pairs, key=lambda pair: (not pair[1], pair))
    shown = tuple((_local(a, local), _local(b, local), reason) for a, b, reason in gaps)
    return Report(
        camera, zone, step, _local(began, local), _local(ended, local), tuple(parts), shown, tuple(places),
        totals, dwell, presence, tuple(audit for audit in kept(path) if audit.watched_s),
    )  # fmt: skip


def find_zone(name: str) -> tzinfo:
    """A time zone by its IANA name or an offset such as +01:00; UTC where this machine does not know it."""
    if match := re.fullmatch(r"([+-])(\d\d):(\d\d)", name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return timezone.utc


def _local(ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(ms / 1000, zone)


def moment(text: str, zone: tzinfo, whole_day: bool) -> int:
    """Milliseconds since 1970 of a date or time; with `whole_day` a date is its end. Raises ConfigError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"report: expected a date or time such as 2026-11-30 or 2026-11-30T18:00, got {text!r}"
        ) from None
    if whole_day and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        moment += timedelta(days=1)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return round(moment.timestamp() * 1000)


def clip(gaps: Sequence[tuple[int, int, str]], began: int, ended: int) -> list[tuple[int, int, str]]:
    """The gaps within two times, in order, without overlaps: the first to begin keeps what it covers."""
    found: list[tuple[int, int, str]] = []
    reached = began
    for a, b, reason in sorted(gaps):
        a, b = max(a, reached), min(b, ended)
        if a < b:
            found.append((a, b, reason))
            reached = b
    return found


def _edges(began: int, ended: int, zone: tzinfo, step: str) -> Iterator[int]:
    """Where parts begin and end, in milliseconds: both ends, and each hour, midnight or Monday between."""
    yield began
    at = _local(began, zone).replace(minute=0, second=0, microsecond=0)
    if step != "hour":
        at = at.replace(hour=0)
    if step == "week":
        at -= timedelta(days=at.weekday())
    while (now := round(at.timestamp() * 1000)) < ended:
        if now > began:
            yield now
        if step == "hour":  # in UTC: the day on which clocks change has 23 or 25 of them
            at = _local(now + 3_600_000, zone)
        else:  # in local time: such a day is a day all the same
            at = (at.replace(tzinfo=None) + timedelta(days=1 if step == "day" else 7)).replace(tzinfo=zone)
    yield ended


def _count(base: sqlite3.Connection, parts: Sequence[Part], edges: Sequence[int]) -> None:
    """Fill in what happened, part by part."""
    # One pass in the order of time, grouped by minute: a year of a busy entrance has half a million of them.
    rows = base.execute(
        "SELECT time - time % ? AS minute, kind, place, direction, class, count(*) FROM event "
        "WHERE time >= ? AND time < ? GROUP BY minute, kind, place, direction, class",
        (MINUTE_MS, edges[0], edges[-1]),
    )
    for minute, kind, place, direction, name, number in rows:
        parts[_which(edges, minute)].events[kind, place, direction, name] += number
    sums: dict[tuple[int, str], list[float]] = {}
    rows = base.execute(
        "SELECT minute, place, sum(inside * watched), sum(watched), max(most) FROM occupancy "
        "WHERE minute >= ? AND minute < ? GROUP BY minute, place",
        (edges[0], edges[-1]),
    )
    for minute, place, inside, watched, most in rows:
        index = _which(edges, minute)
        total = sums.setdefault((index, place), [0.0, 0.0])
        total[0] += inside
        total[1] += watched
        part = parts[index]
        part.inside[place] = total[0] / total[1]
        part.most[place] = max(part.most.get(place, 0), most)


def _which(edges: Sequence[int], minute: int) -> int:
    """The part that a minute begins in; the first one for a minute that begins before it."""
    return max(0, bisect.bisect_right(edges, minute) - 1)


def _dwell(base: sqlite3.Connection, began: int, ended: int) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[float]] = {}
    rows = base.execute(
        "SELECT place, dwell FROM event WHERE kind = 'left' AND time >= ? AND time < ?", (began, ended)
    )
    for place, seconds in rows:
        found.setdefault(place, []).append(seconds)
    return {place: np.sort(np.array(found[place])) for place in sorted(found)}


def _presence(base: sqlite3.Connection, began: int, ended: int, zone: tzinfo) -> NDArray[np.float64]:
    rows, columns = CELLS
    seconds = np.zeros((24, rows, columns))
    paths = base.execute("SELECT began, points FROM path WHERE ended >= ? AND began < ?", (began, ended))
    for start, packed in paths:
        points = unpack_points(packed)
        # In steps of a tenth of a second on the straight way between two points: without them a walk would be
        # a row of dots. Nobody knows where a track was that was hidden for longer, so that time is not shown.
        moments = np.arange(0, points[-1, 0], 0.1, dtype=np.float32)
        after = np.searchsorted(points[:, 0], moments, side="right")
        known = points[np.minimum(after, len(points) - 1), 0] - points[after - 1, 0] <= _LONGEST_STEP_S
        moments = moments[known]
        x = np.interp(moments, points[:, 0], points[:, 1] * columns).astype(np.intp)
        y = np.interp(moments, points[:, 0], points[:, 2] * rows).astype(np.intp)
        cells = np.minimum(y, rows - 1), np.minimum(x, columns - 1)
        np.add.at(seconds[_local(start, zone).hour], cells, 0.1)
    return seconds


# ---- as text


def as_csv(report: Report) -> str:
    """A row for each part, place, direction and class; `count` is empty where nobody looked."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ("began", "ended", "watched", "place", "direction", "class", "count", "inside_mean", "inside_most")
    )
    for part in report.parts:
        watched = f"{part.watched:.4f}"
        for place, direction in report.places:
            kind = "crossed" if direction else "entered"
            names = sorted({c for k, p, d, c in report.totals if (k, p, d) == (kind, place, direction)})
            for name in names:
                number = part.events[kind, place, direction, name] if part.watched > 0 else ""
                inside = f"{part.inside[place]:.3f}" if place in part.inside else ""
                most = part.most.get(place, "")
                writer.writerow(
                    (
                        part.began.isoformat(), part.ended.isoformat(), watched, csv_text(place), direction,
                        csv_text(name), number, inside, most,
                    )
                )  # fmt: skip
    return out.getvalue()


def as_json(report: Report) -> str:
    """All of the report but the presence map."""
    record: dict[str, Any] = {
        "camera": report.camera,
        "zone": report.zone,
        "by": report.step,
        "began": report.began.isoformat(),
        "ended": report.ended.isoformat(),
        "watched": round(report.watched, 4),
        "gaps": [
            {"began": a.isoformat(), "ended": b.isoformat(), "reason": reason} for a, b, reason in report.gaps
        ],
        "totals": _events(report.totals),
        "dwell": {place: dwell_figures(values) for place, values in report.dwell.items()},
        "parts": [
            {
                "began": part.began.isoformat(),
                "ended": part.ended.isoformat(),
                "watched": round(part.watched, 4),
                "counts": _events(part.events) if part.watched > 0 else None,
                "inside": {
                    place: {"mean": round(mean, 3), "most": part.most[place]}
                    for place, mean in part.inside.items()
                },
            }
            for part in report.parts
        ],
    }
    if report.audits:
        record["audits"] = [audit.figures(find_zone(report.zone)) for audit in report.audits]
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def _events(counted: Counter[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "event": kind,
            "where": place,
            "direction": direction,
            "class": name,
            "count": number,
        }
        for (kind, place, direction, name), number in sorted(counted.items())
    ]


def dwell_figures(seconds: NDArray[np.float64]) -> dict[str, float]:
    """Number of visits, and quartiles and mean of how long they lasted, in seconds. seconds: (N,), sorted."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return {
        "visits": len(seconds),
        "mean_s": round(float(seconds.mean()), 1),
        "quarter_s": round(float(low), 1),
        "median_s": round(float(middle), 1),
        "three_quarters_s": round(float(high), 1),
    }


def as_text(report: Report) -> str:
    """What a terminal shows: totals, peaks, dwell, and what is missing."""
    lines = [
        f"{report.camera}: {report.began:%Y-%m-%d %H:%M} to {report.ended:%Y-%m-%d %H:%M} ({report.zone}), "
        f"watched {report.watched:.1%}"
    ]
    for place, direction in report.places:
        total = report.total(place, direction)
        what = f"{place}, {direction}" if direction else f"{place}, entered"
        peak = report.peak(place, direction)
        most = ""
        if peak is not None:
            begin = f"{peak.began:%Y-%m-%d %H:%M}"
            most = f"; most in the {report.step} from {begin}: {peak.count(place, direction)}"
        lines.append(f"  {what}: {total}{most}")
    for place, seconds in report.dwell.items():
        figures = dwell_figures(seconds)
        lines.append(f"  {place}, dwell: median {figures['median_s']:g} s, mean {figures['mean_s']:g} s")
    for began, ended, reason in report.gaps:
        if ended - began >= timedelta(minutes=1):
            span = f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M}"
            lines.append(f"  nothing is known of {span}: {REASONS[reason]}")
    if report.audits:  # the newest: who moved a line or took another model audits again
        audit = report.audits[-1]
        lines += [f"  {audit.heading(find_zone(report.zone))}", *(f"    {one}" for one in audit.sentences())]
    return "\n".join(lines) + "\n"

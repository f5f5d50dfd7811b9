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
COUNTED = ("crossed", "entered")  # events of which a report gives the number
REASONS = {"off": "not running", "camera": "no picture", "clock": "clock set"}  # of gaps, for people
CELLS = (36, 64)  # rows and columns of the presence map
_LONGEST_STEP_S = 1.0  # between two points of a path


@dataclass(frozen=True)
class Part:
    """One hour, day or week.

    began, ended: in the store's time zone. watched: share of it, 0..1, in which somebody was looking.
    events: number by (kind, place, direction, class).
    inside, most: persons in each zone, on average over the time watched, and at most.
    queue, queue_most: those of them who waited, in each zone that is a queue.
    """

    began: datetime
    ended: datetime
    watched: float
    events: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    inside: dict[str, float] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    queue: dict[str, float] = field(default_factory=dict)
    queue_most: dict[str, int] = field(default_factory=dict)

    def count(self, place: str, direction: str) -> int | None:
        """Crossings of a line in a direction, or entries into a zone (""); None if nobody looked."""
        if self.watched <= 0:
            return None
        kind = "crossed" if direction else "entered"
        return sum(n for (k, p, d, _), n in self.events.items() if (k, p, d) == (kind, place, direction))


@dataclass(frozen=True)
class Alert:
    """One alert of a rule.

    began, ended: in the store's time zone; None for an end that is not known, as when the process was killed.
    value: the most while it lasted, in persons or seconds; what it began with where no end is known.
    """

    rule: str
    place: str
    began: datetime
    ended: datetime | None
    value: float


@dataclass(frozen=True)
class Report:
    """What `summarize` found.

    zone: the store's time zone. gaps: began, ended and reason of the times in which nobody looked.
    places: (place, direction), lines before zones; direction is "" for a zone.
    totals: as Part.events. dwell: (N,) seconds of all visits that ended, by zone. waits: the same of those
        who waited in a queue. alerts: in the order in which they began.
    presence: (36, 64) seconds that foot points spent in each cell of the image, by hour of the day where
        paths were kept: (24, 36, 64).
    moves: how often a track entered the second zone next after the first, by (first, second).
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
    waits: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    moves: dict[tuple[str, str], int] = field(default_factory=dict)
    audits: tuple[Audit, ...] = ()

    def by_class(self, place: str, direction: str) -> dict[str, int]:
        """As `total`, for each class that was counted there, the most frequent first."""
        found: Counter[str] = Counter()
        for (kind, where, way, name), number in self.totals.items():
            if (kind, where, way) == ("crossed" if direction else "entered", place, direction):
                found[name] += number
        return dict(found.most_common())

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
        dwell = _seconds(base, "dwell", began, ended)
        waits = _seconds(base, "value", began, ended)
        alerts = _alerts(base, began, ended, local)
        presence = _presence(base, began, ended, local)
        moves = _moves(base, began, ended)
    totals: Counter[tuple[str, str, str, str]] = sum((part.events for part in parts), Counter())
    # Lines first: they are what most people ask for.
    pairs = {(place, direction) for kind, place, direction, _ in totals if kind in COUNTED}
    places = sorted(pairs, key=lambda pair: (not pair[1], pair))
    shown = tuple((_local(a, local), _local(b, local), reason) for a, b, reason in gaps)
    return Report(
        camera, zone, step, _local(began, local), _local(ended, local), tuple(parts), shown, tuple(places),
        totals, dwell, presence, waits, alerts, moves,
        tuple(audit for audit in kept(path) if audit.watched_s),
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
    sums: dict[tuple[int, str], NDArray[np.float64]] = {}
    rows = base.execute(
        "SELECT minute, place, sum(watched), sum(inside * watched), max(most), sum(queue * watched), "
        "sum(iif(queue IS NULL, 0, watched)), max(queue_most) FROM occupancy "
        "WHERE minute >= ? AND minute < ? GROUP BY minute, place",
        (edges[0] - edges[0] % MINUTE_MS, edges[-1]),  # the minute in which it began, too
    )
    for minute, place, watched, inside, most, queue, queue_watched, queue_most in rows:
        index = _which(edges, minute)
        total = sums.setdefault((index, place), np.zeros(4))
        total += watched, inside, queue_watched, queue or 0
        part = parts[index]
        part.inside[place] = float(total[1] / total[0])
        part.most[place] = max(part.most.get(place, 0), most)
        if queue is not None:
            part.queue[place] = float(total[3] / total[2])
            part.queue_most[place] = max(part.queue_most.get(place, 0), queue_most)


def _which(edges: Sequence[int], minute: int) -> int:
    """The part that a minute begins in; the first one for a minute that begins before it."""
    return max(0, bisect.bisect_right(edges, minute) - 1)


def _seconds(base: sqlite3.Connection, column: str, began: int, ended: int) -> dict[str, NDArray[np.float64]]:
    """(N,) sorted seconds of the visits that ended, by zone: "dwell", or "value" of those who waited."""
    found: dict[str, list[float]] = {}
    rows = base.execute(
        f"SELECT place, {column} FROM event "
        f"WHERE kind = 'left' AND {column} IS NOT NULL AND time >= ? AND time < ?",
        (began, ended),
    )
    for place, seconds in rows:
        found.setdefault(place, []).append(seconds)
    return {place: np.sort(np.array(found[place])) for place in sorted(found)}


def _moves(base: sqlite3.Connection, began: int, ended: int) -> dict[tuple[str, str], int]:
    # A track's number begins again with each run of detection.
    rows = base.execute(
        "SELECT first, second, count(*) FROM (SELECT place AS second, lag(place) OVER "
        "(PARTITION BY run, track ORDER BY time, id) AS first FROM event "
        "WHERE kind = 'entered' AND time >= ? AND time < ?) "
        "WHERE first != second GROUP BY first, second ORDER BY first, second",
        (began, ended),
    )
    return {(first, second): number for first, second, number in rows}


def _alerts(base: sqlite3.Connection, began: int, ended: int, zone: tzinfo) -> tuple[Alert, ...]:
    """Those that began or ended between the two."""
    # rule -> place, began and value of an alert whose end did not come yet
    on: dict[str, tuple[str, int, float]] = {}
    found: list[tuple[str, str, int, int | None, float]] = []
    rows = base.execute(
        "SELECT time, rule, place, direction, value FROM event WHERE kind = 'alert' AND time < ? ORDER BY id",
        (ended,),
    )
    for time, rule, place, state, value in rows:
        if (before := on.pop(rule, None)) is not None:
            # One that begins anew has ended while nobody looked.
            found.append((rule, *before[:2], time if state == "ended" else None, max(value, before[2])))
        if state == "began":
            on[rule] = place, time, value
    found += [(rule, place, time, None, value) for rule, (place, time, value) in on.items()]
    return tuple(
        Alert(rule, place, _local(since, zone), None if until is None else _local(until, zone), value)
        for rule, place, since, until, value in sorted(found, key=lambda one: one[2])
        if since >= began or (until is not None and until >= began)
    )


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
    """A row for each part, place, direction and class, and for each rule; no number where nobody looked."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        (
            "began", "ended", "watched", "place", "direction", "class", "count", "inside_mean", "inside_most",
            "queue_mean", "queue_most", "rule", "alerts",
        )
    )  # fmt: skip
    for part in report.parts:
        watched = f"{part.watched:.4f}"
        for place, direction in report.places:
            kind = "crossed" if direction else "entered"
            for name in sorted(report.by_class(place, direction)):
                number = part.events[kind, place, direction, name] if part.watched > 0 else ""
                inside = f"{part.inside[place]:.3f}" if place in part.inside else ""
                most = part.most.get(place, "")
                queue = f"{part.queue[place]:.3f}" if place in part.queue else ""
                writer.writerow(
                    (
                        part.began.isoformat(), part.ended.isoformat(), watched, csv_text(place), direction,
                        csv_text(name), number, inside, most, queue, part.queue_most.get(place, ""), "", "",
                    )
                )  # fmt: skip
        for rule, place in sorted({(alert.rule, alert.place) for alert in report.alerts}):
            began = [alert.began for alert in report.alerts if (alert.rule, alert.place) == (rule, place)]
            number = sum(part.began <= one < part.ended for one in began) if part.watched > 0 else ""
            row = (part.began.isoformat(), part.ended.isoformat(), watched, csv_text(place), *[""] * 7)
            writer.writerow((*row, csv_text(rule), number))
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
        "moves": [
            {"from": first, "to": second, "count": number} for (first, second), number in report.moves.items()
        ],
        "waits": {place: dwell_figures(values) for place, values in report.waits.items()},
        "alerts": [
            {
                "rule": alert.rule,
                "where": alert.place,
                "began": alert.began.isoformat(),
                "ended": None if alert.ended is None else alert.ended.isoformat(),
                "value": round(alert.value, 1),
            }
            for alert in report.alerts
        ],
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
                "queue": {
                    place: {"mean": round(mean, 3), "most": part.queue_most[place]}
                    for place, mean in part.queue.items()
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
    """Number of visits, and mean, quartiles and p90 of how long they lasted, in seconds. seconds: (N,)."""
    low, middle, high, p90 = np.percentile(seconds, (25, 50, 75, 90))
    return {
        "visits": len(seconds),
        "mean_s": round(float(seconds.mean()), 1),
        "quarter_s": round(float(low), 1),
        "median_s": round(float(middle), 1),
        "three_quarters_s": round(float(high), 1),
        "p90_s": round(float(p90), 1),
    }


def as_text(report: Report) -> str:
    """What a terminal shows: totals, peaks, classes, dwell, queues, alerts, and what is missing."""
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
        classes = report.by_class(place, direction)
        each = "; " + ", ".join(f"{name} {number}" for name, number in classes.items())
        lines.append(f"  {what}: {total}{most}{each if len(classes) > 1 else ''}")
    for place, seconds in report.dwell.items():
        figures = dwell_figures(seconds)
        lines.append(f"  {place}, dwell: median {figures['median_s']:g} s, mean {figures['mean_s']:g} s")
    for (first, second), number in report.moves.items():
        lines.append(f"  from {first} to {second}: {number}")
    for place, seconds in report.waits.items():
        figures = dwell_figures(seconds)
        most_waiting = max((part.queue_most.get(place, 0) for part in report.parts), default=0)
        lines.append(
            f"  {place}, queue: {figures['visits']} waited, mean {figures['mean_s']:g} s, nine of ten up to "
            f"{figures['p90_s']:g} s; at most {most_waiting} at once"
        )
    for rule, alerts in _by_rule(report).items():
        last = alerts[-1]
        lines.append(
            f"  alert {rule} at {last.place}: {len(alerts)}; the last from {last.began:%Y-%m-%d %H:%M:%S}"
            + (f" to {last.ended:%H:%M:%S}" if last.ended else ", its end is not known")
            + f", at most {last.value:.4g}"
        )
    for began, ended, reason in report.gaps:
        if ended - began >= timedelta(minutes=1):
            span = f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M}"
            lines.append(f"  nothing is known of {span}: {REASONS[reason]}")
    if report.audits:  # the newest: who moved a line or took another model audits again
        audit = report.audits[-1]
        lines += [f"  {audit.heading(find_zone(report.zone))}", *(f"    {one}" for one in audit.sentences())]
    return "\n".join(lines) + "\n"


def _by_rule(report: Report) -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = {}
    for alert in report.alerts:
        found.setdefault(alert.rule, []).append(alert)
    return dict(sorted(found.items()))

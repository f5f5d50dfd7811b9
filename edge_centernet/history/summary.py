"""Sums up what stores hold into a report.

`Summary` adds up what one or several cameras counted, wherever that is kept; `summarize` reads stores for it.
"""

from __future__ import annotations

import bisect
import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError
from edge_centernet.history.audit import Audit, kept
from edge_centernet.history.report import CELLS, COUNTED, Alert, Camera, Durations, Part, Report
from edge_centernet.history.store import MINUTE_MS, open_store, unpack_points
from edge_centernet.progress import Progress, unseen, with_progress

_LONGEST_STEP_S = 1.0  # between two points of a path


def summarize(
    stores: Path | Sequence[Path],
    begin: str | None = None,
    end: str | None = None,
    step: str = "hour",
    progress: Progress = unseen,
) -> Report:
    """Read a store, or several.

    Args:
        stores: one path for the report of a camera, a sequence for that of several.
        begin: a date or time in the store's time zone, such as 2026-11-30 or 2026-11-30T18:00; the first run
            if not given.
        end: likewise; a date is that whole day; the last sign of life if not given.
        step: "hour", "day" or "week"; weeks begin on Monday.
        progress: of reading several.

    Raises ConfigError for a time that is none or an end before the beginning, StoreError for the file.
    """
    paths = [stores] if isinstance(stores, Path) else list(stores)
    about = {}
    for path in paths:
        with closing(open_store(path)) as base:
            about[path] = covered(base)
    zone = main_zone([one.zone for one in about.values()])
    first, last = min(one.first for one in about.values()), max(one.last for one in about.values())
    summary = Summary(*stretch(begin, end, first, last, zone), zone, step)
    summary.held = first, last
    names = Counter(one.camera for one in about.values())
    for path, one in with_progress(list(about.items()), "Stores", progress):
        with closing(open_store(path)) as base:
            edges = summary.edges_in(one.zone)
            totals = _count(base, summary, edges)
            summary.add_dwell(_durations(base, "dwell", edges[0], edges[-1]))
            summary.add_waits(_durations(base, "value", edges[0], edges[-1]))
            summary.add_moves(_moves(base, edges[0], edges[-1]))
            known = base.execute("SELECT began, ended, reason FROM gap")
            gaps = [(0, one.first, "off"), *known, (one.last, edges[-1], "off")]
            name = one.camera if names[one.camera] == 1 else f"{one.camera} ({path})"
            summary.add_camera(name, one.zone, gaps, totals)
            summary.add_alerts(name, one.zone, _turns(base, edges[-1]))
            if isinstance(stores, Path):
                summary.presence += _presence(base, edges[0], edges[-1], summary.local)
                summary.audits = tuple(audit for audit in kept(path) if audit.watched_s)
    return summary.report(several=not isinstance(stores, Path))


class Covered(NamedTuple):
    """What a store is about.

    first, last: the first start and the last sign of life, in milliseconds since 1970.
    """

    first: int
    last: int
    zone: str
    camera: str


def covered(base: sqlite3.Connection) -> Covered:
    """Ask a store; zone and name are those of its last run."""
    return Covered(
        *base.execute(
            "SELECT min(began), max(alive), (SELECT zone FROM run ORDER BY id DESC LIMIT 1), "
            "(SELECT camera FROM run ORDER BY id DESC LIMIT 1) FROM run"
        ).fetchone()
    )


def main_zone(zones: Sequence[str]) -> str:
    """The time zone that most cameras are in."""
    return Counter(sorted(zones)).most_common(1)[0][0]


def stretch(begin: str | None, end: str | None, first: int, last: int, zone: str) -> tuple[int, int]:
    """Beginning and end in milliseconds. begin, end: as of `summarize`; first, last: if not given."""
    local = find_zone(zone)
    began = first if begin is None else moment(begin, local, whole_day=False)
    ended = last if end is None else moment(end, local, whole_day=True)
    if ended <= began:
        raise ConfigError(
            f"report: expected an end after the beginning, got {_local(began, local):%Y-%m-%d %H:%M} to "
            f"{_local(ended, local):%Y-%m-%d %H:%M}"
        )
    return began, ended


class Occupied(NamedTuple):
    """How many were in a zone, or in its queue, in some time of which `watched_s` seconds were watched.

    persons_s: persons times seconds. most: persons at once.
    """

    persons_s: float
    watched_s: float
    most: int


class Turn(NamedTuple):
    """An alert of a rule that began or ended.

    time: milliseconds since 1970. state: "began" or "ended". lasted_s: seconds, of an end.
    """

    time: int
    rule: str
    place: str
    state: str
    value: float
    lasted_s: float | None


class Summary:
    """Adds up what one or several cameras counted, wherever that is kept; `report` is the sum."""

    def __init__(self, began: int, ended: int, zone: str, step: str) -> None:
        """began, ended: milliseconds since 1970. zone: of the parts. step: "hour", "day" or "week"."""
        self.local = find_zone(zone)
        self.held: tuple[int, int] | None = None  # first and last moment of all that there is, in ms
        # Of a single camera alone.
        self.presence = np.zeros((24, *CELLS))
        self.audits: tuple[Audit, ...] = ()
        self._zone, self._zones, self._step = zone, {zone}, step
        self._edges = {zone: list(edges(began, ended, self.local, step))}
        count = len(self._edges[zone]) - 1
        self._events: list[Counter[tuple[str, str, str, str]]] = [Counter() for _ in range(count)]
        self._inside: list[dict[str, Occupied]] = [{} for _ in range(count)]
        self._queues: list[dict[str, Occupied]] = [{} for _ in range(count)]
        self._missing, self._spans = np.zeros(count), np.zeros(count)  # ms, of all cameras together
        self._dwell: dict[str, list[Durations]] = {}
        self._waits: dict[str, list[Durations]] = {}
        self._moves: Counter[tuple[str, str]] = Counter()
        self._alerts: list[Alert] = []
        self._cameras: list[Camera] = []

    def edges_in(self, zone: str) -> list[int]:
        """Where the parts begin and end on the clock of another time zone, in milliseconds, rising."""
        if zone not in self._edges:
            local = find_zone(zone)
            moments = [_local(edge, self.local).replace(tzinfo=local) for edge in self._edges[self._zone]]
            # One zone's clocks may go back where another's do not: such an hour is empty there.
            rising = itertools.accumulate((round(at.timestamp() * 1000) for at in moments), max)
            self._edges[zone] = list(rising)
        return self._edges[zone]

    def add_count(self, edges: Sequence[int], at: int, key: tuple[str, str, str, str], number: int) -> None:
        """Events of one kind in the minute or hour that begins at a time. edges: of `edges_in`."""
        self._events[_which(edges, at)][key] += number

    def add_inside(
        self, edges: Sequence[int], at: int, place: str, inside: Occupied, queue: Occupied | None
    ) -> None:
        """Occupancy in the minute or hour that begins at a time.

        Args:
            edges: of `edges_in`.
            at: milliseconds since 1970.
            place: name of the zone.
            inside: those in the zone.
            queue: those of them who waited; None for a zone that is no queue.
        """
        index = _which(edges, at)
        _add(self._inside[index], place, inside)
        if queue is not None:
            _add(self._queues[index], place, queue)

    def add_dwell(self, found: dict[str, Durations]) -> None:
        """Visits that ended, by zone."""
        for place, durations in found.items():
            self._dwell.setdefault(place, []).append(durations)

    def add_waits(self, found: dict[str, Durations]) -> None:
        """Waits of those who left a queue, by zone."""
        for place, durations in found.items():
            self._waits.setdefault(place, []).append(durations)

    def add_moves(self, found: Mapping[tuple[str, str], int]) -> None:
        """How many went from a zone to another next."""
        self._moves.update(found)

    def add_alerts(self, camera: str, zone: str, turns: Iterable[Turn]) -> None:
        """Alerts of a camera that began or ended in the time of the report. turns: in their order."""
        edges, local = self.edges_in(zone), find_zone(zone)
        for rule, place, since, until, value in _paired(turns):
            if edges[0] <= since < edges[-1] or (until is not None and edges[0] <= until < edges[-1]):
                ended = None if until is None else _local(until, local)
                self._alerts.append(Alert(rule, place, _local(since, local), ended, value, camera))

    def add_camera(
        self,
        name: str,
        zone: str,
        gaps: Sequence[tuple[int, int, str]],
        totals: Counter[tuple[str, str, str, str]],
    ) -> None:
        """A camera, when it was away, and all that it counted: what was added for it by `add_count`."""
        edges = self.edges_in(zone)
        gaps = clip(gaps, edges[0], edges[-1])
        local = find_zone(zone)
        missing, spans = np.zeros(len(edges) - 1), np.diff(edges)
        for began, ended, _ in gaps:
            for index in range(_which(edges, began), len(missing)):
                if edges[index] >= ended:
                    break
                missing[index] += max(0, min(ended, edges[index + 1]) - max(began, edges[index]))
        self._missing += missing
        self._spans += spans
        self._zones.add(zone)
        shown = tuple((_local(a, local), _local(b, local), reason) for a, b, reason in gaps)
        watched = 1 - float(missing.sum()) / float(spans.sum())
        self._cameras.append(Camera(name, watched, shown, totals))

    def report(self, several: bool) -> Report:
        """The sum. several: with the list of cameras."""
        edges = self._edges[self._zone]
        watched = 1 - self._missing / np.maximum(self._spans, 1)
        parts = tuple(
            Part(
                _local(a, self.local),
                _local(b, self.local),
                float(watched[i]),
                self._events[i],
                {place: of.persons_s / of.watched_s for place, of in self._inside[i].items()},
                {place: of.most for place, of in self._inside[i].items()},
                {place: of.persons_s / of.watched_s for place, of in self._queues[i].items()},
                {place: of.most for place, of in self._queues[i].items()},
            )
            for i, (a, b) in enumerate(itertools.pairwise(edges))
        )
        totals: Counter[tuple[str, str, str, str]] = Counter()
        for counted in self._events:
            totals.update(counted)
        # Lines first: they are what most people ask for.
        pairs = {(place, direction) for kind, place, direction, _ in totals if kind in COUNTED}
        places = sorted(pairs, key=lambda pair: (not pair[1], pair))
        held = self.held
        if held is not None and held[0] < edges[-1] and held[1] >= edges[0]:
            held = None  # the report shows some of it
        alerts = sorted(self._alerts, key=lambda one: (one.began, one.camera, one.rule))
        return Report(
            camera=f"{len(self._cameras)} cameras" if several else self._cameras[0].name,
            zone=self._zone if len(self._zones) == 1 else "each camera's own time",
            step=self._step,
            began=parts[0].began,
            ended=parts[-1].ended,
            parts=parts,
            gaps=() if several else self._cameras[0].gaps,
            places=tuple(places),
            totals=totals,
            dwell={place: _joined(self._dwell[place]) for place in sorted(self._dwell)},
            presence=self.presence,
            waits={place: _joined(self._waits[place]) for place in sorted(self._waits)},
            alerts=tuple(alerts if several else (replace(one, camera="") for one in alerts)),
            moves=dict(sorted(self._moves.items())),
            audits=self.audits,
            cameras=tuple(sorted(self._cameras, key=lambda one: one.name)) if several else (),
            held=None if held is None else (_local(held[0], self.local), _local(held[1], self.local)),
        )


def _add(into: dict[str, Occupied], place: str, more: Occupied) -> None:
    had = into.get(place, Occupied(0.0, 0.0, 0))
    into[place] = Occupied(
        had.persons_s + more.persons_s, had.watched_s + more.watched_s, max(had.most, more.most)
    )


def _paired(turns: Iterable[Turn]) -> list[tuple[str, str, int, int | None, float]]:
    """Rule, place, beginning, end (None where it is not known) and value of each alert."""
    on: dict[str, Turn] = {}  # by rule, alerts whose end did not come yet
    found: list[tuple[str, str, int, int | None, float]] = []
    for turn in turns:
        ends = turn.state == "ended"
        if (before := on.pop(turn.rule, None)) is not None:
            # One that begins anew has ended while nobody looked.
            until = turn.time if ends else None
            found.append((turn.rule, before.place, before.time, until, max(turn.value, before.value)))
        elif ends and turn.lasted_s is not None:  # its beginning is not among what was read
            since = turn.time - round(1000 * turn.lasted_s)
            found.append((turn.rule, turn.place, since, turn.time, turn.value))
        if not ends:
            on[turn.rule] = turn
    return found + [(one.rule, one.place, one.time, None, one.value) for one in on.values()]


def _joined(found: Sequence[Durations]) -> Durations:
    seconds, where = np.unique(np.concatenate([one.seconds for one in found]), return_inverse=True)
    visits = np.bincount(where, np.concatenate([one.visits for one in found]))
    return Durations(seconds, visits.astype(np.int64))


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
    """Milliseconds since 1970 of a date or time as people write it; ConfigError for another text.

    whole_day: a date is the end of that day.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"report: expected a date or time such as 2026-11-30 or 2026-11-30T18:00, got {text!r}"
        ) from None
    if whole_day and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        at += timedelta(days=1)
    if at.tzinfo is None:
        at = at.replace(tzinfo=zone)
    return round(at.timestamp() * 1000)


def clip(gaps: Sequence[tuple[int, int, str]], began: int, ended: int) -> list[tuple[int, int, str]]:
    """The gaps within two times, in order, without overlaps: the first to begin keeps what it covers."""
    found: list[tuple[int, int, str]] = []
    reached = began
    for a, b, reason in sorted(gaps):
        a, b = max(a, reached), min(b, ended)
        if a < b:
            if found and found[-1][1:] == (a, reason):  # cut in two, as at midnight
                a = found.pop()[0]
            found.append((a, b, reason))
            reached = b
    return found


def edges(began: int, ended: int, zone: tzinfo, step: str) -> Iterator[int]:
    """Where parts begin and end, in milliseconds: both ends, and each hour, midnight or Monday between.

    step: "hour", "day" or "week".
    """
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


def _count(
    base: sqlite3.Connection, summary: Summary, edges: Sequence[int]
) -> Counter[tuple[str, str, str, str]]:
    """Add what happened to the parts of a summary; the totals of this store."""
    # One pass in the order of time, grouped by minute: a year of a busy entrance has half a million of them.
    rows = base.execute(
        "SELECT time - time % ? AS minute, kind, place, direction, class, count(*) FROM event "
        "WHERE time >= ? AND time < ? GROUP BY minute, kind, place, direction, class",
        (MINUTE_MS, edges[0], edges[-1]),
    )
    totals: Counter[tuple[str, str, str, str]] = Counter()
    for minute, kind, place, direction, name, number in rows:
        key = kind, place, direction, name
        totals[key] += number
        summary.add_count(edges, minute, key, number)
    rows = base.execute(
        "SELECT minute, place, sum(inside * watched), sum(watched), max(most), sum(queue * watched), "
        "sum(iif(queue IS NULL, 0, watched)), max(queue_most) FROM occupancy "
        "WHERE minute >= ? AND minute < ? GROUP BY minute, place",
        (edges[0] - edges[0] % MINUTE_MS, edges[-1]),  # the minute in which it began, too
    )
    for minute, place, *sums in rows:
        queue = None if sums[3] is None else Occupied(*sums[3:])
        summary.add_inside(edges, minute, place, Occupied(*sums[:3]), queue)
    return totals


def _which(edges: Sequence[int], minute: int) -> int:
    """The part that a minute begins in; the first or last one for a minute that begins outside of all."""
    return min(max(0, bisect.bisect_right(edges, minute) - 1), len(edges) - 2)


def _durations(base: sqlite3.Connection, column: str, began: int, ended: int) -> dict[str, Durations]:
    """Of the visits that ended, by zone. column: "dwell", or "value" for the waits of those who waited."""
    found: dict[str, list[tuple[float, int]]] = {}
    # To a hundredth: more than that nobody measures, and a year has fewer distinct lengths than visits.
    rows = base.execute(
        f"SELECT place, round({column}, 2) AS seconds, count(*) FROM event WHERE kind = 'left' AND "
        f"{column} IS NOT NULL AND time >= ? AND time < ? GROUP BY place, seconds ORDER BY place, seconds",
        (began, ended),
    )
    for place, seconds, visits in rows:
        found.setdefault(place, []).append((seconds, visits))
    return {
        place: Durations(np.array([s for s, _ in rows]), np.array([n for _, n in rows]))
        for place, rows in found.items()
    }


def _moves(base: sqlite3.Connection, began: int, ended: int) -> dict[tuple[str, str], int]:
    # A track's number begins again with each run of detection.
    rows = base.execute(
        "SELECT first, second, count(*) FROM (SELECT place AS second, lag(place) OVER "
        "(PARTITION BY run, track ORDER BY time, id) AS first FROM event "
        "WHERE kind = 'entered' AND time >= ? AND time < ?) WHERE first != second GROUP BY first, second",
        (began, ended),
    )
    return {(first, second): number for first, second, number in rows}


def _turns(base: sqlite3.Connection, ended: int) -> Iterator[Turn]:
    rows = base.execute(
        "SELECT time, rule, place, direction, value, dwell FROM event WHERE kind = 'alert' AND time < ? "
        "ORDER BY id",
        (ended,),
    )
    yield from itertools.starmap(Turn, rows)


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

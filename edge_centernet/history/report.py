"""What a store says of a stretch of time: counts by hour, day or week, occupancy, dwell, what is missing.

An hour in which the camera was away is not an hour without visitors. Each part of a report says for how much
of it somebody was looking (`watched`); where nobody was, its counts are None.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.files import csv_text
from edge_centernet.history.audit import Audit

STEPS = ("hour", "day", "week")
COUNTED = ("crossed", "entered")  # events of which a report gives the number
REASONS = {"off": "not running", "camera": "no picture", "clock": "clock set"}  # of gaps, for people
CELLS = (36, 64)  # rows and columns of the presence map
_CAMERAS_SHOWN = 20  # in a terminal


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
        return _total(self.events, place, direction)


class Durations(NamedTuple):
    """How long visits lasted.

    seconds: (K,) float64, each length once, rising. visits: (K,) int64, how many lasted so long.
    """

    seconds: NDArray[np.float64]
    visits: NDArray[np.int64]


@dataclass(frozen=True)
class Camera:
    """One of several cameras of a report. watched, gaps and totals: as those of Report."""

    name: str
    watched: float
    gaps: tuple[tuple[datetime, datetime, str], ...]
    totals: Counter[tuple[str, str, str, str]]

    def total(self, place: str, direction: str) -> int:
        """As Report.total."""
        return _total(self.totals, place, direction)


@dataclass(frozen=True)
class Alert:
    """One alert of a rule.

    began, ended: in the camera's time zone; None for an end that is not known, as of a killed process.
    value: the most while it lasted, in persons or seconds; what it began with where no end is known.
    camera: whose, in a report over several.
    """

    rule: str
    place: str
    began: datetime
    ended: datetime | None
    value: float
    camera: str = ""


@dataclass(frozen=True)
class Report:
    """What `summary.summarize` found.

    zone: the store's time zone. gaps: began, ended and reason of the times in which nobody looked.
    places: (place, direction), lines before zones; direction is "" for a zone.
    totals: as Part.events. dwell: of all visits that ended, by zone. waits: the same of those who waited in a
        queue. alerts: in the order in which they began.
    presence: (36, 64) seconds that foot points spent in each cell of the image, by hour of the day where
        paths were kept: (24, 36, 64).
    moves: how often a track entered the second zone next after the first, by (first, second).
    audits: of the store, whatever the time, the oldest first; those of which something was watched.
    cameras: of a report over several, by name. Its hours and days are those of each camera's own clock; its
        counts, `dwell`, `waits` and `moves` are sums, its `watched`, `inside` and `queue` are averages, and
        an alert has its camera's name. `gaps` is empty: see each camera's own. `presence` is zero, as each
        looks at something else, and `audits` is empty, as one camera's error says nothing of another's.
    held: first start and last sign of life of all that the stores hold, where none of it is in the time.
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
    dwell: dict[str, Durations]
    presence: NDArray[np.float64]
    waits: dict[str, Durations] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    moves: dict[tuple[str, str], int] = field(default_factory=dict)
    audits: tuple[Audit, ...] = ()
    cameras: tuple[Camera, ...] = ()
    held: tuple[datetime, datetime] | None = None

    def by_class(self, place: str, direction: str) -> dict[str, int]:
        """As `total`, for each class that was counted there, the most frequent first."""
        found: Counter[str] = Counter()
        for (kind, where, way, name), number in self.totals.items():
            if (kind, where, way) == ("crossed" if direction else "entered", place, direction):
                found[name] += number
        return dict(found.most_common())

    def total(self, place: str, direction: str) -> int:
        """Crossings of a line in a direction, or entries into a zone (""), over the whole time."""
        return _total(self.totals, place, direction)

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


def _total(counted: Counter[tuple[str, str, str, str]], place: str, direction: str) -> int:
    kind = "crossed" if direction else "entered"
    return sum(n for (k, p, d, _), n in counted.items() if (k, p, d) == (kind, place, direction))


# ---- as text


def as_csv(report: Report) -> str:
    """A row for each part, place, direction and class, and for each rule; no number where nobody looked.

    Of several cameras: a column more, and behind the rows of all together those of each over the whole time,
    alerts among them.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    several = ("camera",) if report.cameras else ()
    writer.writerow(
        (
            "began", "ended", "watched", "place", "direction", "class", "count", "inside_mean", "inside_most",
            "queue_mean", "queue_most", "rule", "alerts", *several,
        )
    )  # fmt: skip
    rules = [] if several else sorted({(alert.rule, alert.place) for alert in report.alerts})
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
                        *([""] if several else []),
                    )
                )  # fmt: skip
        for rule, place in rules:
            began = [alert.began for alert in report.alerts if (alert.rule, alert.place) == (rule, place)]
            number = sum(part.began <= one < part.ended for one in began) if part.watched > 0 else ""
            row = (part.began.isoformat(), part.ended.isoformat(), watched, csv_text(place), *[""] * 7)
            writer.writerow((*row, csv_text(rule), number))
    for camera in report.cameras:
        head = report.began.isoformat(), report.ended.isoformat(), f"{camera.watched:.4f}"
        of = csv_text(camera.name)
        for (kind, place, direction, name), number in sorted(camera.totals.items()):
            if kind in COUNTED:
                cells = csv_text(place), direction, csv_text(name), number
                writer.writerow((*head, *cells, *[""] * 6, of))
        alerts = Counter((one.rule, one.place) for one in report.alerts if one.camera == camera.name)
        for (rule, place), number in sorted(alerts.items()):
            writer.writerow((*head, csv_text(place), *[""] * 7, csv_text(rule), number, of))
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
        "gaps": _gaps(report.gaps),
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
                **({"camera": alert.camera} if alert.camera else {}),
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
        record["audits"] = [audit.figures(report.began.tzinfo) for audit in report.audits]
    if report.cameras:
        record["cameras"] = [
            {
                "camera": one.name,
                "watched": round(one.watched, 4),
                "gaps": _gaps(one.gaps),
                "totals": _events(one.totals),
            }
            for one in report.cameras
        ]
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def _gaps(gaps: Sequence[tuple[datetime, datetime, str]]) -> list[dict[str, str]]:
    return [{"began": a.isoformat(), "ended": b.isoformat(), "reason": reason} for a, b, reason in gaps]


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


def dwell_figures(durations: Durations) -> dict[str, float]:
    """Number of visits, and mean, quartiles and p90 of how long they lasted, in seconds."""
    seconds, visits = durations
    ends = np.cumsum(visits)  # visits that last so long or less
    count = int(ends[-1])

    def quantile(share: float) -> float:  # as numpy.percentile, between the two visits next to it
        below = int(share * (count - 1))
        low, high = seconds[np.searchsorted(ends, [below, min(below + 1, count - 1)], side="right")]
        return round(float(low + (high - low) * (share * (count - 1) - below)), 1)

    return {
        "visits": count,
        "mean_s": round(float(seconds @ visits) / count, 1),
        "quarter_s": quantile(0.25),
        "median_s": quantile(0.5),
        "three_quarters_s": quantile(0.75),
        "p90_s": quantile(0.9),
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
            begin = f"{peak.began:%Y-%m-%d %H:%M}" if report.step == "hour" else f"{peak.began:%Y-%m-%d}"
            since = "from " if report.step == "week" else ""
            most = f"; busiest {report.step}: {since}{begin} ({peak.count(place, direction)})"
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
            f"  alert {rule} at {last.place}: {len(alerts)}; the last{last.camera and f' of {last.camera}'} "
            f"from {last.began:%Y-%m-%d %H:%M:%S}"
            + (f" to {last.ended:%H:%M:%S}" if last.ended else ", its end is not known")
            + f", at most {last.value:.4g}"
        )
    for began, ended, reason in report.gaps:
        if ended - began >= timedelta(minutes=1):
            span = f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M}"
            lines.append(f"  nothing is known of {span}: {REASONS[reason]}")
    if held := held_text(report):
        lines.append(f"  {held}")
    if report.audits:  # the newest: who moved a line or took another model audits again
        audit = report.audits[-1]
        lines += [f"  {audit.heading(report.began.tzinfo)}", *(f"    {one}" for one in audit.sentences())]
    lines += _camera_lines(report)
    return "\n".join(lines) + "\n"


def held_text(report: Report) -> str:
    """Where to find what the stores hold, if the report is over another time; else ""."""
    if report.held is None:
        return ""
    first, last = report.held
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    holder = "the stores hold" if report.cameras else "the store holds"
    return f"{holder} {first:%Y-%m-%d %H:%M} to {end}; ask for a time in it with --from and --to"


def _by_rule(report: Report) -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = {}
    for alert in report.alerts:
        found.setdefault(alert.rule, []).append(alert)
    return dict(sorted(found.items()))


def _camera_lines(report: Report) -> list[str]:
    """A table of the cameras, those with the most visitors first."""
    if not report.cameras:
        return []
    heads = [
        f"{place}, {direction}" if direction else f"{place}, entered" for place, direction in report.places
    ]
    ranked = sorted(report.cameras, key=lambda one: -sum(one.total(*pair) for pair in report.places))
    rows = [["camera", "watched", *heads]] + [
        [one.name, f"{one.watched:.1%}", *(str(one.total(*pair)) for pair in report.places)]
        for one in ranked[:_CAMERAS_SHOWN]
    ]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  "
        + "  ".join(
            [row[0].ljust(wide[0]), *(text.rjust(w) for text, w in zip(row[1:], wide[1:], strict=True))]
        )
        for row in rows
    ]
    if (more := len(ranked) - _CAMERAS_SHOWN) > 0:
        lines.append(f"  and {more} more, which --csv, --json and --html have")
    return lines

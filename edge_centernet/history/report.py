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

STEPS = ("hour", "day", "week")
REASONS = {"off": "not running", "camera": "no picture", "clock": "clock set"}  # of gaps, for people
CELLS = (36, 64)  # rows and columns of the presence map
_CAMERAS_SHOWN = 20  # in a terminal


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
class Report:
    """What `summary.summarize` found.

    zone: the store's time zone. gaps: began, ended and reason of the times in which nobody looked.
    places: (place, direction), lines before zones; direction is "" for a zone.
    totals: as Part.events. dwell: of all visits that ended, by zone.
    presence: (36, 64) seconds that foot points spent in each cell of the image, by hour of the day where
        paths were kept: (24, 36, 64). Zeros for several cameras, which look at different things.
    cameras: of a report over several, by name. Its hours and days are those of each camera's own clock, its
        counts are sums, its `watched` and `inside` are averages, and `gaps` is empty: see each camera's own.
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
    cameras: tuple[Camera, ...] = ()

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
    """A row for each part, place, direction and class; `count` is empty where nobody looked.

    Of several cameras: a column more, and behind the rows of all together those of each over the whole time.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    several = ("camera",) if report.cameras else ()
    writer.writerow(
        (
            "began", "ended", "watched", "place", "direction", "class", "count", "inside_mean", "inside_most",
            *several,
        )
    )  # fmt: skip
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
                        csv_text(name), number, inside, most, *([""] if several else []),
                    )
                )  # fmt: skip
    for camera in report.cameras:
        for (kind, place, direction, name), number in sorted(camera.totals.items()):
            if kind != "left":
                writer.writerow(
                    (
                        report.began.isoformat(), report.ended.isoformat(), f"{camera.watched:.4f}",
                        csv_text(place), direction, csv_text(name), number, "", "", csv_text(camera.name),
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
        "gaps": _gaps(report.gaps),
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
    """Number of visits, and quartiles and mean of how long they lasted, in seconds."""
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
    lines += _camera_lines(report)
    return "\n".join(lines) + "\n"


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

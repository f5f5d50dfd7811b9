"""Who is in a zone and for how long; a visit is over only after a grace period outside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_centernet.errors import ConfigError
from edge_centernet.tracking.geometry import (
    Point,
    Seen,
    Size,
    are_relative,
    as_points,
    parse_numbers,
    point_text,
    scaled,
    whole_number,
)
from edge_centernet.tracking.state import Event, ZoneCount

_GRACE_S = 1.0  # seconds outside a zone before a visit is over


@dataclass(frozen=True)
class Zone:
    """A polygon that objects enter and leave. relative: the points are fractions of the picture, not pixels."""

    name: str
    points: tuple[Point, ...]
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for fewer than 3 points, an edge that crosses or touches another, or no area."""
        if len(self.points) < 3:
            raise ConfigError(f"zone {self.name!r}: expected 3 points or more, got {len(self.points)}")
        if len(set(self.points)) < len(self.points):
            raise ConfigError(f"zone {self.name!r}: expected different points, got one of them twice")
        if clash := _self_crossing(self.points):
            raise ConfigError(
                f"zone {self.name!r}: expected edges that do not cross; those from {point_text(clash[0])} and from "
                f"{point_text(clash[1])} do; give the corners in the order in which one walks around the zone"
            )

    def pixels(self, size: Size) -> tuple[Point, ...]:
        """Its corners in a picture of (width, height)."""
        return scaled(self.points, self.relative, size)


def parse_zone(text: str, index: int = 1) -> Zone:
    """The zone that "[NAME=]X1,Y1,X2,Y2,X3,Y3,..." says; without a name it is "zone INDEX".

    Numbers are pixels, or fractions of the picture when every one is within 0..1. Raises ConfigError.
    """
    name, numbers = parse_numbers(text, "zone", index, "X1,Y1,X2,Y2,X3,Y3,...")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ConfigError(
            f"zone {name!r}: expected 3 points or more as X1,Y1,X2,Y2,X3,Y3,..., got {len(numbers)} numbers in {text!r}"
        )
    return Zone(name, as_points(numbers), are_relative(numbers))


@dataclass
class _Visit:
    """Someone in a zone: when they came, when they were last seen inside."""

    since: float
    last: float
    class_name: str


class ZoneCounter:
    """One zone, and the visits of now."""

    def __init__(self, zone: Zone) -> None:
        """Nobody inside yet."""
        self.zone = zone
        self._entered = self._ended = 0
        self._dwell = self._longest = 0.0  # seconds, of visits that ended
        self._visits: dict[int, _Visit] = {}

    def update(
        self, seen: Sequence[Seen], ended: Iterable[int], seconds: float, size: Size, events: list[Event]
    ) -> None:
        """Count one frame and append what happened to `events`. ended: ids of tracks that leave."""
        corners = self.zone.pixels(size)
        for one in seen:
            visit = self._visits.get(one.id)
            if _inside(one.foot, corners):
                if visit is None:
                    self._visits[one.id] = _Visit(seconds, seconds, one.class_name)
                    self._entered += 1
                    events.append(Event("entered", self.zone.name, one.id, one.class_name, seconds))
                else:
                    visit.last = seconds
            elif visit is not None and seconds - visit.last > _GRACE_S:
                self._leave(one.id, seconds, events)
        for gone in ended:
            if gone in self._visits:
                self._leave(gone, seconds, events)

    def _leave(self, track_id: int, seconds: float, events: list[Event]) -> None:
        visit = self._visits.pop(track_id)
        dwell = max(0.0, visit.last - visit.since)
        self._ended += 1
        self._dwell += dwell
        self._longest = max(self._longest, dwell)
        events.append(Event("left", self.zone.name, track_id, visit.class_name, seconds, dwell_s=dwell))

    def count(self, seconds: float) -> ZoneCount:
        """The counts now. seconds: the frame's own time."""
        now = [max(0.0, visit.last - visit.since) for visit in self._visits.values()]
        visits = self._ended + len(now)
        mean = (self._dwell + sum(now)) / visits if visits else 0.0
        return ZoneCount(self.zone.name, len(now), self._entered, max([self._longest, *now]), mean)

    def totals(self) -> dict[str, Any]:
        """The counts as JSON can hold them, for `restore`."""
        return {
            "entered": self._entered,
            "ended": self._ended,
            "dwell_s": self._dwell,
            "longest_s": self._longest,
        }

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Go on from what `totals` returned. Raises ValueError for anything else."""
        self._entered, self._ended = (
            whole_number(totals.get("entered", 0)),
            whole_number(totals.get("ended", 0)),
        )
        self._dwell, self._longest = (
            _seconds(totals.get("dwell_s", 0.0)),
            _seconds(totals.get("longest_s", 0.0)),
        )


def _inside(point: Point, corners: Sequence[Point]) -> bool:
    """Whether a point is in a polygon: an odd number of edges lies to its right."""
    x, y = point
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (x2 - x1) * (y - y1) / (y2 - y1):
            odd = not odd
    return odd


def _self_crossing(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The first points of two edges that cross or touch where they should not, or None."""
    edges = list(zip(points, (*points[1:], points[0]), strict=True))
    for i, j in itertools.combinations(range(len(edges)), 2):
        (a, b), (c, d) = edges[i], edges[j]
        if b == c or d == a:  # neighbours share a corner; they clash only when one runs back along the other
            shared, p, q = (b, a, d) if b == c else (a, b, c)
            back = (
                _turn(p, shared, q) == 0.0
                and (p[0] - shared[0]) * (q[0] - shared[0]) + (p[1] - shared[1]) * (q[1] - shared[1]) > 0.0
            )
            if back:
                return a, c
        elif _segments_meet(a, b, c, d):
            return a, c
    return None


def _segments_meet(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments ab and cd have a point in common."""
    turns = [_sign(_turn(a, b, c)), _sign(_turn(a, b, d)), _sign(_turn(c, d, a)), _sign(_turn(c, d, b))]
    if turns[0] != turns[1] and turns[2] != turns[3]:
        return True
    return any(
        turn == 0
        and min(p[0], q[0]) <= r[0] <= max(p[0], q[0])
        and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])
        for turn, (p, q, r) in zip(turns, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True)
    )


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area of the triangle abc: 0 when they are in one line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _sign(value: float) -> int:
    return (value > 0.0) - (value < 0.0)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ValueError(value)
    return float(value)

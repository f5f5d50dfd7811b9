"""Who is in a zone and for how long; a visit is over only after a grace period outside.

The grace period is to a zone what the band of hysteresis is to a line: a foot point that flickers at the
border makes one visit, not many. It is a time and not a band, because it also has to bridge frames in which a
foot point jumps far out, as when the legs are hidden for a moment and the box ends at the hips.
"""

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

# Seconds outside a zone before a visit is over: a person who walks needs longer to leave, turn and come back,
# and a detection that flickers does not take as long.
_GRACE_S = 1.0


@dataclass(frozen=True)
class Zone:
    """A polygon that objects enter and leave; it may be concave.

    relative: the points are fractions of the image's width and height, not pixels.
    """

    name: str
    points: tuple[Point, ...]
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for fewer than 3 points, an edge that crosses or touches another, or no area."""
        if len(self.points) < 3:
            raise ConfigError(f"zone {self.name!r}: expected 3 points or more, got {len(self.points)}")
        if len(set(self.points)) < len(self.points):
            raise ConfigError(f"zone {self.name!r}: expected different points, got one of them twice")
        # In a polygon whose edges cross "inside" means nothing. Four corners in the wrong order, a bow tie,
        # are the usual mistake; as an error it is found now, and not after weeks of wrong counts.
        if clash := _self_crossing(self.points):
            first, second = (point_text(point) for point in clash)
            raise ConfigError(
                f"zone {self.name!r}: expected edges that do not cross; those from {first} and from {second} "
                "do; give the corners in the order in which one walks around the zone"
            )

    def pixels(self, size: Size) -> tuple[Point, ...]:
        """Its corners in an image of (width, height), pixels."""
        return scaled(self.points, self.relative, size)


def parse_zone(text: str, index: int = 1) -> Zone:
    """The zone that "[NAME=]X1,Y1,X2,Y2,X3,Y3,..." describes; without a name it is "zone INDEX".

    Numbers are pixels, or fractions of the image when every one is within 0..1. Raises ConfigError.
    """
    name, numbers = parse_numbers(text, "zone", index, "X1,Y1,X2,Y2,X3,Y3,...")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ConfigError(
            f"zone {name!r}: expected 3 points or more as X1,Y1,X2,Y2,X3,Y3,..., "
            f"got {len(numbers)} numbers in {text!r}"
        )
    return Zone(name, as_points(numbers), are_relative(numbers))


@dataclass
class _Visit:
    """Somebody in a zone: when they came, and when they were last seen inside, in seconds."""

    since: float
    last: float
    class_name: str


class ZoneCounter:
    """One zone, what it counted, and the visits that still last."""

    def __init__(self, zone: Zone) -> None:
        """Nobody inside yet."""
        self.zone = zone
        self._entered = self._ended = 0
        self._dwell = self._longest = 0.0  # seconds, of visits that ended
        self._visits: dict[int, _Visit] = {}

    def update(
        self, seen: Sequence[Seen], ended: Iterable[int], seconds: float, size: Size, events: list[Event]
    ) -> None:
        """Count one frame.

        Args:
            seen: the tracks in the frame.
            ended: ids of tracks that the tracker gave up: they leave.
            seconds: the frame's own time.
            size: (width, height) of the image, pixels.
            events: the entries and exits of this frame are appended to it.
        """
        # A track that is hidden in this frame is in neither list, and its visit goes on: most who are hidden
        # stand behind somebody else.
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
        # Up to the last sighting inside: neither the grace period nor the time for which a hidden track is
        # remembered is part of a visit. Never negative, because a source's clock may go back.
        dwell = max(0.0, visit.last - visit.since)
        self._ended += 1
        self._dwell += dwell
        self._longest = max(self._longest, dwell)
        events.append(Event("left", self.zone.name, track_id, visit.class_name, seconds, dwell_s=dwell))

    def count(self) -> ZoneCount:
        """The counts up to now; a visit that still lasts counts up to the last sighting inside."""
        now = [max(0.0, visit.last - visit.since) for visit in self._visits.values()]
        visits = self._ended + len(now)
        mean = (self._dwell + sum(now)) / visits if visits else 0.0
        return ZoneCount(self.zone.name, len(now), self._entered, max([self._longest, *now]), mean)

    def totals(self) -> dict[str, Any]:
        """The counts in types of JSON, for `restore`. Those inside are not in it: they enter anew."""
        return {
            "entered": self._entered,
            "ended": self._ended,
            "dwell_s": self._dwell,
            "longest_s": self._longest,
        }

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Continue from what `totals` returned. Raises ValueError for anything else."""
        self._entered = whole_number(totals.get("entered", 0))
        self._ended = whole_number(totals.get("ended", 0))
        self._dwell = _seconds(totals.get("dwell_s", 0.0))
        self._longest = _seconds(totals.get("longest_s", 0.0))


def _inside(point: Point, corners: Sequence[Point]) -> bool:
    """Whether a point is in a polygon: an odd number of edges lies to its right (ray casting).

    Right for concave polygons too, whichever way round the corners go. Plain Python: a zone has few corners
    and a frame few feet, and NumPy's calls would take longer than the loop.
    """
    x, y = point
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
        # ">" on both ends, so that a ray through a corner meets one of its two edges, not both or none.
        if (y1 > y) != (y2 > y) and x < x1 + (x2 - x1) * (y - y1) / (y2 - y1):
            odd = not odd
    return odd


def _self_crossing(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The first points of two edges that cross or touch where they should not, or None.

    By orientations (Cormen et al., Introduction to Algorithms, section 33.1): two segments cross when each
    has its ends on different sides of the other, and touch when an end of one lies on the other.
    """
    edges = list(zip(points, (*points[1:], points[0]), strict=True))
    for (a, b), (c, d) in itertools.combinations(edges, 2):
        if b == c or d == a:  # neighbours share a corner; they clash only when one runs back along the other
            shared, p, q = (b, a, d) if b == c else (a, b, c)
            (px, py), (qx, qy) = (p[0] - shared[0], p[1] - shared[1]), (q[0] - shared[0], q[1] - shared[1])
            if _turn(p, shared, q) == 0 and px * qx + py * qy > 0.0:
                return a, c
            continue
        ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))  # a segment, and an end of the other one
        turns = [_turn(*end) for end in ends]
        crossing = turns[0] != turns[1] and turns[2] != turns[3]
        # An end that is in line with a segment touches it only within the segment's bounding box.
        touching = any(
            turn == 0
            and min(p[0], q[0]) <= r[0] <= max(p[0], q[0])
            and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])
            for turn, (p, q, r) in zip(turns, ends, strict=True)
        )
        if crossing or touching:
            return a, c
    return None


def _turn(a: Point, b: Point, c: Point) -> int:
    """Which way the path a, b, c turns: 1 or -1, and 0 when the three are in one line."""
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])  # twice that of the triangle
    return (area > 0.0) - (area < 0.0)


def _seconds(value: Any) -> float:
    """A duration read from JSON. Raises ValueError for anything but a finite number from 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ValueError(value)
    return float(value)

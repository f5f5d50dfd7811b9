"""Who is in a zone and for how long; a visit is over only after a grace period outside.

The grace period is to a zone what the band of hysteresis is to a line: a foot point that flickers at the
border makes one visit, not many. It is a time and not a band, because it also has to bridge frames in which a
foot point jumps far out, as when the legs are hidden for a moment and the box ends at the hips.

In a queue people stand behind one another, so that a track is lost now and then and goes on under a new id.
A zone that is a queue therefore hands a visit on: whoever appears where somebody inside is not seen at the
moment, and was nowhere else before, is taken for that person.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from edge_centernet.tracking.state import Event, QueueCount, ZoneCount

# Seconds outside a zone before a visit is over: a person who walks needs longer to leave, turn and come back,
# and a detection that flickers does not take as long.
_GRACE_S = 1.0
# Seconds in a queue from which somebody waits, unless the zone says otherwise: who walks through a zone of
# some metres is out of it by then.
_WAITS_AFTER_S = 3.0
# Seconds for which a queue remembers somebody who is not seen: the tracker's 2.5 and five more.
_HELD_S = 7.5
# How far a new track may be from where the lost one was last seen, in units of the object's size, the root of
# width times height: a step of somebody who moves up.
_HEIR_REACH = 1.0
_LATELY_S = 900.0  # what the waiting times of those who left are told of
_LATELY_MOST = 1000  # visits, so that memory stays bounded whatever is seen


@dataclass(frozen=True)
class Zone:
    """A polygon that objects enter and leave; it may be concave.

    relative: the points are fractions of the image's width and height, not pixels.
    queue: seconds, 0 and up, from which somebody inside is waiting; None for a zone that is no queue.
    ignore: nothing in it is detected, and nothing counted.
    """

    name: str
    points: tuple[Point, ...]
    relative: bool = False
    queue: float | None = None
    ignore: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for fewer than 3 points, edges that cross, no area, or a wrong queue."""
        if self.ignore and self.queue is not None:
            raise ConfigError(f"zone {self.name!r}: expected queue or ignore, got both")
        if self.queue is not None and not 0 <= self.queue < math.inf:
            raise ConfigError(f"zone {self.name!r}: expected queue in seconds from 0, got {self.queue:g}")
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

    def hold(self, points: Iterable[Point], size: Size) -> list[bool]:
        """For each point, in pixels of an image of (width, height) `size`, whether it is inside."""
        corners = self.pixels(size)
        return [_inside(point, corners) for point in points]


def parse_zone(text: str, index: int = 1) -> Zone:
    """The zone that "[NAME=]X1,Y1,X2,Y2,X3,Y3,...[;queue[=SECONDS]|;ignore]" describes; else "zone INDEX".

    Numbers are pixels, or fractions of the image when every one is within 0..1. Raises ConfigError.
    """
    places, *settings = text.split(";")
    name, numbers = parse_numbers(places, "zone", index, "X1,Y1,X2,Y2,X3,Y3,...[;queue|;ignore]")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ConfigError(
            f"zone {name!r}: expected 3 points or more as X1,Y1,X2,Y2,X3,Y3,..., "
            f"got {len(numbers)} numbers in {places!r}"
        )
    queue, ignore = None, False
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if key == "ignore" and not equals:
            ignore = True
            continue
        if key != "queue" or (equals and not re.fullmatch(r"\d+(\.\d*)?", value)):
            raise ConfigError(f"zone {name!r}: expected queue, queue=SECONDS or ignore, got {setting!r}")
        queue = float(value) if equals else _WAITS_AFTER_S
    return Zone(name, as_points(numbers), are_relative(numbers), queue, ignore)


class Stay(NamedTuple):
    """Somebody in a zone now. seconds: from the first to the last sighting inside. waits: in a queue."""

    track_id: int
    class_name: str
    seconds: float
    waits: bool


@dataclass
class _Visit:
    """Somebody in a zone.

    since, last: when they came, and when they were last seen inside, in seconds.
    foot, span: where that was, and how large they were, as in `Seen`.
    inside: whether they were inside when they were last seen at all.
    """

    track_id: int
    class_name: str
    since: float
    last: float
    foot: Point
    span: float
    inside: bool = True

    @property
    def seconds(self) -> float:
        # Up to the last sighting inside: neither the grace period nor the time for which a hidden track is
        # remembered is part of a visit. Never negative, because a source's clock may go back.
        return max(0.0, self.last - self.since)


class ZoneCounter:
    """One zone, what it counted, and the visits that still last."""

    def __init__(self, zone: Zone) -> None:
        """Nobody inside yet."""
        self.zone = zone
        self._entered = self._ended = 0
        self._entered_by: Counter[str] = Counter()  # by class
        self._dwell = self._longest = 0.0  # seconds, of visits that ended
        self._visits: dict[int, _Visit] = {}
        self._held: list[_Visit] = []  # in a queue: whose tracks ended inside a moment ago
        self._elsewhere: set[int] = set()  # in a queue: tracks that were seen outside
        self._lately: deque[tuple[float, float]] = deque(maxlen=_LATELY_MOST)  # left at, waited; seconds

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
        queue = self.zone.queue is not None
        ids = {one.id for one in seen}
        for one in seen:
            visit = self._visits.get(one.id)
            if _inside(one.foot, corners):
                if visit is None:
                    visit = self._heir(one, ids) if queue else None
                    if visit is None:
                        visit = _Visit(one.id, one.class_name, seconds, seconds, one.foot, one.span)
                        self._entered += 1
                        self._entered_by[one.class_name] += 1
                        events.append(Event("entered", self.zone.name, one.id, one.class_name, seconds))
                    self._visits[one.id] = visit
                visit.last, visit.foot, visit.span, visit.inside = seconds, one.foot, one.span, True
                continue
            if queue:
                self._elsewhere.add(one.id)
            if visit is not None:
                visit.inside = False
                if seconds - visit.last > _GRACE_S:
                    self._leave(self._visits.pop(one.id), seconds, events)
        for gone in ended:
            self._elsewhere.discard(gone)
            if (visit := self._visits.pop(gone, None)) is None:
                continue
            if queue and visit.inside:
                self._held.append(visit)
            else:
                self._leave(visit, seconds, events)
        # A clock that went back, as when a video begins anew, ends them too.
        for visit in [one for one in self._held if not 0 <= seconds - one.last <= _HELD_S]:
            self._held.remove(visit)
            self._leave(visit, seconds, events)
        while self._lately and seconds - self._lately[0][0] > _LATELY_S:
            self._lately.popleft()

    def _heir(self, one: Seen, ids: set[int]) -> _Visit | None:
        """The visit that a new track in a queue goes on with, taken from the one that had it; or None."""
        if one.id in self._elsewhere:
            return None
        lost = [visit for visit in self._visits.values() if visit.track_id not in ids and visit.inside]
        near = [
            (math.dist(visit.foot, one.foot), visit)
            for visit in [*lost, *self._held]
            if visit.class_name == one.class_name
        ]
        distance, visit = min(near, key=lambda pair: pair[0], default=(math.inf, None))
        if visit is None or distance > _HEIR_REACH * max(one.span, visit.span):
            return None
        if self._visits.pop(visit.track_id, None) is None:
            self._held.remove(visit)
        visit.track_id = one.id
        return visit

    def _leave(self, visit: _Visit, seconds: float, events: list[Event]) -> None:
        dwell = visit.seconds
        self._ended += 1
        self._dwell += dwell
        self._longest = max(self._longest, dwell)
        waited = dwell if self._waits(visit) else None
        if waited is not None:
            self._lately.append((seconds, waited))
        events.append(
            Event(
                "left", self.zone.name, visit.track_id, visit.class_name, seconds, dwell_s=dwell, value=waited
            )
        )

    def _waits(self, visit: _Visit) -> bool:
        return self.zone.queue is not None and visit.seconds >= self.zone.queue

    def stays(self) -> list[Stay]:
        """Everybody inside now."""
        return [
            Stay(visit.track_id, visit.class_name, visit.seconds, self._waits(visit))
            for visit in [*self._visits.values(), *self._held]
        ]

    def count(self) -> ZoneCount:
        """The counts up to now; a visit that still lasts counts up to the last sighting inside."""
        stays = self.stays()
        now = [stay.seconds for stay in stays]
        visits = self._ended + len(now)
        mean = (self._dwell + sum(now)) / visits if visits else 0.0
        inside = Counter(stay.class_name for stay in stays)
        by_class = {name: (inside[name], entered) for name, entered in self._entered_by.items()}
        return ZoneCount(
            self.zone.name,
            len(now),
            self._entered,
            max([self._longest, *now]),
            mean,
            by_class,
            None if self.zone.queue is None else self._queue([stay.seconds for stay in stays if stay.waits]),
        )

    def _queue(self, now: list[float]) -> QueueCount:
        """now: seconds for which those who wait have waited."""
        mean, longest = (sum(now) / len(now), max(now)) if now else (0.0, 0.0)
        left = sorted(waited for _, waited in self._lately)
        if not left:
            return QueueCount(len(now), mean, longest)
        # The nearest rank: a time that somebody did wait, also where only three people left.
        p90 = left[math.ceil(0.9 * len(left)) - 1]
        return QueueCount(len(now), mean, longest, len(left), sum(left) / len(left), p90)

    def totals(self) -> dict[str, Any]:
        """The counts in types of JSON, for `restore`. Those inside are not in it: they enter anew."""
        return {
            "entered": self._entered,
            "ended": self._ended,
            "dwell_s": self._dwell,
            "longest_s": self._longest,
            "classes": dict(self._entered_by),
        }

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Continue from what `totals` returned. Raises AttributeError or ValueError for anything else."""
        self._entered = whole_number(totals.get("entered", 0))
        self._ended = whole_number(totals.get("ended", 0))
        self._dwell = _seconds(totals.get("dwell_s", 0.0))
        self._longest = _seconds(totals.get("longest_s", 0.0))
        # Earlier releases kept none.
        kept = totals.get("classes", {}).items()
        self._entered_by = Counter({name: whole_number(entered) for name, entered in kept})


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

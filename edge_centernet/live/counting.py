"""Who crosses a line and which way, who is in a zone and for how long, and where people spend their time.

Everything looks at the foot point of a track, the middle of its box's lower edge: for a camera that looks down, that is
where the object stands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError
from edge_centernet.live.state import Event, LineCount, Tally, Tracks, ZoneCount

Point = tuple[float, float]
Size = tuple[int, int]  # width, height of the picture, pixels

_BAND = 0.15  # half the width of the band around a line, in units of the object's size, sqrt(width * height)
_GRACE_S = 1.0  # seconds outside a zone before a visit is over
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Line:
    """A line segment that is crossed "in" and "out".

    Who stands at `start` and looks to `end` has "in" on the right-hand side of the picture: crossing to there is
    "in", crossing back is "out". relative: the points are fractions of the picture's width and height, not pixels.
    """

    name: str
    start: Point
    end: Point
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a line without length."""
        if self.start == self.end:
            raise ConfigError(f"line {self.name!r}: expected two different points, got {_say(self.start)} twice")

    def pixels(self, size: Size) -> tuple[Point, Point]:
        """Its first and second point in a picture of (width, height)."""
        start, end = _scaled((self.start, self.end), self.relative, size)
        return start, end

    def arrow(self, size: Size, length: float) -> tuple[Point, Point]:
        """Tail and tip of an arrow of `length` pixels from the middle of the line to its "in" side, for drawing."""
        (x1, y1), (x2, y2) = self.pixels(size)
        x, y, long = (x1 + x2) / 2.0, (y1 + y2) / 2.0, math.hypot(x2 - x1, y2 - y1)
        return (x, y), (x - length * (y2 - y1) / long, y + length * (x2 - x1) / long)


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
                f"zone {self.name!r}: expected edges that do not cross; those from {_say(clash[0])} and from "
                f"{_say(clash[1])} do; give the corners in the order in which one walks around the zone"
            )

    def pixels(self, size: Size) -> tuple[Point, ...]:
        """Its corners in a picture of (width, height)."""
        return _scaled(self.points, self.relative, size)


def parse_line(text: str, index: int = 1) -> Line:
    """The line that "[NAME=]X1,Y1,X2,Y2" says; without a name it is "line INDEX".

    Numbers are pixels, or fractions of the picture when every one is within 0..1. Raises ConfigError.
    """
    name, numbers = _parse(text, "line", index, "X1,Y1,X2,Y2")
    if len(numbers) != 4:
        raise ConfigError(f"line {name!r}: expected 4 numbers X1,Y1,X2,Y2, got {len(numbers)} in {text!r}")
    start, end = _points(numbers)
    return Line(name, start, end, _relative(numbers))


def parse_zone(text: str, index: int = 1) -> Zone:
    """The zone that "[NAME=]X1,Y1,X2,Y2,X3,Y3,..." says; without a name it is "zone INDEX".

    Numbers are pixels, or fractions of the picture when every one is within 0..1. Raises ConfigError.
    """
    name, numbers = _parse(text, "zone", index, "X1,Y1,X2,Y2,X3,Y3,...")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ConfigError(
            f"zone {name!r}: expected 3 points or more as X1,Y1,X2,Y2,X3,Y3,..., got {len(numbers)} numbers in {text!r}"
        )
    return Zone(name, _points(numbers), _relative(numbers))


class Counter:
    """Counts what tracks do at lines and zones. Its memory is bounded: a track that ended is forgotten.

    Feed it every Tracks of one tracker, in order.
    """

    def __init__(
        self,
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        classes: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """classes: names by class_id, for the events. state: what `state` returned before a restart.

        Raises ConfigError when two lines or zones share a name, or for a state that is none.
        """
        names = [line.name for line in lines] + [zone.name for zone in zones]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"lines and zones: expected different names, got {twice[0]!r} twice")
        self._lines = [_LineCounter(line) for line in lines]
        self._zones = [_ZoneCounter(zone) for zone in zones]
        self._classes = tuple(classes)
        if state is not None:
            self.restore(state)

    def update(self, tracks: Tracks, seconds: float, size: Size) -> Tally:
        """Count one frame. seconds: the frame's own time; size: (width, height) of its picture in pixels."""
        # Who is cut off by the edge of the picture stands in a zone that reaches it: half a pixel inside, not on it.
        feet = np.clip(foot_points(tracks), 0.5, np.array(size) - 0.5)
        boxes = tracks.found.xyxy
        spans = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        seen = [
            _Seen(int(id_), self._class_name(int(class_id)), (float(x), float(y)), float(span))
            for id_, class_id, (x, y), span in zip(tracks.id, tracks.found.class_id, feet, spans, strict=True)
        ]
        events: list[Event] = []
        for line in self._lines:
            line.update(seen, tracks.ended, seconds, size, events)
        for zone in self._zones:
            zone.update(seen, tracks.ended, seconds, size, events)
        return self._tally(seconds, events)

    def state(self) -> dict[str, Any]:
        """The totals as JSON can hold them. Who is on the way or inside is not kept."""
        return {
            "lines": {counter.line.name: counter.totals() for counter in self._lines},
            "zones": {counter.zone.name: counter.totals() for counter in self._zones},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; lines and zones that it does not name begin at 0. Raises ConfigError."""
        try:
            for line in self._lines:
                line.restore(state["lines"].get(line.line.name, {}))
            for zone in self._zones:
                zone.restore(state["zones"].get(zone.zone.name, {}))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ConfigError(
                "kept counts: expected what Counter.state() returned; remove them to begin at 0"
            ) from None

    def _class_name(self, class_id: int) -> str:
        return self._classes[class_id] if class_id < len(self._classes) else str(class_id)

    def _tally(self, seconds: float, events: list[Event]) -> Tally:
        return Tally(
            tuple(counter.count() for counter in self._lines),
            tuple(counter.count(seconds) for counter in self._zones),
            tuple(events),
        )


class PresenceMap:
    """Seconds that foot points spent in each cell of a grid over the picture: 64 cells along its longer side."""

    _CELLS = 64
    _LONGEST_S = 1.0  # counted between two frames; a camera that was away for an hour saw nobody stand for an hour

    def __init__(self) -> None:
        """The grid takes its shape from the first frame."""
        self.seconds: NDArray[np.float64] = np.zeros((0, 0))  # (rows, columns)
        self._last: float | None = None

    def update(self, tracks: Tracks, seconds: float, size: Size) -> None:
        """Add the time since the last frame to the cell of everyone seen. size: (width, height) in pixels."""
        width, height = size
        if not self.seconds.size:
            cell = max(width, height) / self._CELLS
            self.seconds = np.zeros((max(1, round(height / cell)), max(1, round(width / cell))))
        dt = 0.0 if self._last is None else min(max(seconds - self._last, 0.0), self._LONGEST_S)
        self._last = seconds
        rows, columns = self.seconds.shape
        feet = foot_points(tracks)
        x = np.clip((feet[:, 0] * (columns / width)).astype(np.intp), 0, columns - 1)
        y = np.clip((feet[:, 1] * (rows / height)).astype(np.intp), 0, rows - 1)
        np.add.at(self.seconds, (y, x), dt)

    def picture(self, background: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR -> the same with the map over it and a legend; where nobody was it stays as it is."""
        canvas = np.ascontiguousarray(background).copy()
        height, width = canvas.shape[:2]
        most = float(self.seconds.max(initial=0.0))
        if most > 0.0:
            share = np.sqrt(self.seconds / most).astype(np.float32)  # a root, or a bench outshines every path
            share = np.clip(cv2.resize(share, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
            colors = cv2.applyColorMap((255.0 * share).astype(np.uint8), cv2.COLORMAP_TURBO)
            alpha = 0.7 * np.minimum(4.0 * share, 1.0)[..., None]
            canvas = (canvas * (1.0 - alpha) + colors * alpha).astype(np.uint8)
        _legend(canvas, most)
        return canvas


def foot_points(tracks: Tracks) -> NDArray[np.float32]:
    """(N, 2) float32 x and y of the middle of each box's lower edge, pixels."""
    boxes = tracks.found.xyxy
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / 2.0, boxes[:, 3]], 1)


@dataclass(frozen=True)
class _Seen:
    """One track in one frame."""

    id: int
    class_name: str
    foot: Point
    span: float  # sqrt(width * height) of its box


@dataclass
class _Walk:
    """What a line knows of a track.

    side: where it was last clearly: 1 "in", -1 "out", 0 not known yet. off, along: where it was last seen (`_place`).
    passed: the place along the line where it last came from one side to the other.
    """

    side: int
    off: float
    along: float
    passed: float = math.nan


class _LineCounter:
    """One line, and the walks of the tracks of now."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._inward = self._outward = 0
        self._walks: dict[int, _Walk] = {}

    def update(
        self, seen: Sequence[_Seen], ended: Iterable[int], seconds: float, size: Size, events: list[Event]
    ) -> None:
        start, end = self.line.pixels(size)
        for one in seen:
            direction = self._step(one, start, end)
            if direction:
                events.append(
                    Event("crossed", self.line.name, one.id, one.class_name, seconds, "in" if direction > 0 else "out")
                )
        for gone in ended:
            self._walks.pop(gone, None)

    def _step(self, one: _Seen, start: Point, end: Point) -> int:
        """1 for a crossing in, -1 for one out, else 0."""
        off, along = _place(one.foot, start, end)
        band = _BAND * one.span
        side = 0 if abs(off) <= band else (1 if off > 0.0 else -1)
        walk = self._walks.get(one.id)
        if walk is None:
            self._walks[one.id] = _Walk(side, off, along)
            return 0
        if (walk.off > 0.0) != (off > 0.0):
            walk.passed = walk.along + (along - walk.along) * walk.off / (walk.off - off)
        walk.off, walk.along = off, along
        if side in (0, walk.side):
            return 0
        crossed = walk.side != 0 and 0.0 <= walk.passed <= 1.0
        walk.side = side
        if not crossed:
            return 0
        if side > 0:
            self._inward += 1
        else:
            self._outward += 1
        return side

    def count(self) -> LineCount:
        return LineCount(self.line.name, self._inward, self._outward)

    def totals(self) -> dict[str, Any]:
        return {"in": self._inward, "out": self._outward}

    def restore(self, totals: Mapping[str, Any]) -> None:
        self._inward, self._outward = _whole(totals.get("in", 0)), _whole(totals.get("out", 0))


@dataclass
class _Visit:
    """Someone in a zone: when they came, when they were last seen inside."""

    since: float
    last: float
    class_name: str


class _ZoneCounter:
    """One zone, and the visits of now."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self._entered = self._ended = 0
        self._dwell = self._longest = 0.0  # seconds, of visits that ended
        self._visits: dict[int, _Visit] = {}

    def update(
        self, seen: Sequence[_Seen], ended: Iterable[int], seconds: float, size: Size, events: list[Event]
    ) -> None:
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
        now = [max(0.0, visit.last - visit.since) for visit in self._visits.values()]
        visits = self._ended + len(now)
        mean = (self._dwell + sum(now)) / visits if visits else 0.0
        return ZoneCount(self.zone.name, len(now), self._entered, max([self._longest, *now]), mean)

    def totals(self) -> dict[str, Any]:
        return {"entered": self._entered, "ended": self._ended, "dwell_s": self._dwell, "longest_s": self._longest}

    def restore(self, totals: Mapping[str, Any]) -> None:
        self._entered, self._ended = _whole(totals.get("entered", 0)), _whole(totals.get("ended", 0))
        self._dwell, self._longest = _seconds(totals.get("dwell_s", 0.0)), _seconds(totals.get("longest_s", 0.0))


def _place(foot: Point, start: Point, end: Point) -> tuple[float, float]:
    """Pixels from the line (positive on its "in" side), and the place along it: 0 its start, 1 its end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = foot[0] - start[0], foot[1] - start[1]
    long = math.hypot(dx, dy)
    return (dx * y - dy * x) / long, (dx * x + dy * y) / (long * long)


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
        turn == 0 and min(p[0], q[0]) <= r[0] <= max(p[0], q[0]) and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])
        for turn, (p, q, r) in zip(turns, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True)
    )


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area of the triangle abc: 0 when they are in one line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _sign(value: float) -> int:
    return (value > 0.0) - (value < 0.0)


def _parse(text: str, kind: str, index: int, form: str) -> tuple[str, list[float]]:
    """The name and the numbers of "[NAME=]N,N,..."."""
    before, equals, after = text.rpartition("=")
    name = before.strip() if equals else f"{kind} {index}"
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"{kind} {text!r}: expected a name of 1 to {_LONGEST_NAME} printable characters before '='")
    try:
        numbers = [float(part) for part in after.split(",")]
    except ValueError:
        raise ConfigError(f"{kind} {name!r}: expected [NAME=]{form}, got {text!r}") from None
    if not all(math.isfinite(number) and abs(number) <= 1e6 for number in numbers):
        raise ConfigError(f"{kind} {name!r}: expected finite numbers, got {text!r}")
    return name, numbers


def _points(numbers: Sequence[float]) -> tuple[Point, ...]:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _relative(numbers: Sequence[float]) -> bool:
    return all(0.0 <= number <= 1.0 for number in numbers)


def _scaled(points: Sequence[Point], relative: bool, size: Size) -> tuple[Point, ...]:
    wide, high = size if relative else (1, 1)
    return tuple((x * wide, y * high) for x, y in points)


def _say(point: Point) -> str:
    return f"{point[0]:g},{point[1]:g}"


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ValueError(value)
    return float(value)


def _legend(canvas: NDArray[np.uint8], most: float) -> None:
    """The colours from 0 to the most seconds, in the lower left corner."""
    height, width = canvas.shape[:2]
    scale = max(0.4, max(width, height) / 1600)
    long, high, pad = max(40, width // 5), max(8, height // 40), max(4, height // 80)
    top = height - high - pad
    share = np.linspace(0.0, 1.0, long, dtype=np.float32)
    bar = cv2.applyColorMap(np.broadcast_to((255.0 * share).astype(np.uint8), (high, long)).copy(), cv2.COLORMAP_TURBO)
    room = canvas[top : top + high, pad : pad + long]
    room[:] = bar[: room.shape[0], : room.shape[1]]
    for thick, ink in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        cv2.putText(
            canvas, f"0 to {most:.1f} s", (pad, top - pad), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA
        )

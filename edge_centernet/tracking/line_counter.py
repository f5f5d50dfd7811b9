"""Who crosses a line and which way, with hysteresis: a band around the line in which nobody changes sides.

Boxes tremble by some pixels from frame to frame, so a foot point that stays on the line is now on one side of
it, now on the other. Counting each change of sign would count that person many times. As a Schmitt trigger
has two thresholds, the line has two edges, one on each side: a track is on a side only once its foot point is
beyond the edge there, and crosses when it was last beyond one edge and now is beyond the other.

The band grows with the object (`_BAND`), because the trembling does. A band in pixels would be too narrow for
people near the camera and would swallow those who are far away. Requiring
several consecutive frames on the new side instead would make the delay depend on the frame rate, and would
miss anyone who is hidden just after crossing.
"""

from __future__ import annotations

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
from edge_centernet.tracking.state import Event, LineCount

# Half the width of the band, in units of the object's size, sqrt(width * height). A detected centre has a
# standard deviation of 0.12 of these units (`_NOISE` in tracker.py, measured on PETS 2009), so a foot point
# that rests on the line stays in the band most of the time, and one on its edge is 0.3 from the other edge.
_BAND = 0.15


@dataclass(frozen=True)
class Line:
    """A line segment that is crossed "in" and "out".

    Somebody who stands at `start` and looks to `end` has "in" on the right-hand side of the image: crossing
    to there is "in", crossing back is "out".

    relative: the points are fractions of the image's width and height, not pixels.
    """

    name: str
    start: Point
    end: Point
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a line without length."""
        if self.start == self.end:
            raise ConfigError(
                f"line {self.name!r}: expected two different points, got {point_text(self.start)} twice"
            )

    def pixels(self, size: Size) -> tuple[Point, Point]:
        """Its first and second point in an image of (width, height), pixels."""
        start, end = scaled((self.start, self.end), self.relative, size)
        return start, end

    def arrow(self, size: Size, length: float) -> tuple[Point, Point]:
        """Tail and tip of an arrow to draw: from the line's middle `length` pixels to its "in" side."""
        # The direction (dx, dy) turned by a quarter to the right, which is (-dy, dx) where y points down.
        (x1, y1), (x2, y2) = self.pixels(size)
        x, y, long = (x1 + x2) / 2.0, (y1 + y2) / 2.0, math.hypot(x2 - x1, y2 - y1)
        return (x, y), (x - length * (y2 - y1) / long, y + length * (x2 - x1) / long)


def parse_line(text: str, index: int = 1) -> Line:
    """The line that "[NAME=]X1,Y1,X2,Y2" describes; without a name it is "line INDEX".

    Numbers are pixels, or fractions of the image when every one is within 0..1. Raises ConfigError.
    """
    name, numbers = parse_numbers(text, "line", index, "X1,Y1,X2,Y2")
    if len(numbers) != 4:
        raise ConfigError(f"line {name!r}: expected 4 numbers X1,Y1,X2,Y2, got {len(numbers)} in {text!r}")
    start, end = as_points(numbers)
    return Line(name, start, end, are_relative(numbers))


@dataclass
class _Walk:
    """What a line remembers of a track.

    side: the side on which it was last outside the band: 1 "in", -1 "out", 0 if it never was yet.
    off, along: where its foot point was last seen (`_place`).
    passed: where along the line its foot point last changed sides, as in `_place`; NaN before that.
    """

    side: int
    off: float
    along: float
    passed: float = math.nan


class LineCounter:
    """One line, what it counted, and where the current tracks are with respect to it."""

    def __init__(self, line: Line) -> None:
        """Nothing counted yet."""
        self.line = line
        self._inward = self._outward = 0
        self._by_class: dict[str, tuple[int, int]] = {}  # (in, out)
        self._walks: dict[int, _Walk] = {}

    def update(
        self, seen: Sequence[Seen], ended: Iterable[int], seconds: float, size: Size, events: list[Event]
    ) -> None:
        """Count one frame.

        Args:
            seen: the tracks in the frame.
            ended: ids of tracks that the tracker gave up, to forget.
            seconds: the frame's own time.
            size: (width, height) of the image, pixels.
            events: the crossings of this frame are appended to it.
        """
        start, end = self.line.pixels(size)
        for one in seen:
            side = self._step(one, start, end)
            if side:
                self._inward += side > 0
                self._outward += side < 0
                inward, outward = self._by_class.get(one.class_name, (0, 0))
                self._by_class[one.class_name] = inward + (side > 0), outward + (side < 0)
                direction = "in" if side > 0 else "out"
                event = Event("crossed", self.line.name, one.id, one.class_name, seconds, direction)
                events.append(event)
        for gone in ended:
            self._walks.pop(gone, None)

    def _step(self, one: Seen, start: Point, end: Point) -> int:
        """Follow a track into this frame: 1 for a crossing in, -1 for one out, else 0."""
        off, along = _place(one.foot, start, end)
        band = _BAND * one.span
        side = 0 if abs(off) <= band else (1 if off > 0.0 else -1)
        walk = self._walks.get(one.id)
        # 1. A track that is new has not crossed anything, even if it appears in the band.
        if walk is None:
            self._walks[one.id] = _Walk(side, off, along)
            return 0
        # 2. Where it passes the line itself, on the straight way from where it was last seen. That is noted
        #    here, in the middle of the band, and not where it leaves the band: someone who walks along the
        #    line may enter the band beside the segment and leave it beyond the segment's end.
        if (walk.off > 0.0) != (off > 0.0):
            walk.passed = walk.along + (along - walk.along) * walk.off / (walk.off - off)
        walk.off, walk.along = off, along
        # 3. The hysteresis: in the band, or outside it on the same side as before, nothing is decided.
        if side in (0, walk.side):
            return 0
        # 4. It is on another side than before. It crossed if it was on one before and passed the line between
        #    the ends of the segment. Otherwise it went round, which only changes the side. NaN compares as
        #    false: a track that has not passed the line has not crossed it.
        crossed = walk.side != 0 and 0.0 <= walk.passed <= 1.0
        walk.side = side
        return side if crossed else 0

    def count(self) -> LineCount:
        """The counts up to now."""
        return LineCount(self.line.name, self._inward, self._outward, dict(self._by_class))

    def totals(self) -> dict[str, Any]:
        """The counts in types of JSON, for `restore`."""
        counted = self.count().as_dict()
        return {key: counted[key] for key in ("in", "out", "classes")}

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Continue from what `totals` returned. Raises AttributeError, KeyError or ValueError otherwise."""
        self._inward, self._outward = whole_number(totals.get("in", 0)), whole_number(totals.get("out", 0))
        # Earlier releases kept none.
        self._by_class = {
            name: (whole_number(of["in"]), whole_number(of["out"]))
            for name, of in totals.get("classes", {}).items()
        }


def _place(foot: Point, start: Point, end: Point) -> tuple[float, float]:
    """Pixels from the line (positive on its "in" side), and the place along it: 0 its start, 1 its end."""
    # The cross and the dot product of the line's direction with the way from its start to the foot point.
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = foot[0] - start[0], foot[1] - start[1]
    long = math.hypot(dx, dy)
    return (dx * y - dy * x) / long, (dx * x + dy * y) / (long * long)

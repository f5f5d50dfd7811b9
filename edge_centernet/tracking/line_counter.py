"""Who crosses a line and which way, with hysteresis: a band around the line in which nobody changes sides.

The band grows with the object (`_BAND`), so that a box that trembles on the line is counted once.
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

_BAND = 0.15  # half the width of the band around a line, in units of the object's size, sqrt(width * height)


@dataclass(frozen=True)
class Line:
    """A line segment that is crossed "in" and "out".

    Who stands at `start` and looks to `end` has "in" on the right-hand side of the picture: crossing to there
    is "in", crossing back is "out". relative: the points are fractions of the picture's width and height, not
    pixels.
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
        """Its first and second point in a picture of (width, height)."""
        start, end = scaled((self.start, self.end), self.relative, size)
        return start, end

    def arrow(self, size: Size, length: float) -> tuple[Point, Point]:
        """Tail and tip of an arrow of `length` pixels from the middle of the line to its "in" side, for drawing."""
        (x1, y1), (x2, y2) = self.pixels(size)
        x, y, long = (x1 + x2) / 2.0, (y1 + y2) / 2.0, math.hypot(x2 - x1, y2 - y1)
        return (x, y), (x - length * (y2 - y1) / long, y + length * (x2 - x1) / long)


def parse_line(text: str, index: int = 1) -> Line:
    """The line that "[NAME=]X1,Y1,X2,Y2" says; without a name it is "line INDEX".

    Numbers are pixels, or fractions of the picture when every one is within 0..1. Raises ConfigError.
    """
    name, numbers = parse_numbers(text, "line", index, "X1,Y1,X2,Y2")
    if len(numbers) != 4:
        raise ConfigError(f"line {name!r}: expected 4 numbers X1,Y1,X2,Y2, got {len(numbers)} in {text!r}")
    start, end = as_points(numbers)
    return Line(name, start, end, are_relative(numbers))


@dataclass
class _Walk:
    """What a line knows of a track.

    side: where it was last clearly: 1 "in", -1 "out", 0 not known yet. off, along: where it was last seen
      (`_place`).
    passed: the place along the line where it last came from one side to the other.
    """

    side: int
    off: float
    along: float
    passed: float = math.nan


class LineCounter:
    """One line, and the walks of the tracks of now."""

    def __init__(self, line: Line) -> None:
        """Nothing counted yet."""
        self.line = line
        self._inward = self._outward = 0
        self._walks: dict[int, _Walk] = {}

    def update(
        self, seen: Sequence[Seen], ended: Iterable[int], seconds: float, size: Size, events: list[Event]
    ) -> None:
        """Count one frame and append what happened to `events`. ended: ids of tracks to forget."""
        start, end = self.line.pixels(size)
        for one in seen:
            direction = self._step(one, start, end)
            if direction:
                events.append(
                    Event(
                        "crossed",
                        self.line.name,
                        one.id,
                        one.class_name,
                        seconds,
                        "in" if direction > 0 else "out",
                    )
                )
        for gone in ended:
            self._walks.pop(gone, None)

    def _step(self, one: Seen, start: Point, end: Point) -> int:
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
        """The counts now."""
        return LineCount(self.line.name, self._inward, self._outward)

    def totals(self) -> dict[str, Any]:
        """The counts as JSON can hold them, for `restore`."""
        return {"in": self._inward, "out": self._outward}

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Go on from what `totals` returned. Raises ValueError for anything else."""
        self._inward, self._outward = whole_number(totals.get("in", 0)), whole_number(totals.get("out", 0))


def _place(foot: Point, start: Point, end: Point) -> tuple[float, float]:
    """Pixels from the line (positive on its "in" side), and the place along it: 0 its start, 1 its end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = foot[0] - start[0], foot[1] - start[1]
    long = math.hypot(dx, dy)
    return (dx * y - dy * x) / long, (dx * x + dy * y) / (long * long)

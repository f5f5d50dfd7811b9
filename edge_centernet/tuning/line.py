"""Where to count: the line that most paths cross, squarely, large enough, and long before and after it.

Lines through the view at several angles and distances are tried on the tracks, by the rule that counts
(`tracking.line_counter`). Each crossing adds up to 1 to a line's worth: less where the track is seen for a
short time before or after, where it passes at a flat angle, and where the object is small. The best line is
cut to the stretch that is crossed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_centernet.detections import Detections
from edge_centernet.tracking.geometry import Point, Size, foot_points
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.scene import Counter
from edge_centernet.tracking.state import Tracks
from edge_centernet.tracking.tracker import Tracker, TrackerOptions
from edge_centernet.tuning.view import View

FEWEST = 3  # crossings, below which no place is better than another
_ANGLES, _OFFSETS = 8, 11  # of the lines that are tried
_ENOUGH_S = 1.5  # seconds before and behind the line, from which on more is worth no more
_HIGH = 24.0  # pixels of an object's height, likewise
_MARGIN = 0.1  # of the image's shorter side, that the line goes beyond what crossed it


@dataclass(frozen=True)
class Place:
    """A line to propose, and what it counted in the view. seconds: that the view stands for."""

    line: Line
    inward: int
    outward: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Paths:
    """The tracks of a view.

    frames: for each of its frames. feet: id -> (seconds, x, y, height in pixels) of each sighting.
    """

    frames: tuple[Tracks, ...]
    feet: dict[int, list[tuple[float, float, float, float]]]


def follow(found: Sequence[Detections], threshold: float, view: View) -> Paths:
    """Track what was found, as `detect` does at this threshold."""
    options = TrackerOptions()
    tracker = Tracker(threshold, options)
    frames: list[Tracks] = []
    feet: dict[int, list[tuple[float, float, float, float]]] = {}
    for frame, one in zip(view.frames, found, strict=True):
        tracks = tracker.update(one[one.score >= options.low_for(threshold)], frame.seconds)
        frames.append(tracks)
        heights = tracks.found.xyxy[:, 3] - tracks.found.xyxy[:, 1]
        for id_, (x, y), height in zip(tracks.id, foot_points(tracks.found), heights, strict=True):
            feet.setdefault(int(id_), []).append((frame.seconds, float(x), float(y), float(height)))
    return Paths(tuple(frames), feet)


def place_line(paths: Paths, view: View) -> Place | None:
    """The best line; None where too few cross any."""
    lines = _lines(view.size)
    crossings = _crossings(lines, paths, view)
    worths = [sum(_worth(line, *one, paths, view.size) for one in crossings[line.name]) for line in lines]
    best = lines[int(np.argmax(worths))]
    if len(crossings[best.name]) < FEWEST:
        return None
    line = _cut(best, [_at(paths, *one[:2]) for one in crossings[best.name]], view.size)
    counted = _crossings([line], paths, view)[line.name]
    inward = sum(one[2] for one in counted)
    return Place(line, inward, len(counted) - inward, view.seconds)


def _lines(size: Size) -> list[Line]:
    """Chords of the image in fractions of it, at evenly spaced angles and distances from its middle."""
    width, height = size
    reach = math.hypot(width, height)
    lines = []
    for a in range(_ANGLES):
        along = math.cos(math.pi * a / _ANGLES), math.sin(math.pi * a / _ANGLES)
        extent = (abs(along[1]) * width + abs(along[0]) * height) / 2.0
        for k in range(1, _OFFSETS + 1):
            off = extent * (2.0 * k / (_OFFSETS + 1) - 1.0)
            middle = width / 2.0 - along[1] * off, height / 2.0 + along[0] * off
            ends = _clipped(middle, along, reach, size)
            if ends is not None:
                lines.append(Line(f"{a} {k}", *ends, relative=True))
    return lines


def _clipped(middle: Point, along: Point, reach: float, size: Size) -> tuple[Point, Point] | None:
    """The part of a straight line that lies in the image, in fractions of it."""
    low, high = -reach, reach
    for start, step, limit in zip(middle, along, size, strict=True):
        if abs(step) < 1e-9:
            if not 0.0 <= start <= limit:
                return None
            continue
        at = sorted((-start / step, (limit - start) / step))
        low, high = max(low, at[0]), min(high, at[1])
    if high - low < 0.1 * min(size):
        return None
    ends = [
        tuple(
            round(min(1.0, max(0.0, (m + t * d) / s)), 3) for m, d, s in zip(middle, along, size, strict=True)
        )
        for t in (low, high)
    ]
    return (ends[0][0], ends[0][1]), (ends[1][0], ends[1][1])


def _crossings(lines: Sequence[Line], paths: Paths, view: View) -> dict[str, list[tuple[int, float, bool]]]:
    """Name of a line -> (id, seconds, whether inward) of each crossing."""
    counter = Counter(lines)
    found: dict[str, list[tuple[int, float, bool]]] = {line.name: [] for line in lines}
    for frame, tracks in zip(view.frames, paths.frames, strict=True):
        for event in counter.update(tracks, frame.seconds, view.size).events:
            found[event.where].append((event.track_id, event.seconds, event.direction == "in"))
    return found


def _at(paths: Paths, id_: int, seconds: float) -> Point:
    """Where a track was at a time."""
    _, x, y, _ = min(paths.feet[id_], key=lambda one: abs(one[0] - seconds))
    return x, y


def _worth(line: Line, id_: int, seconds: float, _: bool, paths: Paths, size: Size) -> float:
    """What a crossing says for a line, 0 to 1."""
    feet = paths.feet[id_]
    before, after = seconds - feet[0][0], feet[-1][0] - seconds
    long = min(before, after, _ENOUGH_S) / _ENOUGH_S
    near = [one for one in feet if abs(one[0] - seconds) <= _ENOUGH_S / 2.0]
    (x1, y1), (x2, y2) = line.pixels(size)
    dx, dy = near[-1][1] - near[0][1], near[-1][2] - near[0][2]
    way = math.hypot(dx, dy) * math.hypot(x2 - x1, y2 - y1)
    square = abs(dx * (y2 - y1) - dy * (x2 - x1)) / way if way else 0.0  # sine of the angle between them
    return long * square * min(1.0, float(np.median([one[3] for one in near])) / _HIGH)


def _cut(line: Line, crossed: Sequence[Point], size: Size) -> Line:
    """The stretch of a line that is crossed, with a margin at both ends."""
    (x1, y1), (x2, y2) = line.pixels(size)
    length = math.hypot(x2 - x1, y2 - y1)
    along = (x2 - x1) / length, (y2 - y1) / length
    at = [(x - x1) * along[0] + (y - y1) * along[1] for x, y in crossed]
    margin = _MARGIN * min(size)
    low, high = max(0.0, min(at) - margin), min(length, max(at) + margin)
    ends = [
        (round((x1 + t * along[0]) / size[0], 3), round((y1 + t * along[1]) / size[1], 3))
        for t in (low, high)
    ]
    return Line("line", ends[0], ends[1], relative=True)

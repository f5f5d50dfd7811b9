"""Metres on the floor: how fast people walk, and where, seen from above.

Four points of the image whose places on the floor were measured give a homography: every point of a plane is
seen by a straight ray, so this holds for the whole floor, and for nothing that is above it. Feet are on it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError
from edge_centernet.tracking.geometry import Point, Size, are_relative, as_points, foot_points, scaled
from edge_centernet.tracking.presence import PresenceMap
from edge_centernet.tracking.state import Tracks

Floats = NDArray[np.float64]

# Seconds of a track from which its speed is taken. Boxes breathe with the gait, which takes about a second
# for two steps: over a whole one it cancels out.
_WINDOW_S = 1.2
_LEAST_S = 0.5  # of it, before a speed is told
_LONGER_SIDE = 800  # of a plan's picture, pixels
_MARGIN = 0.15  # around the measured points, in sizes of what they span
_FADE_EVERY_S, _FADE = 60.0, 0.9  # paths on the plan go pale with the time
_LONGEST_S = 1.0  # between two points that a line may join


@dataclass(frozen=True)
class Floor:
    """Four points on the floor.

    image: where they are in the image, in order around the quadrilateral.
    metres: where they are on the floor, in the same order; x and y of any system that is at right angles.
    relative: `image` is in fractions of width and height, not pixels.
    """

    image: tuple[Point, ...]
    metres: tuple[Point, ...]
    relative: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError where the points are not four corners of an area, in order around it."""
        for points, what in ((self.image, "points"), (self.metres, "metres")):
            corners = np.array(points, np.float32)
            if len(points) != 4 or not cv2.isContourConvex(corners) or cv2.contourArea(corners) <= 0.0:
                raise ConfigError(
                    f"floor: expected as {what} four corners of an area on the floor, one after the other "
                    f"around it, got {points}"
                )

    def to_metres(self, points: NDArray[np.floating], size: Size) -> Floats:
        """(N, 2) pixels of an image of (width, height) -> (N, 2) metres; NaN from the horizon upwards."""
        image = np.array(scaled(self.image, self.relative, size), np.float32)
        matrix = cv2.getPerspectiveTransform(image, np.array(self.metres, np.float32))
        # The third coordinate changes its sign at the horizon; the corners are below it.
        flat = np.column_stack([points, np.ones(len(points))]) @ matrix.T  # (N, 3)
        corner = float((matrix @ (*image[0], 1.0))[2])
        below = flat[:, 2] / corner > 1e-6
        found = np.full((len(points), 2), np.nan)
        found[below] = flat[below, :2] / flat[below, 2:]
        return found


def parse_floor(text: str) -> Floor:
    """The floor that "X1,Y1,...,X4,Y4=M1,N1,...,M4,N4" describes: pixels or fractions, and their metres.

    Raises ConfigError.
    """
    image, _, metres = text.partition("=")
    try:
        numbers = [[float(part) for part in side.split(",")] for side in (image, metres)]
    except ValueError:
        numbers = []
    if [len(side) for side in numbers] != [8, 8] or not all(
        math.isfinite(n) for side in numbers for n in side
    ):
        raise ConfigError(
            f"floor: expected X1,Y1,...,X4,Y4=M1,N1,...,M4,N4, eight numbers each, got {text!r}"
        )
    return Floor(as_points(numbers[0]), as_points(numbers[1]), are_relative(numbers[0]))


class FloorTracks:
    """Gives tracks their places on the floor and their speeds. Feed it every Tracks of one tracker."""

    def __init__(self, floor: Floor) -> None:
        """No track yet."""
        self._floor = floor
        self._recent: dict[int, deque[tuple[float, float, float]]] = {}  # seconds, x, y of a track

    def update(self, tracks: Tracks, seconds: float, size: Size) -> Tracks:
        """The same tracks with `metres` and `speed`. seconds: the frame's own time; size: of its image."""
        metres = self._floor.to_metres(foot_points(tracks.found), size)
        speed = np.full(len(tracks), np.nan)
        for i, (id_, (x, y)) in enumerate(zip(tracks.id.tolist(), metres.tolist(), strict=True)):
            recent = self._recent.setdefault(id_, deque())
            if math.isfinite(x):
                recent.append((seconds, x, y))
            while recent and seconds - recent[0][0] > _WINDOW_S:
                recent.popleft()
            if len(recent) >= 3 and recent[-1][0] - recent[0][0] >= _LEAST_S:
                # The slope of the straight line that fits best, in x and in y.
                t, *places = np.array(recent).T
                t -= t.mean()
                speed[i] = math.hypot(*(float(t @ place) / float(t @ t) for place in places))
        for id_ in tracks.ended:
            self._recent.pop(id_, None)
        return replace(tracks, metres=metres, speed=speed)


class Plan:
    """Presence and paths on the floor, seen from above. Its memory is bounded."""

    def __init__(self, floor: Floor) -> None:
        """Nobody seen yet; the plan reaches a little beyond the floor's four points."""
        corners = np.array(floor.metres)
        span = np.ptp(corners, axis=0).max()
        low, high = corners.min(0) - _MARGIN * span, corners.max(0) + _MARGIN * span
        self._low, self._scale = low, _LONGER_SIDE / (high - low).max()  # pixels in a metre
        width, height = np.ceil((high - low) * self._scale).astype(int).tolist()
        self.size: Size = (width, height)
        self._corners = np.round(self.to_pixels(corners)).astype(np.int32)
        self._presence = PresenceMap()
        self._paths = np.zeros((height, width), np.float32)  # 0..1
        self._last: dict[int, tuple[float, NDArray[np.int32]]] = {}  # of each track: seconds, pixel
        self._faded: float | None = None

    def to_pixels(self, metres: Floats) -> Floats:
        """(N, 2) metres -> (N, 2) pixels of the picture."""
        pixels: Floats = (metres - self._low) * self._scale
        return pixels

    def update(self, tracks: Tracks, seconds: float) -> None:
        """Add one frame. tracks: with their metres. seconds: the frame's own time."""
        metres = np.zeros((0, 2)) if tracks.metres is None else tracks.metres
        pixels = self.to_pixels(metres)
        here = ((pixels >= 0) & (pixels < self.size)).all(1)  # nowhere, where they are NaN
        self._presence.add(pixels[here], seconds, self.size)
        for id_, pixel in zip(tracks.id[here].tolist(), np.round(pixels[here]).astype(np.int32), strict=True):
            before, last = self._last.get(id_, (seconds, pixel))
            if seconds - before <= _LONGEST_S:
                cv2.line(self._paths, last.tolist(), pixel.tolist(), 1.0, 1, cv2.LINE_AA)
            self._last[id_] = seconds, pixel
        for id_ in tracks.ended:
            self._last.pop(id_, None)
        if self._faded is None or seconds - self._faded >= _FADE_EVERY_S:
            self._paths *= 1.0 if self._faded is None else _FADE
            self._faded = seconds

    def picture(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR: a line a metre (or ten), the four points' area, presence, paths."""
        width, height = self.size
        canvas = np.full((height, width, 3), 255, np.uint8)
        step = 1 if max(self.size) / self._scale <= 30 else 10
        for axis in (0, 1):
            first = math.ceil(self._low[axis] / step) * step
            for at in np.arange(first, self._low[axis] + self.size[axis] / self._scale, step):
                place = round((at - self._low[axis]) * self._scale)
                begin, end = [(place, 0), (0, place)][axis], [(place, height), (width, place)][axis]
                cv2.line(canvas, begin, end, (225, 225, 225), 1)
        cv2.polylines(canvas, [self._corners], True, (150, 150, 150), 2)
        canvas = self._presence.picture(canvas)
        paths = 0.8 * self._paths[..., None]
        return (canvas * (1.0 - paths) + np.array((120, 60, 20)) * paths).astype(np.uint8)

"""What the viewers of a live picture see: boxes, tracks, lines, zones, and people made unrecognisable."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.detections import Detections
from edge_centernet.detector import class_ids
from edge_centernet.draw import Color, blur, class_color, draw_boxes, draw_label, line_width
from edge_centernet.tracking.geometry import Size, foot_points
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.state import Snapshot, Tally, Tracks
from edge_centernet.tracking.zone_counter import Zone

Point = tuple[float, float]
Image = NDArray[np.uint8]  # (H, W, 3) BGR

_LINE: Color = (0, 220, 255)
_ZONE: Color = (255, 180, 60)
_SAME_OVERLAP = 0.5  # intersection over union from which a box is taken for the same thing as an earlier one
_HOLD_S = 1.0  # a box stays blurred that long after it was last found: detection flickers
_TRAIL_POINTS = 32
_TRAIL_S = 3.0


class Overlay:
    """Draws snapshots in the order in which they come. It remembers where things were: each output needs its own.

    classes: names by class_id. lines, zones: to draw, with the counts that a snapshot has of them. blur:
      names of
    the classes to make unrecognisable; a place stays blurred for a second after the last picture in which
    something was found there. What the network misses, and did not find there within that second, is not
    blurred. Raises ConfigError when a name in `blur` is no class.
    """

    def __init__(
        self,
        classes: Sequence[str],
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        blur: Sequence[str] = (),
    ) -> None:
        """See the class."""
        self._classes = classes
        self._lines, self._zones = tuple(lines), tuple(zones)
        self._blurred = class_ids(blur, classes) if blur else np.zeros(0, np.int32)
        self._last: tuple[str, float] = ("", 0.0)
        self._forget()

    def draw(self, snapshot: Snapshot, max_width: int | None = None) -> Image:
        """A new (H, W, 3) uint8 BGR picture; narrower than the frame's where that is wider than `max_width` pixels."""
        frame = snapshot.frame
        if not snapshot.timed or frame.source != self._last[0] or frame.seconds < self._last[1]:
            self._forget()  # another picture, or a film from its start
        self._last = frame.source, frame.seconds
        private = self._private(snapshot)
        trails = self._follow(snapshot.tracks, frame.seconds)
        canvas, scale = _copy(frame.image, max_width)
        canvas = blur(canvas, private * scale)
        size = (frame.image.shape[1], frame.image.shape[0])
        for zone in self._zones:
            _draw_zone(canvas, zone, np.array(zone.pixels(size)) * scale, snapshot.tally)
        for line in self._lines:
            _draw_line(canvas, line, size, scale, snapshot.tally)
        for class_id, points in trails:
            path = np.rint(np.array(points) * scale).astype(np.int32)
            cv2.polylines(canvas, [path], False, class_color(class_id), line_width(canvas), cv2.LINE_AA)
        found, texts = self._labels(snapshot)
        draw_boxes(canvas, Detections(found.xyxy * np.float32(scale), found.score, found.class_id), texts)
        return canvas

    def _forget(self) -> None:
        self._held = np.zeros((0, 4), np.float32)  # boxes to blur
        self._held_at = np.zeros(0)  # when each was last found
        self._trails: dict[int, deque[tuple[float, Point]]] = {}

    def _labels(self, snapshot: Snapshot) -> tuple[Detections, list[str]]:
        """What to draw a box around: the tracks where there is tracking, so that the picture shows what is counted."""
        if snapshot.tracks is None:
            found = snapshot.found
            return found, [
                f"{self._classes[c]} {s:.2f}" for c, s in zip(found.class_id, found.score, strict=True)
            ]
        found, ids = snapshot.tracks.found, snapshot.tracks.id
        return found, [f"{self._classes[c]} #{i}" for c, i in zip(found.class_id, ids, strict=True)]

    def _private(self, snapshot: Snapshot) -> NDArray[np.float32]:
        """(N, 4) boxes to blur in this picture: those found now, and of the last second those that are gone since."""
        now = snapshot.frame.seconds
        sets = [snapshot.found, snapshot.seen, None if snapshot.tracks is None else snapshot.tracks.found]
        boxes = np.concatenate(
            [found.xyxy[np.isin(found.class_id, self._blurred)] for found in sets if found is not None]
        )
        recent = now - self._held_at <= _HOLD_S
        gone = iou(self._held, boxes).max(axis=1, initial=0.0) < _SAME_OVERLAP
        keep = recent & gone
        self._held = np.concatenate([boxes, self._held[keep]])
        self._held_at = np.concatenate([np.full(len(boxes), now), self._held_at[keep]])
        return self._held

    def _follow(self, tracks: Tracks | None, now: float) -> list[tuple[int, list[Point]]]:
        """(class_id, foot points) of the tracks in this picture, oldest first; forgets who was not seen for long."""
        trails = []
        if tracks is not None:
            feet = foot_points(tracks).tolist()
            for track_id, class_id, foot in zip(
                tracks.id.tolist(), tracks.found.class_id.tolist(), feet, strict=True
            ):
                trail = self._trails.setdefault(track_id, deque(maxlen=_TRAIL_POINTS))
                trail.append((now, foot))
                trails.append((class_id, [point for at, point in trail if now - at <= _TRAIL_S]))
        self._trails = {i: trail for i, trail in self._trails.items() if now - trail[-1][0] <= _TRAIL_S}
        return trails


def _copy(image: Image, max_width: int | None) -> tuple[Image, float]:
    """A copy that may be drawn on, and its size relative to the original."""
    height, width = image.shape[:2]
    if max_width is None or width <= max_width:
        return np.ascontiguousarray(image).copy(), 1.0
    scale = max_width / width
    size = (max_width, max(1, round(height * scale)))
    # The mean of all pixels takes five times as long, and is needed only where more than two make one.
    how = cv2.INTER_LINEAR if scale >= 0.5 else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=how).astype(np.uint8, copy=False), scale


def _draw_zone(canvas: Image, zone: Zone, corners: NDArray[np.float64], tally: Tally | None) -> None:
    """Outline, a light filling, and how many are inside."""
    points = np.rint(corners).astype(np.int32)
    left, top = np.maximum(points.min(axis=0), 0)
    right, bottom = np.minimum(points.max(axis=0) + 1, canvas.shape[1::-1])
    part = canvas[top:bottom, left:right]
    if part.size:
        filled = part.copy()
        cv2.fillPoly(filled, [points - (left, top)], _ZONE)
        canvas[top:bottom, left:right] = cv2.addWeighted(filled, 0.2, part, 0.8, 0)
    cv2.polylines(canvas, [points], True, _ZONE, line_width(canvas), cv2.LINE_AA)
    count = next((z for z in tally.zones if z.name == zone.name), None) if tally is not None else None
    text = zone.name if count is None else f"{zone.name}: {count.inside}"
    draw_label(canvas, text, _pixel(corners[0]), _ZONE)


def _draw_line(canvas: Image, line: Line, size: Size, scale: float, tally: Tally | None) -> None:
    """The line, an arrow from its middle to the "in" side, and both counts."""
    start, end = (_pixel(np.array(point) * scale) for point in line.pixels(size))
    tail, tip = (_pixel(np.array(point) * scale) for point in line.arrow(size, 0.06 * max(size)))
    width = line_width(canvas) + 1
    cv2.line(canvas, start, end, _LINE, width, cv2.LINE_AA)
    cv2.arrowedLine(canvas, tail, tip, _LINE, width, cv2.LINE_AA, tipLength=0.35)
    count = next((c for c in tally.lines if c.name == line.name), None) if tally is not None else None
    text = line.name if count is None else f"{line.name}: {count.inward} in, {count.outward} out"
    draw_label(canvas, text, start, _LINE)


def _pixel(point: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))

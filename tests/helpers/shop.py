"""A shop that is drawn, not filmed, for tests and pictures of the page: people walk in, queue and leave.

Everything in it is known: who is where at any time, and so how often a line must count.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.camera_config import ConfigFile
from edge_centernet.detections import Detections
from edge_centernet.history.store import (
    DAY_MS,
    MINUTE_MS,
    Retention,
    Store,
    StoredEvent,
    StoredMinute,
    StoredPath,
)
from edge_centernet.outputs.annotate import Overlay
from edge_centernet.outputs.history import HistoryOutput
from edge_centernet.outputs.web import archive, editor
from edge_centernet.outputs.web.server import WebServer
from edge_centernet.outputs.web.view import View
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.tracking.scene import Scene, SceneOptions
from edge_centernet.tracking.state import Snapshot

SIZE = (1280, 720)
CLASSES = ("person", "dog")
MS = {"preprocess": 1.9, "inference": 28.4, "decode": 0.4}
DOOR_X = 0.3  # whose foot point passes it to the right has come in
_WAY_IN = ((0.04, 0.62), (0.3, 0.66), (0.52, 0.72))
_ROUND = ((0.7, 0.62), (0.86, 0.7), (0.72, 0.9), (0.55, 0.86))
_TILL = ((0.62, 0.86), (0.6, 0.86))
_WAY_OUT = ((0.45, 0.82), (0.3, 0.78), (0.03, 0.72))
_SHIRTS = ((96, 74, 190), (62, 134, 214), (150, 118, 60), (88, 140, 72), (170, 92, 130), (70, 70, 84))


@dataclass(frozen=True)
class Walker:
    """Somebody who comes at `begin` s and walks along `way`, in fractions of the picture.

    speed: widths of the picture a second.
    """

    begin: float
    way: tuple[tuple[float, float], ...]
    speed: float
    shirt: int

    def at(self, seconds: float) -> tuple[float, float] | None:
        """The foot point; None before and after."""
        left = (seconds - self.begin) * self.speed
        if left < 0:
            return None
        for (x1, y1), (x2, y2) in itertools.pairwise(self.way):
            long = math.hypot(x2 - x1, y2 - y1)
            if left <= long:
                return x1 + (x2 - x1) * left / long, y1 + (y2 - y1) * left / long
            left -= long
        return None

    @property
    def end(self) -> float:
        """When the last point is reached, s."""
        steps = itertools.pairwise(self.way)
        return self.begin + sum(math.hypot(x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in steps) / self.speed


def walkers(until: float, every: float = 4.0, seed: int = 1) -> list[Walker]:
    """One who comes in, and most of them leave again, every few seconds until then."""
    chance = random.Random(seed)
    people = []
    begin = -20.0
    while begin < until:
        way = list(_WAY_IN)
        way += chance.sample(_ROUND, chance.randint(1, 3))
        if chance.random() < 0.5:
            way += _TILL
        way += _WAY_OUT
        jitter = [(x + chance.uniform(-0.015, 0.015), y + chance.uniform(-0.02, 0.02)) for x, y in way]
        people.append(Walker(begin, tuple(jitter), chance.uniform(0.07, 0.12), len(people) % len(_SHIRTS)))
        begin += chance.uniform(0.5, 1.5) * every
    return people


def height_of(foot: tuple[float, float]) -> float:
    """Of a person there, pixels: nearer is larger."""
    return SIZE[1] * (0.11 + 0.3 * foot[1])


def box_of(foot: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a person there, pixels."""
    x, y, high = foot[0] * SIZE[0], foot[1] * SIZE[1], height_of(foot)
    return x - 0.19 * high, y - high, x + 0.19 * high, y


def path_of(walker: Walker, began: int, track: int) -> StoredPath:
    """As the store keeps it. began: time of second 0, milliseconds since 1970."""
    seconds = np.arange(walker.begin, walker.end, 0.2)
    feet = [foot for moment in seconds if (foot := walker.at(float(moment))) is not None]
    spans = [math.sqrt(0.38) * height_of(foot) / SIZE[0] for foot in feet]
    points = np.array(
        [(0.2 * i, x, y, span) for i, ((x, y), span) in enumerate(zip(feet, spans, strict=True))], np.float32
    )
    begin = began + round(1000 * walker.begin)
    return StoredPath(begin, begin + round(1000 * float(points[-1, 0])), "person", track, points)


# ---- drawing


def room() -> NDArray[np.uint8]:
    """(720, 1280, 3) the shop without anybody in it."""
    wide, high = SIZE
    image = np.empty((high, wide, 3), np.uint8)
    wall = int(0.42 * high)
    shade = np.linspace(0, 1, wall)[:, None, None]
    image[:wall] = (np.array((196, 206, 212)) * (1 - shade) + np.array((222, 230, 234)) * shade).astype(
        np.uint8
    )
    shade = np.linspace(0, 1, high - wall)[:, None, None]
    image[wall:] = (np.array((150, 162, 172)) * (1 - shade) + np.array((196, 208, 218)) * shade).astype(
        np.uint8
    )
    far = (0.5 * wide, -0.35 * high)  # where the joints of the tiles meet
    for x in range(-wide, 2 * wide, 110):
        _line(image, (x, high), (x + (far[0] - x) * 0.43, high + (far[1] - high) * 0.43), (168, 180, 190), 2)
    for step in range(9):
        y = wall + (high - wall) * (step / 8) ** 1.6
        _line(image, (0, y), (wide, y), (168, 180, 190), 2)
    image[: wall - 6, : int(0.02 * wide)] = (205, 214, 220)
    cv2.rectangle(image, (0, wall - 6), (wide, wall), (150, 160, 168), -1)
    # The door in the wall to the left, and its mat.
    cv2.rectangle(image, (20, 70), (300, wall), (120, 96, 70), -1)
    for left in (34, 166):
        cv2.rectangle(image, (left, 84), (left + 120, wall), (246, 240, 226), -1)
        cv2.rectangle(image, (left, 84), (left + 120, wall), (150, 126, 96), 3)
        cv2.line(image, (left + 18, 230), (left + 80, 120), (255, 252, 246), 8, cv2.LINE_AA)
    cv2.fillPoly(image, [np.array([(10, 400), (300, 400), (290, 560), (-40, 560)])], (128, 120, 110))
    # Shelves along the wall.
    colors = ((80, 120, 200), (90, 170, 120), (190, 150, 80), (120, 90, 170), (70, 160, 200))
    for shelf in range(3):
        left = 400 + 290 * shelf
        cv2.rectangle(image, (left, 60), (left + 240, wall + 14), (110, 128, 148), -1)
        for row in range(3):
            top = 76 + 82 * row
            cv2.rectangle(image, (left + 12, top), (left + 228, top + 66), (84, 98, 116), -1)
            for item in range(9):
                tall = 34 + (item * 7 + row * 13 + shelf * 5) % 26
                at = left + 18 + 23 * item
                color = colors[(item // 3 + row + shelf) % len(colors)]
                cv2.rectangle(image, (at, top + 66 - tall), (at + 18, top + 66), color, -1)
    # The till in front, to the right.
    cv2.fillPoly(image, [np.array([(900, 560), (1280, 600), (1280, 720), (900, 720)])], (92, 110, 132))
    cv2.fillPoly(image, [np.array([(900, 560), (1280, 600), (1280, 640), (900, 596)])], (128, 150, 174))
    cv2.rectangle(image, (1060, 500), (1160, 572), (60, 66, 74), -1)
    cv2.rectangle(image, (1068, 508), (1152, 560), (190, 200, 176), -1)
    return image


def _line(
    image: NDArray[np.uint8], a: tuple[float, float], b: tuple[float, float], color: Any, wide: int
) -> None:
    cv2.line(image, (round(a[0]), round(a[1])), (round(b[0]), round(b[1])), color, wide, cv2.LINE_AA)


def draw_person(image: NDArray[np.uint8], foot: tuple[float, float], shirt: int, stride: float) -> None:
    """A figure of legs, body, arms and head. stride: -1..1."""
    x, y, high = foot[0] * SIZE[0], foot[1] * SIZE[1], height_of(foot)
    cv2.ellipse(
        image,
        (round(x), round(y)),
        (round(0.17 * high), round(0.04 * high)),
        0,
        0,
        360,
        (128, 140, 150),
        -1,
        cv2.LINE_AA,
    )
    color = _SHIRTS[shirt]
    dark = tuple(int(0.75 * part) for part in color)
    for side in (-1, 1):
        _line(
            image,
            (x + 0.04 * high * side, y - 0.45 * high),
            (x + 0.07 * high * side * stride, y - 0.02 * high),
            (70, 62, 58),
            max(3, round(0.09 * high)),
        )
        _line(
            image,
            (x + 0.09 * high * side, y - 0.76 * high),
            (x + 0.12 * high * side - 0.05 * high * stride * side, y - 0.48 * high),
            dark,
            max(3, round(0.06 * high)),
        )
    _line(image, (x, y - 0.74 * high), (x, y - 0.5 * high), color, max(5, round(0.2 * high)))
    cv2.circle(
        image, (round(x), round(y - 0.9 * high)), round(0.082 * high), (168, 192, 224), -1, cv2.LINE_AA
    )
    cv2.ellipse(
        image,
        (round(x), round(y - 0.925 * high)),
        (round(0.088 * high), round(0.075 * high)),
        0,
        180,
        360,
        (50, 58, 70),
        -1,
        cv2.LINE_AA,
    )


class Film:
    """The shop as a camera would show it, and what a detector would find in it."""

    def __init__(self, seed: int = 1) -> None:
        """Nobody is drawn yet."""
        self._room, self._people = room(), walkers(3600.0, seed=seed)

    def frame(self, seconds: float) -> tuple[NDArray[np.uint8], Detections]:
        """The picture at this time, and all persons in it."""
        image = self._room.copy()
        here = [(foot, one.shirt) for one in self._people if (foot := one.at(seconds)) is not None]
        here.sort(key=lambda one: one[0][1])
        for (x, y), shirt in here:
            draw_person(image, (x, y), shirt, math.sin(7 * seconds + shirt))
        boxes = np.array([box_of(foot) for foot, _ in here], np.float32).reshape(-1, 4)
        return image, Detections(boxes, np.full(len(boxes), 0.9), np.zeros(len(boxes), np.int32))


# ---- a camera with a page


def fill(store: Path, now: float, paths: int = 60, days: int = 0) -> None:
    """Write a store: paths of the last hour, and some days of an entrance and a till, with a night between.

    now: seconds since 1970; in the middle of the shop's day, so that today is never empty.
    """
    end = round(1000 * now)
    begin = end - max(days * DAY_MS, 3_700_000)
    writer = Store(store, "Shop", begin)
    chance = random.Random(2)
    events, minutes = [], []
    for minute in range(begin - begin % MINUTE_MS, end, MINUTE_MS):
        hour = (time.localtime(minute / 1000).tm_hour - time.localtime(now).tm_hour + 14) % 24
        busy = max(0.0, math.sin(math.pi * (hour - 7.5) / 13)) if days else 0.0
        inside = 0
        for _ in range(sum(chance.random() < busy * 0.22 for _ in range(3))):
            at = minute + chance.randrange(MINUTE_MS)
            events.append(StoredEvent(at, "crossed", "Front door", "in", "person", len(events)))
            if chance.random() < 0.5:
                events.append(StoredEvent(at + 50_000, "entered", "Till", "", "person", len(events)))
                stay = chance.gammavariate(3, 18)
                events.append(
                    StoredEvent(
                        at + 50_000 + round(1000 * stay), "left", "Till", "", "person", len(events), stay
                    )
                )
                inside += 1
            events.append(StoredEvent(at + 200_000, "crossed", "Front door", "out", "person", len(events)))
        minutes.append(StoredMinute(minute, "Till", float(inside), 60.0, inside))
    people = walkers(3300.0, every=3300.0 / paths)[-paths:]
    kept = [path_of(one, end - 3_500_000, i) for i, one in enumerate(people)]
    # The camera was away in the first quarter of today, however long that is yet.
    midnight = round(1000 * datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0).timestamp())
    night = [(midnight, midnight + (end - midnight) // 4, "camera")] if days else []
    inside_time = [event for event in events if event.time <= end]
    writer.add(end, sorted(inside_time, key=lambda one: one.time), kept, night, minutes)
    writer.close()


def crossings(paths: list[Walker], x: float) -> tuple[int, int]:
    """How many of them pass x to the right, and to the left."""
    inward = outward = 0
    for one in paths:
        seconds = np.arange(one.begin, one.end, 0.2)
        sides = [foot[0] > x for moment in seconds if (foot := one.at(float(moment))) is not None]
        inward += sum(b and not a for a, b in itertools.pairwise(sides))
        outward += sum(a and not b for a, b in itertools.pairwise(sides))
    return inward, outward


@contextmanager
def open_shop(
    scene: SceneOptions | None = None,
    store: Path | None = None,
    config: Path | None = None,
    fps: float = 10.0,
    name: str = "Shop",
    pictures: Path | None = None,
    **options: Any,
) -> Iterator[WebServer]:
    """A page on which the shop is open: real tracking, counting and history of drawn people.

    Args:
        scene: what is counted from the start.
        store: where history is kept; begun if it is not there.
        config: the camera's file.
        fps: of the film.
        name: of the camera.
        pictures: folder of pictures of events.
        options: of `WebServer`.
    """
    scene = scene or SceneOptions()
    scene = SceneOptions(lines=scene.lines, zones=scene.zones, rooms=scene.rooms, track=True)
    counting = Scene(scene, 0.5, CLASSES)
    view = View(
        name, classes=CLASSES, overlay=Overlay(CLASSES, scene.lines, scene.zones), plain=Overlay(CLASSES)
    )

    def apply(changed: SceneOptions) -> None:
        counting.change(changed)
        view.show(changed.lines, changed.zones)

    file = None if config is None else ConfigFile(config)
    view.handlers += editor.handlers(editor.Editor(scene, apply, counting, store, file), view)
    if store is not None:
        view.handlers += archive.handlers(store, pictures)
    server = WebServer("127.0.0.1:0", [view], **options)
    film, stop = Film(), Event()

    def play() -> None:
        history = None if store is None else HistoryOutput(store, name, CLASSES, Retention(), live=True)
        number, begin = 0, time.monotonic()
        while not stop.wait(max(0.0, begin + number / fps - time.monotonic())):
            image, found = film.frame(number / fps)
            frame = Frame("camera 0", number, image, number / fps)
            shown, tracks, tally = counting.update(frame, found)
            capture = CaptureState("live", frames=number)
            result = Snapshot(frame, shown, MS, 41.5, fps, capture, tracks, tally, found)
            if history is not None:
                history.update(result)
            view.update(result)
            number += 1
        if history is not None:
            history.close()

    thread = Thread(target=play)
    server.start()
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join()
        server.close()
        counting.close()

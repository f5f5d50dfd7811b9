"""Points and sizes in the image, and how users write them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError

Point = tuple[float, float]
Size = tuple[int, int]  # width, height of the image, pixels
_LONGEST_NAME = 64  # characters; a name is part of MQTT topics, metrics and labels in the image


def foot_points(found: Detections) -> NDArray[np.float32]:
    """(N, 2) float32 x and y of the middle of each box's lower edge, pixels.

    For a camera that looks down at people it is where they stand. The centre of a box is not: it moves with
    the height of the person, and leaves the ground on which lines and zones are drawn.
    """
    boxes = found.xyxy  # (N, 4)
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / 2.0, boxes[:, 3]], 1)


@dataclass(frozen=True)
class Seen:
    """One track in one frame, as line and zone counters look at it."""

    id: int
    class_name: str
    foot: Point
    span: float  # sqrt(width * height) of its box, pixels


def parse_numbers(text: str, kind: str, index: int, form: str) -> tuple[str, list[float]]:
    """The name and the numbers of "[NAME=]N,N,..."; without a name it is "KIND INDEX".

    form: how the numbers are to be written, for the error. Raises ConfigError for a bad name or number.
    """
    # The last "=", so that a name may hold one.
    before, equals, after = text.rpartition("=")
    name = before.strip() if equals else f"{kind} {index}"
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"{kind} {text!r}: expected a name of 1 to {_LONGEST_NAME} printable characters before '='"
        )
    called = f"{kind} {name!r}" if equals else kind
    try:
        numbers = [float(part) for part in after.split(",")]
    except ValueError:
        raise ConfigError(f"{called}: expected [NAME=]{form}, got {text!r}") from None
    # Beyond a million pixels the products in the crossing tests would lose precision; no image is that large.
    if not all(math.isfinite(number) and abs(number) <= 1e6 for number in numbers):
        raise ConfigError(f"{called}: expected finite numbers, got {text!r}")
    return name, numbers


def as_points(numbers: Sequence[float]) -> tuple[Point, ...]:
    """x, y, x, y, ... as pairs. Raises ValueError for an odd count."""
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def are_relative(numbers: Sequence[float]) -> bool:
    """Whether every number is a fraction of the image, 0..1."""
    return all(0.0 <= number <= 1.0 for number in numbers)


def scaled(points: Sequence[Point], relative: bool, size: Size) -> tuple[Point, ...]:
    """The points in pixels of an image of (width, height); as they are unless `relative`."""
    wide, high = size if relative else (1, 1)
    return tuple((x * wide, y * high) for x, y in points)


def misplacement(points: Sequence[Point], relative: bool, size: Size) -> str:
    """Why a line or zone may not count as it is meant to, in an image of (width, height); "" if it does.

    points: in pixels. relative: whether they were written as fractions of the image.
    """
    width, height = size
    image = f"the image, which is {width}x{height} pixels"
    xs, ys = zip(*points, strict=True)
    # Numbers that the rule "all within 0..1" makes pixels, as in 0.5,0,0.5,480 or 0.5,0,0.5,1.1.
    if not relative and (any(0.0 < n < 1.0 for n in (*xs, *ys)) or max(*xs, *ys) <= 2.0):
        return f"fractions are all within 0..1, but these count as pixels of {image}"
    if max(xs) <= 0.0 or max(ys) <= 0.0 or min(xs) >= width or min(ys) >= height:
        return f"it lies outside or on the border of {image}; nothing is counted there"
    if min(*xs, *ys) < 0.0 or max(xs) > width or max(ys) > height:
        return f"it reaches beyond {image}; is it drawn for another size?"
    return ""


def point_text(point: Point) -> str:
    """As users write it: X,Y."""
    return f"{point[0]:g},{point[1]:g}"


def whole_number(value: Any) -> int:
    """A count read from JSON. Raises ValueError for anything but an integer from 0."""
    # bool is an int to Python; a `true` in the file is damage, not a count of 1.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value

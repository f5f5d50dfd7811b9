"""Snapshots as the detection loop makes them, for tests of what becomes of them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edge_centernet.detections import Detections
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.tracking.state import Event, LineCount, Snapshot, Tally, ZoneCount

CLASSES = ("cat", "dog", "person")
_IMAGE = np.zeros((48, 64, 3), np.uint8)


def found(*class_ids: int) -> Detections:
    """One box for each class id."""
    n = len(class_ids)
    return Detections(np.tile([1, 2, 30, 40], (n, 1)), np.full(n, 0.5), np.array(class_ids, np.int32))


def crossing(n: int) -> Event:
    """The nth person who goes in by the door."""
    return Event("crossed", "door", n, "person", n / 20, "in")


def snapshot(number: int = 0, *class_ids: int, tally: Tally | None = None, **changes: Any) -> Snapshot:
    """Frame `number` of a healthy camera, with a box for each class id; captured now by default."""
    captured = changes.pop("captured", time.monotonic())
    capture = CaptureState("live", frames=2 * number + 2, dropped=number + 1, last_frame=captured)
    values: dict[str, Any] = {
        "frame": Frame("camera 0", number, _IMAGE, number / 20, captured),
        "found": found(*class_ids),
        "ms": {"preprocess": 1.0, "inference": 12.0, "decode": 0.25},
        "age_ms": 41.4,
        "fps": 19.96,
        "capture": capture,
        "tally": tally,
    }
    return Snapshot(**{**values, **changes})


def counted(inward: int, outward: int = 0, *events: Event, inside: int = 0) -> Tally:
    """A door and a shop, and persons."""
    line = LineCount("door", inward, outward, {"person": (inward, outward)})
    return Tally((line,), (ZoneCount("shop", inside, 4, 9.5, 3.25, {"person": (inside, 4)}),), events)

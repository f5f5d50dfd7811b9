"""What tracking and counting report, and what every output gets. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections, to_supervision
from edge_centernet.sources import CaptureState, Frame

if TYPE_CHECKING:  # an optional package, imported where `to_supervision` is called
    import supervision


@dataclass(frozen=True, eq=False)
class Tracks:
    """The tracked objects that were seen in one frame, in the order of `found`.

    id: (N,) int64, 1 and up, never used twice by one tracker.
    found: their boxes as detected, with score and class.
    velocity: (N, 2) float32, pixels of the image per second, x to the right, y down; 0 until it is known.
    age: (N,) float32, seconds since the object was first seen.
    lost, recovered, ended: ids that this frame misses for the first time, sees again after missing them, and
      gives up.
    metres: (N, 2) where they stand on the floor, NaN beyond its horizon. speed: (N,) metres per second there,
      NaN until it is known. None where no floor was given.
    """

    id: NDArray[np.int64]
    found: Detections
    velocity: NDArray[np.float32]
    age: NDArray[np.float32]
    lost: tuple[int, ...] = ()
    recovered: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()
    metres: NDArray[np.float64] | None = None
    speed: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Number of objects seen in this frame."""
        return len(self.id)

    def to_supervision(self) -> supervision.Detections:
        """As `Detections.to_supervision`, with the ids as tracker_id. Raises MissingDependency as it does."""
        return to_supervision(self.found, self.id)


@dataclass(frozen=True)
class LineCount:
    """How many crossed a line since counting began.

    inward: called "in" in every output, which Python reserves as a keyword.
    by_class: (in, out) of each class that was counted. Totals continued from a file of an older release are
        in no class.
    """

    name: str
    inward: int
    outward: int
    by_class: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "name": self.name,
            "in": self.inward,
            "out": self.outward,
            "classes": {name: {"in": n_in, "out": n_out} for name, (n_in, n_out) in self.by_class.items()},
        }


@dataclass(frozen=True)
class QueueCount:
    """Who waits in a zone that is a queue.

    length: how many wait now.
    mean_s, longest_s: seconds for which they have waited; 0 while nobody waits.
    left: how many left within the last quarter of an hour after they had waited.
    left_mean_s, left_p90_s: seconds for which those had waited: the mean, and what nine of ten of them did
        not exceed; None if nobody left.
    """

    length: int = 0
    mean_s: float = 0.0
    longest_s: float = 0.0
    left: int = 0
    left_mean_s: float | None = None
    left_p90_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it stands in JSON; seconds are rounded to a tenth."""
        return {
            "length": self.length,
            "mean_s": round(self.mean_s, 1),
            "longest_s": round(self.longest_s, 1),
            "left": self.left,
            "left_mean_s": None if self.left_mean_s is None else round(self.left_mean_s, 1),
            "left_p90_s": None if self.left_p90_s is None else round(self.left_p90_s, 1),
        }


@dataclass(frozen=True)
class ZoneCount:
    """Who is in a zone now.

    entered: visits since counting began.
    longest_s, mean_dwell_s: seconds, over the visits that ended and those that still last.
    by_class: (inside, entered) of each class that was counted, as in `LineCount`.
    queue: who waits in it; None for a zone that is no queue.
    """

    name: str
    inside: int
    entered: int
    longest_s: float
    mean_dwell_s: float
    by_class: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    queue: QueueCount | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it stands in JSON; seconds are rounded to a tenth."""
        record = {
            "name": self.name,
            "inside": self.inside,
            "entered": self.entered,
            "longest_s": round(self.longest_s, 1),
            "mean_dwell_s": round(self.mean_dwell_s, 1),
            "classes": {
                name: {"inside": inside, "entered": entered}
                for name, (inside, entered) in self.by_class.items()
            },
        }
        return record if self.queue is None else {**record, "queue": self.queue.as_dict()}


@dataclass(frozen=True)
class RoomCount:
    """How many are in a room of which the doors are watched.

    inside: the median of what is possible. low, high: the interval that holds it with 95 %.
    entered: counted since counting began.
    """

    name: str
    inside: int
    low: int
    high: int
    entered: int

    def as_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "name": self.name,
            "inside": self.inside,
            "low": self.low,
            "high": self.high,
            "entered": self.entered,
        }


@dataclass(frozen=True)
class RuleState:
    """Whether a rule's alert is on.

    kind: see `edge_centernet.tracking.rules.Rule`. where: name of the zone or room.
    value: what the rule looks at: persons, or seconds.
    """

    name: str
    kind: str
    where: str
    active: bool
    value: float

    def as_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "where": self.where,
            "active": self.active,
            "value": round(self.value, 1),
        }


@dataclass(frozen=True)
class Event:
    """Something that happened once.

    kind: "crossed" (with direction "in" or "out"), "entered", "left" (with dwell_s, in seconds), "alert"
        (with rule, state and value), or "reset" (with value).
    where: name of the line, zone or room.
    track_id, class_name: 0 and "" where it is not about one object.
    seconds: of the frame in which it was noticed.
    rule: name of the rule whose alert it is.
    state: "began" or "ended" of an alert; dwell_s is then how long it lasted.
    value: what the rule looks at, in persons or seconds: when the alert began, and the most while it lasted.
        Of "reset" the number of persons that the room is set to. Of "left" the seconds for which somebody
        waited in a queue; None for a zone that is none, and for those who only passed through.
    """

    kind: str
    where: str
    track_id: int
    class_name: str
    seconds: float
    direction: str = ""
    dwell_s: float = 0.0
    rule: str = ""
    state: str = ""
    value: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it stands in JSON: only what belongs to this kind."""
        record: dict[str, Any] = {"event": self.kind, "where": self.where}
        if self.class_name:
            record |= {"id": self.track_id, "class": self.class_name}
        record["seconds"] = round(self.seconds, 3)
        if self.kind == "crossed":
            record["direction"] = self.direction
        elif self.kind == "left":
            record["dwell_s"] = round(self.dwell_s, 2)
            if self.value is not None:
                record["waited_s"] = round(self.value, 2)
        elif self.kind == "alert":
            record |= {"name": self.rule, "state": self.state, "value": round(self.value or 0, 1)}
            if self.state == "ended":
                record["lasted_s"] = round(self.dwell_s, 1)
        elif self.kind == "reset":
            record["value"] = self.value
        return record


@dataclass(frozen=True)
class Tally:
    """All counts after a frame, and the events of this frame."""

    lines: tuple[LineCount, ...] = ()
    zones: tuple[ZoneCount, ...] = ()
    events: tuple[Event, ...] = ()
    rooms: tuple[RoomCount, ...] = ()
    rules: tuple[RuleState, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The counts as they stand in JSON, without the events."""
        return {
            "lines": [line.as_dict() for line in self.lines],
            "zones": [zone.as_dict() for zone in self.zones],
            **({"rooms": [room.as_dict() for room in self.rooms]} if self.rooms else {}),
            **({"rules": [rule.as_dict() for rule in self.rules]} if self.rules else {}),
        }


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One frame with all that is known of it: what every output gets, in the order of the frames.

    found: what is to be shown; with tracks, `tracks.found`.
    ms: milliseconds by step ("preprocess", "inference", "decode").
    age_ms: from the frame's capture to this result. fps: results per second over the last seconds.
    capture: the state of the source at this result.
    tracks, tally: None where nobody asked for them.
    seen: all detections, those below the threshold too, for blurring, where a box too many costs little.
    timed: whether the frame is of a video or camera, so that seconds and age mean something.
    unwritten: what cannot be written because a disk is full or read-only, in one line; "" while all is well.
    """

    frame: Frame
    found: Detections
    ms: dict[str, float]
    age_ms: float
    fps: float
    capture: CaptureState
    tracks: Tracks | None = None
    tally: Tally | None = None
    seen: Detections | None = None
    timed: bool = True
    unwritten: str = ""

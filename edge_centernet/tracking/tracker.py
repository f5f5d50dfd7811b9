"""Detections of frame after frame -> the same id for the same object.

Two rounds as in ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864): sure detections first, then doubtful
ones, which may keep a track alive but never start one. Positions follow a Kalman filter of constant velocity,
as in SORT (Bewley et al., ICIP 2016), but with the true time between frames, as boards drop frames, and with
noise in proportion to the object's size.

A frame takes six steps (`Tracker.update`): predict, associate, correct, start, name, report.

NumPy only. docs/decisions/0018-own-tracker.md has the comparison with libraries and what was tried and
rejected: Hungarian assignment, IoU in the cost, distance in units of size alone, fading velocities, and
matching recently seen tracks first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.tracking.state import Tracks

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

# Lengths are in units of the object's size, sqrt(width * height): what holds for near objects holds for far
# ones. The first three are as measured on PETS 2009 (detections against the truth, and the truth's own
# motion), rounded.
_NOISE = 0.12  # standard deviation of a detected centre
_PUSH = 0.4  # how fast velocity wanders: its variance grows by _PUSH**2 per second
_RATIO = 0.25  # standard deviation of the logarithm of a detected size
_SPEED = 2.0  # standard deviation of the velocity of an object just found, per second; a walker has about 1
# The gates: beyond them a detection is never given to a track, however free both are.
_GATE = 3.0  # standard deviations between a detection and where its track is expected, at most
_REACH = (
    1.0  # sizes between them, at most: what was hidden for seconds could be anywhere, but is not everything
)
_RESIZE = 0.4  # weight of a new box in the size of a track; the rest is the size so far
_PATIENCE = 2  # frames that an object without an id may be missed
# IoU from which a second box of a class is a duplicate of the first. High, because the decoder has removed
# duplicate peaks already, and two people who overlap by less are usually two people.
_SAME = 0.7
_MAX_TRACKS = 500  # at once, so that an image full of noise cannot use up the memory

# One row per track, so that each step is a few operations on columns, whatever the number of tracks.
_TRACK = np.dtype(
    [
        ("id", np.int64),  # 0 until confirmed
        ("class_id", np.int32),
        ("centre", np.float64, 2),  # x and y, pixels
        ("velocity", np.float64, 2),  # pixels per second
        ("size", np.float64, 2),  # width and height, pixels
        # Variance of the centre, covariance, variance of the velocity. One set serves x and y: both start
        # alike and see the same noise, so two 2x2 filters replace one of 4x4 and their gains agree.
        ("spread", np.float64, 3),
        ("first", np.float64),  # when it was first seen, and last: seconds of the tracker's clock
        ("last", np.float64),
        ("seen", np.int64),  # frames in which it was seen
        ("missed", np.int64),  # frames since
    ]
)


@dataclass(frozen=True)
class TrackerOptions:
    """How a Tracker decides.

    memory_s: seconds that an object may be hidden and keep its id, above 0 and up to 60. Seconds and not
      frames: a board that gets slower must not forget people sooner.
    confirm: sightings before an object gets an id, 1 and up; 1 gives every sure detection one at once.
    doubtful: share of the user's threshold down to which a detection may keep a track alive, above 0 and up
      to 1; 1 turns the second round off. A share, so that it follows a threshold that the user moves, and not
      a fixed score as in ByteTrack. Scores are calibrated: lower shares let in more false boxes than they
      save ids (docs/decisions/0018-own-tracker.md).
    """

    memory_s: float = 2.5
    confirm: int = 3
    doubtful: float = 0.9

    def __post_init__(self) -> None:
        """Raises ConfigError for values outside the limits."""
        if not 0.0 < self.memory_s <= 60.0:
            raise ConfigError(f"tracker memory: expected above 0 and up to 60 seconds, got {self.memory_s:g}")
        if self.confirm < 1:
            raise ConfigError(f"tracker confirm: expected 1 sighting or more, got {self.confirm}")
        if not 0.0 < self.doubtful <= 1.0:
            raise ConfigError(f"tracker doubtful: expected above 0 and up to 1, got {self.doubtful:g}")

    @overload
    def low_for(self, threshold: float) -> float: ...
    @overload
    def low_for(self, threshold: Sequence[float]) -> tuple[float, ...]: ...
    def low_for(self, threshold: float | Sequence[float]) -> float | tuple[float, ...]:
        """The threshold to run the detector with where the user asked for `threshold`.

        0..1, for all classes or for each of them.
        """
        if isinstance(threshold, Sequence):
            return tuple(one * self.doubtful for one in threshold)
        return threshold * self.doubtful


class Tracker:
    """Gives detections ids that last. One for each source; its memory is bounded."""

    def __init__(self, threshold: float | Sequence[float], options: TrackerOptions | None = None) -> None:
        """No object yet.

        threshold: score from which a detection is sure and may start a track, 0..1, for all or for each
          class; feed `update` with detections down to `options.low_for(threshold)`.
        Raises ConfigError for a threshold outside 0..1.
        """
        each = threshold if isinstance(threshold, Sequence) else (threshold,)
        if not all(0.0 <= one <= 1.0 for one in each):
            raise ConfigError(f"threshold: expected 0..1, got {threshold}")
        self.threshold = threshold
        self.options = options or TrackerOptions()
        self._tracks: Any = np.zeros(0, _TRACK)
        self._next_id = 1
        self._clock = 0.0  # seconds since the first frame
        self._frame_time: float | None = None

    def update(self, found: Detections, seconds: float) -> Tracks:
        """Follow the objects into the next frame; returns the confirmed ones that are seen in it.

        found: its detections, sure and doubtful.
        seconds: the frame's own time (Frame.seconds), finite; a clock that goes back counts as one that
          stood still.
        Raises ValueError for a time that is not finite.
        """
        # 1. Predict where each track is at the time of this frame, and how sure that is.
        ended = self._predict(seconds)
        # 2. Associate: which track takes which detection.
        boxes = _Boxes(found)
        sure = found.reaching(self.threshold)
        owner = self._associate(boxes, sure)
        # 3. Correct the tracks by the detections that they took.
        recovered = self._correct(boxes, owner)
        # 4. Start tracks from the sure detections that are left. After the correction, so that a track does
        #    not count its first detection twice.
        self._start(found, boxes, sure, owner)
        # 5. Name those that have now been seen often enough: single false detections never get an id.
        t = self._tracks
        ready = np.flatnonzero((t["id"] == 0) & (t["seen"] >= self.options.confirm))
        t["id"][ready] = np.arange(self._next_id, self._next_id + len(ready))
        self._next_id += len(ready)
        # 6. Report those with an id, in the order of the detections, and forget those that never got one.
        named = t["id"] > 0
        shown = np.flatnonzero(owner >= 0)
        shown = shown[named[owner[shown]]]
        seen = t[owner[shown]]
        self._tracks = t[named | (t["missed"] <= _PATIENCE)]
        return Tracks(
            id=seen["id"],
            found=found[shown],
            velocity=seen["velocity"].astype(np.float32),
            age=(self._clock - seen["first"]).astype(np.float32),
            lost=_ids(t[named & (t["missed"] == 1)]),
            recovered=recovered,
            ended=ended,
        )

    def end_all(self) -> None:
        """Give up all tracks at the next update: what it shows does not go on from what was seen before."""
        self._tracks["last"] = -math.inf

    def _predict(self, seconds: float) -> tuple[int, ...]:
        """Give up what was hidden too long, move the rest to the time of the frame; the ids given up."""
        if not math.isfinite(seconds):
            raise ValueError(f"expected the time of a frame in finite seconds, got {seconds}")
        dt = 0.0 if self._frame_time is None else max(0.0, seconds - self._frame_time)
        self._frame_time = seconds
        self._clock += dt
        over = self._clock - self._tracks["last"] > self.options.memory_s
        ended = self._tracks[over & (self._tracks["id"] > 0)]
        self._tracks = t = self._tracks[~over]
        # Constant velocity with white-noise acceleration, in continuous time (Bar-Shalom et al., Estimation
        # with Applications to Tracking and Navigation, 2001, section 6.2): the terms in dt are what make a
        # prediction over a gap of seconds as sound as one over a frame.
        t["centre"] += dt * t["velocity"]
        push = (_PUSH**2 * dt) * t["size"].prod(1)  # variance added to the velocity
        spread = t["spread"]
        spread[:, 0] += dt * (2.0 * spread[:, 1] + dt * (spread[:, 2] + push / 3.0))
        spread[:, 1] += dt * (spread[:, 2] + push / 2.0)
        spread[:, 2] += push
        return _ids(ended)

    def _associate(self, boxes: _Boxes, sure: Mask) -> Indices:
        """(D,) row of the track that takes each detection, -1 where none does."""
        named = self._tracks["id"] > 0
        owner = np.full(len(sure), -1, np.intp)
        free = np.ones(len(named), bool)
        # Objects that have an id choose first, from the sure detections and then from the doubtful ones; one
        # that has none needs sure detections to get it.
        for who, what in ((named, sure), (named, ~sure), (~named, sure)):
            rows, columns = np.flatnonzero(who & free), np.flatnonzero(what & (owner < 0))
            if not (len(rows) and len(columns)):
                continue
            # The cheapest pair first, each track and each detection once. Greedy: the cheapest total (the
            # Hungarian method) was no better on PETS 2009, and would need SciPy.
            cost = _costs(self._tracks[rows], boxes, columns)
            for flat in np.argsort(cost, axis=None)[: np.isfinite(cost).sum()].tolist():
                i, j = divmod(flat, len(columns))
                if free[rows[i]] and owner[columns[j]] < 0:
                    owner[columns[j]] = rows[i]
                    free[rows[i]] = False
        return owner

    def _correct(self, boxes: _Boxes, owner: Indices) -> tuple[int, ...]:
        """Kalman update of the tracks that own a detection; the ids among them that were missed before."""
        taken = np.flatnonzero(owner >= 0)
        rows = owner[taken]
        self._tracks["missed"] += 1
        t = self._tracks[rows]
        recovered = _ids(t[(t["id"] > 0) & (t["missed"] > 1)])
        pp, pv, vv = t["spread"].T  # position, covariance, velocity
        total = pp + _NOISE**2 * t["size"].prod(1)  # variance of the difference to a detected centre
        to_centre, to_velocity = pp / total, pv / total  # the Kalman gain
        off = boxes.centre[taken] - t["centre"]  # (N, 2)
        t["centre"] += to_centre[:, None] * off
        t["velocity"] += to_velocity[:, None] * off
        t["spread"] = np.stack([pp * (1.0 - to_centre), pv * (1.0 - to_centre), vv - pv * to_velocity], 1)
        # The size has no filter of its own: it changes slowly, and a running mean is all that the gates need.
        t["size"] += _RESIZE * (boxes.size[taken] - t["size"])
        t["last"] = self._clock
        t["seen"] += 1
        t["missed"] = 0
        self._tracks[rows] = t  # `t` is a copy: indexing by rows makes one
        return recovered

    def _start(self, found: Detections, boxes: _Boxes, sure: Mask, owner: Indices) -> None:
        """Start tracks from sure detections that no track took and that are no duplicates; they own them."""
        new = np.flatnonzero(sure & (owner < 0))
        if not len(new):
            return
        # A second box on an object that has a track, or that gets one from a box of a higher score, would
        # count that object twice.
        same = (iou(found.xyxy[new], found.xyxy) > _SAME) & (found.class_id[new, None] == found.class_id)
        better = (owner >= 0) | (np.arange(len(found)) < new[:, None])  # taken, or of a higher score
        new = new[~(same & better).any(1)][: _MAX_TRACKS - len(self._tracks)]
        fresh: Any = np.zeros(len(new), _TRACK)
        fresh["class_id"] = found.class_id[new]
        fresh["centre"] = boxes.centre[new]
        fresh["size"] = boxes.size[new]
        fresh["spread"] = np.outer(boxes.size[new].prod(1), [_NOISE**2, 0.0, _SPEED**2])
        fresh["first"] = fresh["last"] = self._clock
        fresh["seen"] = 1
        owner[new] = len(self._tracks) + np.arange(len(new))
        self._tracks = np.concatenate([self._tracks, fresh])


class _Boxes:
    """Detections by centre and size, (D, 2) float64 each."""

    def __init__(self, found: Detections) -> None:
        corners = found.xyxy.astype(np.float64)
        self.centre: Floats = (corners[:, :2] + corners[:, 2:]) / 2.0
        self.size: Floats = np.maximum(
            corners[:, 2:] - corners[:, :2], 1.0
        )  # 1: its logarithm must be finite
        self.class_id = found.class_id


def _costs(t: Any, boxes: _Boxes, columns: Indices) -> Floats:
    """(T, D) cost of giving a detection to a track, inf where they do not belong together.

    It is -2 log of the likelihood of centre and size, but for a constant: between a track that is known well
    and one that has been hidden and could be anywhere, a detection at the same distance goes to the former.
    IoU, the cost of SORT and ByteTrack, needs boxes that overlap, which at 2 frames per second they do not.
    """
    area = t["size"].prod(1)[:, None]  # (T, 1)
    off = t["centre"][:, None] - boxes.centre[columns]  # (T, D, 2)
    square = (off * off).sum(2)
    variance = t["spread"][:, :1] + _NOISE**2 * area
    far = square / variance  # squared distance in standard deviations (Mahalanobis)
    ratio = np.log(boxes.size[columns].prod(1) / area) / (2.0 * _RATIO)
    cost: Floats = far + 2.0 * np.log(variance / area) + ratio * ratio
    # The gates. The one on distance in sizes is for tracks that were hidden: their variance grows until any
    # detection in the image is within three standard deviations. The one on size stops a track from jumping
    # to a box around two people. A class never changes: a bus that is taken for a truck in one frame is
    # missed in that frame, and a count by class stays a count.
    alien = t["class_id"][:, None] != boxes.class_id[columns]
    cost[alien | (far > _GATE**2) | (square > _REACH**2 * area) | (abs(ratio) > _GATE)] = np.inf
    return cost


def _ids(tracks: Any) -> tuple[int, ...]:
    return tuple(tracks["id"].tolist())

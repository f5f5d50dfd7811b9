"""What is taken for true in the view: labels where there are any, else what the candidates agree on.

Without labels the candidates themselves are all there is, and none of them may judge itself. So:

- Only what they find in *mirror images* votes. Fused (`labelling.ensemble.fuse`), every candidate has one
  vote, whatever its size: the score of an object is the mean over all, and a size that sees what no other
  sees does not get it into the truth.
- In a video, the fused boxes are tracked. What moves along a path for a second is an object, also in the
  frames between, in which most candidates missed it: that is where a network that sees well gains. A thing
  that never moves may be a person who waits or a bollard; nobody is judged by it, nor by what is seen for a
  moment only.
- Two candidates that are compared at last have no vote in the truth that decides between them (`without`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_centernet.data import Dataset, Sample, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.labelling.ensemble import fuse
from edge_centernet.sources import Frame
from edge_centernet.tracking.tracker import Tracker, TrackerOptions
from edge_centernet.tuning.candidates import Look
from edge_centernet.tuning.view import View

SURE, DOUBTFUL = 0.3, 0.15  # of fused scores: an object; what may be one, and judges nobody
_IOU = 0.45  # of boxes that are fused; they differ more between sizes than between detectors of one size
_MEMORY_S = 1.5  # a path goes on over a gap of so many seconds
_SIGHTINGS = 5  # of a path, a second
_MOVED = 0.7  # sizes of an object (the root of its area) that it moves at least


def agreed(looks: Sequence[Look], view: View, without: Collection[Look] = ()) -> Dataset:
    """The truth by agreement, for all frames; what judges nobody is in it as ignored.

    without: those that have no vote, unless nobody else is left.
    """
    voters = [one for one in looks if one not in without] or list(looks)
    classes = looks[0].found[0].classes
    known = np.ones((len(voters), len(classes)), np.bool_)
    weights = [1.0] * len(voters)
    fused = [
        fuse(each, weights, known, _IOU, classes)
        for each in zip(*(one.mirrored for one in voters), strict=True)
    ]
    if not view.moving:
        kept = [found[found.score >= DOUBTFUL] for found in fused]
        samples = [
            _sample(frame, found.xyxy, found.class_id, found.score < SURE)
            for frame, found in zip(view.frames, kept, strict=True)
        ]
        return Dataset(classes, tuple(samples))
    return Dataset(classes, _from_paths(fused, view))


def _from_paths(fused: Sequence[Detections], view: View) -> tuple[Sample, ...]:
    tracker = Tracker(SURE, TrackerOptions(memory_s=_MEMORY_S, confirm=1))
    # id -> (frame, class, x1, y1, x2, y2) of each sighting
    paths: dict[int, list[tuple[float, ...]]] = {}
    for i, (frame, found) in enumerate(zip(view.frames, fused, strict=True)):
        tracks = tracker.update(found[found.score >= DOUBTFUL], frame.seconds)
        for id_, class_id, box in zip(tracks.id, tracks.found.class_id, tracks.found.xyxy, strict=True):
            paths.setdefault(int(id_), []).append((i, int(class_id), *map(float, box)))
    objects: list[list[tuple[float, ...]]] = [[] for _ in view.frames]  # class, ignored, box
    for path in paths.values():
        rows = np.array(path)
        is_one = len(rows) >= _SIGHTINGS and moved(rows[:, 2:]) >= _MOVED
        frames = np.arange(rows[0, 0], rows[-1, 0] + 1)
        boxes = np.stack([np.interp(frames, rows[:, 0], rows[:, k]) for k in range(2, 6)], 1)
        for i, box in zip(frames.astype(int).tolist(), boxes.tolist(), strict=True):
            objects[i].append((rows[0, 1], not is_one, *box))
    samples = []
    for frame, each in zip(view.frames, objects, strict=True):
        columns = np.array(each, np.float64).reshape(-1, 6)
        samples.append(_sample(frame, columns[:, 2:], columns[:, 0], columns[:, 1] > 0))
    return tuple(samples)


def moved(boxes: NDArray[np.float64]) -> float:
    """How far a path (N, 4) leads away from its beginning, in sizes of the object."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2.0
    size = float(np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).prod(1)).mean())
    return float(np.hypot(*(centre - centre[0]).T).max()) / size


def labelled(path: Path, view: View, classes: Sequence[str]) -> Dataset:
    """The truth as somebody labelled it, for all frames of the view.

    path: for a video, rows of the MOT Challenge (frame from 1, id, left, top, width, height, then 0 for what
    is to be ignored) of the one class; for images, a data set with their file names.

    Raises SourceError where a frame has no labels or the file cannot be read, ConfigError for several classes
    in a video.
    """
    if view.moving:
        return _of_video(path, view, classes)
    data = read_dataset(path, classes=classes)
    by_name = {sample.path.name: sample for sample in data.samples}
    names = [Path(frame.source).name for frame in view.frames]
    if missing := [name for name in names if name not in by_name]:
        raise SourceError(
            f"{path}: expected labels of every image, found none of {missing[0]} and {len(missing) - 1} "
            "others"
        )
    return Dataset(data.classes, tuple(by_name[name] for name in names))


def _of_video(path: Path, view: View, classes: Sequence[str]) -> Dataset:
    if len(classes) != 1:
        raise ConfigError(f"--labels {path}: expected one class in --classes, as its rows name none")
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        if rows.shape[1] < 6:
            raise ValueError
    except (OSError, ValueError, UnicodeDecodeError):
        raise SourceError(
            f"{path}: expected rows of the MOT Challenge (frame, id, left, top, width, height, ...), "
            "which are the labels of a video"
        ) from None
    corners = np.hstack([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]])
    ignored = rows[:, 6] == 0 if rows.shape[1] > 6 else np.zeros(len(rows), np.bool_)
    last = max(frame.number for frame in view.frames)
    if not len(rows) or rows[:, 0].max() < last * 0.9:
        raise SourceError(
            f"{path}: expected labels up to frame {last + 1}, the video's; is it of another one?"
        )
    samples = []
    for frame in view.frames:
        mine = rows[:, 0] == frame.number + 1
        samples.append(_sample(frame, corners[mine], np.zeros(int(mine.sum())), ignored[mine]))
    return Dataset(tuple(classes), tuple(samples))


def _sample(
    frame: Frame, xyxy: NDArray[np.floating], labels: NDArray[np.number], ignore: NDArray[np.bool_]
) -> Sample:
    height, width = frame.image.shape[:2]
    boxes = np.asarray(xyxy, np.float32).reshape(-1, 4).clip(0, np.array([width, height] * 2, np.float32))
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return Sample(
        Path(frame.source),
        width,
        height,
        boxes[real],
        np.asarray(labels, np.int64)[real],
        np.asarray(ignore)[real],
    )

"""Detectors that look at a photo together, ours and those of others, and the fusion of what they find.

Fusion is weighted boxes fusion (Solovyev, Wang and Gabruseva, arXiv 1910.13302), class by class, in NumPy.
Non-maximum suppression keeps the box of one detector and discards the others. Here boxes of the same object
are averaged, more confident ones counting more, and the score falls with every detector that found nothing
there: agreement is what raises it.

Two things differ from the paper (docs/decisions/0031-weighted-boxes-fusion.md). A detector votes once for an
object, with the best of its boxes, so that repeating itself gains it nothing. And if a class is unknown to
some of the detectors, the score is an average over the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.classes import class_key
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.imageio import Image

IOU = 0.6  # of two boxes, above which they mean the same object


@dataclass(frozen=True)
class Member:
    """One detector.

    name: as the user gave it. file, sha256: what was opened.
    classes: what class_id of its detections indexes.
    detect: (H, W, 3) uint8 BGR -> detections in its pixels, down to
        `edge_centernet.evaluation.coco.THRESHOLD`.
    weight: of its vote, above 0; only the ratios of weights matter.
    """

    name: str
    file: str
    sha256: str
    classes: tuple[str, ...]
    detect: Callable[[Image], Detections]
    weight: float = 1.0


class Ensemble:
    """Members whose detections are fused into one result, under the names of `classes`.

    classes: names to look for, each under any synonym that `edge_centernet.classes` knows.
    iou: the limit of `fuse`.
    """

    def __init__(self, members: Sequence[Member], classes: Sequence[str], iou: float = IOU) -> None:
        """Raise ConfigError for a class that no member knows, or that is named twice."""
        self.members, self.classes, self.iou = tuple(members), tuple(classes), iou
        names = [class_key(name) for name in classes]
        if len(set(names)) < len(names):
            again = next(name for i, name in enumerate(classes) if names[i] in names[:i])
            raise ConfigError(f"classes: {again!r} is named twice; name each class once")
        # For each member (its classes,) int32: the place of each class among `classes`, -1 for none.
        place = {name: i for i, name in enumerate(names)}
        self._labels = [
            np.array([place.get(class_key(name), -1) for name in member.classes], np.int32)
            for member in members
        ]
        self._known = np.array([np.isin(np.arange(len(names)), labels) for labels in self._labels])  # (M, C)
        unknown = [name for i, name in enumerate(classes) if not self._known[:, i].any()]
        if unknown or not names:
            every = ", ".join(all_classes(members))
            got = f"none of the models knows {', '.join(unknown)}" if unknown else "expected names, got none"
            raise ConfigError(f"classes: {got}; they know {every}")

    def detect(self, image: Image) -> Detections:
        """(H, W, 3) uint8 BGR -> fused detections in its pixels, clipped to it, of any score, best first."""
        # Each member looks twice: what it finds in both the photo and its mirror image has two votes.
        mirrored = np.ascontiguousarray(image[:, ::-1])
        found: list[Detections] = []
        for member, labels in zip(self.members, self._labels, strict=True):
            found.append(self._ours(member.detect(image), labels))
            found.append(self._ours(mirror(member.detect(mirrored), image.shape[1]), labels))
        weights = np.repeat([member.weight for member in self.members], 2)
        return fuse(found, weights.tolist(), np.repeat(self._known, 2, axis=0), self.iou, self.classes)

    def _ours(self, found: Detections, labels: NDArray[np.int32]) -> Detections:
        """Return a member's detections with class_id indexing `classes`; others are left out."""
        class_id = labels[found.class_id]
        kept = class_id >= 0
        return Detections(found.xyxy[kept], found.score[kept], class_id[kept], self.classes)


def mirror(found: Detections, width: int) -> Detections:
    """Return boxes of an image `width` pixels wide as they lie in its mirror image, and the reverse."""
    xyxy = found.xyxy.copy()
    xyxy[:, [0, 2]] = width - xyxy[:, [2, 0]]
    return Detections(xyxy, found.score, found.class_id, found.classes)


def all_classes(members: Sequence[Member]) -> tuple[str, ...]:
    """Return all classes that any member knows: those of the first one, then what the next ones add."""
    names: list[str] = []
    for member in members:
        known = {class_key(name) for name in names}
        names += [name for name in member.classes if class_key(name) not in known]
    return tuple(names)


def common_classes(members: Sequence[Member], classes: Sequence[str]) -> tuple[str, ...]:
    """Return those of a data set's classes that any member knows; ConfigError if there is none."""
    known = {class_key(name) for member in members for name in member.classes}
    common = tuple(name for name in classes if class_key(name) in known)
    if not common:
        raise ConfigError(
            f"the models and the labelled set have no class in common: the models know "
            f"{', '.join(all_classes(members))}; the set has {', '.join(classes)}"
        )
    return common


def fuse(
    found: Sequence[Detections],
    weights: Sequence[float],
    known: NDArray[np.bool_],
    limit: float = IOU,
    classes: tuple[str, ...] = (),
) -> Detections:
    """Fuse what M detectors found in one image into one `Detections`, best score first.

    Args:
        found: M results, in pixels of the same image, class_id below C.
        weights: M positive numbers; only their ratios matter.
        known: (M, C) bool, whether a detector knows a class at all.
        limit: IoU above which a box joins an object, 0..1.
        classes: the C names, for the result.

    A fused box is the average of its boxes, each by weight times score. Its score is the sum of weight times
    score over the detectors that found it, divided by the weights of all detectors that know its class: 0..1.
    """
    share = np.asarray(weights, np.float64)
    xyxy = np.concatenate([one.xyxy for one in found]).astype(np.float64)  # (N, 4)
    label = np.concatenate([one.class_id for one in found])  # (N,)
    voter = np.repeat(np.arange(len(found)), [len(one) for one in found])  # (N,)
    pull = np.concatenate([one.score for one in found]).astype(np.float64) * share[voter]  # (N,)
    total = share @ known  # (C,)
    order = np.argsort(-pull, kind="stable")
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], int]] = []
    for class_id in np.unique(label):
        mine = order[label[order] == class_id]  # (n,) strongest first
        boxes, owner = cluster(xyxy[mine], pull[mine], limit)
        # A detector's vote for an object is the strongest of its boxes there, not their sum.
        votes = np.zeros((len(boxes), len(found)))
        np.maximum.at(votes, (owner, voter[mine]), pull[mine])
        parts.append((boxes, votes.sum(axis=1) / total[class_id], int(class_id)))
    if not parts:
        return Detections.empty(classes)
    score = np.concatenate([one for _, one, _ in parts])
    class_id = np.concatenate([np.full(len(one), k, np.int32) for _, one, k in parts])
    best = np.argsort(-score, kind="stable")
    fused = np.concatenate([one for one, _, _ in parts])
    return Detections(fused[best].astype(np.float32), score[best].astype(np.float32), class_id[best], classes)


def cluster(
    xyxy: NDArray[np.float64], pull: NDArray[np.float64], limit: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ((K, 4) fused boxes, (N,) which of them each box went into).

    xyxy: (N, 4) boxes of one class. pull: (N,) the weight of each, greatest first. Each box joins the fused
    box that it overlaps most, as that stands by then, if by more than `limit`; otherwise it begins a new one.
    """
    fused = np.zeros_like(xyxy)
    weight = np.zeros(len(xyxy))
    owner = np.zeros(len(xyxy), np.int64)
    count = 0
    for i, box in enumerate(xyxy):
        overlap = iou(box[None], fused[:count])[0]  # (count,)
        best = int(overlap.argmax()) if count else -1
        if best < 0 or overlap[best] <= limit:
            best, count = count, count + 1
        owner[i] = best
        weight[best] += pull[i]
        fused[best] += (box - fused[best]) * (pull[i] / weight[best])  # the running average
    return fused[:count], owner

"""Detectors that look at one photo together: ours and those of others, each at the photo and at its mirror image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import class_key
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.imageio import Image
from edge_centernet.labelling.fusion import IOU, fuse


@dataclass(frozen=True)
class Member:
    """One detector.

    name: how it was named. file, sha256: what was opened. classes: what class_id of its detections indexes.
    detect: (H, W, 3) uint8 BGR -> detections in its pixels, down to
      `edge_centernet.evaluation.coco.THRESHOLD`.
    weight: of its opinion, above 0.
    """

    name: str
    file: str
    sha256: str
    classes: tuple[str, ...]
    detect: Callable[[Image], Detections]
    weight: float = 1.0


class Ensemble:
    """Members whose detections become one result, in the words of `classes`.

    classes: names to look for, in any of the words that `edge_centernet.classes` knows for them.
    iou: see `fuse`.
    """

    def __init__(self, members: Sequence[Member], classes: Sequence[str], iou: float = IOU) -> None:
        """Raises ConfigError for a class that no member knows, or that is named twice."""
        self.members, self.classes, self.iou = tuple(members), tuple(classes), iou
        names = [class_key(name) for name in classes]
        if len(set(names)) < len(names):
            again = next(name for i, name in enumerate(classes) if names[i] in names[:i])
            raise ConfigError(f"classes: {again!r} is named twice; name each class once")
        self._labels = [_labels(member.classes, names) for member in members]
        self._known = np.array([np.isin(np.arange(len(names)), labels) for labels in self._labels])  # (M, C)
        unknown = [name for i, name in enumerate(classes) if not self._known[:, i].any()]
        if unknown or not names:
            every = ", ".join(all_classes(members))
            got = f"none of the models knows {', '.join(unknown)}" if unknown else "expected names, got none"
            raise ConfigError(f"classes: {got}; they know {every}")

    def detect(self, image: Image) -> Detections:
        """(H, W, 3) uint8 BGR -> fused detections in its pixels, clipped to it, best first, every score there is."""
        mirrored = np.ascontiguousarray(image[:, ::-1])
        found: list[Detections] = []
        for member, labels in zip(self.members, self._labels, strict=True):
            found.append(self._ours(member.detect(image), labels))
            found.append(self._ours(mirror(member.detect(mirrored), image.shape[1]), labels))
        weights = np.repeat([member.weight for member in self.members], 2)
        return fuse(found, weights.tolist(), np.repeat(self._known, 2, axis=0), self.iou, self.classes)

    def _ours(self, found: Detections, labels: NDArray[np.int32]) -> Detections:
        """In the classes that are looked for; others are left out."""
        class_id = labels[found.class_id]
        kept = class_id >= 0
        return Detections(found.xyxy[kept], found.score[kept], class_id[kept], self.classes)


def mirror(found: Detections, width: int) -> Detections:
    """Boxes of an image `width` pixels wide as they lie in its mirror image, and the other way round."""
    xyxy = found.xyxy.copy()
    xyxy[:, [0, 2]] = width - xyxy[:, [2, 0]]
    return Detections(xyxy, found.score, found.class_id, found.classes)


def all_classes(members: Sequence[Member]) -> tuple[str, ...]:
    """Everything that any member knows: in the first one's words and order, then what the next ones add."""
    names: list[str] = []
    for member in members:
        known = {class_key(name) for name in names}
        names += [name for name in member.classes if class_key(name) not in known]
    return tuple(names)


def common_classes(members: Sequence[Member], classes: Sequence[str]) -> tuple[str, ...]:
    """Those of a data set's classes that any member knows, in the data set's words. Raises ConfigError without any."""
    known = {class_key(name) for member in members for name in member.classes}
    common = tuple(name for name in classes if class_key(name) in known)
    if not common:
        raise ConfigError(
            f"the models and the labelled set have no class in common: the models know "
            f"{', '.join(all_classes(members))}; the set has {', '.join(classes)}"
        )
    return common


def _labels(classes: Sequence[str], names: Sequence[str]) -> NDArray[np.int32]:
    """(len(classes),) int32: for each of a member's classes its place among `names`, -1 for none."""
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(class_key(name), -1) for name in classes], np.int32)

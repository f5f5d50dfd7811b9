"""Image in, boxes out: the only place where the whole pipeline is spelled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import decode
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.heads import Heads
from edge_centernet.image import Letterbox, prepare
from edge_centernet.manifest import Manifest
from edge_centernet.runtimes.base import Runtime


class Detector:
    """A runtime with the steps around it.

    threshold: lowest score (probability, 0..1) returned; None takes the model's own.
    max_detections: most boxes returned an image, best first.
    classes: names to look for, chosen before max_detections is applied; None means all.
    Raises ConfigError for values outside these limits.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        threshold: float | None = None,
        max_detections: int = 100,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Check the options against the model."""
        self.runtime = runtime
        self.manifest: Manifest = runtime.manifest
        self.threshold = self.manifest.model.threshold if threshold is None else threshold
        self.max_detections = max_detections
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"threshold: expected 0..1, got {threshold}")
        if max_detections < 1:
            raise ConfigError(f"max detections: expected at least 1, got {max_detections}")
        self._ids = None if classes is None else class_ids(classes, self.manifest.model.classes)
        self._decoded = self.manifest if self._ids is None else _narrow(self.manifest, self._ids)

    def detect(self, image_bgr: NDArray[np.uint8]) -> tuple[Detections, dict[str, float]]:
        """(H, W, 3) uint8 BGR -> (detections in pixels of that image, clipped to it; milliseconds by step).

        The steps are "preprocess", "inference" and "decode". Boxes that lie in the padding alone are dropped.
        """
        start = perf_counter()
        x, box = prepare(image_bgr, self.manifest)
        prepared = perf_counter()
        heads = self.runtime.run(x)
        inferred = perf_counter()
        found = self.boxes(heads, box)
        done = perf_counter()
        seconds = {"preprocess": prepared - start, "inference": inferred - prepared, "decode": done - inferred}
        return found, {step: 1000.0 * value for step, value in seconds.items()}

    def boxes(self, heads: Heads, box: Letterbox) -> Detections:
        """The last step alone: what the network gave for an image with this letterbox -> as `detect`."""
        options: dict[str, Any] = {
            "threshold": self.threshold,
            "max_detections": self.max_detections,
            "frame": box.frame,
        }
        if self._ids is None:
            return decode(heads, self.manifest, **options)
        found = decode(heads._replace(heat=heads.heat[self._ids]), self._decoded, **options)
        return Detections(found.xyxy, found.score, self._ids[found.class_id])


def class_ids(wanted: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """(N,) int32 ids of the wanted class names, ascending; ConfigError lists the classes if one is unknown."""
    unknown = [name for name in wanted if name not in classes]
    if unknown or not wanted:
        got = ", ".join(repr(name) for name in unknown) or "none"
        raise ConfigError(f"unknown class {got}: this model knows {', '.join(classes)}")
    return np.array(sorted({classes.index(name) for name in wanted}), np.int32)


def _narrow(manifest: Manifest, ids: NDArray[np.int32]) -> Manifest:
    """The manifest of a network with only these heat channels."""
    names = tuple(manifest.model.classes[i] for i in ids)
    channels = manifest.heat.layout.index("C")
    shape = tuple(len(ids) if axis == channels else size for axis, size in enumerate(manifest.heat.shape))
    return replace(manifest, model=replace(manifest.model, classes=names), heat=replace(manifest.heat, shape=shape))

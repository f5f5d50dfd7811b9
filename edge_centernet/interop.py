"""Results as types of other packages; a package is imported when its function is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import MissingDependency

if TYPE_CHECKING:
    import supervision

    from edge_centernet.detections import Detections

CLASS_NAME = "class_name"  # supervision's key for names: its annotators and sinks look for it


def to_supervision(found: Detections, tracker_id: NDArray[Any] | None = None) -> supervision.Detections:
    """`supervision.Detections` of the same boxes, in the same order, in copies that may be changed.

    xyxy: (N, 4) float32, pixels of the image. confidence: (N,) float32, 0..1. class_id: (N,) int64.
    data["class_name"]: (N,) str. tracker_id: (N,) int64 where it is given, as `Tracks.id`; None otherwise.
    Raises MissingDependency where supervision is not installed, ValueError for a tracker_id of another
    length.
    """
    try:
        from supervision import Detections as Converted
    except ImportError:
        raise MissingDependency.for_extra("to_supervision", "supervision") from None
    if tracker_id is not None and len(tracker_id) != len(found):
        raise ValueError(f"tracker_id: expected one for each of {len(found)} boxes, got {len(tracker_id)}")
    return Converted(
        xyxy=found.xyxy.copy(),
        confidence=found.score.copy(),
        class_id=found.class_id.astype(np.int64),
        tracker_id=None if tracker_id is None else np.array(tracker_id, np.int64),
        data={CLASS_NAME: np.array(found.names, np.str_)},
    )

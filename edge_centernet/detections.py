"""The result type: three parallel arrays, checked when they are made and read-only afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import MissingDependency

if TYPE_CHECKING:
    import supervision

_DTYPES = (("xyxy", np.dtype(np.float32)), ("score", np.dtype(np.float32)), ("class_id", np.dtype(np.int32)))
_SHOWN = 8  # boxes that a repr names
CLASS_NAME = "class_name"  # supervision's key for names: its annotators and sinks look for it


class Detection(NamedTuple):
    """One box.

    name: its class, or the class id as text where the names are not known.
    score: probability, 0..1.
    xyxy: left, top, right, bottom in pixels of the original image, inside it.
    class_id: index into the model's classes.
    """

    name: str
    score: float
    xyxy: tuple[float, float, float, float]
    class_id: int


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What was found in one image, best score first.

    xyxy: (N, 4) float32, left, top, right, bottom in pixels of the original image, inside it.
    score: (N,) float32, probability 0..1.
    class_id: (N,) int32, index into `classes`.
    classes: the names of all classes that the model knows; empty where they are not known.

    The arrays are for computing; a loop gives each box as a `Detection`, for reading. `found[0]` is one
    `Detection`; a mask, slice or index array gives `Detections`, as in `found[found.score > 0.5]`. `len` is
    the number of boxes. The arrays are read-only: copy what is to be changed.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int32]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Convert to the documented dtypes and reject shapes that do not belong together."""
        for name, dtype in _DTYPES:
            array = np.ascontiguousarray(getattr(self, name), dtype)
            # Several threads read one result (drawing, MQTT, the web page): none may change it.
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        n = len(self.score)
        if self.xyxy.shape != (n, 4) or self.score.shape != (n,) or self.class_id.shape != (n,):
            raise ValueError(
                f"expected xyxy (N, 4), score (N,), class_id (N,); got {self.xyxy.shape}, "
                f"{self.score.shape}, {self.class_id.shape}"
            )

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.score)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any] | list[int] | list[bool]) -> Detections: ...
    def __getitem__(self, index: Any) -> Detection | Detections:
        """One box by its number, or several by boolean mask, slice or index array."""
        if isinstance(index, (int, np.integer)):
            left, top, right, bottom = self.xyxy[index].tolist()
            class_id = int(self.class_id[index])
            return Detection(
                self.name_of(class_id), float(self.score[index]), (left, top, right, bottom), class_id
            )
        return Detections(self.xyxy[index], self.score[index], self.class_id[index], self.classes)

    def __iter__(self) -> Iterator[Detection]:
        """Box by box, best first."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """How many, and the classes and scores of the best."""
        shown = ", ".join(f"{one.name} {one.score:.2f}" for one in self[:_SHOWN])
        more = ", ..." if len(self) > _SHOWN else ""
        return f"<Detections: {len(self)}{f' ({shown}{more})' if shown else ''}>"

    def reaching(self, threshold: float | Sequence[float]) -> NDArray[np.bool_]:
        """(N,) whether each score is at least `threshold`, 0..1: one for all, or (C,) one for each class."""
        limits = np.asarray(threshold, np.float32)
        reached: NDArray[np.bool_] = self.score >= (limits[self.class_id] if limits.ndim else limits)
        return reached

    @property
    def names(self) -> list[str]:
        """The class of each box by name, (N,), in the order of the arrays."""
        return [self.name_of(class_id) for class_id in self.class_id.tolist()]

    def name_of(self, class_id: int) -> str:
        """The name of a class; its id as text where the names are not known."""
        return self.classes[class_id] if class_id < len(self.classes) else str(class_id)

    def to_supervision(self) -> supervision.Detections:
        """As `supervision.Detections`: xyxy, confidence, class_id, and the names as data["class_name"].

        Raises MissingDependency where the package `supervision` is not installed. See
        `edge_centernet.detections.to_supervision`.
        """
        return to_supervision(self)

    @classmethod
    def empty(cls, classes: tuple[str, ...] = ()) -> Detections:
        """No box at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), classes)


def to_supervision(found: Detections, tracker_id: NDArray[Any] | None = None) -> supervision.Detections:
    """`supervision.Detections` of the same boxes, in the same order, in copies that may be changed.

    xyxy: (N, 4) float32, pixels of the image. confidence: (N,) float32, 0..1. class_id: (N,) int64.
    data["class_name"]: (N,) str. tracker_id: (N,) int64 where it is given, as `Tracks.id`; None otherwise.
    Raises MissingDependency where supervision is not installed, ValueError for a tracker_id of another
    length.
    """
    # Imported here, because it takes long and most programs need none of it.
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

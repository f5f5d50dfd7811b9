"""Two peaks on one object give one box; two objects keep theirs."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from edge_centernet.decoder.rule import BOX

CAT = (10, 20, 110, 220)


def kept(
    decoder: ModuleType, xyxy: list[tuple[int, ...]], classes: list[int], any_class: bool = False
) -> list[int]:
    """Which of the boxes, best first, are left."""
    boxes = np.zeros(len(xyxy), BOX)
    for column, name in enumerate(("x1", "y1", "x2", "y2")):
        boxes[name] = [box[column] for box in xyxy]
    boxes["class_id"], boxes["cell"] = classes, range(len(xyxy))
    found: list[int] = decoder.drop_duplicate_peaks(boxes, any_class)["cell"].tolist()
    return found


@pytest.mark.parametrize(
    ("other", "stays"),
    [
        (CAT, False),
        ((22, 45, 118, 250), False),  # centre 10 % of the width and 14 % of the height away
        ((26, 20, 126, 220), True),  # 16 % of the width away: another object
        ((40, 80, 70, 160), True),  # concentric, but a third of the size: a cat's kitten
        ((12, 22, 108, 118), True),  # far in y alone
    ],
)
def test_only_concentric_boxes_of_like_size_are_twins(
    decoder: ModuleType, other: tuple[int, ...], stays: bool
) -> None:
    """The stronger box always stays; the weaker goes if centre and size nearly agree."""
    assert kept(decoder, [CAT, other], [0, 0]) == ([0, 1] if stays else [0])


def test_other_classes_are_twins_only_where_asked_for(decoder: ModuleType) -> None:
    """A rider on a horse may have the same box; a network unsure of the class gives two on one object."""
    assert kept(decoder, [CAT, CAT], [0, 1]) == [0, 1]
    assert kept(decoder, [CAT, CAT], [0, 1], any_class=True) == [0]


def test_a_dropped_box_drops_nobody(decoder: ModuleType) -> None:
    """Each box is compared with those that stay: a chain does not swallow its far end."""
    assert kept(decoder, [(0, 0, 100, 100), (12, 0, 112, 100), (24, 0, 124, 100)], [0, 0, 0]) == [0, 2]


def test_boxes_without_area_are_kept_unless_they_coincide(decoder: ModuleType) -> None:
    """Sizes of zero (an untrained network) are no reason to drop a peak elsewhere."""
    assert kept(decoder, [(5, 5, 5, 5), (9, 5, 9, 5), (5, 5, 5, 5)], [0, 0, 0]) == [0, 1]


def test_nothing_found_is_nothing_kept(decoder: ModuleType) -> None:
    """No box, no error."""
    assert kept(decoder, [], []) == []

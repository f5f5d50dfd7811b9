"""Two peaks on one object give one box; two objects keep theirs."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.decoder.twins import without_twins

CAT = (10, 20, 110, 220)


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        (CAT, False),
        ((22, 45, 118, 250), False),  # centre 10 % of the width and 14 % of the height away
        ((26, 20, 126, 220), True),  # 16 % of the width away: another object
        ((40, 80, 70, 160), True),  # concentric, but a third of the size: a cat's kitten
        ((12, 22, 108, 118), True),  # far in y alone
    ],
)
def test_only_concentric_boxes_of_like_size_are_twins(other: tuple[int, ...], kept: bool) -> None:
    """The stronger box always stays; the weaker goes if centre and size nearly agree."""
    keep = without_twins(np.array([CAT, other], np.float32), np.zeros(2, np.int32))

    assert keep.tolist() == [True, kept]


def test_other_classes_are_never_twins() -> None:
    """A rider on a horse may have the same box."""
    assert without_twins(np.array([CAT, CAT], np.float32), np.array([0, 1], np.int32)).tolist() == [True, True]


def test_a_dropped_box_drops_nobody() -> None:
    """Each box is compared with those that stay: a chain does not swallow its far end."""
    chain = np.array([(0, 0, 100, 100), (12, 0, 112, 100), (24, 0, 124, 100)], np.float32)

    assert without_twins(chain, np.zeros(3, np.int32)).tolist() == [True, False, True]


def test_boxes_without_area_are_kept_unless_they_coincide() -> None:
    """Sizes of zero (an untrained network) are no reason to drop a peak elsewhere."""
    points = np.array([(5, 5, 5, 5), (9, 5, 9, 5), (5, 5, 5, 5)], np.float32)

    assert without_twins(points, np.zeros(3, np.int32)).tolist() == [True, True, False]


def test_nothing_found_is_nothing_kept() -> None:
    """No box, no mask."""
    assert without_twins(np.zeros((0, 4), np.float32), np.zeros(0, np.int32)).tolist() == []

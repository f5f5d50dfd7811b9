"""How far boxes overlap, and which belong together: computed by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edge_centernet.boxes import greedy_match, inside, iou, own_overlaps

HERE, BESIDE = (0.0, 0.0, 50.0, 50.0), (20.0, 0.0, 70.0, 50.0)


def test_overlaps() -> None:
    """IoU by hand; a box turned inside out has none; `inside` divides by the first box's area."""
    a = np.array([HERE, (50, 50, 0, 0)], np.float32)
    b = np.array([BESIDE, HERE], np.float32)
    assert iou(a, b) == pytest.approx(np.array([[3 / 7, 1], [0, 0]]))
    assert inside(np.array([(0, 0, 10, 50)], np.float32), b) == pytest.approx(np.array([[0, 1]]))


def test_each_row_takes_the_best_column_that_is_left() -> None:
    """The first row takes what it overlaps most, the second of what is left, the third finds too little."""
    overlap = np.array([[0.6, 0.9], [0.5, 0.8], [0.4, 0.7]])
    assert greedy_match(overlap, 0.5).tolist() == [1, 0, -1]


def test_of_equal_overlaps_the_first_is_taken() -> None:
    """And exactly the least overlap is enough."""
    assert greedy_match(np.array([[0.5, 0.5]]), 0.5).tolist() == [0]


def test_nothing_matches_nothing() -> None:
    """Without rows or without columns there is no partner, and no error."""
    assert greedy_match(np.zeros((2, 0)), 0.5).tolist() == [-1, -1]
    assert greedy_match(np.zeros((0, 2)), 0.5).tolist() == []


@pytest.mark.parametrize("spread", [0, 900])
def test_overlaps_in_blocks_are_those_of_the_whole_matrix(spread: int) -> None:
    """Each pair once, in a tenth of the memory: of 20,000 boxes in one image the matrix would take 14 GB."""
    corner = np.random.default_rng(0).uniform(0, 1, (2000, 2)) * spread
    boxes = np.hstack([corner, corner + 90]).astype(np.float32)
    whole = iou(boxes, boxes)
    found = np.zeros_like(whole)
    tracemalloc.start()
    for rows, columns, overlap in own_overlaps(boxes):
        found[np.ix_(rows, columns)] += overlap
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    np.fill_diagonal(whole, 0)
    np.testing.assert_array_equal(found + found.T, whole)
    assert peak < whole.nbytes / 3


def test_no_box_overlaps_itself() -> None:
    """Neither one nor none."""
    assert list(own_overlaps(np.zeros((0, 4), np.float32))) == []
    ((rows, columns, overlap),) = own_overlaps(np.array([HERE], np.float32))
    assert (rows.tolist(), columns.tolist(), overlap.tolist()) == ([0], [0], [[0.0]])

"""`Detections` box by box, and as `supervision.Detections`, by the real package; how far boxes overlap."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from edge_centernet import Detection, Detections, Detector, Tracker, read_image, sample_photo
from edge_centernet.boxes import greedy_match, inside, iou, own_overlaps
from edge_centernet.errors import MissingDependency
from edge_centernet.extras import command_for

CLASSES = ("cat", "person", "sofa")
HERE, BESIDE = (0.0, 0.0, 50.0, 50.0), (20.0, 0.0, 70.0, 50.0)


def three() -> Detections:
    """A person, a cat and a sofa."""
    xyxy = np.array([[1, 2, 30.5, 40], [5, 6, 70, 80], [0, 0, 9, 9]])
    return Detections(xyxy, np.array([0.9, 0.75, 0.5]), np.array([1, 0, 2]), CLASSES)


def test_a_loop_gives_box_by_box() -> None:
    """Plain Python numbers and the name, best first."""
    first, *rest = three()
    assert first == Detection("person", pytest.approx(0.9), (1.0, 2.0, 30.5, 40.0), 1)
    assert [one.name for one in rest] == ["cat", "sofa"]
    assert {type(value) for value in (*first.xyxy, first.score)} == {float}
    assert list(Detections.empty()) == []


def test_a_number_gives_a_box_and_all_else_detections() -> None:
    """As lists and arrays do; the names go along."""
    found = three()
    assert found[-1].name == "sofa"
    assert found[np.int64(1)].name == "cat"
    assert found[found.score > 0.6].names == ["person", "cat"]
    assert found[1:].names == found[[1, 2]].names == ["cat", "sofa"]
    with pytest.raises(IndexError):
        found[3]


def test_names_fall_back_to_ids() -> None:
    """Where the classes are not known."""
    found = three()
    assert Detections(found.xyxy, found.score, found.class_id).names == ["1", "0", "2"]


def test_the_repr_is_one_line() -> None:
    """How many, what, how sure; of many only the first."""
    assert repr(three()) == "<Detections: 3 (person 0.90, cat 0.75, sofa 0.50)>"
    assert repr(Detections.empty()) == "<Detections: 0>"
    many = three()[np.zeros(20, int)]
    assert repr(many) == f"<Detections: 20 ({', '.join(['person 0.90'] * 8)}, ...)>"


def test_the_arrays_are_read_only() -> None:
    """What two threads share, nobody changes."""
    with pytest.raises(ValueError, match="read-only"):
        three().xyxy[0] = 0


def test_supervision_gets_boxes_scores_classes_and_names() -> None:
    """What its annotators look for, in its types, and in copies that may be changed."""
    sv = pytest.importorskip("supervision", reason="pip install 'edge-centernet[supervision]'")
    found = three()
    converted = found.to_supervision()
    assert isinstance(converted, sv.Detections)
    assert np.array_equal(converted.xyxy, found.xyxy)
    assert np.array_equal(converted.confidence, found.score)
    assert converted.class_id.tolist() == [1, 0, 2]
    assert converted["class_name"].tolist() == ["person", "cat", "sofa"]
    assert converted.tracker_id is None
    converted.xyxy[0] = 0
    assert found.xyxy[0, 2] == 30.5


def test_supervision_can_work_with_it() -> None:
    """Its own filter, merge, non-maximum suppression and annotators run on what the sample photo gave."""
    sv = pytest.importorskip("supervision", reason="pip install 'edge-centernet[supervision]'")
    image = read_image(sample_photo())
    converted = Detector().detect(image).to_supervision()
    cats = converted[converted.data["class_name"] == "cat"]
    assert (len(converted), len(cats)) == (2, 1)
    assert len(converted.with_nms(threshold=0.5)) == 2
    assert len(sv.Detections.merge([converted, cats])) == 3
    drawn = sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(image.copy(), converted), converted)
    assert (drawn != image).any()


def test_supervision_gets_nothing_where_nothing_is() -> None:
    """Empty arrays of the right shapes, which its annotators take."""
    sv = pytest.importorskip("supervision", reason="pip install 'edge-centernet[supervision]'")
    converted = Detections.empty().to_supervision()
    assert (len(converted), converted.xyxy.shape) == (0, (0, 4))
    image = np.zeros((60, 80, 3), np.uint8)
    assert (
        not sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(image.copy(), converted), converted).any()
    )


def test_supervision_gets_the_ids_of_tracks() -> None:
    """As tracker_id, which its line zones count by."""
    sv = pytest.importorskip("supervision", reason="pip install 'edge-centernet[supervision]'")
    tracker = Tracker(0.3)
    tracker.options = type(tracker.options)(confirm=1)
    tracks = tracker.update(three(), 0.0)
    converted = tracks.to_supervision()
    assert converted.tracker_id.tolist() == tracks.id.tolist()
    assert sorted(converted.tracker_id.tolist()) == [1, 2, 3]
    line = sv.LineZone(sv.Point(50, 0), sv.Point(50, 100))
    crossed_in, crossed_out = line.trigger(converted)
    assert len(crossed_in) == len(crossed_out) == 3


def test_where_supervision_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pip command."""
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(MissingDependency, match=re.escape(command_for("supervision"))):
        three().to_supervision()


# ---- boxes: computed by hand


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

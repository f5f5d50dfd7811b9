"""Which names mean one class."""

from __future__ import annotations

import pytest

from edge_centernet.classes import COCO, class_key, coco_word, counted, did_you_mean, find_class

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def test_all_of_vocs_classes_are_among_cocos_six_under_another_word() -> None:
    """COCO's word is found for each, and from COCO's word VOC's."""
    assert {name: coco_word(name) for name in VOC if coco_word(name) != name} == {
        "aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "pottedplant": "potted plant",
        "diningtable": "dining table", "tvmonitor": "tv",
    }  # fmt: skip
    assert [find_class(coco_word(name), VOC) for name in VOC] == list(range(20))
    assert len(set(map(class_key, COCO))) == 80


@pytest.mark.parametrize(
    ("name", "known", "index"),
    [
        ("Potted_Plant", ("cat", "pottedplant"), 1),
        ("traffic-light", ("Traffic Light", "car"), 0),
        ("couch", ("car", "SOFA"), 1),
        ("cat", ("Cat", "cat"), 1),  # the same spelling wins
        ("CAT", ("Cat", "cat"), None),  # which one?
        ("tv", ("television",), None),
        ("c++", ("c", "c#"), None),
        ("Gro\u0308ße", ("car", "größe"), 1),  # the accent as macOS writes it
    ],
)
def test_a_name_is_found_however_it_is_written(name: str, known: tuple[str, ...], index: int | None) -> None:
    """Case, blanks, hyphens and underscores do not matter; other signs do."""
    assert find_class(name, known) == index


def test_a_slip_of_the_pen_is_asked_about() -> None:
    """The nearest known name as it is written there; nothing for what is like none."""
    assert did_you_mean("Persn", ("cat", "Person")) == "; did you mean 'Person'?"
    assert did_you_mean("zebra", ("cat", "Person")) == ""


def test_a_class_that_coco_does_not_have_keeps_its_name() -> None:
    """A fork lift is no fork."""
    assert (coco_word("Fork_Lift"), coco_word("FORK")) == ("Fork_Lift", "fork")


@pytest.mark.parametrize(
    ("name", "two"),
    [
        ("person", "2 persons"),
        ("bus", "2 buses"),
        ("sheep", "2 sheep"),
        ("wine glass", "2 wine glasses"),
        ("knife", "2 knives"),
        ("scissors", "2 scissors"),
        ("couch", "2 couches"),
        ("toy", "2 toys"),
        ("strawberry", "2 strawberries"),
        ("Hard-Hat", "2 Hard-Hats"),
        ("Woman", "2 Women"),
        ("人", "2 人"),
    ],
)
def test_numbers_of_objects_are_english(name: str, two: str) -> None:
    """One is the name itself; more have its plural."""
    assert counted(1, name) == f"1 {name}"
    assert counted(2, name) == two

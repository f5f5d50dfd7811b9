"""Several data sets as one: whose classes meet, what is unlabelled where, and what is said about mistakes."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_centernet.data import DataSource, read_dataset, read_datasets
from edge_centernet.errors import ConfigError, SourceError


def coco(folder: Path, classes: list[str], objects: list[list[str]], **info: Any) -> Path:
    """instances.json with a 40x30 image for each list of class names, a 10x10 object for each name."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for i, names in enumerate(objects):
        cv2.imwrite(str(folder / "images" / f"{folder.name}{i}.png"), np.zeros((30, 40, 3), np.uint8))
        images.append({"id": i, "file_name": f"{folder.name}{i}.png", "width": 40, "height": 30})
        for k, name in enumerate(names):
            annotations.append(
                {"image_id": i, "category_id": classes.index(name), "bbox": [5 * k, 0, 10, 10]}
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    path = folder / "instances.json"
    path.write_text(
        json.dumps({"info": info, "images": images, "annotations": annotations, "categories": categories})
    )
    return path


@pytest.fixture
def street(tmp_path: Path) -> DataSource:
    """Two images, in VOC's words."""
    return DataSource(coco(tmp_path / "street", ["motorbike", "person"], [["person", "motorbike"], []]))


@pytest.fixture
def shop(tmp_path: Path) -> DataSource:
    """One image, in COCO's words."""
    return DataSource(coco(tmp_path / "shop", ["Person", "chair", "motorcycle"], [["chair", "Person"]]))


def test_the_union_of_classes_is_read_and_what_a_set_lacks_is_unlabelled_there(
    street: DataSource, shop: DataSource, tmp_path: Path
) -> None:
    """Words that differ meet under COCO's; one that all sets share stays as it is, known to COCO or not."""
    more = DataSource(coco(tmp_path / "more", ["Forklift"], [["Forklift"]]))
    data = read_datasets([street, shop, more])
    assert data.classes == ("motorcycle", "person", "chair", "Forklift")
    assert [sample.path.name for sample in data.samples] == [
        "street0.png",
        "street1.png",
        "shop0.png",
        "more0.png",
    ]
    assert [sample.labels.tolist() for sample in data.samples] == [[1, 0], [], [2, 1], [3]]
    assert [sample.unlabelled for sample in data.samples] == [(2, 3), (2, 3), (3,), (0, 1, 2)]
    assert data.samples[2].boxes.tolist() == [[0, 0, 10, 10], [5, 0, 15, 10]]


def test_one_set_is_what_read_dataset_reads(street: DataSource) -> None:
    """Its own words, its own order, everything labelled."""
    data, alone = read_datasets([street]), read_dataset(street.path)
    assert data.classes == alone.classes == ("motorbike", "person")
    assert [sample.unlabelled for sample in data.samples] == [(), ()]
    assert [sample.labels.tolist() for sample in data.samples] == [s.labels.tolist() for s in alone.samples]
    assert read_datasets([street], ["person"]).samples[0].labels.tolist() == [0]


def test_the_classes_asked_for_are_read_under_these_names(
    street: DataSource, shop: DataSource, caplog: pytest.LogCaptureFixture
) -> None:
    """In this order; one that no set has is warned about once, and unlabelled everywhere."""
    with caplog.at_level(logging.WARNING, "edge_centernet.data"):
        data = read_datasets([street, shop], ["Chair", "motorbike", "cow"])
    assert data.classes == ("Chair", "motorbike", "cow")
    assert [sample.labels.tolist() for sample in data.samples] == [[1], [], [0]]
    assert [sample.unlabelled for sample in data.samples] == [(0, 2), (0, 2), (2,)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{street.path} + {shop.path}: has no class named 'cow'"
    ]


def test_a_set_labelled_for_some_classes_leaves_the_others_open(street: DataSource, shop: DataSource) -> None:
    """A detector's boxes of the others stay; a class that only the other set has may be named too."""
    only = DataSource(shop.path, labelled_only=("person", "Motorbike"))
    data = read_datasets([street, only])
    assert [sample.unlabelled for sample in data.samples] == [(2,), (2,), (2,)]
    assert data.samples[2].labels.tolist() == [2, 1]
    assert data.samples[2].counted.tolist() == [False, True]
    negatives = DataSource(street.path, labelled_only=("person", "motorcycle", "chair"))
    assert [sample.unlabelled for sample in read_datasets([negatives, shop]).samples] == [(), (), ()]


def test_what_is_said_when_reading_wins_over_what_the_file_says(street: DataSource, tmp_path: Path) -> None:
    """A file labelled for chairs, then for persons."""
    path = coco(tmp_path / "shop", ["person", "chair"], [["chair"]], labelled_only=["chair"])
    for only, unlabelled in ((None, (0, 1)), (("person",), (0, 2))):
        data = read_datasets([street, DataSource(path, labelled_only=only)])
        assert data.classes == ("motorbike", "person", "chair")
        assert data.samples[2].unlabelled == unlabelled
    one = read_datasets([DataSource(path, labelled_only=("person", "chair"))], ["person"])
    assert (one.samples[0].unlabelled, one.samples[0].labels.tolist()) == ((), [])


def test_a_class_that_no_set_knows_is_asked_about(street: DataSource, shop: DataSource) -> None:
    """One line with the set, what there is, and what may have been meant."""
    for sources in (
        [street, DataSource(shop.path, labelled_only=("persn",))],
        [DataSource(shop.path, None, ("persn",))],
    ):
        with pytest.raises(
            ConfigError, match=r"labelled only for 'persn': expected .*; did you mean '[Pp]erson'\?"
        ) as e:
            read_datasets(sources)
        assert str(e.value).startswith(f"{shop.path}: ")
        assert "\n" not in str(e.value)


def test_a_set_with_nothing_in_common_is_refused(street: DataSource, shop: DataSource) -> None:
    """By its name, with what it has."""
    with pytest.raises(SourceError, match=r"none of the classes asked for \('sofa', 'chair'\)") as error:
        read_datasets([shop, street], ["sofa", "chair"])
    assert str(error.value).startswith(f"{street.path}: ")


def test_an_image_in_two_sets_is_counted_and_stays(
    street: DataSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same files under another name, labelled for another class: one warning with their number."""
    folder = tmp_path / "street"
    (tmp_path / "link").symlink_to(folder / "images")
    other = folder / "others.json"
    shutil.copy(street.path, other)
    with caplog.at_level(logging.WARNING, "edge_centernet.data"):
        data = read_datasets([street, DataSource(other, tmp_path / "link")])
    assert len(data) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "2 image files are in several of the data sets and count once for each: "
        f"{(folder / 'images' / 'street0.png').resolve()}, for one, is in {street.path} and in {other}"
    ]

"""--data, --val, --images and --labelled-only given several times: which belongs to which set."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_centernet.cli.options import sources
from edge_centernet.data import DataSource
from edge_centernet.errors import ConfigError

STREET, SHOP, VAL = Path("street/train.json"), Path("voc/shop.json"), Path("street/val.json")


def test_folders_go_by_order_and_by_name() -> None:
    """One for each in their order; or a name for some, and the rest in order; or none."""
    sets = [STREET, SHOP]
    both = (DataSource(STREET, Path("a")), DataSource(SHOP, Path("b")))
    assert sources("--data", sets, ["a", "b"], [VAL], ["c"], []) == (both, (DataSource(VAL, Path("c")),))
    assert sources("--data", sets, ["shop=b", "a"], [], [], []) == (both, ())
    named, _ = sources("--data", sets, ["voc=b"], [], [], [])
    assert named == (DataSource(STREET), DataSource(SHOP, Path("b")))


def test_a_folder_whose_name_holds_an_equals_sign_is_a_folder(tmp_path: Path) -> None:
    """If it is there."""
    (tmp_path / "a=b").mkdir()
    found, _ = sources("--data", [STREET], [str(tmp_path / "a=b")], [], [], [])
    assert found == (DataSource(STREET, tmp_path / "a=b"),)


@pytest.mark.parametrize("name", ["voc/shop.json", "voc", "shop", "shop.json"])
def test_labels_go_by_path_folder_or_file_name(name: str) -> None:
    """And blanks around class names are nothing."""
    found, val = sources("--data", [STREET, SHOP], [], [VAL], [], [f"{name}=person, potted plant"])
    assert found == (DataSource(STREET), DataSource(SHOP, None, ("person", "potted plant")))
    assert val == (DataSource(VAL),)


def test_a_path_that_is_given_twice_is_labelled_alike() -> None:
    """As train and as val."""
    found, val = sources("--data", [STREET], ["a"], [STREET], ["b"], ["street/train.json=person"])
    assert [one.labelled_only for one in (*found, *val)] == [("person",), ("person",)]


@pytest.mark.parametrize(
    ("images", "val_images", "labelled_only", "message"),
    [
        (["a"], [], [], "--images: expected one folder for each set of --data, 2, or NAME=FOLDER"),
        (["a", "b", "c"], [], [], "got 3"),
        (["shp=a"], [], [], r"--images: expected the name of a set \(.*\), got 'shp'; did you mean 'shop'"),
        ([], ["a", "b"], [], "--val-images: expected one folder for each set of --val, 1, or"),
        (
            [],
            [],
            ["shop"],
            "--labelled-only: expected SET=CLASS,CLASS with a set of --data or --val, got 'shop'",
        ),
        ([], [], ["shop="], "expected SET=CLASS,CLASS"),
        (
            [],
            [],
            ["street=person"],
            r"'street' names several sets \(street/train.json, street/val.json\); write the path",
        ),
        ([], [], ["shop=person", "voc=car"], "voc/shop.json is named twice"),
    ],
)
def test_what_does_not_fit_is_one_line(
    images: list[str], val_images: list[str], labelled_only: list[str], message: str
) -> None:
    """With what was expected and what came."""
    with pytest.raises(ConfigError, match=message) as error:
        sources("--data", [STREET, SHOP], images, [VAL], val_images, labelled_only)
    assert "\n" not in str(error.value)


def test_images_of_no_set_are_refused() -> None:
    """--val-images without --val."""
    with pytest.raises(
        ConfigError, match="--val-images: expected --val with it, the set whose images these are"
    ):
        sources("--data", [STREET], [], [], ["a"], [])

"""Input sizes as they are typed, and the names that tell them."""

from __future__ import annotations

from typing import Any

import pytest

from edge_centernet.errors import ConfigError, ManifestError
from edge_centernet.manifest import InputSize, ModelSpec


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("512x384", (512, 384)),
        ("512X384", (512, 384)),
        ("320", (320, 320)),
        (320, (320, 320)),
        ([96, 160], (96, 160)),
    ],
)
def test_a_size_is_two_sides_or_one_of_a_square(value: Any, expected: tuple[int, int]) -> None:
    """Width first; what an older config.json or a YAML file says is taken too."""
    assert InputSize.of(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x384",
        "512x",
        "512x384x3",
        "500x384",
        "32",
        0,
        -320,
        320.5,
        None,
        True,
        [],
        [320, None],
        1e400,
        "4128",
    ],
)
def test_another_size_is_refused(value: Any) -> None:
    """With what came."""
    with pytest.raises(ConfigError, match=r"size: expected WIDTHxHEIGHT .* got "):
        InputSize.of(value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("centernet-nano-256", "centernet-nano-512x384"),
        ("shop-640x352", "shop-512x384"),
        ("mine", "mine-512x384"),
        ("mine-2026", "mine-2026-512x384"),
        ("run-7", "run-7-512x384"),
        ("256", "256-512x384"),
    ],
)
def test_a_name_tells_the_size(name: str, expected: str) -> None:
    """In place of a size that it told, not of another number."""
    assert InputSize(512, 384).named(name) == expected


def test_a_square_is_named_by_one_number() -> None:
    """As the shipped models are; another size changes nothing else, the same size not even the name."""
    spec = ModelSpec("shop-640x352", "1", 352, 640, ("person",), stride=8)
    square = spec.resized(InputSize(320, 320))

    assert (square.name, square.cells, square.stride) == ("shop-320", (40, 40), 8)
    assert spec.resized(InputSize(640, 352)) is spec


@pytest.mark.parametrize("name", ["", "a" * 65, "a\x1b[2J", "a\x9b", "a\nb", "\u202ea", "a\ufeff", 7])
def test_a_class_name_is_short_and_can_be_seen(name: Any) -> None:
    """It goes to terminals, topics and labels; 64 letters of any language are well."""
    with pytest.raises(
        ManifestError, match="model classes: expected a class name of 1 to 64 printable characters, got "
    ):
        ModelSpec("m", "1", 64, 64, ("person", name))
    assert ModelSpec("m", "1", 64, 64, ("犬" * 64,)).classes == ("犬" * 64,)
    with pytest.raises(ManifestError, match="model name and version: expected printable characters"):
        ModelSpec("m\x1b", "1", 64, 64, ("person",))

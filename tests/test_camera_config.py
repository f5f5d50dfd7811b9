"""A camera's settings in a TOML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from edge_centernet.camera_config import Settings, read_config
from edge_centernet.cli.detect import command
from edge_centernet.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    """A configuration file."""
    path = folder / "door.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_options_lines_and_zones_become_what_the_command_line_takes(tmp_path: Path) -> None:
    """Numbers become texts, lists of words A,B, tables NAME=x1,y1,...; dashes and underscores are alike."""
    path = write(
        tmp_path,
        """
        camera = 0
        classes = ["person", "dog"]
        threshold = 0.4
        track = true
        [[line]]
        name = "door"
        from = [0.5, 0]
        to = [0.5, 1.0]
        [[zone]]
        name = "till 1"
        points = [[10, 20], [200, 20], [200, 180]]
        [[zone]]
        points = [0, 0, 1, 0, 1, 1]
        """,
    )
    assert read_config(path) == {
        "camera": "0",
        "classes": "person,dog",
        "threshold": "0.4",
        "track": True,
        "count_line": ["door=0.5,0,0.5,1.0"],
        "zone": ["till 1=10,20,200,20,200,180", "0,0,1,0,1,1"],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camera = ", "expected TOML"),
        ("camra = 0", "unknown setting 'camra'"),
        ("line = 3", "expected tables that begin with [[line]]"),
        ("[[line]]\nfrom = [0, 0]\nto = 3", "expected to = a list of numbers"),
        ("[[line]]\nform = [0, 0]", "unknown form"),
        ('[[zone]]\npoints = ["a"]', "expected numbers"),
        ("camera = 2026-01-01", "expected a text"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    """The message says which file and what is expected there."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.toml")


def test_format_is_the_name_in_a_file(tmp_path: Path) -> None:
    """As on the command line; the name of the field is no setting."""
    assert read_config(write(tmp_path, 'format = "csv"')) == {"format_name": "csv"}
    with pytest.raises(ConfigError, match="unknown setting 'format_name'"):
        read_config(write(tmp_path, 'format_name = "csv"'))


def test_the_table_of_settings_is_the_options_of_detect() -> None:
    """Every option but the file itself may stand in the file."""
    options = {parameter.name for parameter in command.params}
    assert options - {field.name for field in fields(Settings)} == {"config"}
    assert {field.name for field in fields(Settings)} <= options

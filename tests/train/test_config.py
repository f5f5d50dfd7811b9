"""Options of training: how they are typed and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_centernet.errors import ConfigError
from edge_centernet.manifest import InputSize

pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.train.config import TrainConfig


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(320, (320, 320)), ("512x384", (512, 384)), ([512, 384], (512, 384)), ("256", (256, 256))],
)
def test_a_size_is_width_and_height_whatever_was_kept(kept: Any, expected: tuple[int, int]) -> None:
    """Run folders of earlier versions hold one number, those of this one two; two are written again."""
    config = TrainConfig.from_dict({"size": kept})

    assert config.size == InputSize(*expected)
    assert json.loads(json.dumps(config.to_dict()))["size"] == list(expected)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_size_is_set_from_the_command_line_and_from_yaml(tmp_path: Path) -> None:
    """--set size=640x352, and `size: 640x352` or a list in a file."""
    assert TrainConfig.parse(("size=640x352",)) == {"size": InputSize(640, 352)}
    for text in ("size: 640x352", "size: [640, 352]"):
        (tmp_path / "run.yaml").write_text(f"{text}\nepochs: 3\n")
        assert TrainConfig.read_yaml(tmp_path / "run.yaml") == {"size": InputSize(640, 352), "epochs": 3}


@pytest.mark.parametrize("size", ["640x360", 100, 0, "a", [1, 2, 3]])
def test_a_size_that_no_network_has_is_refused(size: Any) -> None:
    """What is not one or two multiples of 32 is named."""
    with pytest.raises(ConfigError, match=r"size: expected WIDTHxHEIGHT .* got "):
        TrainConfig.from_dict({"size": size})

"""Checkpoints bring networks back, equal ones are equal bytes, and damaged ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ArtifactError, EdgeCenterNetError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small float checkpoint."""
    torch.manual_seed(0)
    spec = ModelSpec("t", "1", 64, 64, ("a", "b"), stride=8)
    save_checkpoint(
        tmp_path / "a.safetensors", CenterNet(spec, Architecture("mobilenet_v2", 0.25, (16, 16), 16)), "float"
    )
    return tmp_path / "a.safetensors"


def test_what_is_loaded_and_saved_again_is_the_same_file(saved: Path, tmp_path: Path) -> None:
    """To the byte, as often as one likes."""
    for _ in range(3):
        model, stage = load_checkpoint(saved)
        save_checkpoint(tmp_path / "b.safetensors", model, stage)

        assert (tmp_path / "b.safetensors").read_bytes() == saved.read_bytes()


def test_one_flipped_bit_is_refused(saved: Path) -> None:
    """40 places, in the header and in the weights: none is loaded as if nothing had happened."""
    whole, rng = saved.read_bytes(), np.random.default_rng(0)
    header = int.from_bytes(whole[:8], "little")
    for at in (*rng.integers(0, header + 8, 20), *rng.integers(header + 8, len(whole), 20)):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        saved.write_bytes(data)
        with pytest.raises(EdgeCenterNetError):
            load_checkpoint(saved)


def test_a_checkpoint_brings_back_the_same_network(tmp_path: Path) -> None:
    """Spec, architecture and outputs survive the file."""
    torch.manual_seed(0)
    arch = Architecture("mobilenet_v2", 0.25, (16, 16, 16), 16)
    model = CenterNet(ModelSpec("tiny", "1", 64, 64, ("circle", "square", "star")), arch).eval()
    save_checkpoint(tmp_path / "b.safetensors", model, "float")
    again, stage = load_checkpoint(tmp_path / "b.safetensors")
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()

    assert (stage, again.spec, again.arch) == ("float", model.spec, model.arch)
    for a, b in zip(model(image), again(image), strict=True):
        assert torch.equal(a, b)


def test_half_a_checkpoint_is_refused_in_one_line(saved: Path) -> None:
    """A truncated file raises ArtifactError, not a traceback from the reader."""
    saved.write_bytes(saved.read_bytes()[:-1000])

    with pytest.raises(ArtifactError, match="expected a checkpoint written by edge-centernet train"):
        load_checkpoint(saved)

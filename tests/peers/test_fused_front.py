"""scripts/fused_front.py puts a plain convolution in place of a backbone's first blocks."""

from __future__ import annotations

from pathlib import Path

import cv2
import fused_front
import numpy as np
import pytest
import torch

from edge_centernet.data import Dataset, Sample
from edge_centernet.model.backbones import MobileNetV2
from edge_centernet.model.checkpoint import load_checkpoint
from edge_centernet.models import find_model


@pytest.mark.parametrize("blocks", [2, 3])
def test_maps_keep_their_shapes(blocks: int) -> None:
    """Four maps at strides 4 to 32 with the channels of before, and that many blocks less in front."""
    backbone = MobileNetV2(0.5, "relu", "symmetric").eval()
    x = torch.randn(1, 3, 64, 96)
    before = [tuple(m.shape) for m in backbone(x)]
    assert before == [(1, 12, 16, 24), (1, 16, 8, 12), (1, 48, 4, 6), (1, 80, 2, 3)]
    layers = len(backbone.layers)
    fused_front.fuse_front(backbone, blocks)
    assert [tuple(m.shape) for m in backbone(x)] == before
    assert len(backbone.layers) == layers - blocks + 2
    assert backbone.layers[1].conv.kernel_size == (3, 3)
    assert backbone.layers[1].conv.groups == 1


def test_a_front_learns_what_the_old_one_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shipped small backbone, on eight pictures of smooth colours: 0.52 after 200 steps; the stem stays."""
    monkeypatch.setattr(fused_front, "BATCH", 8)
    rng = np.random.default_rng(0)
    samples = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (64, 64)))
        none = np.zeros(0)
        samples.append(Sample(path, 64, 64, none.reshape(0, 4), none.astype(int), none.astype(bool), none))
    data = Dataset(("x",), samples)
    explained = []
    for epochs in (5, 200):
        torch.manual_seed(0)
        backbone = load_checkpoint(find_model("centernet-nano-256", ".safetensors"))[0].backbone
        stem = backbone.layers[0].conv.weight.clone()
        explained.append(fused_front.teach_front(backbone, 2, data, 64, epochs))
        assert torch.equal(backbone.layers[0].conv.weight, stem)
    assert explained[1] > max(0.3, explained[0])

"""A MobileNetV2 whose first blocks are one plain 3x3 convolution of stride 2 behind the stem: fast, but does it see?

Those blocks have few channels on large maps and a depthwise convolution in their middle; there engines are farthest
from the processor's limit. A plain 3x3 convolution has more multiply-adds and suits dot products (fused inverted
bottlenecks: Xiong et al., MobileDets, arXiv 2004.14525). No published weights have such a front, so it is taught to
answer as the blocks whose place it takes. Used by network_variants.py (how much faster) and ablate.py (how accurate).
"""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn

from edge_centernet.data import Dataset
from edge_centernet.image import read_image
from edge_centernet.model.backbones import MobileNetV2
from edge_centernet.model.layers import ConvUnit, fold_batchnorm

HIDDEN = 4  # channels between its two convolutions, in those of its output
BATCH = 32


def fuse_front(backbone: MobileNetV2, blocks: int) -> None:
    """Put it in place of the first blocks behind the stem, untaught. blocks: 2, or 3 for all down to stride 4."""
    stem, c_out = backbone.layers[0], backbone.channels[4]
    wide = ConvUnit(
        stem.conv.out_channels, HIDDEN * c_out, 3, 2, act=stem.act,
        padding="same_tf" if stem.asymmetric else "symmetric",
    )  # fmt: skip
    front = (stem, wide, ConvUnit(HIDDEN * c_out, c_out, act="none"))
    backbone.layers = nn.ModuleList([*front, *backbone.layers[1 + blocks :]])
    backbone.last = {stride: at + 2 - blocks for stride, at in backbone.last.items() if stride >= 4}


def teach_front(backbone: MobileNetV2, blocks: int, data: Dataset, size: int, epochs: int = 4) -> float:
    """Fuse the front and let it learn what the old one answers to `data`'s photos, mirrored at random.

    size: pixels of the square they are stretched to. Returns the share of the old answers' variance that it explains.
    """
    old = copy.deepcopy(backbone.layers[1 : 1 + blocks]).eval()
    fold_batchnorm(old)
    stem = copy.deepcopy(backbone.layers[0]).eval()
    fuse_front(backbone, blocks)
    new = backbone.layers[1:3].train()
    photos = torch.stack([_photo(sample.path, size) for sample in data.samples])  # (N, 3, size, size) uint8
    optimizer = torch.optim.AdamW(new.parameters(), lr=3e-3, weight_decay=1e-4)
    steps = epochs * (len(photos) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    explained = 0.0
    for step in range(steps):
        x = (photos[torch.randint(len(photos), (BATCH,))].float() - 128) / 128
        with torch.no_grad():
            x = stem(x.flip(3) if step % 2 else x)
            wanted = _run(old, x)
        loss = (_run(new, x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        explained = 0.98 * explained + 0.02 * (1 - loss.item() / wanted.var().item())
    return explained


def _photo(path: Path, size: int) -> Tensor:
    picture = cv2.resize(read_image(path), (size, size), interpolation=cv2.INTER_AREA)  # (size, size, 3) BGR
    return torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)


def _run(layers: nn.Module, x: Tensor) -> Tensor:
    for layer in layers.children():
        x = layer(x)
    return x

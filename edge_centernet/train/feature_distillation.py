"""Feature distillation: a frozen pretrained backbone tells the trained one what it sees.

A small backbone that was trained to detect on a larger data set knows things that ImageNet classification
does not teach. A 1x1 convolution translates the student's maps at strides 16 and 32; the guide's, normalised
per channel, are the target (FitNets, Romero et al., arXiv 1412.6550). Only used in training: nothing of it
stays in the model.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_centernet.network.backbones import MobileNetV2, load_pretrained
from edge_centernet.network.distributed import processes, total
from edge_centernet.network.layers import fold_batchnorm

STRIDES = (16, 32)
WIDTH = 0.5


class Guide(nn.Module):
    """Holds the frozen backbone and the trained translations."""

    def __init__(self, weights: Path, channels: dict[int, int]) -> None:
        """weights: MobileNetV2 of width 0.5 (plain ReLU, symmetric padding); channels: the student's, by stride."""
        super().__init__()
        self.backbone = MobileNetV2(WIDTH, "relu", "symmetric")
        load_pretrained(self.backbone, weights)
        fold_batchnorm(self.backbone)
        self.backbone.requires_grad_(False)
        self.translate = nn.ModuleList(nn.Conv2d(channels[s], self.backbone.channels[s], 1) for s in STRIDES)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """image: (B, 3, H, W) normalised; maps: the student's, strides 4 to 32 -> mean squared error, a scalar."""
        with torch.no_grad():
            targets = [_standard(m.float()) for m in self.backbone(image)[2:]]
        ours = [translate(m) for translate, m in zip(self.translate, maps[2:], strict=True)]
        errors = [F.mse_loss(o.float(), t) for o, t in zip(ours, targets, strict=True)]
        mean: Tensor = torch.stack(errors).mean()
        return mean


def _standard(x: Tensor) -> Tensor:
    """(B, C, H, W) with mean 0 and standard deviation 1 in every channel of the global batch."""
    count = x.numel() / x.shape[1] * processes()
    mean, square = (
        total(torch.stack([x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))])) / processes()
    )  # (C,)
    deviation = (square - mean * mean).clamp(min=0).mul(count / max(count - 1, 1)).sqrt()
    standard: Tensor = (x - mean.reshape(1, -1, 1, 1)) / (deviation.reshape(1, -1, 1, 1) + 1e-3)
    return standard

"""The three losses of CenterNet (arXiv 1904.07850, equations 1 to 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE_WEIGHT = 0.1  # lambda_size of the paper, for sizes in cells
OFFSET_WEIGHT = 1.0  # lambda_off


class Loss(NamedTuple):
    """total = heat + SIZE_WEIGHT * size + OFFSET_WEIGHT * offset; all scalars."""

    total: Tensor
    heat: Tensor
    size: Tensor
    offset: Tensor


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced pixel-wise focal loss, summed over all cells (equation 1, alpha 2, beta 4).

    -(1 - p)^2 log(p)               where target is 1
    -(1 - target)^4 p^2 log(1 - p)  elsewhere

    logits, target: (B, C, H, W). The caller divides by the number of objects.
    """
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)  # finite for any logit
    p = torch.sigmoid(logits)
    positive = (target == 1).to(logits.dtype)
    hit = positive * (1 - p).square() * log_p
    miss = (1 - target).square().square() * p.square() * log_not_p  # zero where target is 1
    return -(hit + miss).sum()


def weighted_l1(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of |prediction - target| * weight; (B, 2, H, W), (B, 2, H, W), (B, H, W)."""
    return ((prediction - target).abs() * weight.unsqueeze(1)).sum()


def centernet_loss(outputs: tuple[Tensor, Tensor, Tensor], targets: dict[str, Tensor]) -> Loss:
    """outputs: heat logits, size, offset; targets: the fields of `targets.Targets`, batched.

    Every term is divided by the number of objects in the batch (at least 1).
    """
    heat, size, offset = (t.float() for t in outputs)
    objects = targets["centre"].sum().clamp(min=1)
    heat_loss = focal_loss(heat, targets["heat"]) / objects
    size_loss = weighted_l1(size, targets["size"], targets["size_weight"]) / objects
    offset_loss = weighted_l1(offset, targets["offset"], targets["centre"]) / objects
    total = heat_loss + SIZE_WEIGHT * size_loss + OFFSET_WEIGHT * offset_loss
    return Loss(total, heat_loss, size_loss, offset_loss)

"""The losses of CenterNet (arXiv 1904.07850, equations 1 to 4), and an overlap loss for the size.

L1 in cells is dominated by large objects; the overlap of boxes around one centre judges all sizes alike, and is
what detections are judged by in the end (IoU losses: arXiv 1608.01471). A little L1 stays, for boxes far off.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP_WEIGHT = 2.0
SIZE_WEIGHT = 0.01  # lambda_size of the paper, for sizes in cells: a tenth of its value, beside the overlap
OFFSET_WEIGHT = 1.0  # lambda_off
SMALLEST = 0.01  # cells: a side that is predicted smaller, or negative, counts as this


class Loss(NamedTuple):
    """Scalars: total = heat + OVERLAP_WEIGHT * overlap + SIZE_WEIGHT * size + OFFSET_WEIGHT * offset."""

    total: Tensor
    heat: Tensor
    overlap: Tensor
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


def side_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """IoU of boxes around one centre, 0..1: (B, 2, H, W) sides -> (B, H, W)."""
    sides, wanted = prediction.clamp(min=SMALLEST), target.clamp(min=SMALLEST)
    common = torch.minimum(sides, wanted).prod(dim=1)
    return common / (sides.prod(dim=1) + wanted.prod(dim=1) - common)


def centernet_loss(
    outputs: tuple[Tensor, Tensor, Tensor], targets: dict[str, Tensor], objects: Tensor | None = None
) -> Loss:
    """outputs: heat logits, size, offset; targets: the fields of `targets.Targets`, batched.

    Every term is divided by `objects`: the number of objects in the batch (at least 1), if not given.
    """
    heat, size, offset = (t.float() for t in outputs)
    if objects is None:
        objects = targets["centre"].sum().clamp(min=1)
    weight = targets["size_weight"]
    heat_loss = focal_loss(heat, targets["heat"]) / objects
    overlap_loss = ((1 - side_iou(size, targets["size"])) * weight).sum() / objects
    size_loss = weighted_l1(size, targets["size"], weight) / objects
    offset_loss = weighted_l1(offset, targets["offset"], targets["centre"]) / objects
    total = heat_loss + OVERLAP_WEIGHT * overlap_loss + SIZE_WEIGHT * size_loss + OFFSET_WEIGHT * offset_loss
    return Loss(total, heat_loss, overlap_loss, size_loss, offset_loss)

"""The losses of CenterNet (arXiv 1904.07850, equations 1 to 4), and an overlap loss for the box.

L1 in cells is dominated by large objects. The overlap of the predicted box, centre included, with the
labelled one weighs all sizes alike, and is what detections are judged by in the end (IoU losses: arXiv
1608.01471). A little L1
stays: it has a gradient where boxes do not meet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP_WEIGHT = 2.0
SIZE_WEIGHT = 0.01  # lambda_size of the paper, for sizes in cells: a tenth of its value, beside the overlap
OFFSET_WEIGHT = 0.1  # lambda_off: a tenth of the paper's, as the overlap judges the offset too
SMALLEST = 0.01  # cells: a side that is predicted smaller, or negative, counts as this


class Loss(NamedTuple):
    """Scalars: total = heat + OVERLAP_WEIGHT * overlap + SIZE_WEIGHT * size + OFFSET_WEIGHT * offset."""

    total: Tensor
    heat: Tensor
    overlap: Tensor
    size: Tensor
    offset: Tensor


def focal_loss(logits: Tensor, heat: Tensor, score: Tensor) -> Tensor:
    """Penalty-reduced pixel-wise focal loss (equation 1, alpha 2, beta 4), summed over all cells.

    (score - p)^2 CE(p, score)               at centres, where score > 0: -(1 - p)^2 log(p) for certain
    objects; for
                                             others the quality focal loss (Li et al., arXiv 2006.04388,
                                             equation 3)
    -(1 - heat)^4 p^2 log(1 - p)             elsewhere

    logits, heat, score: (B, C, H, W). The caller divides by the number of objects.
    """
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)  # finite for any logit
    p = torch.sigmoid(logits)
    centre = (score - p).square() * (score * log_p + (1 - score) * log_not_p)
    background = (1 - heat).square().square() * p.square() * log_not_p
    return -torch.where(score > 0, centre, background).sum()


def weighted_l1(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of |prediction - target| * weight; (B, 2, H, W), (B, 2, H, W), (B, H, W)."""
    return ((prediction - target).abs() * weight.unsqueeze(1)).sum()


def box_iou(size: Tensor, offset: Tensor, target_size: Tensor, target_offset: Tensor) -> Tensor:
    """IoU of boxes that belong to the same cell, 0..1: sizes and offsets (B, 2, H, W) in cells -> (B, H, W)."""
    half, wanted = size.clamp(min=SMALLEST) / 2, target_size.clamp(min=SMALLEST) / 2
    low = torch.maximum(offset - half, target_offset - wanted)
    high = torch.minimum(offset + half, target_offset + wanted)
    common = (high - low).clamp(min=0).prod(dim=1)
    union = 4 * (half.prod(dim=1) + wanted.prod(dim=1)) - common
    return common / union


def centernet_loss(
    outputs: tuple[Tensor, Tensor, Tensor], targets: dict[str, Tensor], objects: Tensor | None = None
) -> Loss:
    """outputs: heat logits, size, offset; targets: the fields of `targets.Targets`, batched.

    Every term is divided by `objects`: the sum of scores in the batch (at least 1), if not given.
    """
    heat, size, offset = (t.float() for t in outputs)
    if objects is None:
        objects = targets["score"].sum().clamp(min=1)
    weight = targets["box_weight"]
    heat_loss = focal_loss(heat, targets["heat"], targets["score"]) / objects
    overlap = box_iou(size, offset, targets["size"], targets["offset"])
    overlap_loss = ((1 - overlap) * weight).sum() / objects
    size_loss = weighted_l1(size, targets["size"], weight) / objects
    offset_loss = weighted_l1(offset, targets["offset"], weight) / objects
    total = heat_loss + OVERLAP_WEIGHT * overlap_loss + SIZE_WEIGHT * size_loss + OFFSET_WEIGHT * offset_loss
    return Loss(total, heat_loss, overlap_loss, size_loss, offset_loss)

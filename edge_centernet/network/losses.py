"""What training minimises: CenterNet's losses on labels, an overlap loss for boxes, and a teacher's loss.

CenterNet: arXiv 1904.07850, equations 1 to 4. Its L1 in cells is dominated by large objects. The overlap of
the predicted box, centre included, with the labelled one weighs all sizes alike, and detections are judged by
it in the end (IoU losses: arXiv 1608.01471). A little L1 stays, because it has a gradient where boxes do not
meet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_centernet.classes import find_class
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.manifest import ModelSpec
from edge_centernet.model_zoo import find_model
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import load_checkpoint
from edge_centernet.network.layers import fold_batchnorm

OVERLAP_WEIGHT = 2.0
SIZE_WEIGHT = 0.01  # lambda_size, for sizes in cells: a tenth of the paper's, beside the overlap
OFFSET_WEIGHT = 0.1  # lambda_off: a tenth of the paper's, because the overlap judges the offset too
SMALLEST = 0.01  # cells; a side that is predicted smaller, or negative, counts as this


class Loss(NamedTuple):
    """Scalars: total = heat + OVERLAP_WEIGHT * overlap + SIZE_WEIGHT * size + OFFSET_WEIGHT * offset."""

    total: Tensor
    heat: Tensor
    overlap: Tensor
    size: Tensor
    offset: Tensor


def focal_loss(logits: Tensor, heat: Tensor, score: Tensor) -> Tensor:
    """Penalty-reduced pixel-wise focal loss (equation 1, alpha 2, beta 4), summed over all cells.

        (score - p)^2 CE(p, score)        at centres, where score > 0
        -(1 - heat)^4 p^2 log(1 - p)      elsewhere

    At the centres of certain objects the former is the paper's -(1 - p)^2 log(p); for uncertain ones it is
    the quality focal loss (Li et al., arXiv 2006.04388, equation 3).

    logits, heat, score: (B, C, H, W) as in `targets.Targets`. The caller divides by the number of objects.
    """
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)  # finite for any logit
    p = torch.sigmoid(logits)
    centre = (score - p).square() * (score * log_p + (1 - score) * log_not_p)
    background = (1 - heat).square().square() * p.square() * log_not_p
    return -torch.where(score > 0, centre, background).sum()


def weighted_l1(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of |prediction - target| * weight; shapes (B, 2, H, W), (B, 2, H, W) and (B, H, W)."""
    return ((prediction - target).abs() * weight.unsqueeze(1)).sum()


def box_iou(size: Tensor, offset: Tensor, target_size: Tensor, target_offset: Tensor) -> Tensor:
    """IoU, 0..1, of two boxes in each cell: sizes and offsets (B, 2, H, W), in cells -> (B, H, W)."""
    half, wanted = size.clamp(min=SMALLEST) / 2, target_size.clamp(min=SMALLEST) / 2
    low = torch.maximum(offset - half, target_offset - wanted)
    high = torch.minimum(offset + half, target_offset + wanted)
    common = (high - low).clamp(min=0).prod(dim=1)
    union = 4 * (half.prod(dim=1) + wanted.prod(dim=1)) - common
    return common / union


def centernet_loss(
    outputs: tuple[Tensor, Tensor, Tensor], targets: dict[str, Tensor], objects: Tensor | None = None
) -> Loss:
    """The losses of one batch against its labels.

    outputs: heat logits (B, C, H, W), size and offset (B, 2, H, W).
    targets: the fields of `targets.Targets`, batched.
    objects: every term is divided by it; the sum of scores in the batch, at least 1, if not given.
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


# ---- distillation


class Teacher(nn.Module):
    """The loss against what a trained network of ours answers, for distillation.

    The labels say 1 at a centre and nothing of what else the object looks like; a teacher says 0.6 cat and
    0.2 dog (Hinton et al., arXiv 1503.02531). Cells are weighted by the square of the difference between the
    two, as in the quality focal loss (Li et al., arXiv 2006.04388, equation 3), so that the many empty ones,
    where both agree, weigh nothing. The teacher sees the mirror image: where it is unsure, it errs there in
    another way than the student, who may be its copy, errs here.

    Only classes that both know are taught; the teacher's network is frozen.
    """

    taught: Tensor
    known: Tensor

    def __init__(self, network: CenterNet, spec: ModelSpec, copied: bool = False) -> None:
        """A teacher for a student with `spec`.

        network: a float network; it is changed (frozen, BatchNorm folded).
        copied: the student is to answer as the teacher does to the image itself, with sizes and offsets too.

        Raises ConfigError where the two have no class in common or differ in their input's colours, or where
        the student's cells are smaller than the teacher's.
        """
        super().__init__()
        self.network = network.eval()
        fold_batchnorm(self.network)
        self.network.requires_grad_(False)
        own = self.network.spec
        if (own.mean, own.std, own.color) != (spec.mean, spec.std, spec.color) or spec.stride % own.stride:
            raise ConfigError(
                f"teacher {own.name}: expected mean, std and color as the student's and a stride that "
                f"divides {spec.stride}, got {own.mean}, {own.std}, {own.color} and {own.stride}"
            )
        known = [(i, find_class(name, own.classes)) for i, name in enumerate(spec.classes)]
        common = [(ours, theirs) for ours, theirs in known if theirs is not None]
        if not common:
            wanted, got = ", ".join(spec.classes), ", ".join(own.classes)
            raise ConfigError(f"teacher {own.name}: expected a network that knows {wanted}, got {got}")
        self.copied = copied
        self.pool = spec.stride // own.stride
        self.register_buffer("taught", torch.tensor([ours for ours, _ in common]), persistent=False)
        self.register_buffer("known", torch.tensor([theirs for _, theirs in common]), persistent=False)

    @classmethod
    def load(cls, checkpoint: str, spec: ModelSpec) -> Teacher:
        """From a float .safetensors or the name of a shipped model; raises ArtifactError for another file."""
        path = find_model(checkpoint, ".safetensors")
        network, stage = load_checkpoint(path)
        if stage != "float":
            raise ArtifactError(f"{path}: expected a float checkpoint as teacher, got one with stage {stage}")
        return cls(network, spec)

    def train(self, mode: bool = True) -> Teacher:
        """Do nothing: the teacher stays in evaluation mode when its student is set to train."""
        return super().train(False)

    def forward(self, x: Tensor, outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The loss, a scalar, summed over all cells.

        x: (B, 3, H, W) normalised. outputs: the student's heat (B, C, h, w), size and offset (B, 2, h, w).
        """
        heat, size, offset = (t.float() for t in outputs)
        with torch.no_grad():
            seen = [t.float() for t in self.network.core(x if self.copied else x.flip(3))]
            theirs = seen[0][:, self.known].sigmoid()  # (B, K, pool * h, pool * w)
            theirs = theirs if self.copied else theirs.flip(3)
            # A coarser cell takes the highest of the teacher's finer ones, so that a peak stays a peak.
            theirs = F.max_pool2d(theirs, self.pool) if self.pool > 1 else theirs
        ours = heat[:, self.taught]
        weight = (theirs - ours.sigmoid()).square()
        loss = (weight * F.binary_cross_entropy_with_logits(ours, theirs, reduction="none")).sum()
        if not self.copied:
            return loss
        sure = theirs.amax(dim=1).square()  # (B, h, w); squared, lest the many empty cells outweigh the peaks
        overlap = OVERLAP_WEIGHT * (1 - box_iou(size, offset, seen[1], seen[2]))
        distance = OFFSET_WEIGHT * (offset - seen[2]).abs().sum(dim=1)
        return loss + (sure * (overlap + distance)).sum()

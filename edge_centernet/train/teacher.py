"""Distillation: a trained network of ours says how sure one can be of each class in each cell.

The labels say 1 at a centre and nothing of what else it looks like; a teacher says 0.6 cat and 0.2 dog
(Hinton et al., arXiv 1503.02531). Cells count by the square of the distance between the two, as in the
quality focal loss (Li et al., arXiv 2006.04388, equation 3): the many empty ones, where both agree, weigh
nothing. The teacher looks at the mirror
image: where it is unsure, it errs differently there than the student, who may be its copy, errs here. Only
  used in
training.
"""

from __future__ import annotations

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
from edge_centernet.network.losses import OFFSET_WEIGHT, OVERLAP_WEIGHT, box_iou


class Teacher(nn.Module):
    """Holds the frozen network; only classes that both know are taught."""

    taught: Tensor
    known: Tensor

    def __init__(self, network: CenterNet, spec: ModelSpec, copied: bool = False) -> None:
        """network: a float one, kept and changed (frozen, BatchNorm folded); spec: the student's.

        copied: the student is to answer as the teacher does, sizes and offsets too, not to learn from its
          mirror image.

        Raises ConfigError where the two have no class in common, or see other colours, or the student's cells
        are smaller than the teacher's.
        """
        super().__init__()
        self.network = network.eval()
        fold_batchnorm(self.network)
        self.network.requires_grad_(False)
        own = self.network.spec
        if (own.mean, own.std, own.color) != (spec.mean, spec.std, spec.color) or spec.stride % own.stride:
            raise ConfigError(
                f"teacher {own.name}: expected mean, std and color as the student's and a stride that divides "
                f"{spec.stride}, got {own.mean}, {own.std}, {own.color} and {own.stride}"
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
        """From a float .safetensors of ours or the name of a shipped model; raises ArtifactError for another file."""
        path = find_model(checkpoint, ".safetensors")
        network, stage = load_checkpoint(path)
        if stage != "float":
            raise ArtifactError(f"{path}: expected a float checkpoint as teacher, got one with stage {stage}")
        return cls(network, spec)

    def train(self, mode: bool = True) -> Teacher:
        """The teacher stays as it is."""
        return super().train(False)

    def forward(self, x: Tensor, outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x: (B, 3, H, W) normalised; outputs: the student's heat (B, C, h, w), size and offset -> a scalar, summed."""
        heat, size, offset = (t.float() for t in outputs)
        with torch.no_grad():
            seen = [t.float() for t in self.network.core(x if self.copied else x.flip(3))]
            theirs = seen[0][:, self.known].sigmoid()  # (B, K, pool * h, pool * w)
            theirs = theirs if self.copied else theirs.flip(3)
            theirs = F.max_pool2d(theirs, self.pool) if self.pool > 1 else theirs
        ours = heat[:, self.taught]
        weight = (theirs - ours.sigmoid()).square()
        loss = (weight * F.binary_cross_entropy_with_logits(ours, theirs, reduction="none")).sum()
        if not self.copied:
            return loss
        sure = theirs.amax(
            dim=1
        ).square()  # (B, h, w); squared, as the many empty cells would outweigh the peaks
        boxes = OVERLAP_WEIGHT * (1 - box_iou(size, offset, seen[1], seen[2])) + OFFSET_WEIGHT * (
            offset - seen[2]
        ).abs().sum(dim=1)
        return loss + (sure * boxes).sum()

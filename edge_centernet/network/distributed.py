"""Several training processes that act as one, as `torchrun` starts them; idle in a single process.

The loss is that of the whole global batch: BatchNorm's statistics, the number of objects by which the losses
are divided, and the observed ranges are taken over all processes. N processes therefore follow the same curve
as one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn


def launched() -> bool:
    """Whether torchrun (or anything that sets its environment) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes for the duration of the block: NCCL between GPUs, gloo between CPUs."""
    if not launched():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the one process that writes files and prints."""
    return rank() == 0


def processes() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def default_device() -> torch.device:
    """One GPU for each process on a machine, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@torch.no_grad()
def total(x: Tensor) -> Tensor:
    """Sum over all processes, in place."""
    if processes() > 1:
        dist.all_reduce(x)
    return x


@torch.no_grad()
def extremes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest `low` and largest `high` of all processes."""
    if processes() > 1:
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
    return low, high


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all of them stop together."""
    return bool(total(torch.tensor(float(flag)))) if processes() > 1 else flag


def from_first(value: object) -> object:
    """The first process's value, in all processes: only its machine needs the file that was read."""
    if processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share_batchnorm(model: nn.Module) -> nn.Module:
    """BatchNorm over the global batch, in place; returns the model. Parameter and buffer names stay."""
    if processes() == 1:
        return model
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:  # not isinstance: what was replaced already stays
                shared = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                shared.train(child.training)
                module.add_module(name, shared)
    return model


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes.

    torch.nn.SyncBatchNorm does the same, on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        count = wide.numel() / wide.shape[1] * processes()
        sums = torch.stack([wide.sum(dim=(0, 2, 3)), wide.square().sum(dim=(0, 2, 3))])  # (2, C)
        # Gradients flow through this sum too: each process's input moves the others' statistics.
        mean, square = differentiable.all_reduce(sums) / count  # type: ignore[no-untyped-call]
        variance = (square - mean * mean).clamp(min=0)  # rounding can leave it slightly negative
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = variance * (count / max(count - 1, 1))  # PyTorch keeps the unbiased variance
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
            self.num_batches_tracked.add_(1)
        gain = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * gain
        out: Tensor = wide * gain.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return out.to(x.dtype)

"""Samples -> augmented images and targets, as batches of tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from edge_centernet.data import Dataset
from edge_centernet.image import read_image
from edge_centernet.manifest import ModelSpec
from edge_centernet.train.augment import Augment
from edge_centernet.train.targets import make_targets

Batch = dict[str, Tensor]
_FIELDS = ("heat", "size", "size_weight", "offset", "centre")


class TrainingSet(TorchDataset[dict[str, NDArray[Any]]]):
    """Item (epoch, index) is a pure function of (seed, epoch, index): resuming needs no random state.

    Decoded images stay in memory (voc2007 train: 1.1 GB) where `cache` is true.
    """

    def __init__(self, data: Dataset, spec: ModelSpec, augment: Augment, seed: int, cache: bool = True) -> None:
        """Images of `data`, seen at the size in `spec`."""
        self.data, self.spec, self.augment, self.seed = data, spec, augment, seed
        self._cache: dict[int, NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, NDArray[Any]]:
        """(epoch, index, side in pixels or 0 for the spec's own) -> image (H, W, 3) uint8 RGB and its targets."""
        epoch, index, side = key
        sample = self.data.samples[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        height, width = (side, side) if side else (self.spec.height, self.spec.width)
        rgb, boxes, labels, ignore = self.augment(
            self._image(index), sample.boxes, sample.labels, sample.ignore, rng, height, width
        )
        stride = self.spec.stride
        targets = make_targets(boxes, labels, ignore, len(self.spec.classes), height // stride, width // stride, stride)
        return {"image": rgb, **{name: getattr(targets, name) for name in _FIELDS}}

    def _image(self, index: int) -> NDArray[np.uint8]:
        if self._cache is None:
            return read_image(self.data.samples[index].path)
        if index not in self._cache:
            self._cache[index] = read_image(self.data.samples[index].path)
        return self._cache[index]


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Yields (epoch, index, side) in an order drawn from (seed, epoch); `set_epoch` moves on."""

    def __init__(self, length: int, seed: int) -> None:
        """length: number of images."""
        self.length, self.seed, self.epoch, self.side = length, seed, 0, 0

    def set_epoch(self, epoch: int, side: int = 0) -> None:
        """The epoch to yield next, and the image side in pixels (0: the model's own)."""
        self.epoch, self.side = epoch, side

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """A permutation of all images."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter([(self.epoch, int(i), self.side) for i in order])


def collate(items: list[dict[str, NDArray[Any]]]) -> Batch:
    """Stack; images become (B, 3, H, W) uint8 in channels-last memory, which convolutions on CPUs like."""
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    batch["image"] = batch["image"].permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), no copy
    return batch


def _release_worker(_: int) -> None:
    """A worker inherits its parent's processor affinity, which OpenMP may have pinned to a single core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    cv2.setNumThreads(1)


def make_loader(data: TrainingSet, sampler: EpochSampler, batch_size: int, workers: int) -> DataLoader[Any]:
    """Batches of exactly `batch_size` (BatchNorm dislikes a rest of one); workers = 0 loads in this process."""
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        drop_last=len(data) >= batch_size,
        persistent_workers=workers > 0,
        worker_init_fn=_release_worker,
        pin_memory=torch.cuda.is_available(),
    )

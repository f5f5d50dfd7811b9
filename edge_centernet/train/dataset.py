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
from edge_centernet.errors import ConfigError
from edge_centernet.image import read_image
from edge_centernet.manifest import ModelSpec
from edge_centernet.train.augment import Augment
from edge_centernet.train.targets import make_targets

Batch = dict[str, Tensor]
_FIELDS = ("heat", "size", "size_weight", "offset", "centre")
Objects = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]  # boxes (N, 4), labels (N,), ignore (N,)
MIDDLE = (0.35, 0.65)  # where the four images of a mosaic meet, as part of width and height


class TrainingSet(TorchDataset[dict[str, NDArray[Any]]]):
    """Item (epoch, index) is a pure function of (seed, epoch, index): resuming needs no random state.

    Decoded images stay in memory (voc2007 train: 1.1 GB) where `cache` is true.
    """

    def __init__(
        self,
        data: Dataset,
        spec: ModelSpec,
        augment: Augment,
        seed: int,
        mosaic: float = 0.0,
        mosaic_epochs: int = 0,
        cache: bool = True,
    ) -> None:
        """Images of `data`, seen at the size in `spec`; mosaic: probability of four in one during the first epochs."""
        self.data, self.spec, self.augment, self.seed = data, spec, augment, seed
        self.mosaic, self.mosaic_epochs = mosaic, mosaic_epochs
        self._cache: dict[int, NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, NDArray[Any]]:
        """(epoch, index, side in pixels or 0 for the spec's own) -> image (H, W, 3) uint8 RGB and its targets."""
        epoch, index, side = key
        rng = np.random.default_rng((self.seed, epoch, index))
        height, width = (side, side) if side else (self.spec.height, self.spec.width)
        if self.mosaic and epoch < self.mosaic_epochs and rng.uniform() < self.mosaic:
            rgb, objects = self._mosaic(index, rng, height, width)
        else:
            rgb, objects = self._view(index, rng, height, width)
        stride = self.spec.stride
        targets = make_targets(*objects, len(self.spec.classes), height // stride, width // stride, stride)
        return {"image": rgb, **{name: getattr(targets, name) for name in _FIELDS}}

    def _view(self, index: int, rng: np.random.Generator, height: int, width: int) -> tuple[NDArray[np.uint8], Objects]:
        """One augmented image and its (boxes, labels, ignore)."""
        sample = self.data.samples[index]
        rgb, boxes, labels, ignore = self.augment(
            self._image(index), sample.boxes, sample.labels, sample.ignore, rng, height, width
        )
        return rgb, (boxes, labels, ignore)

    def _mosaic(
        self, index: int, rng: np.random.Generator, height: int, width: int
    ) -> tuple[NDArray[np.uint8], Objects]:
        """This image and three others around a random point (YOLOv4, arXiv 2004.10934): four times the objects."""
        cx, cy = int(width * rng.uniform(*MIDDLE)), int(height * rng.uniform(*MIDDLE))
        others = rng.integers(len(self), size=3)
        corners = ((0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height))
        canvas = np.empty((height, width, 3), np.uint8)
        parts: list[Objects] = []
        for i, (x1, y1, x2, y2) in zip((index, *others.tolist()), corners, strict=True):
            rgb, (boxes, labels, ignore) = self._view(i, rng, y2 - y1, x2 - x1)
            canvas[y1:y2, x1:x2] = rgb
            parts.append((boxes + np.array([x1, y1, x1, y1], np.float32), labels, ignore))
        return canvas, (
            np.concatenate([boxes for boxes, _, _ in parts]),
            np.concatenate([labels for _, labels, _ in parts]),
            np.concatenate([ignore for _, _, ignore in parts]),
        )

    def _image(self, index: int) -> NDArray[np.uint8]:
        if self._cache is None:
            return read_image(self.data.samples[index].path)
        if index not in self._cache:
            self._cache[index] = read_image(self.data.samples[index].path)
        return self._cache[index]


class BatchSampler(Sampler[list[tuple[int, int, int]]]):
    """Yields this process's part of every global batch, in an order drawn from (seed, epoch).

    Items are (epoch, index, side). All processes together see what one process would see with the same `batch_size`.
    Batches are of exactly `batch_size` (BatchNorm dislikes a rest of one), unless there are fewer images than that.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        """length: number of images; batch_size: of all processes; raises ConfigError if it cannot be shared."""
        if batch_size % processes or (processes > 1 and length < batch_size):
            raise ConfigError(
                f"batch_size: expected a multiple of {processes} (processes) and at most {length} (images), "
                f"got {batch_size}"
            )
        self.length, self.batch_size, self.seed = length, min(batch_size, length), seed
        self.rank, self.processes = rank, processes
        self.epoch, self.side, self.start = 0, 0, 0

    def set_epoch(self, epoch: int, side: int = 0, start: int = 0) -> None:
        """The epoch to yield next, the image side in pixels (0: the model's own), and the first batch."""
        self.epoch, self.side, self.start = epoch, side, start

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        """Batches from `start` on."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist()
        share = self.batch_size // self.processes
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [(self.epoch, i, self.side) for i in order[first : first + share]]


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


def make_loader(data: TrainingSet, sampler: BatchSampler, workers: int) -> DataLoader[Any]:
    """Batches as `sampler` draws them; workers = 0 loads in this process."""
    return DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=_release_worker,
        pin_memory=torch.cuda.is_available(),
    )

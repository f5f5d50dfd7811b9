"""Samples -> augmented images and targets, as batches of tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from edge_centernet.data import Dataset
from edge_centernet.errors import ConfigError
from edge_centernet.imageio import read_image
from edge_centernet.manifest import ModelSpec
from edge_centernet.train.augment import Augment
from edge_centernet.train.targets import Unlabelled, make_targets

Batch = dict[str, Tensor]
_FIELDS = ("heat", "score", "size", "offset", "box_weight")
Item = tuple[int, int, int, int]  # epoch, index of the image, height and width of the view in pixels
MIDDLE = (0.35, 0.65)  # where the four images of a mosaic meet, as part of width and height


class View(NamedTuple):
    """What the network is to see of an image, or of four.

    rgb: (H, W, 3) uint8. boxes: (N, 4) float32 x1, y1, x2, y2 in its pixels. labels: (N,) int64.
    scores: (N,) float32 as in `make_targets`. unlabelled: classes that nobody looked for, and where.
    """

    rgb: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    unlabelled: tuple[Unlabelled, ...]


class TrainingSet(TorchDataset[dict[str, NDArray[Any]]]):
    """An item is a pure function of the seed and itself: resuming needs no random state.

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

    def __getitem__(self, item: Item) -> dict[str, NDArray[Any]]:
        """One augmented image (height, width, 3) uint8 RGB, and the fields of its targets."""
        epoch, index, height, width = item
        rng = np.random.default_rng((self.seed, epoch, index))
        if self.mosaic and epoch < self.mosaic_epochs and rng.uniform() < self.mosaic:
            view = self._mosaic(index, rng, height, width)
        else:
            view = self._view(index, rng, height, width)
        stride = self.spec.stride
        targets = make_targets(
            view.boxes, view.labels, view.scores, view.unlabelled,
            len(self.spec.classes), height // stride, width // stride, stride,
        )  # fmt: skip
        return {"image": view.rgb, **{name: getattr(targets, name) for name in _FIELDS}}

    def _view(self, index: int, rng: np.random.Generator, height: int, width: int) -> View:
        """One augmented image and its objects."""
        sample = self.data.samples[index]
        scores = np.where(sample.ignore, np.float32(0), sample.scores)
        seen = self.augment(self._image(index), sample.boxes, sample.labels, scores, rng, height, width)
        unlabelled = (Unlabelled(sample.unlabelled, (0, 0, width, height)),) if len(sample.unlabelled) else ()
        return View(*seen, unlabelled)

    def _mosaic(self, index: int, rng: np.random.Generator, height: int, width: int) -> View:
        """This image and three others around a random point (YOLOv4, arXiv 2004.10934): four times the objects."""
        cx, cy = int(width * rng.uniform(*MIDDLE)), int(height * rng.uniform(*MIDDLE))
        others = rng.integers(len(self), size=3)
        corners = ((0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height))
        canvas = np.empty((height, width, 3), np.uint8)
        views: list[View] = []
        unlabelled: list[Unlabelled] = []
        for i, (x1, y1, x2, y2) in zip((index, *others.tolist()), corners, strict=True):
            view = self._view(i, rng, y2 - y1, x2 - x1)
            canvas[y1:y2, x1:x2] = view.rgb
            views.append(view._replace(boxes=view.boxes + np.array([x1, y1, x1, y1], np.float32)))
            unlabelled += [part._replace(region=(x1, y1, x2, y2)) for part in view.unlabelled]
        boxes, labels, scores = (
            np.concatenate(arrays) for arrays in zip(*(view[1:4] for view in views), strict=True)
        )
        return View(canvas, boxes, labels, scores, tuple(unlabelled))

    def _image(self, index: int) -> NDArray[np.uint8]:
        if self._cache is None:
            return read_image(self.data.samples[index].path)
        if index not in self._cache:
            self._cache[index] = read_image(self.data.samples[index].path)
        return self._cache[index]


class BatchSampler(Sampler[list[Item]]):
    """Yields this process's part of every global batch, in an order drawn from (seed, epoch).

    All processes together see what one process would see with the same `batch_size`.
    Batches are of exactly `batch_size` (BatchNorm dislikes a rest of one), unless there are fewer images than
    that.
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
        self.epoch, self.start = 0, 0
        self.shapes: tuple[tuple[int, int], ...] = ()

    def set_epoch(self, epoch: int, shapes: Sequence[tuple[int, int]], start: int = 0) -> None:
        """The epoch to yield next and its first batch; shapes: heights and widths to draw each batch's from."""
        self.epoch, self.shapes, self.start = epoch, tuple(shapes), start

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Item]]:
        """Batches from `start` on."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length).tolist()
        drawn = rng.integers(len(self.shapes), size=len(self))
        share = self.batch_size // self.processes
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [(self.epoch, i, *self.shapes[drawn[batch]]) for i in order[first : first + share]]


def input_shapes(height: int, width: int, spread: float) -> list[tuple[int, int]]:
    """Input sizes around (height, width) in pixels: multiples of 32, factors of 1 - spread to 1 + spread.

    spread: 0 to below 1; 0 gives the size itself alone.
    """
    factors = [(32 * i) / max(height, width) for i in range(1, 2 * max(height, width) // 32)]
    near = [f for f in factors if abs(f - 1) <= spread + 1e-6] or [1.0]
    return [(max(32, round(height * f / 32) * 32), max(32, round(width * f / 32) * 32)) for f in near]


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

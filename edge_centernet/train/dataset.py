"""Labelled images as the network sees them: random views, their targets, and batches of both."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from edge_centernet.data import Dataset
from edge_centernet.data.base import list_names, log
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.manifest import GREY, InputSize, ModelSpec
from edge_centernet.train.targets import Unlabelled, make_targets

Batch = dict[str, Tensor]
Item = tuple[int, int, int, int]  # epoch, index of the image, height and width of the view in pixels
_FIELDS = ("heat", "score", "size", "offset", "box_weight")
COVERED = (0.15, 0.5)  # range of the share of an object that is covered
MIDDLE = (0.35, 0.65)  # range in which the four images of a mosaic meet, as a share of width and height

# ---- random views

# RGB to luma and two chroma axes (YIQ). Grey has no chroma, so hue and saturation leave it alone.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class Augment:
    """Random views of an image: scale, translation, mirror image and colour, drawn anew for every call.

    scale: range of the factor on top of the letterbox, drawn uniformly; (1, 1) for none.
    flip: probability of a mirror image, 0..1; 0 for none.
    translate: place the image anywhere it fits, or cut it anywhere if it is larger; False centres it.
    brightness: largest shift, in grey levels of 255; 0 for none.
    contrast, saturation: largest relative change, below 1; 0 for none.
    hue: largest rotation, in degrees; 0 for none.
    min_visible: a box with its centre inside is an object while at least this share of its area, 0..1, is.
    min_ignore: any other box of which at least this share shows is neither object nor background.
    min_side: an object with a side below this many output pixels is neither.
    occlude: probability that something covers a part of an object; 0 for never.
    """

    scale: tuple[float, float] = (0.5, 1.6)
    flip: float = 0.5
    translate: bool = True
    brightness: float = 32.0
    contrast: float = 0.3
    saturation: float = 0.4
    hue: float = 12.0
    min_visible: float = 0.25
    min_ignore: float = 0.1
    min_side: float = 2.0
    occlude: float = 0.0

    def __call__(
        self,
        image_bgr: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        rng: np.random.Generator,
        height: int,
        width: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """One random view: one warp for geometry, one 3x4 matrix for colour.

        Args:
            image_bgr: (H, W, 3).
            boxes: (N, 4), x1 y1 x2 y2 in the image's pixels.
            labels: (N,), the class of each box.
            scores: (N,), how likely each box is an object; 0: neither object nor background.
            rng: equal states give equal results.
            height: of the view, in pixels.
            width: likewise.

        Returns the RGB image (height, width, 3) and what is left of the objects: boxes (M, 4) in its pixels,
        clipped, labels (M,), scores (M,).
        """
        # x_out = sx * x + tx, y_out = scale * y + ty; sx < 0 mirrors.
        rows, columns = image_bgr.shape[:2]
        scale = rng.uniform(*self.scale) * min(width / columns, height / rows)
        free_x, free_y = width - scale * columns, height - scale * rows  # negative: larger than the view
        x, y = rng.uniform(size=2) if self.translate else (0.5, 0.5)
        sx, tx, ty = scale, free_x * x, free_y * y
        if rng.uniform() < self.flip:
            sx, tx = -scale, free_x * x + scale * columns
        # Coordinates count from pixel corners, OpenCV's from pixel centres: half a pixel apart.
        matrix = np.array([[sx, 0, tx + 0.5 * sx - 0.5], [0, scale, ty + 0.5 * scale - 0.5]])
        # The border gets the value that the colour matrix turns into GREY, so that padding looks as it does
        # on a device.
        color = self._color(rng)  # (3, 4)
        pad = min(max((GREY - float(color[0, 3])) / float(color[0, :3].sum()), 0.0), 255.0)
        view, border = (width, height), (pad, pad, pad)
        warped = cv2.warpAffine(
            image_bgr,
            matrix,
            view,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=border,
        )
        rgb: Any = cv2.transform(warped, color)
        factor, shift = np.array([sx, scale, sx, scale], np.float32), np.array([tx, ty, tx, ty], np.float32)
        moved = boxes.astype(np.float32) * factor + shift
        if sx < 0:
            moved = moved[:, [2, 1, 0, 3]]  # x1 < x2 again
        seen = self._visible(moved, labels, scores, height, width)
        if self.occlude:
            self._cover(rgb, seen[0], rng)
        return rgb, *seen

    def _cover(self, rgb: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Cover a part of some objects, from one side, with what is elsewhere in the image; in place.

        The box stays whole: a person behind a counter is as wide and as tall as one before it, and a tracker
        needs the whole box. Random erasing (arXiv 1708.04896), but with the texture of the scene, which
        says less about where the cover ends than noise does.

        rgb: (H, W, 3). boxes: (N, 4) x1, y1, x2, y2 in its pixels.
        """
        rows, columns = rgb.shape[:2]
        source = rgb.copy()  # no cover is made of another one
        for box in boxes:
            if rng.uniform() >= self.occlude:
                continue
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            share = rng.uniform(*COVERED)
            # Half of the covers come from below: counters, cars, other people's heads and shoulders.
            side = rng.choice(4, p=(0.5, 0.1, 0.2, 0.2))
            if side == 0:
                y1 = round(y2 - share * (y2 - y1))
            elif side == 1:
                y2 = round(y1 + share * (y2 - y1))
            elif side == 2:
                x1 = round(x2 - share * (x2 - x1))
            else:
                x2 = round(x1 + share * (x2 - x1))
            w, h = x2 - x1, y2 - y1
            if w < 2 or h < 2:
                continue
            left, top = rng.integers(columns - w + 1), rng.integers(rows - h + 1)
            rgb[y1:y2, x1:x2] = source[top : top + h, left : left + w]

    def _color(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The colour matrix M, (3, 4): rgb_out = M[:, :3] @ bgr_in + M[:, 3].

        A matrix instead of lookup tables over HSV is five times cheaper, and BGR to RGB comes for free.
        """
        shift, contrast, saturation, turn = rng.uniform(-1, 1, size=4)
        gain, vivid = 1 + self.contrast * contrast, 1 + self.saturation * saturation
        angle = math.radians(self.hue * turn)
        cos, sin = vivid * math.cos(angle), vivid * math.sin(angle)
        chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        rgb = gain * (_RGB @ chroma @ _YIQ)
        offset = GREY * (1 - gain) + self.brightness * shift  # contrast turns about the padding's grey
        return np.column_stack([rgb[:, ::-1], np.full(3, offset)]).astype(np.float32)

    def _visible(
        self,
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        height: int,
        width: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Clip boxes, drop those out of sight, and give a score of 0 to what is too little to learn from."""
        limit = np.array([width, height, width, height], np.float32)
        clipped = np.clip(boxes, 0, limit)  # (N, 4)
        sides, full = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
        visible = sides.prod(axis=1) / np.maximum(full.prod(axis=1), 1e-6)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre > 0) & (centre < limit[:2])).all(axis=1)
        good = inside & (visible >= self.min_visible) & (sides >= self.min_side).all(axis=1)
        keep = good | ((visible >= self.min_ignore) & (sides > 0).all(axis=1))
        return clipped[keep], labels[keep], np.where(good, scores, np.float32(0))[keep]


# ---- images and their targets


class View(NamedTuple):
    """What the network sees of one image, or of four.

    rgb: (H, W, 3) uint8. boxes: (N, 4) float32 x1, y1, x2, y2 in its pixels. labels: (N,) int64.
    scores: (N,) float32 as in `make_targets`. unlabelled: classes that nobody looked for, and where.
    """

    rgb: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    unlabelled: tuple[Unlabelled, ...]


def check_objects(data: Dataset, source: str, size: InputSize, augment: Augment) -> None:
    """Raise SourceError where there is nothing to learn; warn of what will not be learnt.

    Args:
        data: the training set.
        source: its name, for messages.
        size: of the network's input, in pixels.
        augment: makes the views, in which an object must have `min_side` pixels to be learnt.
    """
    # 1. How many objects of each class there are, and how many of these can be seen at their largest.
    labelled, seen = np.zeros((2, len(data.classes)), np.int64)
    for sample in data.samples:
        own = ~sample.ignore & (sample.scores > 0)
        enlarged = augment.scale[1] * min(size.width / sample.width, size.height / sample.height)
        sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]) * enlarged
        large = own & (sides >= augment.min_side).all(axis=1)
        labelled += np.bincount(sample.labels[own], minlength=len(data.classes))
        seen += np.bincount(sample.labels[large], minlength=len(data.classes))
    # 2. Nothing at all is an error.
    if not labelled.any():
        raise SourceError(
            f"{source}: expected labelled objects to learn from, found none in {len(data)} images; "
            "edge-centernet data check says what is in a data set"
        )
    too_small = f"less than {augment.min_side:g} pixels wide or high in the network's input of {size}"
    if not seen.any():
        raise SourceError(
            f"{source}: all {labelled.sum()} objects are {too_small}: nothing can be learnt; choose a larger "
            "--size or cut the images into tiles"
        )
    # 3. A part is the user's decision.
    if small := int((labelled - seen).sum()):
        log.warning("%s: %d of %d objects are not learnt: %s", source, small, labelled.sum(), too_small)
    if empty := [name for name, count in zip(data.classes, seen, strict=True) if not count]:
        log.warning("%s: no object to learn from of %s", source, list_names(empty))


class TrainingSet(TorchDataset[dict[str, NDArray[Any]]]):
    """Augmented images and their targets.

    An item is a function of the seed and its own numbers alone, so resuming needs no random state.
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
        """A training set over the images of `data`.

        Args:
            data: labelled images.
            spec: of the network: its classes, its stride.
            augment: makes the random views.
            seed: of all randomness.
            mosaic: probability, 0..1, of an image that is made of four.
            mosaic_epochs: the first epochs, in which that happens.
            cache: keep decoded images in memory (voc2007 train: 1.1 GB).
        """
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
        cells = height // stride, width // stride
        targets = make_targets(*view[1:], len(self.spec.classes), *cells, stride)
        return {"image": view.rgb, **{name: getattr(targets, name) for name in _FIELDS}}

    def _view(self, index: int, rng: np.random.Generator, height: int, width: int) -> View:
        """One augmented image and its objects."""
        sample = self.data.samples[index]
        image = None if self._cache is None else self._cache.get(index)
        if image is None:
            image = sample.read()
            if self._cache is not None:
                self._cache[index] = image
        scores = np.where(sample.ignore, np.float32(0), sample.scores)
        seen = self.augment(image, sample.boxes, sample.labels, scores, rng, height, width)
        unlabelled = (Unlabelled(sample.unlabelled, (0, 0, width, height)),) if len(sample.unlabelled) else ()
        return View(*seen, unlabelled)

    def _mosaic(self, index: int, rng: np.random.Generator, height: int, width: int) -> View:
        """This image and three others around a random point, for four times the objects.

        YOLOv4, arXiv 2004.10934.
        """
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


# ---- batches


class BatchSampler(Sampler[list[Item]]):
    """Yields this process's part of every global batch, in an order drawn from (seed, epoch).

    All processes together see what one process would see with the same `batch_size`. Every batch has exactly
    `batch_size` images, unless there are fewer than that: BatchNorm's statistics are poor for a remainder of
    one.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        """A sampler that `set_epoch` has to set before use.

        Args:
            length: number of images.
            batch_size: images a batch, over all processes; ConfigError where they cannot share it equally.
            seed: of the order.
            rank: number of this process, from 0.
            processes: how many there are.
        """
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
        """Set what to yield next.

        epoch: decides the order. shapes: (height, width) in pixels, of which one is drawn for each batch.
        start: the first batch of the epoch that is wanted.
        """
        self.epoch, self.shapes, self.start = epoch, tuple(shapes), start

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Item]]:
        """Batches from `start` on."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length).tolist()
        # All are drawn, those before `start` too, so that a resumed epoch goes on as it would have.
        drawn = rng.integers(len(self.shapes), size=len(self))
        share = self.batch_size // self.processes
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [(self.epoch, i, *self.shapes[drawn[batch]]) for i in order[first : first + share]]


def input_shapes(height: int, width: int, spread: float) -> list[tuple[int, int]]:
    """Input sizes (height, width) in pixels around the given one, in multiples of 32.

    spread: 0 to below 1: factors on the size go from 1 - spread to 1 + spread; 0 gives the size itself alone.
    """
    factors = [(32 * i) / max(height, width) for i in range(1, 2 * max(height, width) // 32)]
    near = [f for f in factors if abs(f - 1) <= spread + 1e-6] or [1.0]
    return [(max(32, round(height * f / 32) * 32), max(32, round(width * f / 32) * 32)) for f in near]


def collate(items: list[dict[str, NDArray[Any]]]) -> Batch:
    """Stack items; images become (B, 3, H, W) uint8 in channels-last memory, which is faster on CPUs."""
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    batch["image"] = batch["image"].permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), no copy
    return batch


def _unless_parent_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception of a worker's thread, unless its parent stopped while it took a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _release_worker(_: int) -> None:
    """Let a worker run on every core: it inherits its parent's affinity, which OpenMP may have set to one.

    Ctrl-C and SIGTERM reach all processes of a terminal; the parent decides when to stop, and a worker ends
    with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _unless_parent_left
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    cv2.setNumThreads(1)


def make_loader(data: TrainingSet, sampler: BatchSampler, workers: int) -> DataLoader[Any]:
    """Batches as `sampler` draws them. workers: loading processes; 0 loads in this one."""
    return DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=_release_worker,
        pin_memory=torch.cuda.is_available(),
    )

"""Post-training quantization: ranges measured on images, nothing trained.

For networks that were trained elsewhere. Same quantizers and arithmetic as quantization-aware training (qat.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edge_centernet.converters.verify import agreement
from edge_centernet.errors import SourceError
from edge_centernet.heads import Heads
from edge_centernet.image import letterbox
from edge_centernet.model.centernet import CenterNet
from edge_centernet.train.qat import prepare_qat, set_observing, settle_weights
from edge_centernet.train.validate import torch_manifest

Image = NDArray[np.uint8]
BATCH = 8
COMPARED = 2  # batches on which `quantize` compares INT8 with float


def quantize(model: CenterNet, pictures: Iterable[Image], count: int) -> tuple[CenterNet, int, int]:
    """A quantized copy of a float network, and how far it agrees with it.

    pictures: (H, W, 3) uint8 BGR of any size, like those the network will see; count: how many, for the progress bar.
    A range is the average over batches of BATCH pictures of their minimum and maximum.
    Returns the copy, the detections above 0.3 of both on the first COMPARED batches, and how many of them have a
    partner in the other's (same class, IoU >= 0.5, score within 0.1). Raises SourceError when there are no pictures.
    """
    quantized = copy.deepcopy(model).eval()
    prepare_qat(quantized)
    set_observing(quantized, True)
    first: list[Tensor] = []
    with tqdm(total=count, desc="calibrate", unit="image", dynamic_ncols=True) as bar, torch.no_grad():
        for batch in _batches(model, pictures):
            quantized(batch)
            if len(first) < COMPARED:
                first.append(batch)
            bar.update(len(batch))
    if not first:
        raise SourceError("calibration: expected at least one image, got none")
    set_observing(quantized, False)
    settle_weights(quantized)
    return quantized, *_compare(model, quantized, first)


def _batches(model: CenterNet, pictures: Iterable[Image]) -> Iterator[Tensor]:
    """(B, 3, H, W) float32, raw 0..255, B <= BATCH."""
    inputs = (letterbox(picture, model.spec)[0] for picture in pictures)
    while batch := list(islice(inputs, BATCH)):
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float()


@torch.no_grad()
def _compare(model: CenterNet, quantized: CenterNet, batches: list[Tensor]) -> tuple[int, int]:
    """(detections of both above 0.3, those with a partner on the other side)."""
    manifest = torch_manifest(model.spec)
    found = matched = 0
    for batch in batches:
        for one, other in zip(_heads(model, batch), _heads(quantized, batch), strict=True):
            counts = agreement((one, manifest), (other, manifest))
            found, matched = found + counts[0], matched + counts[1]
    return found, matched


def _heads(model: CenterNet, batch: Tensor) -> list[Heads]:
    """What the decoder reads, image by image."""
    heat, size, offset = (np.ascontiguousarray(head.numpy()) for head in model(batch))
    return [Heads(*one) for one in zip(heat, size, offset, strict=True)]

"""Accuracy during training, with the same letterbox and the same decoder as on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from edge_centernet.data import Dataset
from edge_centernet.decoder import decode
from edge_centernet.detections import Detections
from edge_centernet.evaluation.coco import THRESHOLD as THRESHOLD
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest, ModelSpec, TensorSpec
from edge_centernet.network.centernet import CenterNet
from edge_centernet.preprocess import Letterbox, letterbox

BATCH = 8


def torch_manifest(spec: ModelSpec) -> Manifest:
    """The manifest of a network as PyTorch runs it: pixel values 0..255 in NCHW in, float32 heads out."""
    height, width = spec.cells

    def head(name: str, channels: int) -> TensorSpec:
        return TensorSpec(name, (1, channels, height, width), "NCHW", "float32")

    return Manifest(
        model=spec,
        input=TensorSpec("image", (1, 3, spec.height, spec.width), "NCHW", "float32"),
        heat=head("heat", len(spec.classes)),
        size=head("size", 2),
        offset=head("offset", 2),
        precision="fp32",
    )


def validate(model: CenterNet, data: Dataset) -> dict[str, Any]:
    """COCO metrics on `data`, as `edge_centernet.evaluation.coco` returns them.

    The model is put into evaluation mode.
    """
    from edge_centernet.evaluation.coco import evaluate_samples  # training alone needs no COCO library

    found = list(predict(model, data, THRESHOLD))
    return evaluate_samples(found, data, model.spec.classes, model.spec)


@torch.no_grad()
def predict(model: CenterNet, data: Dataset, threshold: float) -> Iterator[Detections]:
    """Detections in pixels of the original images, image by image in the order of `data`.

    threshold: the lowest score, 0..1. The model is put into evaluation mode.
    """
    model.eval()
    device = next(model.parameters()).device
    manifest = torch_manifest(model.spec)
    samples = data.samples
    starts = range(0, len(samples), BATCH)
    for start in tqdm(starts, desc="validate", unit="batch", leave=False, mininterval=2.0):
        inputs: list[np.ndarray[Any, Any]] = []
        boxes: list[Letterbox] = []
        for sample in samples[start : start + BATCH]:
            rgb, geometry = letterbox(sample.read(), model.spec)  # (H, W, 3) uint8
            inputs.append(rgb)
            boxes.append(geometry)
        batch = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).to(device)  # (B, 3, H, W)
        heads = [t.float().contiguous().cpu().numpy() for t in model(batch.float())]
        for i, geometry in enumerate(boxes):
            found = decode(Heads(*(h[i] for h in heads)), manifest, threshold=threshold, max_detections=100)
            yield Detections(geometry.to_image(found.xyxy), found.score, found.class_id)

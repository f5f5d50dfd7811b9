"""Accuracy during training, through the same letterbox and the same decoder as on the device."""

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
from edge_centernet.imageio import read_image
from edge_centernet.manifest import Manifest, ModelSpec, TensorSpec
from edge_centernet.network.centernet import CenterNet
from edge_centernet.preprocess import Letterbox, letterbox

BATCH = 8


def torch_manifest(spec: ModelSpec) -> Manifest:
    """A manifest for the network as PyTorch runs it: uint8-valued NCHW in, float32 heads out."""
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
    """COCO metrics of `model` (put into evaluation mode) on `data`: the dict of `edge_centernet.evaluation.coco`."""
    from edge_centernet.evaluation.coco import evaluate_samples  # its COCO library is not needed to train

    found = list(predict(model, data, THRESHOLD))
    return evaluate_samples(found, data, model.spec.classes, model.spec)


@torch.no_grad()
def predict(model: CenterNet, data: Dataset, threshold: float) -> Iterator[Detections]:
    """Detections in original pixels, image by image in the order of `data`."""
    model.eval()
    device = next(model.parameters()).device
    manifest = torch_manifest(model.spec)
    samples = data.samples
    for start in tqdm(
        range(0, len(samples), BATCH), desc="validate", unit="batch", leave=False, mininterval=2.0
    ):
        inputs: list[np.ndarray[Any, Any]] = []
        boxes: list[Letterbox] = []
        for sample in samples[start : start + BATCH]:
            rgb, geometry = letterbox(read_image(sample.path), model.spec)  # (H, W, 3) uint8
            inputs.append(rgb)
            boxes.append(geometry)
        batch = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).to(device)  # (B, 3, H, W)
        heads = [t.float().contiguous().cpu().numpy() for t in model(batch.float())]
        for i, geometry in enumerate(boxes):
            found = decode(Heads(*(h[i] for h in heads)), manifest, threshold=threshold, max_detections=100)
            yield Detections(geometry.to_image(found.xyxy), found.score, found.class_id)

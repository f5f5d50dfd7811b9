"""What the original CenterNet's code fixes for its two data sets: classes, input statistics, size. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from edge_centernet.classes import COCO

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Published:
    """What the code fixes for a data set. mean, std: of pixel / 255, blue, green, red. size: pixels a side."""

    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    size: int


# src/lib/datasets/dataset/pascal.py at commit 3a1e9c6; it applies ImageNet's RGB statistics to BGR pixels
_PASCAL = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PUBLISHED = {
    # src/lib/datasets/dataset/coco.py at commit f16ef63, with COCO's classes in their own order
    "coco": Published(COCO, (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835), 512),
    "pascal": Published(_PASCAL, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 384),
}

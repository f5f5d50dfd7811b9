"""What the original CenterNet's code fixes for its two data sets: classes, input statistics, size. No torch."""

from __future__ import annotations

from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Published:
    """What the code fixes for a data set. mean, std: of pixel / 255, blue, green, red. size: pixels a side."""

    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    size: int


# src/lib/datasets/dataset/coco.py at commit f16ef63
_COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip
# src/lib/datasets/dataset/pascal.py at commit 3a1e9c6; it applies ImageNet's RGB statistics to BGR pixels
_PASCAL = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PUBLISHED = {
    "coco": Published(_COCO, (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835), 512),
    "pascal": Published(_PASCAL, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 384),
}

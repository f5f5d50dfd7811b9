"""What each part of the training recipe brings: one short run with all of them, and one without each, or with one more.

    python scripts/ablate.py --data ../shared/data --out runs/ablation

Short and cheap on purpose: the detection-trained MobileNetV2 1.0 that learns on beyond stride 8, heads at
stride 8, three epochs of VOC 2007 train at 192 pixels, no quantization; three minutes a run on two cores.
Every run sees as many photos. What shows so early is what makes learning faster; what pays only in a long run
(mosaic, averaging) can look bad here. Finished runs are not repeated. Writes docs/benchmarks/ablation.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from edge_centernet.data import DataSource, read_dataset, read_datasets
from edge_centernet.files import write_atomic
from edge_centernet.network import losses
from edge_centernet.train import dataset, targets
from edge_centernet.train.config import TrainConfig
from edge_centernet.train.loop import Trainer
from edge_centernet.train.targets import Targets

RECORD = Path(__file__).resolve().parents[1] / "docs/benchmarks/ablation.json"
LARGE, SMALL = "mobilenet_v2_1.0_coco.safetensors", "mobilenet_v2_0.5_coco.safetensors"
ALL: dict[str, Any] = {
    "freeze": 8, "size": 192, "neck": (128, 96), "early_part": 0, "epochs": 3, "mosaic": 0, "multiscale": 0,
    "eval_every": 0, "qat_epochs": 0, "calibrate_scores": False,
}  # fmt: skip


def _round_splat(width: float, height: float) -> tuple[int, int]:
    """CornerNet's radius (arXiv 1808.01244, 3.2) for an IoU of 0.3: what the published CenterNet in effect uses."""
    total, area, least = width + height, width * height, 0.3
    shifted = (total - math.sqrt(total * total - 4 * area * (1 - least) / (1 + least))) / 2
    inside = (2 * total - math.sqrt(4 * total * total - 16 * (1 - least) * area)) / 8
    b = 2 * least * total
    outside = (-b + math.sqrt(b * b + 16 * least * (1 - least) * area)) / (8 * least)
    radius = max(0, int(min(shifted, inside, outside)))
    return radius, radius


def _centre_alone(*args: Any) -> Targets:
    """As the paper has it: size and offset are learnt in the cell of the centre, and nowhere else."""
    found = targets.make_targets(*args)
    return replace(found, box_weight=found.score.max(axis=0))


def _sides_alone(size: Tensor, offset: Tensor, target_size: Tensor, target_offset: Tensor) -> Tensor:
    """IoU of boxes as if their centres met: the offset is left to its own loss."""
    return losses_box_iou(size, torch.zeros_like(offset), target_size, torch.zeros_like(offset))


def _generalized(size: Tensor, offset: Tensor, target_size: Tensor, target_offset: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al., arXiv 1902.09630): less the part of the hull that neither box covers."""
    iou = losses_box_iou(size, offset, target_size, target_offset)
    half, wanted = size.clamp(min=losses.SMALLEST) / 2, target_size.clamp(min=losses.SMALLEST) / 2
    high = torch.maximum(offset + half, target_offset + wanted)
    hull = (high - torch.minimum(offset - half, target_offset - wanted)).prod(dim=1)
    union = 4 * (half.prod(dim=1) + wanted.prod(dim=1)) / (1 + iou)
    return iou - (hull - union) / hull


losses_box_iou = losses.box_iou  # the one that is patched calls it


def _patched(module: Any, **values: Any) -> Callable[[], Callable[[], None]]:
    """A function that sets names in `module` and returns one that sets them back."""

    def apply() -> Callable[[], None]:
        before = {name: getattr(module, name) for name in values}
        for name, value in values.items():
            setattr(module, name, value)
        return lambda: [setattr(module, name, value) for name, value in before.items()] and None

    return apply


def _nothing() -> Callable[[], None]:
    return lambda: None


@dataclass(frozen=True)
class Variant:
    """options: what differs from ALL; change: of the code, for the length of the run; weights: what it starts from."""

    options: dict[str, Any] = field(default_factory=dict)
    change: Callable[[], Callable[[], None]] = _nothing
    weights: str = LARGE
    photos: str = "voc2007"


VARIANTS = {
    "all parts": Variant(),
    "the box learnt at the centre cell alone (the paper's way)": Variant(
        change=_patched(dataset, make_targets=_centre_alone)
    ),
    "overlap of the sides alone, the offset by L1": Variant(
        change=_patched(losses, box_iou=_sides_alone, OFFSET_WEIGHT=1.0)
    ),
    "no overlap loss: L1 on size and offset": Variant(
        change=_patched(losses, OVERLAP_WEIGHT=0.0, SIZE_WEIGHT=0.1, OFFSET_WEIGHT=1.0)
    ),
    "GIoU instead of IoU": Variant(change=_patched(losses, box_iou=_generalized)),
    "round splats (the paper's) instead of elongated ones": Variant(
        change=_patched(targets, splat_reach=_round_splat)
    ),
    "MobileNetV2 0.5 instead of 1.0": Variant(
        {"width": 0.5, "act": "relu", "padding": "symmetric"}, weights=SMALL
    ),
    "heads at stride 4 instead of 8": Variant({"neck": (128, 96, 64)}),
    "small neck: 96, 48 channels, no expanding blocks": Variant(
        {"neck": (96, 48), "context": 0, "expand": 0}
    ),
    "peak learning rate 1.5e-3 instead of 4e-3": Variant({"lr": 1.5e-3}),
    "no averaged weights": Variant({"ema": 0.0}),
    "no scale jitter": Variant({"scale_min": 1.0, "scale_max": 1.0}),
    "several input sizes": Variant({"multiscale": 0.25}),
    "with mosaic": Variant({"mosaic": 0.5, "mosaic_part": 0.75}),
    "whole backbone frozen": Variant({"freeze": 32}),
    "as many views of three times the photos": Variant({"epochs": 1}, photos="all"),
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablation"), show_default=True)
def main(data: Path, out: Path) -> None:
    """Run what has not been run yet and write the table."""
    voc, more = (DataSource(data / name / "instances_train.json") for name in ("voc2007", "extra_photos"))
    photos = {"voc2007": read_datasets([voc]), "all": read_datasets([voc, more])}
    rows = []
    for number, (name, variant) in enumerate(VARIANTS.items()):
        train = photos[variant.photos]
        val = read_dataset(data / "voc2007/instances_val.json", classes=train.classes)
        folder = out / str(number)
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            config = TrainConfig.from_dict(ALL | variant.options)
            restore = variant.change()
            try:
                Trainer(config, train, val, folder, "ablation", data / "weights" / variant.weights).run(
                    quantize=False
                )
            finally:
                restore()
            (folder / "done").touch()
        last = (folder / "metrics.csv").read_text().splitlines()
        row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
        rows.append({"variant": name, **{key: float(row[key]) for key in ("AP50", "AP", "heat", "overlap")}})
        click.echo(f"{name:60} AP50 {row['AP50']:>6}  AP {row['AP']:>6}")
        write_atomic(RECORD, json.dumps({"settings": ALL, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What each part of the training recipe brings: one short run with all of them, and one without each.

    python scripts/ablate.py --data ../shared/data --out runs/ablation

Short and cheap on purpose: a frozen, detection-trained MobileNetV2 0.5, four epochs of VOC 2007 train at 256 pixels,
no quantization; two to four minutes a run on two cores. What shows so early is what makes learning faster; what pays
only in a long run (mosaic, averaging, keeping layers frozen) can look bad here. Finished runs are not repeated.
Writes docs/benchmarks/ablation.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_centernet.data import read_dataset
from edge_centernet.files import write_atomic
from edge_centernet.model import losses
from edge_centernet.train import targets
from edge_centernet.train.config import TrainConfig
from edge_centernet.train.loop import Trainer

RECORD = Path(__file__).resolve().parents[1] / "docs/benchmarks/ablation.json"
ALL: dict[str, Any] = {
    "width": 0.5, "act": "relu", "padding": "symmetric", "freeze": 32, "size": 256, "early_part": 0, "epochs": 4,
    "mosaic": 0, "eval_every": 0, "qat_epochs": 0,
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


# name -> (options that differ, change of the code that lasts for the run)
VARIANTS: dict[str, tuple[dict[str, Any], Callable[[], Callable[[], None]]]] = {
    "all parts": ({}, _nothing),
    "round splats (the paper's) instead of elongated ones": ({}, _patched(targets, splat_reach=_round_splat)),
    "L1 on the size instead of the overlap loss": ({}, _patched(losses, OVERLAP_WEIGHT=0.0, SIZE_WEIGHT=0.1)),
    "small neck: 96, 64, 48 channels, no blocks at stride 32": (
        {"neck": (96, 64, 48), "context": 0, "expand": 0},
        _nothing,
    ),
    "peak learning rate 1.5e-3 instead of 4e-3": ({"lr": 1.5e-3}, _nothing),
    "no averaged weights": ({"ema": 0.0}, _nothing),
    "no scale jitter": ({"scale_min": 1.0, "scale_max": 1.0}, _nothing),
    "with mosaic": ({"mosaic": 0.5, "mosaic_part": 0.75}, _nothing),
    "backbone trained beyond stride 8": ({"freeze": 8}, _nothing),
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablation"), show_default=True)
def main(data: Path, out: Path) -> None:
    """Run what has not been run yet and write the table."""
    train = read_dataset(data / "voc2007/instances_train.json")
    val = read_dataset(data / "voc2007/instances_val.json", classes=train.classes)
    weights = data / "weights/mobilenet_v2_0.5_coco.safetensors"
    rows = []
    for number, (name, (options, change)) in enumerate(VARIANTS.items()):
        folder = out / str(number)
        if not (folder / "qat.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            restore = change()
            try:
                Trainer(TrainConfig.from_dict(ALL | options), train, val, folder, "ablation", weights).run()
            finally:
                restore()
        last = (folder / "metrics.csv").read_text().splitlines()
        row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
        rows.append({"variant": name, **{key: float(row[key]) for key in ("AP50", "AP", "heat", "overlap")}})
        click.echo(f"{name:60} AP50 {row['AP50']:>6}  AP {row['AP']:>6}")
        write_atomic(RECORD, json.dumps({"settings": ALL, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

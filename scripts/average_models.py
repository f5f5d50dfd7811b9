"""The mean of the weights of float checkpoints, of which each was trained from another or from the same one.

    python scripts/average_models.py first.safetensors second.safetensors --out mean.safetensors

Such networks lie in one valley of the loss, and their mean is more accurate than each (Wortsman et al.,
"Model soups", arXiv 2203.05482). The scores of the mean are not calibrated: `train --set epochs=0` does that,
and quantizes. Names of classes, and all that is no weight, are those of the last.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from edge_centernet.classes import find_class
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint
from edge_centernet.train.score_calibration import unfold


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
def main(checkpoints: tuple[Path, ...], out: Path) -> None:
    """Average CHECKPOINTS, at least two."""
    models = []
    for path in checkpoints:
        model, stage = load_checkpoint(path)
        if stage != "float":
            raise click.UsageError(f"{path}: expected a float checkpoint, got one with stage {stage}")
        unfold(model)
        models.append(model)
    mean = models[-1]
    for path, model in zip(checkpoints, models, strict=True):
        same = [find_class(name, model.spec.classes) == i for i, name in enumerate(mean.spec.classes)]
        if model.arch != mean.arch or not all(same):
            raise click.UsageError(f"{path}: expected architecture and classes of {checkpoints[-1]}")
    states = [model.state_dict() for model in models]
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name].float() for state in states]).mean(dim=0))
    save_checkpoint(out, mean, "float")


if __name__ == "__main__":
    main()

"""Where training starts: an empty network, a pretrained backbone, or a whole network of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from edge_centernet.classes import find_class
from edge_centernet.errors import ArtifactError
from edge_centernet.manifest import ModelSpec
from edge_centernet.network.backbones import load_pretrained
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import load_checkpoint
from edge_centernet.network.layers import ConvUnit, fold_batchnorm
from edge_centernet.train.config import TrainConfig
from edge_centernet.train.score_calibration import unfold


def start_network(
    config: TrainConfig, spec: ModelSpec, weights: Path | None
) -> tuple[CenterNet, TrainConfig]:
    """The network to train, and the options with its architecture.

    weights: None; a backbone (torchvision's names, .pth or .safetensors); or a checkpoint of ours, whose
      architecture
    is taken over and whose heatmap channels go to the classes of the same name, or of a synonym. Raises
    ConfigError or ArtifactError.
    """
    if weights is not None and is_checkpoint(weights):
        model = _adapted(weights, spec, kept=not config.epochs)
        return model, config.with_architecture(model.arch)
    arch = config.architecture()
    model = CenterNet(replace(spec, stride=arch.stride), arch)
    if weights is not None:
        load_pretrained(model.backbone, weights)
    return model, config


def freeze_layers(model: CenterNet, stride: int) -> None:
    """Backbone layers up to `stride` (0: none) learn nothing; folding their BatchNorm is exact and saves its time."""
    still = list(model.backbone.layers)[: model.backbone.last[stride] + 1] if stride else []
    for layer in still:
        fold_batchnorm(layer)
        layer.requires_grad_(False)


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file carries our header."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return "edge_centernet" in (file.metadata() or {})
    except SafetensorError:
        return False


def _adapted(path: Path, spec: ModelSpec, kept: bool) -> CenterNet:
    """The checkpoint's float network for the classes of `spec`.

    kept: its calibration of scores too; otherwise that is undone, for training goes on from what the loss
      asked for.
    """
    source, stage = load_checkpoint(path)
    if stage != "float":
        raise ArtifactError(f"{path}: expected a float checkpoint to start from, got one with stage {stage}")
    if not kept:
        unfold(source)
    model = CenterNet(_same_scores(replace(spec, stride=source.arch.stride), source.spec), source.arch)
    state = source.state_dict()
    for name, unit in model.named_modules():  # frozen layers were saved with their BatchNorm folded
        if isinstance(unit, ConvUnit) and f"{name}.bn.weight" not in state:
            unit.fold_batchnorm()
    model.load_state_dict(_heat_rows(state, model, source.spec.classes))
    return model


def _same_scores(spec: ModelSpec, source: ModelSpec) -> ModelSpec:
    """`spec` with what scores and thresholds of the same classes mean in `source`; new classes have neither."""
    fields: dict[str, tuple[float, ...]] = {}
    for name, fresh in (("class_thresholds", source.threshold), ("score_scale", 1.0), ("score_shift", 0.0)):
        known = dict(zip(source.classes, getattr(source, name), strict=False))
        fields[name] = tuple(known.get(one, fresh) for one in spec.classes) if known else ()
    return replace(spec, threshold=source.threshold, **fields)  # type: ignore[arg-type]


@torch.no_grad()
def _heat_rows(state: dict[str, Tensor], model: CenterNet, known: tuple[str, ...]) -> dict[str, Tensor]:
    """`state` with the last heatmap layer's rows in the order of the model's classes; new classes start as they are."""
    fresh = model.state_dict()
    for key in ("heat.conv.weight", "heat.conv.bias"):
        rows = fresh[key].clone()  # (C, ...)
        for i, name in enumerate(model.spec.classes):
            source = find_class(name, known)
            if source is not None:
                rows[i] = state[key][source]
        state[key] = rows
    return state

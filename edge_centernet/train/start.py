"""The network that training starts from: an untrained one, one with a pretrained backbone, or one of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
        architecture is adopted and whose heatmap channels go to the classes of the same name, or of a
        synonym.

    Raises ConfigError or ArtifactError where the file does not fit or is damaged.
    """
    if weights is not None and is_checkpoint(weights):
        model = _adapted(weights, spec, calibrated=not config.epochs)
        return model, config.with_architecture(model.arch)
    arch = config.architecture()
    model = CenterNet(replace(spec, stride=arch.stride), arch)
    if weights is not None:
        load_pretrained(model.backbone, weights)
    return model, config


def freeze_layers(model: CenterNet, stride: int) -> None:
    """Keep backbone layers up to `stride` (0: none) from learning.

    Their BatchNorm is folded, which is exact for layers that do not change, and saves its time.
    """
    still = list(model.backbone.layers)[: model.backbone.last[stride] + 1] if stride else []
    for layer in still:
        fold_batchnorm(layer)
        layer.requires_grad_(False)


def is_checkpoint(path: Path) -> bool:
    """Whether this is a safetensors file with our header."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return "edge_centernet" in (file.metadata() or {})
    except SafetensorError:
        return False


def _adapted(path: Path, spec: ModelSpec, calibrated: bool) -> CenterNet:
    """The checkpoint's float network for the classes of `spec`.

    calibrated: with the calibration of its scores. Otherwise that is undone, because training continues from
        the scores that the loss led to.
    """
    source, stage = load_checkpoint(path)
    if stage != "float":
        raise ArtifactError(f"{path}: expected a float checkpoint to start from, got one with stage {stage}")
    if not calibrated:
        unfold(source)
    # 1. Thresholds and calibration of classes of the same name; new classes have neither.
    old, stride = source.spec, source.arch.stride
    scores: dict[str, tuple[float, ...]] = {}
    places = [find_class(name, old.classes) for name in spec.classes]
    for name, fresh in (("class_thresholds", old.threshold), ("score_scale", 1.0), ("score_shift", 0.0)):
        known = getattr(old, name)
        scores[name] = tuple(fresh if i is None else known[i] for i in places) if known else ()
    spec = replace(spec, stride=stride, threshold=old.threshold, **scores)  # type: ignore[arg-type]
    # 2. A network of the same form; frozen layers were saved with their BatchNorm folded.
    model = CenterNet(spec, source.arch)
    state = source.state_dict()
    for name, unit in model.named_modules():
        if isinstance(unit, ConvUnit) and f"{name}.bn.weight" not in state:
            unit.fold_batchnorm()
    # 3. The rows of the last heatmap layer in the new order of classes; those of new classes stay untrained.
    initial = model.state_dict()
    for key in ("heat.conv.weight", "heat.conv.bias"):
        rows = initial[key].clone()  # (C, ...)
        for i, row in enumerate(places):
            if row is not None:
                rows[i] = state[key][row]
        state[key] = rows
    model.load_state_dict(state)
    return model

"""Every training option in one place: unit, limits, default and how to turn it off."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_centernet.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """Saved with every run as config.json.

    Model
      backbone, width: see `model.centernet.Architecture`. size: network input side in pixels, multiple of 32.
    Float stage
      epochs: passes over the data. batch_size: images a step.
      lr: peak learning rate of neck and heads (AdamW); backbone_lr: factor on it for the backbone.
      warmup: steps of linear warm-up, then cosine to 1 % of the peak. weight_decay: on convolution weights only.
      clip: largest gradient norm; 0 turns clipping off. ema: decay of the averaged weights that are evaluated and kept.
      freeze: with pretrained weights, backbone layers up to this stride (4, 8, 16, 32) stay as they are; 0: none.
      early_side: image side in pixels for the first `early_part` (0..1) of the epochs: cheaper, and coarser
        first is no worse; early_part 0 turns it off.
    Quantization-aware stage, from the float stage's averaged weights
      qat_epochs; qat_lr: peak learning rate, cosine to 1 %; qat_freeze: part (0..1) of the stage after which the
        activation ranges stand still. qat_epochs 0 calibrates only.
    General
      seed; workers: loading processes (0: this one); eval_every: epochs between evaluations, 0 for the last only;
      amp: bfloat16 autocast "on", "off" or "auto" (where the processor or GPU has it in hardware).
    """

    backbone: str = "mobilenet_v2"
    width: float = 1.0
    size: int = 320
    epochs: int = 60
    batch_size: int = 16
    lr: float = 1.5e-3
    backbone_lr: float = 0.3
    warmup: int = 300
    weight_decay: float = 0.02
    clip: float = 10.0
    ema: float = 0.998
    freeze: int = 8
    early_side: int = 256
    early_part: float = 0.75
    qat_epochs: int = 4
    qat_lr: float = 2e-4
    qat_freeze: float = 0.5
    seed: int = 0
    workers: int = 1
    eval_every: int = 5
    amp: str = "auto"

    def __post_init__(self) -> None:
        """Reject values outside the documented limits, naming option and limit."""
        checks = (
            ("size", self.size >= 64 and self.size % 32 == 0, "a multiple of 32, at least 64"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", self.lr > 0, "a positive number"),
            ("early_side", self.early_side >= 64 and self.early_side % 32 == 0, "a multiple of 32, at least 64"),
            ("freeze", self.freeze in (0, 4, 8, 16, 32), "0, 4, 8, 16 or 32"),
            ("early_part", 0 <= self.early_part <= 1, "0 to 1"),
            ("qat_epochs", self.qat_epochs >= 0, "at least 0"),
            ("qat_freeze", 0 <= self.qat_freeze <= 1, "0 to 1"),
            ("ema", 0 <= self.ema < 1, "0 to below 1"),
            ("workers", self.workers >= 0, "at least 0"),
            ("amp", self.amp in ("on", "off", "auto"), "on, off or auto"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"training option {name}: expected {expected}, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; raises ConfigError for unknown options."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"training options: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**data)

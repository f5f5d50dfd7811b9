"""Every training option in one place, with its unit, limits, default and how to turn it off."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge_centernet.errors import ConfigError
from edge_centernet.manifest import InputSize
from edge_centernet.network.centernet import Architecture

DEFAULT_SIZE = InputSize(320, 320)


@dataclass(frozen=True)
class TrainConfig:
    """Saved with every run as config.json.

    Model (taken from the checkpoint instead, where training starts from one of ours)
      backbone, width, act, padding, neck, head, context, expand, kind: see `network.centernet.Architecture`.
      size: width and height of the network's input in pixels, each a multiple of 32 and at least 64: 512x384,
        or one number for a square. config.json holds both; older ones hold one number.
    Data
      scale_min, scale_max: range of the random scale on top of the letterbox; 1 and 1 for none.
      occlude: probability (0..1) that a part of an object is covered, for people in crowds and behind
        counters; 0: never.
      multiscale: every batch's input side is drawn from those within this part (0..1) of the stage's own
        side, so that one network works at several input sizes; 0: always the same side.
      mosaic: probability (0..1) that an image is made of four, during the first `mosaic_part` (0..1) of the
        float epochs; 0: never.
    Float stage
      epochs: passes over the data; 0 quantizes the weights that training starts from.
      batch_size: images a step, over all processes together.
      lr: peak learning rate of neck and heads (AdamW); backbone_lr: factor on it for the backbone.
      warmup: steps of linear warm-up (at most a tenth of the stage), then cosine to 1 % of the peak.
      weight_decay: on convolution weights only. clip: largest gradient norm; 0 turns clipping off.
      ema: decay of the averaged weights that are evaluated and saved; 0 turns averaging off.
      freeze: with pretrained weights, backbone layers up to this stride (4, 8, 16, 32) stay as they are; 0:
        none.
      early_side: image side in pixels for the first `early_part` (0..1) of the epochs: cheaper, and coarser
        first is no worse; early_part 0 turns it off. Where `size` has no more pixels, that is used.
      teacher: float checkpoint of ours, or the name of a shipped model, whose heatmap is learned beside the
        labels (see `network.losses.Teacher`); empty: none. teacher_weight: weight of that loss.
      calibrate_scores: at the end of the stage, fit scores to the validation set so that a score of 0.5 is
        right half of the time, and choose the default threshold there (docs/scores.md); false: scores stay as
        trained, as they do without --val.
    Quantization-aware stage, from the float stage's averaged weights, with the float network as the teacher
      qat_epochs: passes over the data; 0 calibrates only (post-training quantization).
      qat_lr: peak learning rate, cosine to 1 %, relative to the largest weight of each channel.
      qat_freeze: part (0..1) of the stage during which the activation ranges follow a moving average of
        extremes; 0: they stay as measured.
      qat_labels: weight of the labels' losses beside the float network's answers; 0: learn from those alone.
      symmetric: every zero point is 0, as TensorRT requires.
    General
      seed: of all randomness; the same seed gives the same weights.
      workers: loading processes; 0: none but this one.
      eval_every: epochs between evaluations; 0: after the last one only.
      save_every: seconds between writes of state.pt inside an epoch.
      amp: bfloat16 autocast "on", "off" or "auto" (where the processor or GPU has it in hardware).
    """

    backbone: str = "mobilenet_v2"
    width: float = 1.0
    act: str = "relu6"
    padding: str = "same_tf"
    neck: tuple[int, ...] = (128, 96, 64)
    head: int = 64
    context: int = 2
    expand: int = 2
    kind: str = "fpn"
    size: InputSize = DEFAULT_SIZE
    scale_min: float = 0.5
    scale_max: float = 1.6
    occlude: float = 0.0
    multiscale: float = 0.0
    mosaic: float = 0.5
    mosaic_part: float = 0.75
    epochs: int = 60
    batch_size: int = 16
    lr: float = 4e-3
    backbone_lr: float = 0.15
    warmup: int = 300
    weight_decay: float = 0.02
    clip: float = 10.0
    ema: float = 0.999
    freeze: int = 8
    early_side: int = 256
    early_part: float = 0.75
    teacher: str = ""
    teacher_weight: float = 1.0
    calibrate_scores: bool = True
    qat_epochs: int = 1
    qat_lr: float = 2e-5
    qat_freeze: float = 0.0
    qat_labels: float = 0.0
    symmetric: bool = False
    seed: int = 0
    workers: int = 1
    eval_every: int = 5
    save_every: float = 300.0
    amp: str = "auto"

    def __post_init__(self) -> None:
        """Reject values outside the documented limits, naming option and limit."""
        object.__setattr__(
            self, "size", InputSize.of(self.size)
        )  # older run folders and YAML have other forms
        neck, side = self.neck, self.early_side
        checks = (
            ("neck", len(neck) in (2, 3) and min(neck) >= 8, "two or three channel counts, each at least 8"),
            ("head", self.head >= 8, "at least 8"),
            ("context", self.context >= 0, "at least 0"),
            ("expand", self.expand >= 0, "at least 0"),
            ("scale_min", 0 < self.scale_min <= self.scale_max, "above 0 and at most scale_max"),
            ("occlude", 0 <= self.occlude <= 1, "0 to 1"),
            ("multiscale", 0 <= self.multiscale < 1, "0 to below 1"),
            ("mosaic", 0 <= self.mosaic <= 1, "0 to 1"),
            ("mosaic_part", 0 <= self.mosaic_part <= 1, "0 to 1"),
            ("epochs", self.epochs >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", self.lr > 0, "a positive number"),
            ("early_side", side >= 64 and side % 32 == 0, "a multiple of 32, at least 64"),
            ("freeze", self.freeze in (0, 4, 8, 16, 32), "0, 4, 8, 16 or 32"),
            ("early_part", 0 <= self.early_part <= 1, "0 to 1"),
            ("teacher_weight", self.teacher_weight >= 0, "at least 0"),
            ("qat_epochs", self.qat_epochs >= 0, "at least 0"),
            ("qat_labels", self.qat_labels >= 0, "at least 0"),
            ("qat_freeze", 0 <= self.qat_freeze <= 1, "0 to 1"),
            ("ema", 0 <= self.ema < 1, "0 to below 1"),
            ("workers", self.workers >= 0, "at least 0"),
            ("save_every", self.save_every > 0, "a positive number of seconds"),
            ("amp", self.amp in ("on", "off", "auto"), "on, off or auto"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"training option {name}: expected {expected}, got {getattr(self, name)}")

    def architecture(self) -> Architecture:
        """The network these options describe."""
        return Architecture.from_dict({f.name: getattr(self, f.name) for f in fields(Architecture)})

    def with_architecture(self, arch: Architecture) -> TrainConfig:
        """The same options, for a network of this architecture."""
        return replace(self, **asdict(arch))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; raises ConfigError for unknown options and wrong types."""
        known = {f.name: str(f.type) for f in fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(
                f"training options: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        return cls(**{name: _typed(name, known[name], value) for name, value in data.items()})

    @classmethod
    def parse(cls, settings: tuple[str, ...]) -> dict[str, Any]:
        """("lr=0.001", "neck=96,64,48") -> typed options; raises ConfigError naming what is wrong."""
        known = {f.name: str(f.type) for f in fields(cls)}
        parsed: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals or name not in known:
                raise ConfigError(
                    f"--set: expected NAME=VALUE with one of {', '.join(sorted(known))}; got {setting!r}"
                )
            value: Any = text.split(",") if known[name].startswith("tuple") else text
            parsed[name] = _typed(f"--set {name}", known[name], value)
        return parsed

    @classmethod
    def read_yaml(cls, path: Path) -> dict[str, Any]:
        """Options from a YAML mapping; raises ConfigError for a file that is not one."""
        import yaml  # type: ignore[import-untyped]

        try:
            data = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(
                f"--config {path}: expected a YAML file ({' '.join(str(error).split())})"
            ) from None
        if not isinstance(data, dict):
            raise ConfigError(f"--config {path}: expected NAME: VALUE lines, got a {type(data).__name__}")
        checked = cls.from_dict(data)
        return {name: getattr(checked, name) for name in data}


def _typed(name: str, kind: str, value: Any) -> Any:
    """`value`, a string or what JSON or YAML made of one, as the type of the option; raises ConfigError."""
    if kind == "InputSize":
        return InputSize.of(value)
    try:
        if kind.startswith("tuple"):
            return tuple(int(v) for v in value)
        if kind == "bool":
            return {True: True, False: False, "true": True, "false": False}[value]  # bool("false") is True
        if kind == "int" and isinstance(value, float) and value != int(value):
            raise ValueError  # int() would silently cut off the fraction
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{name}: expected {kind}, got {value!r}") from None

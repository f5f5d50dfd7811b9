"""Every training option in one place, with its unit, limits, default and how to turn it off.

`describe` lists them, for `edge-centernet train --list-options` and docs/reference/commands.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from edge_centernet.classes import did_you_mean
from edge_centernet.errors import ConfigError
from edge_centernet.manifest import InputSize

if TYPE_CHECKING:  # it imports PyTorch, which listing options does without
    from edge_centernet.network.centernet import Architecture

DEFAULT_SIZE = InputSize(320, 320)
# Words of other trainers (Ultralytics) that mean the same here.
ALIASES = {"imgsz": "size", "batch": "batch_size", "lr0": "lr"}
# And those that do not, with what comes closest.
_ELSEWHERE = {
    "close_mosaic": "set mosaic_part, the share of the float epochs with mosaics",
    "data": "use --data",
    "device": "use --device",
    "lrf": "the rate always ends at 1 % of its peak",
    "model": "use --weights",
    "name": "use --name",
    "optimizer": "it is always AdamW",
    "pretrained": "use --weights",
    "project": "use --out",
    "warmup_epochs": "set warmup, in steps",
}

_T = TypeVar("_T")


class Option(NamedTuple):
    """An option for people. group: its heading. default: as it is written on the command line."""

    group: str
    name: str
    default: str
    help: str


def _option(default: _T, group: str, text: str) -> _T:
    """A field with its heading and meaning; typed as its default, which is what a dataclass expects."""
    return field(default=default, metadata={"group": group, "help": text})


_MODEL, _DATA, _FLOAT, _QAT, _GENERAL = (
    "Model (taken from the checkpoint instead, where training starts from one of ours)",
    "Data",
    "Float stage",
    "Quantization-aware stage",
    "General",
)


@dataclass(frozen=True)
class TrainConfig:
    """Saved with every run as config.json; what each option means stands beside it and in `describe`."""

    backbone: str = _option("mobilenet_v2", _MODEL, "mobilenet_v2 or resnet18")
    width: float = _option(1.0, _MODEL, "factor on the channels of MobileNetV2")
    act: str = _option("relu6", _MODEL, "activation: relu6 or relu")
    padding: str = _option("same_tf", _MODEL, "of strided convolutions: same_tf or symmetric")
    neck: tuple[int, ...] = _option(
        (128, 96, 64), _MODEL, "channels at each stride: three widths give cells of 4 pixels, two give 8"
    )
    head: int = _option(64, _MODEL, "channels of the heads, at least 8")
    context: int = _option(
        2, _MODEL, "inverted residual blocks at stride 32, which see the whole image; 0: none"
    )
    expand: int = _option(2, _MODEL, "expansion of the blocks at strides 16 and 8; 0: separable convolutions")
    kind: str = _option("fpn", _MODEL, "fpn, or original: the plain ResNets of the paper's code")
    size: InputSize = _option(  # noqa: RUF009  # a NamedTuple cannot change
        DEFAULT_SIZE,
        _MODEL,
        "input in pixels, 512x384 or one number for a square; multiples of 32 from 64 on",
    )
    scale_min: float = _option(0.5, _DATA, "smallest random scale on top of the letterbox; 1: none")
    scale_max: float = _option(1.6, _DATA, "largest random scale; 1: none")
    occlude: float = _option(
        0.0, _DATA, "probability (0 to 1) that a part of an object is covered, for people in crowds; 0: never"
    )
    multiscale: float = _option(
        0.0,
        _DATA,
        "each batch's side is drawn from those within this part (0 to below 1) of the input's, so that a "
        "network works at several sizes; 0: always the same",
    )
    mosaic: float = _option(0.5, _DATA, "probability (0 to 1) that an image is made of four; 0: never")
    mosaic_part: float = _option(
        0.75, _DATA, "mosaics are made in this first part (0 to 1) of the float epochs"
    )
    epochs: int = _option(60, _FLOAT, "passes over the data; 0 quantizes what training starts from")
    batch_size: int = _option(16, _FLOAT, "images a step, over all processes together")
    lr: float = _option(4e-3, _FLOAT, "peak learning rate of neck and heads (AdamW)")
    backbone_lr: float = _option(0.15, _FLOAT, "factor on it for the backbone")
    warmup: int = _option(
        300, _FLOAT, "steps of linear warm-up, at most a tenth of the stage; then cosine to 1 % of the peak"
    )
    weight_decay: float = _option(0.02, _FLOAT, "on convolution weights only")
    clip: float = _option(10.0, _FLOAT, "largest gradient norm; 0: no clipping")
    ema: float = _option(0.999, _FLOAT, "decay of the averaged weights that are evaluated and saved; 0: none")
    freeze: int = _option(
        8, _FLOAT, "with pretrained weights, backbone layers up to this stride (4, 8, 16, 32) stay; 0: none"
    )
    early_side: int = _option(
        256, _FLOAT, "image side in pixels of the first epochs, where the input has more: cheaper, no worse"
    )
    early_part: float = _option(0.75, _FLOAT, "the part (0 to 1) of the epochs with early_side; 0: none")
    patience: int = _option(
        0, _FLOAT, "evaluations without a better AP after which the stage ends; needs a val set; 0: never"
    )
    teacher: str = _option(
        "",
        _FLOAT,
        "float checkpoint or shipped model whose heatmap is learned beside the labels; empty: none",
    )
    teacher_weight: float = _option(1.0, _FLOAT, "weight of that loss")
    calibrate_scores: bool = _option(
        True,
        _FLOAT,
        "at the end fit scores to the val set, so that 0.5 is right half of the time, and choose the default "
        "threshold (docs/scores.md); false: as trained",
    )
    qat_epochs: int = _option(1, _QAT, "passes over the data; 0: post-training quantization alone")
    qat_lr: float = _option(
        2e-5, _QAT, "peak learning rate, relative to the largest weight of each channel; cosine to 1 %"
    )
    qat_freeze: float = _option(
        0.0, _QAT, "part (0 to 1) of the stage in which ranges follow the extremes; 0: they stay as measured"
    )
    qat_labels: float = _option(
        0.0, _QAT, "weight of the labels beside the float network's answers; 0: those alone"
    )
    symmetric: bool = _option(False, _QAT, "every zero point is 0, as TensorRT requires")
    seed: int = _option(0, _GENERAL, "of all randomness; the same seed gives the same weights")
    workers: int = _option(1, _GENERAL, "loading processes; 0: none but this one")
    eval_every: int = _option(5, _GENERAL, "epochs between evaluations; 0: after the last one only")
    save_every: float = _option(300.0, _GENERAL, "seconds between writes of state.pt inside an epoch")
    amp: str = _option("auto", _GENERAL, "bfloat16: on, off or auto (where the hardware has it)")

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
            ("patience", self.patience >= 0, "at least 0"),
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
        from edge_centernet.network.centernet import Architecture

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
        data = {ALIASES.get(name, name): value for name, value in data.items()}
        if unknown := sorted(set(map(str, data)) - set(known)):
            raise ConfigError(f"training options: {_unknown(unknown[0], known)}")
        return cls(**{name: _typed(name, known[name], value) for name, value in data.items()})

    @classmethod
    def parse(cls, settings: tuple[str, ...]) -> dict[str, Any]:
        """("lr=0.001", "neck=96,64,48") -> typed options; raises ConfigError naming what is wrong."""
        known = {f.name: str(f.type) for f in fields(cls)}
        parsed: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            name = ALIASES.get(name, name)
            if not equals:
                raise ConfigError(f"--set: expected NAME=VALUE, got {setting!r}")
            if name not in known:
                raise ConfigError(f"--set: {_unknown(name, known)}")
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
        names = [ALIASES.get(str(name), str(name)) for name in data]
        return {name: getattr(checked, name) for name in names}

    @classmethod
    def describe(cls) -> Iterator[Option]:
        """Every option, in groups."""
        for one in fields(cls):
            value = one.default
            if isinstance(value, tuple) and not isinstance(value, InputSize):
                text = ",".join(map(str, value))
            else:
                text = str(value).lower() if isinstance(value, bool) else str(value)
            yield Option(one.metadata["group"], one.name, text, one.metadata["help"])


def _unknown(name: str, known: dict[str, str]) -> str:
    """What is wrong with an option of this name, for a message."""
    way = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else did_you_mean(name, sorted(known))
    return f"there is no option {name!r}{way}; edge-centernet train --list-options lists all"


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
        if name == "amp" and isinstance(value, bool):  # what YAML makes of on and off
            return "on" if value else "off"
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{name}: expected {kind}, got {value!r}") from None

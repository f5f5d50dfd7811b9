"""What a network means (`ModelSpec`) and what a file holds (`Manifest`), as JSON inside every artifact.

A device never guesses an input size, a colour order, a scale or a class name: it reads them here.
Standard library only, so that anything can import it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

from edge_centernet.classes import CLASS_NAME, is_class_name
from edge_centernet.errors import ConfigError, ManifestError

SCHEMA = 1
KEY = "edge_centernet"  # ONNX metadata key, OpenVINO rt_info key, stem of the TFLite associated file
PER_CLASS = (
    "class_thresholds",
    "score_scale",
    "score_shift",
)  # ModelSpec's fields of one value for each class
SCORE_FIELDS = ("threshold", *PER_CLASS)  # what scores mean, and from which on detections are shown
DEFAULT_THRESHOLD = 0.3  # the lowest score that is shown, where neither the model nor the user names another
GREY = 128  # pixel value that is 0 in the network; the arithmetic: `edge_centernet.preprocess`
DIM_MAX = 1024  # limit of the C decoder for classes and for each side of the heatmap

Layout = Literal["NCHW", "NHWC"]
HeatUnit = Literal["logit", "probability"]
_DTYPES = ("float32", "int8", "uint8")
_RANGE = {"int8": (-128, 127), "uint8": (0, 255)}
SIDE_STEP = 32  # pixels: one cell of the backbone's coarsest map
SIDE_MIN, SIDE_MAX = 64, 4 * DIM_MAX  # pixels; more than the decoder's cells at stride 4 cannot be
Precision = Literal["int8", "fp32"]


class InputSize(NamedTuple):
    """Width and height of a network's input in pixels, each a multiple of 32 from 64 to 4096."""

    width: int
    height: int

    def __str__(self) -> str:
        """As it is typed: 512x384."""
        return f"{self.width}x{self.height}"

    @classmethod
    def of(cls, value: Any) -> InputSize:
        """From "512x384", (512, 384), or "320" or 320 for a square. Raises ConfigError for anything else."""
        if isinstance(value, str):
            parts: list[Any] = value.lower().split("x")
        else:
            parts = list(value) if isinstance(value, list | tuple) else [value]
        try:
            sides = [int(part) for part in parts]
            exact = all(
                isinstance(part, str) or part == side for part, side in zip(parts, sides, strict=True)
            )
        except (TypeError, ValueError, OverflowError):
            sides, exact = [], False
        good = all(SIDE_MIN <= side <= SIDE_MAX and side % SIDE_STEP == 0 for side in sides)
        if not exact or not good or len(sides) not in (1, 2):
            raise ConfigError(
                "size: expected WIDTHxHEIGHT such as 512x384, or one number for a square, each a multiple "
                f"of {SIDE_STEP} from {SIDE_MIN} to {SIDE_MAX} pixels, got {str(value)!r}"
            )
        return cls(sides[0], sides[-1])

    def named(self, name: str) -> str:
        """A model's name with this size: "nano-256" becomes "nano-512x384", "mine" becomes "mine-512x384"."""
        text = str(self.width) if self.width == self.height else str(self)
        # The part behind the last hyphen is a size only if it could be one: "camera-2" is a name.
        base, _, last = name.rpartition("-")
        numbers = re.fullmatch(r"(\d+)(?:x(\d+))?", last)
        sizes = [int(number) for number in numbers.groups() if number] if numbers else []
        if not base or not sizes or any(side % SIDE_STEP or side < SIDE_MIN for side in sizes):
            base = name
        return f"{base}-{text}"


@dataclass(frozen=True)
class Quant:
    """Affine quantization of one tensor: real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        """Reject a scale that is not a positive finite number."""
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ManifestError(f"quantization scale: expected a positive number, got {self.scale}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor of an artifact, exactly as the engine sees it.

    shape: 4 dimensions, batch first, in the order of `layout`.
    dtype: "float32", "int8" or "uint8"; the two integer types must carry `quant`.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    dtype: str
    quant: Quant | None = None

    def __post_init__(self) -> None:
        """Reject shapes, types and zero points that cannot be."""
        where = f"tensor {self.name!r}"
        if len(self.shape) != 4 or any(d < 1 for d in self.shape):
            raise ManifestError(f"{where}: expected 4 positive dimensions, got {self.shape}")
        if self.layout not in ("NCHW", "NHWC"):
            raise ManifestError(f"{where}: expected layout NCHW or NHWC, got {self.layout!r}")
        if self.dtype not in _DTYPES:
            raise ManifestError(f"{where}: expected dtype {' or '.join(_DTYPES)}, got {self.dtype!r}")
        if self.dtype in _RANGE:
            low, high = _RANGE[self.dtype]
            if self.quant is None:
                raise ManifestError(f"{where}: expected scale and zero point for {self.dtype}, got none")
            if not low <= self.quant.zero_point <= high:
                raise ManifestError(f"{where}: zero point {self.quant.zero_point} does not fit {self.dtype}")

    @property
    def chw(self) -> tuple[int, int, int]:
        """(channels, height, width) whatever the layout."""
        _, a, b, c = self.shape
        return (a, b, c) if self.layout == "NCHW" else (c, a, b)


@dataclass(frozen=True)
class ModelSpec:
    """What the network means; identical from checkpoint to device.

    height, width: network input in pixels, multiples of 32.
    stride: input pixels per heatmap cell.
    color, resize, pad_value: how an image becomes network input (`edge_centernet.preprocess.prepare`).
    mean, std: the real-valued input is (pixel - mean) / std per channel in `color` order.
        128 for both makes int8 exact (stored = pixel - 128) and grey padding equal to zero padding.
    heat_unit: what the heatmap holds; sigmoid(logit) = probability.
    threshold: the lowest score (probability) suggested for showing detections.
    class_thresholds: one for each class instead of it; empty: `threshold` for all.
    score_scale, score_shift: what each class's logit was multiplied by, above 0, and what was added to the
        product, so that a score is the probability that a detection is right (docs/scores.md). The heatmap
        holds the result. Empty: as trained.
    """

    name: str
    version: str
    height: int
    width: int
    classes: tuple[str, ...]
    stride: int = 4
    color: Literal["rgb", "bgr"] = "rgb"
    resize: Literal["letterbox"] = "letterbox"
    pad_value: int = GREY
    mean: tuple[float, float, float] = (float(GREY), float(GREY), float(GREY))
    std: tuple[float, float, float] = (float(GREY), float(GREY), float(GREY))
    heat_unit: HeatUnit = "logit"
    threshold: float = DEFAULT_THRESHOLD
    class_thresholds: tuple[float, ...] = ()
    score_scale: tuple[float, ...] = ()
    score_shift: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Reject sizes, strides and class lists that cannot be."""
        for side in ("height", "width"):
            value = getattr(self, side)
            if not 32 <= value <= SIDE_MAX or value % 32:
                raise ManifestError(
                    f"model {side}: expected a multiple of 32 pixels up to {SIDE_MAX}, got {value}"
                )
        if self.stride < 1 or self.height % self.stride or self.width % self.stride:
            raise ManifestError(
                f"model stride: expected a divisor of {self.height}x{self.width}, got {self.stride}"
            )
        if not 1 <= len(self.classes) <= DIM_MAX:
            raise ManifestError(f"model classes: expected 1 to {DIM_MAX} names, got {len(self.classes)}")
        for text in self.classes:
            if not is_class_name(text):
                raise ManifestError(f"model classes: expected {CLASS_NAME}, got {str(text)[:65]!r}")
        if not (f"{self.name}{self.version}".isprintable()):
            raise ManifestError(
                f"model name and version: expected printable characters, got {self.name!r}, {self.version!r}"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ManifestError("model classes: expected distinct names, got a repeated one")
        if self.color not in ("rgb", "bgr"):
            raise ManifestError(f"model color: expected rgb or bgr, got {self.color!r}")
        if self.resize != "letterbox":
            raise ManifestError(f"model resize: expected letterbox, got {self.resize!r}")
        if self.heat_unit not in ("logit", "probability"):
            raise ManifestError(f"model heat_unit: expected logit or probability, got {self.heat_unit!r}")
        if not 0 <= self.pad_value <= 255:
            raise ManifestError(f"model pad_value: expected 0..255, got {self.pad_value}")
        if len(self.mean) != 3 or len(self.std) != 3 or any(s <= 0 for s in self.std):
            raise ManifestError(
                f"model mean, std: expected 3 numbers each, std > 0, got {self.mean}, {self.std}"
            )
        for name in PER_CLASS:
            values: tuple[float, ...] = getattr(self, name)
            if len(values) not in (0, len(self.classes)):
                raise ManifestError(
                    f"model {name}: expected none or one for each of {len(self.classes)} classes, "
                    f"got {len(values)}"
                )
        if not all(0 <= value <= 1 for value in (self.threshold, *self.class_thresholds)):
            raise ManifestError(
                f"model thresholds: expected 0..1, got {self.threshold}, {self.class_thresholds}"
            )
        if len(self.score_scale) != len(self.score_shift) or not all(
            math.isfinite(value) for value in (*self.score_scale, *self.score_shift)
        ):
            raise ManifestError("model score_scale, score_shift: expected as many finite numbers of each")
        if any(scale <= 0 for scale in self.score_scale):  # it would reverse the order of the scores
            raise ManifestError(f"model score_scale: expected numbers above 0, got {self.score_scale}")

    @property
    def suggested(self) -> float | tuple[float, ...]:
        """The threshold if the user gives none: one for all classes, or (C,) one for each."""
        return self.class_thresholds or self.threshold

    def narrowed(self, ids: Sequence[int]) -> ModelSpec:
        """The spec of a network with the classes of these ids alone, in their order."""
        kept = {name: tuple(getattr(self, name)[i] for i in ids) for name in PER_CLASS if getattr(self, name)}
        return replace(self, classes=tuple(self.classes[i] for i in ids), **kept)  # type: ignore[arg-type]

    @property
    def input_size(self) -> InputSize:
        """Width and height of the input, in pixels."""
        return InputSize(self.width, self.height)

    def resized(self, size: InputSize) -> ModelSpec:
        """The spec of the same weights with another input size, which its name then contains."""
        # Possible because the network is fully convolutional: no weight depends on the size.
        if size == self.input_size:
            return self
        return replace(self, name=size.named(self.name), width=size.width, height=size.height)

    @property
    def cells(self) -> tuple[int, int]:
        """(height, width) of the heatmap."""
        return self.height // self.stride, self.width // self.stride


@dataclass(frozen=True)
class Manifest:
    """What one model file is. `input`, `heat`, `size`, `offset` describe the engine's tensors.

    heat (C, H, W) in `model.heat_unit`; size (2, H, W) box width, height in cells;
    offset (2, H, W) x, y of the centre inside its cell, in cells.
    content_sha256: of everything else in the file, see `artifact.content_sha256`; empty: unknown.
    verified: whether its engine ran it and gave the results of its source.
    made_by: tool -> version, for every tool that took part in making the file.
    golden: the self-test vector, see `edge_centernet.selftest`; None where none was made.
    """

    model: ModelSpec
    input: TensorSpec
    heat: TensorSpec
    size: TensorSpec
    offset: TensorSpec
    precision: Literal["int8", "fp32"]
    checkpoint_sha256: str = ""
    calibration_sha256: str = ""
    content_sha256: str = ""
    verified: bool = False
    made_by: dict[str, str] = field(default_factory=dict)
    golden: dict[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check that the heads belong to the model: class count, heatmap size, two channels each."""
        expected_in = (3, self.model.height, self.model.width)
        if self.input.chw != expected_in:
            raise ManifestError(f"input tensor: expected (C, H, W) {expected_in}, got {self.input.chw}")
        height, width = self.model.cells
        for role, channels in (("heat", len(self.model.classes)), ("size", 2), ("offset", 2)):
            spec: TensorSpec = getattr(self, role)
            if spec.chw != (channels, height, width):
                raise ManifestError(
                    f"{role} tensor {spec.name!r}: expected (C, H, W) {(channels, height, width)}, "
                    f"got {spec.chw}"
                )
        names = {self.heat.name, self.size.name, self.offset.name}
        if len(names) != 3:
            raise ManifestError(f"heads: expected three distinct tensor names, got {sorted(names)}")
        if self.precision not in ("int8", "fp32"):
            raise ManifestError(f"precision: expected int8 or fp32, got {self.precision!r}")

    def to_json(self) -> str:
        """One JSON document with sorted keys, so that equal manifests are equal bytes."""
        return json.dumps({**asdict(self), "model": spec_to_dict(self.model)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and check; raises ManifestError naming what is wrong."""
        try:
            data = json.loads(text)
            schema = data["schema"]
        except (ValueError, TypeError, KeyError, RecursionError):  # the last: brackets in brackets in ...
            raise ManifestError(
                "manifest: expected a JSON object with a 'schema', got something else"
            ) from None
        if schema != SCHEMA:
            raise ManifestError(
                f"manifest schema: expected {SCHEMA}, got {schema}: "
                "install the edge-centernet release that wrote it"
            )
        # An unknown field is refused, not ignored: it may change what the rest means.
        try:
            tensors: dict[str, Any] = {}
            for role in ("input", "heat", "size", "offset"):
                tensor = data.pop(role)
                quant = tensor.pop("quant", None)
                tensor["shape"] = tuple(tensor["shape"])
                tensors[role] = TensorSpec(**tensor, quant=Quant(**quant) if quant else None)
            return cls(model=spec_from_dict(data.pop("model")), **tensors, **data)
        except (TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"manifest: a field is missing or unknown ({error})") from None

    def with_tensors(self, **tensors: TensorSpec) -> Manifest:
        """The same model in another file format: replace some of input, heat, size, offset."""
        return replace(self, **tensors)  # type: ignore[arg-type]


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """A ModelSpec as plain types, for JSON."""
    # Empty fields of PER_CLASS are left out, so that releases that do not know them can read the rest.
    return {name: value for name, value in asdict(spec).items() if value or name not in PER_CLASS}


def spec_from_dict(data: dict[str, Any]) -> ModelSpec:
    """A ModelSpec from parsed JSON; lists become tuples."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
    }
    return ModelSpec(**fields)


def nchw_specs(manifest: Manifest, precision: Precision) -> dict[str, Any]:
    """The fields that change in the manifest of a file with the interchange file's layout, for `replace`."""
    if precision == "int8":
        return {"precision": precision}
    heads = (manifest.heat, manifest.size, manifest.offset)
    floats = {spec.name: replace(spec, dtype="float32", quant=None) for spec in heads}
    return {**floats, "precision": precision}

"""MobileNetV2 and ResNet-18 as feature extractors: four maps at strides 4, 8, 16 and 32.

MobileNetV2: Sandler et al., arXiv 1801.04381, table 2. ResNet: He et al., arXiv 1512.03385.
Module order follows torchvision, so its weights load by position (`load_pretrained`).
Another backbone is a class made of `ConvUnit` and `Block`, and an entry of BACKBONES (docs/extending.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge_centernet.errors import ConfigError
from edge_centernet.network.layers import Activation, Add, ConvUnit, Padding
from edge_centernet.network.weights import read_state
from edge_centernet.preprocess import gain_and_shift

# RGB, of pixel / 255: what torchvision's weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# (t expansion, c channels at width 1, n blocks, s stride of the first)
_MBV2_TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Paths(NamedTuple):
    """The ways through a block, by which quantization-aware training finds the scale of every convolution's input.

    main: its convolution units in their order. add: what adds the shortcut to them, None where there is no
      shortcut.
    shortcut: the convolution units on that way, in their order; none where the block's input itself is added.
    """

    main: Iterable[nn.Module]
    add: Add | None
    shortcut: Iterable[nn.Module] = ()


class Block(nn.Module):
    """Several layers of a backbone that belong together."""

    def paths(self) -> Paths:
        """The ways through it; every convolution unit of the block stands in exactly one of them."""
        raise NotImplementedError


class InvertedResidual(Block):
    """1x1 expand -> 3x3 depthwise -> 1x1 project (linear), with a shortcut where shapes allow."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        expand: int,
        act: Activation = "relu6",
        padding: Padding = "same_tf",
    ) -> None:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        super().__init__()
        hidden = c_in * expand
        units = [ConvUnit(c_in, hidden, act=act)] if expand != 1 else []
        units.append(ConvUnit(hidden, hidden, 3, stride, groups=hidden, act=act, padding=padding))
        units.append(ConvUnit(hidden, c_out, act="none"))
        self.units = nn.Sequential(*units)
        self.add = Add() if stride == 1 and c_in == c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        y: Tensor = self.units(x)
        return y if self.add is None else self.add(x, y)

    def paths(self) -> Paths:
        """Expand, depthwise, project."""
        return Paths(self.units, self.add)


def _round_channels(channels: float) -> int:
    """The nearest multiple of 8, never more than 10 % below (the reference implementation's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Backbone(nn.Module):
    """Layers one behind the other, each halving the map or keeping its size.

    layers: convolution units, blocks, 3x3 max poolings, or sequences of them.
    last: stride -> index of the last layer at that stride; channels: stride -> channels there. Strides 4, 8,
      16 and 32.
    """

    layers: nn.ModuleList
    last: dict[int, int]
    channels: dict[int, int]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16, 32."""
        kept = {self.last[stride] for stride in (4, 8, 16, 32)}
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in kept:
                maps.append(x)
        return maps


class MobileNetV2(Backbone):
    """MobileNetV2 without its classifier.

    width 0.5 follows the COCO-trained variant the shipped model starts from: 12 channels at stride 4
    (not rounded to 16) and no 320-channel stage; other widths follow the paper.
    """

    def __init__(self, width: float = 1.0, act: Activation = "relu6", padding: Padding = "same_tf") -> None:
        """width: multiplier of every channel count, 0.25 to 1.4; act and padding: as the weights were trained."""
        super().__init__()
        if not 0.25 <= width <= 1.4:
            raise ConfigError(f"MobileNetV2 width: expected 0.25 to 1.4, got {width}")
        table = _MBV2_TABLE[:-1] if width <= 0.5 else _MBV2_TABLE
        channels = _round_channels(32 * width)
        layers: list[nn.Module] = [
            ConvUnit(3, channels, 3, 2, act=act, padding=padding)
        ]  # (B, 16, H/2, W/2) at width 0.5
        self.last, self.channels = {}, {}
        stride_now = 2
        for t, c, n, s in table:
            c_out = 12 if width == 0.5 and c == 24 else _round_channels(c * width)
            stride_now *= s
            for i in range(n):
                layers.append(InvertedResidual(channels, c_out, s if i == 0 else 1, t, act, padding))
                channels = c_out
            self.last[stride_now] = len(layers) - 1
            self.channels[stride_now] = c_out
        self.layers = nn.ModuleList(layers)


class BasicBlock(Block):
    """Two 3x3 convolutions with a shortcut; its last ReLU follows the addition."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        super().__init__()
        self.unit1 = ConvUnit(c_in, c_out, 3, stride, padding="symmetric")
        self.unit2 = ConvUnit(c_out, c_out, 3, act="none", padding="symmetric")
        changes = stride != 1 or c_in != c_out
        self.shortcut = ConvUnit(c_in, c_out, 1, stride, act="none", padding="symmetric") if changes else None
        self.add = Add(relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        y = self.unit2(self.unit1(x))
        out: Tensor = self.add(y, x if self.shortcut is None else self.shortcut(x))
        return out

    def paths(self) -> Paths:
        """Two convolutions, and the one of the shortcut where there is one."""
        return Paths([self.unit1, self.unit2], self.add, [] if self.shortcut is None else [self.shortcut])


class ResNet18(Backbone):
    """ResNet-18 without its classifier."""

    def __init__(self) -> None:
        """No options: the paper's 18-layer network."""
        super().__init__()
        self.channels = {4: 64, 8: 128, 16: 256, 32: 512}
        layers: list[nn.Module] = [
            ConvUnit(3, 64, 7, 2, padding="symmetric"),  # (B, 64, H/2, W/2)
            nn.MaxPool2d(3, 2, 1),  # (B, 64, H/4, W/4); after a ReLU, zero padding never wins wrongly
        ]
        c_in = 64
        for c_out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers.append(nn.Sequential(BasicBlock(c_in, c_out, stride), BasicBlock(c_out, c_out, 1)))
            c_in = c_out
        self.layers = nn.ModuleList(layers)
        self.last = {4: 2, 8: 3, 16: 4, 32: 5}


# name (`train --set backbone=NAME`) -> what builds it from `Architecture`'s width, act and padding
BACKBONES: dict[str, Callable[[float, Activation, Padding], Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet18": lambda width, act, padding: ResNet18(),
}


def build_backbone(
    name: str, width: float = 1.0, act: Activation = "relu6", padding: Padding = "same_tf"
) -> Backbone:
    """name: one of BACKBONES; width, act, padding: see `network.centernet.Architecture`. Raises ConfigError."""
    if name not in BACKBONES:
        raise ConfigError(f"backbone: expected {' or '.join(BACKBONES)}, got {name!r}")
    return BACKBONES[name](width, act, padding)


def load_pretrained(backbone: Backbone, path: Path) -> None:
    """Load a torchvision-named state dict into `backbone` by position, shapes checked.

    path: a .pth as torchvision publishes it, for RGB (pixel / 255 - mean) / std with ImageNet's mean and std,
      which is
    folded into the first convolution; or a .safetensors, for our own input (pixel - 128) / 128.
    Layers beyond the backbone's last one (a classifier) are ignored.
    Raises ConfigError with the first convolution that does not fit, ArtifactError for a file without weights.
    """
    state = read_state(path)
    convs = [k for k in state if k.endswith(".weight") and state[k].ndim == 4]
    units = [m for m in backbone.modules() if isinstance(m, ConvUnit)]
    ordered = sorted(convs, key=_torchvision_order)
    if len(ordered) < len(units):
        raise ConfigError(f"{path}: expected at least {len(units)} convolutions, got {len(ordered)}")
    for unit, key in zip(units, ordered, strict=False):
        if state[key].shape != unit.conv.weight.shape:
            raise ConfigError(
                f"{path}: {key}: expected shape {tuple(unit.conv.weight.shape)}, got {tuple(state[key].shape)}"
            )
        with torch.no_grad():
            unit.conv.weight.copy_(state[key])
        assert unit.bn is not None
        bn_prefix = _bn_of(key, state)
        missing = [
            p for p in ("weight", "bias", "running_mean", "running_var") if f"{bn_prefix}.{p}" not in state
        ]
        if missing:
            raise ConfigError(f"{path}: {bn_prefix}: BatchNorm without {', '.join(missing)}")
        unit.bn.load_state_dict(dict(_bn_items(bn_prefix, state)), strict=False)
    if path.suffix != ".safetensors":
        _fold_imagenet_input(units[0])


@torch.no_grad()
def _fold_imagenet_input(stem: ConvUnit) -> None:
    """Make a convolution for RGB (pixel / 255 - mean) / std answer the same to (pixel - 128) / 128.

    Exact but where the window reaches over the border: padding, zero for both, was the mean colour and is now
    grey 128, at most 24 levels away. The constant goes into the BatchNorm's mean, so that training statistics
    stay right too.
    """
    assert stem.bn is not None and stem.bn.running_mean is not None
    weight = stem.conv.weight  # (O, 3, k, k)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    gain, shift = gain_and_shift(mean, std)
    stem.bn.running_mean.sub_((weight * shift).sum(dim=(1, 2, 3)))
    weight.mul_(gain)


def _torchvision_order(key: str) -> tuple[int, tuple[int, ...]]:
    """Forward order of torchvision's names; a ResNet's shortcut ("downsample") follows its block's convolutions."""
    stem = 0 if key.startswith(("conv1", "features")) else 1
    numbers = tuple(int(n) for n in re.findall(r"\d+", key.replace("downsample", "99")))
    return stem, numbers


def _bn_of(conv_key: str, state: dict[str, Tensor]) -> str:
    """The BatchNorm behind a convolution: `convN` -> `bnN`, else the next index of the same Sequential."""
    stem = conv_key.removesuffix(".weight")
    head, _, last = stem.rpartition(".")
    if last.startswith("conv"):
        return f"{head}.bn{last[4:]}".lstrip(".")
    return f"{head}.{int(last) + 1}"


def _bn_items(prefix: str, state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return [(p, state[f"{prefix}.{p}"]) for p in parts]

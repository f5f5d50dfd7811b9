"""MobileNetV2 and ResNet-18 as feature extractors, and the weights that others trained for them.

A backbone gives four maps, at strides 4, 8, 16 and 32.
MobileNetV2: Sandler et al., arXiv 1801.04381, table 2. ResNet: He et al., arXiv 1512.03385.
The order of modules follows torchvision, so its weights load by position (`load_pretrained`).
Another backbone is a class made of `ConvUnit` and `Block`, and an entry of BACKBONES (docs/extending.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.network.layers import Activation, Add, ConvUnit, Padding
from edge_centernet.preprocess import gain_and_shift

# RGB, of pixel / 255: the statistics that torchvision's weights were trained with.
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
    """The ways through a block.

    By them quantization-aware training finds the scale of every convolution's input.

    main: the convolution units in their order.
    add: the addition of the shortcut to them; None where there is no shortcut.
    shortcut: the convolution units on the shortcut, in their order; empty where the block's input itself is
        added.
    """

    main: Iterable[nn.Module]
    add: Add | None
    shortcut: Iterable[nn.Module] = ()


class Block(nn.Module):
    """Several layers of a backbone that belong together."""

    def paths(self) -> Paths:
        """The ways through the block; every convolution unit is in exactly one of them."""
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
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride).

        Args:
            c_in: input channels.
            c_out: output channels.
            stride: 1 or 2, of the depthwise convolution.
            expand: factor on c_in for the channels inside; 1 leaves the expanding convolution out.
            act: activation of the expanding and the depthwise convolution.
            padding: of the depthwise convolution, as in `ConvUnit`.
        """
        super().__init__()
        hidden = c_in * expand
        units = [ConvUnit(c_in, hidden, act=act)] if expand != 1 else []
        units.append(ConvUnit(hidden, hidden, 3, stride, groups=hidden, act=act, padding=padding))
        # Linear: a ReLU on few channels destroys what they carry (section 3.2 of the paper).
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
    """Layers one behind the other, each of which halves the map or keeps its size.

    layers: convolution units, blocks, 3x3 max poolings, or sequences of them.
    last: stride -> index of the last layer at that stride, for strides 4, 8, 16 and 32.
    channels: stride -> channels there.
    """

    layers: nn.ModuleList
    last: dict[int, int]
    channels: dict[int, int]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16, 32."""
        wanted = {self.last[stride] for stride in (4, 8, 16, 32)}
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in wanted:
                maps.append(x)
        return maps


class MobileNetV2(Backbone):
    """MobileNetV2 without its classifier.

    width 0.5 follows the COCO-trained variant the shipped model starts from: 12 channels at stride 4
    (not rounded to 16) and no 320-channel stage; other widths follow the paper.
    """

    def __init__(self, width: float = 1.0, act: Activation = "relu6", padding: Padding = "same_tf") -> None:
        """Random weights.

        width: multiplier of every channel count, 0.25 to 1.4; ConfigError for another.
        act, padding: as the weights were, or are to be, trained.
        """
        super().__init__()
        if not 0.25 <= width <= 1.4:
            raise ConfigError(f"MobileNetV2 width: expected 0.25 to 1.4, got {width}")
        table = _MBV2_TABLE[:-1] if width <= 0.5 else _MBV2_TABLE
        channels = _round_channels(32 * width)
        # (B, 16, H/2, W/2) at width 0.5
        layers: list[nn.Module] = [ConvUnit(3, channels, 3, 2, act=act, padding=padding)]
        self.last, self.channels = {}, {}
        total_stride = 2
        for t, c, n, s in table:
            c_out = 12 if width == 0.5 and c == 24 else _round_channels(c * width)
            total_stride *= s
            for i in range(n):
                layers.append(InvertedResidual(channels, c_out, s if i == 0 else 1, t, act, padding))
                channels = c_out
            # A later stage of the same stride takes the earlier one's place.
            self.last[total_stride] = len(layers) - 1
            self.channels[total_stride] = c_out
        self.layers = nn.ModuleList(layers)


class BasicBlock(Block):
    """Two 3x3 convolutions with a shortcut; the last ReLU follows the addition."""

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
        """The two convolutions, and the shortcut's where it has one."""
        return Paths([self.unit1, self.unit2], self.add, [] if self.shortcut is None else [self.shortcut])


class ResNet18(Backbone):
    """ResNet-18 without its classifier."""

    def __init__(self) -> None:
        """No options: the paper's 18-layer network."""
        super().__init__()
        self.channels = {4: 64, 8: 128, 16: 256, 32: 512}
        layers: list[nn.Module] = [
            ConvUnit(3, 64, 7, 2, padding="symmetric"),  # (B, 64, H/2, W/2)
            nn.MaxPool2d(3, 2, 1),  # (B, 64, H/4, W/4); after a ReLU, a padding of zeros never wins wrongly
        ]
        c_in = 64
        for c_out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers.append(nn.Sequential(BasicBlock(c_in, c_out, stride), BasicBlock(c_out, c_out, 1)))
            c_in = c_out
        self.layers = nn.ModuleList(layers)
        self.last = {4: 2, 8: 3, 16: 4, 32: 5}


# name (`train --set backbone=NAME`) -> its constructor from `Architecture`'s width, act and padding
BACKBONES: dict[str, Callable[[float, Activation, Padding], Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet18": lambda width, act, padding: ResNet18(),
}


def build_backbone(
    name: str, width: float = 1.0, act: Activation = "relu6", padding: Padding = "same_tf"
) -> Backbone:
    """The backbone called `name`, one of BACKBONES, with random weights; ConfigError for another name.

    width, act, padding: see `network.centernet.Architecture`.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone: expected {' or '.join(BACKBONES)}, got {name!r}")
    return BACKBONES[name](width, act, padding)


# ---- weights that others trained


# Where training codes put the tensors inside a checkpoint, beside the epoch, the optimizer and the like.
_NESTS = ("state_dict", "model", "model_state_dict")
_BATCHNORM = ("weight", "bias", "running_mean", "running_var")


def read_state(path: Path) -> dict[str, Tensor]:
    """Parameter name -> tensor on the CPU, from .safetensors or what torch.save wrote (.pth, .pt, .tar).

    Takes a bare state dict or a checkpoint that holds one; "module.", which DataParallel puts in front of
    every name, is dropped. Pickled code is never run (weights_only).
    Raises ArtifactError when the file is missing, damaged or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtifactError(f"weights: expected a .safetensors or .pth file, found nothing at {path}")
    content: Any
    if path.suffix == ".safetensors":
        try:
            content = load_file(str(path))
        except SafetensorError as error:
            raise ArtifactError(f"{path}: expected a safetensors file, got a damaged one ({error})") from None
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises whatever the bytes make it raise
            found = re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error))
            got = (
                f"a pickled {found[1]}, which is not run for safety" if found else "another or a damaged file"
            )
            wanted = "tensors only" if found else "a PyTorch checkpoint"
            advice = (
                "save the state_dict alone where you trust the file, torch.save(model.state_dict(), PATH)"
            )
            raise ArtifactError(
                f"{path}: expected {wanted}, got {got}" + (f": {advice}" if found else "")
            ) from None
    if isinstance(content, dict):
        content = next((content[nest] for nest in _NESTS if isinstance(content.get(nest), dict)), content)
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    if not isinstance(content, dict):
        got = f"a {type(content).__name__}"
    else:
        got = f"a dict with {', '.join(map(str, list(content)[:4]))}" if content else "an empty dict"
    raise ArtifactError(f"{path}: expected a checkpoint with a state_dict of tensors, got {got}")


@torch.no_grad()
def load_pretrained(backbone: Backbone, path: Path) -> None:
    """Load a state dict with torchvision's names into `backbone` by position; shapes are checked.

    path: a .pth as torchvision publishes it, for RGB (pixel / 255 - mean) / std with ImageNet's mean and std,
        which is folded into the first convolution; or a .safetensors, for our own input (pixel - 128) / 128.
        Layers beyond the backbone's last one (a classifier) are ignored.

    Raises ConfigError with the first convolution that does not fit, ArtifactError for a file without weights.
    """
    # 1. Both sides in forward order: the names differ, the order of the layers does not.
    state = read_state(path)
    convs = [k for k in state if k.endswith(".weight") and state[k].ndim == 4]
    units = [m for m in backbone.modules() if isinstance(m, ConvUnit)]
    ordered = sorted(convs, key=_torchvision_order)
    if len(ordered) < len(units):
        raise ConfigError(f"{path}: expected at least {len(units)} convolutions, got {len(ordered)}")

    # 2. Each convolution, and the BatchNorm behind it: `convN` has `bnN`, others the next index of the same
    # Sequential.
    for unit, key in zip(units, ordered, strict=False):
        wanted, got = tuple(unit.conv.weight.shape), tuple(state[key].shape)
        if got != wanted:
            raise ConfigError(f"{path}: {key}: expected shape {wanted}, got {got}")
        unit.conv.weight.copy_(state[key])
        head, _, last = key.removesuffix(".weight").rpartition(".")
        bn = f"{head}.bn{last[4:]}".lstrip(".") if last.startswith("conv") else f"{head}.{int(last) + 1}"
        missing = [part for part in _BATCHNORM if f"{bn}.{part}" not in state]
        if missing:
            raise ConfigError(f"{path}: {bn}: BatchNorm without {', '.join(missing)}")
        assert unit.bn is not None
        unit.bn.load_state_dict({part: state[f"{bn}.{part}"] for part in _BATCHNORM}, strict=False)
    if path.suffix == ".safetensors":
        return

    # 3. Torchvision's input: make the first convolution, which expects (pixel / 255 - mean) / std, answer the
    # same to (pixel - 128) / 128. This is exact except where the window reaches over the border: the padding,
    # zero for both, was the mean colour and is now grey 128, at most 24 levels away. The constant goes into
    # the BatchNorm's mean, so that statistics measured in training stay right too.
    stem = units[0]
    assert stem.bn is not None and stem.bn.running_mean is not None
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    gain, shift = gain_and_shift(mean, std)
    stem.bn.running_mean.sub_((stem.conv.weight * shift).sum(dim=(1, 2, 3)))  # weight: (O, 3, k, k)
    stem.conv.weight.mul_(gain)


def _torchvision_order(key: str) -> tuple[int, tuple[int, ...]]:
    """Forward order of torchvision's names.

    A ResNet's shortcut ("downsample") follows the convolutions of its block.
    """
    stem = 0 if key.startswith(("conv1", "features")) else 1
    numbers = tuple(int(n) for n in re.findall(r"\d+", key.replace("downsample", "99")))
    return stem, numbers

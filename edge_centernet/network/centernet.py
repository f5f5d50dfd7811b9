"""CenterNet ("Objects as Points", Zhou et al., arXiv 1904.07850) for small computers.

    image (B, 3, H, W), raw 0..255
      -> normalise              (pixel - mean) / std
      -> backbone               maps at strides 4, 8, 16, 32
      -> neck (top-down)        one map at stride 4 (or 8): upsample, add the shallower map, mix
      -> heads                  heat (B, C, H/4, W/4) logits, size (B, 2, ..), offset (B, 2, ..) in cells

The paper's deformable convolutions are left out: they neither quantize nor export.
The neck upsamples by nearest neighbour and adds (FPN, arXiv 1612.03144): both are exact or nearly so in int8.
Of the paper's own networks the plain ResNet-18 can be built too, for its weights (`network.original`): that
is the kind "original".
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edge_centernet.errors import ConfigError
from edge_centernet.manifest import ModelSpec
from edge_centernet.network.backbones import InvertedResidual, build_backbone
from edge_centernet.network.layers import Activation, Add, ConvUnit, Padding, interleave, upsample2x
from edge_centernet.preprocess import normalize


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build the same network again; saved in every checkpoint.

    backbone: "mobilenet_v2" or "resnet18".
    width: MobileNetV2's multiplier of channels.
    act, padding: what MobileNetV2's weights were trained with. ImageNet's: relu6 and TensorFlow's SAME; those
        of width 0.5 trained on COCO: relu and symmetric.
    neck: channels at strides 16, 8 and 4. Without the last the heads are at stride 8, which saves a fifth of
        the time but separates close objects, and finds small ones, less well.
    head: channels inside the heads.
    context: number of inverted residual blocks at stride 32, where they cost next to nothing and see the
        whole image.
    expand: expansion of the blocks that mix at strides 16 and 8; 0 gives separable convolutions.
    kind: "fpn", or "original": a colour transform in front, a neck of transposed convolutions, and 3x3
        convolutions in the heads, as in the plain ResNets of the paper's code. context and expand are for
        "fpn" only.
    """

    backbone: str = "mobilenet_v2"
    width: float = 0.5
    neck: tuple[int, ...] = (96, 64, 48)
    head: int = 64
    context: int = 0
    expand: int = 0
    act: Activation = "relu6"
    padding: Padding = "same_tf"
    kind: Literal["fpn", "original"] = "fpn"

    @property
    def stride(self) -> int:
        """Input pixels per heatmap cell."""
        return 32 >> len(self.neck)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """The inverse of `to_dict`; raises ConfigError for unknown fields."""
        known = dict(data)
        if known.pop("tower", 0):  # checkpoints of version 0.1 hold 0 where there is one backbone
            raise ConfigError(
                "architecture: the network has a second backbone, which this version no longer builds; "
                "train again from a shipped model, or use edge-centernet 0.1.0"
            )
        try:
            return cls(**{**known, "neck": tuple(known["neck"])})
        except (TypeError, KeyError) as error:
            raise ConfigError(f"architecture: a field is missing or unknown ({error})") from None


class Normalize(nn.Module):
    """Raw 0..255 pixels to the network's input (`preprocess.normalize`); fixed and part of the graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        """mean, std: per channel, in pixels."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) any dtype -> (B, 3, H, W) float."""
        return normalize(x, self.mean, self.std)


def _separable(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 depthwise, then 1x1: about a ninth of a 3x3 convolution's work."""
    return nn.Sequential(ConvUnit(c_in, c_in, 3, groups=c_in), ConvUnit(c_in, c_out))


def _dense(c_in: int, c_out: int) -> nn.Sequential:
    """A 3x3 convolution with bias, as in front of each head of the original network."""
    return nn.Sequential(ConvUnit(c_in, c_out, 3, batchnorm=False))


class Neck(nn.Module):
    """Top-down fusion of the backbone's maps to the stride of the heads (FPN)."""

    def __init__(self, c_in: dict[int, int], arch: Architecture) -> None:
        """c_in: backbone channels by stride."""
        super().__init__()
        c16 = arch.neck[0]
        strides, levels = (16, 8, 4)[: len(arch.neck)], range(len(arch.neck))
        self.top = ConvUnit(c_in[32], c16)  # (B, c16, H/32, W/32)
        self.context = nn.Sequential(*(InvertedResidual(c16, c16, 1, 2) for _ in range(arch.context)))
        self.lateral = nn.ModuleList(
            ConvUnit(c_in[s], c, act="none") for s, c in zip(strides, arch.neck, strict=True)
        )
        self.add = nn.ModuleList(Add() for _ in levels)
        self.mix = nn.ModuleList()  # what follows each addition: (B, c, H, W) -> (B, c_next, H, W)
        for c, c_next in pairwise(arch.neck):
            if not arch.expand:
                self.mix.append(_separable(c, c_next))
                continue
            hidden = c * arch.expand  # an inverted residual block without the shortcut: channels change
            expand, depthwise = ConvUnit(c, hidden), ConvUnit(hidden, hidden, 3, groups=hidden)
            self.mix.append(nn.Sequential(expand, depthwise, ConvUnit(hidden, c_next, act="none")))
        self.mix.append(_separable(arch.neck[-1], arch.neck[-1]))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (B, C, H/4, W/4), or H/8, W/8; C: the last of arch.neck."""
        # Not strict: without a third neck level the map at stride 4 is not used.
        entering = [unit(m) for unit, m in zip((self.top, *self.lateral), maps[::-1], strict=False)]
        x: Tensor = self.context(entering[0])
        # Strides 16, 8 and, where there is a third level, 4.
        for lateral, add, mix in zip(entering[1:], self.add, self.mix, strict=True):
            x = mix(add(upsample2x(x), lateral))  # twice the height and width
        return x


class DeconvNeck(nn.Module):
    """The neck of the original's plain ResNets: three transposed convolutions, 4x4 with stride 2.

    It goes from the deepest map alone to stride 4, doubling three times. `network.layers` says how a
    transposed convolution becomes an ordinary one.
    """

    def __init__(self, c_in: int, channels: tuple[int, ...]) -> None:
        """c_in: channels at stride 32; channels: at strides 16, 8 and 4."""
        super().__init__()
        pairs = zip((c_in, *channels[:2]), channels, strict=True)
        self.units = nn.ModuleList(ConvUnit(c, 4 * c_out, 2, padding="symmetric") for c, c_out in pairs)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (B, c4, H/4, W/4)."""
        x = maps[-1]
        for unit in self.units:
            x = interleave(unit(x))  # (B, C, H, W) -> (B, 4C', H + 1, W + 1) -> (B, C', 2H, 2W)
        return x


class CenterNet(nn.Module):
    """The whole network; see the module docstring for shapes."""

    def __init__(self, spec: ModelSpec, arch: Architecture) -> None:
        """Random weights; raises ConfigError where `spec` and `arch` do not fit each other."""
        super().__init__()
        if arch.kind not in ("fpn", "original"):
            raise ConfigError(f"architecture kind: expected fpn or original, got {arch.kind!r}")
        if len(arch.neck) not in ((3,) if arch.kind == "original" else (2, 3)):
            raise ConfigError(f"architecture neck: expected channels at strides 16, 8 and 4, got {arch.neck}")
        if spec.stride != arch.stride or spec.heat_unit != "logit":
            raise ConfigError(
                f"CenterNet: expected stride {arch.stride} and logits, got {spec.stride} and {spec.heat_unit}"
            )
        self.spec, self.arch = spec, arch
        self.normalize = Normalize(spec.mean, spec.std)
        self.backbone = build_backbone(arch.backbone, arch.width, arch.act, arch.padding)
        original = arch.kind == "original"
        # (B, 3, H, W) -> (B, 3, H, W): from our channel order and scale to those that the original's weights
        # were trained with.
        self.recolor = ConvUnit(3, 3, act="none", batchnorm=False) if original else nn.Identity()
        self.recolor.requires_grad_(False)
        channels = self.backbone.channels
        self.neck = DeconvNeck(channels[32], arch.neck) if original else Neck(channels, arch)
        c, mid = arch.neck[-1], arch.head
        self.heat_mix = _dense(c, mid) if original else _separable(c, mid)
        if original:
            self.size_mix, self.offset_mix = _dense(c, mid), _dense(c, mid)
        else:
            self.box_mix = _separable(c, mid)
        self.heat = ConvUnit(mid, len(spec.classes), act="none", batchnorm=False)
        self.size = ConvUnit(mid, 2, act="none", batchnorm=False)
        self.offset = ConvUnit(mid, 2, act="none", batchnorm=False)
        # Heat starts at logit(0.01), because nearly every cell is background (arXiv 1708.02002, 4.1); sizes
        # start at 8 cells, offsets in the middle of the cell.
        for head, bias in ((self.heat, math.log(0.01 / 0.99)), (self.size, 8.0), (self.offset, 0.5)):
            assert head.conv.bias is not None
            nn.init.normal_(head.conv.weight, std=0.01)
            nn.init.constant_(head.conv.bias, bias)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) raw 0..255 in spec.color order -> heat, size, offset."""
        return self.core(self.normalize(image))

    def core(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Everything behind the normalisation: (B, 3, H, W) -> heat, size, offset."""
        maps = self.backbone(self.recolor(x))  # strides 4, 8, 16, 32
        fused = self.neck(maps)  # (B, C, H/4, W/4)
        outputs: list[Tensor] = []
        for mix, heads in self.branches():
            mixed = mix(fused)
            outputs += [head(mixed) for head in heads]
        heat, size, offset = outputs
        return heat, size, offset

    def branches(self) -> tuple[tuple[nn.Sequential, tuple[ConvUnit, ...]], ...]:
        """What follows the neck: (mixing layers, heads behind them) in the order heat, size, offset."""
        if self.arch.kind == "original":
            size, offset = (self.size_mix, (self.size,)), (self.offset_mix, (self.offset,))
            return (self.heat_mix, (self.heat,)), size, offset
        return (self.heat_mix, (self.heat,)), (self.box_mix, (self.size, self.offset))

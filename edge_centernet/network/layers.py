"""The three building blocks of every network here: a convolution unit, an addition, an upsampling.

A network made only of these quantizes mechanically: one activation quantizer behind every
convolution unit and every addition, none behind a nearest upsampling (it only copies values).
`edge_centernet.network.fake_quant` fills the slots named `weight_quant` and `out_quant`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "relu6", "none"]
Padding = Literal["same_tf", "symmetric"]


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, activation: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    padding "same_tf" is TensorFlow's SAME for even sizes: 0 before and 1 after at stride 2, 1 and 1
    at stride 1. MobileNetV2's ImageNet weights were trained with it, and TFLite has it natively.
    "symmetric" is torchvision's kernel // 2 on both sides.
    After `fold_batchnorm` the unit is a convolution with bias and `bn` is gone.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: Activation = "relu",
        padding: Padding = "same_tf",
        batchnorm: bool = True,
    ) -> None:
        """See the class docstring; batchnorm=False gives a plain convolution with bias (the heads)."""
        super().__init__()
        self.asymmetric = padding == "same_tf" and stride == 2 and kernel == 3
        pad = 0 if self.asymmetric else kernel // 2
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, groups=groups, bias=not batchnorm)
        self.bn: nn.BatchNorm2d | None = nn.BatchNorm2d(c_out) if batchnorm else None
        self.act = act
        self.weight_quant: nn.Module = nn.Identity()
        self.bias_quant: nn.Module | None = None
        self.out_quant: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        conv = self.conv
        weight = self.weight_quant(conv.weight)
        bias = conv.bias if self.bias_quant is None else self.bias_quant(conv.bias, conv.weight)
        if not self.asymmetric:
            x = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        elif self.training and conv.groups > 1:
            # The same numbers by another way: on a CPU the gradient of a padded depthwise convolution at
            # stride 2 takes three to seven times as long as that of one at stride 1, of which every second
            # cell is kept.
            x = F.conv2d(x, weight, bias, 1, 1, conv.dilation, conv.groups)[:, :, 1::2, 1::2]
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, conv.stride, 0, conv.dilation, conv.groups)
        if self.bn is not None:
            x = self.bn(x)
        # In place while training: no gradient needs what was there before, and large maps cost time to
        # allocate.
        if self.act == "relu":
            x = F.relu(x, inplace=self.training)
        elif self.act == "relu6":
            x = F.relu6(x, inplace=self.training)
        quantized: Tensor = self.out_quant(x)
        return quantized

    @torch.no_grad()
    def fold_batchnorm(self) -> None:
        """Multiply the BatchNorm's running statistics into weight and bias, exactly as inference would."""
        if self.bn is None:
            return
        bn, conv = self.bn, self.conv
        assert bn.running_mean is not None and bn.running_var is not None
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)  # (C_out,)
        conv.weight.mul_(gain.reshape(-1, 1, 1, 1))
        conv.bias = nn.Parameter(bn.bias - bn.running_mean * gain)
        self.bn = None


class Add(nn.Module):
    """Element-wise sum, optionally followed by ReLU, with its own quantizer slot."""

    def __init__(self, relu: bool = False) -> None:
        """No parameters until quantization-aware training fills `out_quant`."""
        super().__init__()
        self.relu = relu
        self.out_quant: nn.Module = nn.Identity()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, C, H, W) + (B, C, H, W)."""
        total = a + b
        out: Tensor = self.out_quant(F.relu(total) if self.relu else total)
        return out


def upsample2x(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), nearest: copies values, so it needs no quantizer."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def fold_batchnorm(model: nn.Module) -> None:
    """Fold every BatchNorm of `model` in place."""
    for module in model.modules():
        if isinstance(module, ConvUnit):
            module.fold_batchnorm()

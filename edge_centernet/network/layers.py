"""The building blocks of every network here: a convolution unit, an addition, an upsampling.

A network made only of these quantizes mechanically: one activation quantizer behind every convolution unit
and every addition, none behind a nearest upsampling, which only copies values.
`edge_centernet.network.fake_quant` fills the slots named `weight_quant`, `bias_quant` and `out_quant`.

A fourth block, transposed convolutions as ordinary ones, serves the original CenterNet's network alone.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "relu6", "none"]
Padding = Literal["same_tf", "symmetric"]


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, activation: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    After `fold_batchnorm` the unit is a convolution with bias, and `bn` is None.
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
        """Random weights, no quantizers.

        Args:
            c_in: input channels.
            c_out: output channels.
            kernel: height and width of the window.
            stride: 1 or 2.
            groups: 1, or c_in for a depthwise convolution.
            act: what follows the convolution and its BatchNorm.
            padding: "same_tf" is TensorFlow's SAME for even sizes: 0 before and 1 after at stride 2, 1 and 1
                at stride 1. MobileNetV2's ImageNet weights were trained with it, and TFLite has it natively.
                "symmetric" is torchvision's kernel // 2 on both sides.
            batchnorm: False gives a plain convolution with bias, as in the heads.
        """
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
            # The same numbers in another way: on a CPU the gradient of a padded depthwise convolution at
            # stride 2 takes three to seven times as long as that of one at stride 1 of which every second
            # cell is used.
            x = F.conv2d(x, weight, bias, 1, 1, conv.dilation, conv.groups)[:, :, 1::2, 1::2]
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, conv.stride, 0, conv.dilation, conv.groups)
        if self.bn is not None:
            x = self.bn(x)
        # In place while training: no gradient needs the values before the activation, and allocating large
        # maps takes time.
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
    """(B, C, H, W) -> (B, C, 2H, 2W), nearest neighbour: it copies values, so it needs no quantizer."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def fold_batchnorm(model: nn.Module) -> None:
    """Fold every BatchNorm of `model` in place."""
    for module in model.modules():
        if isinstance(module, ConvUnit):
            module.fold_batchnorm()


# ---- transposed convolutions as ordinary ones (docs/decisions/0011-original-centernet.md: why)
#
# A 4x4 transposed convolution with stride 2 is computed as an ordinary 2x2 convolution with four times the
# channels, one set for each parity of row and column, whose outputs are then interleaved: the same products
# and sums, plus one row and column that are cut away. In one dimension, y being the transposed convolution
# with padding 1:
#
#     y[2i]     = w[1] x[i] + w[3] x[i - 1]
#     y[2i + 1] = w[2] x[i] + w[0] x[i + 1]
#
# so both y[2i - 1] and y[2i] come from the window x[i - 1], x[i], for i = 0 .. n, where x[-1] and x[n] are 0.


def as_convolution(weight: Tensor) -> Tensor:
    """Transposed kernel (C_in, C_out, 4, 4) -> (4 * C_out, C_in, 2, 2), row parity slowest, then column."""
    taps = [2, 0], [3, 1]  # of y[2i - 1] and of y[2i], on x[i - 1] and x[i]
    # (C_in, C_out, 2, 2) each
    parts = [weight[:, :, rows][:, :, :, columns] for rows in taps for columns in taps]
    return torch.cat([part.transpose(0, 1) for part in parts])


def interleave(x: Tensor) -> Tensor:
    """(B, 4C, H + 1, W + 1) -> (B, C, 2H, 2W): the four parities side by side, without the outermost ring."""
    out: Tensor = _Interleave.apply(x)  # type: ignore[no-untyped-call]
    return out


class _Interleave(torch.autograd.Function):
    """A function of its own, because the exporter would otherwise write every reshape as a node.

    To ONNX it is DepthToSpace and Slice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        # (B, row parity, column parity, C, H + 1, W + 1) -> (B, C, H + 1, row parity, W + 1, column parity)
        wide = x.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)
        return wide[:, :, 1:-1, 1:-1].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        wide = nn.functional.pad(grad, (1, 1, 1, 1))
        b, c, h, w = wide.shape
        parities = wide.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return parities.reshape(b, 4 * c, h // 2, w // 2)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        wide = g.op("DepthToSpace", x, blocksize_i=2, mode_s="DCR")
        begin, end, axes = (g.op("Constant", value_t=torch.tensor(v)) for v in ([1, 1], [-1, -1], [2, 3]))
        return g.op("Slice", wide, begin, end, axes)

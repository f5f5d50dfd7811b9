"""Quantization-aware training: put fake quantizers into the slots the layers provide.

Scheme (what OpenVINO, TFLite, ONNX Runtime and TensorRT's QDQ readers all execute exactly):
  weights      per output channel, symmetric int8; depthwise in [-127, 127], all others in [-63, 63]
  activations  per tensor, affine int8, ranges from a moving average of minimum and maximum
  bias         int32 with scale s_in * s_w, rounded by the converters
Dense weights use 7 bits because x86 processors without VNNI multiply with `vpmaddubsw`, which adds pairs of
products in 16 bits: 255 * (63 + 63) = 32,130 fits, 255 * (127 + 127) saturates and ruins the boxes silently.
Straight-through gradients: Jacob et al., arXiv 1712.05877.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_centernet.model.centernet import CenterNet
from edge_centernet.model.layers import Add, ConvUnit, fold_batchnorm

DENSE_MAX = 63
DEPTHWISE_MAX = 127
MOMENTUM = 0.05  # of the moving average of minimum and maximum
WEIGHT_FLOOR = 1e-4  # a dead channel's scale stays so large that its bias / (s_in * s_w) fits int32
HEAT_LOW = -8.0  # logits below are all background (p < 0.0004): spend the 256 steps above


class WeightQuant(nn.Module):
    """Per-channel symmetric fake quantization; the scale follows the weights."""

    def __init__(self, limit: int) -> None:
        """limit: the largest stored magnitude, 63 or 127."""
        super().__init__()
        self.limit = limit

    def scale(self, weight: Tensor) -> Tensor:
        """(C_out, C_in / groups, kh, kw) -> (C_out,) real value of one step."""
        return weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=WEIGHT_FLOOR) / self.limit

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the device will see it, same shape."""
        zero = torch.zeros(weight.shape[0], dtype=torch.int32, device=weight.device)
        # -128..127 never clips: the scale already maps the largest magnitude to `limit`.
        return torch.fake_quantize_per_channel_affine(weight, self.scale(weight), zero, 0, -128, 127)


class ActivationQuant(nn.Module):
    """Per-tensor affine int8 fake quantization with an observed range that always holds 0."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, floor: float = -float("inf")) -> None:
        """floor: the range never reaches below it."""
        super().__init__()
        self.floor = floor
        self.observing = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def scale_zero_point(self) -> tuple[Tensor, Tensor]:
        """Scalars: scale float32 > 0 and zero point int32 in [-128, 127]."""
        scale = ((self.high - self.low) / 255).clamp(min=1e-6)
        zero_point = (-128 - self.low / scale).round().clamp(-128, 127).to(torch.int32)
        return scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; values rounded to the 256 representable ones."""
        if self.observing:
            self._observe(x.detach())
        scale, zero_point = self.scale_zero_point()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        low = low.float().clamp(min=self.floor, max=0.0)
        high = high.float().clamp(min=1e-3)
        # The first batches count fully, then a moving average.
        momentum = max(MOMENTUM, 1.0 / (int(self.seen) + 1))
        self.low.lerp_(low, momentum)
        self.high.lerp_(high, momentum)
        self.seen += 1


def prepare_qat(model: CenterNet) -> None:
    """Fold BatchNorm and fill every quantizer slot, in place. Ranges start unmeasured: observe, then train."""
    fold_batchnorm(model)
    for module in model.modules():
        if isinstance(module, ConvUnit):
            dense = module.conv.groups == 1
            module.weight_quant = WeightQuant(DENSE_MAX if dense else DEPTHWISE_MAX)
            module.out_quant = ActivationQuant()
        elif isinstance(module, Add):
            module.out_quant = ActivationQuant()
    model.heat.out_quant = ActivationQuant(HEAT_LOW)
    model.size.out_quant = ActivationQuant(0.0)


def set_observing(model: nn.Module, observing: bool) -> None:
    """Measure activation ranges on every forward pass, or leave them."""
    for module in model.modules():
        if isinstance(module, ActivationQuant):
            module.observing = observing


def freeze_ranges(model: nn.Module) -> None:
    """Ranges stand still for the rest of training, so that weights settle on a fixed grid."""
    set_observing(model, False)

"""Fake quantizers for quantization-aware training, which go into the slots that the layers provide.

`calibration.scheme` is the int8 scheme and says why each of its rules is as it is. OpenVINO, TFLite, ONNX
Runtime and TensorRT's QDQ readers all execute it exactly. Training starts from the ranges of post-training
quantization. Gradients pass straight through the rounding: Jacob et al., arXiv 1712.05877.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from edge_centernet import qdq
from edge_centernet.calibration import scheme
from edge_centernet.calibration.scheme import (
    DENSE_MAX,
    DEPTHWISE_MAX,
    HEAT_HIGH,
    HEAT_LOW,
    INT8_MAX,
    INT8_MIN,
    NARROWEST,
    WEIGHT_FLOOR,
)
from edge_centernet.manifest import Quant
from edge_centernet.network.backbones import Block
from edge_centernet.network.centernet import CenterNet, DeconvNeck, Neck
from edge_centernet.network.distributed import extremes
from edge_centernet.network.layers import Add, ConvUnit, fold_batchnorm
from edge_centernet.preprocess import IMAGE_QUANT

MOMENTUM = 0.05  # of the moving average of minimum and maximum
CONFIDENCE = 20  # batches that measured ranges count as when a moving average goes on from them


def exact_rescale(wanted: Tensor) -> Tensor:
    """`scheme.exact_rescale` for tensors on any device: (C,) > 0 -> (C,) float64."""
    p = torch.arange(1, 256, 2, dtype=torch.float64, device=wanted.device)
    rescaled: Tensor = scheme.rescale_with(torch, wanted.double(), p)
    return rescaled


class WeightQuant(nn.Module):
    """Per-channel symmetric fake quantization; the scale follows the weights until they are settled."""

    step: Tensor

    def __init__(self, limit: int, channels: int) -> None:
        """limit: the largest stored magnitude, 63 or 127; channels: C_out."""
        super().__init__()
        self.limit = limit
        # In front of and behind the convolution. A list, because they are no submodules of this one.
        self._around: list[ActivationQuant] = []
        self.settled = False
        self.register_buffer("step", torch.zeros(channels))  # (C_out,) the scale once settled, until then 0

    def between(self, entering: ActivationQuant, leaving: ActivationQuant) -> None:
        """Set the quantizers of the convolution's input and output: the rescaling depends on their scales."""
        self._around = [entering, leaving]

    def scale(self, weight: Tensor) -> Tensor:
        """(C_out, C_in / groups, kh, kw) -> (C_out,) real value of one step."""
        if self.settled:
            return self.step
        # The finest scale that holds the largest weight, then coarser by up to 2 % so that s_in * s_w / s_out
        # is a fraction on which no engine's order of computing rounds otherwise (docs/decisions/0006).
        least = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=WEIGHT_FLOOR) / self.limit
        s_in, s_out = (quantizer.scale_zero_point()[0].detach().double() for quantizer in self._around)
        return (exact_rescale(least * s_in / s_out) * s_out / s_in).to(least.dtype)

    def settle(self, weight: Tensor) -> None:
        """Keep the scale that follows from this weight."""
        self.keep(self.scale(weight))

    def keep(self, step: Tensor) -> None:
        """Fix the scale, (C_out,): from now on weights beyond `limit` steps are clipped."""
        self.step.copy_(step)
        self.settled = True

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        self.settled = bool(self.step.any())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the device will have it, same shape."""
        zero = torch.zeros(weight.shape[0], dtype=torch.int32, device=weight.device)
        low, high = -self.limit, self.limit
        # The exporter takes whole bytes only; exported weights are settled, so they are inside the limit.
        if torch.onnx.is_in_onnx_export():
            low, high = INT8_MIN, INT8_MAX
        return torch.fake_quantize_per_channel_affine(weight, self.scale(weight), zero, 0, low, high)


class ActivationQuant(nn.Module):
    """Per-tensor affine int8 fake quantization with an observed range that always holds 0."""

    low: Tensor
    high: Tensor
    seen: Tensor
    # Those that share this one's scale, itself included. A list, because they are no submodules of this one.
    peers: list[ActivationQuant]

    def __init__(
        self, symmetric: bool = False, floor: float = -float("inf"), reach: float = NARROWEST
    ) -> None:
        """An unmeasured range of 0 to 1.

        symmetric: zero point 0. floor: the range never goes below it. reach: it goes at least this high.
        """
        super().__init__()
        self.symmetric, self.floor, self.reach = symmetric, floor, reach
        self.observing = False
        self.fixed: tuple[float, int] | None = None
        self.peers = [self]
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def keep(self, quant: Quant) -> None:
        """Set the range to the one that gives this scale and zero point."""
        low, high = scheme.limits(quant, -INT8_MAX if self.symmetric else INT8_MIN)
        self.low.fill_(low)
        self.high.fill_(high)
        self.seen.fill_(CONFIDENCE)

    def scale_zero_point(self) -> tuple[Tensor, Tensor]:
        """`scheme.activation_quants` in tensors: scale float32 > 0 and zero point int32 in [-128, 127]."""
        highs = [peer.high.clamp(min=peer.reach) for peer in self.peers]
        if self.symmetric:
            sides = [torch.maximum(h, -peer.low) for h, peer in zip(highs, self.peers, strict=True)]
            widest = torch.stack(sides).max()
            return (widest / INT8_MAX).clamp(min=1e-6), torch.zeros_like(widest, dtype=torch.int32)
        widest = torch.stack([high - peer.low for high, peer in zip(highs, self.peers, strict=True)]).max()
        scale = (widest / (INT8_MAX - INT8_MIN)).clamp(min=1e-6)
        zero_point = (INT8_MIN - self.low / scale).round().clamp(INT8_MIN, INT8_MAX).to(torch.int32)
        return scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; values rounded to the 256 representable ones."""
        if self.fixed is not None:
            return torch.fake_quantize_per_tensor_affine(x, *self.fixed, INT8_MIN, INT8_MAX)
        if self.observing:
            low, high = extremes(*torch.aminmax(x.detach().float()))  # of all processes
            low = low.float().clamp(min=self.floor, max=0.0)
            high = high.float().clamp(min=self.reach)
            # A plain mean over the first batches, so that the initial 0 to 1 does not linger; then a moving
            # average.
            momentum = max(MOMENTUM, 1.0 / (int(self.seen) + 1))
            self.low.lerp_(low, momentum)
            self.high.lerp_(high, momentum)
            self.seen += 1
        scale, zero_point = self.scale_zero_point()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, INT8_MIN, INT8_MAX)


class BiasQuant(nn.Module):
    """Rounds a bias to multiples of s_in * s_w, as hardware holds it in int32.

    Where a depthwise layer's weights are large, such a step is a tenth of an output step, which is enough to
    train with it.
    """

    def __init__(self, entering: ActivationQuant, weight_quant: WeightQuant) -> None:
        """entering: the quantizer of the convolution's input."""
        super().__init__()
        # In lists, because they are no submodules of this one.
        self._entering, self._weight_quant = [entering], [weight_quant]

    def forward(self, bias: Tensor, weight: Tensor) -> Tensor:
        """(C_out,) -> (C_out,), straight-through gradient."""
        step = self._entering[0].scale_zero_point()[0].detach() * self._weight_quant[0].scale(weight)
        return bias + ((bias / step).round() * step - bias).detach()


def prepare_qat(model: CenterNet, symmetric: bool = False) -> None:
    """Fold BatchNorm and fill every quantizer slot, in place; ranges have to be measured or set afterwards.

    symmetric: activations with zero point 0 throughout (checkpoint stage "qat_symmetric").
    """
    # 1. A quantizer in every slot.
    fold_batchnorm(model)
    for module in model.modules():
        if isinstance(module, ConvUnit):
            dense = module.conv.groups == 1
            module.weight_quant = WeightQuant(DENSE_MAX if dense else DEPTHWISE_MAX, module.conv.out_channels)
            module.out_quant = ActivationQuant(symmetric)
        elif isinstance(module, Add):
            module.out_quant = ActivationQuant(symmetric)
    model.heat.out_quant = ActivationQuant(symmetric, HEAT_LOW, HEAT_HIGH)
    model.size.out_quant = ActivationQuant(symmetric, 0.0)

    # 2. The scale of the input is no parameter: int8 stores pixel - GREY.
    last = ActivationQuant()
    low, high = scheme.limits(Quant(IMAGE_QUANT.scale, 0))
    last.low, last.high = torch.tensor(low), torch.tensor(high)

    # 3. From the input to the heads: every convolution gets the quantizer in front of it, and the quantizers
    # around every addition share one scale.
    if not isinstance(model.recolor, nn.Identity):
        last = _wire_chain([model.recolor], last)
    outputs: list[ActivationQuant] = []  # behind each layer of the backbone
    for layer in model.backbone.layers:
        for block in layer if isinstance(layer, nn.Sequential) else (layer,):
            last = _wire_block(block, last)
        outputs.append(last)
    last = _wire_neck(model.neck, [outputs[model.backbone.last[stride]] for stride in (32, 16, 8, 4)])
    for mixing, heads in model.branches():
        mixed = _wire_chain(mixing, last)
        for head in heads:
            _wire_chain([head], mixed)


def _wire_neck(neck: Neck | DeconvNeck, maps: list[ActivationQuant]) -> ActivationQuant:
    """The neck behind the backbone's maps (strides 32, 16, 8, 4); returns the quantizer of its output."""
    if isinstance(neck, DeconvNeck):
        return _wire_chain(neck.units, maps[0])  # interleaving changes neither values nor scale
    entering = [_wire_chain([unit], m) for unit, m in zip((neck.top, *neck.lateral), maps, strict=False)]
    last, *laterals = entering
    for block in neck.context:
        last = _wire_block(block, last)
    for lateral, add, mix in zip(laterals, neck.add, neck.mix, strict=True):
        assert isinstance(add, Add)
        assert isinstance(mix, nn.Sequential)
        last = _wire_chain(mix, _tie(last, lateral, add.out_quant))
    return last


def _wire_block(block: nn.Module, entering: ActivationQuant) -> ActivationQuant:
    """One backbone block whose input is behind `entering`; returns the quantizer of its output."""
    if isinstance(block, ConvUnit):
        return _wire_chain([block], entering)
    if isinstance(block, Block):
        main, add, shortcut = block.paths()
        out = _wire_chain(main, entering)
        return out if add is None else _tie(_wire_chain(shortcut, entering), out, add.out_quant)
    assert isinstance(block, nn.MaxPool2d), block  # it changes neither values nor scale
    return entering


def _wire_chain(units: Iterable[nn.Module], entering: ActivationQuant) -> ActivationQuant:
    """Convolution units one behind the other; returns the last one's quantizer."""
    for unit in units:
        assert isinstance(unit, ConvUnit)
        assert isinstance(unit.weight_quant, WeightQuant)
        assert isinstance(unit.out_quant, ActivationQuant)
        unit.weight_quant.between(entering, unit.out_quant)
        unit.bias_quant = BiasQuant(entering, unit.weight_quant)
        entering = unit.out_quant
    return entering


def _tie(*quantizers: nn.Module) -> ActivationQuant:
    """Merge the groups of these quantizers, which then share one scale; returns the last of them."""
    group: list[ActivationQuant] = []
    for quantizer in quantizers:
        assert isinstance(quantizer, ActivationQuant)
        group.extend(peer for peer in quantizer.peers if peer not in group)
        last = quantizer
    for peer in group:
        peer.peers = group
    return last


@torch.no_grad()
def settle_weights(model: nn.Module) -> None:
    """Replace every weight by its rounded value and keep the scales, when training is over.

    Pretrained weights that were quantized before often lie exactly between two steps, and every engine breaks
    such ties in its own way; one wrong weight shifts a whole channel. After this there are no ties left.
    """
    for module in model.modules():
        if isinstance(module, ConvUnit):
            assert isinstance(module.weight_quant, WeightQuant)
            module.weight_quant.settle(module.conv.weight)
            module.conv.weight.copy_(module.weight_quant(module.conv.weight))


@torch.no_grad()
def bake(model: nn.Module) -> None:
    """Turn everything that is computed from weights and ranges into constants, to be traced.

    The model cannot be trained any further.
    """
    settle_weights(model)
    for module in model.modules():
        if isinstance(module, ActivationQuant):
            scale, zero_point = module.scale_zero_point()
            module.fixed = float(scale), int(zero_point)
        if isinstance(module, ConvUnit) and isinstance(module.bias_quant, BiasQuant):
            assert module.conv.bias is not None
            module.conv.bias.copy_(module.bias_quant(module.conv.bias, module.conv.weight))
            module.bias_quant = None


@torch.no_grad()
def start_from(model: nn.Module, quantized: qdq.Network, fixed: bool) -> None:
    """Set quantizers, weights and biases to what post-training quantization found for them.

    model: a network that `prepare_qat` has changed.
    quantized: the result of `calibration.quantize` for the same network.
    fixed: weight scales stay. Otherwise they follow the weights and the ranges, as they must while ranges are
        still observed.
    """
    modules = dict(model.named_modules())
    for op in quantized.ops:
        if not isinstance(op, qdq.Conv | qdq.Add):
            continue
        module = modules[module_name(op.name)]
        assert isinstance(module, ConvUnit | Add)
        assert isinstance(module.out_quant, ActivationQuant)
        module.out_quant.keep(op.y.quant)
        if isinstance(op, qdq.Conv):
            assert isinstance(module, ConvUnit)
            assert isinstance(module.weight_quant, WeightQuant)
            assert module.conv.bias is not None
            module.conv.weight.copy_(torch.from_numpy(op.weight))
            module.conv.bias.copy_(torch.from_numpy(op.bias))
            if fixed:
                module.weight_quant.keep(torch.from_numpy(op.weight_scale))


def module_name(node: str) -> str:
    """Name of a traced ONNX node -> name of the module in which it was traced.

    '/neck/mix.0/mix.0.1/Conv' -> 'neck.mix.0.1': tracing repeats the name of a container that was itself
    called.
    """
    scopes = node.strip("/").split("/")[:-1]
    parts = [a for a, b in zip(scopes, [*scopes[1:], ""], strict=True) if not b.startswith(f"{a}.")]
    return ".".join(parts)


def set_observing(model: nn.Module, observing: bool) -> None:
    """Whether every forward pass measures activation ranges, or leaves them as they are."""
    for module in model.modules():
        if isinstance(module, ActivationQuant):
            module.observing = observing


def freeze_ranges(model: nn.Module) -> None:
    """Stop measuring ranges for the rest of training, so that weights settle on a fixed grid."""
    set_observing(model, False)

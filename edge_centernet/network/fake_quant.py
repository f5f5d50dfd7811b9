"""Quantization-aware training: put fake quantizers into the slots the layers provide.

The scheme, and why each rule of it is as it is: `calibration.scheme`. OpenVINO, TFLite, ONNX Runtime and
TensorRT's QDQ readers all execute it exactly. Training starts from the ranges of post-training quantization.
Straight-through gradients: Jacob et al., arXiv 1712.05877.
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
from edge_centernet.network.backbones import Backbone, Block
from edge_centernet.network.centernet import CenterNet, Neck
from edge_centernet.network.deconv import DeconvNeck
from edge_centernet.network.distributed import extremes
from edge_centernet.network.layers import Add, ConvUnit, fold_batchnorm
from edge_centernet.preprocess import IMAGE_QUANT

MOMENTUM = 0.05  # of the moving average of minimum and maximum
CONFIDENCE = 20  # batches that measured ranges count as, where a moving average goes on from them


def exact_rescale(wanted: Tensor) -> Tensor:
    """`scheme.exact_rescale` on tensors, wherever they are: (C,) > 0 -> (C,) float64."""
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
        self._around: list[
            ActivationQuant
        ] = []  # in front of and behind the convolution; a list: not submodules
        self.settled = False
        self.register_buffer("step", torch.zeros(channels))  # (C_out,) the scale once settled, until then 0

    def between(self, entering: ActivationQuant, leaving: ActivationQuant) -> None:
        """Tell whose scales the rescaling depends on."""
        self._around = [entering, leaving]

    def scale(self, weight: Tensor) -> Tensor:
        """(C_out, C_in / groups, kh, kw) -> (C_out,) real value of one step."""
        if self.settled:
            return self.step
        least = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=WEIGHT_FLOOR) / self.limit
        s_in, s_out = (quantizer.scale_zero_point()[0].detach().double() for quantizer in self._around)
        return (exact_rescale(least * s_in / s_out) * s_out / s_in).to(least.dtype)

    def settle(self, weight: Tensor) -> None:
        """Keep the scale that this weight asks for."""
        self.keep(self.scale(weight))

    def keep(self, step: Tensor) -> None:
        """Set the scale for good, (C_out,): from now on weights beyond `limit` steps are clipped."""
        self.step.copy_(step)
        self.settled = True

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        self.settled = bool(self.step.any())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the device will see it, same shape."""
        zero = torch.zeros(weight.shape[0], dtype=torch.int32, device=weight.device)
        low, high = -self.limit, self.limit
        if (
            torch.onnx.is_in_onnx_export()
        ):  # knows whole bytes only; exported weights are settled, inside the limit
            low, high = INT8_MIN, INT8_MAX
        return torch.fake_quantize_per_channel_affine(weight, self.scale(weight), zero, 0, low, high)


class ActivationQuant(nn.Module):
    """Per-tensor affine int8 fake quantization with an observed range that always holds 0."""

    low: Tensor
    high: Tensor
    seen: Tensor
    peers: list[
        ActivationQuant
    ]  # those that share this one's scale, itself included; a list, so not submodules

    def __init__(
        self, symmetric: bool = False, floor: float = -float("inf"), reach: float = NARROWEST
    ) -> None:
        """symmetric: zero point 0; floor: the range never goes below it; reach: it goes at least up to it."""
        super().__init__()
        self.symmetric, self.floor, self.reach = symmetric, floor, reach
        self.observing = False
        self.fixed: tuple[float, int] | None = None
        self.peers = [self]
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def keep(self, quant: Quant) -> None:
        """Take the range that gives this scale and zero point."""
        low, high = scheme.limits(quant, -INT8_MAX if self.symmetric else INT8_MIN)
        self.low.fill_(low)
        self.high.fill_(high)
        self.seen.fill_(CONFIDENCE)

    def scale_zero_point(self) -> tuple[Tensor, Tensor]:
        """`scheme.activation_quants` in tensors: scale float32 > 0 and zero point int32 in [-128, 127]."""
        highs = [peer.high.clamp(min=peer.reach) for peer in self.peers]
        if self.symmetric:
            widest = torch.stack(
                [torch.maximum(h, -peer.low) for h, peer in zip(highs, self.peers, strict=True)]
            ).max()
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
            self._observe(x.detach())
        scale, zero_point = self.scale_zero_point()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, INT8_MIN, INT8_MAX)

    def _observe(self, x: Tensor) -> None:
        low, high = extremes(*torch.aminmax(x.float()))
        low = low.float().clamp(min=self.floor, max=0.0)
        high = high.float().clamp(min=self.reach)
        # The first batches count fully, then a moving average.
        momentum = max(MOMENTUM, 1.0 / (int(self.seen) + 1))
        self.low.lerp_(low, momentum)
        self.high.lerp_(high, momentum)
        self.seen += 1


class BiasQuant(nn.Module):
    """Rounds a bias to multiples of s_in * s_w, as int32 hardware holds it.

    Where a depthwise layer's weights are large such a step is a tenth of an output step: worth training with.
    """

    def __init__(self, entering: ActivationQuant, weight_quant: WeightQuant) -> None:
        """entering: the quantizer of the convolution's input."""
        super().__init__()
        # In lists: they belong to others and are no submodules of this one.
        self._entering, self._weight_quant = [entering], [weight_quant]

    def forward(self, bias: Tensor, weight: Tensor) -> Tensor:
        """(C_out,) -> (C_out,), straight-through gradient."""
        step = self._entering[0].scale_zero_point()[0].detach() * self._weight_quant[0].scale(weight)
        return bias + ((bias / step).round() * step - bias).detach()


def prepare_qat(model: CenterNet, symmetric: bool = False) -> None:
    """Fold BatchNorm and fill every quantizer slot, in place. Ranges start unmeasured: observe, then train.

    symmetric: activations with zero point 0 throughout (checkpoint stage "qat_symmetric").
    """
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
    _wire(model)


def _wire(model: CenterNet) -> None:
    """Tie the quantizers around every addition, and tell every convolution the scale of its input."""
    image = ActivationQuant()
    low, high = scheme.limits(Quant(IMAGE_QUANT.scale, 0))  # int8 stores pixel - GREY
    image.low, image.high = torch.tensor(low), torch.tensor(high)
    colours = image if isinstance(model.recolor, nn.Identity) else _wire_chain([model.recolor], image)
    maps = _wire_backbone(model.backbone, colours)
    last = _wire_neck(model.neck, maps)
    for mixing, heads in model.branches():
        mixed = _wire_chain(mixing, last)
        for head in heads:
            _wire_chain([head], mixed)


def _wire_backbone(backbone: Backbone, last: ActivationQuant) -> list[ActivationQuant]:
    """The quantizers of the maps at strides 32, 16, 8 and 4 of a backbone whose input is behind `last`."""
    outputs: list[ActivationQuant] = []  # behind each layer
    for layer in backbone.layers:
        for block in layer if isinstance(layer, nn.Sequential) else (layer,):
            last = _wire_block(block, last)
        outputs.append(last)
    return [outputs[backbone.last[stride]] for stride in (32, 16, 8, 4)]


def _wire_neck(neck: Neck | DeconvNeck, maps: list[ActivationQuant]) -> ActivationQuant:
    """The neck behind the backbone's maps (strides 32, 16, 8, 4); returns the quantizer of its output."""
    if isinstance(neck, DeconvNeck):
        return _wire_chain(neck.units, maps[0])  # interleaving keeps values and scale
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
    assert isinstance(block, nn.MaxPool2d), block  # keeps values and scale
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
    """Make one group of these quantizers' groups; returns the last of them."""
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
    """Replace every weight by what it is rounded to and keep the scales, when training is over.

    Pretrained weights that were quantized before often lie exactly between two steps, and every engine breaks
    such ties in its own way: one weight off is a whole channel off. After this there are no ties left.
    """
    for module in model.modules():
        if isinstance(module, ConvUnit):
            assert isinstance(module.weight_quant, WeightQuant)
            module.weight_quant.settle(module.conv.weight)
            module.conv.weight.copy_(module.weight_quant(module.conv.weight))


@torch.no_grad()
def bake(model: nn.Module) -> None:
    """Turn everything that is computed from weights and ranges into constants, for tracing: the end of training."""
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
    """Give every quantizer what post-training quantization found for it, and the layers its weights and biases.

    model: behind `prepare_qat`; quantized: of `calibration.quantize` from the same network. fixed: weight
      scales stay;
    otherwise they follow the weights and the ranges, as they must while ranges are still observed.
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
    """Name of a traced ONNX node -> of the module it was traced in.

    '/neck/mix.0/mix.0.1/Conv' -> 'neck.mix.0.1': tracing repeats the name of a container that was itself
    called.
    """
    scopes = node.strip("/").split("/")[:-1]
    kept = [a for a, b in zip(scopes, [*scopes[1:], ""], strict=True) if not b.startswith(f"{a}.")]
    return ".".join(kept)


def set_observing(model: nn.Module, observing: bool) -> None:
    """Measure activation ranges on every forward pass, or leave them."""
    for module in model.modules():
        if isinstance(module, ActivationQuant):
            module.observing = observing


def freeze_ranges(model: nn.Module) -> None:
    """Ranges stand still for the rest of training, so that weights settle on a fixed grid."""
    set_observing(model, False)

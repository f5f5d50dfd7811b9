"""Checkpoints of the original CenterNet code (github.com/xingyizhou/CenterNet).

The paper is Zhou et al., arXiv 1904.07850. Checkpoints of the task `ctdet` with the architecture `res_18` are
taken: a plain ResNet-18, three transposed convolutions, heads hm, wh and reg. Names and shapes follow
src/lib/models/networks/msra_resnet.py of that repository at commit f16ef63. Everything with deformable
convolutions and every other task or depth is refused with the reason.

Its heads mean what ours mean: hm logits, wh width and height in cells, reg the centre's x and y inside its
cell. Its input is BGR, (pixel / 255 - mean) / std, and every convolution pads that with zeros. `recolor`, a
1x1 convolution in front, computes it from our RGB (pixel - 128) / 128. It is not folded into the first 7x7
convolution, so that the border is padded with the same zeros as in training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.manifest import ModelSpec
from edge_centernet.network.backbones import BasicBlock, read_state
from edge_centernet.network.centernet import Architecture, CenterNet, DeconvNeck
from edge_centernet.network.layers import ConvUnit, as_convolution
from edge_centernet.preprocess import gain_and_shift

Triple = tuple[float, float, float]

_NECK = (256, 256, 256)  # channels at strides 16, 8 and 4, the same in every res_18

# The first pattern that some parameter's name matches says why a checkpoint cannot be taken.
_REFUSED = (
    (
        r"conv_offset",
        "it has deformable convolutions (DCN, as in resdcn_18 and dla_34), which neither quantize nor run in "
        "TFLite; take a plain res_18 checkpoint, or train a network with edge-centernet",
    ),
    (r"^(base\.base_layer|dla_up\.|ida_up\.)", "it is a DLA network (dlav0_34); only res_18 is supported"),
    (r"^(pre\.|kps\.|cnvs\.|inters\.)", "it is an hourglass network; only res_18 is supported"),
    (
        r"^(hps|hm_hp|hp_offset)\.",
        "it estimates poses (task multi_pose, head hps); only the task ctdet is supported",
    ),
    (
        r"^(dep|rot|dim)\.",
        "it estimates 3D boxes (task ddd, heads dep, rot, dim); only the task ctdet is supported",
    ),
    (r"^hm_[tlbrc]\.", "it finds extreme points (task exdet); only the task ctdet is supported"),
    (r"^layer\d\.\d\.conv3\.", "its ResNet has 50 or more layers; only res_18 is supported"),
    (r"^layer1\.2\.", "its ResNet has 34 layers; only res_18 is supported"),
    (
        r"^(hm|wh|reg)\.weight$",
        "its heads are single convolutions (--head_conv 0), which are not supported",
    ),
)


@torch.no_grad()
def load_original(
    path: Path, name: str, classes: Sequence[str], size: int, mean: Triple, std: Triple
) -> CenterNet:
    """The checkpoint as a network of ours, in evaluation mode.

    Args:
        path: a file that torch.save wrote.
        name: the model's name in its manifest.
        classes: names in the order of training.
        size: input side in pixels, a multiple of 32.
        mean: of pixel / 255 in training: blue, green, red.
        std: likewise.

    Raises ArtifactError when the file is no such checkpoint or has other heads, ConfigError when the number
    of classes does not fit it.
    """
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ConfigError(f"mean, std: expected three numbers each, std > 0, got {mean}, {std}")
    state = {key: value for key, value in read_state(path).items() if not key.endswith("num_batches_tracked")}
    mid = _check(state, len(classes), path)
    spec = ModelSpec(name, "1", size, size, tuple(classes), pad_value=0)  # it pads with black
    model = CenterNet(spec, Architecture("resnet18", 1.0, _NECK, mid, kind="original"))
    loader = _Loader(state, path)
    for unit, conv, batchnorm in _units(model):
        loader.load(unit, conv, batchnorm)
    loader.finish()

    # x, our RGB (pixel - 128) / 128 -> BGR (pixel / 255 - mean) / std. Each output reads one input only, so
    # that its weight is exact in int8.
    recolor = model.recolor
    assert isinstance(recolor, ConvUnit) and recolor.conv.bias is not None
    recolor.conv.weight.zero_()
    for blue_first in range(3):
        gain, shift = gain_and_shift(mean[blue_first], std[blue_first])
        recolor.conv.weight[blue_first, 2 - blue_first] = gain
        recolor.conv.bias[blue_first] = shift
    return model.eval()


def _check(state: dict[str, Tensor], classes: int, path: Path) -> int:
    """Refuse checkpoints that are known but cannot be taken; returns the channels inside the heads."""
    for pattern, reason in _REFUSED:
        if any(re.search(pattern, key) for key in state):
            raise ArtifactError(f"{path}: cannot be imported: {reason}")
    absent = [head for head in ("hm", "wh", "reg") if f"{head}.2.weight" not in state]
    if len(absent) == 3:
        raise ArtifactError(
            f"{path}: expected a CenterNet checkpoint with heads hm, wh and reg, got {next(iter(state))!r} "
            "and others without them; weights of a backbone alone go to 'edge-centernet train --weights'"
        )
    if absent:
        raise ArtifactError(
            f"{path}: cannot be imported: expected heads hm, wh and reg, found no {', '.join(absent)}"
        )
    found = len(state["hm.2.weight"])
    if (boxes := len(state["wh.2.weight"])) != 2:
        raise ArtifactError(
            f"{path}: cannot be imported: expected wh with 2 channels, got {boxes}: a size for each class "
            "(--cat_spec_wh) is not supported"
        )
    if found != classes:
        raise ConfigError(f"--classes: expected {found} names, as many as {path.name} has, got {classes}")
    return len(state["hm.0.weight"]) if "hm.0.weight" in state else 64


def _units(model: CenterNet) -> Iterator[tuple[ConvUnit, str, str]]:
    """(unit of ours, name of its convolution there, name of its BatchNorm or "")."""
    stem, _, *stages = model.backbone.layers
    assert isinstance(stem, ConvUnit)
    yield stem, "conv1", "bn1"
    for i, stage in enumerate(stages, 1):
        for j, block in enumerate(stage.children()):
            assert isinstance(block, BasicBlock)
            prefix = f"layer{i}.{j}"
            yield block.unit1, f"{prefix}.conv1", f"{prefix}.bn1"
            yield block.unit2, f"{prefix}.conv2", f"{prefix}.bn2"
            if block.shortcut is not None:
                yield block.shortcut, f"{prefix}.downsample.0", f"{prefix}.downsample.1"
    assert isinstance(model.neck, DeconvNeck)
    for i, unit in enumerate(model.neck.units):
        assert isinstance(unit, ConvUnit)
        yield unit, f"deconv_layers.{3 * i}", f"deconv_layers.{3 * i + 1}"  # each followed by a ReLU
    for role, (mix, heads) in zip(("hm", "wh", "reg"), model.branches(), strict=True):
        assert isinstance(mix[0], ConvUnit)
        yield mix[0], f"{role}.0", ""
        yield heads[0], f"{role}.2", ""


class _Loader:
    """Takes parameters out of a state dict one by one; none may be missing, left over or of another shape."""

    def __init__(self, state: dict[str, Tensor], path: Path) -> None:
        self.state, self.path = dict(state), path

    @torch.no_grad()
    def load(self, unit: ConvUnit, conv: str, batchnorm: str) -> None:
        """Fill one unit; the names are those of `_units`."""
        out, into, *kernel = unit.conv.weight.shape
        parities = 4 if conv.startswith("deconv_layers.") else 1
        if parities == 4:
            unit.conv.weight.copy_(as_convolution(self.take(f"{conv}.weight", (into, out // 4, 4, 4))))
        else:
            unit.conv.weight.copy_(self.take(f"{conv}.weight", (out, into, *kernel)))
        if unit.bn is None:
            assert unit.conv.bias is not None
            unit.conv.bias.copy_(self.take(f"{conv}.bias", (out,)))
            return
        for part, target in unit.bn.state_dict().items():
            if part != "num_batches_tracked":  # every parity has the statistics of its channel
                target.copy_(self.take(f"{batchnorm}.{part}", (out // parities,)).repeat(parities))

    def take(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """One parameter as float32, checked."""
        value = self.state.pop(key, None)
        if value is None:
            raise ArtifactError(f"{self.path}: expected a res_18 checkpoint of ctdet, found no {key!r} in it")
        if tuple(value.shape) != shape:
            raise ArtifactError(
                f"{self.path}: {key}: expected shape {shape} as in res_18, got {tuple(value.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ArtifactError(f"{self.path}: {key}: expected finite numbers, got NaN or infinity")
        return value.float()

    def finish(self) -> None:
        """Refuse parameters that no layer has taken: the network would not be the one that was trained."""
        if self.state:
            raise ArtifactError(
                f"{self.path}: expected a res_18 checkpoint of ctdet, got parameters that it does not have: "
                f"{', '.join(list(self.state)[:3])}"
            )

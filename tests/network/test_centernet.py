"""The network and its building blocks: shapes, normalisation, folding, TensorFlow's padding."""

from __future__ import annotations

from typing import Literal

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ConfigError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.layers import ConvUnit, as_convolution, fold_batchnorm, interleave  # noqa: E402


def _network(backbone: str = "mobilenet_v2", width: float = 0.25, side: int = 64) -> CenterNet:
    torch.manual_seed(0)
    spec = ModelSpec("tiny", "1", side, side, ("circle", "square", "star"))
    return CenterNet(spec, Architecture(backbone, width, (16, 16, 16), 16)).eval()


@pytest.mark.parametrize(
    ("backbone", "width"), [("mobilenet_v2", 0.25), ("mobilenet_v2", 1.0), ("resnet18", 1.0)]
)
def test_heads_have_a_quarter_of_the_input_side(backbone: str, width: float) -> None:
    """A 64x96 image gives 16x24 maps with C, 2 and 2 channels."""
    heat, size, offset = _network(backbone, width)(torch.zeros(2, 3, 64, 96))

    assert [tuple(t.shape) for t in (heat, size, offset)] == [(2, 3, 16, 24), (2, 2, 16, 24), (2, 2, 16, 24)]


def test_without_the_last_neck_level_heads_stand_at_stride_eight() -> None:
    """Two neck widths: a 64x96 image gives 8x12 maps, and a spec of another stride is refused."""
    arch = Architecture("mobilenet_v2", 0.25, (16, 24), 16)
    heat, size, offset = CenterNet(ModelSpec("tiny", "1", 64, 96, ("circle",), stride=8), arch)(
        torch.zeros(2, 3, 64, 96)
    )

    assert [tuple(t.shape) for t in (heat, size, offset)] == [(2, 1, 8, 12), (2, 2, 8, 12), (2, 2, 8, 12)]
    with pytest.raises(ConfigError, match="expected stride 8 and logits, got 4"):
        CenterNet(ModelSpec("tiny", "1", 64, 96, ("circle",)), arch)


@pytest.mark.parametrize("neck", [(16, 24), (16, 24, 32)])
def test_the_neck_uses_the_map_at_every_stride_down_to_its_own(neck: tuple[int, ...]) -> None:
    """Another map at any of them changes what the neck puts out; at stride 4 of a neck of two it does not."""
    torch.manual_seed(0)
    arch = Architecture("mobilenet_v2", 0.25, neck, 16)
    model = CenterNet(ModelSpec("one", "1", 64, 64, ("circle",), stride=arch.stride), arch).eval()
    maps = [torch.randn(1, model.backbone.channels[s], 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    whole = model.neck(maps)

    changed = [not torch.equal(model.neck([*maps[:i], -maps[i], *maps[i + 1 :]]), whole) for i in range(4)]
    assert changed == [len(neck) == 3, True, True, True]


def test_a_network_of_two_backbones_is_refused() -> None:
    """Version 0.1 built such; its files say so, those of one backbone say 0."""
    one = Architecture("mobilenet_v2", 0.25, (16, 24), 16)

    assert Architecture.from_dict({**one.to_dict(), "tower": 0.0}) == one
    with pytest.raises(ConfigError, match="has a second backbone, which this version no longer builds"):
        Architecture.from_dict({**one.to_dict(), "tower": 0.5})


@pytest.mark.parametrize(
    ("kind", "neck"), [("fpn", (16,)), ("fpn", (16, 16, 16, 16)), ("original", (16, 16))]
)
def test_a_neck_of_another_depth_is_refused(kind: Literal["fpn", "original"], neck: tuple[int, ...]) -> None:
    """One line names what a neck may be."""
    with pytest.raises(ConfigError, match="neck: expected channels at strides 16, 8 and 4, got"):
        CenterNet(ModelSpec("tiny", "1", 64, 64, ("circle",)), Architecture("resnet18", neck=neck, kind=kind))


def test_normalisation_is_part_of_the_network() -> None:
    """Pixels 0, 128 and 255 become -1, 0 and 127/128."""
    pixels = torch.tensor([0.0, 128.0, 255.0]).reshape(1, 1, 1, 3).expand(1, 3, 1, 3)

    assert _network().normalize(pixels)[0, 0, 0].tolist() == [-1.0, 0.0, 127 / 128]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
def test_folding_batchnorm_changes_nothing(backbone: str) -> None:
    """With random statistics the folded network computes the same heads to float accuracy."""
    model = _network(backbone)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()
    before = model(image)
    fold_batchnorm(model)
    after = model(image)

    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 4)])
def test_it_equals_the_transposed_convolution(height: int, width: int) -> None:
    """4x4, stride 2, padding 1: every output, the border's included, for odd and even sizes."""
    torch.manual_seed(0)
    x, weight = (
        torch.randn(2, 3, height, width, dtype=torch.float64),
        torch.randn(3, 5, 4, 4, dtype=torch.float64),
    )
    expected = torch.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1)
    got = interleave(torch.nn.functional.conv2d(x, as_convolution(weight), padding=1))

    assert got.shape == (2, 5, 2 * height, 2 * width)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_interleaving_has_the_right_gradient() -> None:
    """Written by hand, so checked against finite differences: the network can be trained further."""
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(interleave, (x,))


def test_same_tf_padding_is_tensorflows() -> None:
    """At stride 2 an even input is padded by 0 before and 1 after: the first window starts at pixel 0."""
    unit = ConvUnit(1, 1, 3, 2, act="none", batchnorm=False)
    with torch.no_grad():
        unit.conv.weight.zero_()
        unit.conv.weight[0, 0, 0, 0] = 1  # pick the window's first pixel
        unit.conv.bias.zero_()
    image = torch.arange(16.0).reshape(1, 1, 4, 4)

    assert unit(image).flatten().tolist() == [0.0, 2.0, 8.0, 10.0]

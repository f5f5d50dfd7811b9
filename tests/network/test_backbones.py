"""Pretrained backbones: from torchvision's own files the same maps of our pixels as of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from reference_ctdet import Block  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edge_centernet.errors import ConfigError  # noqa: E402
from edge_centernet.network.backbones import (  # noqa: E402
    MobileNetV2,
    ResNet18,
    _torchvision_order,
    load_pretrained,
)
from edge_centernet.network.layers import ConvUnit  # noqa: E402

WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"

MEAN, STD = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
GREY = (128 / 255 - MEAN) / STD  # what our zero padding is in torchvision's units


class TorchvisionResNet18(nn.Module):
    """Torchvision's resnet18, classifier included, but that its first convolution pads with `border`."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 0, bias=False)  # padded in `stem`
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.fc = nn.Linear(512, 1000)

    def stem(self, x: Tensor, border: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, 64, H/2, W/2); border: (1, 3, 1, 1), zero in torchvision."""
        wide = border.expand(len(x), 3, x.shape[2] + 6, x.shape[3] + 6).clone()
        wide[:, :, 3:-3, 3:-3] = x
        return torch.relu(self.bn1(self.conv1(wide)))

    def maps(self, x: Tensor, border: Tensor) -> list[Tensor]:
        """Strides 4, 8, 16, 32."""
        x = nn.functional.max_pool2d(self.stem(x, border), 3, 2, 1)
        out = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            out.append(x)
        return out


def _unit(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6())


class _Inverted(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        layers: list[nn.Module] = [_unit(c_in, hidden, 1)] if expand != 1 else []
        layers += [_unit(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, c_out, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(c_out))
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class TorchvisionMobileNetV2(nn.Module):
    """Torchvision's mobilenet_v2 with its symmetric padding (models/mobilenetv2.py at commit 0256d65)."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
        channels = 32
        table = (
            *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
            *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
        )
        for expand, c, n, s in table:
            for i in range(n):
                layers.append(_Inverted(channels, c, s if i == 0 else 1, expand))
                channels = c
        self.features = nn.Sequential(*layers, _unit(320, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Strides 4, 8, 16, 32; behind features 3, 6, 13 and 17."""
        out = []
        for i, layer in enumerate(self.features[:18]):
            x = layer(x)
            if i in (3, 6, 13, 17):
                out.append(x)
        return out


def _with_statistics(net: Any) -> Any:
    """BatchNorm statistics as after training on colour patches, and random gains."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    patches = nn.functional.interpolate(torch.randn(4, 3, 16, 16) * 1.2, scale_factor=8)
    with torch.no_grad():
        if isinstance(net, TorchvisionResNet18):
            net.train().maps(patches, torch.zeros(1, 3, 1, 1))
        else:
            net.train().maps(patches)
    return net.eval()


def _image(height: int, width: int) -> Tensor:
    """(1, 3, H, W) pixels 0..255: colour patches of 8 pixels."""
    patches = torch.randint(0, 256, (1, 3, height // 8, width // 8)).float()
    return nn.functional.interpolate(patches, scale_factor=8)


def _theirs(pixels: Tensor) -> Tensor:
    return (pixels / 255 - MEAN) / STD


def _ours(pixels: Tensor) -> Tensor:
    return (pixels - 128) / 128


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[TorchvisionResNet18, ResNet18]:
    """(torchvision's, ours with its .pth loaded)."""
    torch.manual_seed(0)
    theirs, ours = _with_statistics(TorchvisionResNet18()), ResNet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    load_pretrained(ours, tmp_path / "resnet18.pth")
    return theirs, ours


def test_resnet18_computes_torchvisions_maps(resnet: tuple[TorchvisionResNet18, ResNet18]) -> None:
    """All four, to float accuracy, where both pad with the same grey 128: scale and shift are folded in."""
    theirs, ours = resnet
    pixels = _image(96, 128)
    with torch.no_grad():
        for got, expected in zip(ours(_ours(pixels)), theirs.maps(_theirs(pixels), GREY), strict=True):
            assert expected.std() > 0.1
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_only_the_border_of_resnets_first_layer_differs(resnet: tuple[TorchvisionResNet18, ResNet18]) -> None:
    """Torchvision pads with the mean colour: two rows and columns at the start see it, one at the end."""
    theirs, ours = resnet
    pixels = _image(96, 128)
    with torch.no_grad():
        got, expected = ours.layers[0](_ours(pixels)), theirs.stem(_theirs(pixels), torch.zeros(1, 3, 1, 1))
    different = (got - expected).abs().amax(dim=(0, 1)) > 1e-4  # (H/2, W/2)

    assert not different[2:-1, 2:-1].any()
    assert different[0].any()
    assert different[:, -1].any()


def _mobilenets(tmp_path: Path, padding: Any) -> tuple[TorchvisionMobileNetV2, MobileNetV2]:
    torch.manual_seed(0)
    theirs, ours = _with_statistics(TorchvisionMobileNetV2()), MobileNetV2(1.0, padding=padding).eval()
    torch.save(theirs.state_dict(), tmp_path / "mobilenet_v2.pth")
    load_pretrained(ours, tmp_path / "mobilenet_v2.pth")
    return theirs, ours


def _inside(x: Tensor, margin: int) -> Tensor:
    return x[:, :, margin:-margin, margin:-margin]


def test_mobilenet_v2_computes_torchvisions_maps(tmp_path: Path) -> None:
    """With padding=symmetric, away from the border: strides 4 and 8, whose cells see up to 40 pixels."""
    theirs, ours = _mobilenets(tmp_path, "symmetric")
    pixels = _image(160, 192)
    with torch.no_grad():
        pairs = zip(ours(_ours(pixels))[:2], theirs.maps(_theirs(pixels))[:2], (10, 5), strict=True)
    for got, expected, margin in pairs:
        assert expected.std() > 0.1
        torch.testing.assert_close(_inside(got, margin), _inside(expected, margin), rtol=1e-4, atol=1e-4)


def test_same_padding_shifts_torchvisions_maps(tmp_path: Path) -> None:
    """With the default padding the same values are further up and left, by 3 pixels at stride 4, 7 at 8."""
    theirs, ours = _mobilenets(tmp_path, "same_tf")
    pixels = _image(160, 192)
    with torch.no_grad():
        for index, stride in enumerate((4, 8)):
            got = ours(_ours(pixels))[index]
            # What was at stride - 1 is at 0.
            shifted = torch.roll(pixels, (1 - stride, 1 - stride), (2, 3))
            expected = theirs.maps(_theirs(shifted))[index]
            margin = 48 // stride
            torch.testing.assert_close(_inside(got, margin), _inside(expected, margin), rtol=1e-4, atol=1e-4)


def test_the_shift_survives_training_statistics(resnet: tuple[TorchvisionResNet18, ResNet18]) -> None:
    """In training mode, where BatchNorm measures its own mean, the stem answers the same too."""
    theirs, ours = resnet
    pixels = _image(96, 128)
    with torch.no_grad():
        got = ours.train().layers[0](_ours(pixels))
        expected = theirs.train().stem(_theirs(pixels), GREY)

    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_safetensors_are_for_our_own_input(tmp_path: Path) -> None:
    """As before: loaded as they are."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    theirs = _with_statistics(TorchvisionResNet18())
    save_file(theirs.state_dict(), str(tmp_path / "resnet18.safetensors"))
    ours = ResNet18()
    load_pretrained(ours, tmp_path / "resnet18.safetensors")

    assert torch.equal(ours.layers[0].conv.weight, theirs.conv1.weight)


def test_the_wrong_backbone_is_refused(tmp_path: Path) -> None:
    """ResNet-18's file for a MobileNetV2: it has too few convolutions, and the message counts them."""
    torch.save(TorchvisionResNet18().state_dict(), tmp_path / "resnet18.pth")

    with pytest.raises(ConfigError, match="expected at least 51 convolutions, got 20"):
        load_pretrained(MobileNetV2(1.0), tmp_path / "resnet18.pth")


@pytest.mark.parametrize(("name", "width"), [("mobilenet_v2_1.0_coco", 1.0), ("mobilenet_v2_0.5_coco", 0.5)])
def test_both_pretrained_backbones_load(name: str, width: float) -> None:
    """Every convolution of the backbone finds its weights; the last one is checked by value."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    from safetensors.torch import load_file

    backbone = MobileNetV2(width)
    load_pretrained(backbone, path)
    last = [m for m in backbone.modules() if isinstance(m, ConvUnit)][-1].conv.weight
    state = load_file(str(path))

    assert any(v.shape == last.shape and torch.equal(v, last) for v in state.values())


def test_a_torchvision_resnet18_loads_by_name() -> None:
    """Torchvision's key order puts "downsample" after the convolutions of its block."""
    keys = [
        "layer2.0.conv1.weight",
        "layer2.0.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.1.conv1.weight",
    ]

    assert sorted([*reversed(keys), "conv1.weight"], key=_torchvision_order) == ["conv1.weight", *keys]
    assert [m.conv.kernel_size for m in ResNet18().modules() if isinstance(m, ConvUnit)][:2] == [
        (7, 7),
        (3, 3),
    ]


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    """The message names the first convolution that does not fit, and both shapes."""
    from safetensors.torch import save_file

    state = {"features.0.0.weight": torch.zeros(32, 3, 3, 3)}
    for i in range(60):
        state[f"features.{i + 1}.0.weight"] = torch.zeros(8, 8, 1, 1)
    save_file(state, str(tmp_path / "other.safetensors"))

    with pytest.raises(
        ConfigError, match=r"features.0.0.weight: expected shape \(8, 3, 3, 3\), got \(32, 3, 3, 3\)"
    ):
        load_pretrained(MobileNetV2(0.25), tmp_path / "other.safetensors")

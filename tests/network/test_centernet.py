"""The network: shapes, normalisation, folding, pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ArtifactError, ConfigError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.backbones import MobileNetV2, ResNet18, load_pretrained  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from edge_centernet.network.layers import ConvUnit, fold_batchnorm  # noqa: E402

WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"


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


def test_same_tf_padding_is_tensorflows() -> None:
    """At stride 2 an even input is padded by 0 before and 1 after: the first window starts at pixel 0."""
    unit = ConvUnit(1, 1, 3, 2, act="none", batchnorm=False)
    with torch.no_grad():
        unit.conv.weight.zero_()
        unit.conv.weight[0, 0, 0, 0] = 1  # pick the window's first pixel
        unit.conv.bias.zero_()
    image = torch.arange(16.0).reshape(1, 1, 4, 4)

    assert unit(image).flatten().tolist() == [0.0, 2.0, 8.0, 10.0]


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
    from edge_centernet.network.backbones import _torchvision_order

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


def test_a_checkpoint_brings_back_the_same_network(tmp_path: Path) -> None:
    """Spec, architecture and outputs survive the file."""
    model = _network()
    save_checkpoint(tmp_path / "a.safetensors", model, "float")
    again, stage = load_checkpoint(tmp_path / "a.safetensors")
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()

    assert (stage, again.spec, again.arch) == ("float", model.spec, model.arch)
    for a, b in zip(model(image), again(image), strict=True):
        assert torch.equal(a, b)


def test_half_a_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    """A truncated file raises ArtifactError, not a traceback from the reader."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, _network(), "float")
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(ArtifactError, match="expected a checkpoint written by edge-centernet train"):
        load_checkpoint(path)

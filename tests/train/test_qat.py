"""What quantization-aware training starts from: the post-training quantized network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet import qdq  # noqa: E402
from edge_centernet.calibration.quantize import Options, quantize  # noqa: E402
from edge_centernet.heads import real_values  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network import fake_quant  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.qdq.onnx_graph import HEADS  # noqa: E402
from edge_centernet.qdq.reference import Reference  # noqa: E402
from edge_centernet.train.export import float_onnx  # noqa: E402
from edge_centernet.train.qat import relative_step  # noqa: E402


@pytest.fixture
def network() -> CenterNet:
    """A small float network with random BatchNorm statistics."""
    torch.manual_seed(0)
    model = CenterNet(
        ModelSpec("t", "1", 64, 64, ("a", "b")), Architecture("mobilenet_v2", 0.25, (16, 16, 16), 16)
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.0)
    return model.eval()


@pytest.fixture
def pictures() -> list[NDArray[np.uint8]]:
    """Eight pictures of blocks of colour, (64, 64, 3) BGR."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    return list(blocks.repeat(16, axis=1).repeat(16, axis=2))


def started(network: CenterNet, ptq: qdq.Network, fixed: bool = True) -> CenterNet:
    """A copy of the network that begins quantization-aware training where `ptq` stands."""
    model = copy.deepcopy(network)
    fake_quant.prepare_qat(model, symmetric=ptq.heads["heat"].quant.zero_point == 0)
    fake_quant.start_from(model, ptq, fixed)
    return model.eval()


def quantized(network: CenterNet, pictures: list[NDArray[np.uint8]], symmetric: bool = False) -> qdq.Network:
    """As `convert --calibration` would."""
    model = float_onnx(copy.deepcopy(network))
    read = [lambda picture=picture: picture for picture in pictures]
    return qdq.parse(quantize(model, network.spec, read, Options(symmetric=symmetric))[0])


@pytest.mark.parametrize("symmetric", [False, True])
def test_training_starts_where_post_training_quantization_ended(
    network: CenterNet, pictures: list[NDArray[np.uint8]], symmetric: bool
) -> None:
    """The first forward pass answers what ONNX Runtime answers for the converted network, to the step."""
    ptq = quantized(network, pictures, symmetric)
    model = started(network, ptq)
    with torch.no_grad():
        heads = model(torch.from_numpy(pictures[0][:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)))
    answer = Reference(ptq, "int8", pictures[:1]).answers[0]

    for role, head in zip(HEADS, heads, strict=True):
        steps = head.numpy() / ptq.heads[role].quant.scale
        theirs = real_values(getattr(answer, role), getattr(ptq.manifest, role)) / ptq.heads[role].quant.scale
        assert np.abs(steps - theirs).max() < 0.01, role


def test_weights_stay_on_the_grid_they_were_rounded_to(
    network: CenterNet, pictures: list[NDArray[np.uint8]]
) -> None:
    """A weight that training moves beyond 63 steps is clipped to them: the scale does not follow it."""
    ptq = quantized(network, pictures)
    unit = started(network, ptq).neck.top
    scale = unit.weight_quant.scale(unit.conv.weight)
    with torch.no_grad():
        unit.conv.weight[0, 0] = 100 * scale[0]
        clipped = unit.weight_quant(unit.conv.weight)[0, 0]

    assert float(clipped / scale[0]) == pytest.approx(63)
    assert torch.equal(scale, unit.weight_quant.scale(unit.conv.weight))


def test_scales_follow_the_weights_while_ranges_are_observed(
    network: CenterNet, pictures: list[NDArray[np.uint8]]
) -> None:
    """Not fixed: a weight twice the largest doubles its channel's scale, to the 2.1 % of exact fractions."""
    unit = started(network, quantized(network, pictures), fixed=False).neck.top
    before = unit.weight_quant.scale(unit.conv.weight)[0]
    with torch.no_grad():
        unit.conv.weight[0, 0] = 2 * unit.conv.weight[0].abs().max()

    assert float(unit.weight_quant.scale(unit.conv.weight)[0] / before) == pytest.approx(2, rel=0.021)


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/backbone/layers.0/Conv", "backbone.layers.0"),
        ("/backbone/layers.1/units/units.0/Conv", "backbone.layers.1.units.0"),
        ("/neck/mix.0/mix.0.1/Conv", "neck.mix.0.1"),
        ("/neck/add.1/Add", "neck.add.1"),
        ("/heat/Conv", "heat"),
    ],
)
def test_nodes_carry_the_names_of_their_modules(node: str, module: str) -> None:
    """Tracing repeats the name of a container that was itself called."""
    assert fake_quant.module_name(node) == module


def test_a_step_is_as_large_as_its_channel(network: CenterNet) -> None:
    """Adam moves every weight alike; here a channel of a thousandth of the size moves a thousandth as far."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.001]).reshape(2, 1, 1, 1))
    bias = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight, bias], lr=0.01, weight_decay=0.0)
    (weight.sum() + bias.sum()).backward()
    relative_step(optimizer)

    assert weight.flatten().tolist() == pytest.approx([0.99, 0.00099], rel=1e-4)
    assert bias.tolist() == pytest.approx([-0.01, -0.01], rel=1e-4)

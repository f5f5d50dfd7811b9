"""What quantization-aware training starts from: measured ranges and corrected biases."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.model.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.train import qat  # noqa: E402


@pytest.fixture
def network() -> CenterNet:
    """A small float network with random BatchNorm statistics."""
    torch.manual_seed(0)
    model = CenterNet(ModelSpec("t", "1", 64, 64, ("a", "b")), Architecture("mobilenet_v2", 0.25, (16, 16, 16), 16))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.0)
    return model.eval()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    """Two batches of blocks of colour, (4, 3, 64, 64) uint8."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), np.uint8)
    return list(torch.from_numpy(blocks.repeat(16, axis=2).repeat(16, axis=3)).split(4))  # type: ignore[no-untyped-call]


def test_every_quantizer_gets_the_range_of_its_slot(network: CenterNet, batches: list[torch.Tensor]) -> None:
    """Within the extremes of what passes there; the heat head reaches at least from -8 to 3."""
    ranges = qat.measure_ranges(network, batches)
    quantized = copy.deepcopy(network)
    qat.prepare_qat(quantized)
    qat.set_ranges(quantized, ranges)
    quantizers = {n: m for n, m in quantized.named_modules() if isinstance(m, qat.ActivationQuant)}
    with torch.no_grad():
        heat = network(torch.cat(batches).float())[0]

    assert set(quantizers) == set(ranges)
    assert float(quantized.heat.out_quant.high) >= 3.0
    assert float(heat.min()) - 1e-3 <= ranges["heat.out_quant"][0] <= 0.0


def test_corrected_biases_bring_the_heads_back_to_their_mean(
    network: CenterNet, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of 4 bits, the first layer's channels are off by rounding alone; corrected, by a tenth of that."""
    monkeypatch.setattr(qat, "DENSE_MAX", 7)
    ranges, means = qat.measure_ranges(network, batches), qat.measure_means(network, batches)
    image = network.normalize(torch.cat(batches).float())
    wanted = copy.deepcopy(network)
    qat.fold_batchnorm(wanted)
    quantized = copy.deepcopy(network)
    qat.prepare_qat(quantized)
    qat.set_ranges(quantized, ranges)

    def first(model: CenterNet) -> torch.Tensor:
        unit = model.backbone.layers[0]
        weight = unit.conv.weight if model is wanted else unit.weight_quant(unit.conv.weight)
        return torch.nn.functional.conv2d(image, weight, unit.conv.bias, 2).mean(dim=(0, 2, 3))

    with torch.no_grad():
        before = (first(quantized) - first(wanted)).abs().max()
        qat.correct_biases(quantized, means)
        after = (first(quantized) - first(wanted)).abs().max()

    assert float(after) < 0.1 * float(before)


def test_a_step_is_as_large_as_its_channel(network: CenterNet) -> None:
    """Adam moves every weight alike; in this stage a channel of a thousandth of the size moves a thousandth as far."""
    from edge_centernet.train.loop import relative_step

    weight = torch.nn.Parameter(torch.tensor([1.0, 0.001]).reshape(2, 1, 1, 1))
    bias = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight, bias], lr=0.01, weight_decay=0.0)
    (weight.sum() + bias.sum()).backward()
    relative_step(optimizer)

    assert weight.flatten().tolist() == pytest.approx([0.99, 0.00099], rel=1e-4)
    assert bias.tolist() == pytest.approx([-0.01, -0.01], rel=1e-4)

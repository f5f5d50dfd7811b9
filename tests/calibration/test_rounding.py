"""Weights rounded together lose less than weights rounded one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import qdq_factory

from edge_centernet import qdq
from edge_centernet.calibration.observe import Probe
from edge_centernet.calibration.rounding import rounded, second_moments
from edge_centernet.manifest import Quant
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.float_onnx import without_normalisation

LIMIT = 7


def _conv(weight: Any, groups: int = 1) -> qdq.Conv:
    """A convolution over 8x8 cells with this weight."""
    channels = weight.shape[1] if groups == 1 else groups
    x, y = (
        qdq.Tensor("x", (channels, 8, 8), Quant(1.0, 0)),
        qdq.Tensor("y", (len(weight), 8, 8), Quant(1.0, 0)),
    )
    pads = (weight.shape[2] // 2,) * 4
    ones, zeros = np.ones(len(weight), np.float32), np.zeros(len(weight), np.float32)
    return qdq.Conv("c", x, y, weight, ones, zeros, (1, 1), pads, groups, "linear")


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """(32, 4000) strongly correlated, as behind a ReLU: a few causes seen by many channels."""
    rng = np.random.default_rng(0)
    return np.maximum(
        rng.normal(0, 1, (32, 6)) @ rng.normal(0, 1, (6, 4000)) + 0.3 * rng.normal(0, 1, (32, 4000)), 0
    )


def test_a_layer_s_result_keeps_more_of_its_signal(inputs: np.ndarray) -> None:
    """4-bit weights, correlated inputs: less than half the squared error of rounding to the nearest step."""
    weight = np.random.default_rng(1).normal(0, 1, (16, 32, 1, 1)).astype(np.float32)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / LIMIT
    nearest = np.rint(weight[..., 0, 0] / scale[:, None]) * scale[:, None]
    together = rounded(_conv(weight), scale, inputs @ inputs.T / inputs.shape[1], LIMIT)[..., 0, 0]
    errors = [(((w - weight[..., 0, 0]) @ inputs) ** 2).mean() for w in (nearest, together)]

    assert errors[1] < 0.5 * errors[0]
    assert np.abs(np.rint(together / scale[:, None])).max() <= LIMIT


def test_independent_inputs_leave_nothing_to_make_up_for() -> None:
    """With E[x x^T] the identity every weight goes to its nearest step."""
    weight = np.random.default_rng(2).normal(0, 1, (4, 9, 1, 1)).astype(np.float32)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / LIMIT
    per_channel = scale.reshape(-1, 1, 1, 1)

    np.testing.assert_allclose(
        rounded(_conv(weight), scale, np.eye(9), LIMIT),
        np.rint(weight / per_channel) * per_channel,
        rtol=1e-6,
    )


def test_depthwise_channels_are_rounded_each_for_itself(inputs: np.ndarray) -> None:
    """Nine taps that see nearly the same: the sum of the weights, which matters most, is kept to a step."""
    weight = np.random.default_rng(3).normal(0, 1, (4, 1, 3, 3)).astype(np.float32)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / LIMIT
    moments = np.tile(np.ones((9, 9)) + 0.01 * np.eye(9), (4, 1, 1))
    made = rounded(_conv(weight, 4), scale, moments, LIMIT)

    assert (np.abs((made - weight).sum(axis=(1, 2, 3))) < 0.6 * scale).all()


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_moments_are_those_of_what_the_kernel_sees(kind: str) -> None:
    """Padding included: the mean squared result equals w E[x x^T] w for its own weights."""
    network = qdq.parse(qdq_factory.build(weight_max=63))
    source, spec = without_normalisation(float_model(network)), network.manifest.model
    picture = qdq_factory.photos(1, 96, 128)[0]
    convolutions = [op for op in network.ops if isinstance(op, qdq.Conv) and op.x is not network.input]
    op = next(op for op in convolutions if (op.groups > 1) == (kind == "depthwise"))
    name = op.x.name.removesuffix("_q")
    probe = Probe(source, [name], spec)
    # The factory marks stored tensors otherwise than calibration does.
    renamed = qdq.Tensor(name, op.x.shape, op.x.quant)
    alone = qdq.Network(None, network.manifest, network.input, (qdq.Conv(**{**vars(op), "x": renamed}),), {})
    moments = second_moments(probe, alone, [lambda: picture], lambda *_: None)[op.name]

    x = probe(picture)[name]
    top, left, bottom, right = op.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right))).astype(np.float64)
    size, (sy, sx) = op.weight.shape[2], op.stride
    height, width = op.y.shape[1:]
    first = np.zeros((height, width))
    channels = range(1) if op.groups > 1 else range(x.shape[0])
    for i, c in enumerate(channels):
        for dy in range(size):
            for dx in range(size):
                part = padded[c, dy : dy + sy * height : sy, dx : dx + sx * width : sx]
                first += op.weight[0, 0 if op.groups > 1 else i, dy, dx] * part
    flat = op.weight[0].ravel().astype(np.float64)
    own = moments[0] if op.groups > 1 else moments

    assert flat @ own @ flat == pytest.approx((first**2).mean(), rel=0.35 if height * width > 1024 else 1e-4)

"""The arithmetic that training and calibration share."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.calibration.scheme import (
    BIAS_LIMIT,
    activation_quants,
    exact_rescale,
    fitting_scales,
    settled_bias,
    stored_activation,
    stored_bias,
    symmetric_quants,
    weight_scales,
)
from edge_centernet.manifest import Quant


def test_training_and_calibration_rescale_alike() -> None:
    """Of 20,000 factors between 1e-5 and 4, each is the same in NumPy and in PyTorch."""
    torch = pytest.importorskip("torch", reason="compares with training's arithmetic")
    from edge_centernet.network.fake_quant import exact_rescale as trained

    wanted = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), np.log(4), 20_000))

    assert np.array_equal(exact_rescale(wanted), trained(torch.from_numpy(wanted)).numpy())


def test_a_rescaling_is_never_below_and_at_most_two_percent_above() -> None:
    """Weights must fit; how much finer they could have been is little."""
    wanted = np.exp(np.random.default_rng(1).uniform(np.log(1e-5), np.log(4), 20_000))
    ratio = exact_rescale(wanted) / wanted

    assert ratio.min() > 1 - 1e-9
    assert ratio.max() < 1.022


def test_the_widest_of_tensors_that_are_added_decides_their_scale() -> None:
    """Ranges (0, 6) and (-1, 1): 6 / 255 for both, zero points -128 and -128 + 255 / 6."""
    one, other = activation_quants([(0.0, 6.0), (-1.0, 1.0)])

    assert one.scale == other.scale == pytest.approx(6 / 255, rel=1e-6)
    assert (one.zero_point, other.zero_point) == (-128, -128 + round(255 / 6))


def test_symmetric_scales_cover_both_signs() -> None:
    """-3 is farther from 0 than 2: 3 / 127, zero point 0."""
    (one,) = activation_quants([(-3.0, 2.0)], symmetric=True)

    assert (one.scale, one.zero_point) == (pytest.approx(3 / 127), 0)


def test_a_dead_channel_keeps_a_scale() -> None:
    """All its weights are 0; its scale is that of 1e-4, not 0."""
    scales = weight_scales(np.zeros((2, 4, 1, 1), np.float32), False, 0.02, 0.02)

    assert scales.min() >= 1e-4 / 63 * 0.999


def test_a_settled_bias_is_a_whole_number_of_steps() -> None:
    """In steps of 0.125: 0.3 is 2.4 of them and becomes 2, -0.7 is -5.6 and becomes -6; halves go to even."""
    bias = np.array([0.3, -0.7, 0.0625, 0.1875, 4.0])

    settled = settled_bias(bias, 0.5, np.full(5, 0.25, np.float32))

    assert settled.dtype == np.float32
    assert settled.tolist() == [0.25, -0.75, 0.0, 0.25, 4.0]


def test_a_settled_bias_is_stored_without_rounding() -> None:
    """Settling it again changes nothing, and the stored integers give the same value back."""
    rng = np.random.default_rng(2)
    scale = np.exp(rng.uniform(np.log(1e-4), np.log(0.1), 1000)).astype(np.float32)
    settled = settled_bias(rng.normal(0, 5, 1000), 0.037, scale)
    stored, step = stored_bias(settled, 0.037, scale)

    assert np.array_equal(settled_bias(settled.astype(np.float64), 0.037, scale), settled)
    assert stored.dtype == np.int32
    np.testing.assert_allclose(stored * step.astype(np.float64), settled, rtol=3e-7)


def test_a_dead_channel_s_bias_fits_int32() -> None:
    """A scale of 1e-12 would make 2.0 some 1e14 steps; the other channel keeps its scale."""
    bias, scale = np.array([2.0, 2.0], np.float32), np.array([1e-12, 1e-3], np.float32)
    fitting = fitting_scales(bias, 0.02, scale)

    assert np.abs(stored_bias(bias, 0.02, fitting)[0]).max() <= BIAS_LIMIT * 1.000001
    assert fitting[1] == scale[1]


def test_wider_symmetric_steps_hold_what_the_old_ones_did() -> None:
    """From zero point -128 it is 255 steps up, which become 127; tensors of one scale keep sharing it."""
    one, other = symmetric_quants([Quant(0.1, -128), Quant(0.1, 5)])

    assert one == other == Quant(float(np.float32(0.1 * 255 / 127)), 0)
    assert symmetric_quants([]) == []


def test_an_activation_is_stored_to_the_nearest_step_within_its_range() -> None:
    """Steps of 0.5 and zero point -100: -14 to 113.5; halves go to the even step counted from 0."""
    values = np.array([0.0, 0.2, 0.25, 0.75, -20.0, 200.0])

    assert stored_activation(values, Quant(0.5, -100)).tolist() == [0.0, 0.0, 0.0, 1.0, -14.0, 113.5]

"""The arithmetic that training and calibration share."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.calibration.scheme import activation_quants, exact_rescale, weight_scales


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

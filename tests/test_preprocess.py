"""Normalisation by numbers that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.preprocess import gain_and_shift, normalize

PIXELS = np.arange(256, dtype=np.float64)


@pytest.mark.parametrize(("pixel", "real"), [(0.0, -1.0), (64.0, -0.5), (128.0, 0.0), (255.0, 127 / 128)])
def test_normalize_maps_grey_to_zero(pixel: float, real: float) -> None:
    """(pixel - 128) / 128: black is -1, grey 0, and white 1/128 less than 1."""
    assert normalize(pixel) == real


def test_normalize_uses_the_mean_and_deviation_of_a_model() -> None:
    """Channel by channel, and in the type of the pixels."""
    rgb = np.array([[[10, 20, 30]]], np.float32)
    mean, std = np.array([10, 10, 10], np.float32), np.array([1, 2, 4], np.float32)
    real = normalize(rgb, mean, std)

    np.testing.assert_array_equal(real, [[[0, 5, 5]]])
    assert real.dtype == np.float32


@pytest.mark.parametrize(("mean", "std"), [(0.485, 0.229), (0.0, 1.0), (0.5, 0.5)])
def test_gain_and_shift_make_the_input_that_other_weights_expect(mean: float, std: float) -> None:
    """Gain * ours + shift is (pixel / 255 - mean) / std for every pixel value."""
    gain, shift = gain_and_shift(mean, std)

    np.testing.assert_allclose(gain * normalize(PIXELS) + shift, (PIXELS / 255 - mean) / std, atol=1e-12)


def test_gain_and_shift_by_channel() -> None:
    """Of arrays come arrays. Mean 128 / 255 and deviation 128 / 255 are our own normalisation."""
    gain, shift = gain_and_shift(np.array([0.0, 128 / 255]), np.array([1.0, 128 / 255]))

    np.testing.assert_allclose(gain, [128 / 255, 1.0])
    np.testing.assert_allclose(shift, [128 / 255, 0.0])

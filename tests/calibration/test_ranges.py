"""Each method draws the line where its definition says."""

from __future__ import annotations

import numpy as np
import pytest

from edge_centernet.calibration.ranges import BINS, METHODS, Seen, choose, squared_error
from edge_centernet.errors import ConfigError


def _seen(*images: np.ndarray) -> Seen:
    """What was seen on these images, with a histogram."""
    seen = Seen()
    for values in images:
        seen.extremes(values)
    for values in images:
        seen.count(values)
    return seen


@pytest.fixture(scope="module")
def outlier() -> Seen:
    """Eight images of normal noise, 400,000 values in all, and one value of 100."""
    rng = np.random.default_rng(0)
    images = [rng.normal(0, 1, 50_000).astype(np.float32) for _ in range(8)]
    images[3][7] = 100.0
    return _seen(*images)


def test_minmax_keeps_everything(outlier: Seen) -> None:
    """The outlier of 100 sets the range."""
    low, high = choose("minmax", outlier)

    assert high == 100.0
    assert -6 < low < -4


def test_average_takes_the_mean_over_groups_of_eight_images() -> None:
    """Nine images with maxima 1 to 9: the mean of 8 (of the first eight) and 9."""
    images = [np.array([-i, i], np.float32) for i in range(1, 10)]

    assert choose("average", _seen(*images)) == (-8.5, 8.5)


def test_percentile_leaves_out_one_value_in_ten_thousand() -> None:
    """Of 0 to 99,999 ten are cut at each end, to within a bin of 49."""
    values = np.arange(100_000, dtype=np.float32)
    low, high = choose("percentile", _seen(values))

    assert low == 0.0, "a range always holds 0"
    assert high == pytest.approx(99_990, abs=100_000 / BINS)


@pytest.mark.parametrize(("method", "highest"), [("mse", 70), ("entropy", 40)])
def test_one_outlier_is_clipped(outlier: Seen, method: str, highest: float) -> None:
    """A value of 100 beside 400,000 of a standard normal distribution costs the others too much."""
    low, high = choose(method, outlier)

    assert high < highest
    assert low < -3


def test_mse_gives_the_smallest_error_of_all_methods(outlier: Seen) -> None:
    """Measured on the histogram by the error that it minimises."""
    errors = {method: squared_error(outlier, *choose(method, outlier)) for method in METHODS}

    assert min(errors, key=lambda method: errors[method]) == "mse"
    assert errors["mse"] < errors["minmax"] * 0.7


@pytest.mark.parametrize("method", list(METHODS))
def test_a_positive_range_starts_at_zero(method: str) -> None:
    """Zero must be exact: it is what padding and ReLU put out."""
    low, high = choose(method, _seen(np.linspace(2, 6, 10_000, dtype=np.float32)))

    assert low == 0.0
    assert 5 < high <= 6.01


@pytest.mark.parametrize("method", list(METHODS))
def test_a_tensor_that_is_always_zero_has_a_range(method: str) -> None:
    """Dead channels exist."""
    assert choose(method, _seen(np.zeros(1000, np.float32))) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_an_unknown_method_is_refused() -> None:
    """One line with the known ones."""
    with pytest.raises(ConfigError, match="expected average, minmax, percentile, mse, entropy, got 'best'"):
        choose("best", Seen([0.0], [1.0]))

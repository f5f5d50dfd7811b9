"""Building blocks: TensorFlow's padding, and transposed convolutions as ordinary ones."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.network.layers import ConvUnit, as_convolution, interleave  # noqa: E402


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

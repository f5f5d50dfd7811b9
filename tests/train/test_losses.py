"""The losses against the paper's formulas computed by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.model.losses import centernet_loss, focal_loss  # noqa: E402


def test_focal_loss_is_equation_one() -> None:
    """One positive at p = 0.8, one negative near it (target 0.5) at p = 0.3, one far at p = 0.1."""
    p = torch.tensor([0.8, 0.3, 0.1]).reshape(1, 1, 1, 3)
    target = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 1, 3)
    expected = -(0.2**2 * math.log(0.8) + 0.5**4 * 0.3**2 * math.log(0.7) + 0.1**2 * math.log(0.9))

    assert focal_loss(torch.logit(p), target).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_is_finite_for_any_logit() -> None:
    """Logits of +-1000 give a finite loss and finite gradients."""
    logits = torch.tensor([1000.0, -1000.0]).reshape(1, 1, 1, 2).requires_grad_()
    loss = focal_loss(logits, torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    loss.backward()

    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


def test_the_total_is_the_weighted_sum() -> None:
    """Sides 4 x 6 instead of 4 x 3 (IoU 0.5, 3 cells off), offset 0.5 off: 2 x 0.5 + 0.01 x 3 + 0.5."""
    shape = (1, 2, 1, 1)
    outputs = (torch.full((1, 1, 1, 1), 50.0), torch.tensor([4.0, 6.0]).reshape(shape), torch.zeros(shape))
    targets = {
        "heat": torch.ones(1, 1, 1, 1),
        "size": torch.tensor([4.0, 3.0]).reshape(shape),
        "size_weight": torch.ones(1, 1, 1),
        "offset": torch.tensor([0.5, 0.0]).reshape(shape),
        "centre": torch.ones(1, 1, 1),
    }
    loss = centernet_loss(outputs, targets)

    assert (loss.overlap.item(), loss.size.item(), loss.offset.item()) == pytest.approx((0.5, 3.0, 0.5))
    assert loss.total.item() == pytest.approx(1.53)


def test_a_negative_side_has_a_finite_loss_and_is_pulled_up() -> None:
    """A predicted width of -3 for a true 4: the gradient says larger."""
    size = torch.tensor([-3.0, 4.0]).reshape(1, 2, 1, 1).requires_grad_()
    targets = {
        "heat": torch.zeros(1, 1, 1, 1),
        "size": torch.full((1, 2, 1, 1), 4.0),
        "size_weight": torch.ones(1, 1, 1),
        "offset": torch.zeros(1, 2, 1, 1),
        "centre": torch.ones(1, 1, 1),
    }
    loss = centernet_loss((torch.zeros(1, 1, 1, 1), size, torch.zeros(1, 2, 1, 1)), targets)
    loss.total.backward()

    assert 0.99 < loss.overlap.item() <= 1
    assert size.grad[0, 0, 0, 0].item() < 0


def test_an_image_without_objects_is_only_background() -> None:
    """No division by zero: size and offset cost nothing."""
    outputs = (torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
    zeros = {"size": torch.zeros(1, 2, 2, 2), "offset": torch.zeros(1, 2, 2, 2), "heat": torch.zeros(1, 1, 2, 2)}
    loss = centernet_loss(outputs, zeros | {"size_weight": torch.zeros(1, 2, 2), "centre": torch.zeros(1, 2, 2)})

    assert loss.total.item() == pytest.approx(4 * 0.25 * math.log(2))

"""The losses against the paper's formulas computed by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.network.losses import centernet_loss, focal_loss  # noqa: E402


def test_focal_loss_is_equation_one() -> None:
    """One positive at p = 0.8, one negative near it (target 0.5) at p = 0.3, one far at p = 0.1."""
    p = torch.tensor([0.8, 0.3, 0.1]).reshape(1, 1, 1, 3)
    target = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 1, 3)
    expected = -(0.2**2 * math.log(0.8) + 0.5**4 * 0.3**2 * math.log(0.7) + 0.1**2 * math.log(0.9))

    assert focal_loss(torch.logit(p), target, (target == 1).float()).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_an_uncertain_centre_is_pulled_to_its_score() -> None:
    """At p = 0.8 a score of 0.5 costs 0.3^2 times the cross entropy, and the gradient says less."""
    logits = torch.logit(torch.tensor(0.8)).reshape(1, 1, 1, 1).requires_grad_()
    loss = focal_loss(logits, torch.full((1, 1, 1, 1), 0.999), torch.full((1, 1, 1, 1), 0.5))
    loss.backward()

    assert loss.item() == pytest.approx(-(0.3**2) * (0.5 * math.log(0.8) + 0.5 * math.log(0.2)), rel=1e-5)
    assert logits.grad.item() > 0


def test_focal_loss_is_finite_for_any_logit() -> None:
    """Logits of +-1000 give a finite loss and finite gradients."""
    logits = torch.tensor([1000.0, -1000.0]).reshape(1, 1, 1, 2).requires_grad_()
    target = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    loss = focal_loss(logits, target, target)
    loss.backward()

    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


def test_the_total_is_the_weighted_sum() -> None:
    """A box of 4 x 6 for one of 4 x 3, its centre 0.5 to the left: 10.5 of 25.5 cells in common."""
    shape = (1, 2, 1, 1)
    outputs = (torch.full((1, 1, 1, 1), 50.0), torch.tensor([4.0, 6.0]).reshape(shape), torch.zeros(shape))
    targets = {
        "heat": torch.ones(1, 1, 1, 1),
        "size": torch.tensor([4.0, 3.0]).reshape(shape),
        "box_weight": torch.ones(1, 1, 1),
        "offset": torch.tensor([0.5, 0.0]).reshape(shape),
        "score": torch.ones(1, 1, 1, 1),
    }
    loss = centernet_loss(outputs, targets)

    assert (loss.overlap.item(), loss.size.item(), loss.offset.item()) == pytest.approx(
        (1 - 10.5 / 25.5, 3.0, 0.5)
    )
    assert loss.total.item() == pytest.approx(2 * 15 / 25.5 + 0.01 * 3 + 0.1 * 0.5)


def test_boxes_that_do_not_meet_have_no_overlap_and_are_pulled_together() -> None:
    """A box of 2 x 2 whose centre is 9 cells too far right: overlap loss 1, and the offset's gradient says left."""
    shape = (1, 2, 1, 1)
    offset = torch.tensor([9.0, 0.0]).reshape(shape).requires_grad_()
    targets = {
        "heat": torch.zeros(1, 1, 1, 1),
        "size": torch.full(shape, 2.0),
        "box_weight": torch.ones(1, 1, 1),
        "offset": torch.zeros(shape),
        "score": torch.ones(1, 1, 1, 1),
    }
    loss = centernet_loss((torch.zeros(1, 1, 1, 1), torch.full(shape, 2.0), offset), targets)
    loss.total.backward()

    assert loss.overlap.item() == 1
    assert offset.grad[0, 0, 0, 0].item() > 0


def test_a_negative_side_has_a_finite_loss_and_is_pulled_up() -> None:
    """A predicted width of -3 for a true 4: the gradient says larger."""
    size = torch.tensor([-3.0, 4.0]).reshape(1, 2, 1, 1).requires_grad_()
    targets = {
        "heat": torch.zeros(1, 1, 1, 1),
        "size": torch.full((1, 2, 1, 1), 4.0),
        "box_weight": torch.ones(1, 1, 1),
        "offset": torch.zeros(1, 2, 1, 1),
        "score": torch.ones(1, 1, 1, 1),
    }
    loss = centernet_loss((torch.zeros(1, 1, 1, 1), size, torch.zeros(1, 2, 1, 1)), targets)
    loss.total.backward()

    assert 0.99 < loss.overlap.item() <= 1
    assert size.grad[0, 0, 0, 0].item() < 0


def test_an_image_without_objects_is_only_background() -> None:
    """No division by zero: size and offset cost nothing."""
    outputs = (torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
    zeros = {
        "size": torch.zeros(1, 2, 2, 2),
        "offset": torch.zeros(1, 2, 2, 2),
        "heat": torch.zeros(1, 1, 2, 2),
    }
    loss = centernet_loss(
        outputs, zeros | {"box_weight": torch.zeros(1, 2, 2), "score": torch.zeros(1, 1, 2, 2)}
    )

    assert loss.total.item() == pytest.approx(4 * 0.25 * math.log(2))

"""The losses against the paper's formulas computed by hand, and what a teacher's answers cost a student."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ArtifactError, ConfigError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import save_checkpoint  # noqa: E402
from edge_centernet.network.losses import Teacher, centernet_loss, focal_loss  # noqa: E402

SPEC = ModelSpec("teacher", "1", 64, 64, ("cat", "dog", "owl"))


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
    """A 2 x 2 box whose centre is 9 cells too far right: overlap loss 1, and the gradient pulls it left."""
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


# ---- distillation


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A small network that knows cats, dogs and owls at stride 4; random weights, logits of about -5 to 5."""
    torch.manual_seed(0)
    model = CenterNet(SPEC, Architecture("mobilenet_v2", 0.25, (16, 16, 16), 16)).eval()
    with torch.no_grad():
        model.heat.conv.bias.zero_()
        model.heat.conv.weight /= model(torch.rand(4, 3, 64, 64) * 255)[0].std() / 3
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, model, "float")
    return str(path)


def _mirrored(teacher: Teacher, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the teacher sees in the mirror image, turned back: (B, C, h, w) each."""
    return tuple(t.detach().flip(3) for t in teacher.network.core(x.flip(3)))


def test_a_student_that_says_what_the_teacher_sees_in_the_mirror_has_nothing_to_learn(
    checkpoint: str,
) -> None:
    """Those logits cost 0; opposite ones more than 1 a cell where it is sure; sizes do not count."""
    teacher = Teacher.load(checkpoint, SPEC)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    heat, size, offset = _mirrored(teacher, x)

    assert float(teacher(x, (heat, size + 1, offset))) == pytest.approx(0, abs=1e-4)
    assert float(teacher(x, (-heat, size, offset))) > (heat.abs() > 4).sum() > 0


def test_a_copy_has_nothing_to_learn_only_where_all_heads_are_equal(checkpoint: str) -> None:
    """Its outputs cost 0; an offset 100 cells off has no overlap and an L1 of 100, where it is sure."""
    own = Teacher.load(checkpoint, SPEC).network
    teacher = Teacher(own, SPEC, copied=True)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    heat, size, offset = (t.detach() for t in own.core(x))
    moved = offset + torch.tensor([100.0, 0.0]).reshape(1, 2, 1, 1)

    assert float(teacher(x, (heat, size, offset))) == pytest.approx(0, abs=1e-3)
    assert float(teacher(x, (heat, size, moved))) == pytest.approx(
        (2 + 0.1 * 100) * float(heat.amax(dim=1).sigmoid().square().sum()), rel=1e-4
    )
    assert float(teacher(x, (heat, size * 0.5, offset))) > 10, "boxes of a quarter of the area, 512 cells"


def test_coarser_cells_take_the_highest_of_theirs_and_classes_go_by_name(checkpoint: str) -> None:
    """Student: stride 8, dog, fox, cat. The maxima of 2x2 cells of dog and cat give 0; no fox is taught."""
    spec = replace(SPEC, classes=("dog", "fox", "cat"), stride=8)
    teacher = Teacher.load(checkpoint, spec)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    cat, dog, _ = torch.nn.functional.max_pool2d(_mirrored(teacher, x)[0], 2)[0]
    heat = torch.stack([dog, torch.full_like(dog, 50.0), cat])[None].requires_grad_()
    loss = teacher(x, (heat, torch.ones(1, 2, 8, 8), torch.ones(1, 2, 8, 8)))
    loss.backward()

    assert heat.shape == (1, 3, 8, 8)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    assert heat.grad is not None
    assert not heat.grad[:, 1].any(), "the teacher does not know a fox"


def test_a_teacher_teaches_synonyms(checkpoint: str) -> None:
    """A student's "Dog" is the teacher's dog, whatever its place."""
    teacher = Teacher.load(checkpoint, replace(SPEC, classes=("fox", "Dog")))
    assert (teacher.taught.tolist(), teacher.known.tolist()) == ([1], [1])


def test_the_teacher_never_changes(checkpoint: str) -> None:
    """It stays in evaluation mode, has no BatchNorm left and wants no gradient."""
    teacher = Teacher.load(checkpoint, SPEC).train()

    assert not teacher.network.training
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": ("car",)}, "expected a network that knows car, got cat, dog, owl"),
        ({"mean": (0.0, 0.0, 0.0)}, "expected mean, std and color as the student's"),
        ({"stride": 2}, "a stride that divides 2, got .* and 4"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    checkpoint: str, change: dict[str, object], reason: str
) -> None:
    """One line says what was expected and what came."""
    with pytest.raises(ConfigError, match=reason):
        Teacher.load(checkpoint, replace(SPEC, **change))  # type: ignore[arg-type]


def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """One line, not a traceback."""
    with pytest.raises(ArtifactError, match=r"gone\.safetensors: no such file; expected a model file"):
        Teacher.load(str(tmp_path / "gone.safetensors"), SPEC)

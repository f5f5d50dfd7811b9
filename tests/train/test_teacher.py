"""Distillation of the heatmap: what the teacher says can be learned, in coarser cells and other orders of classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ArtifactError, ConfigError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import save_checkpoint  # noqa: E402
from edge_centernet.train.teacher import Teacher  # noqa: E402

SPEC = ModelSpec("teacher", "1", 64, 64, ("cat", "dog", "owl"))


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
    """Those logits give a loss of 0; opposite ones more than 1 a cell where it is sure; sizes do not count."""
    teacher = Teacher.load(checkpoint, SPEC)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    heat, size, offset = _mirrored(teacher, x)

    assert float(teacher(x, (heat, size + 1, offset))) == pytest.approx(0, abs=1e-4)
    assert float(teacher(x, (-heat, size, offset))) > (heat.abs() > 4).sum() > 0


def test_a_copy_has_nothing_to_learn_only_where_all_heads_are_equal(checkpoint: str) -> None:
    """The teacher's own outputs give 0; an offset 100 cells off has no overlap and an L1 of 100, where it is sure."""
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
    """Student: stride 8, dog, fox, cat. The maxima of 2x2 cells of dog and cat give 0; the fox is not taught."""
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
    with pytest.raises(ArtifactError, match="expected a model file, got no such file"):
        Teacher.load(str(tmp_path / "gone.safetensors"), SPEC)

"""Feature distillation: what the guide asks for can be learned, and it never changes itself."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.train.feature_distillation import Guide, _standard  # noqa: E402

WEIGHTS = Path(__file__).resolve().parents[3] / "shared/data/weights/mobilenet_v2_0.5_coco.safetensors"


def test_standardised_maps_have_mean_zero_and_deviation_one_in_every_channel() -> None:
    """Channels of mean 5 and -100, deviations 2 and 30."""
    x = torch.randn(4, 2, 8, 8) * torch.tensor([2.0, 30.0]).reshape(1, 2, 1, 1) + torch.tensor(
        [5.0, -100.0]
    ).reshape(1, 2, 1, 1)
    standard = _standard(x)

    assert standard.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert standard.std(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-2)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"pretrained weights are not at {WEIGHTS}")
def test_the_student_learns_what_the_guide_sees() -> None:
    """Its maps and translations, trained on one batch: the error falls from about 1 below 0.5, the guide stays."""
    torch.manual_seed(0)
    guide = Guide(WEIGHTS, {16: 24, 32: 32})
    image = torch.randn(2, 3, 64, 64)
    maps = [
        torch.randn(2, c, 64 // s, 64 // s, requires_grad=s >= 16)
        for s, c in ((4, 8), (8, 16), (16, 24), (32, 32))
    ]
    before = {name: value.clone() for name, value in guide.backbone.state_dict().items()}
    optimizer = torch.optim.Adam([*maps[2:], *guide.translate.parameters()], lr=0.03)
    errors = []
    for _ in range(60):
        error = guide(image, maps)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())

    assert errors[0] == pytest.approx(1.2, abs=0.4)
    assert errors[-1] < 0.5
    assert not any(p.requires_grad for p in guide.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in guide.backbone.state_dict().items())

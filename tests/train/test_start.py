"""Where training starts, and what stands still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ConfigError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.checkpoint import save_checkpoint  # noqa: E402
from edge_centernet.train.config import TrainConfig  # noqa: E402
from edge_centernet.train.start import freeze_layers, start_network  # noqa: E402

WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"
SMALL = WEIGHTS / "mobilenet_v2_0.5_coco.safetensors"
SPEC = ModelSpec("t", "1", 64, 64, ("cat", "dog"))
TWO = TrainConfig(
    width=0.5, act="relu", padding="symmetric", neck=(16, 16), head=16, context=0, size=64, tower=0.5
)  # fmt: skip
needs_weights = pytest.mark.skipif(not SMALL.is_file(), reason=f"{SMALL} is not here")


@needs_weights
def test_both_backbones_start_from_their_files() -> None:
    """Here from the same one: equal maps of an image at every stride; the stride follows from the neck."""
    model, _ = start_network(replace(TWO, tower_weights=str(SMALL)), SPEC, SMALL)
    x = torch.rand(1, 3, 64, 64)

    assert model.spec.stride == 8
    assert model.tower is not None
    for ours, theirs in zip(model.backbone(x), model.tower(x), strict=True):
        assert ours.std() > 0
        torch.testing.assert_close(ours, theirs)


@needs_weights
def test_a_tower_without_a_file_is_refused() -> None:
    """Random weights that stand still would be of no use."""
    with pytest.raises(ConfigError, match=r"tower: expected --set tower_weights=FILE"):
        start_network(TWO, SPEC, SMALL)


@pytest.mark.parametrize(("stride", "tower"), [(0, False), (0, True), (8, True), (32, True)])
def test_what_stands_still_is_folded_and_learns_nothing(stride: int, tower: bool) -> None:
    """Backbone layers up to the stride, and the tower where it is to; all else learns."""
    model, _ = start_network(TWO, SPEC, None)
    freeze_layers(model, stride, tower)
    assert model.tower is not None
    norms = [m for m in model.tower.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    assert {p.requires_grad for p in model.tower.parameters()} == {not tower}
    assert bool(norms) == (not tower)
    assert all(p.requires_grad for p in model.neck.parameters())
    learning = [any(p.requires_grad for p in layer.parameters()) for layer in model.backbone.layers]
    last = model.backbone.last[stride] if stride else -1
    assert learning == [i > last for i in range(len(learning))]


def test_a_class_starts_from_its_synonym(tmp_path: Path) -> None:
    """A checkpoint that knows sofas has something to say of couches."""
    model, _ = start_network(TWO, replace(SPEC, classes=("cat", "sofa")), None)
    save_checkpoint(tmp_path / "voc.safetensors", model, "float")
    other, _ = start_network(TWO, replace(SPEC, classes=("couch", "owl")), tmp_path / "voc.safetensors")

    torch.testing.assert_close(other.heat.conv.weight[0], model.heat.conv.weight[1])


def test_a_checkpoint_brings_its_stride_and_its_tower(tmp_path: Path) -> None:
    """Started from, for other classes: stride 8 and a tower, though the options say neither."""
    model, _ = start_network(TWO, SPEC, None)
    save_checkpoint(tmp_path / "two.safetensors", model, "float")
    other, config = start_network(
        TrainConfig(size=64), replace(SPEC, classes=("owl", "dog")), tmp_path / "two.safetensors"
    )

    assert (other.spec.stride, config.tower, config.neck) == (8, 0.5, (16, 16))
    torch.testing.assert_close(other.heat.conv.weight[1], model.heat.conv.weight[1])

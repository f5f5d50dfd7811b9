"""Options of training, where it starts from, and what stands still."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.errors import ConfigError  # noqa: E402
from edge_centernet.manifest import InputSize, ModelSpec  # noqa: E402
from edge_centernet.network.checkpoint import save_checkpoint  # noqa: E402
from edge_centernet.train.config import TrainConfig  # noqa: E402
from edge_centernet.train.start import freeze_layers, start_network  # noqa: E402

WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"
SMALL = WEIGHTS / "mobilenet_v2_0.5_coco.safetensors"
SPEC = ModelSpec("t", "1", 64, 64, ("cat", "dog"))
TINY = TrainConfig(width=0.5, act="relu", padding="symmetric", neck=(16, 16), head=16, context=0, size=64)
needs_weights = pytest.mark.skipif(not SMALL.is_file(), reason=f"{SMALL} is not here")


@needs_weights
def test_the_backbone_starts_from_its_file() -> None:
    """Two that start from it agree, whatever their seeds; the stride follows from the neck."""
    x = torch.rand(1, 3, 64, 64)
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, _ = start_network(TINY, SPEC, SMALL)
        maps.append(model.backbone.eval()(x))

    assert model.spec.stride == 8
    for one, other in zip(*maps, strict=True):
        assert one.std() > 0
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("stride", [0, 8, 32])
def test_what_stands_still_is_folded_and_learns_nothing(stride: int) -> None:
    """Backbone layers up to the stride; all else learns."""
    model, _ = start_network(TINY, SPEC, None)
    freeze_layers(model, stride)

    assert all(p.requires_grad for p in model.neck.parameters())
    learning = [any(p.requires_grad for p in layer.parameters()) for layer in model.backbone.layers]
    normalised = [
        any(isinstance(m, torch.nn.BatchNorm2d) for m in layer.modules()) for layer in model.backbone.layers
    ]
    last = model.backbone.last[stride] if stride else -1
    assert learning == normalised == [i > last for i in range(len(learning))]


def test_a_class_starts_from_its_synonym(tmp_path: Path) -> None:
    """A checkpoint that knows sofas has something to say of couches."""
    model, _ = start_network(TINY, replace(SPEC, classes=("cat", "sofa")), None)
    save_checkpoint(tmp_path / "voc.safetensors", model, "float")
    other, _ = start_network(TINY, replace(SPEC, classes=("couch", "owl")), tmp_path / "voc.safetensors")

    torch.testing.assert_close(other.heat.conv.weight[0], model.heat.conv.weight[1])


def test_a_synonym_keeps_threshold_and_calibration(tmp_path: Path) -> None:
    """Quantized anew under COCO's words, a sofa's own threshold is the couch's; an owl has none."""
    scores = {"class_thresholds": (0.2, 0.4), "score_scale": (1.1, 0.9), "score_shift": (0.1, -0.1)}
    model, _ = start_network(TINY, replace(SPEC, classes=("cat", "sofa"), **scores), None)
    save_checkpoint(tmp_path / "voc.safetensors", model, "float")
    wanted = replace(SPEC, classes=("couch", "owl"))
    other, _ = start_network(replace(TINY, epochs=0), wanted, tmp_path / "voc.safetensors")

    assert other.spec.class_thresholds == (0.4, SPEC.threshold)
    assert (other.spec.score_scale, other.spec.score_shift) == ((0.9, 1.0), (-0.1, 0.0))


def test_a_checkpoint_brings_its_stride_and_its_neck(tmp_path: Path) -> None:
    """Started from, for other classes: stride 8 and 16 channels, though the options say neither."""
    model, _ = start_network(TINY, SPEC, None)
    save_checkpoint(tmp_path / "tiny.safetensors", model, "float")
    other, config = start_network(
        TrainConfig(size=64), replace(SPEC, classes=("owl", "dog")), tmp_path / "tiny.safetensors"
    )

    assert (other.spec.stride, config.neck) == (8, (16, 16))
    torch.testing.assert_close(other.heat.conv.weight[1], model.heat.conv.weight[1])


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(320, (320, 320)), ("512x384", (512, 384)), ([512, 384], (512, 384)), ("256", (256, 256))],
)
def test_a_size_is_width_and_height_whatever_was_kept(kept: Any, expected: tuple[int, int]) -> None:
    """Run folders of earlier versions hold one number, those of this one two; two are written again."""
    config = TrainConfig.from_dict({"size": kept})

    assert config.size == InputSize(*expected)
    assert json.loads(json.dumps(config.to_dict()))["size"] == list(expected)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_size_is_set_from_the_command_line_and_from_yaml(tmp_path: Path) -> None:
    """--set size=640x352, and `size: 640x352` or a list in a file."""
    assert TrainConfig.parse(("size=640x352",)) == {"size": InputSize(640, 352)}
    for text in ("size: 640x352", "size: [640, 352]"):
        (tmp_path / "run.yaml").write_text(f"{text}\nepochs: 3\n")
        assert TrainConfig.read_yaml(tmp_path / "run.yaml") == {"size": InputSize(640, 352), "epochs": 3}


@pytest.mark.parametrize("size", ["640x360", 100, 0, "a", [1, 2, 3]])
def test_a_size_that_no_network_has_is_refused(size: Any) -> None:
    """What is not one or two multiples of 32 is named."""
    with pytest.raises(ConfigError, match=r"size: expected WIDTHxHEIGHT .* got "):
        TrainConfig.from_dict({"size": size})

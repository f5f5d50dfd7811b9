"""Checkpoints of the original CenterNet: taken exactly, or refused with the reason."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

import reference_ctdet  # noqa: E402
from reference_ctdet import COCO_MEAN, COCO_STD  # noqa: E402

from edge_centernet.classes import COCO  # noqa: E402
from edge_centernet.cli.import_ import PUBLISHED  # noqa: E402
from edge_centernet.errors import ArtifactError, ConfigError  # noqa: E402
from edge_centernet.imageio import read_image  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from edge_centernet.network.original import load_original  # noqa: E402
from edge_centernet.preprocess import letterbox  # noqa: E402

State = dict[str, Any]
PHOTO = Path(__file__).parents[2] / "edge_centernet/assets/sample.jpg"


@pytest.fixture(scope="module")
def reference() -> Any:
    """The published network with 80 classes, in plain torch.nn."""
    return reference_ctdet.squares_network(80)


@pytest.fixture(scope="module")
def thin(reference: Any) -> State:
    """Its names and shapes, every tensor one zero that is repeated: small files."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in reference.state_dict().items()}


def _load(path: Path, classes: tuple[str, ...] = COCO, side: int = 64) -> Any:
    return load_original(path, "test", classes, side, COCO_MEAN, COCO_STD)


def _refusal(state: Any, tmp_path: Path, classes: tuple[str, ...] = COCO) -> str:
    """The message with which a state dict is refused."""
    torch.save({"epoch": 140, "state_dict": state}, tmp_path / "x.pth")
    with pytest.raises((ArtifactError, ConfigError)) as refused:
        _load(tmp_path / "x.pth", classes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_reference_has_the_published_names_and_shapes(thin: State) -> None:
    """Of the public source's PoseResNet (18 layers, heads hm 80, wh 2, reg 2, head_conv 64)."""
    shapes = {name: tuple(t.shape) for name, t in thin.items() if not name.endswith("num_batches_tracked")}
    expected = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer4.1.bn2.bias": (512,),
        "deconv_layers.0.weight": (512, 256, 4, 4),
        "deconv_layers.3.weight": (256, 256, 4, 4),
        "deconv_layers.7.weight": (256,),
        "hm.0.weight": (64, 256, 3, 3),
        "hm.2.weight": (80, 64, 1, 1),
        "hm.2.bias": (80,),
        "wh.2.weight": (2, 64, 1, 1),
        "reg.0.bias": (64,),
    }

    assert {name: shapes[name] for name in expected} == expected
    # 20 convolutions and 20 BatchNorms (4 parameters each) of ResNet-18, 3 + 3 of the neck, 3 heads of 4
    assert len(shapes) == 20 * 5 + 3 * 5 + 3 * 4


@pytest.mark.parametrize("form", ["checkpoint", "legacy", "bare"])
def test_an_imported_network_computes_the_same_heads(reference: Any, tmp_path: Path, form: str) -> None:
    """On a real photo with its border, to float accuracy: in today's and 2019's file format, or bare."""
    state = reference.state_dict()
    content: Any = (
        state if form == "bare" else {"epoch": 140, "state_dict": state, "optimizer": {"state": {}}}
    )
    if form == "checkpoint":
        content["state_dict"] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=form != "legacy")
    model = _load(tmp_path / "x.pth", side=128)
    rgb, _ = letterbox(read_image(PHOTO), model.spec)
    with torch.no_grad():
        ours = model(torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float())
        theirs = reference(reference_ctdet.preprocess(rgb[..., ::-1]))

    for got, expected in zip(ours, theirs, strict=True):
        assert got.shape == expected.shape
        assert expected.std() > 0.02, "the comparison must see real values, not a constant"
        torch.testing.assert_close(got, expected, rtol=0, atol=3e-5)


def test_the_manifest_says_what_the_network_was_trained_on(reference: Any, tmp_path: Path) -> None:
    """512 pixels, black padding; RGB (pixel - 128) / 128 as everywhere, the rest is inside."""
    torch.save(reference.state_dict(), tmp_path / "x.pth")

    assert _load(tmp_path / "x.pth", side=512).spec == ModelSpec("test", "1", 512, 512, COCO, pad_value=0)


def test_a_saved_import_comes_back(reference: Any, tmp_path: Path) -> None:
    """As one of our checkpoints, with the same outputs."""
    torch.save(reference.state_dict(), tmp_path / "x.pth")
    model = _load(tmp_path / "x.pth")
    save_checkpoint(tmp_path / "x.safetensors", model, "float")
    again, stage = load_checkpoint(tmp_path / "x.safetensors")
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()

    assert (stage, again.spec, again.arch) == ("float", model.spec, model.arch)
    for a, b in zip(model(image), again(image), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["coco", "pascal"])
def test_colours_are_those_of_the_data_set(thin: State, tmp_path: Path, name: str) -> None:
    """Every pixel value becomes the published BGR (pixel / 255 - mean) / std."""
    published = PUBLISHED[name]
    state = thin | {
        "hm.2.weight": torch.zeros(1).expand(len(published.classes), 64, 1, 1),
        "hm.2.bias": torch.zeros(len(published.classes)),
    }
    torch.save(state, tmp_path / "x.pth")
    model = load_original(tmp_path / "x.pth", "x", published.classes, 64, published.mean, published.std)
    bgr = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None].float()

    expected = reference_ctdet.preprocess(bgr, published.mean, published.std)
    torch.testing.assert_close(model.recolor(model.normalize(rgb)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("deconv_layers.0.conv_offset_mask.weight", "deformable convolutions (DCN, as in resdcn_18"),
        ("dla_up.ida_0.proj_1.conv.conv_offset_mask.weight", "deformable convolutions (DCN"),
        ("base.base_layer.0.weight", "it is a DLA network"),
        ("ida_up.proj_1.0.weight", "it is a DLA network"),
        ("pre.0.conv.weight", "it is an hourglass network"),
        ("hps.2.weight", "it estimates poses (task multi_pose"),
        ("dep.2.weight", "it estimates 3D boxes (task ddd"),
        ("hm_t.2.weight", "it finds extreme points (task exdet)"),
        ("layer1.0.conv3.weight", "its ResNet has 50 or more layers"),
        ("layer1.2.conv1.weight", "its ResNet has 34 layers"),
        ("hm.weight", "its heads are single convolutions (--head_conv 0)"),
        ("wind.2.weight", "got parameters that it does not have: wind.2.weight"),
    ],
)
def test_other_networks_are_refused_with_the_reason(
    thin: State, tmp_path: Path, added: str, reason: str
) -> None:
    """Recognised by their names; nothing is loaded in part."""
    assert reason in _refusal(thin | {added: torch.zeros(1)}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reg": None}, "expected heads hm, wh and reg, found no reg"),
        ({"wh": 160}, "expected wh with 2 channels, got 160: a size for each class (--cat_spec_wh)"),
        (
            {"hm": None, "wh": None, "reg": None},
            "weights of a backbone alone go to 'edge-centernet train --weights'",
        ),
    ],
)
def test_other_heads_are_refused(
    thin: State, tmp_path: Path, changes: dict[str, int | None], reason: str
) -> None:
    """A missing offset head, a size for each class, no heads at all."""
    state = {name: t for name, t in thin.items() if changes.get(name.split(".")[0], 0) is not None}
    for head, channels in changes.items():
        if channels:
            state[f"{head}.2.weight"] = torch.zeros(1).expand(channels, 64, 1, 1)

    assert reason in _refusal(state, tmp_path)


def test_the_number_of_classes_must_fit(thin: State, tmp_path: Path) -> None:
    """The message says how many the checkpoint has and how many names came."""
    assert "--classes: expected 80 names, as many as x.pth has, got 2" in _refusal(thin, tmp_path, ("a", "b"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("layer3.0.conv2.weight", None, "found no 'layer3.0.conv2.weight'"),
        ("deconv_layers.1.running_var", None, "found no 'deconv_layers.1.running_var'"),
        (
            "deconv_layers.3.weight",
            (256, 256, 3, 3),
            "expected shape (256, 256, 4, 4) as in res_18, got (256, 256, 3, 3)",
        ),
        ("conv1.weight", float("nan"), "conv1.weight: expected finite numbers"),
    ],
)
def test_damaged_parameters_are_named(
    thin: State, tmp_path: Path, name: str, value: Any, reason: str
) -> None:
    """Missing, of another shape, not a number."""
    state = dict(thin)
    before = state.pop(name)
    if isinstance(value, tuple):
        state[name] = torch.zeros(1).expand(value)
    elif value is not None:
        state[name] = torch.full((1,), value).expand(before.shape)

    assert reason in _refusal(state, tmp_path)


class _Mischief:
    """What a malicious pickle does when it is loaded carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected a PyTorch checkpoint, got another or a damaged file"),
        (b"hello, I am no checkpoint\n", "expected a PyTorch checkpoint, got another or a damaged file"),
        (b"PK\x03\x04" + bytes(100), "expected a PyTorch checkpoint, got another or a damaged file"),
        (torch.zeros(3), "expected a checkpoint with a state_dict of tensors, got a Tensor"),
        ({"epoch": 3, "config": "yes"}, "got a dict with epoch, config"),
        ({}, "got an empty dict"),
    ],
)
def test_files_that_are_no_checkpoints_are_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    """Whatever the bytes are."""
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)

    with pytest.raises(ArtifactError) as refused:
        _load(path)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_truncated_checkpoint_is_one_line(thin: State, tmp_path: Path) -> None:
    """Cut off in the middle, as after an interrupted download."""
    torch.save(thin, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:5000])

    with pytest.raises(ArtifactError, match="expected a PyTorch checkpoint, got another or a damaged file"):
        _load(tmp_path / "x.pth")


def test_a_pickled_training_configuration_is_named(thin: State, tmp_path: Path) -> None:
    """Many codes save their options beside the weights: the message says which class and how to go on."""
    torch.save({"state_dict": thin, "opt": argparse.Namespace(lr=1)}, tmp_path / "x.pth")

    with pytest.raises(ArtifactError, match=r"got a pickled argparse\.Namespace.*save the state_dict alone"):
        _load(tmp_path / "x.pth")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    """A file that would make a folder when unpickled is refused, names what it holds, and makes none."""
    path, marker = tmp_path / "x.pth", tmp_path / "owned"
    torch.save({"state_dict": _Mischief(marker)}, path)

    with pytest.raises(ArtifactError, match=r"got a pickled \w+\.mkdir, which is not run for safety"):
        _load(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Mischief(marker)))
    assert marker.exists(), "the file must be dangerous for the test to mean something"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ArtifactError, match=r"found nothing at .*nowhere\.pth"):
        _load(tmp_path / "nowhere.pth")

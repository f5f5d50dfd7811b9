"""Where int8 loses the signal: the layer that was damaged is the one that is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import qdq_factory
from support import Result

from edge_centernet import qdq
from edge_centernet.converters import convert
from edge_centernet.converters.diagnosis import CLEAN, decibels, diagnose, refuse_broken
from edge_centernet.converters.open import open_network
from edge_centernet.errors import ConversionError
from edge_centernet.model_zoo import find_model
from edge_centernet.qdq import reference
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.insert import fill

PICTURES = qdq_factory.photos(3, 96, 128)


@pytest.fixture(scope="module")
def network() -> qdq.Network:
    """A sound int8 network."""
    return qdq.parse(qdq_factory.build(weight_max=63))


def _coarser(network: qdq.Network, op: qdq.Conv, factor: float) -> qdq.Network:
    """The same with the weights of one convolution stored in coarser steps."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    producers = {name: node for node in model.graph.node for name in node.output}
    conv = next(node for node in model.graph.node if node.name == op.name)
    scale = producers[conv.input[1]].input[1]
    value = next(i for i in model.graph.initializer if i.name == scale)
    fill(model, {scale: onnx.numpy_helper.to_array(value) * np.float32(factor)})
    return qdq.parse(model)


def test_decibels_count_powers_of_ten() -> None:
    """A hundred to one is 20 dB; no noise is CLEAN, no signal minus CLEAN at worst."""
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(1.0, 0.0) == CLEAN
    assert decibels(0.0, 1.0) == -CLEAN


def test_the_damaged_layer_loses_most(network: qdq.Network) -> None:
    """Weights of a layer in the middle in steps sixteen times as wide: 4 dB more are lost there."""
    convolutions = [op for op in network.ops if isinstance(op, qdq.Conv) and op.groups == 1]
    victim = convolutions[len(convolutions) // 2]
    sound = {layer.name: layer for layer in diagnose(network, None, PICTURES)}
    layers = diagnose(_coarser(network, victim, 16.0), float_model(network), PICTURES)
    worst = max(layers, key=lambda layer: layer.lost - sound[layer.name].lost)

    assert worst.name == victim.name
    assert worst.lost > sound[victim.name].lost + 4


def test_storing_alone_never_loses_more_than_everything_together(network: qdq.Network) -> None:
    """Rounding is a part of what happens; every layer and every addition is listed once, in order."""
    layers = diagnose(network, None, PICTURES)

    assert [layer.name for layer in layers] == [
        op.name for op in network.ops if isinstance(op, qdq.Conv | qdq.Add)
    ]
    assert all(layer.snr <= layer.rounding + 1.0 for layer in layers)
    assert all(5 < layer.rounding < 60 for layer in layers)


def test_a_heatmap_is_not_judged_by_what_nobody_asks_for() -> None:
    """Logits below its range are background: storing the shipped model's costs less than a tenth (20 dB)."""
    shipped = open_network(find_model("centernet-nano-256", ".onnx")).network
    layers = {layer.name: layer for layer in diagnose(shipped, None, reference.sample_pictures()[:2])}

    assert layers["/heat/Conv"].rounding > 20


@pytest.fixture
def artifact(network: qdq.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its .tflite, and the interchange file beside it."""
    monkeypatch.setattr(reference, "MIN_AGREEMENT", 0.6)
    onnx.save(network.model, tmp_path / "net.onnx")
    made = convert(tmp_path / "net.onnx", ["tflite"], "int8", tmp_path, network=network, pictures=PICTURES)
    for i, picture in enumerate(PICTURES):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture)
    return made[0].path


def test_the_command_compares_and_draws(run: Callable[..., Result], artifact: Path, tmp_path: Path) -> None:
    """Heads, agreement and layers on the screen and in the file; the picture shows something."""
    options = ("--against", tmp_path / "net.onnx", "--images", tmp_path, "--json", tmp_path / "v.json")
    done = run("verify", artifact, *options, "--picture", tmp_path / "v.png")
    assert done.code == 0, done.err
    found: Any = json.loads((tmp_path / "v.json").read_text())
    picture = cv2.imread(str(tmp_path / "v.png"))

    assert found["heads"]["images"] == 3
    assert len(found["layers"]) > 30
    assert "layers that lose most" in done.out
    assert picture is not None
    assert picture.std() > 10


def test_another_network_is_told(
    run: Callable[..., Result], network: qdq.Network, artifact: Path, tmp_path: Path
) -> None:
    """A file that does not answer as its source: exit code 2 and how far off it is."""
    heads = next(op for op in network.ops if isinstance(op, qdq.Conv) and op.y.name == "heat")
    onnx.save(_coarser(network, heads, 60.0).model, tmp_path / "other.onnx")
    done = run("verify", artifact, "--against", tmp_path / "other.onnx", "--images", tmp_path)

    assert done.code == 2
    assert "its outputs do not match its source: heat differs by" in done.err


def test_the_network_written_beside_a_file_is_its_source(
    run: Callable[..., Result], network: qdq.Network, artifact: Path, tmp_path: Path
) -> None:
    """As `convert` writes both; where it is not the source, its path is told."""
    beside = artifact.with_suffix(".onnx")
    onnx.save(network.model, beside)
    assert run("verify", artifact, "--images", tmp_path).code == 0

    heads = next(op for op in network.ops if isinstance(op, qdq.Conv) and op.y.name == "heat")
    onnx.save(_coarser(network, heads, 60.0).model, beside)
    done = run("verify", artifact, "--images", tmp_path)
    assert done.code == 2
    assert f"its source was taken to be {beside}: if it was made" in done.err


def test_a_file_of_unknown_origin_needs_its_source(run: Callable[..., Result], artifact: Path) -> None:
    """Its manifest names a model that does not ship, and no network lies beside it."""
    artifact.with_suffix(".onnx").unlink(missing_ok=True)
    done = run("verify", artifact)

    assert done.code == 2
    assert "name the network with --against" in done.err


def test_int8_that_lost_most_objects_is_refused_with_the_layer_to_blame(network: qdq.Network) -> None:
    """3 of 20 agree: the damaged layer is among the three named. 10 of 20, or too few to judge: accepted."""
    victim = [op for op in network.ops if isinstance(op, qdq.Conv) and op.groups == 1][5]
    broken = _coarser(network, victim, 60.0)
    with pytest.raises(ConversionError, match="expected at least 50% of 20 detections") as caught:
        refuse_broken(broken, float_model(network), 20, 3, PICTURES)

    assert victim.name in str(caught.value)
    refuse_broken(broken, float_model(network), 20, 10, PICTURES)
    refuse_broken(broken, float_model(network), 9, 0, PICTURES)


@pytest.mark.slow
def test_rounded_weights_count_against_the_float_checkpoint(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """With --float an early layer has less SNR than against rounded weights; another network is refused."""
    pytest.importorskip("torch", reason="needs the train extra")
    snr = {}
    for name, options in (("stored", ()), ("unrounded", ("--float", "centernet-nano-256"))):
        done = run("verify", "centernet-nano-256", *options, "--json", tmp_path / f"{name}.json")
        assert done.code == 0, done.err
        layers = json.loads((tmp_path / f"{name}.json").read_text())["layers"]
        snr[name] = {layer["name"]: layer["snr"] for layer in layers}["/backbone/layers.2/units/units.2/Conv"]
    other = run("verify", "centernet-nano-256", "--float", "centernet-mbv2-320")

    assert snr["unrounded"] < snr["stored"] - 0.2
    assert other.code == 2
    assert "expected the float network that was quantized" in other.err

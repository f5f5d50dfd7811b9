"""`--accuracy-budget`: layers go to float until the network is accurate enough, or nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import squares
from support import Result

from edge_centernet import qdq
from edge_centernet.artifact import read_manifest
from edge_centernet.converters import accuracy_budget
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.errors import AccuracyError
from edge_centernet.manifest import Quant
from edge_centernet.qdq.insert import fill


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with two squares each, as COCO JSON."""
    folder = tmp_path_factory.mktemp("data")
    images: list[Any] = []
    boxes: list[Any] = []
    rng = np.random.default_rng(0)
    for i in range(6):
        names = rng.permutation(squares.CLASSES)[:2]
        lefts, tops = (8, 68) + 4 * rng.integers(0, 5, 2), 4 * rng.integers(2, 16, 2)
        placed = [(str(n), int(x), int(y)) for n, x, y in zip(names, lefts, tops, strict=True)]
        cv2.imwrite(str(folder / f"{i}.png"), squares.scene(*placed))
        images.append({"id": i, "file_name": f"{i}.png", "width": squares.WIDTH, "height": squares.HEIGHT})
        for name, x, y in placed:
            box = [x, y, squares.SIDE, squares.SIDE]
            category = squares.CLASSES.index(name)
            boxes.append({"id": len(boxes), "image_id": i, "category_id": category, "bbox": box, "area": 576})
    categories = [{"id": i, "name": name} for i, name in enumerate(squares.CLASSES)]
    (folder / "data.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": categories})
    )
    return folder / "data.json"


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    """The same, read."""
    return read_dataset(data)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> qdq.Network:
    """A network that finds all of them in int8."""
    return qdq.load(squares.write_onnx(tmp_path_factory.mktemp("sound") / "squares.onnx", True))


def _coarse(network: qdq.Network, *roles: str) -> Any:
    """The same with steps so coarse that the weights of these heads all round to 0."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    names = [f"{role}_{part}_1" for role in roles for part in ("w", "wdq")]
    fill(model, {name: values[name] * np.float32(1000) for name in names})
    return model


def _meet(
    network: qdq.Network, sound: qdq.Network, data: Dataset, limit: float
) -> tuple[qdq.Network, list[str]]:
    told: list[str] = []
    return accuracy_budget.meet(network, sound, data, limit, told.append, lambda *_: None), told


def test_a_network_within_its_budget_stays_as_it_is(sound: qdq.Network, dataset: Dataset) -> None:
    """AP50 is 1 in float and in int8."""
    network, told = _meet(sound, sound, dataset, 0.01)

    assert network is sound
    assert told[-1] == "AP50 1.0000 in int8: within the budget"


def test_the_layer_that_broke_goes_to_float(sound: qdq.Network, dataset: Dataset) -> None:
    """A heatmap without weights finds nothing; that layer in float brings everything back, and is named."""
    network, told = _meet(qdq.parse(_coarse(sound, "heat")), sound, dataset, 0.01)

    assert [op.name for op in network.ops if isinstance(op, qdq.Conv) and op.real] == ["node_heat_conv"]
    assert "AP50 0.0000 in int8" in told[1]
    assert told[-1] == "AP50 1.0000 with 1 of 3 layers in float, now also node_heat_conv: within the budget"


def test_a_budget_that_cannot_be_met_is_an_error(sound: qdq.Network, dataset: Dataset) -> None:
    """Two of three layers broken, and only half may go to float."""
    broken = qdq.parse(_coarse(sound, "heat", "size"))
    with pytest.raises(AccuracyError, match=r"expected AP50 of at least 0.9900, got .* the worst are node_"):
        _meet(_no_size(broken), sound, dataset, 0.01)


def _no_size(network: qdq.Network) -> qdq.Network:
    """Boxes of no size: what is found is never right."""
    model = network.model
    bias = next(i for i in model.graph.initializer if i.name == "size_conv_2")
    fill(model, {"size_conv_2": onnx.numpy_helper.to_array(bias) * 0})
    return qdq.parse(model)


def test_the_command_writes_a_mixed_file(
    run: Callable[..., Result], sound: qdq.Network, data: Path, tmp_path: Path
) -> None:
    """Each step on the screen; a network that needs no help is written as it is."""
    source = tmp_path / "squares.onnx"
    onnx.save(sound.model, source)
    options = ("--accuracy-budget", "0.01", "--data", data, "--target", "onnx", "--out", tmp_path / "o")
    done = run("convert", source, *options)

    assert done.code == 0, done.err
    assert "AP50 1.0000 in int8: within the budget" in done.out
    assert read_manifest(tmp_path / "o/squares.onnx").precision == "int8"


def test_the_command_exits_with_3_and_leaves_nothing(
    run: Callable[..., Result], sound: qdq.Network, data: Path, tmp_path: Path
) -> None:
    """A heatmap that is stored in steps of 100 logits cannot be mended by any layer in float."""
    heat = replace(sound.manifest.heat, quant=Quant(100.0, 0))
    source = squares.write_onnx(tmp_path / "squares.onnx", True, sound.manifest.with_tensors(heat=heat))
    model = onnx.load(source)
    fill(model, {"heat_1": np.array(100, np.float32)})
    onnx.save(model, source)
    done = run("convert", source, "--accuracy-budget", "0.01", "--data", data, "--out", tmp_path / "o")

    assert done.code == 3
    assert done.err.splitlines()[-1].startswith(
        "Error: accuracy budget 0.01: expected AP50 of at least 0.9900, got "
    )
    assert not (tmp_path / "o").exists()


def test_a_budget_needs_labelled_images(run: Callable[..., Result]) -> None:
    """One without the other is refused before any work."""
    done = run("convert", "--accuracy-budget", "0.01")

    assert done.code == 2
    assert "--accuracy-budget and --data: expected both" in done.err

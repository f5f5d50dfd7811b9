"""Another input size, square or not: the same weights answer alike from PyTorch to the C library."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import qdq_factory
from onnx import helper, numpy_helper

from edge_centernet import qdq, selftest
from edge_centernet.artifact import read_manifest
from edge_centernet.cli.export_c import LIBRARY
from edge_centernet.converters import frigate
from edge_centernet.converters.open import Calibration, open_network
from edge_centernet.decoder import decode
from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.errors import ConfigError, ConversionError
from edge_centernet.heads import Heads
from edge_centernet.imageio import read_image
from edge_centernet.manifest import InputSize, ModelSpec
from edge_centernet.preprocess import letterbox, prepare
from edge_centernet.qdq import reference
from edge_centernet.qdq.onnx_graph import at_size, manifest_of
from edge_centernet.runtimes import open_runtime

torch = pytest.importorskip("torch", reason="reads checkpoints")

from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from edge_centernet.network.fake_quant import prepare_qat, set_observing, settle_weights  # noqa: E402
from edge_centernet.train.validate import torch_manifest  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "edge_centernet" / "decoder" / "example" / "detect_dump.c"
Run = Callable[..., Any]
WIDE = InputSize(160, 96)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small 64x64 network that sees something everywhere, as training leaves it: float, and quantized."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    spec = ModelSpec("tiny-64", "1", 64, 64, ("circle", "square"))
    model = CenterNet(spec, Architecture("mobilenet_v2", 0.25, (16, 16, 16), 16)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.0)
    for head in (model.heat, model.size, model.offset):
        torch.nn.init.normal_(head.conv.weight, std=0.5)  # otherwise every output rests at its bias
    torch.nn.init.constant_(model.heat.conv.bias, -1.0)
    save_checkpoint(folder / "float.safetensors", model, "float")
    prepare_qat(model)
    set_observing(model, True)
    pictures = np.stack(qdq_factory.photos(4, 64, 64)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        model(torch.from_numpy(pictures.copy()).float())
    set_observing(model, False)
    settle_weights(model)
    save_checkpoint(folder / "qat.safetensors", model, "qat")
    return {name: folder / f"{name}.safetensors" for name in ("float", "qat")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of 100x80 pixels with one box each, as COCO JSON."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "train").mkdir()
    pictures = qdq_factory.photos(8, 80, 100)
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"train/{i}.png"), picture)
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in range(len(pictures))]
    boxes = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1 + i % 2,
            "bbox": [20, 10, 40, 50],
            "area": 2000,
            "iscrowd": 0,
        }
        for i in range(len(pictures))
    ]
    categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
    path = folder / "instances_train.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def heads_of(network: qdq.Network, picture: Any) -> list[Any]:
    """What plain arithmetic makes of a picture: heat, size, offset as stored."""
    x, _ = prepare(picture, network.manifest)
    return list(reference.plain_session(network.model).run(["heat", "size", "offset"], {"image": x}))


def torch_detections(checkpoint: Path, picture: Any, size: InputSize) -> Detections:
    """What PyTorch finds in a picture with the checkpoint's network at `size`, in pixels of the picture."""
    model, _ = load_checkpoint(checkpoint)
    model.spec = model.spec.resized(size)
    rgb, box = letterbox(picture, model.spec)
    with torch.no_grad():
        heads = model(torch.from_numpy(rgb).permute(2, 0, 1)[None].float())
    return decode(
        Heads(*(t[0].numpy() for t in heads)), torch_manifest(model.spec), threshold=0.3, frame=box.frame
    )


@pytest.mark.slow
def test_a_wide_network_is_trained_and_finds_the_same_in_every_file(
    run: Run, checkpoints: dict[str, Path], drawn: Path, tmp_path: Path
) -> None:
    """`train --size 160x96`, `convert`: all three engines find what PyTorch's int8 simulation finds."""
    settings = (
        "epochs=2", "early_part=0.5", "early_side=64", "qat_epochs=1", "batch_size=4", "workers=0", "lr=1e-5",
        "eval_every=0", "amp=off",
    )  # fmt: skip
    done = run(
        "train", "--data", drawn, "--out", tmp_path / "run", "--name", "wide",
        "--weights", checkpoints["float"], "--size", "160x96", "--device", "cpu",
        *(part for one in settings for part in ("--set", one)),
    )  # fmt: skip
    assert done.code == 0, done.err
    sides = [line.split(",")[2] for line in (tmp_path / "run/metrics.csv").read_text().splitlines()[1:]]
    assert sides == ["64", "160", "160"]
    assert json.loads((tmp_path / "run/config.json").read_text())["size"] == [160, 96]

    targets = [part for name in ("onnx", "openvino", "tflite") for part in ("--target", name)]
    done = run("convert", tmp_path / "run/wide.onnx", *targets, "--out", tmp_path)
    assert done.code == 0, done.err
    total = 0
    for picture in (*qdq_factory.photos(2, 120, 90, seed=5), *qdq_factory.photos(2, 70, 210, seed=6)):
        expected = torch_detections(tmp_path / "run/qat.safetensors", picture, WIDE)
        for suffix in (".onnx", ".xml", ".tflite"):
            with Detector(tmp_path / f"wide{suffix}", threshold=0.3) as detector:
                assert (detector.manifest.model.width, detector.manifest.model.height) == WIDE
                found = detector.detect(picture)
            assert found.class_id.tolist() == expected.class_id.tolist(), suffix
            np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-3)
            np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
        total += len(expected)
    assert total > 20


@pytest.mark.slow
@pytest.mark.parametrize("size", [WIDE, InputSize(96, 128), InputSize(128, 128)])
def test_an_interchange_file_and_its_checkpoint_change_size_alike(
    checkpoints: dict[str, Path], size: InputSize, tmp_path: Path
) -> None:
    """The stored form as it ships too: the same manifest, the same integers, and those are not constant."""
    from edge_centernet.qdq.storage import to_storage_form
    from edge_centernet.train.export import export_onnx

    path = export_onnx(checkpoints["qat"], tmp_path / "tiny.onnx")
    stored = tmp_path / "stored.onnx"
    onnx.save(to_storage_form(qdq.load(path).model), stored)
    networks = [open_network(source, size=size).network for source in (checkpoints["qat"], path, stored)]
    picture = qdq_factory.photos(1, 90, 120)[0]
    answers = [heads_of(network, picture) for network in networks]

    assert len({network.manifest.to_json() for network in networks}) == 1
    assert networks[0].manifest.model.input_size == size
    assert networks[0].manifest.heat.quant == qdq.load(path).manifest.heat.quant
    for other in answers[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(answers[0], other, strict=True))
    assert all(len(np.unique(head)) >= 8 for head in answers[0])


def test_a_network_that_is_made_wide_and_square_again_is_the_same(deconv_file: Path) -> None:
    """With MaxPool, DepthToSpace and cropping Slices inside."""
    model = onnx.load(deconv_file)
    there = at_size(model, WIDE)
    back = at_size(there, InputSize(128, 96))
    picture = qdq_factory.photos(1, 96, 128)[0]

    assert qdq.parse(there).heads["heat"].shape[1:] == (24, 40)
    for a, b in zip(heads_of(qdq.parse(model), picture), heads_of(qdq.parse(back), picture), strict=True):
        assert np.array_equal(a, b)


def test_a_resize_that_names_its_result_follows(mobilenet_file: Path) -> None:
    """Simplifiers write sizes in place of factors; both give the same network at another size."""
    model = onnx.load(mobilenet_file)
    named = onnx.load(mobilenet_file)
    shapes = {op.name: op.y.shape for op in qdq.parse(model).ops}
    for node in [n for n in named.graph.node if n.op_type == "Resize"]:
        sizes = np.array([1, *shapes[node.name]], np.int64)
        named.graph.initializer.append(numpy_helper.from_array(sizes, f"{node.name}/sizes"))
        node.input[:] = [node.input[0], "", "", f"{node.name}/sizes"]
    picture = qdq_factory.photos(1, 96, 160)[0]
    answers = [heads_of(qdq.parse(at_size(m, WIDE)), picture) for m in (model, named)]

    assert all(np.array_equal(a, b) for a, b in zip(*answers, strict=True))


def test_what_fits_one_size_only_is_refused(mobilenet_file: Path, tmp_path: Path) -> None:
    """An addition of a map as large as at 128x96; the file is named."""
    model = onnx.load(mobilenet_file)
    heat = next(node for node in model.graph.node if "heat" in node.output)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 5, 24, 32), np.float32), "fixed"))
    model.graph.node.insert(
        list(model.graph.node).index(heat),
        helper.make_node("Add", [heat.input[0], "fixed"], ["moved"], name="move"),
    )
    heat.input[0] = "moved"
    onnx.save(model, tmp_path / "fixed.onnx")

    with pytest.raises(ConversionError, match=r"fixed\.onnx: it does not fit an input of 160x96"):
        open_network(tmp_path / "fixed.onnx", size=WIDE)


@pytest.mark.slow
def test_a_float_network_is_measured_at_its_new_size(
    checkpoints: dict[str, Path], drawn: Path, tmp_path: Path
) -> None:
    """Images are needed as ever; the file tells the size in its model's name."""
    with pytest.raises(ConfigError, match="add --calibration"):
        open_network(checkpoints["float"], size=WIDE)
    network = open_network(checkpoints["float"], Calibration(drawn), size=WIDE).network

    assert (network.manifest.model.name, network.manifest.model.input_size) == ("tiny-160x96", WIDE)
    assert network.input.shape == (3, 96, 160)
    assert network.manifest.heat.shape == (1, 2, 24, 40)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `convert centernet-nano-256 --size 320x192` leaves."""
    from edge_centernet.cli import cli

    out = tmp_path_factory.mktemp("wide")
    targets = [part for name in ("tflite", "onnx") for part in ("--target", name)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", "centernet-nano-256", "--size", "320x192", *targets, "--out", str(out)])
    assert ended.value.code == 0
    return out


def test_a_shipped_model_changes_size_and_name(wide: Path) -> None:
    """Files, model and self-check say so; the engine answers the question inside."""
    assert sorted(path.name for path in wide.iterdir()) == [
        "centernet-nano-320x192.onnx",
        "centernet-nano-320x192.tflite",
    ]
    for path in wide.iterdir():
        manifest = read_manifest(path)
        assert (manifest.model.name, manifest.model.input_size) == (
            "centernet-nano-320x192",
            InputSize(320, 192),
        )
        assert manifest.verified
        runtime = open_runtime(path)
        assert selftest.problem(manifest, runtime.run(selftest.test_input(manifest))) is None
        runtime.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "against", [(), ("--against", "centernet-nano-256", "--float", "centernet-nano-256")]
)
def test_verify_holds_a_file_against_its_source_at_the_size_it_has(
    run: Run, wide: Path, against: Any
) -> None:
    """The shipped model is found by the name without the size; the heads agree to the integer."""
    done = run("verify", wide / "centernet-nano-320x192.tflite", *against)

    assert done.code == 0, done.err
    assert "0.000" in done.out


def test_the_c_library_finds_what_python_finds_in_a_wide_network(
    run: Run, wide: Path, compiler: str, tmp_path: Path
) -> None:
    """From dumped heads of the sample photo, through the header that `export-c` writes."""
    model = wide / "centernet-nano-320x192.tflite"
    assert run("export-c", model, "--out", tmp_path).code == 0
    text = (tmp_path / "centernet_nano_320x192_model.h").read_text()
    assert "input_width = 320," in text
    assert "input_height = 192," in text
    program = tmp_path / "detect_dump"
    example = tmp_path / "detect_dump.c"
    text = EXAMPLE.read_text()
    example.write_text(text.replace("centernet_nano_256", "centernet_nano_320x192"))
    subprocess.run(
        [compiler, f"-I{tmp_path}", example, LIBRARY / "edgecn_decode.c", "-lm", "-o", program], check=True
    )
    runtime = open_runtime(model)
    manifest = runtime.manifest
    heads = runtime.run(prepare(read_image(reference.ASSETS / "sample.jpg"), manifest)[0])
    found = decode(heads, manifest, threshold=manifest.model.threshold)
    for role, head in heads._asdict().items():
        (tmp_path / role).write_bytes(head.transpose(1, 2, 0).tobytes())
    runtime.close()
    said = subprocess.run(
        [program, *(tmp_path / role for role in Heads._fields)], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in said.stdout.splitlines()]

    assert [int(row[0]) for row in rows] == found.class_id.tolist()
    boxes = np.array([row[-4:] for row in rows], np.float32)
    np.testing.assert_array_equal(boxes, found.xyxy)
    assert len(rows) >= 2


def test_frigate_is_told_to_take_a_square_one(wide: Path) -> None:
    """It would squeeze its squares into the input; the message says how to get another."""
    network = qdq.load(wide / "centernet-nano-320x192.onnx")
    with pytest.raises(
        ConfigError, match=r"square input, .* got 320x192; .* 'edge-centernet convert --size 320"
    ):
        frigate.with_decoder(network, 0.3)


@pytest.mark.parametrize("size", ["100x96", "32", "512x384x3", "wide", "8192x64"])
def test_a_size_that_cannot_be_is_refused_before_any_work(run: Run, tmp_path: Path, size: str) -> None:
    """One line with what is expected, exit code 2, nothing written; `train` alike."""
    done = run("convert", "--size", size, "--out", tmp_path / "out")
    trained = run("train", "--data", tmp_path, "--size", size, "--out", tmp_path / "out")

    for one in (done, trained):
        assert one.code == 2
        assert (
            "expected WIDTHxHEIGHT such as 512x384, or one number for a square, each a multiple of 32"
            in " ".join(one.err.split())
        )
    assert not (tmp_path / "out").exists()


def test_a_manifest_stays_as_it_is_at_its_own_size(mobilenet_file: Path) -> None:
    """`--size` with what the file has already."""
    before = manifest_of(onnx.load(mobilenet_file))
    assert open_network(mobilenet_file, size=InputSize(128, 96)).network.manifest == before

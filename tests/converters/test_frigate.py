"""`export-frigate`: what Frigate reads in the model's table is what our decoder finds.

With a checkout of Frigate its own detector plugins are run as well:

    git clone --depth 1 https://github.com/blakeblackshear/frigate their-frigate
    EDGE_CENTERNET_FRIGATE=their-frigate pytest tests/converters/test_frigate.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import qdq_factory
import yaml
from numpy.typing import NDArray
from support import Result

from edge_centernet import Detections, Detector, Heads, qdq
from edge_centernet.converters import decoder_graph, frigate
from edge_centernet.decoder import decode
from edge_centernet.errors import ConfigError
from edge_centernet.model_zoo import find_model
from edge_centernet.qdq import reference
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.engines import openvino_core

MODELS = ("centernet-mbv2-320", "centernet-nano-256")
Run = Callable[[NDArray[Any]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frigate.Export]:
    """Both shipped models, exported."""
    folder = tmp_path_factory.mktemp("frigate")
    return {name: frigate.export(qdq.load(find_model(name, ".onnx")), name, folder) for name in MODELS}


def engine(kind: str, path: Path) -> Run:
    """A function from the picture to the table, as Frigate's runners call it."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: np.array(session.run(None, {session.get_inputs()[0].name: x})[0])
    compiled = openvino_core().compile_model(path, "CPU")
    return lambda x: np.array(compiled(x)[0])


def squares(side: int) -> list[NDArray[np.uint8]]:
    """What Frigate cuts out of pictures: squares of the sample photos, resized; (side, side, 3) BGR."""
    found = []
    for picture in reference.sample_pictures():
        size = min(picture.shape[:2])
        for part in (picture[:size, :size], picture[-size:, -size:]):
            found.append(cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR))
    return found


def as_frigate_feeds(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) BGR -> (1, 3, H, W) RGB: input_tensor nchw, input_pixel_format rgb, input_dtype int."""
    return np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("name", MODELS)
def test_it_finds_what_detect_finds(exported: dict[str, frigate.Export], name: str, kind: str) -> None:
    """On squares of the sample photos: the same classes, boxes to 0.1 pixels, scores to a thousandth."""
    run = engine(kind, exported[name].model)
    with Detector(name, runtime="onnxruntime", max_detections=frigate.ROWS) as detector:
        side, total = detector.manifest.model.width, 0
        for image in squares(side):
            expected, table = detector.detect(image), run(as_frigate_feeds(image))
            assert table.shape == (frigate.ROWS, frigate.COLUMNS)
            found = frigate.boxes_of(table)
            assert found.class_id.tolist() == expected.class_id.tolist()
            np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.1)
            np.testing.assert_allclose(found.score, expected.score, atol=0.001)
            assert (table[len(found) :] == [0, 0, 0, 0, 0, 0, -1]).all()
            total += len(found)
    assert total > 20


def decoder_alone(network: qdq.Network, threshold: float) -> Any:
    """The nodes of the decoder as a model of their own: three int8 heads in, the table out."""
    import onnx
    from onnx import TensorProto, helper

    heads = [helper.make_tensor_value_info(r, TensorProto.INT8, [1, *network.heads[r].shape]) for r in HEADS]
    table = helper.make_tensor_value_info(frigate.OUTPUT, TensorProto.FLOAT, [frigate.ROWS, frigate.COLUMNS])
    graph = helper.make_graph([], "decoder", heads, [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    frigate.add_table(model.graph, network, threshold)
    onnx.checker.check_model(model, full_check=True)
    return model


def random_heads(network: qdq.Network, seed: int) -> Heads:
    """Few different heats, for plateaus and ties, and boxes so large that neighbours are duplicate peaks."""
    rng = np.random.default_rng(seed)
    heat, size, offset = (network.heads[role].shape for role in HEADS)
    steps = int(rng.integers(2, 40))
    values = rng.integers(-128, 128, steps)
    density = rng.choice([0.002, 0.02, 0.3])
    hot = np.where(rng.random(heat) < density, rng.choice(values, heat), -128)
    low = int(rng.integers(-128, 60))
    if density < 0.01:
        low = 80  # few peaks are twins where boxes are small
    return Heads(
        hot.astype(np.int8),
        rng.integers(low, min(low + 40, 127), size).astype(np.int8),
        rng.integers(-128, 128, offset).astype(np.int8),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_the_decoder_in_the_graph_follows_the_rule(kind: str, tmp_path: Path) -> None:
    """Random heads with plateaus, ties, duplicates and too many peaks: what the decoder gives, in order."""
    network = qdq.load(find_model("centernet-nano-256", ".onnx"))
    manifest, side = network.manifest, network.manifest.model.width
    path = tmp_path / "decoder.onnx"
    path.write_bytes(decoder_alone(network, 0.2).SerializeToString())
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        run: Callable[[Heads], Any] = lambda h: session.run(  # noqa: E731
            None, {role: getattr(h, role)[None] for role in HEADS}
        )[0]
    else:
        compiled = openvino_core().compile_model(path, "CPU")
        run = lambda h: compiled({role: getattr(h, role)[None] for role in HEADS})[0]  # noqa: E731
    full = twins = 0
    for seed in range(200):
        heads = random_heads(network, seed)
        expected = decode(heads, manifest, threshold=0.2, max_detections=frigate.ROWS)
        found = frigate.boxes_of(run(heads))
        assert found.class_id.tolist() == expected.class_id.tolist(), seed
        np.testing.assert_allclose(found.xyxy, np.clip(expected.xyxy, 0, side), atol=1e-3, err_msg=str(seed))
        np.testing.assert_allclose(found.score, expected.score, atol=1e-5)
        full += len(found) == frigate.ROWS
        twins += len(found) < min(frigate.ROWS, peaks(heads, manifest))
    assert full > 20  # the limit was met
    assert twins > 5  # twins were dropped


def peaks(heads: Heads, manifest: Any) -> int:
    """How many there are before twins are dropped: with boxes of no size there are no twins."""
    lowest = np.full_like(heads.size, -128)
    return len(decode(heads._replace(size=lowest), manifest, threshold=0.2, max_detections=1000))


def test_the_command_writes_model_labels_and_configuration(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """The label map numbers the classes; the configuration names both files and the model's input."""
    done = run("export-frigate", "centernet-nano-256", "--out", tmp_path)
    assert done.code == 0, done.err
    agree = re.search(r"(\d+) of (\d+) boxes agree with the decoder's", done.out)
    assert agree is not None
    assert 20 < int(agree[1]) == int(agree[2])
    names = {f"centernet-nano-256{end}" for end in ("-frigate.onnx", "-labels.txt", "-frigate.yml")}
    assert {path.name for path in tmp_path.iterdir()} == names
    labels = (tmp_path / "centernet-nano-256-labels.txt").read_text().splitlines()
    assert (len(labels), labels[0], labels[14]) == (20, "0 airplane", "14 person")
    settings = yaml.safe_load((tmp_path / "centernet-nano-256-frigate.yml").read_text())
    assert settings["model"] == {
        "model_type": "yolonas",
        "path": "/config/model_cache/centernet-nano-256-frigate.onnx",
        "labelmap_path": "/config/model_cache/centernet-nano-256-labels.txt",
        "width": 256,
        "height": 256,
        "input_tensor": "nchw",
        "input_pixel_format": "rgb",
    }
    assert settings["detectors"] == {"edge_centernet": {"type": "openvino", "device": "CPU"}}
    assert settings["objects"]["track"] == ["person"]


def test_a_threshold_is_in_the_model(tmp_path: Path) -> None:
    """No row has a lower score; the metadata holds it. 0 and 1 give finite graphs: all rows, and none."""
    network = qdq.load(find_model("centernet-nano-256", ".onnx"))
    image = as_frigate_feeds(squares(256)[0])
    counts = []
    for threshold in (0.0, 0.5, 1.0):
        model = frigate.with_decoder(network, threshold)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        found = frigate.boxes_of(engine("onnx", tmp_path / "m.onnx")(image))
        assert (found.score >= threshold).all()
        counts.append(len(found))
        about = json.loads(next(entry.value for entry in model.metadata_props if entry.key == frigate.KEY))
        assert about["threshold"] == threshold
    assert counts[0] == frigate.ROWS > counts[1] > counts[2] == 0


def test_each_class_can_have_a_threshold_of_its_own(tmp_path: Path) -> None:
    """Nothing reaches 1: a model with that for what it finds at 0.3 finds none of it, and all of the rest."""
    network = qdq.load(find_model("centernet-nano-256", ".onnx"))
    image = as_frigate_feeds(squares(256)[0])
    classes = network.manifest.model.classes
    tables = []
    for own in ((0.3,) * len(classes), None):
        own = own or tuple(1.0 if k == tables[0].class_id[0] else 0.3 for k in range(len(classes)))
        (tmp_path / "m.onnx").write_bytes(frigate.with_decoder(network, own).SerializeToString())
        tables.append(frigate.boxes_of(engine("onnx", tmp_path / "m.onnx")(image)))
    assert len(tables[0]) > 0
    rest = tables[0][tables[0].class_id != tables[0].class_id[0]]
    assert np.array_equal(tables[1].xyxy, rest.xyxy)
    assert np.array_equal(tables[1].score, rest.score)


def test_what_is_not_square_is_refused(tmp_path: Path) -> None:
    """Frigate would squeeze its squares into it."""
    network = qdq.load(qdq_factory.write(tmp_path / "wide.onnx"))
    with pytest.raises(ConfigError, match=r"expected a network with a square input, .* got 128x96"):
        frigate.with_decoder(network, 0.3)


def test_a_model_that_finds_something_else_is_not_written(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decoder that looks for boxes of half the size: one clear line, exit code 2, an empty folder."""
    right = decoder_graph._edges
    monkeypatch.setattr(decoder_graph, "_edges", lambda nodes, axis, at, size, off, stride: right(
        nodes, axis, at, nodes("Mul", size, nodes.constant(np.float32(0.5))), off, stride
    ))  # fmt: skip
    done = run("export-frigate", "centernet-nano-256", "--out", tmp_path)
    assert done.code == 2
    assert "not written: in ONNX Runtime" in done.err
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    """A .tflite has no graph that can be extended; the way to one that has is told."""
    done = run("export-frigate", find_model("centernet-nano-256", ".tflite"), "--out", tmp_path)
    assert (done.code, "expected the .onnx file of the network" in done.err) == (2, True)


def test_it_is_not_taken_for_one_of_our_models(exported: dict[str, frigate.Export]) -> None:
    """Opening it with a runtime of ours says that it carries no manifest."""
    from edge_centernet.errors import EdgeCenterNetError

    with pytest.raises(EdgeCenterNetError, match="manifest"):
        open_runtime(exported["centernet-nano-256"].model)


# ---- with Frigate's own code ---------------------------------------------------------------------


def module(name: str, **content: Any) -> types.ModuleType:
    """A module with some names, in sys.modules."""
    made = types.ModuleType(name)
    made.__dict__.update(content)
    sys.modules[name] = made
    return made


class _Model(str, Enum):
    dfine, rfdetr, ssd, yolox, yolonas, yologeneric = (
        "dfine",
        "rfdetr",
        "ssd",
        "yolox",
        "yolonas",
        "yolo-generic",
    )


class _Tensor(str, Enum):
    nchw, nhwc = "nchw", "nhwc"


class _DType(str, Enum):
    float, float_denorm, int = "float", "float_denorm", "int"  # noqa: A003, RUF100


class _Api:
    """What Frigate's DetectionApi keeps."""

    def __init__(self, config: Any) -> None:
        self.detector_config, self.height, self.width = config, config.model.height, config.model.width


@pytest.fixture
def plugins() -> Iterator[Callable[[str], types.ModuleType]]:
    """Loads a plugin out of the checkout, unchanged; stand-ins replace what it imports of Frigate."""
    checkout = os.environ.get("EDGE_CENTERNET_FRIGATE")
    if not checkout:
        pytest.skip("set EDGE_CENTERNET_FRIGATE to a checkout of https://github.com/blakeblackshear/frigate")
    pydantic = pytest.importorskip("pydantic", reason="pip install pydantic, which Frigate's plugins import")
    known = set(sys.modules)
    for name in ("frigate", "frigate.detectors", "frigate.detectors.plugins", "frigate.util"):
        module(name).__path__ = []
    module("frigate.detectors.detection_api", DetectionApi=_Api)
    enums = {"ModelTypeEnum": _Model, "InputTensorEnum": _Tensor, "InputDTypeEnum": _DType}
    module("frigate.detectors.detector_config", BaseDetectorConfig=pydantic.BaseModel, **enums)
    unused = ("dfine", "rfdetr", "yolo", "yolox")
    module(
        "frigate.util.model",
        get_ort_providers=lambda *_, **__: (["CPUExecutionProvider"], [{}]),
        **{f"post_process_{kind}": None for kind in unused},
    )
    module(
        "frigate.util.rknn_converter", is_rknn_compatible=lambda *_: False, auto_convert_model=lambda *_: None
    )

    class Enrichment(Enum):
        paddleocr, yolov9_license_plate, jina_v1, jina_v2, facenet, arcface = range(6)

    module("frigate.embeddings").__path__ = []
    module("frigate.embeddings.types", EnrichmentModelTypeEnum=Enrichment)

    def load(name: str) -> types.ModuleType:
        path = Path(checkout, "frigate", "detectors", *name.split(".")).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(f"frigate.detectors.{name}", path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[f"frigate.detectors.{name}"] = loaded
        spec.loader.exec_module(loaded)
        return loaded

    if Path(checkout, "frigate/detectors/detection_runners.py").exists():  # from 0.17 on
        load("detection_runners")
    yield load
    for name in set(sys.modules) - known:
        if name.partition(".")[0] == "frigate":
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Frigate's code
@pytest.mark.parametrize(("plugin", "kind"), [("openvino", "OvDetector"), ("onnx", "ONNXDetector")])
@pytest.mark.parametrize("name", MODELS)
def test_frigates_own_plugins_find_what_detect_finds(
    plugins: Callable[[str], types.ModuleType],
    exported: dict[str, frigate.Export],
    name: str,
    plugin: str,
    kind: str,
) -> None:
    """Its (20, 6) rows of class, score, top, left, bottom, right as fractions: the boxes of Detector."""
    side = {"centernet-mbv2-320": 320, "centernet-nano-256": 256}[name]
    model = types.SimpleNamespace(
        path=str(exported[name].model), model_type=_Model.yolonas, height=side, width=side,
        input_tensor=_Tensor.nchw, input_pixel_format="rgb", input_dtype=_DType.int,
    )  # fmt: skip
    theirs = getattr(plugins(f"plugins.{plugin}"), kind)(types.SimpleNamespace(model=model, device="CPU"))
    with Detector(name, runtime="onnxruntime", max_detections=frigate.ROWS) as detector:
        total = 0
        for image in squares(side):
            expected, rows = detector.detect(image), theirs.detect_raw(as_frigate_feeds(image))
            found = from_frigate(rows[rows[:, 1] > 0], side)
            assert found.class_id.tolist() == expected.class_id.tolist()
            np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.1)
            np.testing.assert_allclose(found.score, expected.score, atol=0.001)
            total += len(found)
    assert total > 20


def from_frigate(rows: NDArray[np.float32], side: int) -> Detections:
    """(N, 6) class, score, top, left, bottom, right -> boxes in pixels of the square."""
    return Detections(rows[:, [3, 2, 5, 4]] * side, rows[:, 1], rows[:, 0].astype(np.int32))


def test_photos_in_which_nothing_is_found_are_no_failure(run: Callable[..., Result], tmp_path: Path) -> None:
    """The command says so, and not that 0 of 0 boxes agree."""
    done = run("export-frigate", "centernet-nano-256", "--out", tmp_path, "--threshold", "1")
    assert done.code == 0, done.err
    for engine_name in ("ONNX Runtime", "OpenVINO"):
        assert f"{engine_name}: no boxes in the sample photos, and none by the decoder" in done.out

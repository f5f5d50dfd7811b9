"""`convert --target openvino-boxes`: what Intel's Model API finds in the file is what our decoder finds.

Model API, for Python 3.11 or newer, requires an older OpenCV than `.[dev]` may bring, without needing it. For
these tests: `pip install --no-deps --target FOLDER openvino-model-api`, and EDGE_CENTERNET_MODEL_API=FOLDER.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdq_factory

from edge_centernet import Detections, Detector, qdq
from edge_centernet.artifact import read_manifest
from edge_centernet.converters import convert, openvino_boxes
from edge_centernet.errors import ConversionError
from edge_centernet.model_zoo import find_model
from edge_centernet.preprocess import letterbox
from edge_centernet.qdq import reference
from edge_centernet.runtimes.engines import OPENVINO, openvino_core

MODEL = "centernet-nano-256"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shipped model with its decoder inside."""
    folder, source = tmp_path_factory.mktemp("boxes"), find_model(MODEL, ".onnx")
    network = qdq.load(source)
    (artifact,) = convert(
        source, ["openvino-boxes"], "int8", folder, network=network, pictures=reference.sample_pictures()[:2]
    )
    assert artifact.path.name == f"{MODEL}-boxes.xml"
    return artifact.path


@pytest.fixture(scope="module")
def model_api(written: Path) -> Iterator[Any]:
    """The file, opened by the real package."""
    folder = os.environ.get("EDGE_CENTERNET_MODEL_API")
    if not folder:
        pytest.skip("set EDGE_CENTERNET_MODEL_API to a folder with openvino-model-api")
    OPENVINO.load()  # without its telemetry
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        from model_api.models import Model

        yield Model.create_model(str(written), device="CPU")


def test_model_api_opens_it_with_a_wrapper_it_knows(model_api: Any) -> None:
    """`SSD`, with labels, threshold and letterbox from the file."""
    assert type(model_api).__name__ == "SSD"
    params, spec = model_api.params, read_manifest(find_model(MODEL, ".xml")).model
    assert list(params.labels) == [name.replace(" ", "_") for name in spec.classes]
    assert params.confidence_threshold == spec.threshold
    assert (params.resize_type, params.pad_value) == ("fit_to_window_letterbox", spec.pad_value)


def test_model_api_finds_our_boxes(model_api: Any) -> None:
    """In pictures of the network's size, the sample photos: our boxes rounded to pixels, in our order."""
    total = 0
    with Detector(MODEL, runtime="openvino") as detector:
        spec = detector.manifest.model
        for picture in reference.sample_pictures():
            image = np.ascontiguousarray(letterbox(picture, spec)[0][..., ::-1])  # RGB -> BGR
            expected, found = detector.detect(image), model_api(image)
            assert found.labels.tolist() == expected.class_id.tolist()
            assert found.label_names == [spec.classes[i] for i in expected.class_id]
            np.testing.assert_allclose(found.bboxes, np.round(expected.xyxy), atol=1)  # 10.5 to either side
            np.testing.assert_allclose(found.scores, expected.score, atol=1e-5)
            total += len(expected)
    assert total > 12


def test_model_api_finds_the_objects_of_photos(model_api: Any) -> None:
    """It resizes photos by another interpolation: nearly all boxes still have a partner among ours."""
    total = matched = 0
    threshold = read_manifest(find_model(MODEL, ".xml")).model.threshold
    with Detector(MODEL, runtime="openvino", threshold=threshold - 0.1) as detector:
        for picture in reference.sample_pictures():
            theirs, ours = model_api(picture), detector.detect(picture)
            found = Detections(
                theirs.bboxes.astype(np.float32), theirs.scores, theirs.labels.astype(np.int32)
            )
            total += len(found)
            matched += reference.matches(found, ours)
    assert total > 12
    assert matched >= 0.9 * total


def test_it_is_an_artifact_of_ours_too(written: Path) -> None:
    """`detect` opens it by its heads and finds what it finds with the plain file."""
    picture = reference.sample_pictures()[0]
    with Detector(written) as one, Detector(MODEL, runtime="openvino") as other:
        assert np.array_equal(one.detect(picture).xyxy, other.detect(picture).xyxy)


def test_outputs_have_the_shapes_of_an_ssd(written: Path) -> None:
    """Boxes within 0..1 and scores of 100 rows; best first, zeros behind the last peak."""
    compiled: Any = openvino_core().compile_model(written, "CPU")
    found = compiled(np.full((1, 3, 256, 256), 128, np.uint8))
    bboxes, scores, labels = (found[name] for name in ("bboxes", "scores", "labels"))
    assert (bboxes.shape, scores.shape, labels.shape) == ((1, 100, 4), (1, 100), (1, 100))
    assert (bboxes.min() >= 0, bboxes.max() <= 1, (np.diff(scores[0]) <= 0).all()) == (True, True, True)


def test_a_decoder_that_finds_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With boxes of half the size in the graph nothing is left in the folder."""
    right = openvino_boxes.decode_nodes

    def wrong(nodes: Any, *rest: Any) -> Any:
        found = right(nodes, *rest)
        half = nodes.constant(np.float32(0.5))
        return found._replace(edges=tuple(nodes("Mul", edge, half) for edge in found.edges))

    monkeypatch.setattr(openvino_boxes, "decode_nodes", wrong)
    with pytest.raises(ConversionError, match=r"openvino-boxes: \d+ of \d+ boxes in the graph agree"):
        convert(
            find_model(MODEL, ".onnx"), ["openvino-boxes"], "int8", tmp_path,
            pictures=reference.sample_pictures()[:2],
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_float_is_refused(tmp_path: Path) -> None:
    """The decoder's nodes compare the heads' integers."""
    network = qdq.load(qdq_factory.write(tmp_path / "x.onnx"))
    with pytest.raises(ConversionError, match="expected int8"):
        openvino_boxes.convert(network, "fp32")

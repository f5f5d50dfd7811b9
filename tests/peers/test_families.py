"""The adapters of other people's detectors read their networks as those projects do.

No weights and no code of theirs are here. Each expected value comes from a plain loop that follows the
project's own post-processing line by line, as the file named in the test states it, on random outputs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edge_centernet
from edge_centernet.boxes import iou
from edge_centernet.peers import nanodet, ssd, yolo
from edge_centernet.peers.common import COCO, COCO_IDS, Found, Frame, letterbox, planes, stretch, suppress
from edge_centernet.peers.engines import _ncnn_size
from edge_centernet.peers.families import PeerDetector, peer_file

Row = tuple[float, float, float, float, float, int]  # left, top, right, bottom, score, class
SIDE = 96
ASSETS = Path(edge_centernet.__file__).parent / "assets"
ROOT = Path(__file__).resolve().parents[2]
FETCHED = ROOT / "build" / "peers"  # where scripts/peers/fetch.py puts what npm brings
PLUS = ROOT.parent / "shared" / "data" / "weights" / "nanodet-plus-m_416.param"
# In sample.jpg, 1126 x 512 pixels; measured by hand, good to about 20 pixels.
PERSON, CAT = (18, 14, 368, 512), (520, 0, 1110, 512)


def softmax(values: NDArray[Any]) -> list[float]:
    """Of a vector."""
    odds = [math.exp(float(value)) for value in values]
    return [odd / sum(odds) for odd in odds]


def logistic(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + math.exp(-x))


def same(found: Found, expected: list[Row]) -> None:
    """Whatever the order."""
    rows = [
        (*box, score, int(k))
        for box, score, k in zip(found.xyxy.tolist(), found.score.tolist(), found.class_id, strict=True)
    ]
    assert len(rows) == len(expected) > 5
    for mine, theirs in zip(
        sorted(rows, key=lambda r: r[4:]), sorted(expected, key=lambda r: r[4:]), strict=True
    ):
        assert mine[5] == theirs[5]
        np.testing.assert_allclose(mine[:5], theirs[:5], rtol=1e-4, atol=1e-3)


def probabilities(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Mostly small, some above 0.9."""
    return (rng.random(shape) ** 8).astype(np.float32)


def test_nanodet_boxes_are_expected_distances_from_cell_centres() -> None:
    """demo_ncnn/python/demo_ncnn.py, postprocess; outputs may come in any order."""
    rng = np.random.default_rng(1)
    outputs, expected = [], []
    for stride in (32, 8, 16):
        cells = SIDE // stride
        scores = probabilities(rng, cells * cells, 80)
        sides = rng.normal(0, 2, (cells * cells, 44)).astype(np.float32)
        outputs += [sides[None], scores[None]]
        for cell, class_id in np.argwhere(scores > 0.9):
            x, y = (cell % cells + 0.5) * stride, (cell // cells + 0.5) * stride
            far = [
                sum(i * p for i, p in enumerate(softmax(part))) * stride
                for part in sides[cell].reshape(4, 11)
            ]
            box = (x - far[0], y - far[1], x + far[2], y + far[3])
            expected.append((*box, float(scores[cell, class_id]), int(class_id)))
    same(nanodet.decode(outputs, SIDE, SIDE, 0.9), expected)


def test_nanodet_plus_measures_from_the_corner_of_a_cell() -> None:
    """nanodet/model/head/nanodet_plus_head.py: get_single_level_center_priors adds no half; one output."""
    rng = np.random.default_rng(2)
    parts, expected = [], []
    for stride in (8, 16, 32, 64):
        cells = math.ceil(SIDE / stride)
        scores = probabilities(rng, cells * cells, 80)
        sides = rng.normal(0, 2, (cells * cells, 32)).astype(np.float32)
        parts.append(np.concatenate([scores, sides], axis=1))
        for cell, class_id in np.argwhere(scores > 0.9):
            x, y = (cell % cells) * stride, (cell // cells) * stride
            far = [
                sum(i * p for i, p in enumerate(softmax(part))) * stride for part in sides[cell].reshape(4, 8)
            ]
            box = (x - far[0], y - far[1], x + far[2], y + far[3])
            expected.append((*box, float(scores[cell, class_id]), int(class_id)))
    same(nanodet.decode_plus([np.concatenate(parts)[None]], SIDE, SIDE, 0.9), expected)


def test_yolo_fastestv2_boxes_come_from_anchors_and_shared_classes() -> None:
    """sample/ncnn/src/yolo-fastestv2.cpp, getCategory and predHandle, for every class above the threshold."""
    rng = np.random.default_rng(3)
    anchors = [12.64, 19.39, 37.88, 51.48, 55.71, 138.31, 126.91, 78.23, 131.57, 214.55, 279.92, 258.87]
    outputs, expected = [], []
    for number, stride in enumerate((16, 32)):
        cells = SIDE // stride
        values = probabilities(rng, cells, cells, 95) ** 0.2
        outputs.append(values[None])
        for h, w, b in np.ndindex(cells, cells, 3):
            v = values[h, w].astype(float)
            for class_id in range(80):
                score = v[12 + b] * v[15 + class_id]
                if score > 0.95:
                    cx, cy = (v[4 * b] * 2 - 0.5 + w) * stride, (v[4 * b + 1] * 2 - 0.5 + h) * stride
                    width = (v[4 * b + 2] * 2) ** 2 * anchors[number * 6 + b * 2]
                    height = (v[4 * b + 3] * 2) ** 2 * anchors[number * 6 + b * 2 + 1]
                    box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
                    expected.append((*box, score, class_id))
    same(yolo.decode_fastestv2(outputs[::-1], SIDE, SIDE, 0.95), expected)


def test_fastestdet_weighs_objectness_and_class() -> None:
    """example/ncnn/FastestDet.cpp: objectness^0.6 * class^0.4, tanh offsets, sigmoid sides of the input."""
    rng = np.random.default_rng(4)
    height, width = SIDE, 2 * SIDE
    cells = rng.normal(0, 1, (85, height // 16, width // 16)).astype(np.float32)
    cells[0], cells[5:] = probabilities(rng, *cells[0].shape) ** 0.3, probabilities(rng, *cells[5:].shape)
    expected = []
    for h, w in np.ndindex(cells.shape[1:]):
        v = cells[:, h, w].astype(float)
        class_id = int(np.argmax(v[5:]))
        score = v[5 + class_id] ** 0.4 * v[0] ** 0.6
        if score > 0.6:
            cx, cy = (
                (w + math.tanh(v[1])) / cells.shape[2] * width,
                (h + math.tanh(v[2])) / cells.shape[1] * height,
            )
            bw, bh = logistic(v[3]) * width, logistic(v[4]) * height
            expected.append((cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2, score, class_id))
    same(yolo.decode_fastestdet([cells[None]], height, width, 0.6), expected)


def test_yolox_boxes_are_exponentials_around_cells() -> None:
    """yolox/utils/demo_utils.py (demo_postprocess) and demo/ONNXRuntime/onnx_inference.py."""
    rng = np.random.default_rng(5)
    rows, expected = [], []
    for stride in (8, 16, 32):
        for y, x in np.ndindex(SIDE // stride, SIDE // stride):
            v = np.concatenate([rng.normal(0, 1, 4), probabilities(rng, 81) ** 0.5]).astype(np.float32)
            rows.append(v)
            class_id = int(np.argmax(v[5:]))
            score = float(v[4]) * float(v[5 + class_id])
            if score > 0.7:
                cx, cy = (float(v[0]) + x) * stride, (float(v[1]) + y) * stride
                width, height = math.exp(v[2]) * stride, math.exp(v[3]) * stride
                expected.append(
                    (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2, score, class_id)
                )
    same(yolo.decode_yolox([np.array(rows)[None]], SIDE, SIDE, 0.7), expected)


def test_ssd_anchors_follow_the_published_configuration() -> None:
    """ssd_mobilenet_v2_coco.config: six maps, min_scale 0.2, max_scale 0.95, reduce_boxes_in_lowest_layer."""
    scales = [0.2 + (0.95 - 0.2) * i / 5 for i in range(6)] + [1.0]
    expected = []
    for number, side in enumerate((19, 10, 5, 3, 2, 1)):
        if number == 0:
            shapes = [(0.1, 1.0), (0.2, 2.0), (0.2, 0.5)]
        else:
            shapes = [(scales[number], ratio) for ratio in (1, 2, 1 / 2, 3, 0.3333)]
            shapes.append((math.sqrt(scales[number] * scales[number + 1]), 1.0))
        for y in range(side):
            for x in range(side):
                for scale, ratio in shapes:
                    expected.append(
                        [
                            (y + 0.5) / side,
                            (x + 0.5) / side,
                            scale / math.sqrt(ratio),
                            scale * math.sqrt(ratio),
                        ]
                    )
    assert ssd.anchors().shape == (1917, 4)
    np.testing.assert_allclose(ssd.anchors(), expected, rtol=1e-5)


def test_raw_ssd_decodes_faster_rcnn_codes_and_leaves_background_out() -> None:
    """object_detection/box_coders/faster_rcnn_box_coder.py, _decode, with scale factors 10, 10, 5, 5."""
    rng = np.random.default_rng(6)
    codes = rng.normal(0, 1, (1, 1917, 4)).astype(np.float32)
    logits = rng.normal(-6, 2, (1, 1917, 91)).astype(np.float32)
    logits[..., 0] = 9  # the background's score means nothing to the others
    expected = []
    for anchor, raw, scores in zip(
        ssd.anchors().astype(float), codes[0].astype(float), logits[0], strict=True
    ):
        y, x, h, w = anchor
        cy, cx = raw[0] / 10 * h + y, raw[1] / 10 * w + x
        bh, bw = math.exp(raw[2] / 5) * h, math.exp(raw[3] / 5) * w
        box = ((cx - bw / 2) * 320, (cy - bh / 2) * 300, (cx + bw / 2) * 320, (cy + bh / 2) * 300)
        for coco_id in range(1, 91):
            if logistic(float(scores[coco_id])) > 0.7 and coco_id in COCO_IDS:
                expected.append((*box, logistic(float(scores[coco_id])), COCO_IDS.index(coco_id)))
    same(ssd.decode_raw([logits, codes], 300, 320, 0.7), expected)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 2, 0, 3), (3, 0, 2, 1)])
def test_tflite_ssd_outputs_are_told_apart_in_any_order(order: tuple[int, ...]) -> None:
    """Boxes are top, left, bottom, right; class 0 is COCO's id 1; only `count` rows are valid."""
    boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.4, 0.4]]], np.float32)
    classes, scores = np.array([[0.0, 16.0, 5.0]], np.float32), np.array([[0.9, 0.8, 0.7]], np.float32)
    outputs = [boxes, classes, scores, np.array([2.0], np.float32)]
    found = ssd.decode_tflite([outputs[i] for i in order], 300, 320, 0.3)
    np.testing.assert_allclose(found.xyxy, [[64, 30, 192, 150], [0, 0, 320, 300]], rtol=1e-5)
    assert [COCO[k] for k in found.class_id] == ["person", "cat"]  # COCO's ids 1 and 17
    np.testing.assert_allclose(found.score, [0.9, 0.8])


def test_coco_ids_are_the_80_of_90() -> None:
    """The last category, toothbrush, is number 90; cat is 17, couch 63."""
    assert len(COCO_IDS) == len(COCO) == 80
    assert {COCO[COCO_IDS.index(i)] for i in (1, 17, 63, 90)} == {"person", "cat", "couch", "toothbrush"}


def test_a_box_survives_the_way_into_a_letterbox_and_back() -> None:
    """Centred and in the corner, a rectangle drawn on the image is found where it was."""
    image = np.zeros((200, 300, 3), np.uint8)
    image[50:150, 90:180] = 255
    for centred in (True, False):
        pixels, frame = letterbox(image, 416, 416, pad=0, centred=centred)
        rows, columns = np.nonzero(pixels[..., 0] > 127)
        seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        np.testing.assert_allclose(frame.to_image(seen), [[90, 50, 180, 150]], atol=1.0)
        assert bool(abs(pixels.shape[0] - rows.max() - 1 - rows.min()) <= 1) is centred


def test_planes_keep_the_order_of_channels_and_normalise() -> None:
    """(pixel - mean) / std for each channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    expected = (pixels.transpose(2, 0, 1)[None] - np.reshape(nanodet.MEAN, (1, 3, 1, 1))) / np.reshape(
        nanodet.STD, (1, 3, 1, 1)
    )
    np.testing.assert_allclose(planes(pixels, nanodet.MEAN, nanodet.STD), expected, atol=1e-5)


def test_tflite_ssd_sees_rgb() -> None:
    """As bytes, as bytes less 128, and as -1..1."""
    image = np.full((10, 10, 3), (255, 128, 0), np.uint8)  # blue 255
    assert ssd.prepare_tflite(image, 4, 4, "uint8")[0][0, 0, 0].tolist() == [0, 128, 255]
    assert ssd.prepare_tflite(image, 4, 4, "int8")[0][0, 0, 0].tolist() == [-128, 0, 127]
    np.testing.assert_allclose(
        ssd.prepare_tflite(image, 4, 4, "float32")[0][0, 0, 0], [-1, 0.5 / 127.5, 1], atol=1e-6
    )
    np.testing.assert_allclose(ssd.prepare_raw(image, 4, 4)[0][0, :, 0, 0], [-1, 0.5 / 127.5, 1], atol=1e-6)


def test_suppression_is_by_class_and_best_first() -> None:
    """Of two boxes in one place the worse goes, unless of another class; boxes end at the image's edge."""
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [-5, -5, 400, 3]], np.float32)
    found = Found(boxes, np.array([0.5, 0.9, 0.4, 0.3], np.float32), np.array([1, 1, 2, 1]))
    kept = suppress(found, Frame((1, 1), (0, 0), (320, 200)), 0.5)
    np.testing.assert_allclose(kept.score, [0.9, 0.4, 0.3])
    assert kept.class_id.tolist() == [1, 2, 1]
    assert kept.xyxy[2].tolist() == [0, 0, 320, 3]
    assert len(suppress(found, Frame((1, 1), (0, 0), (320, 200)), None)) == 4


def test_stretched_boxes_scale_by_axis() -> None:
    """100 x 50 stretched to 300 x 300: x by 3, y by 6."""
    _, frame = stretch(np.zeros((50, 100, 3), np.uint8), 300, 300)
    assert frame.to_image(np.array([[30, 60, 300, 300]], np.float32)).tolist() == [[10, 10, 100, 50]]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("nanodet-plus-m_416.param", "nanodet-plus"),
        ("NanoDet_plus-m-1.5x_416.onnx", "nanodet-plus"),
        ("nanodet_m.onnx", "nanodet-m"),
        ("ssdlite-mbv2.onnx", "ssdlite-mbv2"),
        ("yolox_nano.onnx", "yolox-nano"),
        ("centernet-mbv2-320.onnx", None),
    ],
)
def test_the_family_is_read_from_the_name(name: str, family: str | None, tmp_path: Path) -> None:
    """As their authors name them; what begins with none of them is ours."""
    file = tmp_path / name
    file.touch()
    assert peer_file(str(file)) == (None if family is None else (family, file))
    assert peer_file(f"fastestdet={file}") == ("fastestdet", file)


def test_an_ncnn_file_without_a_size_has_that_of_its_name(tmp_path: Path) -> None:
    """nanodet-plus-m_416.param says 0=416 nowhere; where the layer Input does, that counts."""
    for name, line, size in (
        ("m_416", "Input data 0 1 data", (416, 416)),
        ("m_416", "Input data 0 1 data 0=320 1=256 2=3", (256, 320)),
        ("m-1.5x", "Input data 0 1 data", (320, 320)),
    ):
        file = tmp_path / f"{name}.param"
        file.write_text(f"7767517\n1 1\n{line}\n")
        assert _ncnn_size(file) == size


@pytest.mark.parametrize(
    ("file", "needs"),
    [
        (FETCHED / "ssdlite-mbv2.onnx", "python scripts/peers/fetch.py build/peers"),
        (FETCHED / "nanodet-g.onnx", "python scripts/peers/fetch.py build/peers"),
        (PLUS, "../shared/data/weights and ncnn"),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_a_peer_finds_person_and_cat(file: Path, needs: str) -> None:
    """The real network on the sample photo: both, where they are."""
    if not file.is_file():
        pytest.skip(f"{file.name} is not here: needs {needs}")
    if file.suffix == ".param":
        pytest.importorskip("ncnn")
    peer = peer_file(str(file))
    assert peer is not None
    detector = PeerDetector(*peer, threads=1)
    result, ms = detector.detect_timed(cv2.imread(str(ASSETS / "sample.jpg")).astype(np.uint8), 0.3)
    assert set(ms) == {"preprocess", "inference", "decode"}
    for name, box in (("person", PERSON), ("cat", CAT)):
        mine = result.xyxy[result.class_id == COCO.index(name)]
        assert iou(mine, np.array([box])).max() > 0.7

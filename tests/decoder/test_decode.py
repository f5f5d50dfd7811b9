"""`decode`: heads and a manifest in, Detections in network-input pixels out."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_centernet.decoder import decode
from edge_centernet.decoder.rule import BOX
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.heads import Heads
from edge_centernet.manifest import HeatUnit, Manifest, ModelSpec, Quant, TensorSpec

LOGITS, SIZES, OFFSETS = Quant(0.0625, 16), Quant(0.25, -100), Quant(1 / 128, -128)


def make_manifest(dtype: str, unit: HeatUnit = "logit", heat_quant: Quant = LOGITS) -> Manifest:
    """Two classes, 32x64 pixels, so 8x16 cells."""
    quants = (
        (heat_quant, SIZES, OFFSETS) if dtype != "uint8" else (heat_quant, Quant(0.25, 0), Quant(1 / 256, 0))
    )
    heads = {
        role: TensorSpec(role, (1, channels, 8, 16), "NCHW", dtype, None if dtype == "float32" else quant)
        for role, channels, quant in zip(("heat", "size", "offset"), (2, 2, 2), quants, strict=True)
    }
    image = TensorSpec("image", (1, 3, 32, 64), "NCHW", "uint8", Quant(1 / 128, 128))
    model = ModelSpec("tiny", "1", 32, 64, ("cat", "dog"), heat_unit=unit)
    return Manifest(model, image, **heads, precision="fp32" if dtype == "float32" else "int8")


def make_heads(peaks: dict[tuple[int, int, int], int]) -> Heads:
    """int8 heads: (class, y, x) -> stored heat; every size 6 x 4 cells, every offset 0.5, 0.25."""
    heat = np.full((2, 8, 16), -128, np.int8)
    for where, stored in peaks.items():
        heat[where] = stored
    size = np.broadcast_to(np.int8([-76, -84])[:, None, None], (2, 8, 16)).copy()
    offset = np.broadcast_to(np.int8([-64, -96])[:, None, None], (2, 8, 16)).copy()
    return Heads(heat, size, offset)


def as_nhwc(array: NDArray[Any]) -> NDArray[Any]:
    """The (C, H, W) view of NHWC memory."""
    return np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_boxes_scores_and_classes(backend: str, layout: str) -> None:
    """Two peaks come out best first with sigmoid scores and boxes worked out by hand, not clipped."""
    heads = make_heads({(0, 1, 2): 32, (1, 5, 10): 80})
    if layout == "NHWC":
        heads = Heads(*(as_nhwc(head) for head in heads))
    found = decode(heads, make_manifest("int8"), backend=backend)
    assert found.class_id.tolist() == [1, 0]
    # x = (10 + 0.5 -+ 3) * 4, y = (5 + 0.25 -+ 2) * 4; then x = (2 + 0.5 -+ 3) * 4, y = (1 + 0.25 -+ 2) * 4
    assert found.xyxy.tolist() == [[30.0, 13.0, 54.0, 29.0], [-2.0, -3.0, 22.0, 13.0]]
    # logits 0.0625 * (80 - 16) = 4 and 0.0625 * (32 - 16) = 1
    assert found.score.tolist() == [np.float32(1 / (1 + np.exp(-4.0))), np.float32(1 / (1 + np.exp(-1.0)))]


def test_boxes_in_the_image_are_clipped_and_those_in_the_padding_left_out(backend: str) -> None:
    """An image of 80x100 in columns 19 to 45 of the input: one box in it, one half outside, one beside."""
    heads = make_heads(
        {(0, 5, 10): 80, (1, 5, 4): 60, (0, 2, 15): 40}
    )  # x of the boxes: 30..54, 6..30, 50..74
    found = decode(heads, make_manifest("int8"), frame=(80, 100, 26, 32, 19, 0), backend=backend)
    assert found.class_id.tolist() == [0, 1]
    middle, left = (30 - 19) * 80 / 26, (13 * 100 / 32, 29 * 100 / 32)
    expected = [[middle, left[0], 80, left[1]], [0, left[0], middle, left[1]]]
    np.testing.assert_allclose(found.xyxy, expected, rtol=1e-6)


def test_float_heads_of_the_same_values_give_the_same_boxes(backend: str) -> None:
    """Dequantizing before decoding instead of after changes nothing."""
    heads = make_heads({(0, 1, 2): 32, (1, 5, 10): 80, (1, 6, 3): 40})
    quants = (LOGITS, SIZES, OFFSETS)
    real = [
        np.float32((h.astype(np.float32) - q.zero_point) * q.scale)
        for h, q in zip(heads, quants, strict=True)
    ]
    stored = decode(heads, make_manifest("int8"), backend=backend)
    floats = decode(Heads(*real), make_manifest("float32"), backend=backend)
    assert len(stored) == 3
    assert stored.xyxy.tolist() == floats.xyxy.tolist()
    assert stored.score.tolist() == floats.score.tolist()


def test_threshold_is_a_probability_and_inclusive(backend: str) -> None:
    """Logit 0 is probability 0.5: kept at 0.5, dropped at the next double above."""
    heads, manifest = make_heads({(0, 3, 3): 16}), make_manifest("int8")
    assert decode(heads, manifest, threshold=0.5, backend=backend).score.tolist() == [0.5]
    assert len(decode(heads, manifest, threshold=float(np.nextafter(0.5, 1)), backend=backend)) == 0


def test_threshold_between_two_stored_values(backend: str) -> None:
    """sigmoid(1/16) = 0.5156 and sigmoid(2/16) = 0.5312: a threshold of 0.52 separates stored 17 from 18."""
    heads = make_heads({(0, 3, 3): 17, (0, 3, 9): 18})
    found = decode(heads, make_manifest("int8"), threshold=0.52, backend=backend)
    assert found.score.round(4).tolist() == [np.float32(0.5312)]


def test_threshold_0_keeps_all_and_1_nothing(backend: str) -> None:
    """Every peak passes 0, even on the lowest plateau; no finite logit is certain."""
    heads, manifest = make_heads({(0, 3, 3): 127}), make_manifest("int8")
    assert decode(heads, manifest, threshold=0, backend=backend).class_id.tolist() == [0, 0, 1]
    assert len(decode(heads, manifest, threshold=1, backend=backend)) == 0


def test_heat_may_hold_probabilities(backend: str) -> None:
    """Stored probabilities are compared and returned as they are, within 0..1."""
    manifest = make_manifest("uint8", "probability", Quant(1 / 200, 0))
    heat = np.zeros((2, 8, 16), np.uint8)
    heat[0, 2, 2], heat[0, 2, 6], heat[1, 6, 6] = 100, 99, 255
    other = np.zeros((2, 8, 16), np.uint8)
    found = decode(Heads(heat, other, other), manifest, threshold=0.5, backend=backend)
    assert found.score.tolist() == [1.0, 0.5]
    assert found.class_id.tolist() == [1, 0]


def test_extreme_logits_do_not_warn(backend: str) -> None:
    """sigmoid(+-inf) and sigmoid(-1e30) are 1 and 0, silently."""
    heat = np.full((2, 8, 16), -np.inf, np.float32)
    heat[0, 2, 2], heat[1, 5, 5] = np.inf, -1e30
    other = np.zeros((2, 8, 16), np.float32)
    found = decode(
        Heads(heat, other, other), make_manifest("float32"), threshold=0, max_detections=2, backend=backend
    )
    assert found.score.tolist() == [1.0, 0.0]


def test_max_detections_keeps_the_best(backend: str) -> None:
    """One of two, none of two, and any number larger than the map."""
    heads, manifest = make_heads({(0, 1, 2): 32, (1, 5, 10): 80}), make_manifest("int8")
    counts = {
        n: decode(heads, manifest, max_detections=n, backend=backend).class_id.tolist()
        for n in (0, 1, 10**12)
    }
    assert counts == {0: [], 1: [1], 10**12: [1, 0]}


def test_results_do_not_alias_the_heads(backend: str) -> None:
    """Boxes stay when the runtime overwrites its outputs."""
    heads = make_heads({(0, 1, 2): 32})
    found = decode(heads, make_manifest("int8"), backend=backend)
    heads.heat.fill(0)
    heads.size.fill(0)
    assert found.xyxy.tolist() == [[-2.0, -3.0, 22.0, 13.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold: expected a probability 0..1, got -0.1"),
        ({"threshold": 1.5}, "threshold: expected a probability 0..1, got 1.5"),
        ({"threshold": float("nan")}, "threshold: expected a probability 0..1, got nan"),
        ({"max_detections": -1}, "max_detections: expected an integer >= 0, got -1"),
        ({"max_detections": 2.5}, "max_detections: expected an integer >= 0, got 2.5"),
        ({"backend": "torch"}, "decoder backend: expected 'c' or 'numpy', got 'torch'"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    """One line: what was expected, what came."""
    with pytest.raises(ConfigError) as error:
        decode(make_heads({}), make_manifest("int8"), **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 16, 8), np.int8), r"size head: expected \(2, 8, 16\) int8 .* got \(2, 16, 8\) int8"),
        (
            np.zeros((2, 8, 16), np.float32),
            r"size head: expected \(2, 8, 16\) int8 .* got \(2, 8, 16\) float32",
        ),
    ],
)
def test_heads_of_another_model_are_refused(wrong: NDArray[Any], message: str) -> None:
    """Shapes and dtypes must be the manifest's."""
    with pytest.raises(ArtifactError, match=message):
        decode(make_heads({})._replace(size=wrong), make_manifest("int8"))


WITHOUT_EXTENSION = """
import sys
sys.modules["edge_centernet.decoder._decoder"] = None  # importing it now fails, as where it was never built
import edge_centernet.decoder as decoder
from edge_centernet.errors import ConfigError
try:
    decoder.decode((), None, backend="c")
except ConfigError as error:
    print(decoder.BACKEND, "|", error)
"""


def test_without_the_extension_numpy_serves() -> None:
    """Where nothing was compiled the package imports, says so, and asking for C names the way out."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "numpy | decoder backend: expected the C extension, which is not built: reinstall edge-centernet "
        "where there is a C compiler, or use backend='numpy' (same boxes, slower)\n"
    )


CAT = (10, 20, 110, 220)


def kept(
    decoder: ModuleType, xyxy: list[tuple[int, ...]], classes: list[int], any_class: bool = False
) -> list[int]:
    """Which of the boxes, best first, are left."""
    boxes = np.zeros(len(xyxy), BOX)
    for column, name in enumerate(("x1", "y1", "x2", "y2")):
        boxes[name] = [box[column] for box in xyxy]
    boxes["class_id"], boxes["cell"] = classes, range(len(xyxy))
    found: list[int] = decoder.drop_duplicate_peaks(boxes, any_class)["cell"].tolist()
    return found


@pytest.mark.parametrize(
    ("other", "stays"),
    [
        (CAT, False),
        ((22, 45, 118, 250), False),  # centre 10 % of the width and 14 % of the height away
        ((26, 20, 126, 220), True),  # 16 % of the width away: another object
        ((40, 80, 70, 160), True),  # concentric, but a third of the size: a cat's kitten
        ((12, 22, 108, 118), True),  # far in y alone
    ],
)
def test_only_concentric_boxes_of_like_size_are_twins(
    decoder: ModuleType, other: tuple[int, ...], stays: bool
) -> None:
    """The stronger box always stays; the weaker goes if centre and size nearly agree."""
    assert kept(decoder, [CAT, other], [0, 0]) == ([0, 1] if stays else [0])


def test_other_classes_are_twins_only_where_asked_for(decoder: ModuleType) -> None:
    """A rider on a horse may have the same box; a network unsure of the class gives two on one object."""
    assert kept(decoder, [CAT, CAT], [0, 1]) == [0, 1]
    assert kept(decoder, [CAT, CAT], [0, 1], any_class=True) == [0]


def test_a_dropped_box_drops_nobody(decoder: ModuleType) -> None:
    """Each box is compared with those that stay: a chain does not swallow its far end."""
    assert kept(decoder, [(0, 0, 100, 100), (12, 0, 112, 100), (24, 0, 124, 100)], [0, 0, 0]) == [0, 2]


def test_boxes_without_area_are_kept_unless_they_coincide(decoder: ModuleType) -> None:
    """Sizes of zero (an untrained network) are no reason to drop a peak elsewhere."""
    assert kept(decoder, [(5, 5, 5, 5), (9, 5, 9, 5), (5, 5, 5, 5)], [0, 0, 0]) == [0, 1]


def test_nothing_found_is_nothing_kept(decoder: ModuleType) -> None:
    """No box, no error."""
    assert kept(decoder, [], []) == []

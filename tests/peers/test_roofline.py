"""scripts/roofline.py counts what a layer has to do, and bounds it by what the processor can do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import roofline
from roofline import Peaks, Work

from edge_centernet.converters import qdq
from edge_centernet.manifest import Quant
from edge_centernet.models import find_model
from edge_centernet.progress import unseen

ROOT = Path(__file__).parents[2]
PEAKS = Peaks("VNNI", 100.0, {1 << 14: 200.0, 1 << 20: 50.0})


def conv(c_in: int, c_out: int, kernel: int, stride: int, side: int, depthwise: bool = False) -> qdq.Conv:
    """A convolution on a square map."""
    weight = np.zeros((c_out, 1 if depthwise else c_in, kernel, kernel), np.float32)
    x = qdq.Tensor("x", (c_in, side, side), Quant(1.0, 0))
    y = qdq.Tensor("y", (c_out, side // stride, side // stride), Quant(1.0, 0))
    scale, bias, pads = np.ones(c_out, np.float32), np.zeros(c_out, np.float32), (0, 0, 0, 0)
    groups = c_in if depthwise else 1
    return qdq.Conv("layer", x, y, weight, scale, bias, (stride, stride), pads, groups, "relu")


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        # 32 outputs of 3 * 9 products on 160 * 160 places; 27 weights and a 4-byte bias for each of the 32
        (conv(3, 32, 3, 2, 320), ("3x3, stride 2", 22_118_400, 307_200, 819_200, 992)),
        # 64 * 16 products on 80 * 80 places
        (conv(16, 64, 1, 1, 80), ("1x1", 6_553_600, 102_400, 409_600, 1_280)),
        # 9 products for each of 96 channels on 40 * 40 places
        (conv(96, 96, 3, 2, 80, depthwise=True), ("3x3 depthwise, stride 2", 1_382_400, 614_400, 153_600, 1_248)),
        (roofline.layer("upsample", 8, 8, 10), ("upsample", 0, 800, 3_200, 0)),
        (roofline.layer("add", 8, 8, 10), ("add", 0, 800, 0, 0)),
    ],
)
def test_work_of_a_layer(op: qdq.Op, expected: tuple[str, int, int, int, int]) -> None:
    """Multiply-adds, bytes read, written and of weights, counted by hand."""
    found = roofline.work(op)
    assert (found.kind, found.macs, found.read, found.written, found.weights) == expected


def test_the_shipped_networks_have_the_published_number_of_multiply_adds() -> None:
    """ImageNet's MobileNetV2 1.0 has 300 M at 224 x 224 with its classifier (arXiv 1801.04381, table 4).

    Ours has the same layers at 320 x 320, hence 2.04 times as many but for the last 1x1 (20 M), the classifier (1.3 M)
    and what rounding to whole cells changes.
    """
    network = qdq.load(find_model("centernet-mbv2-320", ".onnx"))
    backbone = [roofline.work(op) for op in network.ops if op.name.startswith("/backbone/")]
    assert sum(layer.macs for layer in backbone) / 1e6 == pytest.approx((300 - 1.3 - 20) * (320 / 224) ** 2, rel=0.03)


def test_the_larger_of_the_two_times_is_the_bound() -> None:
    """100 thousand million multiply-adds a second; 10 KiB come from the nearest cache, 100 KiB from the next."""
    assert PEAKS.microseconds(Work("a", "1x1", 10_000_000, 5_000, 5_000, 240)) == pytest.approx(100.0)
    assert PEAKS.microseconds(Work("b", "add", 0, 10_240, 0, 0)) == pytest.approx(10_240 / 200e3)
    assert PEAKS.microseconds(Work("c", "add", 0, 102_400, 0, 0)) == pytest.approx(102_400 / 50e3)
    assert PEAKS.microseconds(Work("d", "add", 0, 1 << 21, 0, 0)) == pytest.approx((1 << 21) / 50e3)


def test_peaks_take_amx_where_it_is_faster() -> None:
    """And not where the kernel refused it (0)."""
    lines = ["dot AVX512-VNNI", "gmacs 300.5", "read_16384 200.0", "read_65536 100.0"]
    assert roofline.parse_peaks(lines) == Peaks("AVX512-VNNI", 300.5, {16384: 200.0, 65536: 100.0})
    assert roofline.parse_peaks([*lines, "amx_gmacs 1900.0"]).instruction == "AMX"
    assert roofline.parse_peaks([*lines, "amx_gmacs 0.00"]).gmacs == 300.5


def test_times_of_openvino_go_to_the_layers_they_were_fused_from() -> None:
    """An addition is part of the convolution in front of it; reorders belong to no layer."""
    profile = [
        ("op11,Multiply_1,/a/Conv,/a/out_quant,/add/Add", "Convolution", "brgconv_avx512_I8", 30.0),
        ("/up", "Interpolate", "jit_avx512_I8", 5.0),
        ("image_abcd_acdb_op11", "Reorder", "jit_uni_I8", 7.0),
        ("image", "Parameter", "unknown_I8", 0.0),
    ]
    own, other = roofline.attribute(profile, ["/a/Conv", "/add/Add", "/up"])
    assert own == {"/a/Conv": 30.0, "/up": 5.0}
    assert other == {"Reorder": 7.0}


def test_a_page_is_filled_between_its_marks_and_nowhere_else() -> None:
    """Twice gives the same."""
    record = {"variants": {"net": [{
        "change": "less", "training": True, "macs": 5_000_000, "ms": {}, "ratio": {"openvino": 0.9, "tflite": 1.02},
    }]}}  # fmt: skip
    text = "# Page\n\n<!-- roofline: variants -->\nold\n<!-- end -->\n\nrest\n"
    once = roofline.page(text, record)
    assert "| `net` | less | yes | 5 M | -10.0% | +2.0% |" in once
    assert "old" not in once
    assert once.startswith("# Page\n")
    assert once.endswith("\n\nrest\n")
    assert roofline.page(once, record) == once


def test_the_page_has_a_place_for_every_table() -> None:
    """docs/limits.md; a table without a place would be lost."""
    text = (ROOT / "docs/limits.md").read_text()
    assert all(f"<!-- roofline: {name} -->" in text for name in roofline.TABLES)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: install gcc or clang")
def test_no_engine_is_faster_than_the_processor(tmp_path: Path) -> None:
    """The small network, measured in a hurry: bound <= attainable, everything has a time, a table and a picture."""
    record = json.loads(json.dumps(roofline.measure(("centernet-nano-256",), 5, with_variants=False)))
    assert record["peaks"]["gmacs"] > 1
    for rates in record["kinds"].values():
        assert rates["1x1"] <= 1.1 * record["peaks"]["gmacs"]  # measured minutes apart: the clock may change
        assert rates["1x1"] > rates["3x3 depthwise"]
    model = record["models"]["centernet-nano-256"]
    assert model["macs"] == 112_277_504
    for row in model["engines"].values():
        assert 0 < row["layers_bound_ms"] <= row["layers_attainable_ms"]
        assert row["layers_bound_ms"] < row["ms"]
    convolutions = [row for row in model["layers"] if row["macs"]]
    assert len(convolutions) == 68
    assert all(row["openvino_us"] > 0 and row["tflite_us"] > 0 for row in convolutions)
    assert all(make(record) for make in roofline.TABLES.values())
    roofline.chart(record, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_variant_goes_through_export_and_both_converters(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mixing layer less is two convolutions less, and both engines run it."""
    import network_variants

    present, _, shared, *_ = network_variants.VARIANTS["centernet-nano-256"]
    monkeypatch.setitem(network_variants.VARIANTS, "centernet-nano-256", (present, shared))
    rows = network_variants.measure_variants("centernet-nano-256", 5, unseen)
    assert rows[0]["ratio"] == {"openvino": 1.0, "tflite": 1.0}
    assert rows[0]["macs"] == 112_277_504
    assert rows[0]["macs"] - rows[1]["macs"] == 32 * 32 * 48 * (9 + 48)  # a 3x3 depthwise and a 1x1 at stride 8
    assert min(rows[1]["ms"].values()) > 0

"""Post-training quantization: exact in every engine, close to float, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import qdq_factory

from edge_centernet import qdq
from edge_centernet.calibration import scheme
from edge_centernet.calibration.observe import Probe
from edge_centernet.calibration.quantize import Options, conv_constants, quantize
from edge_centernet.calibration.report import HELD_OUT, CalibrationReport, TensorReport
from edge_centernet.converters import CONVERTERS, convert
from edge_centernet.errors import ConversionError, SourceError
from edge_centernet.manifest import Quant
from edge_centernet.qdq import reference
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.float_onnx import without_normalisation
from edge_centernet.qdq.onnx_graph import HEADS

HOW: dict[str, dict[str, Any]] = {
    "mobilenet": {},
    "resnet": {"backbone": "resnet", "scale": 0.25},
    "deconv": {"backbone": "resnet", "scale": 0.25, "neck_kind": "deconv"},
}


def _pictures(count: int) -> list[Callable[[], Any]]:
    """Readers of pictures like those the networks were built on."""
    return [lambda p=p: p for p in qdq_factory.photos(count, 96, 128)]


@pytest.fixture(scope="module", params=list(HOW))
def network(request: pytest.FixtureRequest) -> qdq.Network:
    """A network as it was built, with ranges of its own."""
    return qdq.parse(qdq_factory.build(weight_max=63, **HOW[request.param]))


@pytest.fixture(scope="module")
def source(network: qdq.Network) -> Any:
    """The same as float ONNX that reads (pixel - 128) / 128."""
    return without_normalisation(float_model(network))


@pytest.fixture(scope="module")
def quantized(network: qdq.Network, source: Any) -> qdq.Network:
    """The float network, quantized anew on 24 pictures."""
    return qdq.parse(quantize(source, network.manifest.model, _pictures(24))[0])


def test_every_engine_answers_to_the_bit(quantized: qdq.Network, tmp_path: Path) -> None:
    """No head of any target differs by a single step on pictures that calibration has not seen."""
    pictures = qdq_factory.photos(4, 96, 128, seed=7)
    made = convert(Path("net.onnx"), list(CONVERTERS), "int8", tmp_path, network=quantized, pictures=pictures)

    worst = {a.target: max(e.max for e in a.report.heads.values()) for a in made}
    # TensorRT's heads are floats: a product by the scale, not the integer itself.
    assert worst.pop("tensorrt") < 1e-4
    assert worst == dict.fromkeys([target for target in CONVERTERS if target != "tensorrt"], 0.0)


def test_the_surest_logits_are_kept(network: qdq.Network, source: Any) -> None:
    """Of a calibrated head they reach far above 3, seldom: the range ends at the highest, here 10."""
    readers, spec = _pictures(4), network.manifest.model
    probe = Probe(source, HEADS, spec)
    highest = max(float(probe(read())["heat"].max()) for read in readers)
    wide = onnx.ModelProto()
    wide.CopyFrom(source)
    last = next(node for node in wide.graph.node if "heat" in node.output)
    for tensor in wide.graph.initializer:
        if tensor.name in last.input[1:]:
            values = 8 * onnx.numpy_helper.to_array(tensor)
            values = values + np.float32(10 - 8 * highest) if values.ndim == 1 else values
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    quant = qdq.parse(quantize(wide, spec, readers)[0]).manifest.heat.quant
    assert quant is not None
    assert (127 - quant.zero_point) * quant.scale == pytest.approx(10, abs=quant.scale)


def test_heads_stay_close_to_float(quantized: qdq.Network, source: Any) -> None:
    """The heads' mean difference from the float network is below 4 % of the range they are stored with."""
    picture = qdq_factory.photos(1, 96, 128, seed=7)[0]
    expected = Probe(source, HEADS, quantized.manifest.model)(picture)
    answer = reference.Reference(quantized, "int8", [picture]).answers[0]
    for role in HEADS:
        spec = getattr(quantized.manifest, role)
        low, high = ((end - spec.quant.zero_point) * spec.quant.scale for end in (-128, 127))
        error = np.abs(
            reference.real_values(getattr(answer, role), spec) - np.clip(expected[role], low, high)
        )

        assert error.mean() / (high - low) < 0.04, role


def test_weights_keep_to_seven_bits_and_depthwise_to_eight(quantized: qdq.Network) -> None:
    """Stored magnitudes reach almost, and never exceed, 63 and 127."""
    for op in quantized.ops:
        if isinstance(op, qdq.Conv):
            limit = scheme.DENSE_MAX if op.groups == 1 else scheme.DEPTHWISE_MAX
            assert 0.9 * limit < np.abs(op.weight_int8.astype(int)).max() <= limit, op.name


def test_what_is_added_shares_a_scale(quantized: qdq.Network) -> None:
    """Both inputs and the output of every addition."""
    scales = [{t.quant.scale for t in (op.a, op.b, op.y)} for op in quantized.ops if isinstance(op, qdq.Add)]

    assert scales
    assert all(len(shared) == 1 for shared in scales)


@pytest.mark.slow
def test_symmetric_networks_have_no_zero_points(network: qdq.Network, source: Any) -> None:
    """TensorRT accepts no other: every tensor but the image, which engines see as uint8 - 128."""
    options = Options(symmetric=True)
    made = qdq.parse(quantize(source, network.manifest.model, _pictures(8), options)[0])

    assert {op.y.quant.zero_point for op in made.ops} == {0}
    assert made.input.quant.zero_point == 0


@pytest.mark.slow
def test_equal_inputs_give_equal_bytes(network: qdq.Network, source: Any) -> None:
    """Two runs, with histograms and bias correction."""
    runs = [quantize(source, network.manifest.model, _pictures(8), Options("mse"))[0] for _ in range(2)]

    assert runs[0].SerializeToString(deterministic=True) == runs[1].SerializeToString(deterministic=True)


@pytest.mark.parametrize("depthwise", [False, True])
def test_bias_correction_keeps_the_mean_of_every_channel(depthwise: bool) -> None:
    """On inputs with these channel means rounded weights answer as the true ones, to half a bias step."""
    rng = np.random.default_rng(0)
    shape = (8, 1, 3, 3) if depthwise else (8, 16, 3, 3)
    weight, mean = rng.normal(0, 1, shape).astype(np.float32), rng.uniform(0, 3, 8 if depthwise else 16)
    x, y = (qdq.Tensor(name, (len(mean), 4, 4), Quant(0.02, 0)) for name in ("x", "y"))
    op = qdq.Conv(
        "conv", x, y, weight, np.ones(8, np.float32), rng.normal(0, 1, 8).astype(np.float32),
        (1, 1), (0,) * 4, 8 if depthwise else 1, "linear",
    )  # fmt: skip
    made = conv_constants(op, 0.02, 0.05, mean)
    lost = (weight - made["conv/weight"]).sum(axis=(2, 3), dtype=np.float64)  # (O, I / groups)
    moved = made["conv/bias"] - op.bias
    step = 0.02 * made["conv/weight/scale"]

    assert np.abs(lost).max() > 10 * step.max(), "rounding moves channels by more than the bias can hide"
    assert np.abs(moved - (lost[:, 0] * mean if depthwise else lost @ mean)).max() < 0.51 * step.max()


def test_no_pictures_are_refused(network: qdq.Network, source: Any) -> None:
    """Ranges come from images."""
    with pytest.raises(SourceError, match="calibration: expected at least one image, got none"):
        quantize(source, network.manifest.model, [])


def test_an_operation_that_int8_does_not_know_is_named() -> None:
    """A Sigmoid behind the heat head."""
    network = qdq.parse(qdq_factory.build(weight_max=63))
    model = without_normalisation(float_model(network))
    for node in model.graph.node:
        node.output[:] = ["logits" if n == "heat" else n for n in node.output]
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["heat"], name="squash"))
    with pytest.raises(ConversionError, match="Sigmoid node 'squash': this operation is not supported"):
        quantize(model, network.manifest.model, _pictures(2))


@pytest.mark.slow
def test_the_report_says_what_the_ranges_rest_on(network: qdq.Network, source: Any) -> None:
    """24 pictures: every tenth is held out; 22 are few, and a warning says so."""
    report = quantize(source, network.manifest.model, _pictures(24))[1]
    inner = [tensor for name, tensor in report.tensors.items() if name not in HEADS]

    assert (report.images, report.held_out) == (24 - 24 // HELD_OUT, 24 // HELD_OUT)
    assert any("22 images are few" in line for line in report.warnings)
    assert all(0 <= t.split_half < 1 and t.clipped is not None and 0 <= t.clipped < 0.5 for t in inner)
    assert report.lines()[0].startswith("22 images, method mse; split halves differ by ")


@pytest.mark.slow
def test_images_of_another_kind_are_noticed(network: qdq.Network, source: Any) -> None:
    """Ranges from nearly black pictures clip what colourful ones bring."""
    dark = [lambda p=p: p // 16 for p in qdq_factory.photos(36, 96, 128)]
    bright = _pictures(4)
    mixed = [bright[i // HELD_OUT] if i % HELD_OUT == HELD_OUT - 1 else dark[i] for i in range(36)]
    report = quantize(source, network.manifest.model, mixed)[1]

    assert any("held-out images go beyond the range" in line for line in report.warnings)


@pytest.mark.parametrize(
    ("found", "said"),
    [(0, "no detections above 0.3"), (4, "3 of 4 detections above 0.3")],
)
def test_the_report_says_where_there_was_nothing_to_compare(found: int, said: str) -> None:
    """Not that 0 of 0 agree."""
    tensors = {"heat": TensorReport(0.0, 1.0, 0.1, None)}
    report = CalibrationReport("mse", 20, 0, 0.0, found, max(found - 1, 0), tensors, ())
    assert report.lines()[1].startswith(f"INT8 against float, on these images: {said}")
